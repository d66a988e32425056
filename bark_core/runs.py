"""What every backend keeps count of: jobs that were handed on, and who wants to know of changes."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator

from bark_core import wire
from bark_core.backend import Told
from bark_core.errors import GenerationError, WorkerLost
from bark_core.events import AudioChunk, Event, Failed, Finished, Stopped
from bark_core.generation import Generation
from bark_core.request import GenerationRequest

_log = logging.getLogger(__name__)
OVER = Finished | Failed | Stopped


class Watched:
    """Tells whoever watches a backend of its changes."""

    def __init__(self) -> None:
        self._watchers: list[Callable[[], None]] = []

    def watch(self, changed: Callable[[], None]) -> None:
        self._watchers.append(changed)

    def _changed(self) -> None:
        for changed in self._watchers:
            changed()


class Run:
    """A job that was handed to whoever runs it; ends exactly once. Made by `Runs.add`."""

    def __init__(
        self,
        model: str,
        request: GenerationRequest,
        told: Told,
        over: Callable[[Run], None],
        alone: bool,
    ) -> None:
        self.model, self.request, self.alone = model, request, alone
        self.partial: Generation | None = None  # what was heard so far
        self._told, self._over = told, over
        self._unpacker = wire.Unpacker(request)
        self._stop: Callable[[], object] | None = None
        self._cancelled = threading.Event()
        self._lock = threading.Lock()
        self._ended = False

    @property
    def cancelled(self) -> bool:
        """Somebody asked it to end."""
        return self._cancelled.is_set()

    def begin(self, stop: Callable[[], object]) -> None:
        """It is on its way; `stop` asks whoever runs it to end it."""
        self._stop = stop
        if self.cancelled:
            stop()

    def cancel(self) -> None:
        """As `Running.cancel`."""
        self._cancelled.set()
        if self._stop is not None:
            self._stop()

    def hear(self, packed: wire.Told) -> None:
        """An event that came from another process."""
        event = self._unpacker.unpack(packed)
        if isinstance(event, AudioChunk):
            self.partial = event.so_far
        self.tell(event)

    def lose(self, why: str) -> None:
        """Whoever ran it is gone."""
        self.tell(Failed(WorkerLost(why), self.partial))

    def tell(self, event: Event) -> None:
        """Hand an event on; nothing comes after the end. What was cancelled is stopped."""
        if isinstance(event, Failed) and self.cancelled:
            event = Stopped(event.partial)
        over = isinstance(event, OVER)
        with self._lock:
            if self._ended:
                return
            self._ended = over
        if over:
            self._over(self)  # first: whoever is told finds its place free
        try:
            self._told(event)
        except Exception:  # it mustn't end the others
            _log.exception("telling of a job failed")
            self.cancel()


class Runs:
    """The jobs of a backend that aren't over. All methods may be called from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._runs: set[Run] = set()

    def add(
        self, model: str, request: GenerationRequest, told: Told, *, alone: bool = False
    ) -> Run:
        """Begin to count a job."""
        run = Run(model, request, told, self._remove, alone)
        with self._lock:
            self._runs.add(run)
        return run

    def _remove(self, run: Run) -> None:
        with self._lock:
            self._runs.discard(run)

    def __len__(self) -> int:
        return len(self._runs)

    def __iter__(self) -> Iterator[Run]:
        with self._lock:
            return iter(list(self._runs))

    def of(self, model: str) -> int:
        """How many are a model's."""
        return sum(run.model == model for run in self)

    def capacity(self, most: int) -> int:
        """How many there may be where a model takes so many together."""
        return min(most, 1) if any(run.alone for run in self) else most

    def end(self, timeout_s: float) -> None:
        """Stop all, and wait until they are over, so long at most."""
        for run in self:
            run.cancel()
        deadline = time.monotonic() + timeout_s
        while len(self) and time.monotonic() < deadline:
            time.sleep(0.01)


def not_loaded(name: str) -> GenerationError:
    """What is said of a model that isn't there."""
    return GenerationError(f"the model {name!r} isn't loaded; load it again")

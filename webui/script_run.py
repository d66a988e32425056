"""A run: the segments of a script that get sound, one after the other, whoever watches.

Each is a job of its own in the queue, so that others' jobs go in between; each result is kept in
the project at once. A run stops within one step of the cascade.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

from bark_core import (
    AudioChunk,
    BarkError,
    Cancelled,
    DownloadError,
    EmptyGeneration,
    Failed,
    Finished,
    GenerationError,
    GenerationRequest,
    InvalidRequest,
    JobState,
    Order,
    Problem,
    Project,
    ProjectFolder,
    Retry,
    Stopped,
    TokenLayout,
    Voice,
    VoiceError,
)
from webui.pace import Bars, Pace
from webui.scheduler import Place, QueuedJob

_log = logging.getLogger(__name__)

# what goes wrong with one segment only; after anything else the others needn't be tried
_OF_ONE_SEGMENT = (EmptyGeneration, VoiceError, DownloadError, InvalidRequest)


class RunState(StrEnum):
    """Where a run is in its life."""

    RUNNING = "running"
    DONE = "done"
    STOPPED = "stopped"
    FAILED = "failed"

    @property
    def over(self) -> bool:
        return self is not RunState.RUNNING


@dataclass(frozen=True, slots=True)
class Workshop:
    """What a run works with: the queue, a loaded model's layout and pace, the voices by name."""

    submit: Callable[[GenerationRequest], QueuedJob]
    place: Callable[[QueuedJob], Place | None]
    layout: TokenLayout
    pace: Pace | None
    voice: Callable[[str], Voice]


@dataclass(frozen=True, slots=True)
class RunView:
    """A run as a page shows it, at one moment.

    Attributes:
        current: the segment that is made, or None while the model loads.
        position: jobs of others that go first; None: it runs.
        n_done: segments that were tried, of n_segments.
        left_s: an estimate for all that is left.
        problems: of the take before, where this is a further one.
    """

    state: RunState
    stopping: bool
    current: str | None
    position: int | None
    bars: Bars | None
    waiting: frozenset[str]
    n_done: int
    n_segments: int
    left_s: float | None
    problems: tuple[Problem, ...]
    error: BarkError | None


class ScriptRun:
    """Makes segments of one project, on a thread of its own.

    Args:
        workshop: gives what it works with; blocks until its model is loaded.
        when_over: called on the run's thread when it has ended, however it did.
        when_left: called with the segments that are still to be made, whenever that changes.
    """

    def __init__(
        self,
        folder: ProjectFolder,
        segment_ids: Iterable[str],
        *,
        workshop: Callable[[], Workshop],
        when_over: Callable[[ScriptRun], None],
        when_left: Callable[[Sequence[str]], None] = lambda _: None,
    ) -> None:
        self.folder = folder
        self.failures: dict[str, BarkError] = {}  # segment to what went wrong with it
        self.finished = threading.Event()
        self.state = RunState.RUNNING
        self.stopping = False
        self.suspended = False
        self.error: BarkError | None = None
        self.made = 0
        self._queue = deque(segment_ids)
        self._n_segments = len(self._queue)
        self._n_done = 0
        self._workshop, self._when_over, self._when_left = workshop, when_over, when_left
        self._lock = threading.Lock()
        self._order: Order | None = None
        self._job: QueuedJob | None = None
        self._retry: Retry | None = None
        self._shop: Workshop | None = None

    def start(self) -> None:
        self._when_left(tuple(self._queue))
        threading.Thread(target=self._live, name="script", daemon=True).start()

    def add(self, segment_ids: Iterable[str]) -> bool:
        """Make these as well, one that waits already only once; False: the run is over."""
        with self._lock:
            if self.state.over or self.stopping:
                return False
            new = [segment_id for segment_id in segment_ids if segment_id not in self._queue]
            self._queue += new
            self._n_segments += len(new)
            self._when_left(self._left())
            return True

    def suspend(self) -> None:
        """Begin no further segment: the studio ends, and the rest is made after the next start."""
        with self._lock:
            self.suspended = True
            self._queue.clear()

    def _left(self) -> tuple[str, ...]:
        current = (self._order.segment_id,) if self._order is not None else ()
        return (*current, *self._queue)

    def stop(self) -> None:
        """Ask it to end; what is finished is kept. Returns at once."""
        with self._lock:
            self.stopping = True
            self._queue.clear()
            job = self._job
        if job is not None:
            job.cancel()

    def view(self) -> RunView:
        with self._lock:
            order, job, shop, retry = self._order, self._job, self._shop, self._retry
            waiting = tuple(self._queue)
        progress = job.progress if job is not None and not job.state.over else None
        position = None
        if job is not None and shop is not None and job.state is JobState.QUEUED:
            place = shop.place(job)
            position = None if place is None else place.n_before
        bars, left_s = None, None
        if shop is not None and shop.pace is not None and order is not None:
            texts = [order.request.text, *self._texts(waiting)]
            if progress is not None:
                here = replace(progress, segment=0)
                bars, left_s = shop.pace.bars(here, texts[0]), shop.pace.left_s(here, texts)
            else:
                left_s = shop.pace.computing_s(texts)
        return RunView(
            state=self.state,
            stopping=self.stopping,
            current=order.segment_id if order is not None else None,
            position=position,
            bars=bars,
            waiting=frozenset(waiting),
            n_done=self._n_done,
            n_segments=self._n_segments,
            left_s=left_s,
            problems=retry.problems if retry is not None else (),
            error=self.error,
        )

    # --- on its thread

    def _live(self) -> None:
        state, error = RunState.DONE, None
        try:
            self._shop = self._workshop()
            while (segment_id := self._next()) is not None:
                self._try(segment_id, self._shop)
        except Cancelled:
            state = RunState.STOPPED
        except BarkError as problem:
            state, error = RunState.FAILED, problem
        except Exception as problem:
            _log.exception("making a script failed")
            state = RunState.FAILED
            error = GenerationError(
                f"something unexpected went wrong ({type(problem).__name__}); "
                "the log has the details; try again"
            )
        with self._lock:
            self.error = error
            self.state = RunState.STOPPED if self.stopping and error is None else state
            self._queue.clear()
            self._order = self._job = None
        self._when_over(self)
        self.finished.set()

    def _next(self) -> str | None:
        """The segment that is made next; None: the run is over, and takes no more."""
        with self._lock:
            if self._queue and not self.stopping:
                return self._queue.popleft()
            self.state = RunState.STOPPED if self.stopping else RunState.DONE
            return None

    def _try(self, segment_id: str, shop: Workshop) -> None:
        try:
            self._make(segment_id, shop)
        except _OF_ONE_SEGMENT as error:
            segments = self.folder.project.segments
            # one that was deleted or locked meanwhile needs no sound
            wanted = {segment.id for segment in segments if not segment.line.locked}
            if segment_id in wanted or segment_id == Project.BACKGROUND:
                self.failures[segment_id] = error
        finally:
            with self._lock:
                self._n_done += 1
                self._order = self._job = self._retry = None
                if not (self.stopping or self.suspended):
                    self._when_left(self._left())

    def _make(self, segment_id: str, shop: Workshop) -> None:
        """One take of one segment, from its order to the project."""
        order = self.folder.project.order(
            segment_id, shop.voice, lambda take_id: self.folder.voice(take_id, shop.layout)
        )
        with self._lock:
            if self.stopping:
                raise Cancelled("the run was stopped")
            self._order = order
            self._job = job = shop.submit(order.request)
        n_takes = 1
        for event in job.events():
            match event:
                case Retry(take=take):
                    n_takes = take - order.request.take + 1
                    self._retry = event
                case AudioChunk(so_far=so_far):
                    if shop.pace is not None:
                        shop.pace.learn(so_far.segments[-1])
                case Finished(generation=generation):
                    self.folder.add(order, generation, n_takes=n_takes)
                    self.made += 1
                case Failed(error=error):
                    raise error
                case Stopped():
                    raise Cancelled("the run was stopped")

    def _texts(self, segment_ids: Iterable[str]) -> list[str]:
        texts = {segment.id: segment.line.text for segment in self.folder.project.segments}
        return [texts[segment_id] for segment_id in segment_ids if segment_id in texts]

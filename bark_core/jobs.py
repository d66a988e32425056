"""Jobs: requests on their way, whoever watches them.

A job goes on when nobody looks, and can be watched by any number of threads from any moment on: a
page that reloads attaches again.
"""

from __future__ import annotations

import functools
import secrets
import threading
import time
from collections.abc import Iterator
from enum import StrEnum

from bark_core.errors import Cancelled
from bark_core.events import AudioChunk, Event, Failed, Finished, StageProgress, Stopped
from bark_core.generation import Generation
from bark_core.request import GenerationRequest

TELL_EVERY_S = 0.02  # waking watchers at each step would slow the steps


class JobState(StrEnum):
    """Where a job is in its life."""

    QUEUED = "queued"
    RUNNING = "running"
    FINISHED = "finished"
    FAILED = "failed"
    STOPPED = "stopped"

    @property
    def over(self) -> bool:
        return self in (JobState.FINISHED, JobState.FAILED, JobState.STOPPED)


class Job:
    """One request on its way. Made by `Engine.submit`; all methods may be called from any thread.

    Progress is not kept, only the newest of it: who attaches late sees all sound so far and
    where the job stands.
    """

    def __init__(self, request: GenerationRequest) -> None:
        self.id = secrets.token_urlsafe(12)
        self.request = request
        self.submitted_at = time.time()
        self._changed = threading.Condition()
        self._cancelled = threading.Event()
        self._state = JobState.QUEUED
        self._kept: list[Event] = []  # chunks of sound, and the end
        self._progress: StageProgress | None = None
        self._n_progress = 0
        self._quiet_until = 0.0

    @property
    def state(self) -> JobState:
        return self._state

    @property
    def progress(self) -> StageProgress | None:
        """The newest progress, None before the first."""
        return self._progress

    @property
    def cancelled(self) -> bool:
        """Somebody asked it to stop; it may still be running its last step."""
        return self._cancelled.is_set()

    @property
    def chunks(self) -> tuple[AudioChunk, ...]:
        """All sound that is ready so far."""
        with self._changed:
            return tuple(event for event in self._kept if isinstance(event, AudioChunk))

    def cancel(self) -> None:
        """Ask the job to stop; returns at once. Harmless when it is over.

        One that waits is over at once; one that runs, within one step.
        """
        self._cancelled.set()
        with self._changed:
            if self._state is JobState.QUEUED:
                self.tell(Stopped())

    def events(self, *, timeout_s: float | None = None) -> Iterator[Event]:
        """All that happens, from the first sound on, until the job is over.

        Args:
            timeout_s: give up waiting for the next event after so long (TimeoutError).
        """
        n_kept = n_progress = 0
        while True:
            seen = n_kept + n_progress
            with self._changed:
                if not self._changed.wait_for(
                    functools.partial(self._has_more_than, seen), timeout=timeout_s
                ):
                    raise TimeoutError(f"job {self.id} was silent for {timeout_s} s")
                news: list[Event] = self._kept[n_kept:]
                if self._n_progress > n_progress and self._progress and not self._state.over:
                    news.append(self._progress)
                n_kept, n_progress = len(self._kept), self._n_progress
            for event in news:
                yield event
                if isinstance(event, Finished | Failed | Stopped):
                    return

    def _has_more_than(self, n_events: int) -> bool:
        return len(self._kept) + self._n_progress > n_events

    def wait(self, timeout_s: float | None = None) -> Generation:
        """Block until the job is over and return what it made.

        Raises:
            Cancelled: it was stopped. BarkError: it failed. TimeoutError: it takes longer.
        """
        with self._changed:
            if not self._changed.wait_for(lambda: self._state.over, timeout=timeout_s):
                raise TimeoutError(f"job {self.id} isn't over after {timeout_s} s")
        match self._kept[-1]:
            case Finished(generation=generation):
                return generation
            case Failed(error=error):
                raise error
        raise Cancelled("the job was stopped before it was finished; start it again to hear it")

    @property
    def result(self) -> Generation | None:
        """What was made, whole or in part; None while it runs or if nothing was made."""
        with self._changed:
            last = self._kept[-1] if self._kept else None
        match last:
            case Finished(generation=generation):
                return generation
            case Failed(partial=partial) | Stopped(partial=partial):
                return partial
        return None

    def begin(self) -> bool:
        """Begin to run, for the engine alone; False: it was stopped while it waited."""
        with self._changed:
            if self._state.over:
                return False
            self._state = JobState.RUNNING
            self._changed.notify_all()
            return True

    def tell(self, event: Event) -> None:
        """What happened; for the engine alone."""
        with self._changed:
            match event:
                case StageProgress():
                    self._progress = event
                    self._n_progress += 1
                case Finished():
                    self._state = JobState.FINISHED
                case Failed():
                    self._state = JobState.FAILED
                case Stopped():
                    self._state = JobState.STOPPED
            if not isinstance(event, StageProgress):
                self._kept.append(event)
            elif event.done < event.total and time.monotonic() < self._quiet_until:
                return  # whoever attaches or is woken later sees it
            self._quiet_until = time.monotonic() + TELL_EVERY_S
            self._changed.notify_all()

"""Jobs: requests that run on a thread of their own, whoever watches them.

One thread owns the model. A job goes on when nobody looks, can be watched by any number of
threads from any moment on (a page that reloads attaches again), and stops within one step of
the cascade when it is told to.
"""

from __future__ import annotations

import functools
import logging
import secrets
import threading
import time
from collections import deque
from collections.abc import Iterator
from enum import StrEnum
from types import TracebackType
from typing import Self

from bark_core.cascade import Cascade
from bark_core.errors import BarkError, Cancelled, GenerationError
from bark_core.events import AudioChunk, Event, Failed, Finished, StageProgress, Stopped
from bark_core.generation import Generation
from bark_core.request import GenerationRequest

_log = logging.getLogger(__name__)


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
        """Ask the job to stop; returns at once. Harmless when it is over."""
        self._cancelled.set()
        with self._changed:
            self._changed.notify_all()

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

    def _start(self) -> None:
        with self._changed:
            self._state = JobState.RUNNING
            self._changed.notify_all()

    def _tell(self, event: Event) -> None:
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
            self._changed.notify_all()


class Engine:
    """Runs jobs on one cascade, first come, first served.

    Args:
        cascade: the loaded model; from now on only the engine's thread touches it.
    """

    def __init__(self, cascade: Cascade) -> None:
        self.cascade = cascade
        self._waiting: deque[Job] = deque()
        self._running: Job | None = None
        self._wake = threading.Condition()
        self._closing = False
        self._thread = threading.Thread(target=self._loop, name="bark-engine", daemon=True)
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def submit(self, request: GenerationRequest) -> Job:
        """Queue a request.

        Raises:
            BarkError: the request can't run on this model (checked now, not when its turn comes).
        """
        self.cascade.plan(request)
        job = Job(request)
        with self._wake:
            if self._closing:
                raise GenerationError("the engine is closing and takes no more jobs")
            self._waiting.append(job)
            self._wake.notify_all()
        return job

    def position(self, job: Job) -> int | None:
        """How many jobs go before it; None once it runs or is over."""
        with self._wake:
            if job not in self._waiting:
                return None
            ahead = list(self._waiting).index(job)
            return ahead + (1 if self._running else 0)

    @property
    def n_waiting(self) -> int:
        with self._wake:
            return len(self._waiting)

    def close(self, *, timeout_s: float = 30.0) -> None:
        """Stop all jobs, those that wait and the one that runs, and end the thread."""
        with self._wake:
            self._closing = True
            for job in self._waiting:
                job.cancel()
            if self._running:
                self._running.cancel()
            self._wake.notify_all()
        self._thread.join(timeout_s)

    def _loop(self) -> None:
        while True:
            with self._wake:
                self._wake.wait_for(lambda: self._waiting or self._closing)
                if not self._waiting:
                    return
                job = self._running = self._waiting.popleft()
            try:
                self._run(job)
            finally:
                with self._wake:
                    self._running = None

    def _run(self, job: Job) -> None:
        """Run one job; whatever happens, it ends with Finished, Failed or Stopped."""
        if job.cancelled:
            job._tell(Stopped())
            return
        job._start()
        run = self.cascade.events(job.request)
        partial: Generation | None = None
        try:
            for event in run:
                if isinstance(event, AudioChunk):
                    partial = event.so_far
                job._tell(event)
                if job.cancelled and not isinstance(event, Finished):
                    run.close()
                    job._tell(Stopped(partial))
                    return
        except BarkError as error:
            job._tell(Failed(error, partial))
        except Exception as error:  # the thread must outlive whatever went wrong in one job
            _log.exception("job %s failed", job.id)
            surprise = GenerationError(
                f"something unexpected went wrong ({type(error).__name__}); "
                "the log has the details; try again, and report it if it comes back"
            )
            job._tell(Failed(surprise, partial))

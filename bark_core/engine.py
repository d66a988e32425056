"""The engine: many jobs at once on one cascade, on a thread of its own.

    submit ──► waiting ──► rows ──┬─ semantic ─┬─ coarse ─┬─ fine ─┬─ codec ──► events
                                  └────────────┴──────────┴────────┘
                                   a lane for each stage; the last stage's turn comes first

Segments of all jobs share the lanes' steps; each comes when there is room and leaves when it is
done or its job is stopped, within one step. What a segment becomes doesn't depend on its
neighbours. Engines that share a device share a line: they take turns, a round each.
"""

from __future__ import annotations

import contextlib
import itertools
import threading
from collections import deque
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Self

from torch import nn

from bark_core.cascade import Cascade
from bark_core.device import make_current
from bark_core.errors import GenerationError, InvalidSetting
from bark_core.events import Event, Failed, Stage
from bark_core.job_run import JobRun
from bark_core.jobs import Job
from bark_core.lanes import CodecLane, FineLane, Lane, RowLane, for_people
from bark_core.request import GenerationRequest
from bark_core.take_run import TakeRun

MAX_BATCH = 8  # segments at once; on two cores more gain nothing


class Line:
    """Who may use a device: engines of several models take turns, first come, first served."""

    def __init__(self) -> None:
        self.changed = threading.Condition()
        self._turns: deque[Engine] = deque()  # the first has the device
        self._waiting: list[tuple[Engine, Job]] = []
        self._running: set[Job] = set()

    @contextlib.contextmanager
    def turn(self, engine: Engine) -> Iterator[None]:
        """Have the device for a while."""
        with self.changed:
            self._turns.append(engine)
            self.changed.wait_for(lambda: self._turns[0] is engine)
        try:
            yield
        finally:
            with self.changed:
                self._turns.popleft()
                self.changed.notify_all()

    def waiting(self, engine: Engine | None = None) -> list[Job]:
        """Jobs that wait for room, the first first; of one engine, or of all."""
        with self.changed:
            self._waiting = [(of, job) for of, job in self._waiting if not job.state.over]
            return [job for of, job in self._waiting if engine in (None, of)]

    def position(self, job: Job) -> int | None:
        """How many jobs go before one; None once it runs or is over."""
        with self.changed:
            waiting = self.waiting()
            if job not in waiting:
                return None
            return waiting.index(job) + (1 if self._running else 0)

    def join(self, engine: Engine, job: Job) -> None:
        """Put a job at the end."""
        with self.changed:
            self._waiting.append((engine, job))
            self.changed.notify_all()

    def begin(self, job: Job) -> None:
        """It waits no more."""
        with self.changed:
            self._waiting = [(of, other) for of, other in self._waiting if other is not job]
            self._running.add(job)

    def end(self, job: Job) -> None:
        """It is over."""
        with self.changed:
            self._running.discard(job)
            self.changed.notify_all()


class Engine:
    """Runs jobs on one cascade, many at a time.

    Args:
        cascade: the loaded model; from now on only the engine's thread computes with it.
        max_batch: most segments at the same time, of all jobs; it bounds the memory.
        line: shared with the other engines of the same device; its own by default.
    Raises:
        InvalidSetting: no room for a single segment.
    """

    def __init__(
        self, cascade: Cascade, *, max_batch: int = MAX_BATCH, line: Line | None = None
    ) -> None:
        if max_batch < 1:
            raise InvalidSetting(f"max_batch must be at least 1, got {max_batch}")
        self.cascade = cascade
        self.max_batch = max_batch
        self._line = line or Line()
        self._runs: list[JobRun] = []  # jobs on their way, by age
        self._served: dict[Job, int] = {}  # when each came, or was given its last place
        self._turns = itertools.count()
        self._closing = False
        self._lanes = _Lanes(cascade, max_batch, self._has_stopped)
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
        with self._line.changed:
            if self._closing:
                raise GenerationError("the engine is closing and takes no more jobs")
            self._served[job] = next(self._turns)
            self._line.join(self, job)
        return job

    def position(self, job: Job) -> int | None:
        """How many jobs go before it, other engines' too; None once it runs or is over."""
        return self._line.position(job)

    @property
    def n_waiting(self) -> int:
        """Jobs that wait for room."""
        return len(self._line.waiting(self))

    @property
    def n_unfinished(self) -> int:
        """Jobs that wait, and those that run."""
        with self._line.changed:
            return self.n_waiting + len(self._runs)

    def close(self, *, timeout_s: float = 30.0) -> None:
        """Stop all jobs, those that wait and those that run, and end the thread."""
        with self._line.changed:
            self._closing = True
            for job in [*self._line.waiting(self), *(run.job for run in self._runs)]:
                job.cancel()
            self._line.changed.notify_all()
        self._thread.join(timeout_s)

    # --- on the engine's thread

    def _loop(self) -> None:
        make_current(self.cascade.placement.device)
        while self._wait():
            with self._line.turn(self):
                self._round()
        self._lanes.close()

    def _wait(self) -> bool:
        """Until there is something to do; False: it is time to end."""
        with self._line.changed:
            self._line.changed.wait_for(
                lambda: self._runs or self._closing or self._line.waiting(self)
            )
            return bool(self._runs) or not self._closing

    def _round(self) -> None:
        """A turn of each lane; afterwards everybody is told what came of it."""
        try:
            self._stop_the_cancelled()
            self._admit()
            self._lanes.turn([take for run in self._runs for take in run.takes])
            for run in self._runs:
                _advance(run)
        except Exception as error:  # the thread must outlive whatever went wrong
            failure = for_people(error, "a round of the engine")
            for run in self._runs:
                run.fail(failure)
            self._lanes.close()
        self._forget_the_finished()

    def _has_stopped(self) -> bool:
        """Whether somebody stopped a job that still runs."""
        return any(run.job.cancelled for run in self._runs)

    def _stop_the_cancelled(self) -> None:
        for run in self._runs:
            if run.job.cancelled:
                run.stop()
        self._forget_the_finished()

    def _forget_the_finished(self) -> None:
        over = [run for run in self._runs if run.over]
        for run in over:
            for take in run.takes:
                self._lanes.drop(take)
            with self._line.changed:
                self._runs.remove(run)
                self._line.end(run.job)
        if over:
            with self._line.changed:
                self._served = {job: n for job, n in self._served.items() if not job.state.over}

    def _admit(self) -> None:
        """Give free places away, one after the other, to whoever has the fewest."""
        while sum(len(run.active) for run in self._runs) < self.max_batch:
            with self._line.changed:
                waiting = self._line.waiting(self)
                places = {run.job: len(run.active) for run in self._runs if run.can_start}
                places |= dict.fromkeys(waiting[:1], 0)
                if not places:
                    return
                job = min(places, key=lambda job: (places[job], self._served[job]))
                self._served[job] = next(self._turns)
                if job in waiting:
                    self._begin(job)
            for run in self._runs:
                if run.job is job:
                    run.start_segment()

    def _begin(self, job: Job) -> None:
        """Take a waiting job in."""
        self._line.begin(job)
        if job.begin():
            try:
                self._runs.append(JobRun(self.cascade, job))
                return
            except Exception as error:
                job.tell(Failed(for_people(error, "planning a job")))
        self._line.end(job)


def run(cascade: Cascade, request: GenerationRequest) -> Iterator[Event]:
    """What `Cascade.events` does, with the segments side by side; of progress only the newest.

    Closing the iterator stops it within one step.

    Raises:
        BarkError: of the kind that says what was wrong.
    """
    with Engine(cascade) as engine:
        for event in engine.submit(request).events():
            if isinstance(event, Failed):
                raise event.error
            yield event


def _advance(job: JobRun) -> None:
    """Let a job go on; what goes wrong with it is its own affair."""
    try:
        job.advance()
    except Exception as error:
        job.fail(for_people(error, "a job"))


class _Lanes:
    """The lanes of one cascade, and which of them have their weights on the device.

    Where all weights are resident each has a turn in a round, the last stage first. Offloaded, a
    lane keeps the device until all that it can do is done: moving weights takes longer than a
    step.
    """

    def __init__(self, cascade: Cascade, n_rows: int, stopped: Callable[[], bool]) -> None:
        on_cpu = cascade.placement.kind == "cpu"
        self._cascade = cascade
        self._codec = CodecLane(cascade, stopped)  # sees to its place itself
        self._moving: list[tuple[Lane, nn.Module]] = [
            (FineLane(cascade, 1 if on_cpu else n_rows), cascade.fine),
            (RowLane(cascade, Stage.COARSE, n_rows), cascade.coarse),
            (RowLane(cascade, Stage.SEMANTIC, n_rows), cascade.text),
        ]
        self._resident: Lane | None = None
        self._stay = contextlib.ExitStack()

    @property
    def _all(self) -> list[Lane]:
        return [self._codec, *(lane for lane, _ in self._moving)]

    def turn(self, takes: list[TakeRun]) -> None:
        """Do something for these takes."""
        if self._cascade.placement.offload:
            self._turn_of_one(takes)
            return
        for lane in self._all:
            lane.launch(takes)
        for lane in self._all:
            lane.settle()

    def _turn_of_one(self, takes: list[TakeRun]) -> None:
        """The lane that has the device, or else the last stage's that has something to do."""
        if self._resident is None or not self._resident.wanted(takes):
            self._leave()
            if self._codec.wanted(takes):
                self._codec.launch(takes)
                return
            for lane, stage in self._moving:
                if lane.wanted(takes):
                    self._stay.enter_context(self._cascade.on_device(stage))
                    self._resident = lane
                    break
        if self._resident is not None:
            self._resident.launch(takes)
            self._resident.settle()

    def _leave(self) -> None:
        if self._resident is not None:
            self._resident.close()
            self._resident = None
        self._stay.close()

    def drop(self, take: TakeRun) -> None:
        """Give up what a take has anywhere."""
        for lane in self._all:
            lane.drop(take)

    def close(self) -> None:
        """Give all memory back."""
        self._leave()
        for lane in self._all:
            lane.close()

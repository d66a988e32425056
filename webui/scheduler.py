"""Who goes next: the queue in front of the workers.

Users take turns, and each one's jobs run in their order. A job is handed to the backend when its
model has room for it, never earlier, so that whoever comes can still go before it. What waits is
on the disk: it runs after a restart.

One model runs at a time, as all of them share the devices. A job whose worker died runs once
more, alone on a worker: if it was to blame, it takes nobody along.
"""

from __future__ import annotations

import functools
import logging
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

import numpy as np

from bark_core import (
    Audio,
    AudioChunk,
    BarkError,
    Event,
    Failed,
    Finished,
    GenerationError,
    GenerationRequest,
    Job,
    JobState,
    Running,
    Stopped,
    StorageError,
    WorkerLost,
)
from webui.history_entry import new_id
from webui.hosting import DAY_S, Hosting
from webui.languages import N_
from webui.models import ModelShelf
from webui.queue_store import QueueStore, Row, Standing, request_to_json

_log = logging.getLogger(__name__)

MAX_ATTEMPTS = 2  # of a job whose worker died
TICK_S = 1.0
STOPPING_S = 4.0  # what a job that is cut off at the end gets to hand over what it has


class QueueFull(GenerationError):
    """There is no room in the queue, for anybody or for this user."""

    title = N_("There is no room in the queue")


class Interrupted(GenerationError):
    """The studio ended while it was being made."""

    title = N_("This was interrupted")


class Abandoned(GenerationError):
    """Nobody waited for it any more."""

    title = N_("This was given up")


class Happening(StrEnum):
    """What can happen to a job."""

    QUEUED = "queued"
    REFUSED = "refused"
    STARTED = "started"
    RESTARTED = "restarted"  # its worker died
    FINISHED = "finished"
    FAILED = "failed"
    STOPPED = "stopped"
    ABANDONED = "abandoned"
    INTERRUPTED = "interrupted"


@dataclass(frozen=True, slots=True)
class Note:
    """Something that happened to a job, without its words: for logs and metrics."""

    what: Happening
    job_id: str
    owner: str
    model: str
    n_characters: int
    waited_s: float = 0.0
    ran_s: float = 0.0
    audio_s: float = 0.0
    error: str = ""  # the kind of it


@dataclass(frozen=True, slots=True)
class Place:
    """Where a job stands in the queue."""

    n_before: int  # jobs that go first, those that run included
    wait_s: float | None  # an estimate; None: nothing was made yet to tell from


class QueuedJob(Job):
    """A job on its way through the queue. All methods may be called from any thread."""

    def __init__(
        self,
        request: GenerationRequest,
        scheduler: Scheduler,
        *,
        job_id: str,
        owner: str,
        model: str,
    ) -> None:
        super().__init__(request)
        self.id = job_id or new_id()
        self.owner, self.model = owner, model
        self.texts: tuple[str, ...] = (request.text,)  # of its segments, as far as planned
        self.attempts = 0
        self.alone = False  # it runs with nobody beside it on its worker
        self.durable = False
        self.kept_for_later = False  # the studio ends: it runs, or is told of, after the next start
        self.seen_at = self.submitted_at
        self.began_at = 0.0
        self.running: Running | None = None
        self._scheduler = scheduler
        self._n_told = self._n_repeated = 0  # samples of sound, in all and in this attempt

    def cancel(self) -> None:
        super().cancel()
        self._scheduler._cancelled(self)

    # --- for the scheduler

    def begin(self) -> bool:
        """Its turn has come; False: it was stopped while it waited."""
        self.began_at, self._n_repeated = time.time(), 0
        return super().begin()

    def tell(self, event: Event) -> None:
        """Tell those who watch. Sound that an earlier attempt made is left away: it is the same."""
        if isinstance(event, AudioChunk):
            n_samples = len(event.audio)
            known = min(n_samples, max(0, self._n_told - self._n_repeated))
            self._n_repeated += n_samples
            self._n_told = max(self._n_told, self._n_repeated)
            if known == n_samples:
                return
            if known:
                rest = np.asarray(event.audio.samples)[known:]
                event = replace(event, audio=Audio(rest, event.audio.sample_rate_hz))
        super().tell(event)

    def wait_again(self) -> None:
        """Back into the queue."""
        with self._changed:
            self._state, self._progress = JobState.QUEUED, None
            self._changed.notify_all()


class Scheduler:
    """The queue of one studio.

    Args:
        models: has the backend that runs the jobs, and loads models for them.
        store: keeps what waits.
        clock: tells the time; another one in tests.
    """

    def __init__(
        self,
        models: ModelShelf,
        store: QueueStore,
        hosting: Hosting | None = None,
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._models, self._store = models, store
        self._hosting, self._clock = hosting or Hosting(), clock
        self._lock = threading.RLock()
        self._waiting: OrderedDict[str, deque[QueuedJob]] = OrderedDict()  # by user, in turn
        self._running: dict[str, QueuedJob] = {}
        self._order: list[QueuedJob] | None = None  # of those that wait; None: to be found
        self._todo: deque[Callable[[], None]] = deque()  # writes that mustn't hold up a worker
        self._listeners: list[Callable[[Note], None]] = []
        self._used: dict[str, float] = {}
        self._day = -1
        self._draining = self._ended = False
        self._wake = threading.Event()
        models.attend(self)
        models.backend.watch(self._wake.set)
        models.subscribe(self._settled)
        self._thread = threading.Thread(target=self._loop, name="scheduler", daemon=True)
        self._thread.start()

    # --- what is asked

    def submit(
        self,
        request: GenerationRequest,
        *,
        model: str,
        owner: str = "",
        browser: str = "",
        group: str = "",
        job_id: str = "",
        texts: Sequence[str] = (),
        durable: bool = True,
    ) -> QueuedJob:
        """Take a job; it is on the disk when this returns.

        Args:
            texts: of its segments, for estimates.
            durable: False: whoever asks sees to it after a restart.
        Raises:
            QueueFull: no room. GenerationError: the studio ends. StorageError: it can't be kept.
        """
        job = QueuedJob(request, self, job_id=job_id, owner=owner, model=model)
        job.texts, job.durable = tuple(texts) or job.texts, durable
        self._refuse_if_full(job)
        if durable:
            self._store.add(
                Row(
                    job.id,
                    owner,
                    browser,
                    group,
                    model,
                    job.submitted_at,
                    Standing.QUEUED,
                    0,
                    request_to_json(request),
                )
            )
        self._join(job)
        return job

    def restore(self, row: Row, request: GenerationRequest) -> QueuedJob:
        """Take a job of the last start again."""
        job = QueuedJob(request, self, job_id=row.id, owner=row.owner, model=row.model)
        job.submitted_at, job.attempts, job.durable = row.submitted_at, row.attempts, True
        job.seen_at, job.alone = self._clock(), row.attempts > 0
        self._join(job)
        return job

    def place(self, job: QueuedJob) -> Place | None:
        """Where it waits; None once it runs or is over."""
        with self._lock:
            order, running = self._in_order(), list(self._running.values())
            try:
                ahead = order[: order.index(job)]
            except ValueError:
                return None
        return Place(len(ahead) + len(running), self._wait_s(running, ahead, job))

    def look(self, job: QueuedJob) -> None:
        """Somebody still waits for it."""
        job.seen_at = self._clock()

    def settle(self, job: QueuedJob) -> None:
        """What it made is kept, or its end was read: nothing of it is needed any more."""
        if job.durable:
            self._later(functools.partial(self._store.remove, [job.id]))

    def n_unfinished(self, model: str) -> int:
        """Jobs of a model that wait or run."""
        return sum(job.model == model for job in self.unfinished())

    def unfinished(self) -> list[QueuedJob]:
        """Those that run, then those that wait, in the order in which their turns come."""
        with self._lock:
            return [*self._running.values(), *self._in_order()]

    def counts(self) -> tuple[int, int]:
        """How many wait, how many run."""
        with self._lock:
            return len(self._in_order()), len(self._running)

    def stop_model(self, model: str) -> None:
        """Stop all jobs of a model."""
        for job in self.unfinished():
            if job.model == model:
                job.cancel()

    def audio_left_s(self, owner: str) -> float | None:
        """How much sound a user may still have today; None: any amount."""
        most = self._hosting.audio_s_each_day
        return None if most is None else max(0.0, most - self._today().get(owner, 0.0))

    def listen(self, listener: Callable[[Note], None]) -> None:
        """Have a function called with all that happens to jobs, on any thread."""
        self._listeners.append(listener)

    @property
    def draining(self) -> bool:
        """The studio ends: no job is taken or begun any more."""
        return self._draining

    def drain(self, timeout_s: float) -> None:
        """Begin nothing more; let what runs end, or cut it off. What waits is kept for later."""
        with self._lock:
            self._draining = True
            waiting = list(self._in_order())
            for job in waiting:
                job.kept_for_later = job.durable
        for job in waiting:
            job.tell(Stopped())
        deadline = time.monotonic() + timeout_s
        while self._running and time.monotonic() < deadline:
            time.sleep(0.02)
        with self._lock:
            cut_off = list(self._running.values())
        for job in cut_off:
            job.kept_for_later = job.durable and not job.cancelled
            if job.kept_for_later:
                self._mark(job, Standing.INTERRUPTED)
                self._note(Happening.INTERRUPTED, job)
            job.cancel()
        deadline = time.monotonic() + STOPPING_S
        while self._running and time.monotonic() < deadline:
            time.sleep(0.02)

    def close(self, *, timeout_s: float = 0.0) -> None:
        """Drain, and end. Whoever still ends meanwhile is found at the next start."""
        self.drain(timeout_s)
        self._ended = True
        self._wake.set()
        self._thread.join(10.0)
        self._write()
        self._store.close()

    # --- taking jobs

    def _refuse_if_full(self, job: QueuedJob) -> None:
        hosting, unfinished = self._hosting, self.unfinished()
        own = sum(other.owner == job.owner for other in unfinished)
        left_s = self.audio_left_s(job.owner)
        error: GenerationError | None = None
        if self._draining:
            error = GenerationError("the studio is closing and takes no more jobs")
        elif own >= hosting.max_queued_each:
            error = QueueFull(
                f"{own} of your jobs are waiting already, which is the most there can be; wait "
                "until some are done, or stop them"
            )
        elif len(unfinished) >= hosting.max_queued:
            error = QueueFull(
                f"the queue is full: {len(unfinished)} jobs are waiting; try again in a while"
            )
        elif left_s is not None and left_s <= 0:
            error = QueueFull(
                f"you had your {hosting.audio_s_each_day:.0f} s of sound for today; more is there "
                "from midnight UTC on"
            )
        if error is not None:
            self._note(Happening.REFUSED, job, error)
            raise error

    def _join(self, job: QueuedJob) -> None:
        with self._lock:
            self._waiting.setdefault(job.owner, deque()).append(job)
            self._order = None
        self._note(Happening.QUEUED, job)
        self._wake.set()

    def _cancelled(self, job: QueuedJob) -> None:
        with self._lock:
            running = job.running if job.id in self._running else None
            queue = self._waiting.get(job.owner)
            waited = queue is not None and job in queue
            if waited and queue is not None:
                queue.remove(job)
                self._order = None
        if running is not None:
            running.cancel()
        if waited:
            self._note(Happening.STOPPED, job)
        self._wake.set()

    # --- whose turn it is

    def _in_order(self) -> list[QueuedJob]:
        """Those that wait, as their turns come: a round of one job of each user, then the next."""
        if self._order is None:
            queues = [deque(queue) for queue in self._waiting.values()]
            order: list[QueuedJob] = []
            while queues := [queue for queue in queues if queue]:
                order += [queue.popleft() for queue in queues]
            self._order = order
        return self._order

    def _next(self) -> QueuedJob | None:
        """The job that begins now, taken out of the queue."""
        backend = self._models.backend
        capacity = functools.cache(backend.capacity)
        with self._lock:
            if self._draining:
                return None
            seen: set[str] = set()
            for job in self._in_order():
                if not self._may_begin(job, seen, capacity):
                    continue
                others = self._running.values()
                if len(others) >= capacity(job.model):
                    return None
                # it is its turn: nobody begins until there is room for it
                if any(other.model != job.model for other in others):
                    return None
                if job.alone and not backend.idle(job.model):
                    return None
                self._waiting[job.owner].remove(job)
                self._waiting.move_to_end(job.owner)  # the others first
                if not self._waiting[job.owner]:
                    del self._waiting[job.owner]
                self._order = None
                return job
        return None

    def _may_begin(self, job: QueuedJob, seen: set[str], capacity: Callable[[str], int]) -> bool:
        """Whether it is a user's first job whose model is there."""
        most = self._hosting.max_running_each
        running = sum(other.owner == job.owner for other in self._running.values())
        if job.owner in seen or (most is not None and running >= most):
            return False
        if not capacity(job.model):
            return False
        seen.add(job.owner)
        return True

    def _wanted_models(self) -> None:
        """Load what the jobs that wait need; those of a model that can't be loaded fail."""
        with self._lock:
            names = {job.model for job in self._in_order()}
        for name in names:
            status = self._models.status(name)
            if status.loaded or status.state.busy:
                continue
            try:
                self._models.load(name)
            except BarkError as error:
                self._fail_model(name, error)

    def _settled(self, name: str) -> None:
        """A model was loaded, or couldn't be, or was lost."""
        status = self._models.status(name)
        if not status.loaded and not status.coming:
            if status.error is not None:
                self._fail_model(name, status.error)
            else:  # somebody stopped loading it
                self.stop_model(name)
        self._wake.set()

    def _fail_model(self, name: str, error: BarkError) -> None:
        with self._lock:
            failing = [job for job in self._in_order() if job.model == name]
            for job in failing:
                self._waiting[job.owner].remove(job)
            self._order = None
        for job in failing:
            self._note(Happening.FAILED, job, error)
            job.tell(Failed(error))

    # --- running them

    def _loop(self) -> None:
        while not self._ended:
            self._wake.wait(timeout=TICK_S)
            self._wake.clear()
            try:
                self._write()
                if not self._draining:
                    self._expire()
                    self._wanted_models()
                    while (job := self._next()) is not None:
                        self._begin_or_fail(job)
                    self._models.unload_idle(self._hosting.idle_unload_s)
            except Exception:  # the queue must outlive whatever goes wrong with one of it
                _log.exception("the queue stumbled")
                time.sleep(TICK_S)

    def _begin_or_fail(self, job: QueuedJob) -> None:
        """Begin a job; it is out of the queue already, so whatever happens it must end."""
        try:
            self._begin(job)
        except Exception as problem:
            _log.exception("beginning job %s failed", job.id)
            error = problem if isinstance(problem, BarkError) else surprise(problem)
            self._end(job, Failed(error))

    def _begin(self, job: QueuedJob) -> None:
        if not job.begin():
            self._wake.set()
            return
        with self._lock:
            self._running[job.id] = job
        self._note(Happening.STARTED, job)
        told = functools.partial(self._told, job)
        job.running = self._models.backend.submit(job.model, job.request, told, alone=job.alone)
        if job.cancelled:
            job.running.cancel()
        self._models.touch(job.model)
        # if the studio dies in between, it just runs again
        self._later(functools.partial(self._mark_running, job))

    def _mark_running(self, job: QueuedJob) -> None:
        if job.id in self._running and not job.kept_for_later:
            self._mark(job, Standing.RUNNING)

    def _told(self, job: QueuedJob, event: Event) -> None:
        """On a thread of the backend's."""
        match event:
            case Failed(error=WorkerLost() as lost, partial=partial):
                self._lost(job, lost, partial)
            case Finished() | Failed() | Stopped():
                self._end(job, event)
            case _:
                job.tell(event)

    def _lost(self, job: QueuedJob, lost: WorkerLost, partial: object) -> None:
        """Its worker died under it: it runs once more, before the others."""
        job.attempts += not lost.stepped_down
        event = Failed(lost, partial)  # type: ignore[arg-type]
        if job.cancelled:
            self._end(job, Stopped(event.partial))
            return
        if job.attempts >= MAX_ATTEMPTS or self._draining:
            self._end(job, event)
            return
        with self._lock:
            self._running.pop(job.id, None)
            job.running, job.alone = None, job.alone or not lost.stepped_down
            job.wait_again()
            self._waiting.setdefault(job.owner, deque()).appendleft(job)
            self._waiting.move_to_end(job.owner, last=False)
            self._order = None
        self._note(Happening.RESTARTED, job, lost)
        self._later(functools.partial(self._mark, job, Standing.QUEUED))
        self._wake.set()

    def _end(self, job: QueuedJob, event: Finished | Failed | Stopped) -> None:
        """Free its place, then tell."""
        with self._lock:
            self._running.pop(job.id, None)
        made = event.generation if isinstance(event, Finished) else event.partial
        audio_s = made.audio.duration_s if made is not None and made.segments else 0.0
        if audio_s:
            self._later(functools.partial(self._count_audio, job.owner, audio_s))
        self._models.touch(job.model)
        self._wake.set()
        what = Happening.FINISHED
        if isinstance(event, Stopped):
            what = Happening.STOPPED
        error = event.error if isinstance(event, Failed) else None
        self._note(Happening.FAILED if error else what, job, error, audio_s=audio_s)
        job.tell(event)

    def _expire(self) -> None:
        """Give up what waits and nobody looks at."""
        before = self._clock() - self._hosting.patience_s
        with self._lock:
            old = [job for job in self._in_order() if job.seen_at < before]
            for job in old:
                self._waiting[job.owner].remove(job)
            self._order = None if old else self._order
        for job in old:
            job.kept_for_later = job.durable
            self._mark(job, Standing.ABANDONED)
            error = abandoned()
            self._note(Happening.ABANDONED, job, error)
            job.tell(Failed(error))

    # --- the rest

    def _wait_s(
        self, running: Sequence[QueuedJob], ahead: Sequence[QueuedJob], job: QueuedJob
    ) -> float | None:
        """About how long until its turn, from what was made so far."""
        total = 0.0
        for other in (*running, *ahead):
            pace = self._models.pace(other.model)
            if pace is None:
                return None
            progress = other.progress if other.state is JobState.RUNNING else None
            texts = other.texts
            if progress is not None and progress.segment < len(texts):
                left_s = pace.left_s(progress, texts)
            else:
                left_s = pace.computing_s(texts)
            if left_s is None:
                return None
            total += left_s
        return total / max(1, self._models.backend.capacity(job.model))

    def _today(self) -> dict[str, float]:
        day = int(self._clock() // DAY_S)
        with self._lock:
            if day != self._day:
                self._used, self._day = self._store.used(day), day
            return self._used

    def _count_audio(self, owner: str, audio_s: float) -> None:
        used = self._today()
        with self._lock:
            used[owner] = used.get(owner, 0.0) + audio_s
        self._store.use(owner, self._day, audio_s)

    def _mark(self, job: QueuedJob, standing: Standing) -> None:
        if job.durable:
            self._store.mark(job.id, standing, job.attempts)

    def _later(self, write: Callable[[], None]) -> None:
        """Write to the store on the scheduler's thread."""
        self._todo.append(write)
        self._wake.set()

    def _write(self) -> None:
        while self._todo:
            write = self._todo.popleft()
            try:
                write()
            except StorageError as error:
                _log.error("the queue on the disk falls behind: %s", error)

    def _note(
        self,
        what: Happening,
        job: QueuedJob,
        error: BarkError | None = None,
        *,
        audio_s: float = 0.0,
    ) -> None:
        now, began = time.time(), job.began_at
        note = Note(
            what=what,
            job_id=job.id,
            owner=job.owner,
            model=job.model,
            n_characters=len(job.request.text),
            waited_s=max(0.0, (began or now) - job.submitted_at),
            ran_s=max(0.0, now - began) if began else 0.0,
            audio_s=audio_s,
            error=type(error).__name__ if error is not None else "",
        )
        for listener in self._listeners:
            listener(note)


def surprise(error: BaseException) -> GenerationError:
    """What is said where something went wrong that nobody thought of."""
    return GenerationError(
        f"something unexpected went wrong ({type(error).__name__}); the log has the details; "
        "try again"
    )


def interrupted() -> Interrupted:
    """What is said of a job that the end of the studio cut off."""
    return Interrupted(
        "the studio was restarted while this was being made; what was finished before is in the "
        "history, make it again for the rest"
    )


def abandoned() -> Abandoned:
    """What is said of a job that nobody waited for."""
    return Abandoned("nobody looked at it for too long while it waited; make it again")

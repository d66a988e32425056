"""The desk between the pages and the queue.

A page hands in a request and looks at it through snapshots; whether it looks or not, the desk
follows every job and puts what it made into the history. Models load behind the desk while
pages are open already: what is handed in meanwhile runs as soon as its model is there. What
waited when the studio ended is handed in again at the next start, for whoever asked for it.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

import numpy as np

from bark_core import (
    Audio,
    AudioChunk,
    BarkError,
    Cancelled,
    Failed,
    Finished,
    FrontEnd,
    Generation,
    GenerationError,
    GenerationRequest,
    JobState,
    LayoutMismatch,
    Retry,
    Segment,
    StageProgress,
    Stopped,
    write_audio,
)
from webui.history import Entry, History, new_id, peaks_of
from webui.hosting import Hosting
from webui.languages import _
from webui.models import ModelShelf, ModelState, ModelStatus
from webui.pace import Bars, Pace
from webui.queue_store import QueueStore, Row, Standing, request_from_json
from webui.scheduler import (
    Abandoned,
    Interrupted,
    Place,
    QueuedJob,
    Scheduler,
    abandoned,
    interrupted,
)

_log = logging.getLogger(__name__)

NEWS_S = 6.0
KEEP_S = 600.0  # how long a page that was away still hears how a job ended
KEEP_CUT_OFF_S = 7 * 86_400.0  # the same of one that was interrupted, or given up


class TicketState(StrEnum):
    """Where a ticket is in its life."""

    LOADING = "loading"  # the model isn't there yet
    WAITING = "waiting"  # others go first
    RUNNING = "running"
    DONE = "done"
    STOPPED = "stopped"
    FAILED = "failed"

    @property
    def over(self) -> bool:
        return self in (TicketState.DONE, TicketState.STOPPED, TicketState.FAILED)


@dataclass(frozen=True, slots=True)
class Live:
    """The sound of a job that still runs, as far as it is finished."""

    path: Path
    n_pieces: int  # that it is joined of; the next version has another address
    n_segments: int
    duration_s: float
    peaks: tuple[int, ...]


class Ticket:
    """One thing asked for, from the click to the history. Its id becomes the entry's."""

    def __init__(
        self,
        request: GenerationRequest,
        *,
        model: str,
        owner: str,
        browser: str,
        group: str,
        ticket_id: str = "",
    ) -> None:
        self.id = ticket_id or new_id()
        self.request = request
        self.model = model
        self.owner = owner
        self.browser = browser
        self.group = group
        self.submitted_at = time.time()
        self.over_at: float | None = None
        self.state = TicketState.LOADING
        self.stopping = False
        self.job: QueuedJob | None = None  # until it is over
        self.attempts = 0  # of its job: how often its worker died
        self.segments: tuple[Segment, ...] = ()
        self.entry: Entry | None = None
        self.error: BarkError | None = None
        self.live: Live | None = None
        self.heard: list[Audio] = []  # in its order
        self.retry: Retry | None = None  # of the segment that runs
        self.finished = threading.Event()

    @property
    def restarted(self) -> bool:
        """Its worker died, and it is made again."""
        job = self.job
        return (job.attempts if job is not None else self.attempts) > 0

    @property
    def cut_off(self) -> bool:
        """It ended by nobody's will, and can be asked for again."""
        return isinstance(self.error, Interrupted | Abandoned)


@dataclass(frozen=True, slots=True)
class View:
    """A ticket as a page shows it, at one moment."""

    id: str
    text: str
    state: TicketState
    stopping: bool
    position: int | None  # jobs that go first
    bars: Bars | None
    segment: int
    n_segments: int
    left_s: float | None  # an estimate
    live: Live | None
    error: BarkError | None
    model: str = ""
    group: str = ""  # tickets that were asked for together have the same
    seed: int = 0
    retry: Retry | None = None  # the segment that runs went wrong before
    wait_s: float | None = None  # an estimate of how long until it begins
    restarted: bool = False  # its worker died, and it is made again
    cut_off: bool = False  # it ended by nobody's will, and can be asked for again


@dataclass(frozen=True, slots=True)
class DeskStatus:
    """What the page's head says of its model and of the queue."""

    name: str
    state: str  # "loading", "ready" or "failed"
    line: str  # the same for people, with the device
    demonstration: bool
    n_waiting: int
    error: BarkError | None


class Desk:
    """Takes requests, follows them, keeps what they made.

    Args:
        models: loads what is needed. The desk is told of it, and is what closes it.
        store: keeps the queue; one in memory by default.
    """

    def __init__(
        self,
        models: ModelShelf,
        *,
        history: History,
        store: QueueStore | None = None,
        hosting: Hosting | None = None,
    ) -> None:
        self.history = history
        self.models = models
        self._store = store or QueueStore.in_memory()
        self.scheduler = Scheduler(models, self._store, hosting)
        self.admit: Callable[[str], None] = lambda owner: None  # raises where there is no room
        self.on_asked: Callable[[Ticket], None] = lambda ticket: None
        self._lock = threading.RLock()
        self._tickets: dict[str, Ticket] = {}
        self._closing = False
        models.subscribe(self._settled)

    def start(self) -> None:
        """Begin to load the default model, and take up what the last start left."""
        self.models.start()
        for row in self._store.rows():
            self._take_up(row)

    def close(self, *, drain_s: float = 0.0) -> None:
        """End. What was made so far is in the history, what waited on the disk, on return.

        Args:
            drain_s: what the jobs that run get to end by themselves.
        """
        self.scheduler.drain(drain_s)
        with self._lock:
            self._closing = True
            tickets = [ticket for ticket in self._tickets.values() if not ticket.state.over]
        for ticket in tickets:
            ticket.finished.wait(timeout=10.0)
        self.scheduler.close()
        self.models.close()

    @property
    def closing(self) -> bool:
        """The studio ends: whoever watches has seen all there is."""
        return self._closing

    # --- the default model

    @property
    def pace(self) -> Pace | None:
        return self.models.pace()

    @property
    def loaded(self) -> threading.Event:
        """Set once the default model was loaded, or couldn't be."""
        return self.models.settled()

    # --- what a page asks for

    def submit(
        self,
        request: GenerationRequest,
        *,
        model: str = "",
        owner: str = "",
        browser: str = "",
        group: str = "",
    ) -> Ticket:
        """Take a request; a model that is on the disk is loaded for it.

        Args:
            model: its name on the shelf; "" is the default one.
            group: the same for what is asked for together.
        Raises:
            BarkError: it can't run on this model, or the model isn't here or couldn't be loaded.
        """
        self.admit(owner)
        self._forget_old()
        status = self.models.status(model)
        if status.error is not None and not status.loaded:
            raise status.error
        ticket = Ticket(request, model=status.name, owner=owner, browser=browser, group=group)
        front = self.models.front(status.name)
        if front is not None:
            ticket.segments = front.plan(request)
        if not status.loaded:
            _refuse_foreign_voice(request, status)
            if status.state is not ModelState.UNLOADING:  # then the queue loads it afterwards
                self.models.load(status.name)
        self._hand_in(
            ticket,
            lambda: self.scheduler.submit(
                request,
                model=status.name,
                owner=owner,
                browser=browser,
                group=group,
                job_id=ticket.id,
                texts=[segment.text for segment in ticket.segments],
            ),
        )
        self.on_asked(ticket)
        return ticket

    def again(self, ticket_id: str, *, owner: str = "") -> Ticket | None:
        """Ask once more for what was cut off; None: there is no such ticket.

        Raises:
            BarkError: as `submit`.
        """
        old = self.ticket(ticket_id, owner=owner)
        if old is None or not old.cut_off:
            return None
        new = self.submit(
            old.request, model=old.model, owner=owner, browser=old.browser, group=old.group
        )
        self.dismiss(ticket_id, owner=owner)
        return new

    def stop(self, ticket_id: str, *, owner: str = "") -> bool:
        """Ask a job to end; keeps the segments that are finished. False: nothing to stop."""
        ticket = self.ticket(ticket_id, owner=owner)
        return ticket is not None and self._stop(ticket)

    def stop_all(self, *, owner: str = "", browser: str = "") -> int:
        """Stop all unfinished jobs of one browser; returns how many."""
        return sum(self._stop(ticket) for ticket in self._of(owner, browser))

    def ticket(self, ticket_id: str, *, owner: str = "") -> Ticket | None:
        with self._lock:
            ticket = self._tickets.get(ticket_id)
        return ticket if ticket is not None and ticket.owner == owner else None

    def views(self, *, owner: str = "", browser: str = "") -> list[View]:
        """A browser's unfinished jobs and those that failed lately, the newest first."""
        tickets = self._of(owner, browser)
        for ticket in tickets:
            if (job := ticket.job) is not None:
                self.scheduler.look(job)
        return [self._view(ticket) for ticket in reversed(tickets)]

    def queue(self, *, owner: str = "") -> tuple[list[View], int]:
        """All unfinished jobs: one's own, the oldest first, and how many are of others."""
        with self._lock:
            unfinished = [t for t in self._tickets.values() if not t.state.over]
        own = [self._view(ticket) for ticket in unfinished if ticket.owner == owner]
        return own, len(unfinished) - len(own)

    def dismiss(self, ticket_id: str, *, owner: str = "") -> None:
        """Forget a ticket that is over: its message was read."""
        with self._lock:
            ticket = self.ticket(ticket_id, owner=owner)
            if ticket is None or not ticket.state.over:
                return
            del self._tickets[ticket_id]
        self._store.remove([ticket_id])
        self._remove_live(ticket)

    def status(self, model: str = "") -> DeskStatus:
        """What the page's head says of a model; "" is the default one."""
        status = self.models.status(model)
        with self._lock:
            waiting = (TicketState.LOADING, TicketState.WAITING)
            n_waiting = sum(ticket.state in waiting for ticket in self._tickets.values())
        state, line = "loading", _("loading the model")
        if status.error is not None and not status.loaded:
            state, line = "failed", _("not loaded")
        elif status.restarting:
            line = _("restarting the worker")
        elif status.loaded:
            ready = _("CPU, ready") if "cpu" in status.devices else _("GPU, ready")
            state, line = "ready", ready
        elif status.transfer is not None:
            share = status.transfer.done_bytes / max(status.transfer.total_bytes, 1)
            line = _("getting the model, {percent} %", percent=round(100 * share))
        elif status.asleep and not status.coming:
            state, line = "ready", _("asleep until it is needed")
        elif not status.coming:
            state, line = "ready", _("not loaded")
        return DeskStatus(status.name, state, line, status.demonstration, n_waiting, status.error)

    # --- behind the desk

    def _settled(self, name: str) -> None:
        """A model was loaded: what was asked for before can be planned now."""
        front = self.models.front(name)
        with self._lock:
            early = [
                ticket
                for ticket in self._tickets.values()
                if ticket.model == name and ticket.state is TicketState.LOADING
            ]
        if front is None or not self.models.status(name).loaded:
            return  # the scheduler ends them
        for ticket in early:
            try:
                self._plan(ticket, front)
            except BarkError as problem:
                self._end(ticket, TicketState.FAILED, error=problem)
                if (job := ticket.job) is not None:
                    job.cancel()

    @staticmethod
    def _plan(ticket: Ticket, front: FrontEnd) -> None:
        """Its model is there. Raises BarkError: the model can't say it."""
        ticket.segments = ticket.segments or front.plan(ticket.request)
        if (job := ticket.job) is not None:
            job.texts = tuple(segment.text for segment in ticket.segments)
        if ticket.state is TicketState.LOADING:
            ticket.state = TicketState.WAITING

    def _hand_in(self, ticket: Ticket, submit: Callable[[], QueuedJob]) -> None:
        """Put a ticket on the desk, and its job into the queue."""
        with self._lock:
            if self._closing:
                raise GenerationError("the studio is closing and takes no more jobs")
            self._tickets[ticket.id] = ticket
        try:
            ticket.job = submit()
            front = self.models.front(ticket.model)
            if front is not None and self.models.status(ticket.model).loaded:
                self._plan(ticket, front)
        except BaseException:
            with self._lock:
                del self._tickets[ticket.id]
            raise
        name = f"follow-{ticket.id[:8]}"
        threading.Thread(target=self._follow, args=(ticket,), name=name, daemon=True).start()

    def _take_up(self, row: Row) -> None:
        """A job that the last start left: it waits again, or its owner is told why not."""
        kept = self.history.get(row.id, owner=row.owner)
        if kept is not None and kept.complete:
            self._store.remove([row.id])  # it was done, but for this
            return
        try:
            model = self.models.status(row.model).name
            request = request_from_json(row.request, self.models.layouts())
        except BarkError as error:
            _log.warning("a job of the last start is given up: %s", type(error).__name__)
            self._store.remove([row.id])
            return
        ticket = Ticket(
            request,
            model=model,
            owner=row.owner,
            browser=row.browser,
            group=row.group,
            ticket_id=row.id,
        )
        ticket.submitted_at = row.submitted_at
        if row.state is Standing.QUEUED:
            self._hand_in(ticket, lambda: self.scheduler.restore(row, request))
            return
        if row.state is Standing.RUNNING:
            self._store.mark(row.id, Standing.INTERRUPTED, row.attempts)
        with self._lock:
            self._tickets[ticket.id] = ticket
        why = abandoned() if row.state is Standing.ABANDONED else interrupted()
        self._end(ticket, TicketState.FAILED, error=why)

    def _follow(self, ticket: Ticket) -> None:
        """Live through a job's events; whatever happens, the ticket ends."""
        assert ticket.job is not None
        job = ticket.job
        try:
            for event in job.events():
                match event:
                    case StageProgress():
                        if job.state is JobState.RUNNING:
                            ticket.state = TicketState.RUNNING
                    case Retry():
                        ticket.retry = event
                    case AudioChunk():
                        self._hear(ticket, event)
                    case Finished(generation=generation):
                        self._keep(ticket, generation)
                        self._end(ticket, TicketState.DONE)
                    case Stopped(partial=partial):
                        self._keep(ticket, partial)
                        self._end(ticket, TicketState.STOPPED)
                    case Failed(error=error, partial=partial):
                        self._keep(ticket, partial)
                        self._end(ticket, TicketState.FAILED, error=error)
        except BarkError as error:
            self._end(ticket, TicketState.FAILED, error=error)
        except Exception as error:
            _log.exception("following job %s failed", ticket.id)
            surprise = GenerationError(
                f"something unexpected went wrong ({type(error).__name__}); "
                "the log has the details; try again"
            )
            self._end(ticket, TicketState.FAILED, error=surprise)

    def _hear(self, ticket: Ticket, chunk: AudioChunk) -> None:
        """Make the sound so far audible for the pages."""
        ticket.heard.append(chunk.audio)
        if chunk.ends_segment:
            ticket.retry = None
            pace = self.models.pace(ticket.model)
            if pace is not None:
                pace.learn(chunk.so_far.segments[-1])
            if chunk.segment + 1 == chunk.n_segments:
                return  # the whole of it is in the history in a moment
        n_pieces = len(ticket.heard)
        path = self.history.live / f"{ticket.id}-{n_pieces}.flac"
        samples = np.concatenate([audio.samples for audio in ticket.heard])
        audio = Audio(samples, chunk.audio.sample_rate_hz)
        try:
            write_audio(path, audio, chunk.so_far.metadata(), stamp=self.history.stamp)
        except BarkError as error:
            _log.warning("no sound before the end for %s: %s", ticket.id, error)
            return
        n_segments = len(chunk.so_far.segments)
        ticket.live = Live(path, n_pieces, n_segments, audio.duration_s, peaks_of(audio))

    def _keep(self, ticket: Ticket, generation: Generation | None) -> None:
        if generation is None or not generation.segments:
            return
        ticket.entry = self.history.add(
            generation,
            owner=ticket.owner,
            group=ticket.group,
            entry_id=ticket.id,
            created_at=ticket.submitted_at,
        )

    def _stop(self, ticket: Ticket) -> bool:
        with self._lock:
            job = ticket.job
            if ticket.state.over or job is None:
                return False
            ticket.stopping = True
        job.cancel()
        return True

    def _end(self, ticket: Ticket, state: TicketState, error: BarkError | None = None) -> None:
        job = ticket.job
        if job is not None and not job.kept_for_later:
            self.scheduler.settle(job)  # what it made is in the history by now
        with self._lock:
            if ticket.state.over:
                return
            ticket.error = None if isinstance(error, Cancelled) else error
            ticket.state, ticket.over_at = state, time.time()
            # its sound is in the history; here it would stay for as long as the ticket is known
            ticket.attempts, ticket.job = job.attempts if job is not None else 0, None
            ticket.heard.clear()
        ticket.finished.set()

    def _of(self, owner: str, browser: str) -> list[Ticket]:
        """A browser's tickets that a page should show, the oldest first."""
        with self._lock:
            return [
                ticket
                for ticket in self._tickets.values()
                # "": asked for before its page had a name
                if ticket.owner == owner and ticket.browser in (browser, "")
                if self._has_news(ticket)
            ]

    @staticmethod
    def _has_news(ticket: Ticket) -> bool:
        if ticket.over_at is None or ticket.error is not None:
            return True
        # stopped too early to keep anything: say so for a moment
        nothing = ticket.state is TicketState.STOPPED and ticket.entry is None
        return nothing and time.time() - ticket.over_at < NEWS_S

    def _forget_old(self) -> None:
        now = time.time()
        with self._lock:
            old = [
                ticket
                for ticket in self._tickets.values()
                if ticket.over_at is not None
                and now - ticket.over_at > (KEEP_CUT_OFF_S if ticket.cut_off else KEEP_S)
            ]
            for ticket in old:
                del self._tickets[ticket.id]
        self._store.remove(ticket.id for ticket in old if ticket.cut_off)
        for ticket in old:
            self._remove_live(ticket)

    def _remove_live(self, ticket: Ticket) -> None:
        """What could be heard of a job before its end."""
        for path in self.history.live.glob(f"{ticket.id}-*.flac"):
            path.unlink(missing_ok=True)

    def _view(self, ticket: Ticket) -> View:
        job, texts = ticket.job, [segment.text for segment in ticket.segments]
        progress = job.progress if job is not None and not ticket.state.over else None
        place: Place | None = None
        if job is not None and not ticket.state.over:
            place = self.scheduler.place(job)
        state = ticket.state
        if state is TicketState.RUNNING and place is not None:
            state, progress = TicketState.WAITING, None  # its worker died: it waits again
        bars, left_s = _estimates(self.models.pace(ticket.model), progress, texts)
        return View(
            id=ticket.id,
            text=ticket.request.text,
            state=state,
            stopping=ticket.stopping,
            position=place.n_before if place and state is TicketState.WAITING else None,
            bars=bars,
            segment=progress.segment if progress else 0,
            n_segments=len(texts),
            left_s=left_s,
            live=ticket.live,
            error=ticket.error,
            model=ticket.model,
            group=ticket.group,
            seed=ticket.request.seed,
            retry=ticket.retry if not ticket.state.over else None,
            wait_s=place.wait_s if place else None,
            restarted=ticket.restarted and not ticket.state.over,
            cut_off=ticket.cut_off,
        )


def _refuse_foreign_voice(request: GenerationRequest, model: ModelStatus) -> None:
    """Before minutes are spent on loading; a loaded model sees to it itself."""
    voice = request.voice
    if voice is None or not model.layout_name or voice.layout.name == model.layout_name:
        return
    raise LayoutMismatch(
        f"the voice {voice.name or 'given'!r} belongs to models of the layout "
        f"{voice.layout.name!r}, but {model.name!r} has {model.layout_name!r}; choose a voice of "
        "this model, or the model that the voice was made with"
    )


def _estimates(
    pace: Pace | None, progress: StageProgress | None, texts: Sequence[str]
) -> tuple[Bars | None, float | None]:
    if progress is None or pace is None or progress.segment >= len(texts):
        return None, None
    return pace.bars(progress, texts[progress.segment]), pace.left_s(progress, texts)

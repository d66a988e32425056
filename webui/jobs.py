"""The desk between the pages and the engine.

A page hands in a request and looks at it through snapshots; whether it looks or not, the desk
follows every job and puts what it made into the history. The model loads behind the desk while
pages are open already: what is handed in meanwhile runs as soon as it is there.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from bark_core import (
    AudioChunk,
    BarkError,
    Cancelled,
    Cascade,
    DownloadProgress,
    Engine,
    Failed,
    Finished,
    Generation,
    GenerationError,
    GenerationRequest,
    Job,
    ProgressCallback,
    Segment,
    StageProgress,
    Stopped,
    write_audio,
)
from webui.history import Entry, History, new_id
from webui.pace import Bars, Pace

_log = logging.getLogger(__name__)

MAX_UNFINISHED = 50  # of one person
NEWS_S = 6.0
KEEP_S = 600.0  # how long a page that was away still hears how a job ended


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


class Ticket:
    """One thing asked for, from the click to the history. Its id becomes the entry's."""

    def __init__(
        self, request: GenerationRequest, *, owner: str, browser: str, ticket_id: str
    ) -> None:
        self.id = ticket_id
        self.request = request
        self.owner = owner
        self.browser = browser
        self.submitted_at = time.time()
        self.over_at: float | None = None
        self.state = TicketState.LOADING
        self.stopping = False
        self.job: Job | None = None
        self.segments: tuple[Segment, ...] = ()
        self.entry: Entry | None = None
        self.error: BarkError | None = None
        self.live: tuple[Path, float] | None = None  # the sound so far, and its seconds
        self.n_live = 0
        self.finished = threading.Event()


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
    n_live: int  # segments that can be heard
    live_s: float
    error: BarkError | None


@dataclass(frozen=True, slots=True)
class ModelStatus:
    """What the page's head says of the model."""

    name: str
    state: str  # "loading", "ready" or "failed"
    line: str  # the same for people, with the device
    demonstration: bool
    n_waiting: int
    error: BarkError | None


class Desk:
    """Takes requests, follows them, keeps what they made.

    Args:
        load: loads the model and tells of downloads; called once, on a thread of its own.
        model_name: what to call the model until it is there.
    """

    def __init__(
        self,
        load: Callable[[ProgressCallback], Cascade],
        *,
        history: History,
        model_name: str,
    ) -> None:
        self.history = history
        self.engine: Engine | None = None
        self.pace: Pace | None = None
        self.loaded = threading.Event()  # or failed to
        self._load = load
        self._model_name = model_name
        self._loading_line = "loading the model"
        self._error: BarkError | None = None
        self._lock = threading.RLock()
        self._tickets: dict[str, Ticket] = {}
        self._closing = False

    def start(self) -> None:
        """Begin to load the model."""
        threading.Thread(target=self._load_model, name="model-loader", daemon=True).start()

    def close(self) -> None:
        """Stop all jobs; what they made so far is in the history when this returns."""
        with self._lock:
            self._closing = True
            tickets = [ticket for ticket in self._tickets.values() if not ticket.state.over]
        for ticket in tickets:
            self._stop(ticket)
        for ticket in tickets:
            ticket.finished.wait(timeout=10.0)
        if self.engine is not None:
            self.engine.close()

    # --- what a page asks for

    @property
    def cascade(self) -> Cascade | None:
        """The loaded model; None while it loads."""
        return None if self.engine is None else self.engine.cascade

    def submit(self, request: GenerationRequest, *, owner: str = "", browser: str = "") -> Ticket:
        """Take a request.

        Raises:
            BarkError: it can't run on this model, or the model couldn't be loaded.
        """
        ticket = Ticket(request, owner=owner, browser=browser, ticket_id=new_id())
        with self._lock:
            self._forget_old()
            if self._closing:
                raise GenerationError("the studio is closing and takes no more jobs")
            if self._error is not None:
                raise self._error
            unfinished = [
                t for t in self._tickets.values() if t.owner == owner and not t.state.over
            ]
            if len(unfinished) >= MAX_UNFINISHED:
                raise GenerationError(
                    f"{len(unfinished)} of your jobs are waiting already, which is the most there "
                    "can be; wait until some are done, or stop them"
                )
            if self.engine is not None:
                self._hand_over(ticket, self.engine)
            self._tickets[ticket.id] = ticket
        return ticket

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
        return [self._view(ticket) for ticket in reversed(self._of(owner, browser))]

    def dismiss(self, ticket_id: str, *, owner: str = "") -> None:
        """Forget a ticket that is over: its message was read."""
        with self._lock:
            ticket = self.ticket(ticket_id, owner=owner)
            if ticket is not None and ticket.state.over:
                del self._tickets[ticket_id]

    def status(self) -> ModelStatus:
        cascade, error = self.cascade, self._error
        if cascade is None:
            state = "loading" if error is None else "failed"
            with self._lock:
                n_waiting = sum(not ticket.state.over for ticket in self._tickets.values())
            name, demonstration = self._model_name, self._model_name == "pup"
            line = self._loading_line if error is None else "not loaded"
            return ModelStatus(name, state, line, demonstration, n_waiting, error)
        kind = cascade.placement.device.type
        return ModelStatus(
            name=cascade.identity.name,
            state="ready",
            line=f"{'CPU' if kind == 'cpu' else 'GPU'}, ready",
            demonstration=cascade.config.demonstration,
            n_waiting=self.engine.n_waiting if self.engine else 0,
            error=None,
        )

    # --- behind the desk

    def _load_model(self) -> None:
        try:
            cascade = self._load(self._loading)
        except Exception as error:
            if not isinstance(error, BarkError):
                _log.exception("loading the model failed")
            self._model_failed(error)
            return
        with self._lock:
            self.pace = Pace(cascade.config.layout.semantic_rate_hz)
            self.engine = Engine(cascade)
            early = [ticket for ticket in self._tickets.values() if not ticket.state.over]
            for ticket in early:
                try:
                    self._hand_over(ticket, self.engine)
                except BarkError as error:
                    self._end(ticket, TicketState.FAILED, error=error)
        self.loaded.set()

    def _loading(self, progress: DownloadProgress) -> None:
        if self._closing:
            raise Cancelled("the studio was closed while its model was loading")
        share = progress.done_bytes / max(progress.total_bytes, 1)
        doing = {"download": "downloading", "check": "checking", "convert": "converting"}
        self._loading_line = f"{doing[progress.step]} the model, {share:.0%}"

    def _model_failed(self, error: Exception) -> None:
        if not isinstance(error, BarkError):
            error = GenerationError(
                f"the model couldn't be loaded ({type(error).__name__}); the log has the details"
            )
        with self._lock:
            self._error = error
            for ticket in self._tickets.values():
                if not ticket.state.over:
                    self._end(ticket, TicketState.FAILED, error=error)
        self.loaded.set()

    def _hand_over(self, ticket: Ticket, engine: Engine) -> None:
        ticket.segments = engine.cascade.plan(ticket.request)
        ticket.job = engine.submit(ticket.request)
        ticket.state = TicketState.WAITING
        name = f"follow-{ticket.id[:8]}"
        threading.Thread(target=self._follow, args=(ticket,), name=name, daemon=True).start()

    def _follow(self, ticket: Ticket) -> None:
        """Live through a job's events; whatever happens, the ticket ends."""
        assert ticket.job is not None
        try:
            for event in ticket.job.events():
                match event:
                    case StageProgress():
                        ticket.state = TicketState.RUNNING
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
        if self.pace is not None:
            self.pace.learn(chunk.so_far.segments[-1])
        if chunk.segment + 1 == chunk.n_segments:
            return  # the whole of it is in the history in a moment
        path = self.history.live / f"{ticket.id}-{chunk.segment}.flac"
        audio = chunk.so_far.audio
        try:
            write_audio(path, audio)
        except BarkError as error:
            _log.warning("no sound before the end for %s: %s", ticket.id, error)
            return
        ticket.live, ticket.n_live = (path, audio.duration_s), chunk.segment + 1

    def _keep(self, ticket: Ticket, generation: Generation | None) -> None:
        if generation is None or not generation.segments:
            return
        ticket.entry = self.history.add(
            generation,
            owner=ticket.owner,
            entry_id=ticket.id,
            created_at=ticket.submitted_at,
        )

    def _stop(self, ticket: Ticket) -> bool:
        with self._lock:
            if ticket.state.over:
                return False
            ticket.stopping = True
            if ticket.job is None:
                self._end(ticket, TicketState.STOPPED)
            else:
                ticket.job.cancel()
        return True

    def _end(self, ticket: Ticket, state: TicketState, error: BarkError | None = None) -> None:
        with self._lock:
            ticket.error = None if isinstance(error, Cancelled) else error
            ticket.state, ticket.over_at = state, time.time()
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
        for ticket in list(self._tickets.values()):
            if ticket.over_at is not None and now - ticket.over_at > KEEP_S:
                del self._tickets[ticket.id]
                for path in self.history.live.glob(f"{ticket.id}-*.flac"):
                    path.unlink(missing_ok=True)

    def _view(self, ticket: Ticket) -> View:
        job, texts = ticket.job, [segment.text for segment in ticket.segments]
        progress = job.progress if job is not None and not ticket.state.over else None
        position = None
        if job is not None and ticket.state is TicketState.WAITING and self.engine is not None:
            position = self.engine.position(job)
        live_s = ticket.live[1] if ticket.live else 0.0
        bars, left_s = self._estimates(progress, texts)
        return View(
            id=ticket.id,
            text=ticket.request.text,
            state=ticket.state,
            stopping=ticket.stopping,
            position=position,
            bars=bars,
            segment=progress.segment if progress else 0,
            n_segments=len(texts),
            left_s=left_s,
            n_live=ticket.n_live,
            live_s=live_s,
            error=ticket.error,
        )

    def _estimates(
        self, progress: StageProgress | None, texts: Sequence[str]
    ) -> tuple[Bars | None, float | None]:
        if progress is None or self.pace is None:
            return None, None
        bars = self.pace.bars(progress, texts[progress.segment])
        return bars, self.pace.left_s(progress, texts)

"""Who looks: which of a page's watchers speaks, and whether the page is still there.

A watcher holds a place in Gradio's queue for as long as it runs, and Gradio notices that a page
has gone only when its watcher speaks the next time. One that waits for news would keep the place
of a closed page for ever, and once all places are taken nothing on any page runs again. So a
watcher speaks every few seconds, if only to say nothing, and ends when its page has not said for
a while that it is there.

Answers to presses come beside what a watcher says, and one that was made earlier may arrive later:
"stopping" over "stopped". So a watcher says again, twice, what it said last.
"""

from __future__ import annotations

import asyncio
import hashlib
import secrets
import threading
import time
from collections.abc import Callable
from enum import Enum, auto
from types import TracebackType
from typing import Self

import gradio as gr
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from webui.answers import nothing

LEASE_S = 150.0  # browsers run the timers of a tab in the background once a minute
SILENCE_S = 3.0
AGAIN_AFTER_S = (0.75, 4.0)  # on a busy machine an answer may be late
TICK_S = 30.0
LOOK_EVERY_S = 0.15


class Turn(Enum):
    """What a watcher does at a look."""

    SPEAK = auto()
    SIGN = auto()  # say nothing, aloud: only then Gradio ends it with its page
    WAIT = auto()


class Audience:
    """All pages that somebody looks at.

    Args:
        lease_s: how long a page that says nothing counts as open.
    """

    def __init__(
        self, *, lease_s: float = LEASE_S, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._lease_s, self._clock = lease_s, clock
        self._lock = threading.Lock()
        self._speakers: dict[tuple[str, str], Seat] = {}  # (page, what is watched)
        self._heard: dict[str, float] = {}  # when a page last said that it is there
        self._closed = False

    def seat(self, what: str, request: gr.Request) -> Seat:
        """A watcher's place: one voice speaks to a page, so an earlier one's is taken over.

        Args:
            what: which of the page's watchers it is.
        """
        page = page_of(request)
        seat = Seat(self, page, what)
        with self._lock:
            self._speakers[page, what] = seat
            self._heard[page] = self._clock()
        return seat

    def here(self, page: str) -> bool:
        """A page says that it is there; False: nobody watches for it, it has to attach again."""
        with self._lock:
            if page not in self._heard:
                return False
            self._heard[page] = self._clock()
            return True

    def away(self, page: str) -> None:
        """Nobody looks at a page for now: it attaches again when somebody does."""
        with self._lock:
            self._heard.pop(page, None)

    def close(self) -> None:
        """The studio ends: whoever watches has seen all there is."""
        with self._lock:
            self._closed = True

    @property
    def closed(self) -> bool:
        return self._closed

    def _holds(self, seat: Seat) -> bool:
        with self._lock:
            if self._closed or self._speakers.get((seat.page, seat.what)) is not seat:
                return False
            heard = self._heard.get(seat.page)
            return heard is not None and self._clock() - heard < self._lease_s

    def _speaker(self, seat: Seat) -> Seat | None:
        with self._lock:
            return self._speakers.get((seat.page, seat.what))

    def _leave(self, seat: Seat) -> None:
        with self._lock:
            if self._speakers.get((seat.page, seat.what)) is not seat:
                return
            del self._speakers[seat.page, seat.what]
            if not any(page == seat.page for page, _what in self._speakers):
                self._heard.pop(seat.page, None)


class Seat:
    """One watcher's place, as a context: it is left at the end, however that comes."""

    def __init__(self, audience: Audience, page: str, what: str) -> None:
        self.page, self.what = page, what
        self._audience = audience
        self._clock = audience._clock
        self._spoke = self._told = self._clock()  # when it said anything; anything new
        self._again: tuple[float, ...] = ()  # after how long it says that again
        self._id = secrets.token_hex(4)

    @property
    def held(self) -> bool:
        """Whether this watcher is the one that speaks, to a page that is there."""
        return self._audience._holds(self)

    @property
    def taken(self) -> bool:
        """Another watcher speaks to the page now."""
        return self._audience._speaker(self) not in (self, None)

    @property
    def signs(self) -> dict[str, object]:
        """What a page hears: its name, that somebody speaks anew, and every now and then a tick.

        A page that hears no tick is deaf, whatever it is told.
        """
        return {"page": self.page, "seat": self._id, "tick": int(time.monotonic() // TICK_S)}

    def turn(self, *, news: bool) -> Turn:
        """Whether it says now what there is to see, and whether that is new or not."""
        now = self._clock()
        if news:
            self._told, self._again = now, AGAIN_AFTER_S
        elif self._again and now - self._told >= self._again[0]:
            self._again = self._again[1:]
        elif now - self._spoke >= SILENCE_S:
            self._spoke = now
            return Turn.SIGN
        else:
            return Turn.WAIT
        self._spoke = now
        return Turn.SPEAK

    @property
    def done(self) -> bool:
        """All was said, as often as it is said."""
        return not self._again

    async def rest(self, *, busy: bool) -> None:
        """Until the next look: soon where something changes all the time."""
        await asyncio.sleep(LOOK_EVERY_S if busy else 3 * LOOK_EVERY_S)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._audience._leave(self)


def audience_routes(audience: Audience) -> list[Route]:
    """Where a page says that it is there, or that it is away.

    `here` answers 204, or 404 where the page has to attach again.
    """

    def here(request: Request) -> Response:
        known = audience.here(request.path_params["page"])
        return Response(status_code=204) if known else nothing()

    def away(request: Request) -> Response:
        audience.away(request.path_params["page"])
        return Response(status_code=204)

    return [
        Route("/studio/here/{page:str}", here, methods=["POST"]),
        Route("/studio/away/{page:str}", away, methods=["POST"]),
    ]


def page_of(request: gr.Request) -> str:
    """The name of a page, the same after the program was started again.

    Made from Gradio's session, of which nothing can be learnt from it.
    """
    return hashlib.sha256(str(request.session_hash).encode()).hexdigest()[:24]

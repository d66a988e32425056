"""Shows pages what goes on, for as long as they look."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Mapping
from typing import Any

import gradio as gr

from bark_core import examples
from webui import head, takes
from webui.audience import Turn
from webui.history_schema import SPEECH
from webui.languages import language
from webui.studio import Studio, owner_of

N_RESULTS = 8
LISTING_S = 2.0
N_WATCHED = 6  # components that a watcher keeps up to date


class Watcher:
    """Shows pages what goes on: the model, this browser's jobs, the newest results.

    A page that reloads, a second tab, one that comes back: each attaches anew. Jobs don't
    notice any of it.
    """

    def __init__(self, studio: Studio) -> None:
        self._studio = studio

    async def watch(
        self, browser: str, model: str, request: gr.Request
    ) -> AsyncGenerator[tuple[Any, ...], None]:
        """Update after update, for as long as the page looks."""
        shown: tuple[Any, ...] = ()
        renamed = 0.0  # when the models last had other words on their state
        audience, nothing = self._studio.audience, (gr.skip(),) * N_WATCHED
        with audience.seat("jobs", request) as seat:
            while seat.held:
                try:
                    now = await asyncio.to_thread(
                        self._look, owner_of(request), browser, model or "", seat.signs, shown
                    )
                except Exception:
                    if audience.closed:  # the store was closed under it
                        return
                    raise
                turn = seat.turn(news=now != shown)
                if turn is Turn.SPEAK:
                    renamed = time.monotonic() if now[5:] != shown[5:] else renamed
                    # for a while, as a busy browser may miss one; not for ever, for it would
                    # close the list under somebody's hand
                    listing = time.monotonic() - renamed < LISTING_S
                    yield self._update(now, listing=listing)
                    shown = now
                elif turn is Turn.SIGN:
                    yield nothing
                await seat.rest(busy=bool(now[2]))
            # Gradio sends the last values again at the end, over those of who took over
            yield nothing

    def _look(
        self,
        owner: str,
        browser: str,
        model: str,
        signs: Mapping[str, object],
        shown: tuple[Any, ...],
    ) -> tuple[Any, ...]:
        """What the page should show: values that can be compared."""
        studio = self._studio
        views = studio.desk.views(owner=owner, browser=browser)
        unfinished = any(not view.state.over for view in views)
        version = (studio.history.version, bool(views))
        results = shown[4] if shown else None
        if results is None or results[0] != version:
            results = (version, self._results(owner, model, running=bool(views)))
        masthead = head.masthead(studio.desk.status(model))
        choices = tuple(studio.model_choices())
        pulse = takes.pulse(views, **signs)
        return masthead, unfinished, takes.running(views), pulse, results, choices

    def _results(self, owner: str, model: str, *, running: bool) -> str:
        studio = self._studio
        # a script is in its own tab, and can do none of what a take can
        entries = studio.history.search(owner=owner, kind=SPEECH, limit=N_RESULTS + 1)
        older = len(entries) > N_RESULTS
        return takes.results(
            entries[:N_RESULTS],
            studio.voice_label,
            running=running,
            older=older,
            examples=examples_of(studio, model),
        )

    @staticmethod
    def _update(now: tuple[Any, ...], *, listing: bool) -> tuple[Any, ...]:
        # every value every time: a browser that is busy sees only the last of several updates,
        # and what one of them alone had said would be lost. Equal values change nothing there
        masthead, unfinished, running, pulse, results, choices = now
        models = gr.update(choices=list(choices)) if listing else gr.skip()
        return masthead, gr.update(interactive=unfinished), running, pulse, results[1], models


def examples_of(studio: Studio, model: str) -> tuple[str, ...]:
    """Texts that a model can say, the reader's own language first."""
    front = studio.models.front(model)
    if front is None:
        return examples()
    config = front.config
    spoken = config.languages
    own = [code for code in spoken if code == language()]
    first = [*own, *(code for code in spoken if code == "en" and code not in own)]
    return examples(first or spoken[:1], cues=config.cues)

"""The endpoints for programs: what the Generate tab does, by name."""

from __future__ import annotations

import asyncio
import inspect
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import gradio as gr
from gradio.events import api

from bark_core import (
    Cancelled,
    CoarseParams,
    FineParams,
    GenerationRequest,
    SemanticParams,
    Settings,
    random_seed,
)
from webui.history import new_id
from webui.jobs import Ticket, TicketState
from webui.studio import Studio, owner_of
from webui.words import guarded

LOOK_EVERY_S = 0.1
LOADING_S = 600.0  # a first start downloads


def build_api(studio: Studio) -> None:
    """Add the endpoints `generate` and `voices` to the page that is being built."""

    async def generate(
        text: str,
        # positional, before the defaults: Gradio fills it in nowhere else
        request: gr.Request,
        voice: str = "",
        seed: int = -1,
        words_temperature: float = 0.7,
        sound_temperature: float = 0.7,
        detail_temperature: float = 0.5,
    ) -> tuple[gr.FileData, dict[str, Any]]:
        wanted = GenerationRequest(
            text,
            voice=await asyncio.to_thread(studio.voice, voice),
            seed=random_seed() if seed == -1 else seed,
            settings=Settings(
                semantic=SemanticParams(temperature=words_temperature),
                coarse=CoarseParams(temperature=sound_temperature),
                fine=FineParams(temperature=detail_temperature),
            ),
        )
        ticket = await _finished(studio, wanted, owner_of(request))
        if ticket.error is not None:
            raise ticket.error
        if ticket.entry is None or ticket.state is TicketState.STOPPED:
            raise Cancelled("the job was stopped before it was finished; start it again")
        path = _hand_out(studio.history.sound_path(ticket.id))
        return gr.FileData(path=str(path)), {"id": ticket.id, **ticket.entry.details}

    def voices() -> list[dict[str, Any]]:
        studio.desk.loaded.wait(timeout=LOADING_S)
        return [
            {"name": entry.name, "language": entry.language, "description": entry.description}
            for entry in studio.voice_entries()
        ]

    api(
        _typed(generate),
        api_name="generate",
        api_description="Say a text with a voice (empty: a new one) and a seed (-1: any). "
        "Returns a FLAC file and how it was made.",
        concurrency_limit=None,
    )
    api(_typed(voices), api_name="voices", api_description="The voices of the loaded model.")


def _typed(handler: Callable[..., Any]) -> Callable[..., Any]:
    """Guarded, with its types spelled out: Gradio doesn't resolve a return type itself."""
    wrapper: Any = guarded(handler)
    wrapper.__signature__ = inspect.signature(handler, eval_str=True)
    return cast(Callable[..., Any], wrapper)


async def _finished(studio: Studio, wanted: GenerationRequest, owner: str) -> Ticket:
    ticket = studio.desk.submit(wanted, owner=owner, browser=new_id())
    try:
        while not ticket.finished.is_set():
            await asyncio.sleep(LOOK_EVERY_S)
    finally:
        studio.desk.stop(ticket.id, owner=owner)  # a caller who leaves wants it no more
    return ticket


def _hand_out(path: Path) -> Path:
    """A copy in Gradio's folder: the data folder itself is never served by it."""
    folder = Path(os.environ["GRADIO_TEMP_DIR"]) / new_id()
    folder.mkdir(parents=True)
    return Path(shutil.copyfile(path, folder / path.name))

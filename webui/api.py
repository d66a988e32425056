"""The endpoints for programs: what the Generate tab does, by name."""

from __future__ import annotations

import asyncio
import os
import shutil
from pathlib import Path
from typing import Any

import gradio as gr

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
from webui.jobs import TicketState
from webui.studio import Studio, owner_of
from webui.words import guarded


def build_api(studio: Studio) -> None:
    """Add the endpoints `generate` and `voices` to the page that is being built."""
    with gr.Row(visible=False):
        text = gr.Textbox(label="text")
        voice = gr.Textbox(label="voice")
        seed = gr.Number(label="seed", precision=0, value=-1)
        words = gr.Number(label="words_temperature", value=0.7)
        sound = gr.Number(label="sound_temperature", value=0.7)
        detail = gr.Number(label="detail_temperature", value=0.5)
        file, made, listed = gr.File(label="file"), gr.JSON(label="made"), gr.JSON(label="voices")
        call, ask = gr.Button("generate"), gr.Button("voices")

    async def generate(
        text: str,
        voice: str = "",
        seed: int = -1,
        words_temperature: float = 0.7,
        sound_temperature: float = 0.7,
        detail_temperature: float = 0.5,
        request: gr.Request = None,  # type: ignore[assignment]  # always given by Gradio
    ) -> tuple[str, dict[str, Any]]:
        """Say a text: a FLAC file, and how it was made.

        A seed below 0 draws one; an empty voice rolls a new one.
        """
        wanted = GenerationRequest(
            text or "",
            voice=await asyncio.to_thread(studio.voice, voice or ""),
            seed=random_seed() if seed is None or seed < 0 else seed,
            settings=Settings(
                semantic=SemanticParams(temperature=words_temperature),
                coarse=CoarseParams(temperature=sound_temperature),
                fine=FineParams(temperature=detail_temperature),
            ),
        )
        owner = owner_of(request)
        ticket = studio.desk.submit(wanted, owner=owner, browser=new_id())
        try:
            while not await asyncio.to_thread(ticket.finished.wait, 0.5):
                pass
        finally:
            studio.desk.stop(ticket.id, owner=owner)  # a caller who leaves wants it no more
        if ticket.error is not None:
            raise ticket.error
        if ticket.entry is None or ticket.state is TicketState.STOPPED:
            raise Cancelled("the job was stopped before it was finished; start it again")
        path = _hand_out(studio.history.sound_path(ticket.id))
        return str(path), {"id": ticket.id, **ticket.entry.details}

    def voices() -> list[dict[str, Any]]:
        """The voices of the loaded model."""
        studio.desk.loaded.wait(timeout=600.0)
        return [
            {"name": entry.name, "language": entry.language, "description": entry.description}
            for entry in studio.voice_entries()
        ]

    call.click(
        guarded(generate),
        [text, voice, seed, words, sound, detail],
        [file, made],
        api_name="generate",
        concurrency_limit=None,
    )
    ask.click(guarded(voices), None, listed, api_name="voices")


def _hand_out(path: Path) -> Path:
    """A copy in Gradio's folder: the data folder itself is never served by it."""
    folder = Path(os.environ["GRADIO_TEMP_DIR"]) / new_id()
    folder.mkdir(parents=True)
    return Path(shutil.copyfile(path, folder / path.name))

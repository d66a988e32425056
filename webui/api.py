"""The endpoints for programs: what a person does on the page, by name.

Everything is plain JSON and files. Owners are those of the page: who signs in with a name sees
what was made under it.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import inspect
import os
import shutil
import time
import types
import typing
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import gradio as gr
from gradio.events import api

from bark_core import (
    Cancelled,
    GenerationRequest,
    InvalidSetting,
    Settings,
    moods,
    parse_plain,
    random_seed,
    to_srt,
)
from webui.controls import mood_named
from webui.history import Entry, new_id
from webui.jobs import Ticket, TicketState
from webui.studio import Studio, owner_of
from webui.voice_choice import entries, resolve_voice
from webui.words import guarded

LOOK_EVERY_S = 0.1
LOADING_S = 600.0  # a first start downloads
HANDED_OUT = "out-"
HAND_OUT_S = 600.0  # how long a program may take to fetch its file
MAX_LISTED = 500


def build_api(studio: Studio) -> None:
    """Add the named endpoints to the page that is being built."""
    _add_generate(studio)
    _add_lists(studio)
    _add_script(studio)
    _add_history(studio)
    _add_origin(studio)
    _add_jobs(studio)


def _add_generate(studio: Studio) -> None:
    async def generate(
        text: str,
        # positional, before the defaults: Gradio fills it in nowhere else
        request: gr.Request,
        voice: str = "",
        seed: int = -1,
        words_temperature: float | None = None,
        sound_temperature: float | None = None,
        detail_temperature: float | None = None,
        mood: str = "bark",
        retries: int = 0,
        model: str = "",
        streaming: bool = False,
        coarse_history: int = 0,
    ) -> tuple[gr.FileData, dict[str, Any]]:
        owner = owner_of(request)
        temperatures = (words_temperature, sound_temperature, detail_temperature)
        wanted = GenerationRequest(
            text,
            voice=await asyncio.to_thread(resolve_voice, studio, voice, owner),
            seed=random_seed() if seed == -1 else seed,
            settings=_settings(mood, *temperatures, coarse_history),
            retries=retries,
            streaming=streaming,
        )
        ticket = await _finished(studio, wanted, model, request)
        if ticket.error is not None:
            raise ticket.error
        if ticket.entry is None or ticket.state is TicketState.STOPPED:
            raise Cancelled("the job was stopped before it was finished; start it again")
        path = _hand_out(studio, studio.history.sound_path(ticket.id), owner)
        return gr.FileData(path=str(path)), {"id": ticket.id, **ticket.entry.details}

    async def plan(
        text: str, request: gr.Request, model: str = "", voice: str = ""
    ) -> dict[str, Any]:
        await _loaded(studio, model)
        front, pace = studio.models.front(model), studio.models.pace(model)
        if front is None or pace is None:
            raise InvalidSetting(
                f"the model {studio.models.status(model).name!r} isn't loaded; load it under "
                "System, or generate with it once"
            )
        wanted = GenerationRequest(text, voice=studio.voice(voice, owner_of(request)))
        return {
            "window": front.config.layout.text_window,
            "segments": [
                {
                    "text": segment.text,
                    "tokens": front.tokenizer.count(segment.text),
                    "about_s": round(pace.duration_s(segment.text), 1),
                }
                for segment in front.plan(wanted)
            ],
        }

    api(
        _typed(generate),
        api_name="generate",
        api_description="Say a text with a voice (empty: a new one), a seed (-1: any), a mood "
        f"({', '.join(mood.name for mood in moods())}) or temperatures of one's own, up to 10 "
        "retries of a segment that went wrong, on a model (empty: the default one). streaming: "
        "the page hears it before a sentence is finished, with a rougher finest detail; "
        "coarse_history: codes that the timbre looks back on (0: all; fewer are quicker, and less "
        "steady). Returns a FLAC file and how it was made.",
        concurrency_limit=None,
    )
    api(
        _typed(plan),
        api_name="plan",
        api_description="How a text would be split: segments with tokens and estimated seconds.",
        concurrency_limit=None,
    )


def _add_lists(studio: Studio) -> None:
    async def voices(request: gr.Request, model: str = "") -> list[dict[str, Any]]:
        await _loaded(studio, model)
        return [
            {
                "name": entry.name,
                "language": entry.language,
                "description": entry.description,
                "source": entry.source,
                "kind": entry.kind,
            }
            for entry in await asyncio.to_thread(entries, studio, model, owner_of(request))
        ]

    def models() -> list[dict[str, Any]]:
        every = (studio.models.status(name) for name in studio.models.names())
        return [
            {
                "name": status.name,
                "title": status.title,
                "state": status.state.value,
                "installed": status.installed,
                "default": status.default,
                "layout": status.layout_name,
            }
            for status in every
        ]

    api(_typed(voices), api_name="voices", api_description="The voices that a model can use.")
    api(_typed(models), api_name="models", api_description="The models, and what of them is here.")


def _add_script(studio: Studio) -> None:
    async def script(
        text: str,
        request: gr.Request,
        voices: dict[str, str] | None = None,
        model: str = "",
        title: str = "",
    ) -> tuple[gr.FileData, dict[str, Any]]:
        owner, desk = owner_of(request), studio.scripts
        parsed = parse_plain(text)
        strangers = set(voices or {}) - set(parsed.voices)
        if strangers:
            raise InvalidSetting(
                f"nobody in the script is called {sorted(strangers)[0]!r}; it has "
                f"{', '.join(map(repr, parsed.voices))}"
            )
        cast_script = replace(parsed, voices={**parsed.voices, **(voices or {})})
        script_id = desk.create(owner, model=model, title=title)
        await asyncio.to_thread(desk.set_script, script_id, owner, cast_script, model, source=text)
        with studio.callers.answering(request) as call:
            call.check()
            desk.make(script_id, owner)
            call.on_left(functools.partial(desk.stop, script_id, owner))
            while (run := desk.run(script_id, owner)) is not None and not run.state.over:
                await asyncio.sleep(LOOK_EVERY_S)
            call.check()
        for error in desk.failures(script_id, owner).values():
            raise error
        mixed = await asyncio.to_thread(desk.mix, script_id, owner)
        path = _hand_out(studio, mixed.path, owner)
        facts = {"id": script_id, "duration_s": mixed.duration_s, "srt": to_srt(mixed.cues)}
        return gr.FileData(path=str(path)), facts

    api(
        _typed(script),
        api_name="script",
        api_description="Say a script of lines such as 'Ann: Hello!', with a voice for each "
        "speaker (left out: a new one). Returns one FLAC file, its length and subtitles; the "
        "script stays among those of the page.",
        concurrency_limit=None,
    )


def _add_history(studio: Studio) -> None:
    def history(
        request: gr.Request, words: str = "", limit: int = 50, offset: int = 0
    ) -> list[dict[str, Any]]:
        if not 1 <= limit <= MAX_LISTED or offset < 0:
            raise InvalidSetting(
                f"limit must be within 1..{MAX_LISTED} and offset not below 0, got {limit} and "
                f"{offset}"
            )
        found = studio.history.search(words, owner=owner_of(request), limit=limit, offset=offset)
        return [_told(entry) for entry in found]

    def history_get(entry_id: str, request: gr.Request) -> tuple[gr.FileData, dict[str, Any]]:
        owner = owner_of(request)
        entry = studio.history.get(entry_id, owner=owner)
        if entry is None:
            raise InvalidSetting(f"there is no entry {entry_id[:40]!r}; 'history' lists them")
        path = _hand_out(studio, studio.history.sound_path(entry.id), owner)
        return gr.FileData(path=str(path)), {**_told(entry), "details": dict(entry.details)}

    api(
        _typed(history),
        api_name="history",
        api_description="What was made, the newest first; words that must occur, how many, from.",
    )
    api(
        _typed(history_get),
        api_name="history_get",
        api_description="One entry of the history: its FLAC file and all that is known of it.",
    )


def _add_origin(studio: Studio) -> None:
    # a large file takes memory while it is looked at
    reading = asyncio.Semaphore(2)

    async def origin(file: gr.FileData, request: gr.Request) -> dict[str, Any]:
        owner = owner_of(request)
        if not studio.belongings.holds(file.path, owner):
            raise InvalidSetting("there is no such file; upload it first")
        async with reading:
            verdict = await asyncio.to_thread(
                studio.made_here.examine, Path(file.path), owner=owner
            )
        return {**verdict.to_json(), "lines": verdict.lines()}

    api(
        _typed(origin),
        api_name="origin",
        api_description="Was this sound made here? What its hashes, tags, credentials and "
        "watermark say of a file, and the same in words.",
        concurrency_limit=None,
    )


def _add_jobs(studio: Studio) -> None:
    def jobs(request: gr.Request) -> list[dict[str, Any]]:
        own, _others = studio.desk.queue(owner=owner_of(request))
        return [{"id": view.id, "text": view.text, "state": view.state.value} for view in own]

    def stop(request: gr.Request, job_id: str = "") -> int:
        owner = owner_of(request)
        if job_id:
            return int(studio.desk.stop(job_id, owner=owner))
        own, _others = studio.desk.queue(owner=owner)
        return sum(studio.desk.stop(view.id, owner=owner) for view in own)

    api(_typed(jobs), api_name="jobs", api_description="What waits or runs.")
    api(
        _typed(stop),
        api_name="stop",
        api_description="Stop a job, or all of them (empty); returns how many.",
    )


def _settings(
    mood: str,
    words: float | None,
    sound: float | None,
    detail: float | None,
    coarse_history: int = 0,
) -> Settings:
    """Those of a mood, with other temperatures where some are given; coarse_history 0: all."""
    named = mood_named(mood)
    if named is None:
        names = ", ".join(each.name for each in moods())
        raise InvalidSetting(f"there is no mood {mood!r}; choose one of {names}")
    base = named.settings

    def warm(params: Any, temperature: float | None) -> Any:
        return params if temperature is None else replace(params, temperature=temperature)

    return Settings(
        semantic=warm(base.semantic, words),
        coarse=replace(warm(base.coarse, sound), max_history=coarse_history or None),
        fine=warm(base.fine, detail),
    )


def _told(entry: Entry) -> dict[str, Any]:
    return {
        "id": entry.id,
        "text": entry.text,
        "voice": entry.voice_name,
        "model": entry.model_name,
        "seed": entry.seed,
        "created_at": entry.created_at,
        "duration_s": entry.duration_s,
        "complete": entry.complete,
        "favourite": entry.favourite,
        "tags": list(entry.tags),
    }


def _typed(handler: Callable[..., Any]) -> Callable[..., Any]:
    """Guarded, its arguments of the types that it says, and these spelled out for Gradio."""
    signature = inspect.signature(handler, eval_str=True)

    def checked(args: tuple[Any, ...], kwargs: dict[str, Any]) -> inspect.BoundArguments:
        bound = signature.bind(*args, **kwargs)
        for name, value in bound.arguments.items():
            bound.arguments[name] = _checked(name, value, signature.parameters[name].annotation)
        return bound

    if inspect.iscoroutinefunction(handler):

        @functools.wraps(handler)
        async def awaited(*args: Any, **kwargs: Any) -> Any:
            bound = checked(args, kwargs)
            return await handler(*bound.args, **bound.kwargs)

        wrapper: Any = guarded(awaited)
    else:

        @functools.wraps(handler)
        def plain(*args: Any, **kwargs: Any) -> Any:
            bound = checked(args, kwargs)
            return handler(*bound.args, **bound.kwargs)

        wrapper = guarded(plain)
    wrapper.__signature__ = signature
    return cast(Callable[..., Any], wrapper)


def _checked(name: str, value: Any, annotation: Any) -> Any:
    """A value of the type that it must have; Gradio hands over whatever somebody sends.

    Raises:
        InvalidSetting: it has another one.
    """
    kinds = tuple(typing.get_origin(kind) or kind for kind in typing.get_args(annotation))
    kinds = kinds if isinstance(annotation, types.UnionType) else (annotation,)
    if gr.Request in kinds:
        return value
    if gr.FileData in kinds and isinstance(value, dict) and isinstance(value.get("path"), str):
        return gr.FileData(path=value["path"])
    told = " or ".join(_KINDS.get(kind, "left out") for kind in kinds)
    if int in kinds and isinstance(value, float) and value.is_integer():
        return int(value)
    number = isinstance(value, int) and not isinstance(value, bool) and float in kinds
    right = isinstance(value, kinds) and (bool in kinds or not isinstance(value, bool))
    if not (right or number):
        raise InvalidSetting(f"{name} must be {told}, got {type(value).__name__}")
    return value


_KINDS = {
    str: "a string",
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    dict: "an object",
    gr.FileData: "a file that was uploaded",
}


async def _loaded(studio: Studio, model: str) -> None:
    """Wait for a model that is being loaded."""
    waited_s = 0.0
    while studio.models.status(model).state.busy and waited_s < LOADING_S:
        await asyncio.sleep(LOOK_EVERY_S)
        waited_s += LOOK_EVERY_S


async def _finished(
    studio: Studio, wanted: GenerationRequest, model: str, request: gr.Request
) -> Ticket:
    """What became of a request; it is stopped when whoever asked for it goes away."""
    owner = owner_of(request)

    def submit() -> Ticket:
        ticket = studio.desk.submit(wanted, model=model, owner=owner, browser=new_id())
        call.on_left(functools.partial(studio.desk.stop, ticket.id, owner=owner))
        return ticket

    with studio.callers.answering(request) as call:
        call.check()
        # a thread of its own: it is written to the disk before it is taken
        ticket = await asyncio.to_thread(submit)
        while not ticket.finished.is_set():
            await asyncio.sleep(LOOK_EVERY_S)
    return ticket


def _hand_out(studio: Studio, path: Path, owner: str) -> Path:
    """A copy in Gradio's folder, for whom it belongs to: the data folder is never served by it."""
    everything = Path(os.environ["GRADIO_TEMP_DIR"])
    _forget_handed_out(everything)
    folder = everything / f"{HANDED_OUT}{new_id()}"
    folder.mkdir(parents=True)
    copy = Path(shutil.copyfile(path, folder / path.name))
    studio.belongings.give(copy, owner)
    return copy


def _forget_handed_out(everything: Path) -> None:
    """Remove copies that were handed out a while ago; whoever asked has them, or doesn't care."""
    before = time.time() - HAND_OUT_S
    for folder in everything.glob(f"{HANDED_OUT}*"):
        with contextlib.suppress(OSError):
            if folder.stat().st_mtime < before:
                shutil.rmtree(folder)

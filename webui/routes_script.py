"""Scripts over HTTP: their sounds, their exports, and a background that is given as a file."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from urllib.parse import quote as quoted
from urllib.parse import unquote

import gradio as gr
from gradio.context import LocalContext
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from bark_core import (
    Background,
    BarkError,
    InvalidAudio,
    Mix,
    Project,
    ProjectFolder,
    encode_audio,
    script_to_json,
    script_to_text,
    stems_zip,
    to_srt,
    to_vtt,
)
from webui.answers import SAFE, nothing, signed_in, sound
from webui.studio import Studio
from webui.words import explain, quote

MAX_BACKGROUND_BYTES = 100 * 2**20
_OWN_PAGE = "x-bark-studio"  # no other site's page may send it without asking first
_SOUNDS = ("flac", "wav", "mp3", "opus")
_TYPES = {
    "flac": "audio/flac",
    "wav": "audio/wav",
    "mp3": "audio/mpeg",
    "opus": "audio/ogg",
    "zip": "application/zip",
    "srt": "application/x-subrip",
    "vtt": "text/vtt",
    "json": "application/json",
    "txt": "text/plain",
}
Answer = Callable[[Request, str], Response]


def script_routes(studio: Studio) -> list[Route]:
    """What a page of a script loads and saves, for those whose script it is."""
    scripts = studio.scripts

    def take(request: Request, owner: str) -> Response:
        folder = scripts.open(request.path_params["script_id"], owner)
        take_id = request.path_params["take_id"]
        return sound(folder.sound_path(take_id)) if take_id in folder.project.files else nothing()

    def mixed(request: Request, owner: str) -> Response:
        found = scripts.mixed(request.path_params["script_id"], owner)
        fits = found is not None and found.key == request.path_params["key"]
        return sound(found.path) if found is not None and fits else nothing()

    def export(request: Request, owner: str) -> Response:
        kind = request.path_params["kind"]
        script_id = request.path_params["script_id"]
        if kind not in _TYPES:
            return nothing()
        if kind in ("json", "txt"):
            project = scripts.open(script_id, owner).project
            return _file(project, kind, _written(project, kind).encode())
        folder, made = scripts.whole(script_id, owner)
        return _file(folder.project, kind, _exported(studio, folder, made, kind))

    def route(path: str, answer: Answer) -> Route:
        path = f"/studio/script/{{script_id:str}}/{path}"
        return Route(path, _told(studio, answer), methods=["GET", "HEAD"])

    return [
        route("take/{take_id:str}.flac", take),
        route("mix/{key:str}.flac", mixed),
        route("export.{kind:str}", export),
        Route("/studio/script/{script_id:str}/background", _receiver(studio), methods=["PUT"]),
    ]


def _written(project: Project, kind: str) -> str:
    script = project.to_script()
    return script_to_json(script) if kind == "json" else script_to_text(script)


def _exported(studio: Studio, folder: ProjectFolder, made: Mix, kind: str) -> bytes:
    match kind:
        case "srt":
            return to_srt(made.cues).encode()
        case "vtt":
            return to_vtt(made.cues).encode()
    metadata, stamp = folder.mix_metadata(made), studio.history.stamp
    if kind == "zip":
        return stems_zip(made, metadata=metadata, stamp=stamp)
    return encode_audio(made.audio, f".{kind}", metadata, stamp=stamp)


def _file(project: Project, kind: str, data: bytes) -> Response:
    """A file to be saved, named after the script."""
    first = project.segments[0].line.text if project.segments else ""
    name = re.sub(r"\W+", "-", quote(project.title or first, 48)).strip("-_") or "script"
    name = f"{name}-stems" if kind == "zip" else name
    plain = name.encode("ascii", "ignore").decode() or "script"
    both = f"attachment; filename=\"{plain}.{kind}\"; filename*=UTF-8''{quoted(name)}.{kind}"
    headers = {**SAFE, "cache-control": "private, no-cache", "content-disposition": both}
    return Response(data, media_type=_TYPES[kind], headers=headers)


def _told(studio: Studio, answer: Answer) -> Callable[[Request], Response]:
    """Errors as a person reads them, in their language; to the owner of the script alone."""

    def endpoint(request: Request) -> Response:
        owner, script_id = signed_in(request), request.path_params["script_id"]
        if owner is None or not studio.scripts.has(script_id, owner):
            return nothing()
        LocalContext.request.set(gr.Request(request))  # whose language the page's texts are in
        try:
            return answer(request, owner)
        except BarkError as error:
            return _error(error)

    return endpoint


def _error(error: BarkError) -> Response:
    told = explain(error)
    content = {"what": told.what, "why": told.why, "do": told.do}
    return JSONResponse(content, status_code=422, headers=SAFE)


def _receiver(studio: Studio) -> Callable[[Request], object]:
    """Takes a sound file for the background, within a size, and puts it under the speech."""

    async def receive(request: Request) -> Response:
        owner, script_id = signed_in(request), request.path_params["script_id"]
        if owner is None or _OWN_PAGE not in request.headers:
            return nothing()
        if not studio.scripts.has(script_id, owner):
            return nothing()
        LocalContext.request.set(gr.Request(request))
        name = Path(unquote(request.headers.get("x-name", ""))).name[:200] or "sound"
        with tempfile.TemporaryDirectory(prefix="bark-background-") as folder:
            path = Path(folder) / "sound"
            try:
                studio.room.check(owner)
                await _receive(request, path)
                await run_in_threadpool(_set, studio, script_id, owner, name, path)
            except BarkError as error:
                return _error(error)
        return JSONResponse({})

    return receive


async def _receive(request: Request, path: Path) -> None:
    n_bytes = 0
    with path.open("wb") as file:
        async for part in request.stream():
            n_bytes += len(part)
            if n_bytes > MAX_BACKGROUND_BYTES:
                raise InvalidAudio(
                    f"the file has more than {MAX_BACKGROUND_BYTES // 2**20} MB; give a shorter one"
                )
            file.write(part)


def _set(studio: Studio, script_id: str, owner: str, name: str, path: Path) -> None:
    folder = studio.scripts.open(script_id, owner)
    layer = folder.project.background or Background(file=name)
    folder.set_background(replace(layer, file=name, prompt=None), path)

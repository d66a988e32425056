"""Voices over HTTP: what one sounds like, and its file."""

from __future__ import annotations

import dataclasses
import logging
import re
from collections.abc import Callable
from typing import Any, cast

from gradio.context import LocalContext
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Route

from bark_core import BarkError, DownloadError, LayoutMismatch, UnknownVoice
from webui.answers import SAFE, nothing, signed_in
from webui.previews import preview, preview_path
from webui.studio import Studio
from webui.voices_roll import voice_of_take
from webui.voices_view import explain_voice

_log = logging.getLogger(__name__)

# a voice of that name may be another one in a moment
_FRESH = {**SAFE, "cache-control": "private, no-cache"}
_STATUS: tuple[tuple[type[BarkError], int], ...] = (
    (UnknownVoice, 404),
    (LayoutMismatch, 409),
    (DownloadError, 503),
    (BarkError, 422),
)


def voices_routes(studio: Studio) -> list[Route]:
    """A voice by its name: `.flac` is heard, `.npz` is kept. Errors are JSON: what, why, do."""

    def heard(request: Request, owner: str) -> Response:
        model = request.query_params.get("model", "")
        path = preview_path(studio, request.path_params["name"], model, owner)
        return FileResponse(path, media_type="audio/flac", headers=_FRESH)

    def file(request: Request, owner: str) -> Response:
        name = request.path_params["name"]
        data = studio.voices_of(owner)[name].to_bytes()
        plain = re.sub(r"[^A-Za-z0-9_.-]+", "-", name).strip("-.") or "voice"
        headers = {**_FRESH, "content-disposition": f'attachment; filename="{plain}.npz"'}
        return Response(data, media_type="application/octet-stream", headers=headers)

    def route(suffix: str, answer: Callable[[Request, str], Response]) -> Route:
        path = f"/studio/voice/{{name:path}}.{suffix}"
        return Route(path, _told(answer), methods=["GET", "HEAD"])

    def segment(request: Request, owner: str) -> Response:
        entry = studio.entry(request.path_params["entry_id"], owner)
        if entry is None:
            return nothing()
        voice = voice_of_take(studio, entry, request.path_params["n"])
        path = preview(studio, voice, entry.model_name).path
        return FileResponse(path, media_type="audio/flac", headers=SAFE)

    of_take = Route(
        "/studio/take-voice/{entry_id:str}/{n:int}.flac", _told(segment), methods=["GET", "HEAD"]
    )
    return [route("flac", heard), route("npz", file), of_take]


def _told(answer: Callable[[Request, str], Response]) -> Callable[[Request], Response]:
    """Errors as a person reads them, in their language."""

    def endpoint(request: Request) -> Response:
        owner = signed_in(request)
        if owner is None:
            return nothing()
        # whose language the page's texts are in; all that is read of it are the headers
        LocalContext.request.set(cast(Any, request))
        try:
            return answer(request, owner)
        except Exception as error:
            if not isinstance(error, BarkError):
                _log.exception("%s failed", request.url.path)
            status = next((code for kind, code in _STATUS if isinstance(error, kind)), 500)
            told = dataclasses.asdict(explain_voice(error))
            return JSONResponse(told, status_code=status, headers=_FRESH)

    return endpoint

"""The history over HTTP: sounds in four formats, zips, and files that are opened again."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import logging
import os
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any, cast

from gradio.context import LocalContext
from starlette.requests import ClientDisconnect, Request
from starlette.responses import FileResponse, JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from bark_core import BarkError, InvalidAudio, InvalidRequest
from webui.answers import SAFE, nothing, signed_in
from webui.exports import MEDIA_TYPES, Encoder, Exports, zip_name, zipped
from webui.history import is_id
from webui.languages import N_, _
from webui.studio import Studio
from webui.words import explain

_log = logging.getLogger(__name__)

MAX_OPENED_BYTES = 256 * 2**20
MAX_ASKED_BYTES = 2**20  # of a list of ids
_FRESH = {**SAFE, "cache-control": "private, no-store"}

Answer = Callable[[Request, str], Awaitable[Response]]


def history_routes(studio: Studio) -> list[Route]:
    """Each answers to whom the entry belongs to, and to nobody else."""
    encoder, exports = Encoder(studio.history), Exports(studio.history)
    # a large file takes memory while its tags are read
    reading = asyncio.Semaphore(2)

    async def sound(request: Request, owner: str) -> Response:
        entry_id, suffix = request.path_params["entry_id"], request.path_params["suffix"]
        if not is_id(entry_id) or suffix not in MEDIA_TYPES:
            return nothing()
        if studio.history.get(entry_id, owner=owner) is None:
            return nothing()
        path = await asyncio.to_thread(encoder.path, entry_id, suffix)
        if not path.is_file():
            return nothing()
        return FileResponse(path, media_type=MEDIA_TYPES[suffix], headers=SAFE)

    async def prepare(request: Request, owner: str) -> Response:
        ids, suffix = _asked(await _body(request))
        export = await asyncio.to_thread(exports.prepare, ids, owner=owner, suffix=suffix)
        # relative, as all addresses of the page
        told = {"url": f"studio/export/{export.token}.zip", "n": len(export.ids)}
        return JSONResponse(told, headers=_FRESH)

    async def fetch(request: Request, owner: str) -> Response:
        export = exports.get(request.path_params["token"], owner=owner)
        if export is None:
            return nothing()
        pieces = zipped(studio.history, encoder, export.ids, owner=owner, suffix=export.suffix)
        disposition = f'attachment; filename="{zip_name(time.time())}"'
        headers = {**_FRESH, "content-disposition": disposition}
        return StreamingResponse(pieces, media_type="application/zip", headers=headers)

    async def open_file(request: Request, owner: str) -> Response:
        async with reading, _received(request) as path:
            return await asyncio.to_thread(_opened, studio, path, owner)

    async def origin(request: Request, owner: str) -> Response:
        async with reading, _received(request) as path:
            verdict = await asyncio.to_thread(studio.made_here.examine, path, owner=owner)
        return JSONResponse({**verdict.to_json(), "lines": verdict.lines()}, headers=_FRESH)

    return [
        Route("/studio/sound/{entry_id:str}.{suffix:str}", _told(sound), methods=["GET", "HEAD"]),
        Route(
            "/studio/export",
            _told(_own(prepare), N_("There is no zip of these")),
            methods=["POST"],
        ),
        Route("/studio/export/{token:str}.zip", _told(fetch), methods=["GET"]),
        Route(
            "/studio/open",
            _told(_own(open_file), N_("That file can’t be opened here")),
            methods=["POST"],
        ),
        Route(
            "/studio/origin",
            _told(_own(origin), N_("That file can’t be opened here")),
            methods=["POST"],
        ),
    ]


def _opened(studio: Studio, path: Path, owner: str) -> Response:
    """What a page does with a file that somebody opened: its settings, and where it is from."""
    try:
        opened, problem = studio.opened.read(path, owner=owner), None
    except InvalidAudio as error:
        opened, problem = None, error
    verdict = None
    with contextlib.suppress(BarkError):  # tags may be read where the sound can't
        verdict = studio.made_here.examine(path, owner=owner)
    lines = verdict.lines() if verdict is not None else []
    if opened is not None:
        # one that is still here has more to offer than its file
        entry = studio.history.get(opened.origin, owner=owner) or opened.entry
    elif verdict is not None and verdict.entry is not None:
        entry = verdict.entry
    else:
        notice = dataclasses.replace(
            explain(problem or InvalidAudio("no entry")), what=_("That file can’t be opened here")
        )
        told = {**dataclasses.asdict(notice), "origin": lines}
        return JSONResponse(told, 422, headers=_FRESH)
    kept = opened is None or entry is not opened.entry
    told = {"id": entry.id, "kind": entry.kind, "kept": kept, "origin": lines}
    return JSONResponse(told, headers=_FRESH)


def _told(answer: Answer, what: str = "") -> Callable[[Request], Awaitable[Response]]:
    """Only for those who are signed in; errors as a person reads them, in their language.

    Args:
        what: the first of an error's three parts, as the language files have it.
    """

    async def endpoint(request: Request) -> Response:
        owner = signed_in(request)
        if owner is None:
            return nothing()
        LocalContext.request.set(cast(Any, request))  # whose language the page's texts are in
        try:
            return await answer(request, owner)
        except ClientDisconnect:
            return Response(status_code=400)
        except Exception as error:
            if not isinstance(error, BarkError):
                _log.exception("%s failed", request.url.path)
                return JSONResponse(dataclasses.asdict(explain(error)), 500, headers=_FRESH)
            notice = explain(error)
            told = dataclasses.asdict(dataclasses.replace(notice, what=_(what) or notice.what))
            return JSONResponse(told, 422, headers=_FRESH)

    return endpoint


def _own(answer: Answer) -> Answer:
    """Refuse what another site's page sends: a browser says so."""

    async def checked(request: Request, owner: str) -> Response:
        if request.headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none"):
            return Response(status_code=403)
        return await answer(request, owner)

    return checked


async def _body(request: Request) -> Any:
    """JSON that was sent. Raises InvalidRequest."""
    data = bytearray()
    async for piece in request.stream():
        data += piece
        if len(data) > MAX_ASKED_BYTES:
            raise InvalidRequest("the list of takes is too long; select fewer")
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as error:
        raise InvalidRequest("the list of takes isn't JSON; reload the page") from error


def _asked(body: Any) -> tuple[list[str], str]:
    ids = body.get("ids") if isinstance(body, dict) else None
    suffix = body.get("format", "flac") if isinstance(body, dict) else None
    if not isinstance(ids, list) or not all(isinstance(key, str) and is_id(key) for key in ids):
        raise InvalidRequest("the list of takes holds something else; reload the page")
    return ids, str(suffix)


@contextlib.asynccontextmanager
async def _received(request: Request) -> AsyncIterator[Path]:
    """A file that was sent, in our own temporary folder for as long as the block runs."""
    descriptor, name = tempfile.mkstemp(dir=os.environ.get("GRADIO_TEMP_DIR"), prefix="opened-")
    n_bytes = 0
    path = Path(name)
    try:
        with os.fdopen(descriptor, "wb") as file:
            async for piece in request.stream():
                n_bytes += len(piece)
                if n_bytes > MAX_OPENED_BYTES:
                    raise InvalidAudio(
                        f"the file has more than {MAX_OPENED_BYTES // 2**20} MB; open a shorter one"
                    )
                await asyncio.to_thread(file.write, piece)
        yield path
    finally:
        path.unlink(missing_ok=True)

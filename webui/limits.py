"""How much a request may send, and which of Gradio's routes there are.

Gradio checks the size of each file alone, takes a thousand of them, and reads JSON of any length.
It also has routes for things that the studio doesn't do: loading other people's apps, watching
its code change, writing code. What isn't needed isn't there.
"""

from __future__ import annotations

import asyncio
import re

from starlette.datastructures import Headers
from starlette.responses import PlainTextResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

MIB = 2**20
MAX_BODY_BYTES = 8 * MIB  # a script of a million characters, as JSON
MAX_UPLOAD_BYTES = 200 * MIB  # all files of one upload together
MAX_PARTS = 64  # files and fields of one upload
PATIENCE_S = 60.0  # until the next piece of a body comes

# path: most bytes of a body. The routes themselves say something friendlier a little earlier
_LIMITS: tuple[tuple[re.Pattern[str], int], ...] = (
    (re.compile(r"/login"), 16 * 1024),
    (re.compile(r"/studio/open"), 260 * MIB),
    (re.compile(r"/studio/script/[^/]+/background"), 104 * MIB),
    (re.compile(r"/gradio_api/upload"), MAX_UPLOAD_BYTES),
)

_GRADIO = (
    r"config|theme\.css|favicon\.ico|robots\.txt|manifest\.json|login|logout"
    r"|(assets|static)/.+"
    r"|gradio_api/(info|openapi\.json|app_id|user|login_check|startup-events|theme\.css"
    r"|queue/join|queue/data|queue/status|upload|upload_progress|cancel|reset"
    r"|call/[^/]+|call/[^/]+/[^/]+|heartbeat/[^/]+|file=.+)"
)
_OPEN = re.compile(rf"/|/(studio/.+|{_GRADIO})/?")


class KnownRoutesOnly:
    """Answers 404 for every route of Gradio that the page doesn't need."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and not _OPEN.fullmatch(scope["path"]):
            await PlainTextResponse("There is nothing here.", 404)(scope, receive, send)
            return
        await self.app(scope, receive, send)


class _Refused(Exception):
    """A body that isn't read any further."""

    def __init__(self, why: str, status: int) -> None:
        super().__init__(why)
        self.status = status


class BodyLimits:
    """Refuses bodies that are too large, say so or not; in too many parts; or never complete."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        refused: _Refused | None = None
        answered = False
        body = _Body(scope)

        async def checked() -> Message:
            nonlocal refused
            try:
                return await body.next(receive)
            except _Refused as error:
                refused = error
                raise

        async def told(message: Message) -> None:
            nonlocal answered
            if refused is not None and not answered:
                return  # whatever the route made of it: the answer follows below
            answered = True
            await send(message)

        try:
            body.check_declared()
            await self.app(scope, checked, told)
        except _Refused as error:
            refused = error
        except Exception:
            if refused is None:
                raise
        if refused is not None and not answered:
            await _refusal(refused)(scope, receive, send)


class _Body:
    """Counts what of a body has come."""

    def __init__(self, scope: Scope) -> None:
        headers = Headers(scope=scope)
        path = scope["path"].rstrip("/")
        found = (limit for pattern, limit in _LIMITS if pattern.fullmatch(path))
        self._limit = next(found, MAX_BODY_BYTES)
        self._declared = headers.get("content-length")
        match = re.search(r'boundary="?([^";,]+)', headers.get("content-type", ""))
        self._boundary = b"--" + match[1].encode("latin-1") if match else None
        self._tail = b""
        self._n_bytes = self._n_parts = 0
        # what comes when there is no body is that somebody leaves
        self._whole = self._declared in (None, "0") and "transfer-encoding" not in headers

    def check_declared(self) -> None:
        if self._declared is None:
            return
        if not (self._declared.isascii() and self._declared.isdigit()):
            raise _Refused("Content-Length must be a number.", 400)
        self._check(int(self._declared[:20]))

    async def next(self, receive: Receive) -> Message:
        if self._whole:  # what comes now is that somebody leaves
            return await receive()
        try:
            async with asyncio.timeout(PATIENCE_S):
                message = await receive()
        except TimeoutError:
            raise _Refused("The rest of the request didn't come.", 408) from None
        piece = message.get("body", b"")
        self._whole = not message.get("more_body", False)
        self._n_bytes += len(piece)
        self._check(self._n_bytes)
        if self._boundary is not None:
            self._count_parts(piece, self._boundary)
        return message

    def _check(self, n_bytes: int) -> None:
        if n_bytes > self._limit:
            what = f"{self._limit // MIB} MB" if self._limit >= MIB else f"{self._limit} bytes"
            raise _Refused(f"That is too much: at most {what} can be sent here.", 413)

    def _count_parts(self, piece: bytes, boundary: bytes) -> None:
        seen = self._tail + piece
        self._n_parts += seen.count(boundary)
        # a boundary may be cut in two, and must not be counted twice
        keep = len(boundary) - 1
        self._tail = seen[-keep:] if keep else b""
        if self._n_parts > MAX_PARTS + 1:  # one more closes the last
            raise _Refused(f"At most {MAX_PARTS} files can be sent at once.", 413)


def _refusal(refused: _Refused) -> Response:
    return PlainTextResponse(str(refused), refused.status, headers={"connection": "close"})

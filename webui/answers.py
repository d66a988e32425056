"""What our own routes share: who asks, and the answers they give."""

from __future__ import annotations

from pathlib import Path

from starlette.requests import HTTPConnection
from starlette.responses import FileResponse, PlainTextResponse, Response

from webui.access import Visitor

SAFE = {"cache-control": "private, max-age=3600", "x-content-type-options": "nosniff"}
VISITOR = "bark_studio.visitor"  # of a request's scope; `signin.SignedInOnly` puts it there


def visitor_of(request: HTTPConnection) -> Visitor | None:
    """Who asks; None: a stranger."""
    visitor = request.scope.get(VISITOR)
    return visitor if isinstance(visitor, Visitor) else None


def signed_in(request: HTTPConnection) -> str | None:
    """The name of who asks, "" where nobody has to sign in, None for a stranger."""
    visitor = visitor_of(request)
    return None if visitor is None else visitor.name


def sound(path: Path) -> Response:
    """A sound file of ours, lossless."""
    if not path.is_file():
        return nothing()
    return FileResponse(path, media_type="audio/flac", headers=SAFE)


def nothing() -> Response:
    """What isn't there looks like what isn't theirs."""
    return PlainTextResponse("There is no such sound.", status_code=404)

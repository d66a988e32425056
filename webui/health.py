"""How a studio does, for those that look after it: probes, a scraper, a service manager.

    /healthz    200: the program answers
    /readyz     200: a job that is asked for now would run; 503 with the reason otherwise, and
                the state of each worker
    /metrics    for Prometheus; from this computer itself, or with the host's token

They answer before anything else is asked, signing in included, so they tell no more than numbers
and words of our own.
"""

from __future__ import annotations

import hmac
import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from bark_core import WorkerState
from webui.metrics import CONTENT_TYPE
from webui.studio import Studio

_PATHS = ("/healthz", "/readyz", "/metrics")
_OWN_NAMES = ("localhost", "127.0.0.1", "[::1]")
_FORWARDED = ("forwarded", "x-forwarded-for", "x-real-ip")
_FRESH = {"cache-control": "no-store", "x-content-type-options": "nosniff"}


@dataclass(frozen=True, slots=True)
class Readiness:
    """Whether a job would run."""

    ready: bool
    why: str  # a word of our own: "ready", "draining", "loading", ...


def readiness(studio: Studio) -> Readiness:
    """What keeps a job on the default model from running now."""
    if studio.desk.scheduler.draining:
        return Readiness(False, "draining")
    states = [worker.state for worker in studio.models.backend.workers()]
    if states and all(state is WorkerState.FAILED for state in states):
        return Readiness(False, "worker failed")
    status = studio.models.status()
    if status.error is not None and not status.loaded:
        return Readiness(False, "model failed")
    if status.restarting:
        return Readiness(False, "worker restarting")
    if status.loaded or (status.asleep and not status.state.busy):
        return Readiness(True, "ready")
    return Readiness(False, "loading" if status.coming else "not loaded")


class Health:
    """Answers the paths above; everything else goes on."""

    def __init__(self, app: ASGIApp, *, studio: Studio) -> None:
        self.app, self._studio = app, studio

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] not in _PATHS:
            await self.app(scope, receive, send)
            return
        response = await run_in_threadpool(self._answer, Request(scope))
        await response(scope, receive, send)

    def _answer(self, request: Request) -> Response:
        if request.method not in ("GET", "HEAD"):
            return PlainTextResponse("Only GET.", 405, {**_FRESH, "allow": "GET, HEAD"})
        match request.url.path:
            case "/healthz":
                return PlainTextResponse("ok", headers=_FRESH)
            case "/readyz":
                now = readiness(self._studio)
                workers = self._studio.models.backend.workers()
                told = {
                    "ready": now.ready,
                    "why": now.why,
                    "workers": [{"device": w.device, "state": w.state.value} for w in workers],
                }
                return JSONResponse(told, 200 if now.ready else 503, _FRESH)
        if not self._may_read(request):
            return PlainTextResponse("There is nothing here.", 404)
        return Response(self._studio.metrics.text(), media_type=CONTENT_TYPE, headers=_FRESH)

    def _may_read(self, request: Request) -> bool:
        token, given = self._studio.settings.hosting.metrics_token, _bearer(request.headers)
        if given is not None:
            return token is not None and hmac.compare_digest(given.encode(), token.encode())
        # a proxy on this computer speaks for others; another site's name may lead here
        host = request.headers.get("host", "").rsplit(":", 1)[0]
        own = request.client is not None and _is_loopback(request.client.host)
        return own and host in _OWN_NAMES and not any(h in request.headers for h in _FORWARDED)


def _bearer(headers: Mapping[str, str]) -> str | None:
    kind, _, token = headers.get("authorization", "").partition(" ")
    return token.strip() if kind.lower() == "bearer" else None


def _is_loopback(address: str) -> bool:
    try:
        return ipaddress.ip_address(address).is_loopback
    except ValueError:
        return False

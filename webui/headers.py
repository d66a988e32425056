"""What a browser is told about each answer: what a page may load and run, and who may embed it."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Iterable

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

# scripts that stand in the page; those with a src are files of ours
_INLINE = re.compile(rb"<script(?![^>]*\ssrc=)[^>]*>(.*?)</script>", re.DOTALL)

_POLICY = {
    "default-src": "'self'",
    "script-src": "'self'",
    # Gradio sets styles from its scripts, and puts them into elements
    "style-src": "'self' 'unsafe-inline'",
    "img-src": "'self' data: blob:",
    "media-src": "'self' data: blob:",
    "font-src": "'self' data:",
    "connect-src": "'self' data: blob:",
    "worker-src": "'self' blob:",
    "object-src": "'none'",
    "base-uri": "'self'",
    "form-action": "'self'",
    "frame-ancestors": "'self'",
}
_ALWAYS = {
    "x-content-type-options": "nosniff",
    "x-frame-options": "SAMEORIGIN",
    "referrer-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), payment=(), usb=()",
}


def script_hashes(html: bytes) -> tuple[str, ...]:
    """The scripts that stand in some HTML, as a policy names them."""
    return tuple(dict.fromkeys(_hash(script) for script in _INLINE.findall(html)))


def content_policy(hashes: Iterable[str] | None = None) -> str:
    """A Content-Security-Policy.

    Args:
        hashes: of the scripts that may run in a page. None: there is no page.
    """
    policy = dict(_POLICY)
    if hashes is not None:
        # Gradio makes functions of the texts of our components' js_on_load, and of its own
        policy["script-src"] = " ".join(["'self'", "'unsafe-eval'", *hashes])
    return "; ".join(f"{name} {value}" for name, value in policy.items())


class SafeHeaders:
    """Adds them to every answer; what a route says itself stays.

    Args:
        heads: what Gradio puts into the page's head when it runs, in each language.
    """

    def __init__(self, app: ASGIApp, *, heads: Iterable[str] = ()) -> None:
        self.app = app
        self._hashes = script_hashes("".join(heads).encode())

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        held: Message | None = None

        async def told(message: Message) -> None:
            nonlocal held
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                _set(headers, _ALWAYS.items())
                if headers.get("content-type", "").startswith("text/html"):
                    held = message  # its policy depends on what is in it
                    return
                _set(headers, [("content-security-policy", content_policy())])
            elif held is not None:
                own = script_hashes(message.get("body", b""))
                policy = content_policy([*own, *self._hashes])
                headers = MutableHeaders(scope=held)
                _set(headers, [("content-security-policy", policy), ("cache-control", "no-store")])
                start, held = held, None
                await send(start)
            await send(message)

        await self.app(scope, receive, told)


def _set(headers: MutableHeaders, values: Iterable[tuple[str, str]]) -> None:
    for name, value in values:
        headers.setdefault(name, value)


def _hash(script: bytes) -> str:
    # a browser reads every end of a line as "\n" before it looks
    plain = script.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    return f"'sha256-{base64.b64encode(hashlib.sha256(plain).digest()).decode()}'"

"""From where the page may be reached: which names of this computer, and which sites' pages.

A browser that was lured to another site can be made to speak to the studio: under that site's own
name, which suddenly leads here (DNS rebinding), or by a form or a script that posts across sites.
Both say where they come from: in `Host`, in `Origin`, in `Sec-Fetch-Site`.
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Iterable
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from bark_core import InvalidSetting

_DEFAULT_PORTS = {"http": 80, "https": 443}
# what a proxy tells; from anybody else it is made up
_FORWARDED = ("forwarded", "x-forwarded-", "x-gradio-server", "x-real-ip")


class Reach:
    """The names under which the studio answers.

    Addresses in digits are always among them: a name that leads here can be anybody's, an address
    can't.

    Args:
        names: host names, also with a leading "*." for all names below one. Pages of these may
            speak to the studio even where the studio is reached under another of them.
        wide: others than this computer itself may be able to reach the studio.
    """

    def __init__(self, names: Iterable[str] = (), *, wide: bool = False) -> None:
        self._named = {name.lower().rstrip(".") for name in names}
        self._own = {"localhost"}
        if wide:
            here = {socket.gethostname().lower(), socket.getfqdn().lower()}
            self._own |= here | {f"{name}.local" for name in here if "." not in name}

    def add(self, name: str) -> None:
        """Answer under one more name, such as that of a public link."""
        self._named.add(name.lower())

    def allows_host(self, host: str) -> bool:
        """Whether a `Host` header names this studio."""
        name = _name_of(host)
        if name is None:
            return False
        return _is_address(name) or name in self._own or self._is_named(name)

    def allows_origin(self, origin: str, host: str) -> bool:
        """Whether a page of that origin may speak to the studio that it calls by that host."""
        try:
            parts = urlsplit(origin)
            port = parts.port or _DEFAULT_PORTS.get(parts.scheme)
            there = urlsplit(f"{parts.scheme}://{host}")
            same_port = port == (there.port or _DEFAULT_PORTS.get(parts.scheme))
        except ValueError:
            return False
        if parts.scheme not in _DEFAULT_PORTS or not parts.hostname:
            return False
        return (parts.hostname == there.hostname and same_port) or self._is_named(parts.hostname)

    def _is_named(self, name: str) -> bool:
        below = {f"*.{name.split('.', n)[-1]}" for n in range(1, name.count(".") + 1)}
        return name in self._named or bool(below & self._named)


class OwnSitesOnly:
    """Refuses what comes under another name, or from another site's page.

    Args:
        proxied: a proxy stands in front, whose word on the caller counts.
    """

    def __init__(self, app: ASGIApp, *, reach: Reach, proxied: bool) -> None:
        self.app, self.reach, self.proxied = app, reach, proxied

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        if scope["type"] != "http":  # the page opens no web socket
            await send({"type": "websocket.close", "code": 1008})
            return
        headers = Headers(scope=scope)
        if not self.reach.allows_host(headers.get("host", "")):
            why = "The studio isn't called that; see --allow-host."
            await PlainTextResponse(why, 421)(scope, receive, send)
            return
        if not self._from_own_page(scope["method"], headers):
            why = "Pages of other sites may not speak to the studio."
            await PlainTextResponse(why, 403)(scope, receive, send)
            return
        if not self.proxied:
            kept = [pair for pair in scope["headers"] if not _is_forwarded(pair[0])]
            scope = {**scope, "headers": kept}
        await self.app(scope, receive, send)

    def _from_own_page(self, method: str, headers: Headers) -> bool:
        origin = headers.get("origin")
        if origin is not None:
            return self.reach.allows_origin(origin, headers.get("host", ""))
        if headers.get("sec-fetch-site", "none") in ("same-origin", "none"):
            return True
        # a link somewhere that leads here is fine, a picture or a frame somewhere isn't
        followed = headers.get("sec-fetch-mode"), headers.get("sec-fetch-dest")
        return method in ("GET", "HEAD") and followed == ("navigate", "document")


def checked_host_name(name: str) -> str:
    """A name for `Reach`. Raises InvalidSetting."""
    plain = name.lower().rstrip(".")
    labels = plain.removeprefix("*.").split(".")
    if not all(label and label.replace("-", "").replace("_", "").isalnum() for label in labels):
        raise InvalidSetting(
            f"{name[:100]!r} is no host name; give one such as studio.example.org, or "
            "*.example.org for all below it, without http:// and port"
        )
    if plain.startswith("*.") and len(labels) < 2:
        raise InvalidSetting(f"{name!r} takes in everybody; give a name with two parts at least")
    return plain


def _name_of(host: str) -> str | None:
    try:
        parts = urlsplit(f"//{host}")
        port_is_fine = parts.port is None or parts.port > 0
    except ValueError:
        return None
    plain = parts.netloc == host and "@" not in host and port_is_fine
    return parts.hostname.rstrip(".") if plain and parts.hostname else None


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _is_forwarded(name: bytes) -> bool:
    return name.decode("latin-1").lower().startswith(_FORWARDED)

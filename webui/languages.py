"""The page's languages.

English is the key: `_("Stop")` in the code, `"Stop" = "Anhalten"` in `languages/de.toml`.
A handler's texts are translated when they are made, for the page that asks. The page itself is
built once, for everybody: while it is built `_` leaves a mark in place of a text, and
`InLanguage` puts the reader's own words there when the page is sent.
"""

from __future__ import annotations

import contextlib
import functools
import html
import json
import re
import tomllib
from collections.abc import Iterator, Mapping
from contextvars import ContextVar
from pathlib import Path

from gradio.context import LocalContext
from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import cookie_parser
from starlette.types import ASGIApp, Message, Receive, Scope, Send

FOLDER = Path(__file__).parent / "languages"
COOKIE = "bark-studio-language"
LANGUAGES: Mapping[str, str] = {
    "en": "English",
    "de": "Deutsch",
    "es": "Español",
    "fr": "Français",
    "ja": "日本語",
    "zh": "中文",
}

# private-use characters, which nobody types
_BEGIN, _END = "\ue000", "\ue001"
_MARK = re.compile(r"(?:\ue000|\\ue000)(.*?)(?:\ue001|\\ue001)", re.DOTALL)
_building: ContextVar[bool] = ContextVar("building", default=False)


def _(text: str, **values: object) -> str:
    """A text of the page in the reader's language.

    Args:
        text: English, as the language files have it, with {names} where values go.
        values: what goes there; not while the page is built.
    """
    if _building.get():
        if values:
            raise ValueError(f"{text!r}: what is built once can't hold one reader's values")
        return f"{_BEGIN}{text}{_END}"
    translated = translation(text, language())
    return translated.format(**values) if values else translated


def N_(text: str) -> str:
    """Mark a text of a table, which is made before anybody asks; say `_(text)` when it is shown."""
    return text


def count(number: int, one: str, many: str) -> str:
    """ "1 segment", "1,200 segments": both with {n}, both in the language files."""
    return _(one if number == 1 else many, n=f"{number:,}")


def language() -> str:
    """The language of who asks; English where nobody does."""
    request = LocalContext.request.get(None)
    headers = getattr(request, "headers", None)
    return "en" if headers is None else language_of(headers)


def language_of(headers: Mapping[str, str]) -> str:
    """What was chosen on the page, or else the first language of the browser that we have."""
    chosen = cookie_parser(headers.get("cookie", "")).get(COOKIE, "")
    if chosen in LANGUAGES:
        return chosen
    for wanted in _by_preference(headers.get("accept-language", "")):
        code = wanted.split("-")[0].lower()
        if code in LANGUAGES:
            return code
    return "en"


def translation(text: str, code: str) -> str:
    """A text in a language; as it is where that language doesn't have it."""
    return texts_of(code).get(text, text)


@functools.cache
def texts_of(code: str) -> Mapping[str, str]:
    """English to a language; nothing for English itself."""
    path = FOLDER / f"{code}.toml"
    if code not in LANGUAGES or not path.exists():
        return {}
    table: dict[str, str] = tomllib.loads(path.read_text(encoding="utf-8"))
    return table


@contextlib.contextmanager
def building() -> Iterator[None]:
    """While the page is built, for all languages at once."""
    token = _building.set(True)
    try:
        yield
    finally:
        _building.reset(token)


def in_language(body: str, code: str) -> str:
    """The page as it is sent: JSON with marks, each replaced by its text as JSON has it."""

    def replaced(mark: re.Match[str]) -> str:
        text = json.loads(f'"{mark[1]}"')
        plain = html.unescape(text)
        translated = translation(plain, code)
        # a text within HTML was escaped there
        written = html.escape(translated) if plain != text else translated
        return json.dumps(written)[1:-1].replace("<", "\\u003c")

    return _MARK.sub(replaced, body)


class InLanguage:
    """Sends the page and its configuration in the reader's language."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"].rstrip("/") not in ("", "/config"):
            await self.app(scope, receive, send)
            return
        code = language_of(Headers(scope=scope))
        started: Message | None = None
        parts: list[bytes] = []

        async def collect(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = message
                return
            parts.append(message.get("body", b""))
            if message.get("more_body", False) or started is None:
                return
            body = in_language(b"".join(parts).decode("utf-8"), code)
            body = body.replace('<html lang="en"', f'<html lang="{code}"', 1)
            headers = MutableHeaders(scope=started)
            data = body.encode("utf-8")
            headers["content-length"] = str(len(data))
            headers["content-language"] = code
            headers.add_vary_header("Accept-Language, Cookie")
            await send(started)
            await send({"type": "http.response.body", "body": data})

        await self.app(scope, receive, collect)


def _by_preference(accept: str) -> list[str]:
    weighted: list[tuple[float, str]] = []
    for part in accept.split(","):
        name, _separator, quality = part.strip().partition(";q=")
        with contextlib.suppress(ValueError):
            weighted.append((float(quality or 1), name))
    return [name for weight, name in sorted(weighted, key=lambda pair: -pair[0]) if weight > 0]

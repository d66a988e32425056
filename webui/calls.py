"""What reaches Gradio: calls that are whole, by those whose page, event and files they name."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.components.api_component import Api
from starlette.datastructures import QueryParams
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from webui.answers import SAFE, signed_in
from webui.belongings import Belongings, Kind
from webui.callers import Callers, Stream

_log = logging.getLogger(__name__)

MAX_EVENTS = 1_000  # of one owner, that wait or run in Gradio's queue: an open page holds two
MAX_DEPTH = 40  # of a call's values
_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")
_API = "/gradio_api/"
_GONE = (
    b'data: {"msg":"unexpected_error","message":"404: Not Found","session_not_found":true,'
    b'"success":false}\n\n'
)
_FILE_KEYS = frozenset({"path", "url", "orig_name", "size", "mime_type", "is_stream", "meta"})


class BadCall(Exception):
    """A call that Gradio doesn't get to see."""

    def __init__(self, why: str, status: int = 422) -> None:
        super().__init__(why)
        self.status = status


@dataclass(frozen=True, slots=True)
class _Caller:
    """Who sends a request, and what of Gradio is theirs."""

    owner: str
    belongings: Belongings

    def claim(self, kind: Kind, name: object) -> str:
        """A name that the caller chose. Raises BadCall: it isn't one, or somebody else's."""
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            raise BadCall(f"a {kind} is named by letters and digits, up to 64 of them")
        if not self.belongings.claim(kind, name, self.owner):
            raise BadCall(f"there is no such {kind}", 404)
        return name

    def known(self, kind: Kind, name: object) -> str:
        """A name that the caller was given. Raises BadCall: it wasn't."""
        if not isinstance(name, str) or not self.belongings.belongs(kind, name, self.owner):
            raise BadCall(f"there is no such {kind}", 404)
        return name

    def check_values(self, value: object, depth: int = 0) -> object:
        """A call's values as Gradio may have them. Raises BadCall.

        Files are those that the caller sent or was given; what lies elsewhere isn't fetched.
        """
        if depth > MAX_DEPTH:
            raise BadCall("the values are nested too deeply")
        if isinstance(value, list):
            return [self.check_values(part, depth + 1) for part in value]
        if isinstance(value, str):
            return _whole_text(value)
        if not isinstance(value, dict):
            return value
        path = value.get("path")
        is_file = "path" in value or (_is_address(value.get("url")) and value.keys() <= _FILE_KEYS)
        if is_file and not (path is None and value.get("url") is None):
            if not isinstance(path, str) or not self.belongings.holds(path, self.owner):
                raise BadCall("there is no such file; upload it first")
            value = {**value, "url": None}
        return {key: self.check_values(part, depth + 1) for key, part in value.items()}


class OwnThingsOnly:
    """Checks each call before Gradio gets it, and notes whose what Gradio answers is."""

    def __init__(
        self, app: ASGIApp, *, demo: gr.Blocks, belongings: Belongings, callers: Callers
    ) -> None:
        self.app, self.demo = app, demo
        self.belongings, self.callers = belongings, callers

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = scope["path"].rstrip("/")
        if scope["type"] != "http" or not path.startswith(_API):
            await self.app(scope, receive, send)
            return
        request = Request(scope, receive)
        owner = signed_in(request)
        if owner is None:  # Gradio asks itself whether it has started
            await self.app(scope, receive, send)
            return
        caller = _Caller(owner, self.belongings)
        try:
            await self._pass(path.removeprefix(_API), request, caller, send)
        except BadCall as error:
            told = JSONResponse({"detail": str(error)}, error.status)
            await told(scope, receive, send)

    async def _pass(self, route: str, request: Request, caller: _Caller, send: Send) -> None:
        scope, receive = request.scope, request.receive
        if request.method == "POST" and route in ("queue/join", "cancel", "reset"):
            body = await _json(request)
            checked = self._checked(route, body, caller)
            await self._hand_on(checked, scope, receive, _noting_events(send, caller))
        elif request.method == "POST" and route.startswith("call/"):
            checked = self._named(route.removeprefix("call/"), await _json(request), caller)
            await self._hand_on(checked, scope, receive, _noting_events(send, caller))
        elif request.method == "POST" and route == "upload":
            _claim_upload(request.query_params, caller)
            await self.app(scope, receive, _noting_files(send, caller))
        else:
            await self._watch(route, request, caller, send)

    async def _watch(self, route: str, request: Request, caller: _Caller, send: Send) -> None:
        """What is asked for: of one's own, or nothing."""
        scope, receive = request.scope, request.receive
        if route.startswith("call/"):
            event = caller.known(Kind.EVENT, route.rpartition("/")[2])
            await self._stream((Kind.EVENT, event), scope, receive, send)
            return
        if route.startswith("heartbeat/"):
            caller.claim(Kind.PAGE, route.removeprefix("heartbeat/"))
        elif route == "upload_progress":
            _claim_upload(request.query_params, caller)
        elif route == "queue/data":
            page = request.query_params.get("session_hash")
            own = page is not None and caller.belongings.belongs(Kind.PAGE, page, caller.owner)
            if page is None or not own or page not in self._queue.pending_messages_per_session:
                gone = Response(_GONE, media_type="text/event-stream")
                await gone(scope, receive, send)
            else:
                await self._stream((Kind.PAGE, page), scope, receive, send)
            return
        await self.app(scope, receive, send)

    async def _stream(self, stream: Stream, scope: Scope, receive: Receive, send: Send) -> None:
        """Events of one call or of a page, until there are none or whoever listens has gone."""

        def pending() -> list[str]:
            return list(self._queue.pending_event_ids_session.get(stream[1], ()))

        async def calmly(scope: Scope, receive: Receive, send: Send) -> None:
            await _calmly(self.app, scope, receive, send)

        await self.callers.attend(calmly, scope, receive, send, stream=stream, pending=pending)

    @property
    def _queue(self) -> Any:
        return self.demo._queue

    def _checked(self, route: str, body: Mapping[str, Any], caller: _Caller) -> dict[str, Any]:
        if route == "reset":
            return {"event_id": str(body.get("event_id", ""))[:64]}
        page = caller.claim(Kind.PAGE, body.get("session_hash"))
        index = body.get("fn_index")
        if isinstance(index, bool) or not isinstance(index, int) or index not in self.demo.fns:
            raise BadCall("there is no such function; reload the page")
        if route == "cancel":
            event = caller.known(Kind.EVENT, body.get("event_id"))
            return {"session_hash": page, "fn_index": index, "event_id": event}
        trigger = body.get("trigger_id")
        if trigger is not None and (isinstance(trigger, bool) or not isinstance(trigger, int)):
            raise BadCall("trigger_id must be a whole number")
        self._check_room(caller)
        return {
            "data": self._data(body, self.demo.fns[index], caller),
            "fn_index": index,
            "session_hash": page,
            "trigger_id": trigger,
            "event_data": caller.check_values(body.get("event_data")),
        }

    def _named(self, name: str, body: Mapping[str, Any], caller: _Caller) -> dict[str, Any]:
        """A call by the name of an endpoint, as programs without a client of Gradio make it."""
        public = {fn.api_name: fn for fn in self.demo.fns.values() if fn.api_visibility == "public"}
        if name not in public:
            names = ", ".join(sorted(str(known) for known in public))
            raise BadCall(f"there is no endpoint {name[:40]!r}; there are {names}", 404)
        self._check_room(caller)
        call: dict[str, Any] = {"data": self._data(body, public[name], caller)}
        if body.get("session_hash") is not None:
            call["session_hash"] = caller.claim(Kind.PAGE, body["session_hash"])
        return call

    def _data(self, body: Mapping[str, Any], fn: Any, caller: _Caller) -> list[Any]:
        data = body.get("data")
        if not isinstance(data, list):
            raise BadCall("data must be a list of values")
        asked = [component for component in fn.inputs if not component.skip_api]
        if all(isinstance(component, Api) for component in asked):
            # a program may leave the last ones out: what is new must not break older ones
            data = [*data, *(component.value for component in asked[len(data) :])]
        if len(data) not in (len(fn.inputs), len(asked)):
            raise BadCall(f"{fn.api_name} takes {len(asked)} values, got {len(data)}")
        checked = caller.check_values(data)
        assert isinstance(checked, list)
        return checked

    def _check_room(self, caller: _Caller) -> None:
        waiting = list(self._queue.event_ids_to_events.values())
        if sum((event.username or "") == caller.owner for event in waiting) >= MAX_EVENTS:
            raise BadCall(f"the queue is full: {MAX_EVENTS} of your calls wait already", 503)

    async def _hand_on(
        self, body: Mapping[str, Any], scope: Scope, receive: Receive, send: Send
    ) -> None:
        data = json.dumps(body).encode()
        headers = [pair for pair in scope["headers"] if pair[0].lower() not in _REWRITTEN]
        headers += [
            (b"content-type", b"application/json"),
            (b"content-length", str(len(data)).encode()),
        ]
        given = False

        async def once() -> Message:
            nonlocal given
            if given:
                return await receive()
            given = True
            return {"type": "http.request", "body": data, "more_body": False}

        await self.app({**scope, "headers": headers}, once, send)


_REWRITTEN = (b"content-type", b"content-length", b"transfer-encoding")


def file_route(belongings: Belongings) -> Route:
    """Uploads and files that were handed out, to whom they belong: in Gradio's place."""

    def file(request: Request) -> Response:
        owner, path = signed_in(request), request.path_params["path"]
        if owner is None or not belongings.holds(path, owner):
            return PlainTextResponse("There is no such file.", 404)
        try:
            return FileResponse(path, headers=SAFE, filename=Path(path).name)
        except OSError:
            return PlainTextResponse("There is no such file.", 404)

    return Route("/gradio_api/file={path:path}", file, methods=["GET", "HEAD"])


async def _json(request: Request) -> Mapping[str, Any]:
    """What was sent, as an object of JSON without numbers that aren't. Raises BadCall."""
    try:
        body = json.loads(await request.body(), parse_constant=_no_number)
    except (ValueError, RecursionError) as error:
        raise BadCall("the body must be an object in JSON", 400) from error
    if not isinstance(body, dict):
        raise BadCall("the body must be an object in JSON", 400)
    return body


def _no_number(name: str) -> float:
    raise ValueError(f"{name} is no number")


def _whole_text(text: str) -> str:
    """Without halves of characters, which JSON can name and nothing can write."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _is_address(url: object) -> bool:
    return isinstance(url, str) and "://" in url


def _claim_upload(query: QueryParams, caller: _Caller) -> None:
    if query.get("upload_id") is not None:
        caller.claim(Kind.UPLOAD, query["upload_id"])


def _noting_events(send: Send, caller: _Caller) -> Send:
    def note(answer: object) -> None:
        if isinstance(answer, dict) and isinstance(answer.get("event_id"), str):
            event = answer["event_id"]
            caller.belongings.claim(Kind.EVENT, event, caller.owner)
            # who gives no session gets one of the event's name
            caller.belongings.claim(Kind.PAGE, event, caller.owner)

    return _noting(send, note)


def _noting_files(send: Send, caller: _Caller) -> Send:
    def note(answer: object) -> None:
        for path in answer if isinstance(answer, list) else ():
            caller.belongings.give(str(path), caller.owner)

    return _noting(send, note)


def _noting(send: Send, note: Callable[[object], None]) -> Send:
    """Read a short answer in JSON before it goes out."""
    parts: list[bytes] = []
    fine = False

    async def told(message: Message) -> None:
        nonlocal fine
        if message["type"] == "http.response.start":
            fine = message["status"] == 200
        elif fine:
            parts.append(message.get("body", b""))
            if not message.get("more_body", False):
                try:
                    note(json.loads(b"".join(parts)))
                except ValueError:
                    _log.warning("an answer of Gradio isn't JSON")
        await send(message)

    return told


async def _calmly(
    app: Callable[..., Awaitable[None]], scope: Scope, receive: Receive, send: Send
) -> None:
    """Gradio raises in the middle of a stream when a page has gone: that is no failure."""
    begun = False

    async def told(message: Message) -> None:
        nonlocal begun
        begun = begun or message["type"] == "http.response.start"
        await send(message)

    try:
        await app(scope, receive, told)
    except RuntimeError as error:
        if not (begun and "response already started" in str(error)):
            raise
        await send({"type": "http.response.body", "body": b"", "more_body": False})

"""Programs that wait for what they asked for: one that goes away wants it no more.

A program asks by an endpoint's name, and listens to a stream until its result is there. If the
connection of that stream ends before, nobody will ever fetch the result; but Gradio lets the
endpoint run on to its end. So the connections are watched here, and an endpoint says which call
it answers and how its work is stopped. The handlers of a page never come here: its jobs outlive
its streams, however these end.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable, Iterator

import gradio as gr
from gradio.context import LocalContext
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from bark_core import BarkError, Cancelled
from webui.belongings import Kind
from webui.history_entry import new_id

_log = logging.getLogger(__name__)

MAX_GONE = 5_000  # events that nobody waits for, in case that they are begun yet
# Gradio's word that nothing more comes; whoever hears it may hang up before the stream has ended
_CLOSES = b'"msg":"close_stream"'

Stream = tuple[Kind, str]  # of one event, or of all events of a page (Gradio's session)


class Call:
    """A call that an endpoint answers. All methods may be called from any thread."""

    def __init__(self, event: str, page: str) -> None:
        self.event, self.page = event, page
        self._lock = threading.Lock()
        self._left = False
        self._stop: Callable[[], object] | None = None

    @property
    def left(self) -> bool:
        """Nobody waits for it any more."""
        return self._left

    def on_left(self, stop: Callable[[], object]) -> None:
        """What to do once whoever called goes away; done at once where they have gone already."""
        with self._lock:
            self._stop = stop
            left = self._left
        if left:
            self._do(stop)

    def leave(self) -> None:
        """Whoever called has gone, or has their answer."""
        with self._lock:
            known, self._left = self._left, True
            stop = self._stop
        if stop is not None and not known:
            self._do(stop)

    def check(self) -> None:
        """Raises Cancelled: nobody waits for it any more."""
        if self._left:
            raise Cancelled("whoever asked for it went away; ask again")

    @staticmethod
    def _do(stop: Callable[[], object]) -> None:
        try:
            stop()
        except BarkError as error:  # it was deleted meanwhile, for instance
            _log.info("nothing was stopped: %s", type(error).__name__)


class Callers:
    """All programs that wait. All methods may be called from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._calls: dict[str, Call] = {}  # those that are being answered, by event
        self._streams: Counter[Stream] = Counter()  # those that are listened to
        self._gone: OrderedDict[str, None] = OrderedDict()  # events that were left before they ran

    @contextlib.contextmanager
    def answering(self, request: gr.Request) -> Iterator[Call]:
        """The call that an endpoint answers, for as long as it does.

        What `Call.on_left` was given happens at the end too, however that comes.
        """
        call = Call(LocalContext.event_id.get(None) or new_id(), str(request.session_hash))
        with self._lock:
            self._calls[call.event] = call
            gone = call.event in self._gone
            self._gone.pop(call.event, None)
        if gone:
            call.leave()
        try:
            yield call
        finally:
            with self._lock:
                self._calls.pop(call.event, None)
            call.leave()

    @contextlib.contextmanager
    def listening(
        self, stream: Stream, pending: Callable[[], Iterable[str]] = tuple
    ) -> Iterator[Callable[[], None]]:
        """Count a stream as heard; gives what is to be called when its connection breaks off.

        Args:
            pending: the events of a page that have no answer yet, whether begun or not.
        """
        with self._lock:
            self._streams[stream] += 1
        counted = True

        def end() -> None:
            nonlocal counted
            if counted:
                counted = False
                self._streams[stream] -= 1
                if not self._streams[stream]:
                    del self._streams[stream]

        def broken() -> None:
            kind, name = stream
            with self._lock:
                end()
                waiting = [name] if kind is Kind.EVENT else list(pending())
                calls = [
                    call
                    for call in self._calls.values()
                    if name == (call.event if kind is Kind.EVENT else call.page)
                    if not self._is_heard(call)
                ]
                if not self._streams[stream]:
                    self._remember(event for event in waiting if event not in self._calls)
            for call in calls:
                call.leave()

        try:
            yield broken
        finally:
            with self._lock:
                end()

    async def attend(
        self,
        app: ASGIApp,
        scope: Scope,
        receive: Receive,
        send: Send,
        *,
        stream: Stream,
        pending: Callable[[], Iterable[str]] = tuple,
    ) -> None:
        """Run an app that answers with a stream; what listens to it may go at any moment.

        What the connection says is read here, at once, and handed on to the app, which looks for
        it every now and then only.
        """
        said: asyncio.Queue[Message | Exception] = asyncio.Queue()
        complete = False

        async def hear(broken: Callable[[], None]) -> None:
            message: Message = {"type": ""}
            try:
                while message["type"] != "http.disconnect":
                    message = await receive()
                    if message["type"] == "http.disconnect" and not complete:
                        broken()
                    said.put_nowait(message)
            except Exception as error:
                said.put_nowait(error)

        async def next_message() -> Message:
            message = await said.get()
            if isinstance(message, Exception):
                raise message
            if message["type"] == "http.disconnect":
                said.put_nowait(message)  # for whoever asks next
            return message

        async def tell(message: Message) -> None:
            nonlocal complete
            if message["type"] == "http.response.body":
                more = message.get("more_body", False)
                complete = complete or not more or _CLOSES in message.get("body", b"")
            await send(message)

        with self.listening(stream, pending) as broken:
            hearing = asyncio.create_task(hear(broken))
            try:
                await app(scope, next_message, tell)
            finally:
                hearing.cancel()

    def _is_heard(self, call: Call) -> bool:
        streams = ((Kind.EVENT, call.event), (Kind.PAGE, call.page))
        return any(self._streams[stream] > 0 for stream in streams)

    def _remember(self, events: Iterable[str]) -> None:
        for event in events:
            self._gone[event] = None
            self._gone.move_to_end(event)
        while len(self._gone) > MAX_GONE:
            self._gone.popitem(last=False)

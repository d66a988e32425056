"""Laws of programs that wait: one that goes away gives its place free, a page never does."""

from __future__ import annotations

import asyncio
import time
import types
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from gradio.context import LocalContext

from bark_core import Cancelled, UnknownVoice
from tests.page_model import save_page_model
from tests.programs import End, Listener, Way, ask, generate_inputs, page_inputs, post
from tests.served import Served, serving
from tests.test_audience import attach
from webui import callers as module
from webui.belongings import Kind
from webui.callers import Callers
from webui.hosting import Hosting
from webui.jobs import Ticket, TicketState
from webui.scheduler import Happening, Note
from webui.script_run import RunState
from webui.settings import StudioSettings

LONG = "The rain has stopped, and the river is high. " * 12
PATIENCE_S = 60.0


def request(page: str) -> Any:
    return types.SimpleNamespace(session_hash=page, username=None)


def in_thread(run: Callable[[], Awaitable[None]]) -> None:
    """Run it in a loop of its own, whatever loop this thread may have."""
    with ThreadPoolExecutor(1) as pool:
        pool.submit(asyncio.run, run()).result(PATIENCE_S)  # type: ignore[arg-type]


class Answered:
    """Calls of one page that are being answered, and which of them were told to stop."""

    def __init__(self, callers: Callers) -> None:
        self._callers = callers
        self._begun: list[Any] = []  # a context that nobody holds is left
        self.stopped: list[str] = []

    def begin(self, event: str, page: str = "page") -> Any:
        """A context in which the event is answered."""
        token = LocalContext.event_id.set(event)
        answering = self._callers.answering(request(page))
        answering.__enter__().on_left(lambda: self.stopped.append(event))
        LocalContext.event_id.reset(token)
        self._begun.append(answering)
        return answering


@pytest.fixture
def callers() -> Callers:
    return Callers()


@pytest.fixture
def answered(callers: Callers) -> Answered:
    return Answered(callers)


# --- whose stream it was


def test_a_broken_stream_of_an_event_stops_that_event_alone(
    callers: Callers, answered: Answered
) -> None:
    answered.begin("a")
    answered.begin("b")
    with callers.listening((Kind.EVENT, "a")) as broken:
        broken()
    assert answered.stopped == ["a"]


def test_a_broken_stream_of_a_page_stops_its_calls_and_no_other_page_s(
    callers: Callers, answered: Answered
) -> None:
    answered.begin("a")
    answered.begin("b")
    answered.begin("c", page="another")
    with callers.listening((Kind.PAGE, "page")) as broken:
        broken()
    assert answered.stopped == ["a", "b"]


@pytest.mark.parametrize("other", [(Kind.PAGE, "page"), (Kind.EVENT, "a")])
def test_a_call_that_somebody_else_listens_to_goes_on(
    callers: Callers, answered: Answered, other: tuple[Kind, str]
) -> None:
    answered.begin("a")
    with callers.listening(other) as last:
        with callers.listening((Kind.PAGE, "page")) as broken:
            broken()
        assert answered.stopped == []
        last()
    assert answered.stopped == ["a"]


def test_a_stream_that_ends_by_itself_stops_nothing(callers: Callers, answered: Answered) -> None:
    answered.begin("a")
    with callers.listening((Kind.EVENT, "a")):
        pass
    assert answered.stopped == []


def test_whoever_left_before_it_began_is_known(callers: Callers) -> None:
    for stream, pending in (((Kind.EVENT, "a"), ()), ((Kind.PAGE, "page"), ("a", "b"))):
        with callers.listening(stream, lambda pending=pending: pending) as broken:  # type: ignore[misc]
            broken()
        LocalContext.event_id.set("a")
        with callers.answering(request("page")) as call:
            assert call.left
            with pytest.raises(Cancelled):
                call.check()
            stopped: list[str] = []
            call.on_left(lambda stopped=stopped: stopped.append("at once"))  # type: ignore[misc]
            assert stopped == ["at once"]
        with callers.answering(request("page")) as again:  # a name isn't cursed for ever
            assert not again.left


def test_what_is_remembered_is_bounded(callers: Callers, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_GONE", 3)
    for number in range(10):
        with callers.listening((Kind.EVENT, str(number))) as broken:
            broken()
    assert list(callers._gone) == ["7", "8", "9"]
    assert not callers._streams


def test_an_endpoint_that_ends_stops_what_it_began_once(
    callers: Callers, answered: Answered
) -> None:
    answering = answered.begin("a")
    with callers.listening((Kind.EVENT, "a")) as broken:
        broken()
        answering.__exit__(None, None, None)
    assert answered.stopped == ["a"]
    cancelled = answered.begin("b")
    cancelled.__exit__(None, None, None)
    assert answered.stopped == ["a", "b"]
    assert not callers._calls


def test_what_can_t_be_stopped_any_more_disturbs_nobody(callers: Callers) -> None:
    def gone() -> None:
        raise UnknownVoice("it was deleted")

    LocalContext.event_id.set("a")
    with callers.answering(request("page")) as call:
        call.on_left(gone)
        call.leave()


# --- the stream itself


class Connection:
    """What a server tells an app of a client, and hears of it."""

    def __init__(self) -> None:
        self.said: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self.said.put_nowait({"type": "http.request", "body": b"", "more_body": False})
        self.sent: list[dict[str, Any]] = []

    async def send(self, message: Any) -> None:
        self.sent.append(message)

    def hang_up(self) -> None:
        self.said.put_nowait({"type": "http.disconnect"})


def test_it_is_noticed_though_the_app_asks_nothing(callers: Callers, answered: Answered) -> None:
    async def run() -> None:
        answered.begin("a")
        connection, let_go = Connection(), asyncio.Event()

        async def deaf(scope: Any, receive: Any, send: Any) -> None:
            await let_go.wait()

        attending = asyncio.create_task(
            callers.attend(deaf, {}, connection.said.get, connection.send, stream=(Kind.EVENT, "a"))
        )
        await asyncio.sleep(0)
        connection.hang_up()
        while not answered.stopped:
            await asyncio.sleep(0)
        assert not attending.done()
        let_go.set()
        await attending

    in_thread(run)


def test_the_app_hears_all_of_it_as_often_as_it_asks(callers: Callers) -> None:
    async def run() -> None:
        connection = Connection()

        async def app(scope: Any, receive: Any, send: Any) -> None:
            assert (await receive())["type"] == "http.request"
            connection.hang_up()
            for _ in range(3):
                assert (await receive())["type"] == "http.disconnect"

        await callers.attend(
            app, {}, connection.said.get, connection.send, stream=(Kind.EVENT, "a")
        )

    in_thread(run)


@pytest.mark.parametrize(
    "last",
    [
        {"type": "http.response.body", "body": b"", "more_body": False},
        {
            "type": "http.response.body",
            "body": b'data: {"msg":"close_stream","event_id":null}\n\n',
            "more_body": True,
        },
    ],
)
def test_who_hangs_up_after_the_end_has_left_nothing(
    callers: Callers, answered: Answered, last: dict[str, Any]
) -> None:
    async def run() -> None:
        answered.begin("a")
        connection = Connection()

        async def app(scope: Any, receive: Any, send: Any) -> None:
            await receive()
            await send(last)
            connection.hang_up()
            assert (await receive())["type"] == "http.disconnect"

        await callers.attend(
            app, {}, connection.said.get, connection.send, stream=(Kind.PAGE, "page")
        )
        assert connection.sent == [last]

    in_thread(run)
    assert answered.stopped == []


def test_what_goes_wrong_while_it_is_read_reaches_the_app(callers: Callers) -> None:
    async def refused() -> Any:
        raise ValueError("too much")

    async def app(scope: Any, receive: Any, send: Any) -> None:
        with pytest.raises(ValueError, match="too much"):
            await receive()

    async def run() -> None:
        await callers.attend(app, {}, refused, Connection().send, stream=(Kind.EVENT, "a"))

    in_thread(run)


# --- over real connections


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    model = save_page_model(tmp_path_factory.mktemp("models") / "page")
    data = tmp_path_factory.mktemp("data")
    # one at a time, so that others have to wait
    settings = StudioSettings(model=str(model), data=data, hosting=Hosting(max_batch=1))
    with serving(settings) as served:
        yield served


def until(what: Callable[[], object]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not what():
        assert time.monotonic() < deadline, "it never happened"
        time.sleep(0.01)


def newest(served: Served) -> Ticket:
    return list(served.studio.desk._tickets.values())[-1]


def asked(served: Served, way: Way, seed: int) -> tuple[Listener, Ticket]:
    """A program that listens, and the job that it asked for."""
    known = set(served.studio.desk._tickets)
    listener = Listener(served, ask(served, way, "generate", generate_inputs(LONG, seed)))
    until(lambda: set(served.studio.desk._tickets) - known)
    return listener, newest(served)


def running(ticket: Ticket) -> bool:
    return ticket.state is TicketState.RUNNING


@pytest.mark.parametrize("how", list(End))
@pytest.mark.parametrize("way", list(Way))
def test_a_program_that_goes_away_is_stopped_and_its_place_is_free(
    served: Served, way: Way, how: End
) -> None:
    noted: list[Note] = []
    served.studio.desk.scheduler.listen(noted.append)
    program, ticket = asked(served, way, 1)
    until(lambda: running(ticket))
    program.leave(how)
    until(ticket.finished.is_set)
    program.close()
    # not that it ran to its end
    assert ticket.state is TicketState.STOPPED
    assert [n.what for n in noted if n.job_id == ticket.id][-1] is Happening.STOPPED
    assert served.studio.desk.scheduler.unfinished() == []


@pytest.mark.parametrize("way", list(Way))
def test_one_that_still_waits_for_its_turn_is_taken_out(served: Served, way: Way) -> None:
    first, running_ticket = asked(served, Way.CALL, 2)
    until(lambda: running(running_ticket))
    second, ticket = asked(served, way, 3)
    second.leave()
    until(ticket.finished.is_set)
    assert ticket.state is TicketState.STOPPED
    assert not running_ticket.stopping
    first.leave()
    until(running_ticket.finished.is_set)


def test_one_that_stays_gets_its_answer_while_others_go(served: Served) -> None:
    path = ask(served, Way.QUEUE, "generate", generate_inputs("Hello.", 4))
    staying = Listener(served, path)
    for way in Way:
        leaving, ticket = asked(served, way, 5)
        leaving.leave()
        until(ticket.finished.is_set)
    heard = staying.heard()
    staying.close()
    assert '"msg":"process_completed"' in heard
    assert '"success":true' in heard


def test_one_that_asked_and_never_listened_finds_it_in_the_history(served: Served) -> None:
    ask(served, Way.CALL, "generate", generate_inputs("Nobody listens.", 6))
    until(lambda: newest(served).request.text == "Nobody listens.")
    ticket = newest(served)
    until(ticket.finished.is_set)
    assert ticket.state is TicketState.DONE
    assert served.studio.history.get(ticket.id) is not None


def test_a_script_whose_program_goes_away_is_stopped(served: Served) -> None:
    desk = served.studio.scripts
    known = {entry.id for entry in desk.entries("")}
    text = f"Ann: {LONG}\nBob: {LONG}\n"
    program = Listener(served, ask(served, Way.CALL, "script", [text, None, "", "Left"]))

    def new() -> list[str]:
        return [entry.id for entry in desk.entries("") if entry.id not in known]

    until(new)
    (script_id,) = new()
    until(lambda: (run := desk.run(script_id, "")) is not None and run.current)
    program.leave()
    until(lambda: (run := desk.run(script_id, "")) is not None and run.state.over)
    ended = desk.run(script_id, "")
    assert ended is not None
    assert ended.state is RunState.STOPPED
    until(lambda: not served.studio.desk.scheduler.unfinished())


def test_a_page_that_is_closed_loses_nothing(served: Served) -> None:
    """What a page's Generate does while the page is open; then its stream ends, as on a reload."""
    text, session = "Of a page: the rain has stopped, and the river is high.", "apage"
    index, function = next(
        (int(index), fn)
        for index, fn in served.demo.fns.items()
        if getattr(fn.fn, "__qualname__", "").startswith("_connect_jobs.<locals>.begin")
    )
    data = page_inputs(served, function, {"prompt": text})
    known = set(served.studio.desk._tickets)
    attach(served, session)
    page = Listener(served, f"queue/data?session_hash={session}")
    post(served, "queue/join", {"data": data, "fn_index": index, "session_hash": session})
    until(lambda: set(served.studio.desk._tickets) - known)
    ticket = newest(served)
    until(lambda: running(ticket))
    page.leave()
    until(ticket.finished.is_set)
    assert (ticket.state, ticket.request.text) == (TicketState.DONE, text)
    assert served.studio.history.get(ticket.id) is not None

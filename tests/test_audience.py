"""Laws of who looks: closed pages give their places back, and many can be open at once."""

from __future__ import annotations

import contextlib
import http.client
import json
import time
import types
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import urlsplit

import pytest

from tests.page_model import save_page_model
from tests.served import Served, serving
from webui.audience import AGAIN_AFTER_S, SILENCE_S, Audience, Turn, page_of
from webui.settings import StudioSettings


def request_of(session: str) -> Any:
    return types.SimpleNamespace(session_hash=session, username=None)


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


# --- the laws


def test_one_voice_speaks_to_a_page() -> None:
    audience = Audience()
    first = audience.seat("jobs", request_of("a"))
    other = audience.seat("jobs", request_of("b"))
    script = audience.seat("script", request_of("a"))
    assert first.held
    second = audience.seat("jobs", request_of("a"))
    assert not first.held
    assert first.taken
    assert not second.taken
    with first:
        pass  # it goes, and leaves the other one's place alone
    assert second.held
    assert other.held
    assert script.held


def test_a_page_that_says_nothing_is_forgotten() -> None:
    clock = Clock()
    audience = Audience(lease_s=10, clock=clock)
    request = request_of("a")
    with audience.seat("jobs", request) as seat:
        clock.now = 9
        assert audience.here(page_of(request))
        clock.now = 18
        assert seat.held
        clock.now = 20
        assert not seat.held
    assert not seat.taken
    assert not audience.here(page_of(request))


def test_a_page_is_known_while_one_of_its_watchers_is_there() -> None:
    audience, request = Audience(), request_of("a")
    with audience.seat("jobs", request):
        with audience.seat("script", request):
            pass
        assert audience.here(page_of(request))
    assert not audience.here(page_of(request))


def test_a_page_that_is_away_attaches_again() -> None:
    audience, request = Audience(), request_of("a")
    seat = audience.seat("jobs", request)
    audience.away(page_of(request))
    assert not seat.held
    assert not audience.here(page_of(request))
    with audience.seat("jobs", request) as again:
        assert again.held
        assert again.signs["page"] == seat.signs["page"]
        assert again.signs["seat"] != seat.signs["seat"]


def test_a_watcher_says_again_what_it_said_last() -> None:
    clock = Clock()
    seat = Audience(clock=clock).seat("jobs", request_of("a"))
    assert seat.done

    def turns(until_s: float) -> list[tuple[float, Turn]]:
        told: list[tuple[float, Turn]] = []
        while clock.now < until_s:
            clock.now += 0.25
            if (turn := seat.turn(news=False)) is not Turn.WAIT:
                told.append((clock.now, turn))
        return told

    assert turns(5.0) == [(SILENCE_S, Turn.SIGN)]
    assert seat.turn(news=True) is Turn.SPEAK
    assert not seat.done
    first, second = (5.0 + after_s for after_s in AGAIN_AFTER_S)
    # between them and after them it only shows that it is there
    expected: list[tuple[float, Turn]] = [
        (first, Turn.SPEAK),
        (first + SILENCE_S, Turn.SIGN),
        (second, Turn.SPEAK),
        (second + SILENCE_S, Turn.SIGN),
    ]
    assert turns(second + SILENCE_S) == expected
    assert seat.done
    # news on news: what was said before is not said again
    assert seat.turn(news=True) is Turn.SPEAK
    clock.now += AGAIN_AFTER_S[0] / 2
    assert seat.turn(news=True) is Turn.SPEAK
    assert [turn for _, turn in turns(clock.now + 10)].count(Turn.SPEAK) == len(AGAIN_AFTER_S)


def test_nobody_looks_at_a_studio_that_closes() -> None:
    audience = Audience()
    seat = audience.seat("jobs", request_of("a"))
    audience.close()
    assert not seat.held


# --- in Gradio's queue


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    model = save_page_model(tmp_path_factory.mktemp("models") / "page")
    data = tmp_path_factory.mktemp("data")
    with serving(StudioSettings(model=str(model), data=data)) as served:
        yield served


@pytest.fixture
def quiet(served: Served) -> Iterator[Served]:
    """The same with nobody on it, before and after."""
    audience = served.studio.audience
    lease_s, audience._lease_s = audience._lease_s, 0.0
    assert wait_for(lambda: places_taken(served) == 0)
    audience._lease_s = lease_s
    yield served
    audience._lease_s = 0.0
    assert wait_for(lambda: places_taken(served) == 0)
    audience._lease_s = lease_s


def wait_for(fact: Callable[[], bool], *, patience_s: float = 60.0) -> bool:
    until = time.monotonic() + patience_s
    while not fact():
        if time.monotonic() > until:
            return False
        time.sleep(0.05)
    return True


def places_taken(served: Served) -> int:
    return int(served.demo._queue.get_active_worker_count())


def seats_taken(served: Served) -> int:
    """Gradio gives an event its place before the watcher sits down."""
    return len(served.studio.audience._speakers)


def watchers(served: Served) -> list[int]:
    """The two events that begin when a page was loaded, and last as long as it is open."""
    found: dict[str, int] = {}
    for index, function in served.demo.fns.items():
        if function.fn is not None and function.fn.__name__ == "watch":
            found.setdefault(function.fn.__qualname__, index)
    jobs = next(index for name, index in found.items() if name.startswith("Watcher"))
    script = next(index for name, index in found.items() if name.startswith("_connect_watching"))
    return [jobs, script]


def attach(served: Served, session: str) -> None:
    """What a page does when it was loaded."""
    for index in watchers(served):
        body = {
            "data": ["", served.studio.first_model()],
            "fn_index": index,
            "session_hash": session,
        }
        address = f"{served.address}gradio_api/queue/join"
        headers = {"content-type": "application/json"}
        call = urllib.request.Request(address, json.dumps(body).encode(), headers)
        with urllib.request.urlopen(call, timeout=30) as answer:
            assert answer.status == 200


@contextlib.contextmanager
def looking(served: Served, session: str) -> Iterator[None]:
    """A page that is open: it attaches, and reads what it is told."""
    attach(served, session)
    where = urlsplit(served.address)
    line = http.client.HTTPConnection(str(where.hostname), where.port, timeout=30)
    line.request("GET", f"/gradio_api/queue/data?session_hash={session}")
    answer = line.getresponse()
    try:
        while b"process_generating" not in (told := answer.readline()):
            assert told, "the page was told nothing"
        yield
    finally:
        answer.close()
        line.close()


def test_closed_pages_give_their_places_back(quiet: Served) -> None:
    """A studio in which nothing happens: no news ends a watcher, and no time does."""
    for number in range(3):
        with looking(quiet, f"closed-{number}"):
            assert wait_for(lambda: places_taken(quiet) >= 2)
    assert wait_for(lambda: places_taken(quiet) == 0)


def test_a_page_that_went_before_it_listened_is_forgotten(quiet: Served) -> None:
    quiet.studio.audience._lease_s = 1.0
    attach(quiet, "never-there")
    assert wait_for(lambda: places_taken(quiet) == 2)
    assert wait_for(lambda: places_taken(quiet) == 0)


def test_more_pages_are_open_than_gradio_has_places_of_its_own(quiet: Served) -> None:
    for number in range(25):
        attach(quiet, f"open-{number}")
    assert wait_for(lambda: places_taken(quiet) == 50)
    with looking(quiet, "one-more"):
        assert wait_for(lambda: places_taken(quiet) == 52)


def test_a_page_says_that_it_is_there(quiet: Served) -> None:
    def tell(what: str, session: str) -> int:
        page = page_of(request_of(session))
        call = urllib.request.Request(f"{quiet.address}studio/{what}/{page}", method="POST")
        try:
            with urllib.request.urlopen(call, timeout=30) as answer:
                return int(answer.status)
        except urllib.error.HTTPError as error:
            with error:
                return error.code

    attach(quiet, "there")
    assert wait_for(lambda: seats_taken(quiet) == 2)
    assert tell("here", "there") == 204
    assert tell("here", "elsewhere") == 404
    assert tell("away", "there") == 204
    assert wait_for(lambda: places_taken(quiet) == 0)


def test_a_page_needs_one_lasting_connection(served: Served) -> None:
    """A browser has six to one address, for all of its tabs."""
    assert served.demo.config["connect_heartbeat"] is False

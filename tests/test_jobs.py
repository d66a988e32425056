"""Laws of the desk: a job goes on, ends and is kept, whoever watches it."""

from __future__ import annotations

import gc
import itertools
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from bark_core import (
    BarkError,
    Cascade,
    GenerationError,
    GenerationRequest,
    InProcessBackend,
    MissingFiles,
    SemanticParams,
    Settings,
    load,
    read_audio,
)
from tests.page_model import save_page_model
from webui import takes
from webui.history import History
from webui.hosting import Hosting
from webui.jobs import Desk, Ticket, TicketState, View
from webui.models import ModelShelf
from webui.settings import StudioSettings

# a sentence a segment: the page's model takes a second or so for each
LONG = "The rain has stopped, and the river is high. " * 12
# chance decides when it ends, and it is not to end at once
SETTINGS = Settings(semantic=SemanticParams(min_eos_p=None))


@pytest.fixture(scope="module")
def cascade(tmp_path_factory: pytest.TempPathFactory) -> Cascade:
    return load(save_page_model(tmp_path_factory.mktemp("models") / "page"))


@pytest.fixture
def history(tmp_path: Path) -> Iterator[History]:
    history = History.open(tmp_path / "data")
    yield history
    history.close()


def shelf(history: History, load: Callable[[], Cascade]) -> ModelShelf:
    """A shelf whose default model is loaded by a function."""
    folder = history.sounds.parent
    settings = StudioSettings(model="pup", data=folder, cache=folder / "cache")
    backend = InProcessBackend(load=lambda *_model, **_options: load())
    return ModelShelf(settings, backend=backend)


@pytest.fixture
def desk(cascade: Cascade, history: History) -> Iterator[Desk]:
    desk = Desk(shelf(history, lambda: cascade), history=history)
    desk.start()
    assert desk.loaded.wait(10)
    yield desk
    desk.close()


def request(text: str = "Hello there.", seed: int = 1) -> GenerationRequest:
    return GenerationRequest(text, seed=seed, settings=SETTINGS)


def ended(ticket: Ticket, state: TicketState) -> Ticket:
    assert ticket.finished.wait(60)
    assert ticket.state is state, ticket.error
    return ticket


def until(what: Callable[[], object], timeout_s: float = 60.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not what():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def n_heard(views: list[View]) -> int:
    return views[-1].live.n_segments if views and views[-1].live else 0


def test_a_job_that_nobody_watches_is_kept(desk: Desk, history: History) -> None:
    ticket = ended(desk.submit(request(seed=5)), TicketState.DONE)
    entry = history.get(ticket.id)
    assert entry is not None
    assert (entry.text, entry.seed, entry.complete) == ("Hello there.", 5, True)
    assert desk.views() == []


def test_stop_takes_hold_within_half_a_second_and_keeps_what_is_finished(
    desk: Desk, history: History
) -> None:
    ticket = desk.submit(request(LONG))
    until(lambda: ticket.live)
    stopped_at = time.monotonic()
    assert desk.stop(ticket.id)
    ended(ticket, TicketState.STOPPED)
    # the test's own machine may be busy: the engine stops within one step, the rest is writing
    assert time.monotonic() - stopped_at < 2.0
    entry = history.get(ticket.id)
    assert entry is not None
    assert not entry.complete
    assert 1 <= len(entry.details["segments"]) < len(ticket.segments)
    assert not desk.stop(ticket.id)


def test_a_job_that_waits_is_stopped_at_once(desk: Desk, history: History) -> None:
    first, second = desk.submit(request(LONG)), desk.submit(request(LONG))
    assert desk.stop_all() == 2
    ended(first, TicketState.STOPPED)
    ended(second, TicketState.STOPPED)
    assert history.get(second.id) is None


def test_sound_is_there_before_the_end(desk: Desk, history: History) -> None:
    ticket = desk.submit(request(LONG))
    until(lambda: ticket.live)
    assert not ticket.state.over
    assert ticket.live is not None
    live = ticket.live
    assert read_audio(live.path).duration_s == pytest.approx(live.duration_s, abs=0.01)
    (view,) = desk.views()
    assert view.live is not None
    assert view.live.n_segments >= live.n_segments
    # the address that a page is given leads to it
    assert f"studio/live/{view.live.path.stem.replace('-', '/')}.flac" in takes.running([view])
    desk.stop(ticket.id)


def test_what_is_dismissed_leaves_no_sound_behind(desk: Desk, history: History) -> None:
    ticket = desk.submit(request(LONG))
    until(lambda: ticket.live)
    desk.stop(ticket.id)
    ended(ticket, TicketState.STOPPED)
    assert list(history.live.glob(f"{ticket.id}-*.flac"))
    desk.dismiss(ticket.id)
    assert list(history.live.glob(f"{ticket.id}-*.flac")) == []


def test_a_ticket_that_is_over_keeps_no_sound_in_memory(desk: Desk) -> None:
    """Each is known for some minutes more: a busy studio would hold hundreds of sounds."""
    ticket = desk.submit(request(LONG))
    assert ticket.job is not None
    job = weakref.ref(ticket.job)
    ended(ticket, TicketState.DONE)
    assert ticket.entry is not None
    assert not ticket.heard
    until(lambda: gc.collect() >= 0 and job() is None)


def test_a_streamed_sentence_is_heard_before_it_is_finished(desk: Desk, history: History) -> None:
    """Its sound so far, pieces of the first sentence only, is in files that grow."""
    settings = Settings(semantic=SemanticParams(allow_early_stop=False))
    wanted = GenerationRequest("Hello there.", seed=1, settings=settings, streaming=True)
    ticket = desk.submit(wanted)
    seen = []
    while not ticket.finished.wait(0.002):
        if ticket.live is not None and ticket.live not in seen:
            seen.append(ticket.live)
    assert ticket.state is TicketState.DONE
    assert seen
    assert all(live.n_segments == 0 for live in seen)
    entry = history.get(ticket.id)
    assert entry is not None
    assert all(0 < live.duration_s < entry.duration_s for live in seen)


def test_progress_rises_and_then_there_is_an_estimate(desk: Desk) -> None:
    ticket = desk.submit(request(LONG))
    seen: list[View] = []
    while not ticket.finished.wait(0.02) and n_heard(seen) < 2:
        seen += desk.views()
    desk.stop(ticket.id)
    running = [view for view in seen if view.bars is not None]
    assert running[0].left_s is None  # nothing was made yet: honest
    assert running[-1].left_s is not None
    assert running[-1].left_s > 0
    for view in running:
        assert view.bars is not None
        assert all(0 <= bar <= 1 for bar in (view.bars.words, view.bars.sound, view.bars.detail))
    places = [(view.segment, view.bars) for view in running]
    for (segment, old), (next_segment, new) in itertools.pairwise(places):
        assert old is not None
        assert new is not None
        if segment == next_segment:
            assert (new.words, new.sound, new.detail) >= (old.words, old.sound, old.detail)


def test_what_is_handed_in_while_the_model_loads_runs_then(
    cascade: Cascade, history: History
) -> None:
    gate = threading.Event()

    def load_late() -> Cascade:
        gate.wait()
        return cascade

    desk = Desk(shelf(history, load_late), history=history)
    desk.start()
    first, second = desk.submit(request(seed=1)), desk.submit(request(seed=2))
    assert [view.state for view in desk.views()] == [TicketState.LOADING] * 2
    assert desk.status().state == "loading"
    assert desk.stop(second.id)
    ended(second, TicketState.STOPPED)
    gate.set()
    ended(first, TicketState.DONE)
    assert desk.status().state == "ready"
    desk.close()


def test_a_model_that_can_t_be_loaded_is_told_to_all(history: History) -> None:
    gate = threading.Event()

    def fail() -> Cascade:
        gate.wait()
        raise MissingFiles("semantic.safetensors isn't there; put it back")

    desk = Desk(shelf(history, fail), history=history)
    desk.start()
    ticket = desk.submit(request())
    gate.set()
    ended(ticket, TicketState.FAILED)
    assert isinstance(ticket.error, MissingFiles)
    assert desk.status().state == "failed"
    with pytest.raises(MissingFiles):
        desk.submit(request())
    (view,) = desk.views()
    desk.dismiss(view.id)
    assert desk.views() == []


def test_a_surprise_while_loading_becomes_a_message(history: History) -> None:
    def fail() -> Cascade:
        raise ZeroDivisionError

    desk = Desk(shelf(history, fail), history=history)
    desk.start()
    assert desk.loaded.wait(10)
    assert isinstance(desk.status().error, GenerationError)


def test_others_neither_see_nor_stop_a_job(desk: Desk) -> None:
    ticket = desk.submit(request(LONG), owner="ann", browser="one")
    assert len(desk.views(owner="ann", browser="one")) == 1
    assert desk.views(owner="ann", browser="two") == []
    assert desk.views(owner="bob", browser="one") == []
    assert not desk.stop(ticket.id, owner="bob")
    assert desk.ticket(ticket.id, owner="bob") is None
    assert desk.stop(ticket.id, owner="ann")


def test_the_queue_is_bounded_for_each_person(desk: Desk) -> None:
    most = Hosting().max_queued_each
    for _ in range(most):
        desk.submit(request(LONG), owner="ann")
    with pytest.raises(BarkError, match="stop them"):
        desk.submit(request(LONG), owner="ann")
    bob = desk.submit(request(), owner="bob")
    assert desk.stop_all(owner="ann") == most
    ended(bob, TicketState.DONE)


def test_a_sound_that_can_t_be_kept_is_told(desk: Desk, history: History) -> None:
    history.sounds.rmdir()
    ticket = ended(desk.submit(request()), TicketState.FAILED)
    (view,) = desk.views()
    assert view.id == ticket.id
    assert view.error is not None
    history.sounds.mkdir()
    ended(desk.submit(request()), TicketState.DONE)


def test_closing_keeps_what_is_finished(cascade: Cascade, history: History) -> None:
    desk = Desk(shelf(history, lambda: cascade), history=history)
    desk.start()
    ticket = desk.submit(request(LONG))
    until(lambda: ticket.live)
    desk.close()
    assert history.get(ticket.id) is not None
    with pytest.raises(GenerationError, match="closing"):
        desk.submit(request())

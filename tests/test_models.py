"""Laws of the shelf: what is here is known, what is asked for happens behind the pages."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest

from bark_core import (
    BarkError,
    Cascade,
    DeviceInfo,
    DownloadError,
    GenerationError,
    GenerationRequest,
    InProcessBackend,
    InvalidSetting,
    LayoutMismatch,
    MissingFiles,
    OutOfMemory,
    SemanticParams,
    Settings,
    UnknownModel,
    load,
    placement,
    process_memory_bytes,
    read_segments,
)
from tests.hub_server import FakeHub, serve
from tests.page_model import page_config, save_page_model
from tests.tiny import save_tiny_model
from webui.history import History
from webui.jobs import Desk, TicketState
from webui.models import ModelShelf, ModelState
from webui.preferences import FILE, Choice, Preferences, read_preferences, write_preferences
from webui.settings import CUDA_ONLY, PRECISIONS, StudioSettings

PATIENCE_S = 60.0
PUBLISHED = "suno/bark-small"
SETTINGS = Settings(semantic=SemanticParams(min_eos_p=None))
LONG = "The rain has stopped, and the river is high. " * 12
GB = 10**9


@pytest.fixture(scope="module")
def page_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_page_model(tmp_path_factory.mktemp("models") / "page")


@pytest.fixture
def hub(tiny_folder: Path) -> Iterator[FakeHub]:
    """A hub that has a model of a few hundred kilobytes under a published name."""
    fake = FakeHub()
    fake.publish(PUBLISHED, tiny_folder)
    with serve(fake):
        yield fake


@pytest.fixture
def settings(page_model: Path, hub: FakeHub, tmp_path: Path) -> StudioSettings:
    return StudioSettings(
        model=str(page_model),
        data=tmp_path / "data",
        cache=tmp_path / "cache",
        endpoint=hub.url,
        devices=("cpu",),
    )


@pytest.fixture
def shelf(settings: StudioSettings) -> Iterator[ModelShelf]:
    shelf = ModelShelf(settings)
    yield shelf
    shelf.close()


@pytest.fixture
def desk(shelf: ModelShelf, tmp_path: Path) -> Iterator[Desk]:
    history = History.open(tmp_path / "data")
    desk = Desk(shelf, history=history)
    desk.start()
    assert desk.loaded.wait(PATIENCE_S)
    yield desk
    desk.close()
    history.close()


def until(what: Callable[[], object]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not what():
        assert time.monotonic() < deadline, "it never happened"
        time.sleep(0.01)


def rest(shelf: ModelShelf, name: str) -> ModelState:
    """Wait until nothing goes on with a model."""
    until(lambda: not shelf.status(name).state.busy)
    return shelf.status(name).state


def request(text: str = "Hello there.") -> GenerationRequest:
    # chance may end it before it began: then it is tried again
    return GenerationRequest(text, seed=1, settings=SETTINGS, retries=5)


def slowed(hub: FakeHub) -> threading.Event:
    """Let the hub send a chunk now and then, until the event is set."""
    free = threading.Event()

    def wait() -> None:
        free.wait(0.15)

    hub.on_bytes = wait
    return free


def test_the_shelf_knows_what_there_is_before_anything_is_loaded(shelf: ModelShelf) -> None:
    assert shelf.names()[0] == shelf.default == "page"
    assert {"small", "large"} < set(shelf.names())
    assert shelf.layout_name() == "page"
    small = shelf.status("small")
    assert (small.state, small.installed, small.loaded) == (ModelState.ABSENT, False, False)
    assert small.stored.total_bytes > GB
    assert "small" not in shelf.usable()
    assert "page" in shelf.usable()
    assert (shelf.loaded("small"), shelf.front("small"), shelf.pace("small")) == (None,) * 3
    with pytest.raises(UnknownModel, match="choose one of"):
        shelf.status("middling")


def test_a_download_is_seen_stopped_and_resumed(shelf: ModelShelf, hub: FakeHub) -> None:
    free = slowed(hub)
    shelf.download("small")
    until(lambda: (t := shelf.status("small").transfer) and 0 < t.done_bytes < t.total_bytes)
    assert shelf.status("small").state is ModelState.DOWNLOADING
    until(lambda: (t := shelf.status("small").transfer) and t.bytes_per_s)
    shelf.cancel("small")
    assert rest(shelf, "small") is ModelState.PARTIAL
    part = shelf.status("small").stored
    assert 0 < part.done_bytes < part.total_bytes
    free.set()
    hub.requests.clear()
    shelf.download("small")
    assert rest(shelf, "small") is ModelState.HERE
    assert any("bytes=" in asked for asked in hub.requests) or hub.files_asked()
    here = shelf.status("small")
    assert here.installed
    assert here.stored.done_bytes == here.stored.total_bytes
    assert here.layout_name == "tiny"  # of what came, not of what has that name elsewhere
    n_requests = len(hub.requests)
    shelf.download("small")
    assert len(hub.requests) == n_requests


def test_a_download_that_fails_says_why_and_can_be_tried_again(
    shelf: ModelShelf, hub: FakeHub
) -> None:
    hub.corrupt.add("codec.safetensors")
    shelf.download("small")
    assert rest(shelf, "small") is ModelState.FAILED
    assert isinstance(shelf.status("small").error, DownloadError)
    hub.corrupt.clear()
    shelf.download("small")
    assert rest(shelf, "small") is ModelState.HERE
    assert shelf.status("small").error is None


def test_another_model_of_the_hub_can_be_added(
    shelf: ModelShelf, hub: FakeHub, settings: StudioSettings, tiny_folder: Path
) -> None:
    hub.publish("someone/their-bark", tiny_folder)
    name = shelf.add(" https://huggingface.co/someone/their-bark ")
    assert shelf.status(name).added
    shelf.download(name)
    assert rest(shelf, name) is ModelState.HERE
    assert name in ModelShelf(settings).names()  # and is found again
    gone = shelf.add("nobody/nothing")
    shelf.download(gone)
    assert rest(shelf, gone) is ModelState.FAILED
    assert isinstance(shelf.status(gone).error, UnknownModel)
    shelf.forget(gone)
    assert gone not in shelf.names()
    for odd in ("", "bark", "../etc/passwd", "a/b/c", "/etc"):
        with pytest.raises(InvalidSetting, match="owner/name"):
            shelf.add(odd)
    with pytest.raises(InvalidSetting):
        shelf.forget("small")


def test_what_was_downloaded_can_be_removed_but_not_while_it_is_loaded(shelf: ModelShelf) -> None:
    with pytest.raises(InvalidSetting, match="nothing"):
        shelf.remove("small")
    shelf.download("small")
    rest(shelf, "small")
    shelf.load("small")
    assert rest(shelf, "small") is ModelState.LOADED
    with pytest.raises(InvalidSetting, match="unload"):
        shelf.remove("small")
    shelf.unload("small")
    assert rest(shelf, "small") is ModelState.HERE
    shelf.remove("small")
    assert rest(shelf, "small") is ModelState.ABSENT
    assert shelf.status("small").stored.disk_bytes == 0


def test_jobs_of_two_models_share_the_device(desk: Desk, shelf: ModelShelf) -> None:
    shelf.download("small")
    rest(shelf, "small")
    first = desk.submit(request(LONG))
    until(lambda: first.state is TicketState.RUNNING)
    second = desk.submit(request(), model="small", group="pair")
    assert shelf.settled("small").wait(PATIENCE_S)
    until(lambda: second.state is TicketState.WAITING)  # the first still runs
    view = next(view for view in desk.views() if view.id == second.id)
    assert (view.model, view.group, view.position) == ("small", "pair", 1)
    own, n_others = desk.queue()
    assert ([view.id for view in own], n_others) == ([first.id, second.id], 0)
    assert desk.queue(owner="ann") == ([], 2)
    desk.stop(first.id)
    assert second.finished.wait(PATIENCE_S)
    assert second.entry is not None, second.error
    assert second.entry.model_name == "tiny"


def test_a_job_waits_for_its_model_or_is_told_what_to_do(desk: Desk, shelf: ModelShelf) -> None:
    with pytest.raises(MissingFiles, match="download it in System"):
        desk.submit(request(), model="small")
    shelf.download("small")
    rest(shelf, "small")
    ticket = desk.submit(request(), model="small")
    assert ticket.finished.wait(PATIENCE_S)
    assert ticket.state is TicketState.DONE, ticket.error
    foreign = replace(request(), voice=shelf_voice(desk))
    shelf.unload("small")
    rest(shelf, "small")
    with pytest.raises(LayoutMismatch):
        desk.submit(foreign, model="small")
    assert not shelf.status("small").loaded  # it wasn't loaded for nothing


def shelf_voice(desk: Desk) -> Any:
    """A voice of the default model."""
    ticket = desk.submit(request())
    assert ticket.finished.wait(PATIENCE_S)
    config = desk.models.config()
    assert config is not None
    return read_segments(desk.history.voice_path(ticket.id), layout=config.layout)[-1]


def test_what_works_is_not_unloaded_unless_told(desk: Desk, shelf: ModelShelf) -> None:
    ticket = desk.submit(request(LONG))
    until(lambda: ticket.live)
    with pytest.raises(GenerationError, match="stop them"):
        shelf.unload()
    with pytest.raises(GenerationError, match="stop them"):
        shelf.load("", Choice(precision="bfloat16"))
    shelf.unload(force=True)
    assert ticket.finished.wait(PATIENCE_S)
    assert ticket.state is TicketState.STOPPED
    assert ticket.entry is not None  # what was finished is kept
    assert rest(shelf, "page") is ModelState.HERE
    again = desk.submit(request())  # loads it again
    assert again.finished.wait(PATIENCE_S)
    assert again.state is TicketState.DONE, again.error


def test_precision_is_chosen_and_kept(shelf: ModelShelf, settings: StudioSettings) -> None:
    shelf.load("page", Choice(precision="bfloat16"))
    assert rest(shelf, "page") is ModelState.LOADED
    assert shelf.status("page").precision == "bfloat16"
    shelf.load("page", Choice(precision="float32"))
    rest(shelf, "page")
    assert shelf.status("page").precision == "float32"
    assert ModelShelf(settings).status("page").choice == Choice(precision="float32")
    with pytest.raises(InvalidSetting):
        Choice(precision="int4")
    with pytest.raises(InvalidSetting):
        Choice(offload="maybe")
    for nonsense in (Choice(offload="on"), Choice(precision="bfloat16-kv8")):  # on a CPU
        with pytest.raises(InvalidSetting, match="use 'auto'"):
            shelf.load("page", nonsense)
    assert shelf.status("page").state is ModelState.LOADED  # as before
    assert ModelShelf(settings).status("page").choice == Choice(precision="float32")


def test_the_page_offers_what_can_be_loaded() -> None:
    assert ("auto", *placement.PRECISIONS) == PRECISIONS
    assert CUDA_ONLY == placement.CUDA_ONLY


def test_the_next_start_begins_with_what_was_chosen(
    shelf: ModelShelf, settings: StudioSettings
) -> None:
    with pytest.raises(MissingFiles):
        shelf.begin_with("small")
    shelf.download("small")
    rest(shelf, "small")
    shelf.begin_with("small")
    assert shelf.status("small").default_next
    assert not shelf.status("small").default
    free = replace(settings, model="")
    assert ModelShelf(free).default == "small"
    assert ModelShelf(settings).default == "page"  # what was asked for goes first
    shelf.remove("small")
    rest(shelf, "small")
    assert ModelShelf(free).default == "pup"  # a start downloads nothing by itself


@pytest.mark.parametrize("damage", [b"", b"{", b"[]", b'{"model": 1}', b"\xff\xfe\x00"])
def test_damaged_preferences_are_left_away(tmp_path: Path, damage: bytes) -> None:
    kept = Preferences("small", {"small": Choice("float16", "on")})
    write_preferences(tmp_path / "data", kept)
    assert read_preferences(tmp_path / "data") == kept
    (tmp_path / "data" / FILE).write_bytes(damage)
    assert read_preferences(tmp_path / "data") == Preferences()


def test_an_idle_model_makes_room_for_another(settings: StudioSettings) -> None:
    n_free = [GB]

    def devices() -> tuple[DeviceInfo, ...]:
        return (DeviceInfo("cpu", "cpu", "a processor", 4 * GB, n_free[0], True),)

    def counted(model: str, **options: Any) -> Cascade:
        cascade = load(model, **options)
        n_free[0] = 10_000  # less than the other one needs
        unload = cascade.unload

        def freed() -> None:
            unload()
            n_free[0] = GB

        cascade.unload = freed  # type: ignore[method-assign]
        return cascade

    shelf = ModelShelf(settings, backend=InProcessBackend(load=counted), devices=devices)
    shelf.start()
    assert rest(shelf, "page") is ModelState.LOADED
    shelf.download("small")
    rest(shelf, "small")
    shelf.load("small")
    assert rest(shelf, "small") is ModelState.LOADED
    assert rest(shelf, "page") is ModelState.HERE
    n_free[0] = 1000
    shelf.unload("small")
    rest(shelf, "small")
    n_free[0] = 1000
    shelf.load("small")
    assert rest(shelf, "small") is ModelState.FAILED
    assert isinstance(shelf.status("small").error, OutOfMemory)
    shelf.load("small", despite_memory=True)
    assert rest(shelf, "small") is ModelState.LOADED
    shelf.close()


def test_a_recommendation_counts_what_could_be_freed(shelf: ModelShelf) -> None:
    shelf.load("page")
    rest(shelf, "page")
    fit, recommended = shelf.fit("page"), shelf.recommendation()
    assert fit is not None
    assert recommended is not None
    assert fit.needed_bytes < GB
    assert recommended.fit.model in shelf.names()
    assert shelf.status(recommended.fit.model).name == recommended.fit.model


def test_a_folder_that_is_no_model_is_told_of(settings: StudioSettings, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    shelf = ModelShelf(replace(settings, model=str(tmp_path / "empty")))
    assert shelf.status().state is ModelState.FAILED
    shelf.start()
    assert shelf.settled().wait(PATIENCE_S)
    until(lambda: shelf.status().error)
    assert isinstance(shelf.status().error, BarkError)
    shelf.close()


def test_closing_ends_a_download(shelf: ModelShelf, hub: FakeHub) -> None:
    slowed(hub)
    shelf.download("small")
    until(lambda: shelf.status("small").transfer)
    shelf.close()
    assert rest(shelf, "small") in (ModelState.PARTIAL, ModelState.ABSENT)


def test_a_desk_that_closes_says_so_to_whoever_watches(desk: Desk) -> None:
    assert not desk.closing
    desk.close()
    assert desk.closing


@pytest.mark.skipif(process_memory_bytes() is None, reason="the system doesn't tell")
def _memory_of_loading(folder: Path, settings: StudioSettings) -> list[int]:
    """Bytes of this process: unloaded, loaded, unloaded.

    After a first round, which fetches libraries that stay.
    """
    # another precision than the files': the weights lie in memory, not in a mapped file
    shelf = ModelShelf(replace(settings, model=str(folder), precision="bfloat16"))
    measured = []
    for _ in range(2):
        shelf.load()
        assert rest(shelf, "big") is ModelState.LOADED
        measured.append(process_memory_bytes() or 0)
        shelf.unload()
        assert rest(shelf, "big") is ModelState.HERE
        measured.append(process_memory_bytes() or 0)
    shelf.close()
    return measured


def test_unloading_really_frees_the_memory(settings: StudioSettings, tmp_path: Path) -> None:
    config = page_config()
    wide: dict[str, Any] = {"n_layer": 8, "n_embd": 512, "n_head": 8}
    big = replace(
        config,
        text=replace(config.text, **wide),
        coarse=replace(config.coarse, **wide),
        fine=replace(config.fine, **wide),
    )
    folder = save_tiny_model(tmp_path / "big", config=big)
    weights = sum(file.stat().st_size for file in folder.glob("*.safetensors"))
    assert weights > 200_000_000
    # in a process of its own: other tests' memory comes and goes in this one
    alone = ProcessPoolExecutor(max_workers=1, mp_context=get_context("spawn"))
    with alone:
        measured = alone.submit(_memory_of_loading, folder, settings).result()
    _loaded_first, before, loaded, after = measured
    assert loaded - before > weights / 3
    assert after - before < 0.1 * weights

"""Downloads against a real HTTP server: pinned, resumed, checked, stopped, offline afterwards."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from bark_core.cascade import Cascade
from bark_core.checkpoint import download, load
from bark_core.config import SMALL
from bark_core.errors import (
    Cancelled,
    DownloadError,
    InvalidCheckpoint,
    MissingFiles,
    StorageError,
    UnknownModel,
)
from bark_core.hub import DownloadProgress, Hub
from bark_core.models import (
    installed,
    model_config,
    models_in_cache,
    remove,
    stored,
    voice_fetcher,
)
from tests import tiny
from tests.hub_server import FakeHub, serve

REPOSITORY = "someone/tiny-bark"
PUBLISHED = "suno/bark-small"
WEIGHTS = "pytorch_model.bin"
VOICE = "speaker_embeddings/v2/en_speaker_6_fine_prompt.npy"


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A transformers Bark as on the hub, with a voice."""
    folder = tmp_path_factory.mktemp("hub") / "model"
    tiny.save_tiny_transformers_model(folder)
    (folder / VOICE).parent.mkdir(parents=True)
    np.save(folder / VOICE, np.zeros((8, 300), np.int64))
    (folder / "README.md").write_text("unused")
    return folder


@pytest.fixture
def hub(published: Path) -> Iterator[FakeHub]:
    fake = FakeHub()
    fake.publish(PUBLISHED, published)
    with serve(fake):
        yield fake


@pytest.fixture
def small(tiny_folder: Path) -> Iterator[FakeHub]:
    """A hub with the tiny model in our own layout: a few kilobytes."""
    fake = FakeHub()
    fake.publish(REPOSITORY, tiny_folder)
    with serve(fake):
        yield fake


def get(hub: FakeHub, cache: Path, name: str = REPOSITORY, **options: object) -> Cascade:
    return load(name, cache_dir=cache, device="cpu", endpoint=hub.url, **options)  # type: ignore[arg-type]


def partials(cache: Path) -> list[str]:
    return [path.name for path in (cache / "downloads").rglob("*.partial")]


def test_published_model_is_downloaded_once_and_offline_afterwards(
    hub: FakeHub, published: Path, tmp_path: Path
) -> None:
    steps: list[DownloadProgress] = []
    first = get(hub, tmp_path, "small", progress=steps.append)
    assert sorted(hub.files_asked()) == [
        "config.json",
        "generation_config.json",
        WEIGHTS,
        "vocab.txt",
    ]
    assert first.identity.name == "small"
    assert first.identity.source == PUBLISHED
    assert first.identity.revision == hub.commit(PUBLISHED)
    assert {step.step for step in steps} == {"download", "check", "convert"}
    assert steps[-1].step == "convert"
    n_requests = len(hub.requests)
    second = get(hub, tmp_path, "small")
    third = load("small", cache_dir=tmp_path, device="cpu", local_files_only=True)
    assert len(hub.requests) == n_requests
    assert torch.equal(second.text.lm_head.weight, first.text.lm_head.weight)
    assert third.identity == first.identity
    assert installed("small", tmp_path)


def test_progress_counts_all_bytes(small: FakeHub, tmp_path: Path) -> None:
    steps: list[DownloadProgress] = []
    get(small, tmp_path, progress=steps.append)
    loading = [step for step in steps if step.step == "download"]
    total = sum(len(content) for content in small.repositories[REPOSITORY].values())
    assert {step.total_bytes for step in loading} == {total}
    done = [step.done_bytes for step in steps]
    assert done == sorted(done)
    assert steps[-1].done_bytes == total


def test_resumed_progress_counts_what_is_here(small: FakeHub, tmp_path: Path) -> None:
    total = sum(len(content) for content in small.repositories[REPOSITORY].values())

    small.on_bytes = lambda: time.sleep(0.05)

    def stop(progress: DownloadProgress) -> None:
        if progress.done_bytes > total // 2:
            raise Cancelled("stop")

    with pytest.raises(Cancelled):
        get(small, tmp_path, progress=stop)
    here = stored(REPOSITORY, tmp_path)
    assert (here.installed, here.total_bytes) == (False, total)
    assert total // 2 < here.done_bytes < total
    steps: list[DownloadProgress] = []
    get(small, tmp_path, progress=steps.append)
    loading = [step for step in steps if step.step == "download"]
    assert {step.total_bytes for step in loading} == {total}
    assert loading[0].done_bytes >= here.done_bytes - 2**16
    assert stored(REPOSITORY, tmp_path).done_bytes == total


def test_a_download_alone_makes_a_model_ready(hub: FakeHub, tmp_path: Path) -> None:
    cache = tmp_path
    assert stored("small", cache).done_bytes == 0
    assert model_config("small", cache) == SMALL
    download("small", precision="float16", cache_dir=cache, endpoint=hub.url)
    here = stored("small", cache)
    assert here.installed
    assert here.disk_bytes > here.done_bytes == here.total_bytes
    config = model_config("small", cache)
    assert config is not None
    assert config.text.n_embd == tiny.WIDTH
    cascade = load("small", precision="float16", cache_dir=cache, local_files_only=True)
    assert cascade.identity.precision == "float16"


def test_what_was_downloaded_before_is_found_again(small: FakeHub, tmp_path: Path) -> None:
    assert models_in_cache(tmp_path) == {}
    get(small, tmp_path)
    tiny.save_tiny_transformers_model(tmp_path / "mine")
    load(tmp_path / "mine", device="cpu", cache_dir=tmp_path)
    found = models_in_cache(tmp_path)
    assert set(found) == {REPOSITORY, "mine"}
    assert found[REPOSITORY] == REPOSITORY
    assert load(found["mine"], cache_dir=tmp_path).identity.source == "mine"


def test_removing_a_model_keeps_the_voices(small: FakeHub, tmp_path: Path) -> None:
    small.repositories[PUBLISHED] = {**small.repositories[REPOSITORY], VOICE: b"a voice"}
    get(small, tmp_path, "small")
    kept = voice_fetcher(tmp_path, endpoint=small.url)(VOICE)
    here = stored("small", tmp_path)
    assert remove("small", tmp_path) == here.disk_bytes
    assert not installed("small", tmp_path)
    assert stored("small", tmp_path).disk_bytes == 0
    assert voice_fetcher(tmp_path, local_files_only=True)(VOICE) == kept


def test_broken_line_is_resumed_where_it_broke(small: FakeHub, tmp_path: Path) -> None:
    small.break_after["codec.safetensors"] = [70_000, 1, 50_000]
    get(small, tmp_path)
    asked = [request for request in small.requests if "/content/" in request and "codec" in request]
    positions = [int(r.split("bytes=")[1].rstrip("-")) for r in asked if "bytes=" in r]
    assert len(positions) == 3
    assert 0 < positions[0] <= positions[1] < positions[2]
    assert not partials(tmp_path)


def test_token_stays_with_the_hub(
    small: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    get(small, tmp_path)
    assert small.tokens["127.0.0.1"] == {"Bearer hf_secret"}
    assert small.tokens["localhost"] == {""}


def test_server_without_ranges_starts_again(small: FakeHub, tmp_path: Path) -> None:
    small.break_after["codec.safetensors"] = [70_000]
    small.ignore_ranges = True
    get(small, tmp_path)
    assert not partials(tmp_path)


def test_busy_server_is_asked_again(small: FakeHub, tmp_path: Path) -> None:
    Hub(tmp_path, endpoint=small.url).pin(REPOSITORY)
    small.unavailable = 2
    get(small, tmp_path)


def test_dead_line_gives_up_and_keeps_what_came(
    small: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bark_core.hub.ATTEMPTS", 2)
    small.break_after["codec.safetensors"] = [70_000] + [0] * 100
    with pytest.raises(DownloadError, match="kept"):
        get(small, tmp_path)
    (partial,) = (tmp_path / "downloads").rglob("*.partial")
    kept = partial.stat().st_size
    assert 0 < kept <= 70_000
    small.break_after.clear()
    small.requests.clear()
    get(small, tmp_path)
    assert any(f"bytes={kept}-" in request for request in small.requests)


def test_stop_is_quick_and_leaves_only_what_can_be_resumed(small: FakeHub, tmp_path: Path) -> None:
    asked = threading.Event()
    small.on_bytes = lambda: asked.wait(0.05)  # type: ignore[assignment]

    def stop(progress: DownloadProgress) -> None:
        if progress.file == "codec.safetensors" and progress.done_bytes:
            raise Cancelled("stop")

    with pytest.raises(Cancelled):
        get(small, tmp_path, progress=stop)
    folder = tmp_path / "downloads"
    names = {path.name for path in folder.rglob("*") if path.is_file()}
    assert names <= {
        "config.json",
        *(f"{n}.safetensors" for n in ("semantic", "coarse", "fine")),
    } | {"codec.safetensors.partial"}
    assert not installed(REPOSITORY, tmp_path)
    get(small, tmp_path)
    assert installed(REPOSITORY, tmp_path)


@pytest.mark.parametrize("file", ["semantic.safetensors", "config.json"])
def test_other_bytes_than_stated_are_refused(small: FakeHub, tmp_path: Path, file: str) -> None:
    small.corrupt.add(file)
    with pytest.raises(DownloadError, match="checksum"):
        get(small, tmp_path)
    assert not partials(tmp_path)
    assert not list((tmp_path / "downloads").rglob(file))
    small.corrupt.clear()
    get(small, tmp_path)


def test_leftover_of_another_download_is_noticed(small: FakeHub, tmp_path: Path) -> None:
    hub = Hub(tmp_path, endpoint=small.url)
    pin = hub.pin(REPOSITORY)
    file = pin.file("codec.safetensors")
    assert file
    partial = hub.path(pin, file).with_name("codec.safetensors.partial")
    partial.parent.mkdir(parents=True)
    partial.write_bytes(b"x" * (file.size - 10))
    with pytest.raises(DownloadError, match="checksum"):
        get(small, tmp_path)
    get(small, tmp_path)
    partial.write_bytes(b"x" * (file.size + 10))
    hub.path(pin, file).unlink()
    with pytest.raises(DownloadError, match="more of"):
        get(small, tmp_path)
    get(small, tmp_path)


def test_revision_stays_pinned_until_an_update(
    small: FakeHub, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    first = get(small, tmp_path)
    newer = tiny.save_tiny_model(tmp_path_factory.mktemp("newer") / "tiny", seed=1)
    small.publish(REPOSITORY, newer)
    assert get(small, tmp_path).identity == first.identity
    updated = get(small, tmp_path, update=True)
    assert updated.identity.revision == small.commit(REPOSITORY) != first.identity.revision
    assert get(small, tmp_path).identity == updated.identity
    pins = json.loads((tmp_path / "pins.json").read_text())
    assert pins[REPOSITORY]["commit"] == updated.identity.revision


def test_update_of_a_converted_model_drops_the_old_one(
    hub: FakeHub, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    get(hub, tmp_path, "small")
    newer = tmp_path_factory.mktemp("newer")
    tiny.save_tiny_transformers_model(newer, seed=1)
    hub.publish(PUBLISHED, newer)
    get(hub, tmp_path, "small", update=True)
    assert len(list((tmp_path / "models").iterdir())) == 1
    assert len(list((tmp_path / "downloads" / "suno--bark-small").iterdir())) == 1


def unused_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_without_a_network_it_says_what_to_put_where(tmp_path: Path) -> None:
    nowhere = FakeHub(url=f"http://127.0.0.1:{unused_port()}")
    expected = r"suno/bark-small into .*suno--bark-small.manual: config\.json.*pytorch_model\.bin"
    with pytest.raises(DownloadError, match=expected):
        get(nowhere, tmp_path, "small")
    with pytest.raises(MissingFiles, match=expected):
        load("small", cache_dir=tmp_path, local_files_only=True)
    assert not installed("small", tmp_path)


def test_files_put_there_by_hand_are_used(published: Path, tmp_path: Path) -> None:
    manual = tmp_path / "downloads" / "suno--bark-small" / "manual"
    manual.mkdir(parents=True)
    for file in published.iterdir():
        if file.is_file():
            (manual / file.name).write_bytes(file.read_bytes())
    assert installed("small", tmp_path)
    loaded = load("small", cache_dir=tmp_path, device="cpu", local_files_only=True)
    assert loaded.identity.name == "small"
    assert loaded.identity.source == PUBLISHED


def test_line_that_breaks_for_good_says_which_files_are_wanted(
    small: FakeHub, tmp_path: Path
) -> None:
    Hub(tmp_path, endpoint=small.url).pin(REPOSITORY)
    with pytest.raises(MissingFiles, match=r"manual: config\.json, semantic\.safetensors"):
        load(REPOSITORY, cache_dir=tmp_path, local_files_only=True)


def test_unknown_repository(hub: FakeHub, tmp_path: Path) -> None:
    with pytest.raises(UnknownModel, match="closest: 'suno/bark-small'"):
        get(hub, tmp_path, "suno/bark-smal")


def test_repository_of_something_else(hub: FakeHub, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    (other / "config.json").write_text('{"model_type": "llama"}')
    (other / "vocab.txt").write_text("[UNK]\n")
    hub.publish("someone/else", other)
    with pytest.raises(MissingFiles, match="isn't a Bark model"):
        get(hub, tmp_path / "cache", "someone/else")
    assert not (tmp_path / "cache" / "downloads").exists()


def test_commit_that_is_gone_is_said(
    small: FakeHub, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    Hub(tmp_path, endpoint=small.url).pin(REPOSITORY)
    newer = tiny.save_tiny_model(tmp_path_factory.mktemp("newer") / "tiny", seed=1)
    small.publish(REPOSITORY, newer)
    with pytest.raises(DownloadError, match="update=True"):
        get(small, tmp_path)
    get(small, tmp_path, update=True)


def test_unsafe_file_names_are_refused(hub: FakeHub, tmp_path: Path) -> None:
    hub.repositories["someone/bad"] = {"../../evil.txt": b"x"}
    with pytest.raises(DownloadError, match="unsafe name"):
        get(hub, tmp_path, "someone/bad")


def test_too_little_disk_is_said_before_the_download(
    small: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bark_core.hub.MARGIN_BYTES", 10**16)
    with pytest.raises(StorageError, match="free"):
        get(small, tmp_path)
    assert not small.files_asked()


def test_remove_frees_the_disk_and_forgets(hub: FakeHub, tmp_path: Path) -> None:
    get(hub, tmp_path, "small")
    freed = remove("small", tmp_path)
    assert freed > 1.5 * len(hub.repositories[PUBLISHED][WEIGHTS])
    assert not installed("small", tmp_path)
    assert not list((tmp_path / "models").iterdir())
    assert remove("small", tmp_path) == 0


def test_other_precision_needs_no_second_download(hub: FakeHub, tmp_path: Path) -> None:
    get(hub, tmp_path, "small", precision="bfloat16")
    n_requests = len(hub.requests)
    full = get(hub, tmp_path, "small")
    assert full.text.dtype == torch.float32
    assert len(hub.requests) == n_requests
    # float32 is there now, and gives any other
    assert get(hub, tmp_path, "small", precision="float16").text.dtype == torch.float16
    assert len(list((tmp_path / "models").iterdir())) == 2


def test_two_at_once_download_once(small: FakeHub, tmp_path: Path) -> None:
    results: list[object] = []

    def work() -> None:
        results.append(get(small, tmp_path).identity)

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 3
    assert len(set(results)) == 1
    assert sorted(small.files_asked()) == sorted(small.repositories[REPOSITORY])


def test_voices_come_from_the_pinned_commit_and_stay(hub: FakeHub, tmp_path: Path) -> None:
    fetch = voice_fetcher(tmp_path, endpoint=hub.url)
    path = fetch(VOICE)
    assert np.load(path).shape == (8, 300)
    n_requests = len(hub.requests)
    assert fetch(VOICE) == path
    assert voice_fetcher(tmp_path, local_files_only=True)(VOICE) == path
    assert len(hub.requests) == n_requests
    with pytest.raises(MissingFiles, match="no file"):
        fetch("speaker_embeddings/v2/nobody_fine_prompt.npy")


def test_voice_without_a_network_says_where_to_put_it(tmp_path: Path) -> None:
    with pytest.raises(DownloadError, match=r"en_speaker_6_fine_prompt\.npy"):
        voice_fetcher(tmp_path, local_files_only=True)(VOICE)
    manual = tmp_path / "downloads" / "suno--bark-small" / "manual" / VOICE
    manual.parent.mkdir(parents=True)
    np.save(manual, np.zeros((8, 30), np.int64))
    assert voice_fetcher(tmp_path, local_files_only=True)(VOICE) == manual


def test_damaged_pins_are_said(small: FakeHub, tmp_path: Path) -> None:
    (tmp_path / "pins.json").write_text("{")
    with pytest.raises(InvalidCheckpoint, match=r"pins\.json"):
        get(small, tmp_path)

"""Laws of the store: nothing is lost, nothing is half there, whatever interrupts it."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bark_core import (
    InvalidSetting,
    LayoutMismatch,
    StorageError,
    read_audio,
    read_tags,
    write_bytes_atomically,
)
from tests.made import made
from tests.tiny import TINY_LAYOUT
from webui import history as history_module
from webui import history_schema
from webui.history import MIGRATIONS, N_PEAKS, Entry, History, is_id, new_id
from webui.history_mend import BIN_S

posix = pytest.mark.skipif(os.name != "posix", reason="uses limits and signals of POSIX systems")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "data"


@pytest.fixture
def history(folder: Path) -> Iterator[History]:
    history = History.open(folder)
    yield history
    history.close()


def reopened(history: History) -> History:
    history.close()
    return History.open(history.folder)


def files(history: History) -> list[str]:
    return sorted(path.name for path in history.sounds.iterdir())


def test_an_entry_survives_reopening(history: History) -> None:
    kept = history.add(made("Good evening.", seed=11, voice_name="rosa"))
    again = reopened(history).get(kept.id)
    assert again == kept
    assert again.text == "Good evening."
    assert again.seed == 11
    assert again.voice_name == "rosa"
    assert again.model_name == "tiny"
    assert again.complete
    assert len(again.peaks) == N_PEAKS


def test_sound_voice_and_sidecar_lie_beside_each_other(history: History) -> None:
    generation = made(seconds=0.5)
    kept = history.add(generation)
    assert files(history) == [f"{kept.id}.{kind}" for kind in ("flac", "json", "npz")]
    sound = read_audio(history.sound_path(kept.id))
    assert len(sound) == len(generation.audio)
    assert read_tags(history.sound_path(kept.id))["seed"] == 7
    sidecar = json.loads(history.sidecar_path(kept.id).read_text("utf-8"))
    assert sidecar["details"]["text"] == "Good evening."


def test_a_partial_result_is_kept_as_such(history: History) -> None:
    kept = history.add(made(n_segments=2, n_planned=3))
    assert not kept.complete
    assert [entry.complete for entry in history.search()] == [False]


def test_the_newest_come_first_and_pages_don_t_overlap(history: History) -> None:
    ids = [history.add(made(f"take {n}"), created_at=float(n)).id for n in range(5)]
    assert [entry.id for entry in history.search()] == ids[::-1]
    pages = [history.search(limit=2, offset=offset) for offset in (0, 2, 4)]
    assert [entry.id for page in pages for entry in page] == ids[::-1]
    assert history.count() == 5


@pytest.mark.parametrize(
    ("words", "found"),
    [
        ("evening", {"Good evening, Ann."}),
        ("GOOD ann", {"Good evening, Ann."}),
        ("éVENING", {"Évening 100%"}),
        ("rosa", {"The sea_side"}),
        ("100%", {"Évening 100%"}),
        ("%", {"Évening 100%"}),
        ("_", {"The sea_side"}),
        ("\\", set()),
        ("evening sea", set()),
        ("424242", {"The sea_side"}),
        ("  ", {"Good evening, Ann.", "Évening 100%", "The sea_side"}),
    ],
)
def test_search_finds_all_words_in_text_voice_model_and_seed(
    history: History, words: str, found: set[str]
) -> None:
    history.add(made("Good evening, Ann."))
    history.add(made("Évening 100%"))
    history.add(made("The sea_side", voice_name="rosa", seed=424242))
    assert {entry.text for entry in history.search(words)} == found
    assert history.count(words) == len(found)


def test_owners_see_only_their_own(history: History) -> None:
    mine = history.add(made("mine"), owner="ann")
    assert history.search(owner="bob") == []
    assert history.get(mine.id, owner="bob") is None
    assert not history.delete(mine.id, owner="bob")
    assert history.get(mine.id, owner="ann") == mine


def test_delete_removes_row_and_files(history: History) -> None:
    gone, stays = history.add(made("gone")), history.add(made("stays"))
    assert history.delete(gone.id)
    assert not history.delete(gone.id)
    assert [entry.id for entry in history.search()] == [stays.id]
    assert files(history) == [f"{stays.id}.{kind}" for kind in ("flac", "json", "npz")]
    assert reopened(history).get(gone.id) is None


def test_ids_can_t_be_guessed_or_lead_elsewhere() -> None:
    assert len({new_id() for _ in range(100)}) == 100
    assert is_id(new_id())
    for text in ("", "..", "../" * 10 + "a", "A" * 32, "0" * 31, "0" * 33, "٠" * 32):
        assert not is_id(text)


# --- favourites, tags, groups


def sidecar(history: History, entry: Entry) -> dict[str, Any]:
    data: dict[str, Any] = json.loads(history.sidecar_path(entry.id).read_text("utf-8"))
    return data


def test_a_favourite_is_one_in_index_and_sidecar(history: History) -> None:
    kept = history.add(made(), owner="ann")
    assert not history.set_favourite(kept.id, True, owner="bob")
    assert not history.set_favourite(new_id(), True, owner="ann")
    assert history.set_favourite(kept.id, True, owner="ann")
    again = history.get(kept.id, owner="ann")
    assert again is not None and again.favourite
    assert Entry.from_json(sidecar(history, kept)) == again
    assert [e.id for e in history.search(owner="ann", favourite=True)] == [kept.id]
    assert history.search(owner="ann", favourite=False) == []
    assert history.set_favourite(kept.id, False, owner="ann")
    assert history.get(kept.id, owner="ann") == kept


def test_tags_are_kept_as_they_were_first_written(history: History) -> None:
    kept = history.add(made())
    assert history.set_tags(kept.id, ["Rain", "  for   the film ", "rain", "e\u0301tude"])
    entry = history.get(kept.id)
    assert entry is not None
    assert entry.tags == ("Rain", "for the film", "étude")
    assert sidecar(history, kept)["tags"] == list(entry.tags)
    assert history.tag([kept.id], add=["RAIN", "Night"], remove=["ÉTUDE"]) == 1
    entry = history.get(kept.id)
    assert entry is not None
    assert entry.tags == ("Rain", "for the film", "Night")
    assert [e.id for e in history.search(tag="Rain")] == [kept.id]
    assert [e.id for e in history.search("night film")] == [kept.id]
    assert history.search(tag="rai") == []


@pytest.mark.parametrize(
    "tags", [[""], ["  "], ["a,b"], ["x" * 41], ["a\x00"], [f"tag {n}" for n in range(21)], [7]]
)
def test_tags_that_can_t_be_are_refused(history: History, tags: list[Any]) -> None:
    kept = history.add(made())
    with pytest.raises(InvalidSetting):
        history.set_tags(kept.id, tags)
    assert history.get(kept.id) == kept


def test_several_are_tagged_at_once_and_only_one_s_own(history: History) -> None:
    mine = [history.add(made(f"take {n}"), owner="ann").id for n in range(3)]
    other = history.add(made("other"), owner="bob")
    ids = [*mine, other.id, new_id(), mine[0]]
    assert history.tag(ids, add=["x"], owner="ann") == 3
    assert history.set_favourites(ids, True, owner="ann") == 3
    assert history.ids(owner="ann", tag="x", favourite=True) == mine[::-1]
    assert history.get(other.id, owner="bob") == other


def test_filters_narrow_a_search(history: History) -> None:
    rolled = history.add(made("rolled", seed=1), created_at=1.0)
    rosa = history.add(made("rosa speaks", voice_name="rosa"), group="g", created_at=2.0)
    mix = history.add_sound(
        made().audio,
        {"text": "Ann: rolled?", "voices": ["rosa", "ralf"], "model": {"name": "tiny"}},
        created_at=3.0,
    )

    def found(words: str = "", **filters: Any) -> list[str]:
        assert history.count(words, **filters) == len(history.search(words, **filters))
        ids = [entry.id for entry in history.search(words, **filters)]
        assert history.ids(words, **filters) == ids
        return ids

    assert found() == [mix.id, rosa.id, rolled.id]
    assert found(voice="") == [rolled.id]
    assert found(voice="rosa") == [rosa.id]
    assert found(kind="script") == [mix.id]
    assert found("rolled") == [mix.id, rolled.id]
    assert found("rolled", kind="speech") == [rolled.id]
    assert found("ralf") == [mix.id]
    assert found(model="tiny") == [mix.id, rosa.id, rolled.id]
    assert found(model="large") == []
    assert found(group="g") == [rosa.id]
    choices = history.choices()
    assert choices.voices == ("", "rosa")
    assert choices.models == ("tiny",)
    assert choices.kinds == ("script", "speech")
    assert choices.tags == ()
    history.set_tags(mix.id, ["b", "A"])
    assert history.choices().tags == ("A", "b")
    assert history.choices(owner="bob").voices == ()


def test_a_script_s_mix_is_an_entry_of_its_kind(history: History) -> None:
    generation = made(n_segments=2)
    details = {"text": "Ann: hello", "voices": ["rosa"], "duration_s": 99.0}
    mix = history.add_sound(generation.audio, details, segments=generation.voices, owner="ann")
    assert mix.kind == "script" and mix.complete and mix.voice_name is None
    assert mix.details["duration_s"] == pytest.approx(generation.audio.duration_s, abs=0.001)
    assert history.get(mix.id, owner="ann") == mix
    assert read_tags(history.sound_path(mix.id))["kind"] == "script"
    assert len(history.segments(mix.id, TINY_LAYOUT, owner="ann")) == 2


def test_the_tokens_of_all_segments_are_there(history: History) -> None:
    generation = made(n_segments=3)
    kept = history.add(generation, owner="ann")
    segments = history.segments(kept.id, TINY_LAYOUT, owner="ann")
    assert [voice.sha256 for voice in segments] == [v.sha256 for v in generation.voices]
    with pytest.raises(StorageError, match="choose another"):
        history.segments(kept.id, TINY_LAYOUT, owner="bob")
    with pytest.raises(LayoutMismatch):
        history.segments(kept.id, dataclasses.replace(TINY_LAYOUT, name="other"), owner="ann")


def test_the_tokens_of_an_older_entry_are_one_voice(history: History) -> None:
    generation = made()
    kept = history.add(generation)
    generation.voice.save(history.voice_path(kept.id))
    (voice,) = history.segments(kept.id, TINY_LAYOUT)
    assert voice.sha256 == generation.voice.sha256


# --- the bin


def test_what_is_deleted_can_be_put_back(history: History) -> None:
    gone, stays = history.add(made("gone")), history.add(made("stays"))
    history.set_tags(gone.id, ["x"])
    before = history.get(gone.id)
    assert history.trash([gone.id, new_id()]) == 1
    assert history.trash([gone.id]) == 0
    assert history.search() == [stays]
    assert history.get(gone.id) is None
    assert history.choices().tags == ()
    assert [entry.id for entry in history.trashed()] == [gone.id]
    assert reopened(history).get(gone.id) is None
    history = reopened(history)
    assert history.restore([gone.id], owner="bob") == 0
    assert history.restore([gone.id]) == 1
    assert history.get(gone.id) == before
    assert sidecar(history, gone)["trashed_at"] is None
    history.close()


def test_the_bin_is_emptied_for_one_person(history: History) -> None:
    ids = {who: history.add(made(), owner=who).id for who in ("ann", "bob")}
    for who, entry_id in ids.items():
        assert history.trash([entry_id], owner=who) == 1
    assert history.empty_bin(owner="ann") == 1
    assert files(history) == [f"{ids['bob']}.{kind}" for kind in ("flac", "json", "npz")]
    assert history.restore([ids["ann"]], owner="ann") == 0
    assert history.restore([ids["bob"]], owner="bob") == 1


def test_the_bin_forgets_after_a_week(history: History) -> None:
    old, young = history.add(made("old")), history.add(made("young"))
    history.trash([old.id, young.id])
    path = history.folder / "history.sqlite3"
    with contextlib.closing(sqlite3.connect(path)) as connection, connection:
        connection.execute(
            "UPDATE entries SET trashed_at = ? WHERE id = ?", (time.time() - BIN_S - 60, old.id)
        )
    again = reopened(history)
    assert [entry.id for entry in again.trashed()] == [young.id]
    assert not again.sound_path(old.id).exists()


# --- the disk


def on_disk(history: History, *entries: Entry) -> int:
    ids = {entry.id for entry in entries}
    return sum(path.stat().st_size for path in history.sounds.iterdir() if path.stem in ids)


def test_disk_use_is_what_the_files_take(history: History) -> None:
    one, two = history.add(made(), owner="ann"), history.add(made(seconds=1.0), owner="ann")
    other = history.add(made(), owner="bob")
    history.set_tags(one.id, ["a longer sidecar"], owner="ann")
    usage = history.usage("ann")
    assert (usage.n_entries, usage.n_bytes) == (2, on_disk(history, one, two))
    assert history.usage().n_bytes == on_disk(history, one, two, other)
    history.trash([two.id], owner="ann")
    usage = history.usage("ann")
    assert (usage.n_entries, usage.n_trashed) == (1, 1)
    assert usage.trashed_bytes == on_disk(history, two)
    history.empty_bin(owner="ann")
    assert history.usage("ann").trashed_bytes == 0


# --- whoever looks while it closes, and from elsewhere


def test_a_closed_store_answers_quietly(history: History) -> None:
    kept = history.add(made())
    history.close()
    assert history.get(kept.id) is None
    assert history.search() == []
    assert history.count() == 0
    assert history.choices().voices == ()
    assert history.usage().n_entries == 0
    with pytest.raises(StorageError, match="closed"):
        history.set_favourite(kept.id, True)
    history.close()


def test_the_version_grows_with_changes_of_others_too(history: History) -> None:
    kept = history.add(made())
    before = history.version
    assert history.version == before
    other = History.open(history.folder, mend=False)
    other.set_favourite(kept.id, True)
    other.close()
    assert history.version > before


def test_no_change_is_lost_between_two_processes(history: History) -> None:
    kept = history.add(made())
    stores = [history, History.open(history.folder, mend=False)]

    def add_tags(store: History, name: str) -> None:
        for n in range(8):
            store.tag([kept.id], add=[f"{name} {n}"])

    threads = [
        threading.Thread(target=add_tags, args=(store, name))
        for store, name in zip(stores, "ab", strict=True)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    entry = history.get(kept.id)
    assert entry is not None
    assert sorted(entry.tags) == sorted(f"{name} {n}" for name in "ab" for n in range(8))
    stores[1].close()
    again = reopened(history)
    assert Entry.from_json(sidecar(again, kept)) == entry


# --- what a kill leaves


def test_the_sweep_removes_temporaries(history: History) -> None:
    kept = history.add(made())
    stray = history.sounds / f".{new_id()}.0a0a0a0a0a0a.partial.flac"
    stray.write_bytes(b"half")
    (history.live / "old-0.flac").write_bytes(b"half")
    again = reopened(history)
    assert not stray.exists()
    assert list(again.live.iterdir()) == []
    assert [entry.id for entry in again.search()] == [kept.id]


def test_a_sound_without_row_comes_back_from_its_sidecar(history: History) -> None:
    kept = history.add(made(), owner="ann")
    history.close()
    (history.folder / "history.sqlite3").unlink()
    assert History.open(history.folder).get(kept.id, owner="ann") == kept


def test_a_sound_without_sidecar_comes_back_from_its_tags(history: History) -> None:
    kept = history.add(made("from the tags", voice_name="rosa"))
    history.close()
    (history.folder / "history.sqlite3").unlink()
    history.sidecar_path(kept.id).unlink()
    again = History.open(history.folder).get(kept.id)
    assert again is not None
    assert again.details == kept.details
    assert again.created_at == kept.created_at
    assert history.sidecar_path(kept.id).exists()


def test_a_full_disk_keeps_the_change_and_the_sidecar_follows(
    history: History, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = history.add(made())

    def full(path: Path, data: bytes) -> None:
        raise StorageError(f"can't write {path}: the disk is full")

    monkeypatch.setattr(history_module, "write_bytes_atomically", full)
    assert history.set_tags(kept.id, ["x"])
    assert sidecar(history, kept)["tags"] == []
    monkeypatch.setattr(history_module, "write_bytes_atomically", write_bytes_atomically)
    again = reopened(history)
    assert sidecar(again, kept)["tags"] == ["x"]
    assert again.usage().n_bytes == on_disk(again, kept)


def everything(history: History) -> dict[str, Entry]:
    return {e.id: e for e in [*history.search(limit=1000), *history.trashed()]}


def test_a_lost_index_comes_back_whole_from_the_sidecars(history: History) -> None:
    ids = [history.add(made(f"take {n}", seed=n), group="g").id for n in range(4)]
    mix = history.add_sound(made().audio, {"text": "mix"})
    history.set_favourite(ids[0], True)
    history.tag(ids[:2], add=["x", "y"])
    history.trash(ids[3:])
    before = everything(history)
    assert len(before) == 5 and before[mix.id].kind == "script"
    history.close()
    (history.folder / "history.sqlite3").unlink()
    again = History.open(history.folder)
    assert everything(again) == before
    present = [entry for entry in before.values() if entry.trashed_at is None]
    assert again.usage().n_bytes == on_disk(again, *present)
    again.close()


def test_a_rescan_believes_the_sidecars(history: History) -> None:
    kept, gone = history.add(made("kept")), history.add(made("gone"))
    data = {**sidecar(history, kept), "tags": ["from elsewhere"], "favourite": True}
    history.sidecar_path(kept.id).write_text(json.dumps(data), "utf-8")
    history.sound_path(gone.id).unlink()
    found = history.rescan()
    assert (found.n_entries, found.n_changed, found.n_missing) == (1, 1, 1)
    entry = history.get(kept.id)
    assert entry is not None
    assert entry.favourite and entry.tags == ("from elsewhere",)
    assert history.rescan().n_changed == 0


def test_a_rescan_prefers_the_index_where_its_change_is_newer(
    history: History, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = history.add(made())

    def full(path: Path, data: bytes) -> None:
        raise StorageError("the disk is full")

    monkeypatch.setattr(history_module, "write_bytes_atomically", full)
    history.set_tags(kept.id, ["newer"])
    monkeypatch.undo()
    assert history.rescan().n_changed == 0
    entry = history.get(kept.id)
    assert entry is not None and entry.tags == ("newer",)


def test_a_rescan_leaves_what_is_being_added_alone(history: History) -> None:
    kept = history.add(made())
    other = History.open(history.folder / "other")
    arriving = other.add(made("arriving"))
    for path in (other.sound_path, other.voice_path):
        path(arriving.id).rename(history.sounds / path(arriving.id).name)
    assert history.rescan().n_found == 0
    assert history.sound_path(arriving.id).exists()
    assert not history.sidecar_path(arriving.id).exists()
    os.utime(history.sound_path(arriving.id), (0, 0))
    assert history.rescan().n_found == 1
    assert {entry.id for entry in history.search()} == {kept.id, arriving.id}
    other.close()


@pytest.mark.parametrize(
    "text",
    ["", "[]", "{}", "null", '{"id": 1}', "[" * 100_000, '{"created_at": NaN}', "\x00\xff"],
)
def test_a_damaged_sidecar_is_passed_over(history: History, text: str) -> None:
    kept = history.add(made("from the tags"))
    history.sidecar_path(kept.id).write_text(text, "utf-8")
    history.close()
    (history.folder / "history.sqlite3").unlink()
    again = History.open(history.folder)
    entry = again.get(kept.id)
    assert entry is not None and entry.text == "from the tags"


def test_a_foreign_sound_is_moved_aside_not_deleted(history: History) -> None:
    stranger = new_id()
    history.sound_path(stranger).write_bytes(b"fLaC nonsense")
    again = reopened(history)
    assert again.count() == 0
    assert (history.folder / "damaged" / f"{stranger}.flac").read_bytes() == b"fLaC nonsense"


def test_a_row_without_sound_hides_until_the_sound_is_back(history: History) -> None:
    kept = history.add(made())
    aside = history.folder / "aside.flac"
    history.sound_path(kept.id).rename(aside)
    again = reopened(history)
    assert again.count() == 0
    aside.rename(again.sound_path(kept.id))
    assert reopened(again).get(kept.id) == kept


def test_an_interrupted_deletion_is_finished(history: History) -> None:
    kept = history.add(made())
    with sqlite3.connect(history.folder / "history.sqlite3") as connection:
        connection.execute("UPDATE entries SET state = 'deleting'")
    connection.close()
    again = reopened(history)
    assert again.get(kept.id) is None
    assert files(again) == []


def test_what_belongs_to_no_sound_goes(history: History) -> None:
    history.sidecar_path(new_id()).write_text("{}")
    history.voice_path(new_id()).write_bytes(b"")
    assert files(reopened(history)) == []


def test_a_second_studio_on_the_folder_leaves_the_first_alone(history: History) -> None:
    running = history.live / "job-0.flac"
    running.write_bytes(b"sound")
    second = History.open(history.folder)
    assert running.exists()
    kept = second.add(made())
    assert history.get(kept.id) == kept
    second.close()


KILLED = """
import itertools, os, signal, sys, time
from pathlib import Path
from bark_core import read_audio
from tests.made import made
from webui.history import History

folder, generation, finished = Path(sys.argv[1]), made(seconds=2.0), set()

def write(pipe):
    history = History.open(folder)
    for n in itertools.count():
        kept = history.add(generation)
        os.write(pipe, f"+{kept.id}\\n".encode())
        if n % 3 == 2:
            os.write(pipe, f"-{kept.id}\\n".encode())
            history.delete(kept.id)

for moment in range(8):
    receive, send = os.pipe()
    child = os.fork()
    if child == 0:
        write(send)
    os.close(send)
    lines = os.fdopen(receive).readline
    told = [lines() for _ in range(1 + moment % 4)]
    time.sleep(0.003 * moment)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    told += iter(lines, "")
    finished |= {line[1:].strip() for line in told if line[0] == "+"}
    finished -= {line[1:].strip() for line in told if line[0] == "-"}
    history = History.open(folder)
    entries = history.search(limit=1000)
    missing = finished - {entry.id for entry in entries}
    assert not missing, missing
    for entry in entries:
        assert len(read_audio(history.sound_path(entry.id))) == len(generation.audio)
    strays = [path for path in history.sounds.iterdir() if path.name.startswith(".")]
    assert not strays, strays
    history.close()
print("survived", len(finished))
"""


@posix
@pytest.mark.slow
def test_a_kill_at_any_moment_leaves_only_whole_entries(folder: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", KILLED, str(folder)],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        cwd=Path(__file__).parent.parent,
    )
    assert done.stdout.startswith("survived"), done.stderr


@contextlib.contextmanager
def disk_of(n_bytes: int) -> Iterator[None]:
    """Let no file grow beyond n_bytes, as on a disk that is full."""
    import resource

    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, ignored)


@posix
@pytest.mark.parametrize("n_bytes", [0, 100, 2_000, 12_000, 20_000])
def test_a_full_disk_is_told_and_leaves_nothing(history: History, n_bytes: int) -> None:
    kept = history.add(made("before"))
    before = files(history)
    with disk_of(n_bytes), pytest.raises(StorageError):
        history.add(made("too much", seconds=1.0))
    assert files(history) == before
    assert [entry.id for entry in history.search()] == [kept.id]
    history.add(made("after"))
    assert reopened(history).count() == 2


# --- the index


def test_a_new_store_has_all_migrations(history: History) -> None:
    with contextlib.closing(sqlite3.connect(history.folder / "history.sqlite3")) as connection:
        assert connection.execute("PRAGMA user_version").fetchone() == (len(MIGRATIONS),)
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)


def as_version_1(history: History) -> dict[str, Entry]:
    """Turn a store into what the first version wrote: its table, rows and sidecars."""
    entries = everything(history)
    history.close()
    path = history.folder / "history.sqlite3"
    for stale in history.folder.glob("history.sqlite3*"):
        stale.unlink()
    with contextlib.closing(sqlite3.connect(path)) as connection, connection:
        connection.executescript(MIGRATIONS[0])
        connection.execute("PRAGMA user_version = 1")
        for entry in entries.values():
            data = entry.to_json()
            for newer in ("kind", "group", "favourite", "tags", "trashed_at"):
                del data[newer]
            text = json.dumps({**data, "version": 1})
            history.sidecar_path(entry.id).write_text(text, "utf-8")
            connection.execute(
                "INSERT INTO entries VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    entry.id,
                    entry.owner,
                    entry.created_at,
                    "ready",
                    entry.duration_s,
                    int(entry.complete),
                    entry.words,
                    json.dumps(entry.peaks),
                    json.dumps(entry.details),
                ),
            )
    return entries


def test_a_store_of_the_first_version_is_brought_up_to_date(history: History) -> None:
    for n, voice in enumerate([None, "rosa", "rosa"]):
        history.add(made(f"take {n}", voice_name=voice))
    before = as_version_1(history)
    again = History.open(history.folder)
    assert everything(again) == before
    assert again.choices().voices == ("", "rosa")
    assert again.choices().models == ("tiny",)
    assert again.usage().n_bytes == on_disk(again, *before.values())
    some = next(iter(before))
    assert again.set_favourite(some, True)
    assert again.ids(favourite=True) == [some]
    again.close()
    (again.folder / "history.sqlite3").unlink()
    last = History.open(again.folder)
    assert last.ids(favourite=True) == [some]
    assert len(everything(last)) == 3
    last.close()


class Dies(sqlite3.Connection):
    """A connection whose process is killed before its n-th statement."""

    after = 0

    def execute(self, *arguments: Any) -> sqlite3.Cursor:
        Dies.after -= 1
        if Dies.after < 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().execute(*arguments)


@posix
def test_a_kill_in_a_migration_leaves_the_old_store_or_the_new(history: History) -> None:
    history.add(made("precious", voice_name="rosa"))
    before = as_version_1(history)
    path = history.folder / "history.sqlite3"
    n_statements = MIGRATIONS[1].count(";") + 4  # versions, BEGIN, user_version, COMMIT
    for n in range(n_statements + 1):
        child = os.fork()
        if child == 0:
            Dies.after = n
            dying = sqlite3.connect(path, factory=Dies, isolation_level=None)
            history_schema.migrate(dying, path, to=2)
            os._exit(0)
        _process, status = os.waitpid(child, 0)
        with contextlib.closing(sqlite3.connect(path)) as connection:
            (version,) = connection.execute("PRAGMA user_version").fetchone()
            columns = {row[1] for row in connection.execute("PRAGMA table_info(entries)")}
        assert version == (2 if os.WIFEXITED(status) else 1), n
        assert ("tags" in columns) == (version == 2)
        if version == 2:
            break
    assert n > MIGRATIONS[1].count(";")
    again = History.open(history.folder)
    assert everything(again) == before
    again.close()


def test_two_starts_at_once_migrate_once(history: History) -> None:
    history.add(made("precious"))
    before = as_version_1(history)
    opened: list[History] = []
    threads = [
        threading.Thread(target=lambda: opened.append(History.open(history.folder)))
        for _number in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(opened) == 4
    for store in opened:
        assert everything(store) == before
        store.close()


def test_a_newer_store_is_refused_and_left_as_it_is(history: History) -> None:
    history.close()
    path = history.folder / "history.sqlite3"
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA user_version = 99")
    with pytest.raises(StorageError, match="newer Bark Studio"):
        History.open(history.folder)


def test_a_folder_that_can_t_be_used_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StorageError, match="--data"):
        History.open(tmp_path / "file" / "data")


def test_something_else_under_its_name_is_told(folder: Path) -> None:
    folder.mkdir()
    (folder / "history.sqlite3").write_bytes(b"certainly not a database, but long enough" * 50)
    with pytest.raises(StorageError, match="can't be opened"):
        History.open(folder)

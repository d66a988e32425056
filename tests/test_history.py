"""Laws of the store: nothing is lost, nothing is half there, whatever interrupts it."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from bark_core import StorageError, read_audio, read_tags
from tests.made import made
from webui.history import MIGRATIONS, N_PEAKS, History, is_id, new_id

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

"""Laws of the mirror: what is finished is there too, and a new machine begins with it."""

from __future__ import annotations

import contextlib
import sqlite3
from pathlib import Path

import pytest

from bark_core import InvalidSetting, read_audio
from tests.made import made
from webui.accounts import Accounts
from webui.history import History
from webui.hosting import Hosting
from webui.mirror import Mirror
from webui.settings import StudioSettings
from webui.studio import open_studio


@pytest.fixture
def history(tmp_path: Path) -> History:
    return History.open(tmp_path / "data")


def mirrored(history: History) -> Mirror:
    return Mirror(history.folder, history.folder.parent / "drive" / "data")


def test_a_new_machine_begins_with_what_was_finished(history: History, tmp_path: Path) -> None:
    entry = history.add(made("Good evening."))
    history.set_tags(entry.id, ["film"])
    mirror = mirrored(history)
    mirror.copy()
    # the machine is gone, without a word
    new = Mirror(tmp_path / "new", mirror.target)
    assert new.restore() >= 4
    again = History.open(tmp_path / "new")
    found = again.get(entry.id)
    assert found is not None and found.tags == ("film",)
    audio = read_audio(again.sound_path(entry.id))
    assert audio.duration_s == pytest.approx(entry.duration_s)
    again.close()
    history.close()


def test_a_machine_that_has_something_is_left_alone(history: History) -> None:
    mirror = mirrored(history)
    mirror.copy()
    assert mirror.restore() == 0
    history.close()


def test_only_what_changed_is_copied_again(history: History) -> None:
    history.add(made("one"))
    mirror = mirrored(history)
    assert mirror.copy() > 3
    assert mirror.copy() == 0
    history.add(made("two"))
    n_files = 3 + 2  # sound, tokens, sidecar; the index and the hashes
    assert mirror.copy() == n_files
    history.close()


def test_what_is_deleted_goes_there_too_but_nothing_older(history: History) -> None:
    entry = history.add(made("one"))
    mirror = mirrored(history)
    mirror.copy()
    older = mirror.target / "sounds" / "older.flac"
    older.write_bytes(b"of another machine")
    history.delete(entry.id)
    mirror.copy()
    assert [path.name for path in (mirror.target / "sounds").iterdir()] == ["older.flac"]
    history.close()


def test_a_database_is_whole_while_it_is_written(history: History) -> None:
    mirror = mirrored(history)
    for n in range(5):
        history.add(made(f"take {n}"))
        mirror.copy()
        with sqlite3.connect(mirror.target / "history.sqlite3") as copy:
            assert copy.execute("PRAGMA integrity_check").fetchone() == ("ok",)
            assert copy.execute("SELECT count(*) FROM entries").fetchone() == (n + 1,)
        copy.close()
    names = {path.name for path in mirror.target.iterdir()}
    assert not {name for name in names if name.endswith(("-wal", "-shm", ".lock"))}
    history.close()


def test_keys_and_what_only_this_machine_needs_stay_away(history: History) -> None:
    for name in ("signing", "live", "encoded"):
        (history.folder / name).mkdir(exist_ok=True)
        (history.folder / name / "file").write_bytes(b"x")
    mirror = mirrored(history)
    mirror.copy()
    assert not {"signing", "live", "encoded"} & {path.name for path in mirror.target.iterdir()}
    history.close()


def test_nothing_that_lets_somebody_in_is_ever_copied(tmp_path: Path) -> None:
    data, password = tmp_path / "data", "the password of ann"
    accounts = Accounts.open(data)
    accounts.add("ann", password)
    accounts.close()
    settings = StudioSettings(data=data, hosting=Hosting(worker=False))
    studio = open_studio(settings)
    try:
        token = studio.access.sign_in("ann", password, "127.0.0.1")
        key = data / "signing" / "key.pem"
        key.parent.mkdir()
        key.write_bytes(b"what this host signs with")
        studio.history.add(made("one"), owner="ann")
        mirror = Mirror(data, tmp_path / "drive")
        mirror.copy()
        with contextlib.closing(sqlite3.connect(data / "accounts.sqlite3")) as connection:
            salt, hashed = connection.execute("SELECT salt, hash FROM accounts").fetchone()
        secrets = (token.encode(), key.read_bytes(), (data / "audit.key").read_bytes())
        copied = [path for path in mirror.target.rglob("*") if path.is_file()]
        names = {path.name for path in copied}
        assert {"history.sqlite3", "queue.sqlite3", "audit.jsonl"} <= names
        assert not names & {"accounts.sqlite3", "audit.key", "key.pem"}
        for content in (path.read_bytes() for path in copied):
            assert not any(secret in content for secret in (*secrets, salt, hashed))
    finally:
        studio.close()
    # nor brought from a mirror that has it
    (mirror.target / "accounts.sqlite3").write_bytes(b"of another host")
    assert Mirror(tmp_path / "new", mirror.target).restore() > 0
    assert not (tmp_path / "new" / "accounts.sqlite3").exists()


def test_a_drive_that_fails_is_told_and_tried_again(history: History) -> None:
    history.add(made("one"))
    mirror = mirrored(history)
    mirror.target.parent.mkdir()
    mirror.target.write_bytes(b"a file where the folder should be")
    assert mirror.copy() == 0
    assert "can't be copied" in mirror.problem
    mirror.target.unlink()
    assert mirror.copy() > 3
    assert mirror.problem == ""
    history.close()


def test_while_it_runs_it_copies_by_itself_and_once_more_at_the_end(
    history: History, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("webui.mirror.EVERY_S", 3600.0)
    mirror = mirrored(history)
    mirror.start()
    entry = history.add(made("late"))
    mirror.close()
    assert (mirror.target / "sounds" / f"{entry.id}.flac").is_file()
    history.close()


@pytest.mark.parametrize("inside", ["data/copy", "."])
def test_a_mirror_inside_of_the_folder_is_refused(tmp_path: Path, inside: str) -> None:
    with pytest.raises(InvalidSetting, match="inside"):
        Mirror(tmp_path / "data", tmp_path / inside)

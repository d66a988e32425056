"""Laws of `python -m webui history`: it does what it says, and refuses with a reason."""

from __future__ import annotations

import csv
import io
import json
import os
import sqlite3
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bark_core import read_audio, read_tags
from tests.made import made
from tests.test_cli import error_of
from webui.history import Entry, History
from webui.history_cli import main

ROOT = Path(__file__).resolve().parent.parent
TEXTS = ("By the river.", "Good night, Bob.", "The river at night.")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return tmp_path / "data"


@pytest.fixture
def history(data: Path) -> Iterator[History]:
    """The store as a studio has it open, meanwhile."""
    history = History.open(data)
    yield history
    history.close()


@pytest.fixture
def entries(history: History) -> list[Entry]:
    """The newest first, as they are listed."""
    voices = ("rosa", None, "ralf")
    made_here = [
        history.add(made(text, seed=100 + n, voice_name=voice), created_at=1e9 + n)
        for n, (text, voice) in enumerate(zip(TEXTS, voices, strict=True))
    ]
    return made_here[::-1]


@pytest.fixture
def run(data: Path, entries: list[Entry]) -> Any:
    """Run a command on that store."""

    def run(command: str, *arguments: str) -> int:
        return main(["history", command, "--data", str(data), *arguments])

    return run


def told(capsys: pytest.CaptureFixture[str]) -> Any:
    return json.loads(capsys.readouterr().out)


def texts(found: Any) -> list[str]:
    return [entry["text"] for entry in found["entries"]]


# --- looking


def test_the_newest_is_listed_first(run: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("list", "--json") == 0
    found = told(capsys)
    assert (texts(found), found["total"]) == (list(TEXTS[::-1]), 3)
    assert run("list", "--limit", "1", "--offset", "1") == 0
    line, more = capsys.readouterr().out.splitlines()
    assert TEXTS[1] in line and more == "3 in all; --limit shows more"


def test_a_line_tells_what_to_know_of_a_take(
    run: Any, history: History, entries: list[Entry], capsys: pytest.CaptureFixture[str]
) -> None:
    history.set_tags(entries[2].id, ["film", "draft"])
    history.set_favourite(entries[2].id, True)
    assert run("search", "river", "rosa") == 0
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith(entries[2].id[:12])
    for part in ("0.2 s", "*", "rosa", TEXTS[0], "[film, draft]"):
        assert part in line


@pytest.mark.parametrize(
    ("arguments", "found"),
    [
        (["search", "RIVER"], [2, 0]),
        (["search", "river", "night"], [2]),
        (["search", "101"], [1]),
        (["search", "nowhere"], []),
        (["list", "--voice", "rosa"], [0]),
        (["list", "--voice", ""], [1]),
        (["list", "--model", "tiny"], [2, 1, 0]),
        (["list", "--model", "large"], []),
        (["list", "--kind", "script"], []),
        (["list", "--tag", "film"], [1]),
        (["list", "--favourites"], [2]),
        (["search", "river", "--favourites"], [2]),
        (["list", "--owner", "ann"], []),
    ],
)
def test_words_and_filters_narrow(
    run: Any,
    history: History,
    entries: list[Entry],
    arguments: list[str],
    found: list[int],
    capsys: pytest.CaptureFixture[str],
) -> None:
    history.set_tags(entries[1].id, ["film"])
    history.set_favourite(entries[0].id, True)
    assert run(*arguments, "--json") == 0
    assert texts(told(capsys)) == [TEXTS[n] for n in found]


def test_four_characters_show_all_of_a_take(
    run: Any, history: History, entries: list[Entry], capsys: pytest.CaptureFixture[str]
) -> None:
    entry = entries[0]
    assert run("show", entry.id[:4].upper(), "--json") == 0
    shown = told(capsys)
    assert (shown["id"], shown["voice"], shown["seed"]) == (entry.id, "ralf", 102)
    assert shown["details"] == dict(entry.details)
    assert read_audio(Path(shown["files"]["sound"])).duration_s == pytest.approx(0.2, abs=0.01)
    history.voice_path(entry.id).unlink()
    assert run("show", entry.id) == 0
    said = capsys.readouterr().out
    assert f"sound: {shown['files']['sound']}\n" in said and "tokens:" not in said


# --- changing


def test_tags_come_and_go(
    run: Any, history: History, entries: list[Entry], capsys: pytest.CaptureFixture[str]
) -> None:
    ids = [entry.id for entry in entries[:2]]
    assert run("tag", *ids, "--add", "film", "--add", "draft", "--quiet") == 0
    assert run("tag", ids[0], "--remove", "DRAFT", "--json") == 0
    assert told(capsys)["entries"][0]["tags"] == ["film"]
    assert [history.get(key).tags for key in ids] == [("film",), ("film", "draft")]  # type: ignore[union-attr]


def test_a_favourite_is_made_and_taken_back(
    run: Any, history: History, entries: list[Entry], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("favourite", entries[0].id, entries[1].id) == 0
    assert len(capsys.readouterr().out.splitlines()) == 2
    assert run("favourite", entries[0].id, "--off", "--quiet") == 0
    assert capsys.readouterr().out == ""
    assert history.ids(favourite=True) == [entries[1].id]


def test_what_was_deleted_waits_in_the_bin(
    run: Any, history: History, entries: list[Entry], capsys: pytest.CaptureFixture[str]
) -> None:
    ids = [entry.id for entry in entries]
    assert run("delete", *ids[:2], "--json") == 0
    assert told(capsys) == {"trashed": 2, "ids": ids[:2]}
    assert history.ids() == ids[2:]
    assert run("list", "--bin", "--json") == 0
    assert {entry["id"] for entry in told(capsys)["entries"]} == set(ids[:2])
    assert run("restore", ids[0], "--quiet") == 0
    assert history.ids() == [ids[0], ids[2]]
    assert run("restore") == 0
    assert capsys.readouterr().out == "1 restored\n"
    assert history.ids() == ids


def test_what_is_deleted_for_good_takes_its_files_along(
    run: Any, history: History, entries: list[Entry], capsys: pytest.CaptureFixture[str]
) -> None:
    first, second, third = entries
    assert run("delete", first.id, "--for-good", "--quiet") == 0
    assert run("delete", second.id, "--quiet") == 0
    n_bytes = history.usage().trashed_bytes
    assert run("empty-bin", "--json") == 0
    assert told(capsys) == {"deleted": 1, "bytes": n_bytes}
    assert {path.stem for path in history.sounds.iterdir()} == {third.id}
    assert history.states() == {third.id: "ready"}


def test_a_lost_index_is_rebuilt(
    run: Any, data: Path, history: History, entries: list[Entry], capsys: pytest.CaptureFixture[str]
) -> None:
    history.set_tags(entries[0].id, ["film"])
    with sqlite3.connect(data / "history.sqlite3") as index:
        index.execute("DELETE FROM entries")
    index.close()
    for path in history.sounds.iterdir():
        _make_older(path)
    assert run("rescan", "--json") == 0
    found = told(capsys)
    assert (found["n_entries"], found["n_found"], found["n_damaged"]) == (3, 3, 0)
    assert history.ids() == [entry.id for entry in entries]
    assert history.ids(tag="film") == [entries[0].id]


def _make_older(path: Path) -> None:
    """A sound of the last minute may be one that a studio is adding."""
    changed = path.stat().st_mtime - 120
    os.utime(path, (changed, changed))


# --- taking away


def test_an_export_holds_the_sounds_and_their_settings(
    run: Any, entries: list[Entry], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "river.zip"
    assert run("export", "-o", str(target), "--words", "river", "--format", "mp3") == 0
    assert capsys.readouterr().out.startswith(f"{target}: 2 takes, ")
    archive = zipfile.ZipFile(target)
    table = list(csv.DictReader(io.StringIO(archive.read("settings.csv").decode("utf-8-sig"))))
    assert [row["text"] for row in table] == [TEXTS[2], TEXTS[0]]
    sound = tmp_path / "first.mp3"
    sound.write_bytes(archive.read(table[0]["file"]))
    assert read_tags(sound) == entries[0].to_tags()


def test_ids_choose_what_is_exported(run: Any, entries: list[Entry], tmp_path: Path) -> None:
    target = tmp_path / "one.csv"
    assert run("export", entries[1].id[:8], "-o", str(target), "--quiet") == 0
    (row,) = csv.DictReader(io.StringIO(target.read_text("utf-8-sig")))
    assert (row["id"], row["seed"]) == (entries[1].id, "101")
    assert run("export", "-o", str(target), "--quiet") == 0
    assert len(list(csv.DictReader(io.StringIO(target.read_text("utf-8-sig"))))) == 3


# --- refusing


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["show", "ffffffff"], "there is no take 'ffffffff'; `list` tells the ids"),
        (["show", "abc"], "'abc' is too short; give 4 characters of the id"),
        (["favourite", "../../x"], "there is no take '../../x'; `list` tells the ids"),
        (["delete", "ffffffff"], "there is no take 'ffffffff'; `list` tells the ids"),
        (["restore", "ffffffff"], "no take 'ffffffff' is in the bin; `list --bin` tells the ids"),
        (["list", "--bin", "--tag", "x"], "the bin is listed whole; leave the filters away"),
        (["export", "-o", "a.rar"], "can't write 'a.rar'; name a .zip or a .csv file"),
        (["export", "-o", "a.zip", "--tag", "x"], "no take fits; give other filters, or none"),
        (["export", "ffffffff", "-o", "a.zip", "--tag", "x"], "give one of the two"),
    ],
)
def test_a_wrong_request_is_refused_with_a_reason(
    run: Any, history: History, arguments: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(*arguments) == 3
    assert says in error_of(capsys)
    assert history.count() == 3


@pytest.mark.parametrize(
    ("tags", "says"),
    [
        ([], "there is no tag to add or to remove; give --add or --remove"),
        (["--add", " "], "a tag must have 1 to 40 characters, got 0; type a shorter one"),
        (["--add", "x" * 41], "a tag must have 1 to 40 characters, got 41"),
        (["--add", "a,b"], "holds a comma"),
        ([part for n in range(99) for part in ("--add", f"t{n}")], "99 tags are too many"),
    ],
)
def test_a_wrong_tag_changes_nothing(
    run: Any,
    history: History,
    entries: list[Entry],
    tags: list[str],
    says: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run("tag", *(entry.id for entry in entries), *tags) == 3
    assert says in error_of(capsys)
    assert history.choices().tags == ()


@pytest.mark.parametrize(
    "arguments",
    [
        ["play"],
        ["show"],
        ["search"],
        ["export"],
        ["export", "-o", "a.zip", "--format", "aac"],
        ["list", "--limit", "-1"],
        ["list", "--limit", "many"],
        ["list", "--kind", "song"],
    ],
)
def test_wrong_usage_is_explained(
    run: Any, arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(*arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == "" and "usage: python -m webui history" in captured.err


def test_an_id_that_could_be_several_is_refused(
    run: Any, history: History, entries: list[Entry], capsys: pytest.CaptureFixture[str]
) -> None:
    for end in "01":
        history.add(made(), entry_id="abcd" + end * (len(entries[0].id) - 4))
    assert run("delete", "abcd") == 3
    assert "2 ids begin with 'abcd'; give more of it" in error_of(capsys)
    assert run("delete", "abcd1", "--quiet") == 0


def test_nobody_reaches_what_another_made(
    run: Any, history: History, capsys: pytest.CaptureFixture[str]
) -> None:
    other = history.add(made("Mine."), owner="ann")
    assert run("show", other.id) == 3
    assert "no take" in error_of(capsys)
    assert run("delete", other.id, "--owner", "bob") == 3
    assert run("show", other.id, "--owner", "ann", "--quiet") == 0
    assert history.count(owner="ann") == 1


def test_a_folder_without_a_history_stays_as_it_is(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["history", "list", "--data", str(tmp_path / "none")]) == 5
    assert "there is no history in" in error_of(capsys)
    assert list(tmp_path.iterdir()) == []


def test_a_damaged_index_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "history.sqlite3").write_bytes(b"no database at all" * 100)
    assert main(["history", "list", "--data", str(tmp_path), "--json"]) == 5
    error = json.loads(capsys.readouterr().err)["error"]
    assert error["kind"] == "StorageError" and "can't be opened" in error["message"]


def test_an_export_that_fails_leaves_nothing(
    run: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = sorted(tmp_path.iterdir())
    assert run("export", "-o", str(tmp_path / "no" / "a.zip")) == 5
    assert "choose another file" in error_of(capsys)
    target = tmp_path / "a.zip"
    target.mkdir()
    assert run("export", "-o", str(target)) == 5
    assert "a.zip" in error_of(capsys)
    assert sorted(tmp_path.iterdir()) == sorted([*before, target])


def test_it_runs_as_a_module(data: Path, entries: list[Entry]) -> None:
    command = [sys.executable, "-m", "webui", "history", "list", "--data", str(data), "--json"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert texts(json.loads(done.stdout)) == list(TEXTS[::-1])

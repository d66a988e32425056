"""Laws of `voices` on the command line: it does what it says, and refuses by name."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bark_core.audio import read_audio, read_tags
from bark_core.cli import main
from bark_core.voices import load_voice
from tests.test_cli import error_of, files
from tests.test_voices import make_voice
from tests.tiny import TINY_LAYOUT


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder to work in."""
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def voices(here: Path, tiny_folder: Path, tmp_path: Path) -> Any:
    """Run a `voices` command for the tiny model, on an empty library of one's own."""

    def run(command: str, *arguments: str, model: bool = True) -> int:
        more = ["--model", str(tiny_folder)] if model else []
        return main(["voices", command, "--voices-dir", str(tmp_path / "own"), *more, *arguments])

    return run


@pytest.fixture
def anna(voices: Any, here: Path) -> str:
    """The name of a voice of one's own."""
    make_voice(n_semantic=120, description="me").save(here / "a.npz")
    assert voices("import", "a.npz", "--name", "Anna", "--quiet") == 0
    return "Anna"


def told(capsys: pytest.CaptureFixture[str]) -> Any:
    return json.loads(capsys.readouterr().out)


def test_a_file_is_kept_shown_and_written_again(
    voices: Any, anna: str, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert voices("show", anna, "--json") == 0
    shown = told(capsys)
    assert (shown["layout"], shown["description"]) == ("tiny", "me")
    assert shown["sha256"] == make_voice(n_semantic=120).sha256
    assert voices("show", "a.npz", "--json") == 0
    assert told(capsys)["sha256"] == shown["sha256"]
    assert voices("export", anna, "b.npz", "--quiet") == 0
    assert load_voice("b.npz", layout=TINY_LAYOUT).sha256 == shown["sha256"]
    (here / "b.npz").write_bytes(b"older")
    assert voices("export", anna, "b.npz") == 5
    assert "--replace" in error_of(capsys)
    assert (here / "b.npz").read_bytes() == b"older"
    assert voices("export", anna, "b.npz", "--replace", "--quiet") == 0
    assert voices("export", anna, "b.zip") == 3
    assert files(here) == ["a.npz", "b.npz"]


def test_several_files_are_kept_all_or_none(
    voices: Any, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("Otto", "Emma"):
        make_voice().save(here / f"{name}.npz")
    (here / "bad.npz").write_bytes(b"junk")
    assert voices("import", "Otto.npz", "bad.npz", "Emma.npz") == 3
    assert "bad.npz" in error_of(capsys)
    assert voices("import", "Otto.npz", "Emma.npz", "--name", "one") == 3
    capsys.readouterr()
    assert voices("list", "--source", "yours", "--json") == 0
    assert told(capsys) == []
    assert voices("import", "Otto.npz", "Emma.npz", "--language", "de", "--json") == 0
    assert [(e["name"], e["language"]) for e in told(capsys)] == [("Otto", "de"), ("Emma", "de")]
    assert voices("import", "Otto.npz", "--json") == 0
    assert told(capsys)[0]["name"] == "Otto 2"
    assert voices("import", "Otto.npz", "--name", "Otto") == 3
    assert "is taken" in error_of(capsys)


def test_list_and_search_leave_out_the_others(
    voices: Any, anna: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert voices("list", "--json") == 0
    assert [entry["name"] for entry in told(capsys)] == ["Anna"]
    assert voices("list", "--language", "ja", "--source", "published", "--json", model=False) == 0
    assert len(told(capsys)) == 20
    assert voices("search", "speaker_6", "german", "--kind", "v2", "--json", model=False) == 0
    assert [entry["name"] for entry in told(capsys)] == ["v2/de_speaker_6"]
    assert voices("search", "nobody", model=False) == 0
    assert capsys.readouterr().out == ""


def test_ones_own_is_renamed_described_deleted_and_back(
    voices: Any, anna: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert voices("rename", anna, "Berta") == 0
    assert voices("describe", "Berta", "--language", "de", "--description", "") == 0
    capsys.readouterr()
    assert voices("show", "Berta", "--json") == 0
    shown = told(capsys)
    assert (shown["language"], shown["description"]) == ("de", None)
    assert voices("describe", "Berta") == 3
    assert "--description" in error_of(capsys)
    assert voices("delete", "Berta", model=False) == 0
    assert "voices restore" in capsys.readouterr().out
    assert voices("delete", "Berta", model=False) == 3
    assert "'Berta'" in error_of(capsys)
    assert voices("restore", "Berta", "--json", model=False) == 0
    assert told(capsys)["name"] == "Berta"


def test_trim_says_where_the_part_goes(
    voices: Any, anna: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert voices("trim", anna, "0.2", "1.2") == 3
    assert "--as" in error_of(capsys)
    assert voices("trim", anna, "0.2", "1.2", "--as", "short", "--quiet") == 0
    assert voices("trim", anna, "0", "99", "--as", "long") == 3
    assert "within it" in error_of(capsys)
    assert voices("trim", anna, "0", "1", "--replace", "--quiet") == 0
    for name in (anna, "short"):
        assert voices("show", name, "--json") == 0
        assert told(capsys)["duration_s"] == pytest.approx(1, abs=0.05)


def test_rolled_voices_are_heard_and_can_be_kept(
    voices: Any, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    roll = ("roll", "Hello the cat.", "--count", "2", "-o", "new", "--seed", "2", "--json")
    assert voices(*roll) == 0
    rolled = told(capsys)
    assert [each["seed"] for each in rolled] == [2, 3]
    assert files(here) == ["new-1.flac", "new-1.npz", "new-2.flac", "new-2.npz"]
    assert read_audio("new-1.flac").duration_s > 0
    assert (read_tags(here / "new-1.flac") or {})["voice"] is None
    voice = load_voice("new-2.npz", layout=TINY_LAYOUT)
    assert voice.kind == "generated" and "seed 3" in (voice.source or "")
    assert voices("import", "new-2.npz", "--name", "Vera", "--quiet") == 0
    assert voices(*roll[:-1]) == 5
    assert "--output" in error_of(capsys)


@pytest.mark.parametrize(
    "arguments",
    [
        ("roll", "Hello.", "--count", "0"),
        ("roll", "Hello.", "--count", "13"),
        ("roll", ""),
        ("roll", "Hello.", "--seed", "-1"),
    ],
)
def test_what_cannot_be_rolled_ends_with_3(
    arguments: tuple[str, ...], voices: Any, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert voices(*arguments) == 3
    error_of(capsys)
    assert files(here) == []


def test_a_voice_of_an_unknown_layout_asks_for_its_model(
    voices: Any, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_voice(replace(TINY_LAYOUT, name="elsewhere")).save(here / "far.npz")
    assert voices("show", "far.npz", model=False) == 3
    assert "--model" in error_of(capsys)

"""Laws of `python -m bark_core script`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from bark_core.audio import read_audio, read_tags
from bark_core.cli import main
from bark_core.credentials import load_signing_key, read_credentials
from bark_core.project_folder import ProjectFolder
from bark_core.script import from_json

TALK = "Anna: The cat.\nBob: No. (pause 1)\nAnna: The end."


@pytest.fixture
def script(tmp_path: Path, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Run `script` on the tiny model, in an empty folder; returns the exit code."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    Path("talk.txt").write_text(TALK, encoding="utf-8")

    def run(*arguments: str) -> int:
        own = ["--voices-dir", str(tmp_path / "voices"), "--cache-dir", str(tmp_path / "cache")]
        # the random model falls silent with others
        seed = [] if "--seed" in arguments else ["--seed", "4"]
        return main(["script", *own, "--model", str(tiny_folder), *seed, *arguments])

    return run


def test_a_script_becomes_files(script: Any, capsys: pytest.CaptureFixture[str]) -> None:
    files = ["-o", "talk.flac", "--stems", "parts", "--srt", "talk.srt", "--vtt", "talk.vtt"]
    assert script("talk.txt", *files, "--save-script", "talk.json", "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert told["segments"] == ["The cat.", "No.", "The end."]
    whole = read_audio("talk.flac")
    assert told["duration_s"] == pytest.approx(whole.duration_s, abs=0.001)
    assert read_tags("talk.flac")["text"].startswith("Anna: The cat.")
    stems = sorted(path.name for path in Path("parts").iterdir())
    assert stems == ["01-Anna.flac", "02-Bob.flac"]
    assert {len(read_audio(Path("parts") / name)) for name in stems} == {len(whole)}
    assert Path("talk.srt").read_text().count("-->") == 3
    assert "<v Bob>" in Path("talk.vtt").read_text()
    assert from_json(Path("talk.json").read_text()).speakers == ("Anna", "Bob")


def test_the_whole_and_its_stems_are_signed(script: Any, tmp_path: Path) -> None:
    pytest.importorskip("c2pa")
    folder = tmp_path / "key"
    signing = ["--stems", "parts", "--signing-key", str(folder), "--quiet"]
    assert script("talk.txt", "-o", "talk.mp3", *signing) == 0
    key = load_signing_key(folder)
    for path in (Path("talk.mp3"), Path("parts/01-Anna.flac"), Path("parts/02-Bob.flac")):
        found = read_credentials(path.read_bytes(), key)
        assert found is not None and found.own and found.generated
    assert script("talk.txt", "-o", "talk.opus", *signing) == 3
    assert not Path("talk.opus").exists()


def test_the_same_seed_gives_the_same_sound(script: Any) -> None:
    for name in ("a.wav", "b.wav"):
        assert script("talk.txt", "-o", name, "--quiet") == 0
    assert script("talk.txt", "-o", "c.wav", "--quiet", "--seed", "6") == 0
    first, second, other = (
        read_audio(name).samples.tobytes() for name in ("a.wav", "b.wav", "c.wav")
    )
    assert first == second != other


def test_a_project_goes_on_and_makes_only_what_changed(script: Any) -> None:
    assert script("talk.txt", "--project", "kept", "-o", "a.wav", "--quiet") == 0
    before = ProjectFolder.open(Path("kept")).project
    Path("talk.txt").write_text(TALK.replace("No.", "Yes."), encoding="utf-8")
    assert script("talk.txt", "--project", "kept", "-o", "b.wav", "--quiet", "--pause", "2") == 0
    after = ProjectFolder.open(Path("kept")).project
    taken = [[take.id for take in segment.takes] for segment in (before.segments + after.segments)]
    assert taken[0] == taken[3] and taken[2] == taken[5]
    assert taken[1] != taken[4] and len(taken[4]) == 1
    assert read_audio("b.wav").duration_s > read_audio("a.wav").duration_s


def test_standard_input_and_a_background(
    script: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import io

    assert script("talk.txt", "-o", "bed.wav", "--quiet") == 0
    monkeypatch.setattr("sys.stdin", io.StringIO(TALK))
    layer = ["--background-file", "bed.wav", "--background-level", "-20", "--duck", "6"]
    assert script("-", "-o", "a.opus", "--stems", "parts", *layer) == 0
    assert Path("parts/background.flac").is_file()
    assert "3 segments" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["talk.txt"], 3, "nothing would be kept"),
        (["talk.txt", "-o", "a.xyz"], 3, "must end with"),
        (["none.txt", "-o", "a.wav"], 5, "none.txt"),
        (["talk.txt", "-o", "a.wav", "--voice", "Carl=rosa"], 3, "nobody called 'Carl'"),
        (["talk.txt", "-o", "a.wav", "--voice", "nobody"], 3, "'nobody'"),
        (["talk.txt", "-o", "a.wav", "--mood", "sad"], 3, "no mood"),
        (["talk.txt", "-o", "a.wav", "--retries", "11"], 3, "within 0..10"),
        (["talk.txt", "-o", "a.wav", "--background-level", "3", "--background", "x"], 3, "within"),
    ],
)
def test_what_cannot_be_done_is_told(
    script: Any,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    code: int,
    said: str,
) -> None:
    assert script(*arguments) == code
    assert said in capsys.readouterr().err
    assert not Path("a.wav").exists()

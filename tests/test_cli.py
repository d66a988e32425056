"""Laws of the command line: what it prints, what it writes, how it ends."""

from __future__ import annotations

import io
import itertools
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from bark_core import cli_sign
from bark_core.audio import FORMATS, read_audio, write_audio
from bark_core.checkpoint import load
from bark_core.cli import main
from bark_core.credentials import load_signing_key, read_credentials
from bark_core.presets import moods
from bark_core.voices import load_voice
from tests import tiny

ROOT = Path(__file__).resolve().parent.parent
STEADY = ["--no-early-stop", "--max-duration", "0.3", "--seed", "7"]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder to work in."""
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def say(here: Path, tiny_folder: Path, tmp_path: Path) -> Any:
    """Run `say` on the tiny model; returns the exit code."""

    def run(*arguments: str) -> int:
        own = ["--voices-dir", str(tmp_path / "voices"), "--cache-dir", str(tmp_path / "cache")]
        return main(["say", *own, "--model", str(tiny_folder), *STEADY, *arguments])

    return run


@pytest.fixture
def voices(here: Path, tiny_folder: Path, tmp_path: Path) -> Any:
    """Run a `voices` command on an empty library of one's own."""

    def run(command: str, *arguments: str) -> int:
        return main(["voices", command, "--voices-dir", str(tmp_path / "voices"), *arguments])

    return run


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def error_of(capsys: pytest.CaptureFixture[str]) -> str:
    """The one line on standard error."""
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("error: ")
    assert captured.err.count("\n") == 1
    assert "Traceback" not in captured.err
    return captured.err


@pytest.mark.parametrize("suffix", [".flac", ".wav", ".mp3"])
def test_say_signs_with_the_studio_s_own_key(
    say: Any, here: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str
) -> None:
    pytest.importorskip("c2pa")
    folder = tmp_path / "data" / "signing"
    monkeypatch.setattr(cli_sign, "default_signing_folder", lambda: folder)
    assert say("Hello.", "--sign", "-o", f"a{suffix}", "--quiet") == 0
    key = load_signing_key(folder)
    assert say("Hello.", "--sign", "-o", f"b{suffix}", "--quiet") == 0
    assert load_signing_key(folder) == key
    for name in ("a", "b"):
        found = read_credentials((here / f"{name}{suffix}").read_bytes(), key)
        assert found is not None and found.own and found.generated
        assert found.settings["text"] == "Hello."
    assert read_audio(here / f"a{suffix}").duration_s > 0
    assert say("Hello.", "-o", f"c{suffix}", "--quiet") == 0
    assert read_credentials((here / f"c{suffix}").read_bytes(), key) is None


def test_say_refuses_to_sign_what_can_t_be_before_it_makes_it(
    say: Any, here: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("c2pa")
    folder = tmp_path / "key"
    assert say("Hello.", "--signing-key", str(folder), "-o", "a.opus") == 3
    assert "can't be signed" in error_of(capsys)
    assert files(here) == [] and not folder.exists()
    folder.mkdir()
    (folder / "key.pem").write_bytes(b"no key")
    (folder / "key.pem").chmod(0o600)
    assert say("Hello.", "--signing-key", str(folder), "-o", "a.flac") == 5
    assert files(here) == []


def test_say_writes_what_it_says_it_wrote(
    say: Any, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert say("Hello the cat.", "-o", "a.flac") == 0
    captured = capsys.readouterr()
    assert captured.out.startswith("a.flac: 0.3 s of sound")
    assert "seed 7" in captured.out
    assert captured.err == ""
    assert files(here) == ["a.flac"]
    assert read_audio("a.flac").duration_s == pytest.approx(0.3, abs=0.05)


def test_json_is_the_metadata(say: Any, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert say("Hello the cat.", "-o", "a.wav", "--json") == 0
    captured = capsys.readouterr()
    told = json.loads(captured.out)
    assert captured.err == ""
    assert told["file"] == "a.wav"
    assert told["text"] == "Hello the cat."
    assert told["seed"] == 7
    assert told["settings"]["semantic"]["max_duration_s"] == 0.3
    assert told["complete"] is True


def test_streaming_is_noted_and_its_first_sound_is_told(
    say: Any, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert say("Hello.", "-o", "a.wav", "--streaming") == 0
    assert "the first of it after 0." in capsys.readouterr().out
    assert say("Hello.", "-o", "a.wav", "--streaming", "--json") == 0
    assert json.loads(capsys.readouterr().out)["streaming"] is True


@pytest.mark.parametrize("more", [(), ("--streaming",)])
def test_sound_goes_down_a_pipe(
    say: Any, here: Path, capsysbinary: pytest.CaptureFixture[bytes], more: tuple[str, ...]
) -> None:
    assert say("Hello. The cat.", "-o", "a.wav", *more) == 0
    capsysbinary.readouterr()
    assert say("Hello. The cat.", "-o", "-", "--save-voice", "v.npz", *more) == 0
    piped, told = capsysbinary.readouterr()
    assert told.startswith(b"standard output: ") and b"v.npz: its voice" in told
    assert files(here) == ["a.wav", "v.npz"]
    in_file, rate = soundfile.read("a.wav", dtype="int16")
    heard, piped_rate = soundfile.read(io.BytesIO(piped), dtype="int16")
    assert piped_rate == rate == 24_000
    assert np.array_equal(heard, in_file)
    assert b"generated by Bark Studio" in piped[:100]


def test_pipe_says_nothing_but_sound(
    say: Any, here: Path, capsysbinary: pytest.CaptureFixture[bytes]
) -> None:
    assert say("Hello.", "-o", "-", "--quiet") == 0
    assert capsysbinary.readouterr().err == b""
    assert say("Hello.", "-o", "-", "--json") == 3
    piped, told = capsysbinary.readouterr()
    assert piped == b"" and "can't both" in json.loads(told)["error"]["message"]
    # what fails sends no sound on
    assert say("Hello.", "-o", "-", "--voice", "nobody") == 3
    assert capsysbinary.readouterr().out == b""


def test_quiet_prints_nothing(say: Any, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert say("Hello.", "-o", "a.wav", "--quiet") == 0
    assert capsys.readouterr() == ("", "")
    assert files(here) == ["a.wav"]


def test_the_same_seed_gives_the_same_sound(say: Any, here: Path) -> None:
    for name, seed in [("a.wav", "1"), ("b.wav", "1"), ("c.wav", "2")]:
        assert say("Hello.", "-o", name, "--seed", seed, "--quiet") == 0
    a, b, c = (read_audio(name).samples.tobytes() for name in ("a.wav", "b.wav", "c.wav"))
    assert a == b != c


def test_without_a_name_the_seed_names_the_file(say: Any, here: Path) -> None:
    assert say("Hello.", "--quiet") == 0
    assert files(here) == ["bark-7.flac"]


@pytest.mark.parametrize("suffix", [*FORMATS, ".FLAC"])
def test_the_suffix_chooses_the_format(say: Any, here: Path, suffix: str) -> None:
    assert say("Hello.", "-o", f"a{suffix}", "--quiet") == 0
    assert read_audio(f"a{suffix}").duration_s > 0.2


def test_every_setting_arrives(say: Any, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = {
        "--semantic-temperature": "0.1",
        "--coarse-temperature": "0.2",
        "--fine-temperature": "0.3",
        "--top-k": "5",
        "--top-p": "0.9",
        "--min-eos-p": "off",
        "--max-coarse-history": "12",
        "--pause": "1",
    }
    assert say("Hello.", "--json", "-o", "a.wav", *itertools.chain(*given.items())) == 0
    told = json.loads(capsys.readouterr().out)
    filters = {"top_k": 5, "top_p": 0.9}
    assert told["settings"] == {
        "semantic": {
            "temperature": 0.1,
            "min_eos_p": None,
            "max_duration_s": 0.3,
            "allow_early_stop": False,
            **filters,
        },
        "coarse": {"temperature": 0.2, "max_history": 12, **filters},
        "fine": {"temperature": 0.3},
    }
    assert told["segment_pause_s"] == 1


def test_a_mood_is_the_ground_that_options_stand_on(
    say: Any, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert say("Hello.", "--json", "-o", "a.wav", "--mood", "steady", "--top-k", "off") == 0
    told = json.loads(capsys.readouterr().out)["settings"]
    steady = {mood.name: mood.settings for mood in moods()}["steady"]
    assert told["semantic"]["temperature"] == steady.semantic.temperature != 0.7
    assert told["semantic"]["top_p"] == steady.semantic.top_p
    assert told["semantic"]["top_k"] is None
    assert told["semantic"]["max_duration_s"] == 0.3
    assert told["coarse"]["temperature"] == steady.coarse.temperature


def test_an_unknown_mood_is_refused_with_those_there_are(
    say: Any, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert say("Hello.", "--mood", "grumpy") == 3
    assert "steady, lively, wild, bark" in error_of(capsys)
    assert files(here) == []


def test_the_settings_of_a_file_can_be_used_again(
    say: Any, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["--mood", "wild", "--fine-temperature", "0.9"]
    assert say("Hello.", "-o", "a.flac", "--quiet", *given) == 0
    assert say("Hello.", "-o", "b.flac", "--json", "--settings-from", "a.flac") == 0
    assert json.loads(capsys.readouterr().out)["settings"]["fine"]["temperature"] == 0.9
    a, b = (read_audio(name).samples.tobytes() for name in ("a.flac", "b.flac"))
    assert a == b
    write_audio("plain.wav", read_audio("a.flac"))
    assert say("Hello.", "--settings-from", "plain.wav") == 3
    assert "holds no settings" in error_of(capsys)
    assert say("Hello.", "--settings-from", "gone.wav") in (3, 5)


def test_several_takes_are_several_files(
    say: Any, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert say("Hello.", "--takes", "3", "--json", "-o", "a.wav", "--save-voice", "v.npz") == 0
    told = json.loads(capsys.readouterr().out)
    assert [take["file"] for take in told] == ["a-1.wav", "a-2.wav", "a-3.wav"]
    assert [take["take"] for take in told] == [0, 1, 2]
    assert files(here) == ["a-1.wav", "a-2.wav", "a-3.wav", "v-1.npz", "v-2.npz", "v-3.npz"]
    assert len({read_audio(f"a-{n}.wav").samples.tobytes() for n in (1, 2, 3)}) == 3
    assert say("Hello.", "--take", "1", "--quiet", "-o", "b.wav") == 0
    assert read_audio("b.wav").samples.tobytes() == read_audio("a-2.wav").samples.tobytes()


def test_a_retry_of_one_take_is_no_take_of_the_next(
    say: Any, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert say("Hello.", "--takes", "2", "--retries", "3", "--json", "-o", "a.wav") == 0
    told = json.loads(capsys.readouterr().out)
    assert [take["take"] for take in told] == [0, 4]
    assert [take["retries"] for take in told] == [3, 3]


@pytest.mark.parametrize(
    "options",
    [
        ["--takes", "0"],
        ["--takes", "101"],
        ["--take", "-1"],
        ["--take", "1000000", "--takes", "2"],
        ["--retries", "11"],
    ],
)
def test_takes_out_of_range_are_refused_before_anything_is_made(
    say: Any, here: Path, capsys: pytest.CaptureFixture[str], options: list[str]
) -> None:
    assert say("Hello.", *options) == 3
    assert "error: " in error_of(capsys)
    assert files(here) == []


def test_what_may_be_wrong_is_said(
    say: Any, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lively = ["--early-stop", "--semantic-temperature", "1.5", "--min-eos-p", "off"]
    for seed in map(str, range(20)):
        code = say("Hello the cat.", "-o", "a.wav", "--seed", seed, *lively)
        shown = capsys.readouterr().out
        if code == 0 and "segment 1 may be wrong: " in shown:
            return
    pytest.fail("nothing went wrong in twenty takes of a random model")


def test_words_can_be_kept(say: Any, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert say("Hello.", "-o", "a.wav", "--save-segments", "a.npz") == 0
    assert "a.npz: its segments" in capsys.readouterr().out
    again = ["--keep-words", "a.npz", "--json"]
    assert say("Hello.", "-o", "b.wav", *again) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["words"]["sha256"]
    assert "semantic" not in told["seconds"]
    assert read_audio("a.wav").samples.tobytes() == read_audio("b.wav").samples.tobytes()
    assert say("Hello.", "-o", "c.wav", "--seed", "8", *again) == 0
    assert read_audio("c.wav").samples.tobytes() != read_audio("b.wav").samples.tobytes()
    capsys.readouterr()
    assert say("Hello. It is another text of more segments than one.", *again[:2]) == 3
    assert "keep the text as it was" in error_of(capsys)


def test_the_text_may_come_from_standard_input(
    say: Any, here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("Hello\nthe cat.\n"))
    assert say("-", "--json") == 0
    assert json.loads(capsys.readouterr().out)["text"] == "Hello\nthe cat.\n"


class Endless(io.TextIOBase):
    """Standard input that never ends, as `yes` makes it."""

    def read(self, size: int | None = -1, /) -> str:
        assert size is not None
        assert size > 0
        return "y" * size


def test_endless_standard_input_is_refused(
    say: Any, here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stdin", Endless())
    assert say("-") == 3
    assert "100,000" in error_of(capsys)


def test_standard_input_that_is_no_text_is_refused(
    say: Any, here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"\xff\xfe\x00"), "utf-8"))
    assert say("-") == 3
    assert "isn't text" in error_of(capsys)


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["say"],
        ["sing", "la"],
        ["say", "a", "--tempo", "3"],
        ["say", "a", "--seed", "x"],
        ["say", "a", "--fine-temperature", "warm"],
        ["say", "a", "--precision", "float64"],
        ["say", "a", "--offload", "maybe"],
        ["voices"],
        ["voices", "show"],
        ["models", "install", "pup"],
        ["models", "convert", "pup"],
        ["models", "convert", "pup", "there", "--precision", "int8"],
        ["models", "preflight", "--offload", "maybe"],
    ],
)
def test_wrong_usage_ends_with_2(
    arguments: list[str], here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("usage: python -m bark_core")
    assert files(here) == []


@pytest.mark.parametrize("command", ["", "say", "voices", "voices list", "models", "models list"])
def test_help_is_no_error(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*command.split(), "--help"]) == 0
    assert capsys.readouterr().out.startswith(f"usage: python -m bark_core {command}".strip())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([""], "no text"),
        (["  \n "], "no text"),
        (["a" * 100_001], "100,001"),
        (["half of \udce4 character"], "half a character"),
        (["a", "--semantic-temperature", "nan"], "temperature"),
        (["a", "--coarse-temperature", "inf"], "temperature"),
        (["a", "--fine-temperature", "-1"], "temperature"),
        (["a", "--top-k", "0"], "top_k"),
        (["a", "--top-p", "1.5"], "top_p"),
        (["a", "--min-eos-p", "2"], "min_eos_p"),
        (["a", "--max-duration", "nan"], "max_duration_s"),
        (["a", "--max-coarse-history", "1"], "max_history"),
        (["a", "--pause", "11"], "pause"),
        (["a", "--seed", "-1"], "seed"),
        (["a", "--seed", str(2**63)], "seed"),
        (["a", "--device", "tpu"], "tpu"),
        (["a", "--device", "cpu", "--precision", "bfloat16-kv8"], "only CUDA devices can"),
        (["a", "--streaming", "--retries", "1"], "turn one of them off"),
        (["a", "-o", "a.aac"], ".opus"),
        (["a", "-o", "-", "--takes", "2"], "one stream"),
        (["a", "-o", "-", "--sign"], "can't be signed"),
        (["a", "-o", "a"], ".flac"),
        (["a", "--save-voice", "voice.txt"], ".npz"),
        (["a", "--voice", "en_speaker_99"], "closest"),
        (["a", "--voice", "nowhere.npz"], "nowhere.npz"),
        (["a", "--voice", "rosa"], "layout"),
    ],
)
def test_what_cannot_be_done_ends_with_3(
    say: Any,
    here: Path,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    message: str,
) -> None:
    assert say(*arguments) == 3
    assert message in error_of(capsys)
    assert files(here) == []


def test_a_voice_file_that_is_none_ends_with_3(
    say: Any, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (here / "voice.npz").write_bytes(b"\x80\x04\x95 a pickle")
    assert say("a", "--voice", "voice.npz") == 3
    assert "voice.npz" in error_of(capsys)


@pytest.mark.parametrize("model", ["smal", "nowhere/at/all", "./nowhere"])
def test_a_model_that_is_not_there_ends_with_4(
    say: Any, here: Path, capsys: pytest.CaptureFixture[str], model: str
) -> None:
    assert say("a", "--model", model) == 4
    assert model.removeprefix("./") in error_of(capsys)


def test_without_a_network_a_published_model_says_which_files_to_put_where(
    say: Any, here: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert say("a", "--model", "small", "--offline") == 4
    message = error_of(capsys)
    assert "suno/bark-small" in message
    assert str(tmp_path / "cache") in message
    assert files(here) == []


def test_a_damaged_model_ends_with_4(
    say: Any, here: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tiny.save_tiny_model(tmp_path / "damaged")
    weights = folder / "coarse.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    assert say("a", "--model", str(folder)) == 4
    assert "coarse.safetensors" in error_of(capsys)
    assert files(here) == []


@pytest.mark.parametrize("output", ["nowhere/a.wav", "folder.wav"])
def test_what_cannot_be_written_ends_with_5(
    say: Any, here: Path, capsys: pytest.CaptureFixture[str], output: str
) -> None:
    (here / "folder.wav").mkdir()
    assert say("a", "-o", output) == 5
    assert output.split("/")[0] in error_of(capsys)
    assert files(here) == ["folder.wav"]


def test_a_generation_that_says_nothing_ends_with_6(
    say: Any, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert say("a", "--early-stop", "--min-eos-p", "0") == 6
    assert "another seed" in error_of(capsys)
    assert files(here) == []


def test_with_json_errors_are_json(
    say: Any, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert say("a", "--voice", "nobody", "--json") == 3
    captured = capsys.readouterr()
    assert captured.out == ""
    error = json.loads(captured.err)["error"]
    assert error["kind"] == "UnknownVoice"
    assert "'nobody'" in error["message"]


def test_a_failure_keeps_the_older_file(say: Any, here: Path) -> None:
    (here / "a.wav").write_bytes(b"older")
    assert say("a", "-o", "a.wav", "--early-stop", "--min-eos-p", "0") == 6
    assert (here / "a.wav").read_bytes() == b"older"
    assert say("a", "-o", "a.wav", "--quiet") == 0
    assert (here / "a.wav").read_bytes()[:4] == b"RIFF"


def test_a_saved_voice_can_be_used_and_kept(
    say: Any,
    voices: Any,
    here: Path,
    tiny_folder: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert say("Hello.", "--save-voice", "mine.npz", "-o", "a.wav", "--quiet") == 0
    voice = load_voice("mine.npz", layout=tiny.TINY_LAYOUT)
    assert say("Hello.", "--voice", "mine.npz", "-o", "b.wav", "--quiet") == 0
    kept = ("import", "mine.npz", "--name", "Mine", "--model", str(tiny_folder), "--quiet")
    assert voices(*kept) == 0
    assert say("Hello.", "--voice", "Mine", "-o", "c.wav", "--json") == 0
    assert json.loads(capsys.readouterr().out)["voice"] == {"name": "Mine", "sha256": voice.sha256}
    a, b, c = (read_audio(name).samples.tobytes() for name in ("a.wav", "b.wav", "c.wav"))
    assert a != b == c


def test_models_list_names_the_published_ones(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cache = ["--cache-dir", str(tmp_path / "cache")]
    assert main(["models", "list", "--json", *cache]) == 0
    told = {model["name"]: model for model in json.loads(capsys.readouterr().out)}
    assert {"small", "large"} <= set(told)
    assert told["small"]["installed"] is False
    assert main(["models", "list", *cache]) == 0
    assert "1.7 GB to download" in capsys.readouterr().out


def test_models_download_needs_the_network_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cache = ["--cache-dir", str(tmp_path / "cache")]
    assert main(["models", "download", "small", "--offline", *cache]) == 4
    assert "suno/bark-small" in error_of(capsys)
    assert main(["models", "remove", "small", *cache]) == 0
    assert "0 MB freed" in capsys.readouterr().out


def test_preflight_tells_of_each_model_and_recommends_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cache = ["--cache-dir", str(tmp_path / "cache"), "--device", "cpu"]
    assert main(["models", "preflight", "--json", *cache]) == 0
    told = json.loads(capsys.readouterr().out)
    fits = {fit["model"]: fit for fit in told["fits"]}
    assert {"small", "large"} <= set(fits)
    assert fits["small"]["needed_bytes"] < fits["large"]["needed_bytes"]
    assert fits["small"]["disk_needed_bytes"] > 1_680_000_000
    assert told["recommended"] in fits
    assert main(["models", "preflight", *cache]) == 0
    assert "recommended: " in capsys.readouterr().out
    assert main(["models", "preflight", "large", *cache]) == 0
    assert "recommended" not in capsys.readouterr().out
    assert main(["models", "preflight", "large", "--offload", "on", *cache]) == 3


def test_models_list_tells_what_was_converted_before(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cache = tmp_path / "cache"
    tiny.save_tiny_transformers_model(tmp_path / "mine")
    load(tmp_path / "mine", device="cpu", cache_dir=cache)
    assert main(["models", "list", "--json", "--cache-dir", str(cache)]) == 0
    told = {model["name"]: model for model in json.loads(capsys.readouterr().out)}
    assert told["mine"]["installed"] is True
    assert told["mine"]["layout"] == told["small"]["layout"]


def test_a_folder_of_ones_own_is_not_removed(
    tiny_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["models", "remove", str(tiny_folder)]) == 3
    assert str(tiny_folder) in error_of(capsys)
    assert (tiny_folder / "config.json").is_file()


def test_convert_makes_a_model_that_speaks(
    say: Any, here: Path, tiny_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["models", "convert", str(tiny_folder), "half", "--precision", "float16"]) == 0
    assert "float16" in capsys.readouterr().out
    assert say("Hello.", "--model", "./half", "-o", "a.wav", "--quiet") == 0
    assert main(["models", "convert", str(tiny_folder), "half"]) == 5
    assert "there already" in error_of(capsys)


def start(*arguments: str, cwd: Path, **options: Any) -> subprocess.Popen[bytes]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, "-m", "bark_core", *arguments],
        cwd=cwd,
        env=environment,
        stdout=subprocess.PIPE,
        # a shell in the background hands on that interrupts are ignored
        preexec_fn=hear_interrupts if sys.platform != "win32" else None,
        **options,
    )


def hear_interrupts() -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def test_as_a_process_it_reads_standard_input_and_ends_with_its_code(
    here: Path, tiny_folder: Path
) -> None:
    process = start(
        *["say", "-", "--model", str(tiny_folder), "-o", "ä.wav", *STEADY],
        cwd=here,
        stdin=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    out, err = process.communicate(b"Hello, the cat.")
    assert (process.returncode, err) == (0, b"")
    assert "ä.wav".encode() in out
    assert files(here) == ["ä.wav"]


@pytest.mark.skipif(sys.platform == "win32", reason="needs a pseudo-terminal")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_ends_it_with_130_and_leaves_nothing(
    here: Path, tiny_folder: Path, number: signal.Signals
) -> None:
    import pty

    ours, theirs = pty.openpty()
    endless = "The cat sat on the mat. " * 2000
    process = start(
        *["say", endless, "--model", str(tiny_folder), "-o", "a.wav", "--seed", "1"],
        *["--no-early-stop", "--save-voice", "v.npz"],
        cwd=here,
        stderr=theirs,
    )
    os.close(theirs)
    shown = b""
    deadline = time.monotonic() + 120
    while b"coarse" not in shown and time.monotonic() < deadline:
        shown += os.read(ours, 4096)  # fails with an error when the process has ended
    process.send_signal(number)
    out = process.communicate(timeout=60)[0]
    with os.fdopen(ours, "rb", buffering=0) as terminal:
        shown += terminal.read(65_536)
    assert process.returncode == 130
    assert out == b""
    assert b"semantic" in shown
    assert b"error: interrupted" in shown
    assert b"Traceback" not in shown
    assert files(here) == []


@pytest.mark.skipif(sys.platform == "win32", reason="has no SIGPIPE")
def test_a_reader_that_leaves_early_is_no_error(here: Path) -> None:
    process = start("voices", "list", cwd=here, stderr=subprocess.PIPE)
    assert process.stdout
    assert process.stderr
    process.stdout.close()
    assert process.stderr.read() == b""
    assert process.wait(60) == 0


@pytest.mark.skipif(sys.platform == "win32", reason="has no SIGPIPE")
def test_a_player_that_is_closed_ends_it(here: Path, tiny_folder: Path) -> None:
    endless = "The cat sat on the mat. " * 2000
    process = start(
        *["say", endless, "--model", str(tiny_folder), "-o", "-", *STEADY],
        cwd=here,
        stderr=subprocess.PIPE,
    )
    assert process.stdout
    assert process.stdout.read(4) == b"RIFF"
    process.stdout.close()
    assert process.communicate(timeout=120)[1] == b""
    assert process.returncode == 0
    assert files(here) == []

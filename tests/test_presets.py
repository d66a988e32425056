"""Laws of presets: every one can be used, and says in one line what it does."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

import bark_core.presets
from bark_core.config import BARK_CUES, BARK_LANGUAGES, LARGE, SMALL
from bark_core.errors import StorageError
from bark_core.presets import examples, moods, sound_cues
from bark_core.request import MAX_TEXT_CHARACTERS, GenerationRequest, Settings
from bark_core.text import estimate_duration_s, plan_segments
from tests.tiny import tiny_config

ROOT = Path(__file__).resolve().parent.parent


def test_the_originals_defaults_are_a_mood() -> None:
    by_name = {mood.name: mood.settings for mood in moods()}
    assert list(by_name) == ["steady", "lively", "wild", "bark"]
    assert by_name["bark"] == Settings()
    assert len({repr(settings) for settings in by_name.values()}) == len(by_name)


def test_moods_grow_wilder() -> None:
    by_name = {mood.name: mood.settings for mood in moods()}
    warmth = [by_name[name].semantic.temperature for name in ("steady", "bark", "lively", "wild")]
    assert warmth == sorted(set(warmth))


def test_every_text_is_one_line_for_a_page() -> None:
    told = [(m.title, m.about) for m in moods()] + [(c.title, c.about) for c in sound_cues()]
    for title, about in told:
        assert 1 <= len(title) <= 20
        assert about.endswith(".")
        assert len(about) <= 90
        assert not set('<>&"\n') & set(title + about)
    assert len({title for title, _ in told}) == len(told)


def test_every_cue_of_the_published_models_can_be_inserted() -> None:
    cues = sound_cues()
    assert set(BARK_CUES) <= {cue.insert for cue in cues}
    assert all(cue.known_to(config) for cue in cues for config in (SMALL, LARGE))
    assert {cue.insert for cue in cues if cue.wraps} == {"♪", "CAPITALS"}
    assert {cue.insert for cue in cues if cue.uppercases} == {"CAPITALS"}


def test_a_model_knows_the_cues_that_it_names() -> None:
    config = tiny_config()
    assert [cue.insert for cue in sound_cues() if cue.known_to(config)] == list(config.cues)
    taught = dataclasses.replace(config, cues=("[music]", "—"))
    assert {cue.insert for cue in sound_cues() if cue.known_to(taught)} == {"[music]", "—"}


def test_there_are_examples_in_every_language() -> None:
    for language in BARK_LANGUAGES:
        texts = examples([language], cues=BARK_CUES)
        assert len(texts) >= 2
        assert len(set(texts)) == len(texts)
    every = examples(BARK_LANGUAGES, cues=BARK_CUES)
    assert every[: len(examples(["en"], cues=BARK_CUES))] == examples(["en"], cues=BARK_CUES)
    assert examples(["xx"]) == ()


def test_an_example_needs_no_cue_that_the_model_does_not_know() -> None:
    plain = examples(BARK_LANGUAGES)
    assert len(plain) >= len(BARK_LANGUAGES)
    assert not [text for text in plain if any(cue in text for cue in BARK_CUES)]
    laughing = set(examples(["en"], cues=["[laughs]"])) - set(examples(["en"]))
    assert laughing
    assert all("[laughs]" in text for text in laughing)


def test_an_example_is_said_in_one_go() -> None:
    for text in examples(BARK_LANGUAGES, cues=BARK_CUES):
        assert len(text) < MAX_TEXT_CHARACTERS
        assert GenerationRequest(text).text == text
        assert estimate_duration_s(text) < 13
        assert len(plan_segments(text, count=len, max_tokens=256, max_duration_s=13.0)) == 1


def test_they_are_read_from_the_projects_folder() -> None:
    for name in ("generation.toml", "prompts.toml"):
        assert (ROOT / "presets" / name).is_file()


@pytest.mark.parametrize(
    "text",
    [
        "",
        "x =",
        "moods = 1\ncues = 1\nexamples = 1",
        "[moods]\na = 1\n[examples]\nen = 1\n[[cues]]\nunknown = 1",
        '[moods.a]\ntitle = "A"\n[examples]\n[[cues]]\ntitle = "A"',
        '[moods.a]\ntitle = "A"\nabout = "B"\nsemantic = { temperature = 99 }',
        '[moods.a]\ntitle = "A"\nabout = "B"\nsemantic = { warmth = 1 }',
        "\ud800",
    ],
)
def test_damaged_files_are_typed(
    text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bark_core.presets, "_FOLDER", tmp_path)
    for name in ("generation.toml", "prompts.toml"):
        (tmp_path / name).write_bytes(text.encode("utf-8", "surrogatepass"))
    with pytest.raises(StorageError, match=r"generation\.toml is damaged.*get the project"):
        moods()
    if "semantic" not in text:
        with pytest.raises(StorageError, match=r"prompts\.toml is damaged"):
            examples(["en"])
            sound_cues()


def test_missing_files_are_typed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bark_core.presets, "_FOLDER", tmp_path)
    for read in (moods, sound_cues, examples):
        with pytest.raises(StorageError, match="missing; get the project"):
            read()

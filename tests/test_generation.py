"""Laws of what a request becomes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bark_core import (
    GenerationRequest,
    SemanticParams,
    Settings,
    load_voice,
    read_audio,
    read_tags,
    settings_from_metadata,
)
from bark_core.cascade import Cascade
from bark_core.errors import InvalidAudio, InvalidSetting

# random weights may end at once: let them go on for a while
SETTINGS = Settings(semantic=SemanticParams(allow_early_stop=False, max_duration_s=0.3))
REQUEST = GenerationRequest("One. Two.\n\nThree.", seed=3, settings=SETTINGS, segment_pause_s=0.1)


def test_saved_file_sounds_the_same_and_tells_how_it_was_made(
    tiny_cascade: Cascade, tmp_path: Path
) -> None:
    result = tiny_cascade.generate(REQUEST)
    file = tmp_path / "three.flac"
    result.save(file)
    samples = result.audio.samples / max(1.0, np.abs(result.audio.samples).max())
    assert np.abs(read_audio(file).samples - samples).max() < 1e-4
    assert read_tags(file) == result.metadata()
    assert read_tags(file)["text"] == REQUEST.text


def test_unknown_suffix_is_refused_and_leaves_nothing(
    tiny_cascade: Cascade, tmp_path: Path
) -> None:
    with pytest.raises(InvalidAudio, match=r"\.flac"):
        tiny_cascade.generate(REQUEST).save(tmp_path / "three.txt")
    assert not list(tmp_path.iterdir())


def test_sound_is_segments_and_pauses(tiny_cascade: Cascade) -> None:
    result = tiny_cascade.generate(REQUEST)
    assert result.complete
    rate = result.audio.sample_rate_hz
    pauses = [round(segment.pause_s * rate) for segment in result.segments]
    assert pauses[-1] == 0
    assert len(result.audio) == sum(len(s.audio) for s in result.segments) + sum(pauses)


def test_result_is_a_voice_that_can_be_used_again(tiny_cascade: Cascade, tmp_path: Path) -> None:
    result = tiny_cascade.generate(REQUEST)
    result.voice.save(tmp_path / "mine.npz")
    voice = load_voice(tmp_path / "mine.npz", layout=tiny_cascade.config.layout)
    assert voice.sha256 == result.voice.sha256
    again = tiny_cascade.generate(GenerationRequest("Four.", voice, 4, SETTINGS))
    assert again.metadata()["voice"]["sha256"] == voice.sha256


def test_settings_are_read_back_from_what_was_told(tiny_cascade: Cascade) -> None:
    details = tiny_cascade.generate(REQUEST).metadata()
    assert settings_from_metadata(details) == SETTINGS
    assert settings_from_metadata(json.loads(json.dumps(details))) == SETTINGS


def test_settings_of_another_version_are_read_as_far_as_they_are_known() -> None:
    assert settings_from_metadata({}) == Settings()
    told = {"semantic": {"temperature": 0.2, "unheard_of": 1}, "more": {"a": 1}}
    expected = Settings(semantic=SemanticParams(temperature=0.2))
    assert settings_from_metadata({"settings": told}) == expected


@pytest.mark.parametrize(
    "told",
    [
        7,
        "hot",
        [1],
        None,
        {"semantic": 7},
        {"semantic": None},
        {"fine": [1]},
        {"semantic": {"temperature": "hot"}},
        {"semantic": {"temperature": 99}},
        {"semantic": {"top_k": 1.5}},
        {"coarse": {"max_history": -1}},
        {"semantic": {"allow_early_stop": "no"}},
        {"fine": {"temperature": None}},
        {"semantic": {"temperature": [[]] * 10_000}},
    ],
)
def test_what_cannot_be_settings_is_refused(told: Any) -> None:
    with pytest.raises(InvalidSetting) as caught:
        settings_from_metadata({"settings": told})
    assert len(str(caught.value)) < 100_000

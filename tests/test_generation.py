"""Laws of what a request becomes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from bark_core import (
    GenerationRequest,
    SemanticParams,
    Settings,
    load_voice,
    read_audio,
    read_tags,
)
from bark_core.cascade import Cascade
from bark_core.errors import InvalidAudio

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

"""Laws of the recogniser: a recording becomes a voice that its model can use."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from bark_core.codec import Codec
from bark_core.config import AnalysisConfig, CascadeConfig, RecogniserConfig
from bark_core.errors import InvalidCheckpoint, InvalidSetting, MissingFiles
from bark_core.folders import Origin
from bark_core.formats import write_model
from bark_core.layouts import new_module
from bark_core.recogniser import RECOGNISER_FILE, load_recogniser, new_recogniser, voice_from_audio
from bark_core.tokenizer import Tokenizer
from bark_core.tokens import Audio
from bark_core.voices import load_voice
from bark_core.weights import write_safetensors
from tests.tiny import tiny_config, tiny_vocabulary

BASE = tiny_config()
HOP = BASE.layout.samples_per_frame


def _config() -> CascadeConfig:
    codec = dataclasses.replace(BASE.codec, analysis=AnalysisConfig(window=2 * HOP, n_mels=8))
    hears = RecogniserConfig(width=8, kernel_size=3, dilations=(1, 2))
    return dataclasses.replace(BASE, codec=codec, recogniser=hears)


def _audio(n_frames: int) -> Audio:
    samples = np.random.default_rng(n_frames).normal(0, 0.1, n_frames * HOP).astype(np.float32)
    return Audio(samples, BASE.layout.sample_rate_hz)


def _codec(config: CascadeConfig) -> Codec:
    torch.manual_seed(0)
    codec = Codec(config.codec, config.layout)
    for buffer in codec.buffers():
        buffer.normal_()
    return codec.eval()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A tiny model in our own layout, with a recogniser beside it."""
    config = _config()

    def weights(stage: object) -> dict[str, torch.Tensor]:
        shapes = new_module(stage, config).state_dict()  # type: ignore[arg-type]
        names = {n for n in shapes if not (stage == "fine" and ".wtes." in n and ".0." not in n)}
        return {name: torch.randn(shapes[name].shape) for name in names}

    target = tmp_path / "model"
    write_model(
        target,
        config=config,
        tokenizer=Tokenizer.from_vocabulary(tiny_vocabulary()),
        read_stage=weights,
        precision="float32",
        origin=Origin("test", "0"),
    )
    torch.manual_seed(1)
    write_safetensors(target / RECOGNISER_FILE, dict(new_recogniser(config).state_dict()))
    return target


@pytest.mark.parametrize("n_frames", [1, 2, 7, 150])
def test_a_recording_becomes_a_voice_of_its_length(n_frames: int) -> None:
    config = _config()
    voice = voice_from_audio(
        _audio(n_frames), _codec(config), new_recogniser(config).eval(), name="me"
    )
    assert voice.fine.n_frames == n_frames
    assert len(voice.semantic) == max(1, round(n_frames / config.layout.frames_per_semantic))
    assert voice.coarse.values.tolist() == voice.fine.coarse.values.tolist()
    assert load_voice(voice.to_bytes(), layout=config.layout).sha256 == voice.sha256


def test_tokens_follow_the_sound() -> None:
    config = _config()
    recogniser, codec = new_recogniser(config).eval(), _codec(config)
    long = voice_from_audio(_audio(60), codec, recogniser).semantic.values
    again = voice_from_audio(_audio(60), codec, recogniser).semantic.values
    other = voice_from_audio(_audio(61), codec, recogniser).semantic.values
    assert long.tolist() == again.tolist() != other[: len(long)].tolist()


def test_weights_survive_the_disk(folder: Path) -> None:
    torch.manual_seed(1)
    made, read = new_recogniser(_config()), load_recogniser(folder)
    assert all(torch.equal(a, b) for a, b in zip(made.parameters(), read.parameters(), strict=True))


def test_a_missing_file_is_named(folder: Path) -> None:
    (folder / RECOGNISER_FILE).unlink()
    with pytest.raises(MissingFiles, match=RECOGNISER_FILE):
        load_recogniser(folder)


def test_weights_of_another_shape_are_refused(folder: Path) -> None:
    write_safetensors(folder / RECOGNISER_FILE, {"head.bias": torch.zeros(3)})
    with pytest.raises(InvalidCheckpoint, match=RECOGNISER_FILE):
        load_recogniser(folder)


def test_a_model_without_one_says_so() -> None:
    with pytest.raises(InvalidSetting, match="can't hear"):
        new_recogniser(BASE)


def test_a_published_model_can_not_hear() -> None:
    with pytest.raises(InvalidSetting, match="can't hear"):
        load_recogniser("small")


def test_configuration_survives_json() -> None:
    assert CascadeConfig.from_dict(_config().to_dict()) == _config()

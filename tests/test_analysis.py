"""Laws of the encoder that is computed: nothing looks ahead, and it goes with its codec."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch

from bark_core.analysis import Analysis, log_mel, mel_filters
from bark_core.codec import Codec
from bark_core.config import AnalysisConfig, CascadeConfig
from bark_core.configurations import check_config
from bark_core.errors import InvalidCheckpoint
from bark_core.layouts import expected_shapes
from bark_core.tokens import Audio
from tests.tiny import tiny_config

SMALL = AnalysisConfig(window=64, n_mels=8, lowest_hz=100.0, highest_hz=8_000.0)
TINY = tiny_config()
HOP = TINY.layout.samples_per_frame


def _with(analysis: AnalysisConfig) -> CascadeConfig:
    return dataclasses.replace(TINY, codec=dataclasses.replace(TINY.codec, analysis=analysis))


def _codec(window: int = 0) -> Codec:
    config = _with(dataclasses.replace(SMALL, window=window or 2 * HOP))
    torch.manual_seed(0)
    codec = Codec(config.codec, config.layout)
    for buffer in codec.buffers():
        buffer.normal_()
    return codec.eval()


def test_no_filter_is_empty() -> None:
    assert bool((mel_filters(64, 20, 50.0, 8_000.0, 24_000).sum(1) > 0).all())


def test_a_frame_does_not_see_what_comes_after_it() -> None:
    sound = torch.randn(10 * 32, generator=torch.Generator().manual_seed(1))
    changed = sound.clone()
    changed[5 * 32 :] = 0.0
    before, after = (log_mel(samples, SMALL, 32, 24_000) for samples in (sound, changed))
    assert before.shape == (10, 8)
    assert torch.equal(before[:5], after[:5])
    assert not torch.equal(before[5], after[5])


def test_sound_is_padded_to_whole_frames() -> None:
    analysis = Analysis(SMALL, dimension=4, hop=32, sample_rate_hz=24_000)
    assert analysis(torch.zeros(2, 1, 33)).shape == (2, 4, 2)


def test_codes_are_the_nearest_entries_to_the_analysis() -> None:
    codec = _codec()
    samples = np.random.default_rng(0).normal(0, 0.1, 7 * HOP).astype(np.float32)
    codes = codec.encode(Audio(samples, TINY.layout.sample_rate_hz)).values
    latents = codec.encoder(torch.from_numpy(samples)[None, None])[0].T
    first = torch.cdist(latents, codec.quantizer.codebooks[0]).argmin(1)
    assert codes.shape == (TINY.layout.n_codebooks, 7)
    assert codes[0].tolist() == first.tolist()


def test_it_has_no_weights_of_a_network() -> None:
    names = set(expected_shapes("codec", _with(dataclasses.replace(SMALL, window=2 * HOP))))
    assert {name for name in names if name.startswith("encoder.")} == {
        "encoder.mean",
        "encoder.components",
    }


def test_configuration_survives_json() -> None:
    config = _with(dataclasses.replace(SMALL, window=2 * HOP))
    assert CascadeConfig.from_dict(config.to_dict()) == config


@pytest.mark.parametrize(
    "change",
    [
        {"window": 0},
        {"window": 64.5},
        {"n_mels": 0},
        {"lowest_hz": 9_000.0},
        {"floor": 0.0},
        {"highest_hz": float("nan")},
    ],
)
def test_senseless_figures_are_refused(change: dict[str, Any]) -> None:
    with pytest.raises(InvalidCheckpoint, match="analysis"):
        check_config(_with(dataclasses.replace(SMALL, **change)))


def test_a_window_shorter_than_a_frame_is_refused() -> None:
    with pytest.raises(InvalidCheckpoint, match="shorter than a frame"):
        _codec(window=HOP - 1)

"""Laws of the decoder that is a vocoder: it keeps any pitch, looks nowhere ahead, and can stop."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from bark_core.codec import Codec
from bark_core.config import (
    VOCODER_STEPS_AT_ONCE,
    CascadeConfig,
    TokenLayout,
    VocoderConfig,
)
from bark_core.configurations import check_config
from bark_core.errors import InvalidCheckpoint
from bark_core.layouts import expected_shapes
from bark_core.tokens import FineCodes
from bark_core.vocoder import Controls, Vocoder
from tests.tiny import tiny_config

SHAPE = VocoderConfig(width=8, kernel_sizes=(3, 2))
RATE, HOP = 24_000, 120
NEAR = 2e-4  # of a loudness of 3: a rounded pitch, added up over frames
TINY = tiny_config()


def _with(vocoder: VocoderConfig) -> CascadeConfig:
    return dataclasses.replace(TINY, codec=dataclasses.replace(TINY.codec, vocoder=vocoder))


def _codec(layout: TokenLayout = TINY.layout) -> Codec:
    torch.manual_seed(0)
    codec = Codec(_with(SHAPE).codec, layout).eval()
    codec.quantizer.codebooks.normal_(std=0.1)  # loud enough to hear, as speech is
    return codec


def _codes(n_frames: int, seed: int = 0) -> FineCodes:
    shape = (TINY.layout.n_codebooks, n_frames)
    values = np.random.default_rng(seed).integers(0, TINY.layout.codebook_size, shape)
    return FineCodes(values.astype(np.int16), TINY.layout)


def _vocoder() -> Vocoder:
    return Vocoder(SHAPE, dimension=4, samples_per_frame=4 * HOP, sample_rate_hz=RATE)


def _controls(pitch_hz: float, pulses: float, n_steps: int = 400, **cepstrum: float) -> Controls:
    rows = torch.zeros(1, n_steps, SHAPE.n_cepstra)
    for name, value in cepstrum.items():
        rows[..., int(name[1:])] = value
    return Controls(
        torch.full((1, n_steps), pitch_hz),
        torch.full((1, n_steps, SHAPE.n_bands), pulses),
        rows,
    )


def _power(controls: Controls) -> Tensor:
    """Mean power spectrum of the steady middle, at 1 Hz a bin."""
    sound = _vocoder().sound(controls)[0, HOP * 40 :]
    pieces = sound.unfold(0, RATE, RATE // 8) * torch.hann_window(RATE)
    power: Tensor = torch.fft.rfft(pieces).abs().square().mean(0)
    return power


@pytest.mark.parametrize("pitch_hz", [84.0, 147.0, 233.0, 659.0])
def test_a_pitch_needs_not_be_a_multiple_of_the_frame_rate(pitch_hz: float) -> None:
    power = _power(_controls(pitch_hz, pulses=1.0))
    for harmonic in (1, 2, 5, 10):
        around = power[int((harmonic - 0.5) * pitch_hz) : int((harmonic + 0.5) * pitch_hz)]
        found = int((harmonic - 0.5) * pitch_hz) + int(around.argmax())
        assert abs(found - harmonic * pitch_hz) <= 1
        assert float(around.max()) > 1e4 * float(around[:5].mean())


def test_pulses_are_as_strong_as_noise_and_nothing_sounds_above_the_edge() -> None:
    pulses, noise = (_power(_controls(120.0, pulses=share)) for share in (1.0, 0.0))
    for low, high in ((60, 1_000), (1_000, 4_000), (4_000, 7_900)):
        assert float(pulses[low:high].sum() / noise[low:high].sum()) == pytest.approx(1, abs=0.15)
    for power in (pulses, noise):
        assert float(power[8_800:].sum() / power.sum()) < 1e-7


def test_the_cepstrum_is_the_filter() -> None:
    plain = _power(_controls(90.0, pulses=0.0))
    filtered = _power(_controls(90.0, pulses=0.0, c0=0.5, c1=1.0))
    places_hz = torch.tensor([500.0, 2_000.0, 6_000.0])
    w = torch.pi * places_hz / (RATE / 2)
    warped = w + 2 * torch.atan2(SHAPE.warp * w.sin(), 1 - SHAPE.warp * w.cos())
    for hz, angle in zip(places_hz.int().tolist(), warped, strict=True):
        band = slice(hz - 100, hz + 100)
        gain = float((filtered[band].sum() / plain[band].sum()).log()) / 2
        assert gain == pytest.approx(0.5 + float(angle.cos()), abs=0.1)


def test_what_comes_later_changes_nothing() -> None:
    codec, codes, other = _codec(), _codes(12), _codes(12, seed=1)
    mixed = np.concatenate([codes.values[:, :8], other.values[:, 8:]], axis=1)
    before = codec.decode(codes).samples
    after = codec.decode(FineCodes(mixed, TINY.layout)).samples
    same = 8 * TINY.layout.samples_per_frame
    np.testing.assert_allclose(after[:same], before[:same], atol=NEAR)
    assert np.abs(after[same:] - before[same:]).max() > 1e-3


def test_pieces_are_the_whole() -> None:
    n_frames = 40 + VOCODER_STEPS_AT_ONCE // SHAPE.steps
    codec, codes, step = _codec(), _codes(n_frames), TINY.layout.samples_per_frame
    whole = codec.decode(codes).samples
    for start, end in ((0, 7), (7, 21), (21, n_frames)):
        so_far = FineCodes(codes.values[:, :end], TINY.layout)
        piece = codec.decode_from(so_far, start).samples
        np.testing.assert_allclose(piece, whole[start * step : end * step], atol=NEAR)


def test_batch_equals_single() -> None:
    codec = _codec()
    several = [_codes(7, seed=seed) for seed in range(3)]
    batch = torch.from_numpy(np.stack([codes.values for codes in several]))
    for row, codes in zip(codec.decode_batch(batch), several, strict=True):
        np.testing.assert_allclose(row.numpy(), codec.decode(codes).samples, atol=NEAR)


def test_it_stops_at_the_next_layer() -> None:
    calls = iter(range(100))

    def stop() -> None:
        if next(calls) == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        _codec().decode(_codes(1 + VOCODER_STEPS_AT_ONCE // SHAPE.steps), between=stop)
    assert next(calls) == 4


def test_it_has_the_vocoder_s_weights_only() -> None:
    names = set(expected_shapes("codec", _with(SHAPE)))
    assert {name for name in names if name.startswith("decoder.")} == {
        f"decoder.{layer}.{kind}"
        for layer in ("first", "others.0", "last")
        for kind in ("weight", "bias")
    }


def test_configuration_survives_json() -> None:
    assert CascadeConfig.from_dict(_with(SHAPE).to_dict()) == _with(SHAPE)


@pytest.mark.parametrize(
    "change",
    [
        {"width": 0},
        {"kernel_sizes": ()},
        {"kernel_sizes": (3, 0)},
        {"steps": 2.0},
        {"n_bands": 1},
        {"window": 0},
        {"lowest_hz": 900.0},
        {"edge_hz": float("nan")},
        {"warp": 1.0},
    ],
)
def test_senseless_figures_are_refused(change: dict[str, Any]) -> None:
    with pytest.raises(InvalidCheckpoint, match="vocoder"):
        check_config(_with(dataclasses.replace(SHAPE, **change)))


@pytest.mark.parametrize(
    ("change", "says"),
    [({"steps": 7}, "7 steps"), ({"window": 100}, "shorter"), ({"edge_hz": 12_001.0}, "12001 Hz")],
)
def test_what_doesn_t_go_with_the_layout_is_refused(change: dict[str, Any], says: str) -> None:
    config = _with(dataclasses.replace(SHAPE, **change))
    with pytest.raises(InvalidCheckpoint, match=says):
        Codec(config.codec, config.layout)


def test_it_can_learn_after_it_has_spoken() -> None:
    codec = _codec()
    codec.decode(_codes(4))
    latents = torch.ones(1, codec.config.dimension, 4)
    codec.decoder(latents).square().mean().backward()
    assert all(p.grad is not None for p in codec.decoder.parameters())

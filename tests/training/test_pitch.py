"""Laws of the analysis: it finds a pitch anywhere, and tells pulses from noise band by band."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from training.pitch import HOP, WINDOW, pitch, pulse_shares, track

RATE = 24_000


def _hum(pitch_hz: float, seconds: float = 1.0, noise_from_hz: float = 12_000.0) -> Tensor:
    """Harmonics below 4 kHz, noise of a tenth of their power above some frequency: [1, n]."""
    time = torch.arange(int(seconds * RATE)) / RATE
    noise = torch.randn(len(time), generator=torch.Generator().manual_seed(0)) * 0.03
    heard = torch.linspace(0, RATE / 2, len(time) // 2 + 1) >= noise_from_hz
    sound: Tensor = torch.fft.irfft(torch.fft.rfft(noise) * heard, len(time))
    amplitude = 0.1 * (4 * pitch_hz / RATE) ** 0.5
    for harmonic in range(1, int(4_000 / pitch_hz) + 1):
        sound += amplitude * torch.cos(2 * torch.pi * harmonic * pitch_hz * time)
    return sound[None]


@pytest.mark.parametrize("pitch_hz", [71.0, 84.0, 147.0, 233.0, 431.0])
def test_a_pitch_is_found(pitch_hz: float) -> None:
    found = track(_hum(pitch_hz), 90)
    assert bool(found.voiced.all())
    assert (12 * (found.hz / pitch_hz).log2()).abs().max() < 0.1


def test_frames_stand_where_they_are_asked_for() -> None:
    sound = torch.cat([torch.zeros(1, RATE // 2), _hum(120.0)], dim=1)
    found = track(sound, 300, first=60, hop=120)
    assert found.hz.shape == (1, 300)
    begins = int(found.voiced[0].float().argmax()) * 120 + 60
    assert abs(begins - RATE // 2) < WINDOW // 2
    assert float(found.level[0, 200]) == pytest.approx(float(sound[:, -RATE // 2 :].std()), rel=0.1)
    assert float(found.level[0, 50]) < 1e-6


def test_noise_and_silence_have_no_pitch() -> None:
    noise = 0.1 * torch.randn(1, RATE, generator=torch.Generator().manual_seed(1))
    assert float(track(noise, 90).voiced.float().mean()) < 0.05
    assert not bool(track(torch.zeros(1, RATE), 90).voiced.any())
    assert pitch(np.zeros(WINDOW - 1, np.float32)).shape == (0,)
    assert pitch(np.zeros(WINDOW + HOP, np.float32)).tolist() == [0.0, 0.0]


@pytest.mark.parametrize("pitch_hz", [90.0, 200.0])
def test_bands_of_pulses_are_told_from_bands_of_noise(pitch_hz: float) -> None:
    sound = _hum(pitch_hz, noise_from_hz=4_000.0)
    shares = pulse_shares(sound, track(sound, 80), 9, 8_000.0, first=WINDOW // 2)
    assert shares.shape == (1, 80, 9)
    means = shares[0].mean(0)
    assert float(means[:4].min()) > 0.9
    assert float(means[5:].max()) < 0.55


def test_where_nothing_is_voiced_there_are_no_pulses() -> None:
    noise = 0.1 * torch.randn(1, RATE, generator=torch.Generator().manual_seed(1))
    shares = pulse_shares(noise, track(noise, 90), 9, 8_000.0, first=WINDOW // 2)
    assert float(shares.mean()) < 0.1

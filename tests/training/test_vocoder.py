"""Laws of the vocoder, on parameters made up here."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from training.flite import Excitation
from training.vocoder import OUT_FRAME, OUT_RATE, vocode

N = 200  # frames, one second


def _excitation(beta: float = 0.4) -> Excitation:
    bands = np.zeros((5, 48), np.float32)
    bands[0, 0] = 1.0  # the first band is everything
    return Excitation(bands, beta, 1.0)


def _sound(pitch_hz: float, voiced: float, level: float = 7.0, beta: float = 0.4) -> Tensor:
    parameters = torch.zeros(N, 26)
    parameters[:, 0], parameters[:, 1] = pitch_hz, level
    parameters[:, 2], parameters[:, 3] = 0.8, 0.4
    strengths = torch.full((N, 5), voiced)
    generator = torch.Generator().manual_seed(0)
    return vocode(parameters, strengths, _excitation(beta), 0.42, generator)


def test_sound_is_as_long_as_its_frames() -> None:
    assert len(_sound(100.0, 1.0)) == OUT_FRAME * (N - 1)


@pytest.mark.parametrize("pitch_hz", [80.0, 125.0, 240.0])
def test_a_voiced_sound_has_its_pitch(pitch_hz: float) -> None:
    sound = _sound(pitch_hz, 1.0)[2400:-2400].double()
    likeness = torch.fft.irfft(torch.fft.rfft(sound - sound.mean(), 65_536).abs().square())
    longest = int(1.5 * OUT_RATE / pitch_hz)  # a pulse train is like itself after two periods too
    period = int(likeness[60:longest].argmax()) + 60
    assert OUT_RATE / period == pytest.approx(pitch_hz, rel=0.02)


def test_level_is_a_logarithm() -> None:
    quiet, loud = (_sound(120.0, 1.0, level).std() for level in (6.0, 7.0))
    assert float(loud / quiet) == pytest.approx(math.e, rel=1e-3)


def test_nothing_lies_above_the_teachers_band() -> None:
    spectrum = torch.fft.rfft(_sound(0.0, 0.0)).abs().square()
    edge = int(8_200 / (OUT_RATE / 2) * len(spectrum))
    assert float(spectrum[edge:].sum() / spectrum.sum()) < 1e-4


def test_raising_formants_keeps_the_energy() -> None:
    plain, raised = (_sound(0.0, 0.0, beta=beta) for beta in (0.0, 0.4))
    assert float(raised.std() / plain.std()) == pytest.approx(1.0, rel=0.05)
    assert not torch.allclose(plain, raised, atol=float(plain.std()) / 10)

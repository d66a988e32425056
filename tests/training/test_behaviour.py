"""Measurements of pup stand what a model says that has learnt next to nothing."""

from __future__ import annotations

import numpy as np

from training.behaviour import voiced
from training.features import SAMPLE_RATE


def test_what_has_no_voice_has_no_pitch() -> None:
    time = np.arange(SAMPLE_RATE, dtype=np.float32) / SAMPLE_RATE
    pulses = np.mean([np.cos(2 * np.pi * 120 * k * time) for k in range(1, 20)], axis=0)
    assert abs(np.median(voiced(pulses.astype(np.float32))) - 120) < 2
    assert np.isnan(voiced(np.zeros(SAMPLE_RATE, dtype=np.float32))).all()

"""Pitch of a voice by autocorrelation: enough to tell whether a question rises."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

SAMPLE_RATE = 24_000
WINDOW, HOP = 1_200, 240  # 50 ms, 10 ms
LOWEST_HZ, HIGHEST_HZ = 60.0, 450.0
VOICED_FROM = 0.5  # autocorrelation at the pitch period; that at no lag is 1
QUIET_BELOW = 0.08  # of the loudest frame's level


def pitch(samples: NDArray[np.float32]) -> NDArray[np.float64]:
    """Hz of each frame of 10 ms, 0 where there is no voice.

    Args:
        samples: float32 [n] at 24 kHz.
    Returns:
        float64 [(n - 1200) // 240 + 1], empty for less than 50 ms.
    """
    if len(samples) < WINDOW:
        return np.zeros(0)
    frames = np.lib.stride_tricks.sliding_window_view(samples, WINDOW)[::HOP].astype(np.float64)
    frames = (frames - frames.mean(1, keepdims=True)) * np.hanning(WINDOW)
    spectrum = np.abs(np.fft.rfft(frames, 4096, axis=1)) ** 2
    lags = np.fft.irfft(spectrum, axis=1)[:, :WINDOW]
    taper = np.fft.irfft(np.abs(np.fft.rfft(np.hanning(WINDOW), 4096)) ** 2)[:WINDOW]
    likeness = lags / np.maximum(lags[:, :1], 1e-9) / (taper / taper[0])
    shortest, longest = int(SAMPLE_RATE / HIGHEST_HZ), int(SAMPLE_RATE / LOWEST_HZ)
    window = likeness[:, shortest:longest]
    # the shortest lag that is nearly the best: others are its multiples
    good = window >= 0.9 * window.max(1, keepdims=True)
    best = good.argmax(1)
    # climb from where it got good to its peak
    steps = np.arange(12)
    near = np.take_along_axis(window, (best[:, None] + steps).clip(max=window.shape[1] - 1), 1)
    best = best + near.argmax(1)
    level = np.sqrt(lags[:, 0])
    voiced = (window.max(1) >= VOICED_FROM) & (level >= QUIET_BELOW * level.max())
    return np.where(voiced, SAMPLE_RATE / (best + shortest), 0.0)


def rise_at_end(samples: NDArray[np.float32], seconds: float = 0.45) -> float:
    """Semitones by which the pitch at the end lies above the middle of what came before."""
    track = pitch(samples)
    voiced = np.flatnonzero(track)
    if len(voiced) < 8:
        return 0.0
    n_end = round(seconds * SAMPLE_RATE / HOP)
    end = voiced[voiced > voiced[-1] - n_end]
    before = voiced[voiced <= voiced[-1] - n_end]
    if not len(before):
        before = voiced
    last = float(np.median(track[end[len(end) // 2 :]]))
    return float(12 * np.log2(last / np.median(track[before])))

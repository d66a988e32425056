"""The mel front end whose principal components are pup's codec latents."""

from __future__ import annotations

import functools

import torch
from torch import Tensor

SAMPLE_RATE = 24_000
HOP = 480
WINDOW = 1_024
N_MELS = 80
LOWEST_HZ = 50.0
HIGHEST_HZ = 7_600.0
FLOOR = 1e-2  # log(x + FLOOR): about the level below which teacher and codec only hiss


def _mel(hz: Tensor) -> Tensor:
    return 2595 * torch.log10(1 + hz / 700)


@functools.cache
def mel_filters(n_fft: int, n_mels: int, lowest_hz: float, highest_hz: float) -> Tensor:
    """Triangular filters of height 1, evenly spaced on the (HTK) mel scale.

    Returns:
        float32 [n_mels, n_fft // 2 + 1]; shared, so never write into it.
    """
    bins_hz = torch.linspace(0, SAMPLE_RATE / 2, n_fft // 2 + 1)
    ends = _mel(torch.tensor([lowest_hz, highest_hz]))
    edges = 700 * (10 ** (torch.linspace(ends[0], ends[1], n_mels + 2) / 2595) - 1)
    low, centre, high = edges[:-2, None], edges[1:-1, None], edges[2:, None]
    rising = (bins_hz - low) / (centre - low)
    falling = (high - bins_hz) / (high - centre)
    filters = torch.minimum(rising, falling).clamp_min(0)
    # A low band may fall between two bins: no filter may be empty.
    empty = filters.sum(1) == 0
    nearest = (bins_hz[None] - centre).abs().argmin(1)
    filters[empty, nearest[empty]] = 1.0
    return filters


def log_mel(samples: Tensor) -> Tensor:
    """Log-mel frames whose window ends where the frame ends: nothing looks ahead.

    ```
    samples   0 ... 479 | 480 ... 959 | 960 ... 1439
    frame 0   ^^^^^^^^^^^  (544 zeros before it)
    frame 1   ^^^^^^^^^^^^^^^^^^^^^^^^^  (64 zeros before it)
    frame 2            ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^  1,024 samples
    ```

    Args:
        samples: float32 [..., n] at 24 kHz, -1..1.
    Returns:
        float32 [..., n // 480, 80].
    """
    n_frames = samples.shape[-1] // HOP
    padded = torch.nn.functional.pad(samples[..., : n_frames * HOP], (WINDOW - HOP, 0))
    frames = padded.unfold(-1, WINDOW, HOP) * torch.hann_window(WINDOW)
    magnitude = torch.fft.rfft(frames).abs()  # (..., T, 513)
    filters = mel_filters(WINDOW, N_MELS, LOWEST_HZ, HIGHEST_HZ)
    return torch.log(magnitude @ filters.T + FLOOR)

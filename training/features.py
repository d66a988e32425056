"""The mel front end whose principal components are pup's codec latents."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from bark_core import analysis
from bark_core.config import AnalysisConfig

SAMPLE_RATE = 24_000
HOP = 480
ANALYSIS = AnalysisConfig()  # what stands in pup's configuration
WINDOW = ANALYSIS.window
N_MELS = ANALYSIS.n_mels


def mel_filters(n_fft: int, n_mels: int, lowest_hz: float, highest_hz: float) -> Tensor:
    """`analysis.mel_filters` at pup's sample rate."""
    return analysis.mel_filters(n_fft, n_mels, lowest_hz, highest_hz, SAMPLE_RATE)


def log_mel(samples: Tensor) -> Tensor:
    """`analysis.log_mel` of pup's frames: float32 [..., n] to [..., n // 480, 80]."""
    return analysis.log_mel(samples, ANALYSIS, HOP, SAMPLE_RATE)


def cosines(count: int, n_bands: int, device: str = "cpu") -> Tensor:
    """The first rows of the DCT-II over bands, which turn log spectra into cepstra: [count, n]."""
    order = torch.arange(count, device=device)[:, None]
    return torch.cos(math.pi * (torch.arange(n_bands, device=device) + 0.5) * order / n_bands)

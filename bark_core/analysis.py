"""Log-mel frames of sound, and their principal components: what pup's codes are made from.

A codec whose latents are such an analysis needs no trained encoder: what its decoder learnt to
turn into sound is computed.
"""

from __future__ import annotations

import functools

import torch
from torch import Tensor, nn

from bark_core.config import AnalysisConfig


def _mel(hz: Tensor) -> Tensor:
    return 2595 * torch.log10(1 + hz / 700)


@functools.lru_cache(maxsize=32)
def mel_filters(
    n_fft: int, n_mels: int, lowest_hz: float, highest_hz: float, sample_rate_hz: int
) -> Tensor:
    """Triangular filters of height 1, evenly spaced on the (HTK) mel scale.

    Returns:
        float32 [n_mels, n_fft // 2 + 1] on the CPU; shared, so never write into it.
    """
    with torch.device("cpu"):
        bins_hz = torch.linspace(0, sample_rate_hz / 2, n_fft // 2 + 1)
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


def log_mel(samples: Tensor, config: AnalysisConfig, hop: int, sample_rate_hz: int) -> Tensor:
    """Log-mel frames whose window ends where the frame ends: nothing looks ahead.

    ```
    samples   0 ... 479 | 480 ... 959 | 960 ... 1439           with a hop of 480
    frame 0   ^^^^^^^^^^^  (544 zeros before it)
    frame 1   ^^^^^^^^^^^^^^^^^^^^^^^^^  (64 zeros before it)
    frame 2            ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^  a window of 1,024
    ```

    Args:
        samples: float32 [..., n], -1..1.
    Returns:
        float32 [..., n // hop, n_mels].
    """
    window = config.window
    n_frames = samples.shape[-1] // hop
    padded = nn.functional.pad(samples[..., : n_frames * hop], (window - hop, 0))
    frames = padded.unfold(-1, window, hop) * torch.hann_window(window, device=samples.device)
    magnitude = torch.fft.rfft(frames).abs()  # (..., T, window // 2 + 1)
    filters = mel_filters(
        window, config.n_mels, config.lowest_hz, config.highest_hz, sample_rate_hz
    )
    return torch.log(magnitude @ filters.T.to(samples.device) + config.floor)


class Analysis(nn.Module):
    """Sound to latents without a network: log-mel frames, less their mean, projected."""

    mean: Tensor
    components: Tensor

    def __init__(
        self, config: AnalysisConfig, *, dimension: int, hop: int, sample_rate_hz: int
    ) -> None:
        super().__init__()
        self.config = config
        self.hop = hop
        self.sample_rate_hz = sample_rate_hz
        self.register_buffer("mean", torch.zeros(config.n_mels))
        self.register_buffer("components", torch.zeros(dimension, config.n_mels))

    def forward(self, samples: Tensor) -> Tensor:
        """float32 [B, 1, N] to latents [B, dimension, ceil(N / hop)]."""
        missing = -samples.shape[-1] % self.hop
        padded = nn.functional.pad(samples[:, 0], (0, missing))
        frames = log_mel(padded, self.config, self.hop, self.sample_rate_hz)
        return ((frames - self.mean) @ self.components.T).transpose(1, 2)

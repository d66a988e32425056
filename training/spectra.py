"""How far one sound is from another, for a decoder that learns: spectra of several lengths."""

from __future__ import annotations

import functools
import math

import torch
from torch import Tensor

from training.features import N_MELS, SAMPLE_RATE, cosines, mel_filters

LOSS_FFTS = (256, 512, 1024, 2048)
EDGE_HZ = 8_000.0
RUMBLE_HZ = 40.0  # no voice has anything below
# The envelope as recognisers of speech look at it: 27 ms windows, 10 ms apart
ENVELOPE_FFT, ENVELOPE_HOP = 640, 240
ENVELOPE_HZ = (100.0, 7_000.0)
N_BANDS, N_CEPSTRA = 26, 13
WEIGHTS = {"linear": 0.5, "above": 1.0, "rumble": 0.3, "cepstra": 1.0}


@functools.lru_cache(maxsize=16)
def _tools(n_fft: int, device: str) -> tuple[Tensor, Tensor]:
    """Window [n_fft] and mel filters [n_mels, n_fft // 2 + 1] up to the edge."""
    filters = mel_filters(n_fft, min(N_MELS, n_fft // 8), 0.0, EDGE_HZ)
    return torch.hann_window(n_fft, device=device), filters.to(device)


def magnitudes(sound: Tensor, n_fft: int) -> Tensor:
    """float32 [B, n] to [B, n_fft // 2 + 1, frames]; white noise gives about the same at any n_fft.

    The root has a floor, which keeps its gradient finite in silence.
    """
    window, _filters = _tools(n_fft, str(sound.device))
    spectrum = torch.stft(sound, n_fft, n_fft // 4, window=window, return_complex=True)
    return (torch.view_as_real(spectrum).square().sum(-1) + 1e-8).sqrt() / math.sqrt(n_fft / 4)


def cepstra(sound: Tensor) -> Tensor:
    """Mel cepstra of the power spectrum: float32 [B, n] to [B, N_CEPSTRA, frames].

    Sums over wide bands and cosines hardly mind where harmonics and noise put their peaks, so
    what is left of a difference is formants and loudness.
    """
    window, filters, rows = _envelope_tools(str(sound.device))
    spectrum = torch.stft(sound, ENVELOPE_FFT, ENVELOPE_HOP, window=window, return_complex=True)
    power = torch.view_as_real(spectrum).square().sum(-1) / (ENVELOPE_FFT / 4)
    return rows @ torch.log(filters @ power + 1e-8)


@functools.lru_cache(maxsize=4)
def _envelope_tools(device: str) -> tuple[Tensor, Tensor, Tensor]:
    """Window [ENVELOPE_FFT], mel filters [N_BANDS, ENVELOPE_FFT // 2 + 1], orthonormal cosines."""
    filters = mel_filters(ENVELOPE_FFT, N_BANDS, *ENVELOPE_HZ)
    rows = cosines(N_CEPSTRA, N_BANDS, device) * math.sqrt(2 / N_BANDS)
    rows[0] /= math.sqrt(2)
    return torch.hann_window(ENVELOPE_FFT, device=device), filters.to(device), rows


def spectral_loss(made: Tensor, wanted: Tensor) -> dict[str, Tensor]:
    """Multi-scale log-mel and magnitude L1, cepstral L1, what lies above 8 kHz or below 40 Hz.

    Args:
        made, wanted: float32 [B, n] at 24 kHz.
    Returns:
        scalars "mel", "linear", "above", "rumble", "cepstra" and their weighted "total".
    """
    parts: dict[str, list[Tensor]] = {"mel": [], "linear": [], "above": [], "rumble": []}
    for n_fft in LOSS_FFTS:
        edge = int(EDGE_HZ / SAMPLE_RATE * n_fft) + 1
        _window, filters = _tools(n_fft, str(made.device))
        size_made, size_wanted = magnitudes(made, n_fft), magnitudes(wanted, n_fft)
        mel_made, mel_wanted = (
            torch.log(filters @ size + 1e-3) for size in (size_made, size_wanted)
        )
        parts["mel"].append((mel_made - mel_wanted).abs().mean())
        parts["linear"].append((size_made - size_wanted)[:, :edge].abs().mean())
        parts["above"].append(size_made[:, edge:].mean())
    # Only the longest window tells 40 Hz from a man's pitch.
    rumble = int(RUMBLE_HZ / SAMPLE_RATE * LOSS_FFTS[-1])
    parts["rumble"].append(size_made[:, :rumble].mean())
    losses = {name: torch.stack(values).mean() for name, values in parts.items()}
    losses["cepstra"] = (cepstra(made) - cepstra(wanted)).abs().mean()
    total = losses["mel"]
    for name, weight in WEIGHTS.items():
        total = total + weight * losses[name]
    losses["total"] = total
    return losses

"""Pitch and noisiness of a voice by autocorrelation: what a question does, and the vocoder learns.

A frame's spectrum is that of a Hann window around its centre. Its power turned back is the
autocorrelation, whose highest peak is a period away; how high that peak is in one band alone tells
how much of the band is pulses.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from bark_core.vocoder import hats
from training.features import SAMPLE_RATE

WINDOW, HOP = 1_200, 240  # 50 ms, 10 ms
BAND_WINDOW = 720  # 30 ms: in 50 a moving pitch blurs the upper harmonics
FFT = 2_048  # lags up to FFT - WINDOW don't wrap round
LOWEST_HZ, HIGHEST_HZ = 60.0, 450.0  # of speech
VOICED_FROM = 0.5  # autocorrelation at the pitch period; that at no lag is 1
QUIET_BELOW = 0.08  # of the loudest frame's level
NEARLY_BEST = 0.9  # of the highest peak: the first such is the period, others are its multiples
# An autocorrelation in a band, to this power, is the share of pulses in its power: so on the
# teacher's sound, of which that share is known (docs/log.md)
SHARE_POWER = 0.3


@dataclass(frozen=True, slots=True)
class Track:
    """What frames of sound are like.

    Attributes:
        hz: float32 [B, n], the best guess, even where nothing is voiced.
        likeness: float32 [B, n], 0..1: how alike one period and the next are.
        level: float32 [B, n], root mean square.
    """

    hz: Tensor
    likeness: Tensor
    level: Tensor

    @property
    def voiced(self) -> Tensor:
        """Bool [B, n]."""
        return self.likeness >= VOICED_FROM


def track(
    sound: Tensor,
    n_frames: int,
    *,
    first: int = WINDOW // 2,
    hop: int = HOP,
    lowest_hz: float = LOWEST_HZ,
    highest_hz: float = HIGHEST_HZ,
) -> Track:
    """Pitch by the autocorrelation of each frame.

    Args:
        sound: float32 [B, n] at 24 kHz.
        first, hop: sample in the middle of the first frame, and from one to the next.
    """
    window = torch.hann_window(WINDOW, periodic=False, device=sound.device)
    power = _power(_frames(sound, n_frames, first, hop), window)
    alike = _autocorrelation(power, window)
    shortest, longest = int(SAMPLE_RATE / highest_hz), int(SAMPLE_RATE / lowest_hz)
    inner = alike[..., shortest : longest + 1]
    before, after = alike[..., shortest - 1 : longest], alike[..., shortest + 1 : longest + 2]
    peaks = torch.where((inner >= before) & (inner >= after), inner, -1.0)
    nearly = peaks >= NEARLY_BEST * peaks.amax(-1, keepdim=True).clamp_min(0.0)
    index = nearly.float().argmax(-1, keepdim=True)
    left, top, right = (part.gather(-1, index)[..., 0] for part in (before, inner, after))
    # between samples: the vertex of a parabola through three points
    shift = (left - right) / 2 / (left - 2 * top + right).clamp(max=-1e-6)
    lag = shortest + index[..., 0] + shift.clamp(-0.5, 0.5)
    level = (power.sum(-1) / (FFT / 2 * window.square().sum())).sqrt()
    return Track(SAMPLE_RATE / lag, top.clamp(0.0, 1.0), level)


def pulse_shares(
    sound: Tensor, track: Track, n_bands: int, edge_hz: float, *, first: int, hop: int = HOP
) -> Tensor:
    """How much of each band's power is pulses: float32 [B, n, n_bands], 0..1.

    Args:
        sound, track, first, hop: as `track` had and made them.
        n_bands, edge_hz: as bark_core.config.VocoderConfig has them.
    """
    window = torch.hann_window(BAND_WINDOW, periodic=False, device=sound.device)
    frames = _frames(sound, track.hz.shape[1], first, hop)
    rest = (WINDOW - BAND_WINDOW) // 2
    power = _power(frames[..., rest : rest + BAND_WINDOW], window)
    hz = torch.linspace(0, SAMPLE_RATE / 2, FFT // 2 + 1, device=sound.device)
    bands = hats(hz / edge_hz * (n_bands - 1), n_bands)
    # the autocorrelation of each band, at that one lag
    turned = power * torch.cos(2 * math.pi * hz / track.hz[..., None])
    alike = (turned @ bands.T) / (power @ bands.T).clamp_min(1e-12)
    lag = (SAMPLE_RATE / track.hz).long().clamp(max=BAND_WINDOW - 1)
    alike = alike / _taper(BAND_WINDOW, str(sound.device))[lag][..., None].clamp_min(0.05)
    share = alike.clamp(0.0, 1.0) ** SHARE_POWER
    # the lowest band has its centre at no frequency at all: little is in it
    share = torch.cat([share[..., 1:2], share[..., 1:]], dim=-1)
    sure = ((track.likeness - VOICED_FROM) / 0.2 + 0.5).clamp(0.0, 1.0)
    return share * sure[..., None]


def pitch(samples: NDArray[np.float32]) -> NDArray[np.float64]:
    """Hz of each frame of 10 ms, 0 where there is no voice.

    Args:
        samples: float32 [n] at 24 kHz.
    Returns:
        float64 [(n - 1200) // 240 + 1], empty for less than 50 ms.
    """
    if len(samples) < WINDOW:
        return np.zeros(0)
    sound = torch.tensor(samples, dtype=torch.float32)[None]
    found = track(sound, (len(samples) - WINDOW) // HOP + 1)
    loud = found.level >= QUIET_BELOW * found.level.max()
    hz: NDArray[np.float64] = torch.where(found.voiced & loud, found.hz, 0.0)[0].double().numpy()
    return hz


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


def _frames(sound: Tensor, n_frames: int, first: int, hop: int) -> Tensor:
    """Stretches around the frames' centres, without their means: [B, n_frames, WINDOW]."""
    start, reach = first - WINDOW // 2, first + (n_frames - 1) * hop + WINDOW // 2
    padded = F.pad(sound, (max(0, -start), max(0, reach - sound.shape[1])))
    frames = padded[:, max(0, start) :].unfold(1, WINDOW, hop)[:, :n_frames]
    return frames - frames.mean(-1, keepdim=True)


def _power(frames: Tensor, window: Tensor) -> Tensor:
    power: Tensor = torch.view_as_real(torch.fft.rfft(frames * window, FFT)).square().sum(-1)
    return power


def _autocorrelation(power: Tensor, window: Tensor) -> Tensor:
    """At all lags that don't wrap round, as if there were no window: [..., FFT - WINDOW]."""
    n = FFT - len(window)
    lags: Tensor = torch.fft.irfft(power)[..., :n]
    return lags / lags[..., :1].clamp_min(1e-9) / _taper(len(window), str(power.device))[:n]


@functools.lru_cache(maxsize=8)
def _taper(width: int, device: str) -> Tensor:
    """Autocorrelation of a Hann window, 1 at no lag: [width]."""
    window = torch.hann_window(width, periodic=False, device=device)
    lags: Tensor = torch.fft.irfft(torch.fft.rfft(window, 2 * FFT).abs().square())[:width]
    return lags / lags[0]

"""Flite's vocoder for many prompts at once, on any device.

Flite filters its excitation sample by sample (MLSA). Here the same filters are applied to
overlapping pieces of it in the frequency domain, which a GPU does some ten thousand times as fast
as it is spoken:

    excitation   pulses at the pitch and noise, mixed by how noisy each of five bands is
    pieces       10 ms long, 5 ms apart, triangular: what lies between two frames is a blend of both
    filter       exp(sum of c_m e^(-j m w')), where w' is the warped frequency w; formants raised
    sound        the pieces added up, at 24 kHz: a spectrum of 16 kHz sound, zero above 8 kHz

Source of the excitation: flite, cst_mlsa.c (after HTS).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from training.flite import Excitation

RATE, OUT_RATE = 16_000, 24_000
FRAME, OUT_FRAME = 80, 120  # samples of 5 ms
FFT, OUT_FFT = 1_024, 1_536  # at either rate; a filter rings for at most 54 ms
FULL_SCALE = 32_768.0


def vocode(
    parameters: Tensor,
    strengths: Tensor,
    voice: Excitation,
    alpha: float,
    generator: torch.Generator,
) -> Tensor:
    """Sound of a run of frames.

    Args:
        parameters: float32 [T, 26], pitch in Hz (0: none) and mel-cepstrum, every 5 ms.
        strengths: float32 [T, 5], 1 where a band is all pulse, 0 where it is all noise.
        voice: whose parameters these are.
        alpha: the warp of the frequencies that the cepstrum has, or that the voice shall have.
        generator: of the noise, on the device of the parameters.
    Returns:
        float32 [120 * (T - 1)] at 24 kHz, of which 1 is full scale; not clipped.
    """
    excitation = _mixed(parameters[:, 0], strengths, torch.from_numpy(voice.bands), generator)
    # frame t stands at sample 80 t; its piece reaches to both neighbours
    padded = F.pad(excitation, (FRAME, FRAME))
    pieces = padded.unfold(0, 2 * FRAME, FRAME)  # [T, 160]
    ramp = (torch.arange(2 * FRAME, device=pieces.device) + 0.5) / FRAME
    triangle = torch.minimum(ramp, 2 - ramp)
    spectrum = torch.fft.rfft(pieces * triangle, FFT)
    spectrum = spectrum * _response(parameters[:, 1:], alpha, voice.beta)
    spectrum = F.pad(spectrum, (0, OUT_FFT // 2 - FFT // 2))
    out = torch.fft.irfft(spectrum, OUT_FFT) * (OUT_FFT / FFT / FULL_SCALE * voice.gain)
    n_frames = len(parameters)
    length = OUT_FRAME * (n_frames - 1) + OUT_FFT
    columns = out.T[None]  # [1, OUT_FFT, T]
    sound = F.fold(columns, (1, length), (1, OUT_FFT), stride=(1, OUT_FRAME))[0, 0, 0]
    return sound[OUT_FRAME : OUT_FRAME * n_frames]


def _response(cepstrum: Tensor, alpha: float, beta: float) -> Tensor:
    """Frequency responses of frames: float32 [T, M] to complex64 [T, FFT // 2 + 1]."""
    w = torch.linspace(0, math.pi, FFT // 2 + 1, device=cepstrum.device)
    warped = w + 2 * torch.atan2(alpha * torch.sin(w), 1 - alpha * torch.cos(w))
    angles = torch.arange(cepstrum.shape[1], device=w.device)[:, None] * warped
    raised = cepstrum @ _raising(cepstrum.shape[1], alpha, beta).to(w.device)
    before, level = cepstrum @ torch.cos(angles), raised @ torch.cos(angles)
    # as much energy as before
    level = level + (_log_energy(before) - _log_energy(level)) / 2
    return torch.polar(level.exp(), -(raised @ torch.sin(angles)))


def _log_energy(level: Tensor) -> Tensor:
    """Of what has these log magnitudes, [T, bins] to [T, 1]."""
    return torch.logsumexp(2 * level, dim=1, keepdim=True)


def _raising(order: int, alpha: float, beta: float) -> Tensor:
    """HTS's postfilter as a matrix: a row of cepstrum times it, float32 [order, order]."""
    to_filter = torch.eye(order)
    for k in reversed(range(order - 1)):  # b_k = c_k - alpha b_(k+1)
        to_filter[k] -= alpha * to_filter[k + 1]
    raised = to_filter.clone()
    raised[1] -= beta * alpha * to_filter[2]
    raised[2:] *= 1 + beta
    back = raised.clone()
    back[:-1] += alpha * raised[1:]
    return back.T


def _mixed(pitch: Tensor, strengths: Tensor, filters: Tensor, generator: torch.Generator) -> Tensor:
    """Excitation, float32 [80 * (T - 1)] at 16 kHz."""
    pulses = _pulses(pitch)
    noise = torch.randn(len(pulses), generator=generator, device=pulses.device)
    filters = filters.to(pulses.device)
    order = filters.shape[1]
    both = F.pad(torch.stack([pulses, noise])[:, None], (order - 1, 0))
    banded = F.conv1d(both, filters.flip(1)[:, None])  # [2, 5, n]
    share = strengths[1:].T.repeat_interleave(FRAME, dim=1)  # [5, n]
    return (banded[0] * share + banded[1] * (1 - share)).sum(0)


def _pulses(pitch: Tensor) -> Tensor:
    """One pulse a period, as strong as its length asks for; float32 [80 * (T - 1)]."""
    before, after = pitch[:-1], pitch[1:]
    voiced = (before > 0) & (after > 0)
    period_before, period_after = (RATE / one.clamp_min(1.0) for one in (before, after))
    share = torch.arange(FRAME, device=pitch.device) / FRAME
    period = period_before[:, None] + (period_after - period_before)[:, None] * share
    step = torch.where(voiced[:, None], 1 / period, 0.0).flatten()
    phase = step.double().cumsum(0)
    starts = phase.floor() > (phase - step).floor()
    return torch.where(starts, period.flatten().sqrt(), 0.0)

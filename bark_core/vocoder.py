"""Latents to sound by a vocoder: pulses and noise, filtered as the latents say.

A network of convolutions that is given the same frame again and again can only make sound whose
period is the frame's. Latents that are spectra (bark_core.analysis) know of no phase, so such a
network can't keep a pitch between two multiples of the frame rate. A vocoder can: it reads the
pitch and counts the phase itself.

    controls    pitch, the share of pulses in each band, a cepstrum; several times a frame
    excitation  one pulse a period, with all harmonics below the edge; noise
    pieces      two steps long, one step apart, triangular: a blend of both steps' filters
    filter      exp(sum of c_m e^(-j m w')), where w' is the frequency w, warped
    sound       the pieces added up

Nothing looks ahead, and what is carried from frame to frame is the phase alone.

Sources: Fukada et al. 1992 (mel-cepstral synthesis), McCree and Barnwell 1995 (mixed excitation).
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bark_core.config import VOCODER_STEPS_AT_ONCE, VocoderConfig

N_NOISE = 1 << 16  # samples until the noise begins anew: 2.7 s at 24 kHz, longer than one hears
N_EVEN = 4_096  # points over which bands become cepstra
LEAST_SHARE = 1e-4  # of the power, -40 dB
LOUDEST = 2.0  # log gain of a filter; speech that is nearly clipped has 1 at its formants
STOPPED = math.log(1e4)  # above the edge, 80 dB
NEAR_PULSE = 1e-4  # below this sine the ratio of two sines is at its limit

Between = Callable[[], None]  # called before each layer; what it raises ends the work there


def go_on() -> None:
    """Nobody wants the decoder to stop."""


@dataclass(frozen=True, slots=True)
class Controls:
    """What a vocoder makes sound of, `steps` times a frame.

    Attributes:
        pitch_hz: float32 [B, S].
        pulses: float32 [B, S, n_bands], the share of pulses in the power, 0..1.
        cepstrum: float32 [B, S, n_cepstra].
    """

    pitch_hz: Tensor
    pulses: Tensor
    cepstrum: Tensor


class Vocoder(nn.Module):
    """Causal convolutions over latents that say what a source and a filter do."""

    def __init__(
        self, config: VocoderConfig, *, dimension: int, samples_per_frame: int, sample_rate_hz: int
    ) -> None:
        super().__init__()
        self.config = config
        self.sample_rate_hz = sample_rate_hz
        self.hop = samples_per_frame // config.steps
        first, *others = config.kernel_sizes
        self.first = nn.Conv1d(dimension, config.width, first)
        self.others = nn.ModuleList(nn.Conv1d(config.width, config.width, size) for size in others)
        self.last = nn.Conv1d(config.width, config.steps * _n_values(config), 1)

    def forward(self, latents: Tensor, *, first: int = 0, between: Between = go_on) -> Tensor:
        """Latents [B, dimension, T] to sound [B, samples_per_frame * (T - first)], not clipped.

        Args:
            first: the frame from which on sound is wanted.
            between: called before each layer; what it raises ends the work there.
        """
        return self.sound(self.controls(latents, between), first, between)

    def controls(self, latents: Tensor, between: Between = go_on) -> Controls:
        """Read latents [B, dimension, T] as T * steps controls."""
        between()
        hidden = _causal(self.first, latents)
        for layer in self.others:
            between()
            hidden = hidden + _causal(layer, F.gelu(hidden))
        config = self.config
        values = self.last(F.gelu(hidden)).transpose(1, 2)  # (B, T, steps * values)
        values = values.reshape(len(values), -1, _n_values(config))
        pitch, pulses, cepstrum = values.split([1, config.n_bands, config.n_cepstra], dim=2)
        octaves = math.log2(config.highest_hz / config.lowest_hz)
        pitch_hz = config.lowest_hz * torch.exp2(octaves * pitch[..., 0].sigmoid())
        return Controls(pitch_hz, pulses.sigmoid(), cepstrum)

    def sound(self, controls: Controls, first: int = 0, between: Between = go_on) -> Tensor:
        """What controls ask for, from a frame on: float32 [B, samples]."""
        steps = self.config.steps
        end = controls.pitch_hz.shape[1]
        a_sample = controls.pitch_hz.double() / self.sample_rate_hz  # periods
        phases = (a_sample.cumsum(1) - a_sample) * self.hop  # at the start of each step
        parts = []
        for start in range(first * steps, end, VOCODER_STEPS_AT_ONCE):
            between()
            parts.append(
                self._part(controls, phases, start, min(end, start + VOCODER_STEPS_AT_ONCE))
            )
        return torch.cat(parts, dim=1)

    def _part(self, controls: Controls, phases: Tensor, start: int, end: int) -> Tensor:
        """The sound of steps start..end - 1: float32 [B, hop * (end - start)]."""
        config, hop = self.config, self.hop
        tables = _tables(config, self.sample_rate_hz, phases.device)
        # what began so many steps before may still ring
        begin = max(0, start - math.ceil(config.window / hop))
        pulses = self._pulses(controls.pitch_hz[:, begin:end], phases[:, begin:end])
        places = torch.arange(begin * hop, end * hop, device=phases.device)
        noise = tables.noise[places % N_NOISE].view(1, end - begin, hop)
        cepstrum, share = controls.cepstrum[:, begin:end], controls.pulses[:, begin:end]
        spectrum = self._pieces(pulses) * tables.response(cepstrum, share)
        spectrum = spectrum + self._pieces(noise) * tables.response(cepstrum, 1 - share)
        rung = torch.fft.irfft(spectrum * tables.edge, config.window)  # (B, steps, window)
        length = (end - begin - 1) * hop + config.window
        sound = F.fold(rung.mT, (1, length), (1, config.window), stride=(1, hop))[:, 0, 0]
        return sound[:, (start - begin) * hop : (end - begin) * hop]

    def _pulses(self, pitch_hz: Tensor, phases: Tensor) -> Tensor:
        """Pulse trains of power 1 over all bands, as their harmonics: [B, S] to [B, S, hop]."""
        seconds = torch.arange(self.hop, device=pitch_hz.device).double() / self.sample_rate_hz
        phase = phases[..., None] + pitch_hz.double()[..., None] * seconds
        half_turns = (math.pi * (phase - phase.round())).float()
        # the sum of cos(2 pi k phase) over all harmonics k, in closed form
        n_harmonics = torch.floor(self.config.edge_hz / pitch_hz)[..., None]
        sine = half_turns.sin()
        near = sine.abs() < NEAR_PULSE
        ratio = ((2 * n_harmonics + 1) * half_turns).sin() / torch.where(near, 1.0, sine)
        total = (torch.where(near, 2 * n_harmonics + 1, ratio) - 1) / 2
        return total * (4 * pitch_hz[..., None] / self.sample_rate_hz).sqrt()

    def _pieces(self, excitation: Tensor) -> Tensor:
        """Spectra of triangular pieces: [B, S, hop] to [B, S, window // 2 + 1]."""
        ramp = (torch.arange(self.hop, device=excitation.device) + 0.5) / self.hop
        # the last piece's second half will sound in a step that isn't there
        following = F.pad(excitation[:, 1:], (0, 0, 0, 1))
        pieces = torch.cat([excitation * ramp, following * (1 - ramp)], dim=2)
        spectra: Tensor = torch.fft.rfft(pieces, self.config.window)
        return spectra


@dataclass(frozen=True, slots=True)
class _Tables:
    """Constants of a vocoder's shape; bins are those of a spectrum of its window.

    Attributes:
        noise: float32 [N_NOISE], of power 1 if it went on above the edge.
        bands: float32 [n_bands, n_cepstra], log magnitudes of bands to a cepstrum.
        cosines, sines: float32 [n_cepstra, bins], of multiples of the warped frequency.
        edge: complex64 [bins], a filter that passes what is below the edge.
    """

    noise: Tensor
    bands: Tensor
    cosines: Tensor
    sines: Tensor
    edge: Tensor

    def response(self, cepstrum: Tensor, share: Tensor) -> Tensor:
        """Filters that pass a share of the power: [B, S, n_cepstra] to complex [B, S, bins].

        A share is a part of the cepstrum, not a factor on the spectrum, so that all of the filter
        has the least phase there is: none of its sound comes before what caused it.
        """
        cepstrum = cepstrum + share.clamp_min(LEAST_SHARE).log() / 2 @ self.bands
        gain = (cepstrum @ self.cosines).clamp(max=LOUDEST).exp()
        return torch.polar(gain, -(cepstrum @ self.sines))


@functools.lru_cache(maxsize=8)
def _tables(config: VocoderConfig, sample_rate_hz: int, device: torch.device) -> _Tables:
    # kept beyond this call, which may be one that no gradient could ever be taken of
    with torch.device("cpu"), torch.inference_mode(mode=False):
        # a generator whose numbers are promised never to change
        noise = torch.from_numpy(np.random.RandomState(0).standard_normal(N_NOISE))
        heard = torch.linspace(0, sample_rate_hz / 2, N_NOISE // 2 + 1) <= config.edge_hz
        noise = torch.fft.irfft(torch.fft.rfft(noise) * heard)
        w = torch.linspace(0, math.pi, config.window // 2 + 1, dtype=torch.float64)
        order = torch.arange(config.n_cepstra)[:, None]
        angles = order * _warped(w, config.warp)
        # bands over a warped frequency that is evenly spaced, as cosines are orthogonal there
        even = (torch.arange(N_EVEN, dtype=torch.float64) + 0.5) * math.pi / N_EVEN
        hz = _warped(even, -config.warp) / math.pi * sample_rate_hz / 2
        place = (hz / config.edge_hz).clamp(max=1.0) * (config.n_bands - 1)
        bands = hats(place, config.n_bands) @ (order * even).cos().T * (2 / N_EVEN)
        bands[:, 0] /= 2
        edge = _low_pass(config, sample_rate_hz)
        noise, bands, cosines, sines = (
            table.float() for table in (noise, bands, angles.cos(), angles.sin())
        )
        return _Tables(*(table.to(device) for table in (noise, bands, cosines, sines, edge)))


def hats(places: Tensor, count: int) -> Tensor:
    """How much of each band a place is in: [n] to [count, n]; 1 where the band has its centre.

    Args:
        places: in bands from the centre of the first one.
    """
    centres = torch.arange(count, device=places.device)[:, None]
    return (1 - (places - centres).abs()).clamp_min(0)


def _low_pass(config: VocoderConfig, sample_rate_hz: int) -> Tensor:
    """1 up to the edge, next to nothing a tenth above it, with the least phase: complex64 [bins].

    What is cut into pieces spreads a little beyond the edge, where no filter was learnt.
    """
    n = 16 * config.window  # fine enough that the cepstrum of a steep slope has died away
    hz = torch.linspace(0, sample_rate_hz / 2, n // 2 + 1, dtype=torch.float64)
    slope = ((hz - config.edge_hz) / (config.edge_hz / 10)).clamp(0, 1)
    cepstrum = torch.fft.irfft(-STOPPED * slope, n)
    cepstrum[1 : n // 2] *= 2
    cepstrum[n // 2 + 1 :] = 0
    rung = torch.fft.irfft(torch.fft.rfft(cepstrum).exp(), n)[: config.window // 2]
    low_pass: Tensor = torch.fft.rfft(rung, config.window)
    return low_pass.to(torch.complex64)


def _warped(w: Tensor, by: float) -> Tensor:
    """Angles 0..pi through an all-pass of first order; the inverse has the other sign."""
    return w + 2 * torch.atan2(by * w.sin(), 1 - by * w.cos())


def _causal(layer: nn.Module, hidden: Tensor) -> Tensor:
    assert isinstance(layer, nn.Conv1d)
    out: Tensor = layer(F.pad(hidden, (layer.kernel_size[0] - 1, 0)))
    return out


def _n_values(config: VocoderConfig) -> int:
    """Numbers of one step: pitch, shares of pulses, cepstrum."""
    return 1 + config.n_bands + config.n_cepstra

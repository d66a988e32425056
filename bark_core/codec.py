"""EnCodec: codes to sound and sound to codes.

The networks are the `encodec` package's SEANet encoder and decoder, without weight norm: a
checkpoint's (g, v) pairs are folded into plain weights when it is read (bark_core.layouts), so
that nothing is recomputed at each call. The codebooks are one buffer of those that the cascade
uses. Where the configuration says so, an analysis (bark_core.analysis) stands in for the encoder
and a vocoder (bark_core.vocoder) for the decoder. Everything here computes in float32, whatever
the transformers do.
"""

from __future__ import annotations

import importlib
import importlib.util
import math
import sys
from collections.abc import Iterable
from types import ModuleType
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bark_core.analysis import Analysis
from bark_core.config import CodecConfig, TokenLayout, VocoderConfig
from bark_core.errors import (
    GenerationError,
    InvalidCheckpoint,
    InvalidSetting,
    InvalidTokens,
    LayoutMismatch,
    MissingFiles,
)
from bark_core.tokens import Audio, FineCodes
from bark_core.vocoder import Between, Vocoder, go_on

# encodec's modules under a name of our own: the package's own __init__ imports torchaudio, which
# has to match torch's build exactly and isn't needed for the networks
_PACKAGE = "_bark_core_encodec"


def _seanet() -> ModuleType:
    """The module `encodec.modules.seanet`, imported without its package's __init__."""
    if _PACKAGE not in sys.modules:
        spec = importlib.util.find_spec("encodec")
        if spec is None or spec.submodule_search_locations is None:
            raise MissingFiles("the package encodec isn't installed; run `pip install encodec`")
        package = ModuleType(_PACKAGE)
        package.__path__ = list(spec.submodule_search_locations)
        sys.modules.setdefault(_PACKAGE, package)
    return importlib.import_module(f"{_PACKAGE}.modules.seanet")


class ResidualQuantizer(nn.Module):
    """Codebooks in a row: each one quantizes what those before it left over."""

    codebooks: Tensor

    def __init__(self, n_codebooks: int, bins: int, dimension: int) -> None:
        super().__init__()
        self.register_buffer("codebooks", torch.zeros(n_codebooks, bins, dimension))

    def encode(self, latents: Tensor) -> Tensor:
        """Nearest entries: latents [B, C, T] to codes [B, K, T]."""
        residual = latents.transpose(1, 2)  # (B, T, C)
        codes = []
        for entries in self.codebooks:
            # squared distance, expanded as EnCodec does so that near ties fall the same way
            flat = residual.reshape(-1, residual.shape[-1])
            distance = (
                flat.pow(2).sum(1, keepdim=True) - 2 * flat @ entries.t() + entries.pow(2).sum(1)
            )
            index = (-distance).max(dim=-1).indices.view(residual.shape[:-1])
            residual = residual - F.embedding(index, entries)
            codes.append(index)
        return torch.stack(codes, dim=1)

    def decode(self, codes: Tensor) -> Tensor:
        """Sum of entries: codes [B, K, T] to latents [B, C, T]."""
        entries = (
            F.embedding(row, table).transpose(1, 2)
            for row, table in zip(codes.unbind(1), self.codebooks, strict=True)
        )
        total = next(entries)
        for entry in entries:
            total = total + entry
        return total


class Codec(nn.Module):
    """EnCodec of one token layout, in float32. On MPS it stays on the CPU.

    Raises:
        InvalidCheckpoint: the configuration doesn't go with the layout.
    """

    def __init__(self, config: CodecConfig, layout: TokenLayout) -> None:
        super().__init__()
        _check(config, layout)
        self.config = config
        self.layout = layout
        if config.encoder and config.analysis is not None:
            self.encoder: nn.Module = Analysis(
                config.analysis,
                dimension=config.dimension,
                hop=layout.samples_per_frame,
                sample_rate_hz=layout.sample_rate_hz,
            )
        elif config.encoder:
            self.encoder = _seanet().SEANetEncoder(**_seanet_arguments(config))
        if config.vocoder is not None:
            self.decoder: nn.Module = Vocoder(
                config.vocoder,
                dimension=config.dimension,
                samples_per_frame=layout.samples_per_frame,
                sample_rate_hz=layout.sample_rate_hz,
            )
        else:
            self.decoder = _seanet().SEANetDecoder(**_seanet_arguments(config))
        self.quantizer = ResidualQuantizer(layout.n_codebooks, config.bins, config.dimension)

    @property
    def device(self) -> torch.device:
        return self.quantizer.codebooks.device

    @property
    def layers(self) -> list[nn.Module]:
        """Of EnCodec's decoder, in order."""
        return list(self.decoder.model.children())  # type: ignore[union-attr]

    def to(self, device: torch.device | str) -> Self:  # type: ignore[override]
        """Move to a device, except to MPS, which lacks operations that the codec needs."""
        device = torch.device(device)
        return self if device.type == "mps" else super().to(device)

    def decode(self, codes: FineCodes, *, between: Between = go_on) -> Audio:
        """Codes [n_codebooks, T] to layout.samples_per_frame * T samples, not clipped.

        Args:
            between: called before each layer; what it raises ends the work there.

        Raises:
            LayoutMismatch: codes of another layout.
            GenerationError: the sound isn't finite, as with damaged weights.
        """
        if codes.layout.name != self.layout.name:
            raise LayoutMismatch(
                f"these codes are of the layout {codes.layout.name!r}, the codec is of "
                f"{self.layout.name!r}; use the model that they were made with"
            )
        values = torch.from_numpy(codes.values.astype("int64"))[None]
        samples = self.decode_batch(values, between=between)[0]
        return self._audio(samples)

    def decode_from(self, codes: FineCodes, start: int, *, between: Between = go_on) -> Audio:
        """The end of the sound of some codes, as `decode` makes it, from a frame on.

        Sound doesn't depend on later codes, so it can be had piece by piece: what is called with
        all codes so far goes on where the last piece ended. Only the first frames lean on those
        behind them: the first piece has at least kernel_size frames, or is all there is.

        Raises:
            InvalidSetting: this codec isn't causal. Otherwise as `decode`.
        """
        if not self.config.causal:
            raise InvalidSetting("this model's codec needs all codes at once: turn streaming off")
        values = torch.from_numpy(codes.values.astype("int64"))[None]
        return self._audio(self._decoded(values, start, between)[0])

    def _audio(self, samples: Tensor) -> Audio:
        if not samples.isfinite().all():
            raise GenerationError(
                "the codec made NaN or infinity instead of sound; "
                "the model's files may be damaged: get them again"
            )
        return Audio(samples.cpu().numpy(), self.layout.sample_rate_hz)

    def decode_batch(self, codes: Tensor, *, between: Between = go_on) -> Tensor:
        """Integers [B, n_codebooks, T] to float32 [B, samples_per_frame * T], on our device."""
        return self._decoded(codes, 0, between)

    def _decoded(self, codes: Tensor, start: int, between: Between) -> Tensor:
        """Sound of codes from a frame on: [B, n_codebooks, T] to [B, samples]."""
        with torch.inference_mode(), torch.autocast(self.device.type, enabled=False):
            latents = self.quantizer.decode(codes.to(self.device, torch.long))
            if isinstance(self.decoder, Vocoder):
                sound: Tensor = self.decoder(latents, first=start, between=between)
                return sound
            layers, n_early = self.layers, _n_early(self.config)
            hidden = _through(layers[:n_early], latents, between)
            first = max(0, start - _context(self.config))
            hidden = _through(layers[n_early:], hidden[:, :, first:], between)
            return hidden[:, 0, (start - first) * self.layout.samples_per_frame :]

    def encode(self, audio: Audio) -> FineCodes:
        """Sound of N samples to codes [n_codebooks, T], T = ceil(N / samples_per_frame).

        Raises:
            InvalidTokens: no samples, or another sample rate.
            InvalidSetting: this model's codec has no encoder.
        """
        if not self.config.encoder:
            raise InvalidSetting(
                f"the codec of the model {self.layout.name!r} only makes sound, it can't read it; "
                "load another model for this"
            )
        if audio.sample_rate_hz != self.layout.sample_rate_hz:
            raise InvalidTokens(
                f"the codec reads sound of {self.layout.sample_rate_hz} Hz, got "
                f"{audio.sample_rate_hz} Hz; resample it first"
            )
        if not len(audio):
            raise InvalidTokens("there is no sound to read: 0 samples")
        samples = torch.tensor(audio.samples, device=self.device)
        with torch.inference_mode(), torch.autocast(self.device.type, enabled=False):
            codes = self.quantizer.encode(self.encoder(samples[None, None]))[0]
        return FineCodes(codes.cpu().numpy(), self.layout)


def _seanet_arguments(config: CodecConfig) -> dict[str, Any]:
    return {
        "channels": 1,
        "dimension": config.dimension,
        "n_filters": config.n_filters,
        "n_residual_layers": config.n_residual_layers,
        "ratios": list(config.ratios),
        "norm": "none",
        "kernel_size": config.kernel_size,
        "last_kernel_size": config.last_kernel_size,
        "residual_kernel_size": config.residual_kernel_size,
        "dilation_base": config.dilation_base,
        "causal": config.causal,
        "pad_mode": config.pad_mode,
        "true_skip": config.true_skip,
        "compress": config.compress,
        "lstm": config.lstm,
    }


def _through(layers: Iterable[nn.Module], hidden: Tensor, between: Between) -> Tensor:
    for layer in layers:
        between()
        hidden = layer(hidden)
    return hidden


def _n_early(config: CodecConfig) -> int:
    """Layers of the decoder that run at the rate of frames, the recurrent ones among them."""
    return 2 if config.lstm else 1  # they are cheap, and see all that came before


def _context(config: CodecConfig) -> int:
    """Frames that the later layers look back on, rounded up."""
    samples = config.last_kernel_size - 1
    for ratio in reversed(config.ratios):
        widest = config.dilation_base ** max(0, config.n_residual_layers - 1)
        samples += config.n_residual_layers * (config.residual_kernel_size - 1) * widest
        samples = math.ceil(samples / ratio) + 1  # the transposed convolution overlaps by one
    return samples + 1


def _check(config: CodecConfig, layout: TokenLayout) -> None:
    problems = []
    if math.prod(config.ratios) != layout.samples_per_frame:
        problems.append(
            f"ratios {config.ratios} make {math.prod(config.ratios)} samples per frame, "
            f"the layout says {layout.samples_per_frame}"
        )
    if config.n_q < layout.n_codebooks:
        problems.append(f"{config.n_q} codebooks are fewer than the layout's {layout.n_codebooks}")
    if config.bins != layout.codebook_size:
        problems.append(f"{config.bins} bins aren't the layout's {layout.codebook_size} codes")
    if config.pad_mode not in ("reflect", "constant"):
        problems.append(f"pad_mode must be 'reflect' or 'constant', got {config.pad_mode!r}")
    if config.analysis is not None and config.analysis.window < layout.samples_per_frame:
        problems.append(
            f"the analysis window of {config.analysis.window} samples is shorter than a frame of "
            f"{layout.samples_per_frame}"
        )
    if config.vocoder is not None:
        problems += _vocoder_problems(config.vocoder, layout)
    if problems:
        raise InvalidCheckpoint(
            f"the codec doesn't go with the token layout {layout.name!r}: {'; '.join(problems)}"
        )


def _vocoder_problems(vocoder: VocoderConfig, layout: TokenLayout) -> list[str]:
    problems, samples = [], layout.samples_per_frame
    if samples % vocoder.steps:
        problems.append(
            f"the vocoder's {vocoder.steps} steps a frame don't divide {samples} samples"
        )
    if vocoder.window < 2 * samples / vocoder.steps:
        problems.append(
            f"the vocoder's window of {vocoder.window} samples is shorter than two of "
            f"{vocoder.steps} steps of a frame of {samples}"
        )
    if vocoder.edge_hz > layout.sample_rate_hz / 2:
        problems.append(
            f"the vocoder's edge of {vocoder.edge_hz:g} Hz is above what sound of "
            f"{layout.sample_rate_hz} Hz can hold"
        )
    return problems

"""What defines a model: its token layout, the shapes of its networks, its codec.

Nothing here is a global of the cascade: a model carries its configuration, so that a
miniature with small vocabularies and windows runs through the same code as the published
models. Figures of the published models: suno-ai/bark, `generation.py` and `model.py`.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

from bark_core.errors import InvalidCheckpoint


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenLayout:
    """Vocabularies, special tokens, rates and windows. Voices belong to a layout, by its name."""

    name: str

    # text to semantic
    text_offset: int  # added to the tokenizer's ids, so that they follow the semantic ones
    text_pad: int
    semantic_infer: int  # "now speak": ends the prompt
    semantic_vocab: int  # semantic tokens are 0..semantic_vocab - 1
    semantic_rate_hz: float
    text_window: int = 256  # text tokens in the prompt; as many of semantic history are added
    max_semantic_tokens: int = 768  # steps of the semantic stage

    # semantic to coarse
    coarse_semantic_pad: int
    coarse_infer: int
    n_coarse_codebooks: int = 2
    coarse_semantic_window: int = 256  # semantic tokens in the prompt, history and look-ahead
    max_coarse_history: int = 630  # coarse tokens in the prompt
    coarse_window: int = 60  # coarse tokens made before the prompt slides on

    # coarse to fine to audio
    n_codebooks: int = 8
    codebook_size: int = 1024  # also the padding token of the fine stage
    fine_window: int = 1024  # frames that the fine stage sees at once
    fine_history: int = 512  # frames of a voice that it sees, and by which its window moves
    frame_rate_hz: float = 75.0
    sample_rate_hz: int = 24_000

    @property
    def semantic_pad(self) -> int:
        """Padding of the semantic history, and the semantic stage's end token."""
        return self.semantic_vocab

    @property
    def samples_per_frame(self) -> int:
        """Audio samples that one column of codes stands for."""
        return round(self.sample_rate_hz / self.frame_rate_hz)

    @property
    def frames_per_semantic(self) -> float:
        """Columns of codes per semantic token: 1.503 in Bark."""
        return self.frame_rate_hz / self.semantic_rate_hz

    @property
    def coarse_per_semantic(self) -> float:
        """Coarse tokens (all coarse codebooks, interleaved) per semantic token: 3.006 in Bark."""
        return self.frames_per_semantic * self.n_coarse_codebooks

    @property
    def max_semantic_history(self) -> int:
        """Semantic tokens that go with a full coarse history: 209 in Bark."""
        return math.floor(self.max_coarse_history / self.coarse_per_semantic)

    @property
    def max_duration_s(self) -> float:
        """Longest sound of one segment: 15.39 s in Bark."""
        return self.max_semantic_tokens / self.semantic_rate_hz


@dataclass(frozen=True, slots=True, kw_only=True)
class GPTConfig:
    """Shape of one transformer. Published models have neither biases nor dropout."""

    n_layer: int
    n_head: int
    n_embd: int
    input_vocab_size: int
    output_vocab_size: int
    block_size: int = 1024
    bias: bool = False

    def __post_init__(self) -> None:
        if self.n_head < 1 or self.n_embd % self.n_head:
            raise InvalidCheckpoint(
                f"n_embd must be a multiple of n_head, got {self.n_embd} and {self.n_head}"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class FineConfig(GPTConfig):
    """Shape of the fine transformer: one embedding a codebook, one head a predicted codebook."""

    n_codes_total: int = 8
    n_codes_given: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class AnalysisConfig:
    """Log-mel frames whose principal components are the codec's latents (bark_core.analysis)."""

    window: int = 1024  # samples, at least the hop
    n_mels: int = 80
    lowest_hz: float = 50.0
    highest_hz: float = 7_600.0
    floor: float = 1e-2  # log(x + floor)


VOCODER_STEPS_AT_ONCE = 512  # whose spectra are held at the same time


@dataclass(frozen=True, slots=True, kw_only=True)
class VocoderConfig:
    """Shape of a decoder that is a vocoder (bark_core.vocoder)."""

    width: int = 256
    kernel_sizes: tuple[int, ...] = (5, 3, 3, 3, 3)  # of its convolutions, in frames
    steps: int = 4  # times a frame that it changes its sound; divides the samples of a frame
    n_bands: int = 9  # in which pulses and noise are mixed, evenly spaced up to the edge
    n_cepstra: int = 34
    warp: float = 0.5  # of the cepstrum's frequencies: larger is finer below and coarser above
    lowest_hz: float = 50.0  # pitch
    highest_hz: float = 720.0
    edge_hz: float = 8_000.0  # next to nothing sounds above
    window: int = 1_536  # samples that a filter may ring, two steps of pulses among them


@dataclass(frozen=True, slots=True, kw_only=True)
class CodecConfig:
    """Shape of the EnCodec model. The defaults are those of the published 24 kHz model.

    Where an analysis or a vocoder stands in for a network, the network's shape counts for nothing.
    """

    ratios: tuple[int, ...] = (8, 5, 4, 2)  # product: samples per frame
    n_filters: int = 32
    dimension: int = 128
    n_residual_layers: int = 1
    lstm: int = 2  # layers; 0: none
    causal: bool = True
    kernel_size: int = 7  # of the first convolution
    last_kernel_size: int = 7
    residual_kernel_size: int = 3
    dilation_base: int = 2
    compress: int = 2  # how much narrower the residual branches are
    true_skip: bool = False  # residual blocks skip by identity instead of a convolution
    pad_mode: str = "reflect"  # or "constant"
    n_q: int = 32  # codebooks that the checkpoint has; the cascade uses the first n_codebooks
    bins: int = 1024
    encoder: bool = True  # False: the codec only decodes
    analysis: AnalysisConfig | None = None  # the encoder computes this; None: it is a network
    vocoder: VocoderConfig | None = None  # the decoder is this; None: EnCodec's


@dataclass(frozen=True, slots=True, kw_only=True)
class RecogniserConfig:
    """Shape of the network that hears semantic tokens (bark_core.recogniser)."""

    width: int = 160
    kernel_size: int = 5  # odd
    dilations: tuple[int, ...] = (1, 2, 4)


@dataclass(frozen=True, slots=True, kw_only=True)
class CascadeConfig:
    """A whole model: layout, three transformers, codec, and what a page should say of it."""

    name: str
    layout: TokenLayout
    text: GPTConfig
    coarse: GPTConfig
    fine: FineConfig
    codec: CodecConfig = field(default_factory=CodecConfig)
    recogniser: RecogniserConfig | None = None  # of semantic tokens in sound
    languages: tuple[str, ...] = ("en",)
    cues: tuple[str, ...] = ()  # cues in brackets and signs that the model was trained on
    spell_numbers: bool = False  # the model has not learned digits: write numbers as words
    demonstration: bool = False
    # longest segment by estimate: beyond it speech gets worse, though the limit is higher
    segment_s: float = 13.0

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Inverse of `to_dict`.

        Raises:
            InvalidCheckpoint: a field is missing, unknown or of the wrong kind.
        """
        try:
            codec = dict(data.get("codec", {}))
            if "ratios" in codec:
                codec["ratios"] = tuple(codec["ratios"])
            if codec.get("analysis") is not None:
                codec["analysis"] = AnalysisConfig(**codec["analysis"])
            if codec.get("vocoder") is not None:
                sizes = tuple(codec["vocoder"]["kernel_sizes"])
                codec["vocoder"] = VocoderConfig(**{**codec["vocoder"], "kernel_sizes": sizes})
            recogniser = data.get("recogniser")
            if recogniser is not None:
                dilations = tuple(recogniser["dilations"])
                recogniser = RecogniserConfig(**{**recogniser, "dilations": dilations})
            return cls(
                **{
                    **data,
                    "recogniser": recogniser,
                    "layout": TokenLayout(**data["layout"]),
                    "text": GPTConfig(**data["text"]),
                    "coarse": GPTConfig(**data["coarse"]),
                    "fine": FineConfig(**data["fine"]),
                    "codec": CodecConfig(**codec),
                    "languages": tuple(data.get("languages", ("en",))),
                    "cues": tuple(data.get("cues", ())),
                }
            )
        except (TypeError, KeyError, ValueError) as error:
            raise InvalidCheckpoint(
                f"the model's configuration can't be used: {error}; "
                "expected the fields of bark_core.config.CascadeConfig"
            ) from error


BARK_LAYOUT = TokenLayout(
    name="bark",
    text_offset=10_048,
    text_pad=129_595,
    semantic_infer=129_599,
    semantic_vocab=10_000,
    semantic_rate_hz=49.9,
    coarse_semantic_pad=12_048,
    coarse_infer=12_050,
)

BARK_LANGUAGES = ("en", "de", "es", "fr", "hi", "it", "ja", "ko", "pl", "pt", "ru", "tr", "zh")
BARK_CUES = ("[laughs]", "[laughter]", "[sighs]", "[music]", "[gasps]", "[clears throat]", "♪")


def bark_config(name: str, *, n_layer: int, n_head: int, n_embd: int) -> CascadeConfig:
    """A model of Bark's layout whose three transformers have the same shape."""
    shape: dict[str, Any] = {"n_layer": n_layer, "n_head": n_head, "n_embd": n_embd}
    return CascadeConfig(
        name=name,
        layout=BARK_LAYOUT,
        text=GPTConfig(input_vocab_size=129_600, output_vocab_size=10_048, **shape),
        coarse=GPTConfig(input_vocab_size=12_096, output_vocab_size=12_096, **shape),
        fine=FineConfig(input_vocab_size=1_056, output_vocab_size=1_056, **shape),
        languages=BARK_LANGUAGES,
        cues=BARK_CUES,
    )


SMALL = bark_config("small", n_layer=12, n_head=12, n_embd=768)
LARGE = bark_config("large", n_layer=24, n_head=16, n_embd=1024)

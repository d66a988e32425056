"""How published checkpoints describe their shapes, and whether a configuration makes sense.

Knows nothing of files, nor of weights but their shapes: it is asked before any are read.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

from bark_core.config import (
    BARK_CUES,
    BARK_LANGUAGES,
    BARK_LAYOUT,
    AnalysisConfig,
    CascadeConfig,
    CodecConfig,
    FineConfig,
    GPTConfig,
    TokenLayout,
    VocoderConfig,
)
from bark_core.errors import InvalidCheckpoint

if TYPE_CHECKING:
    from torch import Tensor

StageName = Literal["semantic", "coarse", "fine", "codec"]
STAGES: tuple[StageName, ...] = ("semantic", "coarse", "fine", "codec")
_LARGEST = {
    "n_layer": 256,
    "n_head": 1024,
    "n_embd": 65_536,
    "input_vocab_size": 10_000_000,
    "output_vocab_size": 10_000_000,
    "block_size": 1_000_000,
    "n_codes_total": 64,
    "n_codes_given": 64,
}


def config_from_suno(arguments: Mapping[StageName, Mapping[str, Any]], name: str) -> CascadeConfig:
    """The configuration behind the `model_args` of Suno's three files.

    Raises:
        InvalidCheckpoint: arguments are missing or make no sense.
    """
    configs = {
        stage: GPTConfig(**_suno_shape(arguments[stage], stage)) for stage in ("semantic", "coarse")
    }
    fine = arguments["fine"]
    config = CascadeConfig(
        name=name,
        layout=BARK_LAYOUT,
        text=configs["semantic"],
        coarse=configs["coarse"],
        fine=FineConfig(
            **_suno_shape(fine, "fine"),
            n_codes_total=_whole(fine, ("n_codes_total",), "fine", 8),
            n_codes_given=_whole(fine, ("n_codes_given",), "fine", 1),
        ),
        languages=BARK_LANGUAGES,
        cues=BARK_CUES,
    )
    check_config(config)
    return config


def config_from_transformers(
    config: Mapping[str, Any], generation: Mapping[str, Any], name: str
) -> CascadeConfig:
    """The configuration behind a transformers Bark's config.json and generation_config.json.

    Raises:
        InvalidCheckpoint: it is another kind of model, or values are missing or make no sense.
    """
    if config.get("model_type") != "bark":
        raise InvalidCheckpoint(
            f"config.json is of a model of the type {config.get('model_type')!r}, not of a 'bark'; "
            "choose a Bark model"
        )
    fine = _part(config, "fine_acoustics_config")
    text = GPTConfig(**_transformers_shape(_part(config, "semantic_config"), "semantic_config"))
    layout = _transformers_layout(generation, config, text, name)
    result = CascadeConfig(
        name=name,
        layout=layout,
        text=text,
        coarse=GPTConfig(**_transformers_shape(_part(config, "coarse_acoustics_config"), "coarse")),
        fine=FineConfig(
            **_transformers_shape(fine, "fine"),
            n_codes_total=_whole(fine, ("n_codes_total",), "fine", 8),
            n_codes_given=_whole(fine, ("n_codes_given",), "fine", 1),
        ),
        codec=_transformers_codec(_part(config, "codec_config"), layout),
        languages=BARK_LANGUAGES,
        cues=BARK_CUES,
    )
    check_config(result)
    return result


def with_codec_shape(config: CascadeConfig, state: Mapping[str, Tensor]) -> CascadeConfig:
    """Take from an EnCodec file without configuration what its shapes tell.

    Raises:
        InvalidCheckpoint: they tell nothing.
    """
    tables = [
        tensor
        for name, tensor in state.items()
        if name.endswith(("._codebook.embed", ".codebook.embed"))
    ]
    first = next(
        (
            t
            for n, t in state.items()
            if re.match(r"encoder\.(model|layers)\.0\..*(weight_v|1)$", n)
        ),
        None,
    )
    if not tables or first is None or tables[0].ndim != 2 or first.ndim != 3:
        raise InvalidCheckpoint(
            "the codec's file isn't an EnCodec checkpoint: it has no codebooks or no encoder; "
            "get encodec_24khz-d7cc33bc.th or facebook/encodec_24khz's model.safetensors"
        )
    codec = dataclasses.replace(
        config.codec,
        n_filters=int(first.shape[0]),
        dimension=int(tables[0].shape[1]),
        n_q=len(tables),
        bins=int(tables[0].shape[0]),
    )
    return dataclasses.replace(config, codec=codec)


def check_config(config: CascadeConfig) -> None:
    """Whether the networks can take the layout's tokens and windows, and are of a sane size.

    Raises:
        InvalidCheckpoint: they can't, or aren't.
    """
    layout, fine = config.layout, config.fine
    for stage, shape in (("text", config.text), ("coarse", config.coarse), ("fine", fine)):
        for key, value in dataclasses.asdict(shape).items():
            if key != "bias" and not _is_whole(value, 1, _LARGEST[key]):
                raise InvalidCheckpoint(
                    f"the configuration's {stage} {key} must be within 1..{_LARGEST[key]}, "
                    f"got {value!r}"
                )
    seconds = config.segment_s
    if isinstance(seconds, bool) or not isinstance(seconds, (int, float)) or not 1 <= seconds <= 60:
        raise InvalidCheckpoint(
            f"the configuration's segment_s must be within 1..60 seconds, got {seconds!r}"
        )
    coarse_end = layout.semantic_vocab + layout.n_coarse_codebooks * layout.codebook_size
    coarse_prompt = layout.coarse_semantic_window + 1 + layout.max_coarse_history
    at_least = (
        ("text input vocabulary", config.text.input_vocab_size, layout.semantic_infer + 1),
        ("text output vocabulary", config.text.output_vocab_size, layout.semantic_pad + 1),
        (
            "text block size",
            config.text.block_size,
            layout.text_window + layout.max_semantic_tokens,
        ),
        ("coarse input vocabulary", config.coarse.input_vocab_size, layout.coarse_infer + 1),
        ("coarse output vocabulary", config.coarse.output_vocab_size, coarse_end),
        ("coarse block size", config.coarse.block_size, coarse_prompt + layout.coarse_window - 1),
        ("fine vocabulary", fine.input_vocab_size, layout.codebook_size + 1),
        ("fine block size", fine.block_size, layout.fine_window),
    )
    for what, got, least in at_least:
        if got < least:
            raise InvalidCheckpoint(
                f"the {what} must be at least {least} for the token layout {layout.name!r}, "
                f"got {got}"
            )
    if fine.input_vocab_size != fine.output_vocab_size:
        raise InvalidCheckpoint("the fine stage shares weights: its two vocabularies must be equal")
    if fine.n_codes_total != layout.n_codebooks or fine.n_codes_given > layout.n_coarse_codebooks:
        raise InvalidCheckpoint(
            f"the fine stage makes codebooks {fine.n_codes_given}..{fine.n_codes_total - 1}, the "
            f"layout has {layout.n_codebooks} of which {layout.n_coarse_codebooks} are given"
        )
    _check_codec(config.codec)


def _check_codec(codec: CodecConfig) -> None:
    whole = {
        "n_filters": 1024,
        "dimension": 4096,
        "n_residual_layers": 16,
        "kernel_size": 64,
        "last_kernel_size": 64,
        "residual_kernel_size": 64,
        "dilation_base": 16,
        "compress": 64,
        "n_q": 1024,
        "bins": 65_536,
    }
    for key, largest in whole.items():
        if not _is_whole(getattr(codec, key), 1, largest):
            raise InvalidCheckpoint(
                f"the configuration's codec {key} must be within 1..{largest}, "
                f"got {getattr(codec, key)!r}"
            )
    if not _is_whole(codec.lstm, 0, 16):
        raise InvalidCheckpoint(f"the codec's lstm must be within 0..16, got {codec.lstm!r}")
    if not 1 <= len(codec.ratios) <= 8 or not all(_is_whole(r, 1, 64) for r in codec.ratios):
        raise InvalidCheckpoint(f"the codec's ratios must be 1..8 numbers, got {codec.ratios!r}")
    if codec.analysis is not None:
        _check_analysis(codec.analysis)
    if codec.vocoder is not None:
        _check_vocoder(codec.vocoder)


def _check_analysis(analysis: AnalysisConfig) -> None:
    numbers = (analysis.lowest_hz, analysis.highest_hz, analysis.floor)
    if (
        not _is_whole(analysis.window, 1, 65_536)
        or not _is_whole(analysis.n_mels, 1, 1024)
        or not all(isinstance(n, (int, float)) and 0 < n < 1e6 for n in numbers)
        or analysis.lowest_hz >= analysis.highest_hz
    ):
        raise InvalidCheckpoint(
            "the codec's analysis must have a window of 1..65,536 samples, 1..1024 bands and "
            f"rising frequencies, got {analysis!r}"
        )


def _check_vocoder(vocoder: VocoderConfig) -> None:
    whole = {"width": 4096, "steps": 1024, "n_cepstra": 1024, "window": 65_536}
    numbers = (vocoder.lowest_hz, vocoder.highest_hz, vocoder.edge_hz)
    if (
        not all(_is_whole(getattr(vocoder, key), 1, largest) for key, largest in whole.items())
        or not _is_whole(vocoder.n_bands, 2, 1024)
        or not 1 <= len(vocoder.kernel_sizes) <= 32
        or not all(_is_whole(size, 1, 64) for size in vocoder.kernel_sizes)
        or not all(isinstance(n, (int, float)) and 0 < n < 1e6 for n in numbers)
        or not vocoder.lowest_hz < vocoder.highest_hz < vocoder.edge_hz
        or not (isinstance(vocoder.warp, (int, float)) and -1 < vocoder.warp < 1)
    ):
        raise InvalidCheckpoint(
            "the codec's vocoder must have 1..32 kernels of 1..64 frames, a width within 1..4096, "
            "1..1024 steps and cepstra, 2..1024 bands, a window of 1..65,536 samples, rising "
            f"frequencies and a warp between -1 and 1, got {vocoder!r}"
        )


def _is_whole(value: object, low: int, high: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and low <= value <= high


def _suno_shape(arguments: Mapping[str, Any], stage: str) -> dict[str, Any]:
    both = ("vocab_size",)
    return {
        "n_layer": _whole(arguments, ("n_layer",), stage),
        "n_head": _whole(arguments, ("n_head",), stage),
        "n_embd": _whole(arguments, ("n_embd",), stage),
        "block_size": _whole(arguments, ("block_size",), stage),
        "input_vocab_size": _whole(arguments, ("input_vocab_size", *both), stage),
        "output_vocab_size": _whole(arguments, ("output_vocab_size", *both), stage),
        "bias": bool(arguments.get("bias", False)),
    }


def _transformers_shape(part: Mapping[str, Any], stage: str) -> dict[str, Any]:
    """Absent values are transformers' own defaults, other names those that it understands."""
    return {
        "n_layer": _whole(part, ("num_layers", "num_hidden_layers"), stage, 12),
        "n_head": _whole(part, ("num_heads", "num_attention_heads"), stage, 12),
        "n_embd": _whole(part, ("hidden_size",), stage, 768),
        "block_size": _whole(part, ("block_size", "window_size"), stage, 1024),
        "input_vocab_size": _whole(part, ("input_vocab_size", "vocab_size"), stage, 10_048),
        "output_vocab_size": _whole(part, ("output_vocab_size",), stage, 10_048),
        "bias": bool(part.get("bias", True)),
    }


def _transformers_layout(
    generation: Mapping[str, Any], config: Mapping[str, Any], text: GPTConfig, name: str
) -> TokenLayout:
    semantic = _part(generation, "semantic_config")
    coarse = _part(generation, "coarse_acoustics_config")
    fine = _part(generation, "fine_acoustics_config")
    bark = BARK_LAYOUT
    changes: dict[str, Any] = {}
    for part, theirs, ours in (
        (semantic, "text_encoding_offset", "text_offset"),
        (semantic, "text_pad_token", "text_pad"),
        (semantic, "semantic_infer_token", "semantic_infer"),
        (semantic, "semantic_vocab_size", "semantic_vocab"),
        (semantic, "max_input_semantic_length", "text_window"),
        (coarse, "coarse_semantic_pad_token", "coarse_semantic_pad"),
        (coarse, "coarse_infer_token", "coarse_infer"),
        (coarse, "n_coarse_codebooks", "n_coarse_codebooks"),
        (coarse, "max_coarse_input_length", "coarse_semantic_window"),
        (coarse, "max_coarse_history", "max_coarse_history"),
        (coarse, "sliding_window_len", "coarse_window"),
        (fine, "n_fine_codebooks", "n_codebooks"),
        (fine, "max_fine_input_length", "fine_window"),
        (fine, "max_fine_history_length", "fine_history"),
        (generation, "codebook_size", "codebook_size"),
        (generation, "sample_rate", "sample_rate_hz"),
    ):
        changes[ours] = _whole(part, (theirs,), "generation_config.json", getattr(bark, ours))
    changes["semantic_rate_hz"] = _rate(semantic, "semantic_rate_hz", bark.semantic_rate_hz)
    changes["frame_rate_hz"] = _rate(coarse, "coarse_rate_hz", bark.frame_rate_hz)
    room = text.block_size - changes["text_window"]
    changes["max_semantic_tokens"] = max(1, min(bark.max_semantic_tokens, room))
    layout = dataclasses.replace(bark, **changes)
    return layout if layout == bark else dataclasses.replace(layout, name=name)


def _transformers_codec(part: Mapping[str, Any], layout: TokenLayout) -> CodecConfig:
    only = {
        "model_type": "encodec",
        "audio_channels": 1,
        "norm_type": "weight_norm",
        "normalize": False,
        "chunk_length_s": None,
        "trim_right_ratio": 1.0,
        "sampling_rate": layout.sample_rate_hz,
    }
    for key, value in only.items():
        if part.get(key, value) != value:
            raise InvalidCheckpoint(
                f"this model's codec has {key} {part[key]!r}; only an EnCodec with {value!r} works"
            )
    ratios = part.get("upsampling_ratios", [8, 5, 4, 2])
    if not isinstance(ratios, (list, tuple)) or not all(_is_whole(r, 1, 64) for r in ratios):
        raise InvalidCheckpoint(f"the codec's upsampling_ratios can't be used: {ratios!r}")
    bins = _whole(part, ("codebook_size",), "codec", 1024)
    bandwidths = part.get("target_bandwidths", [24.0])
    frame_rate = math.ceil(layout.sample_rate_hz / max(1, math.prod(ratios)))
    try:
        n_q = int(1000 * bandwidths[-1] // (frame_rate * max(1, math.ceil(math.log2(bins)))))
    except (TypeError, ValueError, IndexError, OverflowError, KeyError) as error:
        raise InvalidCheckpoint(
            f"the codec's target_bandwidths can't be used: {bandwidths!r}"
        ) from error
    return CodecConfig(
        ratios=tuple(ratios),
        n_filters=_whole(part, ("num_filters",), "codec", 32),
        dimension=_whole(part, ("hidden_size",), "codec", 128),
        n_residual_layers=_whole(part, ("num_residual_layers",), "codec", 1),
        lstm=_whole(part, ("num_lstm_layers",), "codec", 2),
        causal=bool(part.get("use_causal_conv", True)),
        kernel_size=_whole(part, ("kernel_size",), "codec", 7),
        last_kernel_size=_whole(part, ("last_kernel_size",), "codec", 7),
        residual_kernel_size=_whole(part, ("residual_kernel_size",), "codec", 3),
        dilation_base=_whole(part, ("dilation_growth_rate",), "codec", 2),
        compress=_whole(part, ("compress",), "codec", 2),
        true_skip=not part.get("use_conv_shortcut", True),
        pad_mode=str(part.get("pad_mode", "reflect")),
        n_q=n_q,
        bins=bins,
    )


def _part(config: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    part = config.get(key)
    if part is None:
        return {}
    if not isinstance(part, Mapping):
        raise InvalidCheckpoint(f"{key} must be an object, got {type(part).__name__}")
    return part


def _whole(
    values: Mapping[str, Any], keys: tuple[str, ...], where: str, default: int | None = None
) -> int:
    """The first of the keys that is there, as a whole number that isn't negative."""
    for key in keys:
        value = values.get(key)
        if value is None:
            continue
        if not _is_whole(value, 0, 2**31):
            raise InvalidCheckpoint(f"{where}: {key} must be a whole number, got {value!r}")
        return int(value)
    if default is None:
        raise InvalidCheckpoint(f"{where}: {' or '.join(keys)} is missing")
    return default


def _rate(values: Mapping[str, Any], key: str, default: float) -> float:
    value = values.get(key, default)
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not number or not math.isfinite(value) or not 0 < value < 1e6:
        raise InvalidCheckpoint(f"generation_config.json: {key} must be a rate, got {value!r}")
    return float(value)

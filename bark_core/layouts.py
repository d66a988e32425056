"""How published checkpoints name and shape the same weights as ours. Knows nothing of files.

Our names are Suno's for the transformers and encodec's for the codec, with two simplifications:
the fine stage's shared weights are stored once, as output heads, and the codec has no weight
norm and only the codebooks that are used.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Iterable, Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from bark_core.codec import Codec
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
from bark_core.transformer import CausalGPT, FineGPT

StageName = Literal["semantic", "coarse", "fine", "codec"]
STAGES: tuple[StageName, ...] = ("semantic", "coarse", "fine", "codec")
State = dict[str, Tensor]

TRANSFORMERS_PREFIX: dict[StageName, str] = {
    "semantic": "semantic.",
    "coarse": "coarse_acoustics.",
    "fine": "fine_acoustics.",
    "codec": "codec_model.",
}
# ours to theirs, applied in this order to the parts of a name
_TRANSFORMERS_PARTS = {
    "c_attn": "att_proj",
    "c_proj": "out_proj",
    "c_fc": "in_proj",
    "h": "layers",
    "wte": "input_embeds_layer",
    "wtes": "input_embeds_layers",
    "wpe": "position_embeds_layer",
    "ln_1": "layernorm_1",
    "ln_2": "layernorm_2",
    "ln_f": "layernorm_final",
}
# causal masks that were saved with the weights by mistake
_MASK_BUFFERS = (".attn.bias", ".attn.masked_bias")
# what the codec's training needed, and constants that some versions saved
_CODEC_LEFTOVERS = re.compile(
    r"\.(inited|cluster_size|embed_avg|stride|kernel_size|padding_total)$"
)
# (g, v) of both of torch's ways to store weight norm
_WEIGHT_NORM = (
    (".weight_g", ".weight_v"),
    (".parametrizations.weight.original0", ".parametrizations.weight.original1"),
)
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


_FIRST_VALUES = (
    *(nn.init.normal_, nn.init.uniform_, nn.init.kaiming_uniform_),
    *(Tensor.normal_, Tensor.uniform_),
)


class _Uninitialised(TorchFunctionMode):
    """Modules made inside don't draw first values for their weights.

    On the meta device that would do nothing, but import torch's whole compiler for it.
    """

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        given = kwargs or {}
        if func in _FIRST_VALUES:
            return given["tensor"] if "tensor" in given else args[0]
        return func(*args, **given)


def new_module(stage: StageName, config: CascadeConfig) -> CausalGPT | FineGPT | Codec:
    """The stage's module on the meta device, without memory for weights."""
    with torch.device("meta"), _Uninitialised():
        match stage:
            case "semantic":
                return CausalGPT(config.text)
            case "coarse":
                return CausalGPT(config.coarse)
            case "fine":
                return FineGPT(config.fine)
            case "codec":
                return Codec(config.codec, config.layout)


def expected_shapes(stage: StageName, config: CascadeConfig) -> dict[str, tuple[int, ...]]:
    """Names and shapes of what a stage's file holds in our own layout."""
    module = new_module(stage, config)
    shapes = {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}
    if stage == "fine":
        for table in _shared(config.fine):
            del shapes[table]
    return shapes


def fill_module(module: nn.Module, state: State) -> None:
    """Give a module from `new_module` the tensors of our own layout, without copying them."""
    module.load_state_dict(_with_shared(module, state), strict=True, assign=True)
    if isinstance(module, FineGPT):
        module.tie_weights()


def refill_parameters(module: nn.Module, state: State) -> None:
    """The same for what of a module is still as it was stored, after `make_int8`."""
    state = _with_shared(module, state)
    parameters = module.named_parameters(remove_duplicate=False)
    stored = {name: state[name].to(parameter.dtype) for name, parameter in parameters}
    module.load_state_dict(stored, strict=False, assign=True)
    if isinstance(module, FineGPT):
        module.tie_weights()


def _with_shared(module: nn.Module, state: State) -> State:
    if not isinstance(module, FineGPT):
        return state
    return {**state, **{table: state[head] for table, head in _shared(module.config).items()}}


def check_state(
    state: Mapping[str, Tensor], shapes: Mapping[str, tuple[int, ...]], what: str
) -> None:
    """Compare what is there with what should be.

    Args:
        what: for the message, such as a file name.
    Raises:
        InvalidCheckpoint: a tensor is missing, too many, of another shape or not of numbers.
    """
    problems = [
        *_some("missing", shapes.keys() - state.keys()),
        *_some("not part of this model", state.keys() - shapes.keys()),
    ]
    wrong = [
        f"{name} {tuple(state[name].shape)} instead of {shape}"
        for name, shape in shapes.items()
        if name in state and tuple(state[name].shape) != shape
    ]
    problems += _some("of another shape", wrong)
    whole = [name for name in shapes if name in state and not state[name].is_floating_point()]
    problems += _some("not floating point", whole)
    if problems:
        raise InvalidCheckpoint(
            f"{what} doesn't hold the weights that the model's configuration asks for: "
            f"{'; '.join(problems)}. Get the file again, or the configuration that belongs to it"
        )


def from_suno(state: Mapping[str, Tensor], stage: StageName, config: CascadeConfig) -> State:
    """Weights of one of Suno's transformers under our names.

    Raises:
        InvalidCheckpoint: missing, extra or misshapen tensors.
    """
    found = {
        name.removeprefix("_orig_mod."): tensor
        for name, tensor in state.items()
        if not name.endswith(".attn.bias")
    }
    if stage == "fine":
        found = _share(found, config.fine)
    check_state(found, expected_shapes(stage, config), f"Suno's {stage} checkpoint")
    return found


def from_transformers(
    state: Mapping[str, Tensor], stage: StageName, config: CascadeConfig
) -> State:
    """Weights of one stage of a `transformers.BarkModel` under our names.

    Args:
        state: all weights of the model, with their prefixes.
    Raises:
        InvalidCheckpoint: missing, extra or misshapen tensors.
    """
    prefix = TRANSFORMERS_PREFIX[stage]
    found = {
        name.removeprefix(prefix): tensor
        for name, tensor in state.items()
        if name.startswith(prefix)
    }
    if stage == "codec":
        return from_encodec(found, config)
    shapes = expected_shapes(stage, config)
    ours = {transformers_name(name): name for name in (*shapes, *_shared(config.fine))}
    found = {
        ours.get(name, f"{prefix}{name}"): tensor
        for name, tensor in found.items()
        if not name.endswith(_MASK_BUFFERS)
    }
    if stage == "fine":
        found = _share(found, config.fine)
    check_state(found, shapes, f"the {stage} part of the checkpoint")
    return found


def foreign_names(names: Iterable[str]) -> list[str]:
    """Names in a transformers checkpoint that belong to no stage."""
    prefixes = tuple(TRANSFORMERS_PREFIX.values())
    return [name for name in names if not name.startswith(prefixes)]


def from_encodec(state: Mapping[str, Tensor], config: CascadeConfig) -> State:
    """EnCodec's weights, from encodec's own file or transformers', under our names, float32.

    Weight norm is folded in. Of the codebooks only those that the layout uses are kept.

    Raises:
        InvalidCheckpoint: missing, extra or misshapen tensors.
    """
    found = {name: tensor for name, tensor in state.items() if not _CODEC_LEFTOVERS.search(name)}
    if any(name.startswith("decoder.layers.") for name in found):
        ours = {_transformers_codec_name(name): name for name in expected_shapes("codec", config)}
        found = {_renamed_codec(name, ours): tensor for name, tensor in found.items()}
    found = _folded({name: tensor.float() for name, tensor in found.items()})
    tables = [f"quantizer.vq.layers.{i}._codebook.embed" for i in range(config.codec.n_q)]
    missing = [name for name in tables if name not in found]
    shape = (config.codec.bins, config.codec.dimension)
    wrong = [name for name in tables if name in found and tuple(found[name].shape) != shape]
    if missing or wrong:
        problems = [*_some("missing", missing), *_some("of another shape", wrong)]
        raise InvalidCheckpoint(f"the codec's codebooks can't be used: {'; '.join(problems)}")
    entries = [found.pop(name) for name in tables]
    found["quantizer.codebooks"] = torch.stack(entries[: config.layout.n_codebooks])
    if not config.codec.encoder:
        found = {name: tensor for name, tensor in found.items() if not name.startswith("encoder.")}
    check_state(found, expected_shapes("codec", config), "the EnCodec checkpoint")
    return found


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


def _some(what: str, names: Iterable[str], most: int = 4) -> list[str]:
    """One phrase that names a few of them, or nothing if there are none."""
    listed = sorted(names)
    if not listed:
        return []
    more = f" and {len(listed) - most} more" if len(listed) > most else ""
    return [f"{what}: {', '.join(listed[:most])}{more}"]


def _shared(config: FineConfig) -> dict[str, str]:
    """Input embeddings of the fine stage that are an output head: our names of both."""
    n_heads = config.n_codes_total - config.n_codes_given
    return {f"transformer.wtes.{i + 1}.weight": f"lm_heads.{i}.weight" for i in range(n_heads)}


def _share(state: State, config: FineConfig) -> State:
    """Keep shared weights once, as heads, whichever of the two (or both) the file has."""
    state = dict(state)
    for table, head in _shared(config).items():
        if table not in state:
            continue
        embedding = state.pop(table)
        if head in state and not torch.equal(state[head], embedding):
            raise InvalidCheckpoint(
                f"{table} and {head} should be the same weights but differ; get the file again"
            )
        state[head] = embedding
    return state


def transformers_name(name: str) -> str:
    """What transformers calls one of a transformer's weights, within its stage."""
    parts = name.removeprefix("transformer.").split(".")
    return ".".join(_TRANSFORMERS_PARTS.get(part, part) for part in parts)


def _transformers_codec_name(name: str) -> str:
    for ours in (".conv.conv.", ".convtr.convtr."):
        name = name.replace(ours, ".conv.")
    return name.replace(".model.", ".layers.")


def _renamed_codec(name: str, ours: Mapping[str, str]) -> str:
    """One name of transformers' EncodecModel as encodec has it, weight norm's parts included."""
    table = re.fullmatch(r"quantizer\.layers\.(\d+)\.codebook\.embed", name)
    if table:
        return f"quantizer.vq.layers.{table[1]}._codebook.embed"
    for suffix in (suffix for pair in _WEIGHT_NORM for suffix in pair):
        folded = f"{name.removesuffix(suffix)}.weight"
        if name.endswith(suffix) and folded in ours:
            return f"{ours[folded].removesuffix('.weight')}{suffix}"
    return ours.get(name, name)


def _folded(state: State) -> State:
    """Replace each pair (g, v) by the weight g * v / |v|."""
    state = dict(state)
    for g_suffix, v_suffix in _WEIGHT_NORM:
        for g_name in [name for name in state if name.endswith(g_suffix)]:
            stem = g_name.removesuffix(g_suffix)
            g, v = state.pop(g_name), state.pop(f"{stem}{v_suffix}", None)
            if v is None or g.shape != (v.shape[:1] + (1,) * (v.ndim - 1)):
                raise InvalidCheckpoint(f"the weight norm of {stem} in the codec is incomplete")
            # the very function that weight norm calls, so that the sound stays bit by bit equal
            state[f"{stem}.weight"] = torch._weight_norm(v, g, 0)
    return state


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

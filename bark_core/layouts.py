"""How published checkpoints name and shape the same weights as ours. Knows nothing of files.

Our names are Suno's for the transformers and encodec's for the codec, with two simplifications:
the fine stage's shared weights are stored once, as output heads, and the codec has no weight
norm and only the codebooks that are used.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from bark_core.codec import Codec
from bark_core.config import (
    CascadeConfig,
    FineConfig,
)
from bark_core.configurations import StageName
from bark_core.errors import InvalidCheckpoint
from bark_core.transformer import CausalGPT, FineGPT

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


def refill_parameters(module: nn.Module, state: State, but: Collection[str] = ()) -> None:
    """The same for the parameters that a module still has, but some.

    What they held before, and the whole file with it if it was mapped, counts no longer.
    """
    state = _with_shared(module, state)
    parameters = module.named_parameters(remove_duplicate=False)
    stored = {
        name: state[name].to(parameter.dtype) for name, parameter in parameters if name not in but
    }
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

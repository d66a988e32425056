"""Tiny random models of the true structure, made on the fly in milliseconds.

`tiny_cascade()` is a whole model of a layout of its own (small vocabularies and windows), for
everything that is about the cascade's logic. The `save_...` functions write checkpoints as other
programs publish them, with Bark's true vocabularies and special tokens but narrow networks.
"""

from __future__ import annotations

import importlib.machinery
import json
import string
import sys
import types
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

from bark_core.codec import Codec
from bark_core.config import (
    BARK_LAYOUT,
    CascadeConfig,
    CodecConfig,
    FineConfig,
    GPTConfig,
    TokenLayout,
)
from bark_core.placement import Placement
from bark_core.tokenizer import Tokenizer
from bark_core.transformer import CausalGPT, FineGPT

if TYPE_CHECKING:
    from bark_core.cascade import Cascade

TINY_LAYOUT = TokenLayout(
    name="tiny",
    text_offset=24,
    text_pad=24 + 200,
    semantic_infer=24 + 201,
    semantic_vocab=20,
    semantic_rate_hz=49.9,
    text_window=16,
    max_semantic_tokens=48,
    coarse_semantic_pad=52,
    coarse_infer=54,
    n_coarse_codebooks=2,
    coarse_semantic_window=16,
    max_coarse_history=24,
    coarse_window=6,
    n_codebooks=8,
    codebook_size=16,
    fine_window=32,
    fine_history=16,
)

SUNO_FILES = {"text": "text.pt", "coarse": "coarse.pt", "fine": "fine.pt"}
WIDTH, LAYERS, HEADS = 16, 2, 2  # of the models with Bark's true vocabularies


def tiny_config(name: str = "tiny") -> CascadeConfig:
    """Bark-like in every respect but size: 0.1 M weights, at most a second of sound."""
    shape: dict[str, Any] = {"n_layer": 2, "n_head": 2, "n_embd": 32}
    return CascadeConfig(
        name=name,
        layout=TINY_LAYOUT,
        text=GPTConfig(input_vocab_size=228, output_vocab_size=24, block_size=72, **shape),
        coarse=GPTConfig(input_vocab_size=56, output_vocab_size=56, block_size=48, **shape),
        fine=FineConfig(input_vocab_size=18, output_vocab_size=18, block_size=32, **shape),
        codec=CodecConfig(n_filters=2, dimension=4, lstm=1, n_q=8, bins=16),
        cues=("[laughs]",),
    )


def tiny_vocabulary() -> list[str]:
    """At most 200 tokens that spell any ASCII text: characters, and a few words."""
    letters = string.ascii_letters + string.digits
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    words = ["hello", "the", "laughs", "##ing"]
    return [*special, *letters, *(f"##{letter}" for letter in letters), *string.punctuation, *words]


def tiny_parts(
    seed: int = 0, config: CascadeConfig | None = None
) -> tuple[CausalGPT, CausalGPT, FineGPT, Codec]:
    """The four networks, random, in eval mode."""
    config = config or tiny_config()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        text, coarse, fine = CausalGPT(config.text), CausalGPT(config.coarse), FineGPT(config.fine)
        codec = Codec(config.codec, config.layout)
        codec.quantizer.codebooks.normal_()
        with torch.no_grad():
            for model in (text, coarse):  # so sharp that what they see shows in what is drawn
                model.lm_head.weight.mul_(3)
    for module in (text, coarse, fine, codec):
        module.eval().requires_grad_(False)
    return text, coarse, fine, codec


def tiny_cascade(seed: int = 0, config: CascadeConfig | None = None) -> Cascade:
    """A whole random model on the CPU, float32; the same seed gives the same weights."""
    from bark_core.cascade import Cascade
    from bark_core.generation import ModelIdentity

    config = config or tiny_config()
    text, coarse, fine, codec = tiny_parts(seed, config)
    return Cascade(
        config,
        text=text,
        coarse=coarse,
        fine=fine,
        codec=codec,
        tokenizer=Tokenizer.from_vocabulary(tiny_vocabulary()),
        placement=Placement("cpu", "float32", offload=False, codec_device="cpu"),
        identity=ModelIdentity(config.name, "tests", str(seed), "float32", config.layout.name),
    )


def save_tiny_model(folder: Path, seed: int = 0, config: CascadeConfig | None = None) -> Path:
    """Write the weights of `tiny_cascade(seed)` in our own layout; returns the folder."""
    config = config or tiny_config()
    folder.mkdir(parents=True, exist_ok=True)
    names = ("semantic", "coarse", "fine", "codec")
    for name, module in zip(names, tiny_parts(seed, config), strict=True):
        weights = {key: tensor.contiguous() for key, tensor in untied(module.state_dict()).items()}
        save_file(weights, folder / f"{name}.safetensors")
    (folder / "config.json").write_text(json.dumps(config.to_dict()), encoding="utf-8")
    Tokenizer.from_vocabulary(tiny_vocabulary()).save(folder / "tokenizer.json")
    return folder


def untied(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Without the fine stage's input embeddings that are its output heads again."""
    return {
        key: tensor
        for key, tensor in state.items()
        if not (
            key.startswith("transformer.wtes.")
            and f"lm_heads.{int(key.split('.')[2]) - 1}.weight" in state
        )
    }


def true_config(width: int = WIDTH) -> CascadeConfig:
    """Bark's true vocabularies, windows and special tokens over narrow networks."""
    shape: dict[str, Any] = {"n_layer": LAYERS, "n_head": HEADS, "n_embd": width}
    return CascadeConfig(
        name="narrow",
        layout=BARK_LAYOUT,
        text=GPTConfig(input_vocab_size=129_600, output_vocab_size=10_048, **shape),
        coarse=GPTConfig(input_vocab_size=12_096, output_vocab_size=12_096, **shape),
        fine=FineConfig(input_vocab_size=1_056, output_vocab_size=1_056, **shape),
        codec=CodecConfig(n_filters=2, dimension=4),
    )


def import_transformers() -> Any:
    """The package `transformers`, without the torchaudio that it would drag in.

    torchaudio's binaries have to match torch's build exactly; the models don't need it.
    """
    if "torchaudio" in sys.modules:
        import transformers

        return transformers
    placeholder = types.ModuleType("torchaudio")
    placeholder.__spec__ = importlib.machinery.ModuleSpec("torchaudio", None)
    sys.modules["torchaudio"] = placeholder
    try:
        import transformers
        import transformers.models.bark.modeling_bark
        import transformers.models.encodec.modeling_encodec
    finally:
        del sys.modules["torchaudio"]
    return transformers


def import_encodec() -> Any:
    """The package `encodec` as it is published, without torchaudio."""
    placeholder = types.ModuleType("torchaudio")
    sys.modules.setdefault("torchaudio", placeholder)
    try:
        import encodec
        import encodec.modules.seanet
        import encodec.quantization.vq
    finally:
        if sys.modules.get("torchaudio") is placeholder:
            del sys.modules["torchaudio"]
    return encodec


def tiny_bark_model(seed: int = 0) -> Any:
    """A random `transformers.BarkModel` with Bark's true token constants, in eval mode."""
    transformers = import_transformers()
    shape = {"num_layers": LAYERS, "num_heads": HEADS, "hidden_size": WIDTH, "bias": False}
    vocabularies = {
        "semantic_config": (129_600, 10_048),
        "coarse_acoustics_config": (12_096, 12_096),
        "fine_acoustics_config": (1_056, 1_056),
    }
    stages: dict[str, Any] = {
        name: {**shape, "input_vocab_size": n_in, "output_vocab_size": n_out}
        for name, (n_in, n_out) in vocabularies.items()
    }
    codec = transformers.EncodecConfig(num_filters=2, hidden_size=4)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        config = transformers.BarkConfig(codec_config=codec.to_dict(), **stages)
        model = transformers.BarkModel(config).eval()
        _make_lively(model)
    return model.requires_grad_(False)


def _make_lively(model: torch.nn.Module) -> None:
    """Replace initial values (zeros, ones, tiny) by some that show where a weight is missing."""
    with torch.no_grad():
        for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
            if name.endswith("codebook.embed"):
                tensor.normal_()
            elif name.endswith(("original0", "weight_g")):
                tensor.mul_(torch.rand_like(tensor) + 0.5)
            elif "codec" not in name and tensor.ndim == 1:
                tensor.add_(0.2 * torch.randn_like(tensor))
            elif "codec" not in name and tensor.is_floating_point():
                tensor.normal_(std=0.3)


def save_tiny_transformers_model(
    folder: Path, *, safetensors: bool = False, seed: int = 0, shards: bool = False
) -> Any:
    """Write a tiny random Bark as on the hub; returns the transformers model.

    Args:
        safetensors: model.safetensors instead of pytorch_model.bin.
        shards: in several files with an index.
    """
    model = tiny_bark_model(seed)
    folder.mkdir(parents=True, exist_ok=True)
    model.config.save_pretrained(folder)
    (folder / "generation_config.json").write_text('{"model_type": "bark"}', encoding="utf-8")
    weights = dict(model.state_dict())
    if safetensors:  # the format refuses tensors that share memory
        weights = {k: v.clone() for k, v in weights.items() if ".lm_heads." not in k}
    suffix = "model{}.safetensors" if safetensors else "pytorch_model{}.bin"
    _save_in_shards(folder, suffix, weights, 2 if shards else 1)
    save_tiny_tokenizer(folder)
    return model


def _save_in_shards(folder: Path, suffix: str, weights: dict[str, Tensor], n_shards: int) -> None:
    keys = list(weights)
    weight_map: dict[str, str] = {}
    for shard in range(n_shards):
        part = "" if n_shards == 1 else f"-{shard + 1:05d}-of-{n_shards:05d}"
        chosen = {key: weights[key] for key in keys[shard::n_shards]}
        name = suffix.format(part)
        if name.endswith(".safetensors"):
            save_file(chosen, folder / name, metadata={"format": "pt"})
        else:
            torch.save(chosen, folder / name)
        weight_map |= dict.fromkeys(chosen, name)
    if n_shards > 1:
        index = {"metadata": {"total_size": 0}, "weight_map": weight_map}
        (folder / f"{suffix.format('')}.index.json").write_text(json.dumps(index))


def save_tiny_tokenizer(folder: Path) -> None:
    """A small WordPiece vocabulary as vocab.txt, as BERT's repositories have it."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.txt").write_text("\n".join(tiny_vocabulary()) + "\n", encoding="utf-8")


def save_tiny_suno_checkpoints(
    folder: Path, *, seed: int = 0, large: bool = False
) -> CascadeConfig:
    """Write text.pt, coarse.pt and fine.pt as Suno did, EnCodec's .th and a vocab.txt.

    Args:
        large: names with _2, as of the large model.
    """
    config = true_config()
    folder.mkdir(parents=True, exist_ok=True)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        modules: dict[str, Any] = {
            "text": CausalGPT(config.text),
            "coarse": CausalGPT(config.coarse),
            "fine": FineGPT(config.fine),
        }
        for module in modules.values():
            _make_lively(module)
        save_tiny_encodec(folder / "encodec_24khz-d7cc33bc.th")
    for stage, module in modules.items():
        name = SUNO_FILES[stage]
        if large:
            name = name.replace(".pt", "_2.pt")
        torch.save(suno_checkpoint(module, stage), folder / name)
    save_tiny_tokenizer(folder)
    return config


def suno_checkpoint(module: CausalGPT | FineGPT, stage: str) -> dict[str, Any]:
    """What Suno's files hold: compiled names, mask buffers, arguments, what training left."""
    shape = module.config
    arguments: dict[str, Any] = {
        "n_layer": shape.n_layer,
        "n_head": shape.n_head,
        "n_embd": shape.n_embd,
        "block_size": shape.block_size,
        "bias": shape.bias,
        "dropout": 0.0,
    }
    if stage == "coarse":  # one vocabulary stands for both
        arguments["vocab_size"] = shape.input_vocab_size
    else:
        arguments["input_vocab_size"] = shape.input_vocab_size
        arguments["output_vocab_size"] = shape.output_vocab_size
    if isinstance(shape, FineConfig):
        arguments |= {"n_codes_total": shape.n_codes_total, "n_codes_given": shape.n_codes_given}
    weights = {f"_orig_mod.{key}": value for key, value in module.state_dict().items()}
    if stage != "fine":
        for layer in range(shape.n_layer):
            mask = torch.ones(1, 1, 4, 4).tril()
            weights[f"_orig_mod.transformer.h.{layer}.attn.bias"] = mask
    return {
        "model": weights,
        "model_args": arguments,
        "optimizer": {"state": {0: {"exp_avg": torch.zeros(8), "step": 3}}, "param_groups": []},
        "iter_num": 1000,
        "best_val_loss": np.float32(2.5),
        "config": {"device": "cuda", "compile": True},
    }


def tiny_encodec() -> Any:
    """A random `encodec.EncodecModel` of 24 kHz whose networks are narrow, 32 codebooks."""
    package = import_encodec()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        shape: dict[str, Any] = {"n_filters": 2, "dimension": 4, "causal": True}
        model = package.EncodecModel(
            package.modules.seanet.SEANetEncoder(**shape),
            package.modules.seanet.SEANetDecoder(**shape),
            package.quantization.vq.ResidualVectorQuantizer(dimension=4, n_q=32, bins=1024),
            [1.5, 3.0, 6.0, 12.0, 24.0],
            24_000,
            1,
        ).eval()
    with torch.no_grad():
        for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
            if name.endswith("_codebook.embed"):
                tensor.normal_()
            elif name.endswith("weight_g"):
                tensor.mul_(torch.rand_like(tensor) + 0.5)
    return model


def save_tiny_encodec(file: Path) -> Any:
    """Write a random EnCodec as encodec's own download is; returns the model."""
    model = tiny_encodec()
    torch.save(model.state_dict(), file)
    return model

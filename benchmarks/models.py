"""What is measured: pup as it is, the published shapes with random weights, a voice, a text."""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch

from bark_core import CoarseParams, GenerationRequest, SemanticParams, Settings, load
from bark_core.cascade import Cascade
from bark_core.codec import Codec
from bark_core.config import LARGE, SMALL, CascadeConfig, TokenLayout
from bark_core.device import describe_devices, dtype_of
from bark_core.generation import ModelIdentity
from bark_core.int8_linear import make_int8
from bark_core.large_pages import settle
from bark_core.placement import choose_placement
from bark_core.tokenizer import Tokenizer
from bark_core.tokens import FineCodes, SemanticTokens
from bark_core.transformer import CausalGPT, FineGPT
from bark_core.voices import Voice

TEXT = "the quick brown fox jumps over the lazy dog"
VOICE_S = 8.0
CONFIGS = {"small": SMALL, "large": LARGE}


def options(description: str | None) -> argparse.ArgumentParser:
    """A command that measures some models, each in some precisions and with some batches."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("models", nargs="+", help="pup, small, large, or a folder")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--precision", nargs="+", default=["auto"])
    parser.add_argument("--batch", nargs="+", type=int, default=[1], help="requests at once")
    parser.add_argument("--json", type=Path)
    return parser


def cascade_of(name: str, device: str = "auto", precision: str = "auto") -> Cascade:
    """A model that is on the disk, or of a published shape: "small" and "large" are random."""
    if name in CONFIGS:
        return random_cascade(CONFIGS[name], device, precision)
    return load(name, device=device, precision=precision)


def random_cascade(config: CascadeConfig, device: str, precision: str = "auto") -> Cascade:
    """A model of the true shape with random weights: the cost doesn't depend on their values."""
    placement = choose_placement(device, precision, devices=describe_devices())
    int8 = placement.weights == "int8" and placement.kind == "cpu"
    torch.manual_seed(0)
    text, coarse, fine = CausalGPT(config.text), CausalGPT(config.coarse), FineGPT(config.fine)
    for module in (text, coarse, fine):
        module.eval().requires_grad_(False)
        if int8:
            make_int8(module)
        else:
            module.to(placement.device, dtype_of(placement.dtype))
        if placement.kind == "cpu" and isinstance(module, CausalGPT):
            settle(module)  # as `load` does
    codec = Codec(config.codec, config.layout).eval().requires_grad_(False)
    codec.quantizer.codebooks.normal_()
    return Cascade(
        config,
        text=text,
        coarse=coarse,
        fine=fine,
        codec=codec.to(placement.codec_device),
        tokenizer=Tokenizer.from_vocabulary(["[PAD]", "[UNK]", *dict.fromkeys(TEXT.split())]),
        placement=placement,
        identity=ModelIdentity(
            config.name, "random weights", "", placement.precision, config.layout.name
        ),
    )


def request_for(
    cascade: Cascade, seconds: float, seed: int = 1, *, max_history: int | None = None
) -> GenerationRequest:
    """A request for so many seconds of sound with a voice; max_history: as in `CoarseParams`."""
    settings = Settings(
        semantic=SemanticParams(allow_early_stop=False, max_duration_s=seconds),
        coarse=CoarseParams(max_history=max_history),
    )
    return GenerationRequest(TEXT, random_voice(cascade.config.layout), seed, settings)


def random_voice(layout: TokenLayout) -> Voice:
    """A history prompt long enough to fill every window."""
    rng = np.random.default_rng(0)
    n_semantic = int(VOICE_S * layout.semantic_rate_hz)
    n_frames = int(n_semantic * layout.frames_per_semantic)
    fine = FineCodes(rng.integers(0, layout.codebook_size, (layout.n_codebooks, n_frames)), layout)
    semantic = SemanticTokens(rng.integers(0, layout.semantic_vocab, n_semantic), layout)
    return Voice(semantic=semantic, coarse=fine.coarse, fine=fine)

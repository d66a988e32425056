"""A finished model's stages as the start of new ones (`--start models/pup`).

A coarse stage may have made fewer codebooks before. What it knows of time, voices and the
codebooks it had stays; the rows of a new codebook are read off the old ones' by what the entries
stand for. So it has little left to learn but the new codebook.
"""

from __future__ import annotations

import argparse

import torch
from torch import Tensor, nn

from bark_core.config import TokenLayout
from bark_core.formats import read_own_config, read_own_stage
from bark_core.layouts import StageName
from training import codec
from training.export import SHARPER
from training.pup import CONFIG, LAYOUT

WTE, WPE, HEAD = "transformer.wte.weight", "transformer.wpe.weight", "lm_head.weight"


def take_over(model: nn.Module, stage: StageName, args: argparse.Namespace) -> None:
    """Give a stage the weights that it has in the model at `args.start`, if that is asked for.

    Raises:
        MissingFiles, InvalidCheckpoint, StorageError: there is no such model.
        RuntimeError: its shapes are others, beyond what a coarse stage may have fewer.
    """
    if args.start is None:
        return
    config = read_own_config(args.start)
    # export multiplied the logits
    factor = {f"transformer.ln_f.{kind}": 1 / SHARPER[stage] for kind in ("weight", "bias")}
    state = {
        name: value.float() * factor.get(name, 1.0)
        for name, value in read_own_stage(args.start, stage, config).items()
    }
    if stage == "coarse":
        state = widened(state, config.layout, codec.load_codebooks(args.work).entries)
    model.load_state_dict(state, strict=False)


def widened(weights: dict[str, Tensor], before: TokenLayout, entries: Tensor) -> dict[str, Tensor]:
    """A coarse stage's weights for the layout of now, from those for a layout of fewer codebooks.

    Args:
        entries: of the codebooks, float32 [4, 512, 64]; both layouts have the same.
    """
    if before == LAYOUT:
        return weights
    return {
        **weights,
        WTE: _rows(weights[WTE], before, entries),
        HEAD: _rows(weights[HEAD], before, entries),
        WPE: weights[WPE][_places(before)],
    }


def _rows(old: Tensor, before: TokenLayout, entries: Tensor) -> Tensor:
    """A table of embeddings or of outputs that has rows for the new codebooks too."""
    n_before, n_now = before.n_coarse_codebooks, LAYOUT.n_coarse_codebooks
    first, last = before.semantic_vocab, before.semantic_vocab + n_before * before.codebook_size
    latents = entries[:n_before].flatten(0, 1)
    as_rows = torch.linalg.lstsq(latents, old[first:last]).solution
    new = entries[n_before:n_now].flatten(0, 1) @ as_rows
    return torch.cat([old[:last], new, old[last:]])


def _places(before: TokenLayout) -> Tensor:
    """The old position of each new one: the same moment, the same codebook or the last of then."""
    place = torch.arange(CONFIG.coarse.block_size)
    prompt = LAYOUT.coarse_semantic_window + 1
    frame = (place - prompt) // LAYOUT.n_coarse_codebooks
    codebook = (place - prompt) % LAYOUT.n_coarse_codebooks
    codebook = codebook.clamp_max(before.n_coarse_codebooks - 1)
    then = prompt + frame * before.n_coarse_codebooks + codebook
    return torch.where(place < prompt, place, then)

"""A finished model's stages as the start of new ones (`--start models/pup`).

The work folder may have other codebooks than that model. What its coarse stage knows of time and
voices stays; the rows of a new entry are the mean of those that stood for the same frames of sound.
So it has little left to learn but what is new.
"""

from __future__ import annotations

import argparse

import torch
from torch import Tensor, nn

from bark_core.configurations import StageName
from bark_core.folders import read_own_config
from bark_core.formats import read_own_stage
from bark_core.recogniser import RECOGNISER_FILE
from bark_core.weights import read_safetensors
from training import codec, data
from training.export import SHARPER
from training.pup import LAYOUT

TABLES = ("transformer.wte.weight", "lm_head.weight")  # of embeddings and of outputs


def take_over(model: nn.Module, stage: StageName, args: argparse.Namespace) -> None:
    """Give a stage the weights that it has in the model at `args.start`, if that is asked for.

    Raises:
        MissingFiles, InvalidCheckpoint, StorageError: there is no such model.
        RuntimeError: its shapes are others.
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
        old = codec.codebooks_of(codec.stored_weights(args.start))
        new = codec.load_codebooks(args.work)
        if not torch.equal(old.spectra, new.spectra):
            mels = codec.mel_frames(data.load(args.work, "sound"), codec.N_FRAMES)
            state = translated(state, seen_together(mels, old, new))
    model.load_state_dict(state, strict=False)


def take_over_recogniser(model: nn.Module, args: argparse.Namespace) -> None:
    """The same for the recogniser, which reads the same spectra from turned components.

    How far they spread is turned as if they were independent, which they nearly are.

    Raises:
        MissingFiles, InvalidCheckpoint, StorageError: there is no such model.
        RuntimeError: its shapes are others.
    """
    if args.start is None:
        return
    state = {n: t.float() for n, t in read_safetensors(args.start / RECOGNISER_FILE).items()}
    before = codec.codebooks_of(codec.stored_weights(args.start))
    turned, moved = codec.turn(before, codec.load_codebooks(args.work))
    first, about = state["first.weight"], state["about.weight"]
    mean, spread = about.chunk(2, dim=1)
    state["first.bias"] += first.sum(2) @ moved
    state["about.bias"] += mean @ moved
    state["first.weight"] = torch.einsum("oik,ij->ojk", first, turned)
    state["about.weight"] = torch.cat([mean @ turned, spread @ turned.square()], dim=1)
    model.load_state_dict(state)


def seen_together(mels: Tensor, old: codec.Codebooks, new: codec.Codebooks) -> Tensor:
    """Which old entries stood for the frames that a new one stands for.

    Args:
        mels: log-mel frames of real sound, float32 [N, 80].
    Returns:
        shares of each new entry's frames, float32 [n_coarse, 512 new, 512 old].
    """
    before, now = (books.encode(books.projected(mels)) for books in (old, new))
    size = LAYOUT.codebook_size
    tables = []
    for then, later in zip(before[: LAYOUT.n_coarse_codebooks], now, strict=False):
        counts = torch.bincount(later * size + then, minlength=size * size).float()
        counts = counts.view(size, size)
        counts[counts.sum(1) == 0] = 1.0  # never seen: a bit of everything
        tables.append(counts / counts.sum(1, keepdim=True))
    return torch.stack(tables)


def translated(weights: dict[str, Tensor], shares: Tensor) -> dict[str, Tensor]:
    """A coarse stage's weights for the codebooks of now, from those for others.

    Args:
        shares: of `seen_together`.
    """
    return {**weights, **{name: _rows(weights[name], shares) for name in TABLES}}


def _rows(table: Tensor, shares: Tensor) -> Tensor:
    """A table whose new entries have the mean of what they were before."""
    first, size = LAYOUT.semantic_vocab, LAYOUT.codebook_size
    last = first + len(shares) * size
    old = table[first:last].view(len(shares), size, -1)
    return torch.cat([table[:first], (shares @ old).flatten(0, 1), table[last:]])

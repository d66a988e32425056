"""A finished model's stage is where training goes on, also with other codebooks."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest
import torch
from torch import nn

from bark_core.configurations import StageName
from bark_core.folders import stage_file
from bark_core.formats import read_own_stage
from bark_core.layouts import from_suno
from bark_core.recogniser import load_recogniser, new_recogniser
from bark_core.transformer import CausalGPT, FineGPT
from bark_core.weights import read_safetensors
from training import codec
from training.data import ROOT
from training.export import SHARPER, _sharpened
from training.pup import CONFIG, LAYOUT
from training.start import (
    TABLES,
    seen_together,
    take_over,
    take_over_recogniser,
    translated,
)

PUP = ROOT / "models" / "pup"
SIZE = LAYOUT.codebook_size
SAME = torch.eye(SIZE).repeat(LAYOUT.n_coarse_codebooks, 1, 1)


@pytest.mark.parametrize("name", TABLES)
def test_a_new_entry_s_row_is_the_mean_of_what_it_was(name: str) -> None:
    generator = torch.Generator().manual_seed(1)
    table = torch.randn(CONFIG.coarse.input_vocab_size, 8, generator=generator)
    before = dict.fromkeys(TABLES, table) | {"of a block": torch.ones(3)}
    same = translated(before, SAME)
    assert torch.equal(same[name], table)
    assert same["of a block"] is before["of a block"]

    shares = SAME.clone()
    shares[1, 7] = 0.0
    shares[1, 7, 20], shares[1, 7, 30] = 0.75, 0.25
    new = translated(before, shares)[name]
    first = LAYOUT.semantic_vocab + SIZE
    wanted = 0.75 * table[first + 20] + 0.25 * table[first + 30]
    assert torch.allclose(new[first + 7], wanted, atol=1e-6)
    others = torch.arange(len(table)) != first + 7
    assert torch.equal(new[others], table[others])


def test_entries_are_compared_by_the_frames_they_stand_for() -> None:
    generator = torch.Generator().manual_seed(0)
    mels = torch.randn(4_000, 80, generator=generator).cumsum(1) / 4
    books, _report = codec.fit_codebooks(mels)
    same = seen_together(mels, books, books)
    used = same.sum(2) * same.amax(2) == 1
    assert used.float().mean() > 0.95
    assert bool((same.diagonal(dim1=1, dim2=2)[used] == 1).all())
    assert torch.allclose(
        same.sum(2), torch.ones(LAYOUT.n_coarse_codebooks, SIZE)
    )  # what nothing falls on, too

    # the same spectra, in other places and from other components
    turn, _ = torch.linalg.qr(torch.randn(codec.DIMENSION, codec.DIMENSION, generator=generator))
    order = torch.randperm(SIZE, generator=generator)
    other = codec.Codebooks(books.mean, turn @ books.components, books.entries[:, order] @ turn.T)
    shares = seen_together(mels, books, other)
    assert shares[0].argmax(1)[used[0][order]].equal(order[used[0][order]])


@pytest.mark.parametrize("stage", ["semantic", "coarse", "fine"])
def test_what_is_taken_over_is_exported_as_it_was(stage: StageName, tmp_path: Path) -> None:
    model: nn.Module = FineGPT(CONFIG.fine)
    if stage != "fine":
        model = CausalGPT(CONFIG.coarse if stage == "coarse" else CONFIG.text)
    codec.start_from(tmp_path, PUP)  # a work folder with codebooks
    take_over(model, stage, argparse.Namespace(start=PUP, work=tmp_path))
    stored = read_own_stage(PUP, stage, CONFIG)
    again = _sharpened(from_suno(model.state_dict(), stage, CONFIG), SHARPER[stage])
    assert again.keys() == stored.keys() == read_safetensors(PUP / stage_file(stage)).keys()
    for name, value in stored.items():
        assert torch.equal(again[name].half(), value), name


def test_nothing_is_taken_over_unasked() -> None:
    model = CausalGPT(CONFIG.coarse)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    take_over(model, "coarse", argparse.Namespace(start=None))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_a_recogniser_hears_the_same_from_other_components(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    before = codec.codebooks_of(codec.stored_weights(PUP))
    order = torch.randperm(codec.DIMENSION, generator=generator)
    # a part of the mean that the components can tell
    moved = torch.randn(codec.DIMENSION, generator=generator) @ before.components
    now = codec.Codebooks(before.mean + moved, before.components[order], before.entries[..., order])
    codec.save_codebooks(tmp_path, now)
    mels = before.mean + torch.randn(1, 400, 64, generator=generator) @ before.components
    old, new = load_recogniser(PUP), new_recogniser(CONFIG).eval()
    take_over_recogniser(new, argparse.Namespace(start=PUP, work=tmp_path))
    logits = [
        model(books.projected(mels).mT, 266, LAYOUT.frames_per_semantic)
        for model, books in ((old, before), (new, now))
    ]
    # at the ends, silence of another mean is heard; components are stored in float16
    heard, again = (found[:, 60:-60] for found in logits)
    assert heard.std() > 1
    assert (heard - again).abs().max() < 0.02 * heard.std()

"""A finished model's stage is where training goes on, also with a codebook more than it had."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from bark_core.formats import read_own_stage, stage_file
from bark_core.layouts import StageName, from_suno
from bark_core.transformer import CausalGPT, FineGPT
from bark_core.weights import read_safetensors
from training import codec
from training.data import ROOT
from training.export import SHARPER, _sharpened
from training.pup import CONFIG, LAYOUT
from training.start import HEAD, WPE, WTE, take_over, widened

PUP = ROOT / "models" / "pup"
SIZE = LAYOUT.codebook_size
PROMPT = LAYOUT.coarse_semantic_window + 1
N_NOW = LAYOUT.n_coarse_codebooks
BEFORE = replace(LAYOUT, n_coarse_codebooks=N_NOW - 1)


@pytest.fixture(scope="module")
def entries() -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(LAYOUT.n_codebooks, SIZE, codec.DIMENSION, generator=generator)


@pytest.fixture(scope="module")
def old(entries: Tensor) -> dict[str, Tensor]:
    """Tables of a stage of one codebook less, whose coarse rows are what entries stand for."""
    generator = torch.Generator().manual_seed(1)
    width = CONFIG.coarse.n_embd
    as_rows = torch.randn(codec.DIMENSION, width, generator=generator)
    n_rows = CONFIG.coarse.input_vocab_size - SIZE
    weights = {}
    for name in (WTE, HEAD):
        table = torch.randn(n_rows, width, generator=generator)
        known = entries[: N_NOW - 1].flatten(0, 1) @ as_rows
        table[LAYOUT.semantic_vocab :][: len(known)] = known
        weights[name] = table
    n_places = PROMPT + (N_NOW - 1) * (CONFIG.coarse.block_size // N_NOW)
    weights[WPE] = torch.arange(n_places)[:, None].float().expand(-1, width)
    return {**weights, "of a block": torch.ones(3)}


@pytest.mark.parametrize("name", [WTE, HEAD])
def test_a_new_codebook_s_rows_are_what_its_entries_stand_for(
    name: str, old: dict[str, Tensor], entries: Tensor
) -> None:
    new = widened(old, BEFORE, entries)[name]
    first = LAYOUT.semantic_vocab + (N_NOW - 1) * SIZE
    assert len(new) == CONFIG.coarse.input_vocab_size
    assert torch.equal(new[:first], old[name][:first])
    assert torch.equal(new[first + SIZE :], old[name][first:])  # padding, INFER
    known = old[name][LAYOUT.semantic_vocab : first]
    as_rows = torch.linalg.lstsq(entries[: N_NOW - 1].flatten(0, 1), known).solution
    assert torch.allclose(new[first : first + SIZE], entries[N_NOW - 1] @ as_rows, atol=1e-3)


def test_positions_stay_those_of_their_moment(old: dict[str, Tensor], entries: Tensor) -> None:
    places = widened(old, BEFORE, entries)[WPE][:, 0].long()
    assert len(places) == CONFIG.coarse.block_size
    assert places[:PROMPT].tolist() == list(range(PROMPT))
    for place in range(PROMPT, len(places)):
        frame, codebook = divmod(place - PROMPT, N_NOW)
        frame_then, codebook_then = divmod(int(places[place]) - PROMPT, N_NOW - 1)
        assert (frame_then, codebook_then) == (frame, min(codebook, N_NOW - 2))


def test_blocks_and_a_stage_of_the_same_layout_stay(
    old: dict[str, Tensor], entries: Tensor
) -> None:
    assert widened(old, BEFORE, entries)["of a block"] is old["of a block"]
    assert widened(old, LAYOUT, entries) is old


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

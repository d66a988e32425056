"""Laws of fine-tuning, on a tiny random model of the published structure."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch

from bark_core import Cascade, GenerationRequest, SemanticParams, Settings, load
from bark_core.tokens import FineCodes, SemanticTokens
from bark_core.voices import Voice
from tests.tiny import TINY_LAYOUT, tiny_cascade
from training.examples import Example, Rows, read_examples, stage_module
from training.finetune import save, teach

needs_peft = pytest.mark.skipif(
    importlib.util.find_spec("peft") is None, reason="peft is not installed"
)
STAGES = ("semantic", "coarse", "fine")


def _example(seed: int) -> Example:
    rng = np.random.default_rng(seed)
    fine = FineCodes(rng.integers(0, TINY_LAYOUT.codebook_size, (8, 36)), TINY_LAYOUT)
    semantic = SemanticTokens(rng.integers(0, TINY_LAYOUT.semantic_vocab, 24), TINY_LAYOUT)
    return Example("a dog", Voice(semantic=semantic, coarse=fine.coarse, fine=fine))


def _rows(cascade: Cascade, n: int = 1) -> Rows:
    return Rows(cascade, [_example(seed) for seed in range(n)], seed=0)


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("rank", [None, pytest.param(4, marks=needs_peft)])
def test_a_stage_learns_an_example_and_no_other_stage_changes(stage: str, rank: int | None) -> None:
    cascade = tiny_cascade()
    before = {name: _weights(cascade, name) for name in STAGES}
    losses = teach(cascade, _rows(cascade), stage, steps=40, rate=1e-2, rank=rank)
    assert np.mean(losses[-5:]) < np.mean(losses[:5]) - 0.1
    for name in STAGES:
        same = all(
            torch.equal(before[name][key], value) for key, value in _weights(cascade, name).items()
        )
        assert same == (name != stage)


def _weights(cascade: Cascade, stage: str) -> dict[str, torch.Tensor]:
    state = stage_module(cascade, stage).state_dict()
    return {name: tensor.clone() for name, tensor in state.items()}


@needs_peft
def test_lora_changes_the_blocks_only_and_leaves_no_trace_of_itself() -> None:
    cascade = tiny_cascade()
    before = _weights(cascade, "coarse")
    teach(cascade, _rows(cascade), "coarse", steps=3, rate=1e-2, rank=2)
    after = _weights(cascade, "coarse")
    assert before.keys() == after.keys()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed
    assert all(".h." in name and "ln_" not in name for name in changed)


def test_the_result_is_a_model_that_speaks(tmp_path: Path) -> None:
    cascade = tiny_cascade()
    teach(cascade, _rows(cascade), "semantic", steps=2, rate=1e-3, rank=None)
    save(cascade, tmp_path / "taught", precision="float32")
    loaded = load(tmp_path / "taught", device="cpu")
    words = SemanticParams(allow_early_stop=False, max_duration_s=0.3)
    request = GenerationRequest("a dog", seed=3, settings=Settings(semantic=words))
    said, again = loaded.generate(request), cascade.generate(request)
    assert said.audio.samples.tolist() == again.audio.samples.tolist()


def test_examples_are_read_in_the_order_of_their_names(tmp_path: Path) -> None:
    for number in (2, 1):
        _example(number).voice.save(tmp_path / f"{number}.npz")
        (tmp_path / f"{number}.txt").write_text(f"text {number}\n", encoding="utf-8")
    _example(3).voice.save(tmp_path / "without text.npz")
    assert [one.text for one in read_examples(tmp_path, TINY_LAYOUT)] == ["text 1", "text 2"]


def test_a_folder_without_examples_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no NAME"):
        read_examples(tmp_path, TINY_LAYOUT)

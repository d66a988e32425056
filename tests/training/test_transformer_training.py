"""Laws of the transformers' training: it sees what the cascade feeds, and it can be resumed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from bark_core.coarse import flatten, plan_coarse
from bark_core.config import GPTConfig
from bark_core.request import CoarseParams
from bark_core.semantic import embed_prompt, live_logits
from bark_core.tokenizer import Tokenizer
from bark_core.transformer import CausalGPT
from training import coarse, fine, semantic
from training.data import Dataset
from training.initial import initialise
from training.loop import Budget, Rates, State, Trainer
from training.pup import CONFIG, LAYOUT
from training.vocabulary import character_vocabulary

N = 60


@pytest.fixture(scope="module")
def dataset() -> Dataset:
    """Sentences of random letters, tokens and codes."""
    rng = np.random.default_rng(0)
    lengths = rng.integers(30, 120, N)
    frames = lengths * 3 // 2
    texts = tuple("".join(rng.choice(list("abc de"), int(n) // 2)) + "x" for n in lengths)
    ends = np.concatenate([[0], np.cumsum(lengths)])
    frame_ends = np.concatenate([[0], np.cumsum(frames)])
    return Dataset(
        texts=texts,
        voices=np.arange(N, dtype=np.uint8) % 2,
        semantic=rng.integers(0, 123, ends[-1]).astype(np.uint8),
        offsets=ends.astype(np.int64),
        codes=rng.integers(0, LAYOUT.codebook_size, (4, frame_ends[-1])).astype(np.uint16),
        frame_offsets=frame_ends.astype(np.int64),
        audio=None,
        audio_offsets=None,
    )


@pytest.fixture(scope="module")
def pairs(dataset: Dataset) -> semantic.Pairs:
    return semantic.Pairs(dataset, Tokenizer.from_vocabulary(character_vocabulary()))


def test_full_semantic_batch_is_the_prompt_of_the_cascade(
    dataset: Dataset, pairs: semantic.Pairs
) -> None:
    model = CausalGPT(CONFIG.text).eval()
    initialise(model, torch.arange(CONFIG.text.block_size), seed=0)
    batch = pairs.batch(np.array([3, 4]), np.random.default_rng(1), full=True)
    with torch.no_grad():
        prompt = embed_prompt(model, batch.text, batch.history, LAYOUT)
        hidden = model(torch.cat([prompt, model.embed(batch.said)], dim=1))
        logits = live_logits(model, hidden[:, LAYOUT.text_window :], LAYOUT, allow_end=True)
        expected = nn.functional.cross_entropy(
            logits.flatten(0, 1), batch.targets.flatten(), ignore_index=semantic.IGNORE
        )
        torch.testing.assert_close(semantic.loss(model, batch), expected)
    for row, index in enumerate((3, 4)):
        said = dataset.semantic_of(index).tolist()
        assert batch.targets[row, : len(said) + 1].tolist() == [*said, LAYOUT.semantic_pad]


def test_short_prompt_leaves_out_padding_only(pairs: semantic.Pairs) -> None:
    rows = np.array([5, 6, 7])
    short = pairs.batch(rows, np.random.default_rng(1), full=False)
    full = pairs.batch(rows, np.random.default_rng(1), full=True)
    n_prompt = short.text.shape[1]
    assert n_prompt <= LAYOUT.text_window
    assert (full.text[:, n_prompt:] == LAYOUT.text_pad).all()
    assert (full.text[:, :n_prompt] == short.text).all()


def test_coarse_row_without_voice_is_a_prompt_and_what_follows(
    dataset: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    sound = coarse.Sound(dataset)
    monkeypatch.setattr(coarse, "HISTORY_SHARE", 0.0)
    row = sound.row(8, np.random.default_rng(2))
    tokens, codes = sound.pair(8)
    made = flatten(codes)
    plan = plan_coarse(tokens, None, CoarseParams())
    starts = range(0, plan.n_steps, LAYOUT.coarse_window)
    expected = [
        np.concatenate([plan.prompt(made[:s]), made[s : s + LAYOUT.coarse_window]]).tolist()
        for s in starts
    ]
    assert row.tolist() in expected


def test_coarse_targets_are_of_the_codebook_whose_turn_it_is(dataset: Dataset) -> None:
    batch = coarse.Sound(dataset).batch(np.arange(6), np.random.default_rng(3))
    for codebook in range(2):
        turn = batch.targets[:, codebook::2]
        codes = turn[turn != semantic.IGNORE] - LAYOUT.semantic_vocab
        assert (codes // LAYOUT.codebook_size == codebook).all()


def test_fine_targets_are_masked_in_what_is_fed(
    dataset: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fine, "OLD_VALUES_SHARE", 0.0)
    batch = fine.Windows(dataset).batch(np.arange(6), 2, np.random.default_rng(4))
    wanted = batch.targets != semantic.IGNORE
    assert wanted.any(dim=1).all()
    assert (batch.codes[:, :, 2][wanted] == LAYOUT.codebook_size).all()
    assert (batch.codes[:, :, 1][wanted] < LAYOUT.codebook_size).all()


@pytest.mark.parametrize(
    ("a", "b", "distance"), [([], [], 0), ([1], [], 1), ([1, 2, 3], [1, 3], 1), ([1, 2], [2, 1], 2)]
)
def test_edit_distance(a: list[int], b: list[int], distance: int) -> None:
    assert semantic.edit_distance(a, b) == semantic.edit_distance(b, a) == distance


def test_phones_start_again_where_their_third_does() -> None:
    tokens = np.array([0, 1, 2, 2, 0, 1, 5, 4])
    assert semantic.phones_of(tokens.astype(np.uint8)) == [0, 0, 1, 1]


TINY = GPTConfig(n_layer=1, n_head=2, n_embd=16, input_vocab_size=11, output_vocab_size=11)


def tiny_trainer(folder: Path, steps: int) -> Trainer:
    """Learns one fixed sequence."""
    torch.manual_seed(0)
    model = CausalGPT(TINY)
    tokens = torch.arange(40)[None] % 11

    def batches(state: State) -> Iterator[Tensor]:
        while True:
            yield tokens

    def loss(model: nn.Module, batch: Any) -> Tensor:
        assert isinstance(model, CausalGPT)
        logits = model.logits(model(model.embed(batch)))[:, :-1]
        return nn.functional.cross_entropy(logits.float().flatten(0, 1), batch[:, 1:].flatten())

    def validate(model: nn.Module) -> dict[str, float]:
        return {"validation_loss": float(loss(model, tokens).detach())}

    budget = Budget(minutes=10, steps=steps)
    return Trainer(
        "tiny",
        model,
        batches=batches,
        loss=loss,
        validate=validate,
        folder=folder,
        budget=budget,
        rates=Rates(vectors=0.03, warmup_steps=1),
    )


def test_training_lowers_the_loss(tmp_path: Path) -> None:
    trainer = tiny_trainer(tmp_path, 40)
    before = trainer.validate(trainer.model)["validation_loss"]
    trainer.run()
    assert trainer.validate(trainer.model)["validation_loss"] < before / 2
    assert (tmp_path / "tiny.jsonl").read_text().count("\n") >= 2


def test_training_goes_on_from_its_checkpoint(tmp_path: Path) -> None:
    first = tiny_trainer(tmp_path, 10)
    first.run()
    second = tiny_trainer(tmp_path, 20)
    assert second.state.step == 10
    weights = zip(first.model.parameters(), second.model.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in weights)
    second.run()
    assert second.state.step == 20
    assert not list(tmp_path.glob("*.part"))

"""Laws of the transformers' training: it sees what the cascade feeds, and it can be resumed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from bark_core.coarse import flatten, plan_coarse
from bark_core.config import GPTConfig
from bark_core.fine import plan_fine
from bark_core.request import CoarseParams
from bark_core.semantic import embed_prompt, live_logits
from bark_core.tokens import CoarseCodes, FineCodes, SemanticTokens
from bark_core.transformer import CausalGPT, FineGPT
from training import coarse, fine, semantic
from training.corpus import Corpus
from training.data import Dataset
from training.initial import initialise
from training.loop import Budget, Rates, State, Trainer
from training.pup import CONFIG, LAYOUT
from training.units import N_UNITS

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
        n_training=N,
        texts=texts,
        voices=np.arange(N, dtype=np.uint8) % 2,
        semantic=rng.integers(0, N_UNITS, ends[-1]).astype(np.int16),
        offsets=ends.astype(np.int64),
        codes=rng.integers(0, LAYOUT.codebook_size, (4, frame_ends[-1])).astype(np.uint16),
        frame_offsets=frame_ends.astype(np.int64),
        audio=None,
        audio_offsets=None,
    )


@pytest.fixture(scope="module")
def corpus(dataset: Dataset) -> Corpus:
    return Corpus.of(dataset)


@pytest.fixture(scope="module")
def pairs(corpus: Corpus) -> semantic.Pairs:
    return semantic.Pairs(corpus)


def _generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


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


def test_semantic_history_is_the_end_of_what_the_voice_said(
    dataset: Dataset, pairs: semantic.Pairs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(semantic, "HISTORY_SHARE", 1.0)
    batch = pairs.batch(np.arange(8), np.random.default_rng(2), full=True)
    for row in range(8):
        history = batch.history[row]
        heard = history[history != LAYOUT.semantic_pad].tolist()
        assert len(heard) >= 8
        same = [i for i in range(N) if dataset.voices[i] == dataset.voices[row]]
        assert any(dataset.semantic_of(i)[-len(heard) :].tolist() == heard for i in same)


def test_groups_hold_every_row_once_and_no_more_than_fits() -> None:
    sizes = np.sort(np.random.default_rng(0).integers(10, 200, 90))
    groups = semantic.group(sizes, 1000)
    assert [i for part in groups for i in range(part.start, part.stop)] == list(range(90))
    assert all((part.stop - part.start) * sizes[part.stop - 1] <= 1000 for part in groups)


def test_coarse_rows_are_the_prompts_of_the_cascade(dataset: Dataset, corpus: Corpus) -> None:
    index = corpus.draw(12, _generator(3))
    others = corpus.others(index, _generator(4))
    with_history = torch.arange(12) % 3 > 0
    starts = torch.tensor([0, 60, 120] * 4)
    n_tokens = torch.tensor([dataset.codes_of(i).shape[1] * 2 for i in index.tolist()])
    starts = torch.minimum(starts, (n_tokens - 1) // LAYOUT.coarse_window * LAYOUT.coarse_window)
    batch = coarse.Rows(corpus).rows(index, others, with_history, starts)
    for row in range(12):
        tokens, codes = _pair(dataset, int(index[row]))
        history = _pair(dataset, int(others[row])) if with_history[row] else None
        made, start = flatten(codes), int(starts[row])
        prompt = plan_coarse(tokens, history, CoarseParams()).prompt(made[:start])
        wanted = [*prompt.tolist(), *made[start : start + LAYOUT.coarse_window].tolist()]
        fed = batch.tokens[row].tolist()
        assert fed[: len(wanted)] == wanted
        assert set(fed[len(wanted) :]) <= {LAYOUT.coarse_semantic_pad}
        learnt = batch.targets[row, : len(wanted) - coarse.PROMPT].tolist()
        assert learnt == wanted[coarse.PROMPT :]
        assert (batch.targets[row, len(learnt) :] == semantic.IGNORE).all()


def _pair(dataset: Dataset, index: int) -> tuple[SemanticTokens, CoarseCodes]:
    codes = dataset.codes_of(index)[: LAYOUT.n_coarse_codebooks]
    return SemanticTokens(dataset.semantic_of(index), LAYOUT), CoarseCodes(codes, LAYOUT)


def test_coarse_targets_are_of_the_codebook_whose_turn_it_is(corpus: Corpus) -> None:
    batch = coarse.Rows(corpus).batch(torch.arange(6), _generator(3))
    n_codebooks = LAYOUT.n_coarse_codebooks
    for codebook in range(n_codebooks):
        turn = batch.targets[:, codebook::n_codebooks]
        codes = turn[turn != semantic.IGNORE] - LAYOUT.semantic_vocab
        assert (codes // LAYOUT.codebook_size == codebook).all()


def test_mistaken_codes_stay_in_their_codebook_and_tokens_as_they_are(corpus: Corpus) -> None:
    tokens = coarse.Rows(corpus).batch(torch.arange(40), _generator(3)).tokens
    n_codes = LAYOUT.n_coarse_codebooks * LAYOUT.codebook_size
    neighbours = torch.arange(n_codes)[:, None] // 512 * 512 + torch.tensor([7, 8, 9])
    changed = coarse.mistaken(tokens, neighbours, _generator(5))
    different = changed != tokens
    assert 0.01 < different.float().mean() < coarse.MOST_MISTAKEN
    assert not different[:, : coarse.PROMPT].any()
    codebook = (tokens - LAYOUT.semantic_vocab) // LAYOUT.codebook_size
    after = (changed - LAYOUT.semantic_vocab) // LAYOUT.codebook_size
    assert (codebook == after).all()


def test_fine_windows_are_those_of_the_cascade(dataset: Dataset, corpus: Corpus) -> None:
    windows, index = fine.Windows(corpus), torch.arange(12)
    others = corpus.others(index, _generator(4))
    with_history = index % 3 > 0
    counts = windows.count(index, others, with_history)
    for number in range(int(counts.max())):
        which = torch.full_like(index, number).minimum(counts - 1)
        codes, fill, frames = windows.windows(index, others, with_history, which)
        for row in range(12):
            own = FineCodes(dataset.codes_of(row), LAYOUT)
            past = FineCodes(dataset.codes_of(int(others[row])), LAYOUT)
            plan = plan_fine(own.coarse, past if with_history[row] else None)
            cut = list(plan.windows())
            assert len(cut) == counts[row]
            start, first = cut[int(which[row])]
            end = plan.n_history + plan.n_frames
            known = plan.codes.copy()
            known[plan.n_history : end] = own.values.T
            assert codes[row].tolist() == known[start : start + LAYOUT.fine_window].tolist()
            places = np.arange(LAYOUT.fine_window) + start
            assert fill[row].tolist() == ((places >= start + first) & (places < end)).tolist()
            assert frames[row].tolist() == (places - plan.n_history).tolist()


def test_fine_loss_is_least_for_the_entries_that_are_nearest(corpus: Corpus) -> None:
    """A model that puts all on the true codes leaves nothing; one that knows nothing, more."""
    entries = torch.randn(4, LAYOUT.codebook_size, 8, generator=_generator(0))
    near = fine.Nearness(entries, energy=16.0)
    batch = fine.Windows(corpus).batch(torch.arange(6), _generator(4))
    batch = replace(batch, own=torch.ones_like(batch.own))

    class Knowing(FineGPT):
        sharp = 100.0

        def forward(self, codebook: int, codes: Tensor, n_out: int | None = None) -> Tensor:
            true = batch.codes[..., codebook].clamp_max(LAYOUT.codebook_size - 1)
            return self.sharp * nn.functional.one_hot(true, LAYOUT.codebook_size).float()

    knowing = Knowing(CONFIG.fine)
    knows = fine.losses(knowing, batch, near)
    assert float(knows["left"]) == pytest.approx(0.0, abs=1e-4)
    assert float(knows[f"codebook_{LAYOUT.n_codebooks}"]) == pytest.approx(0.0, abs=1e-3)
    knowing.sharp = 0.0
    assert float(fine.losses(knowing, batch, near)["loss"]) > float(knows["loss"])


def test_a_corpus_takes_in_what_is_rendered_on(tmp_path: Path) -> None:
    for number in range(4):
        _write_shard(tmp_path, number, n_prompts=5 + number)
    corpus = Corpus(tmp_path, "pairs", kind="text")
    held = Corpus(tmp_path, "pairs", kind="text", held_out=True)
    assert (len(held), len(corpus)) == (5 + 6, 7 + 8)
    assert not corpus.refresh()
    _write_shard(tmp_path, 4, n_prompts=9)
    assert corpus.refresh() and len(corpus) == 7 + 8 + 9
    assert corpus.said.rows(torch.tensor([23]), 3, -1)[0].tolist() == [4, 4, 4]


def _write_shard(work: Path, number: int, n_prompts: int) -> None:
    path = work / "pairs" / f"{number:07d}.npz"
    path.parent.mkdir(exist_ok=True)
    np.savez(
        path,
        texts=np.array(["a dog"] * n_prompts),
        voices=np.arange(n_prompts).astype(np.uint8) % 2,
        semantic=np.full(6 * n_prompts, number, np.int16),
        lengths=np.full(n_prompts, 6),
    )


@pytest.mark.parametrize(
    ("a", "b", "distance"), [([], [], 0), ([1], [], 1), ([1, 2, 3], [1, 3], 1), ([1, 2], [2, 1], 2)]
)
def test_edit_distance(a: list[int], b: list[int], distance: int) -> None:
    assert semantic.edit_distance(a, b) == semantic.edit_distance(b, a) == distance


def test_phones_start_again_where_their_third_does() -> None:
    tokens = np.array([0, 1, 2, 2, 0, 1, 5, 4])
    assert semantic.phones_of(tokens.astype(np.int16)) == [0, 0, 1, 1]


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

"""`python -m training semantic`: letters to semantic tokens.

Trained on exactly the prompt that the cascade feeds (text over history), with one saving: for
the first part of the budget the padding behind the text is left out of the sequence. The
positions stay those of the full prompt, so all that is left to learn at the end is to look past
the padding.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from bark_core.request import SemanticParams
from bark_core.semantic import generate_semantic
from bark_core.tokenizer import Tokenizer
from bark_core.tokens import SemanticTokens, TextTokens
from bark_core.transformer import CausalGPT
from training import data
from training.initial import initialise
from training.loop import Budget, State, Trainer
from training.pup import CONFIG, LAYOUT, THIRDS
from training.vocabulary import character_vocabulary

IGNORE = -100
SHORT_PROMPT_UNTIL = 0.75  # of the budget
SHORT_FIRST_UNTIL = 0.06
SHORT_FIRST_TOKENS = 90
HISTORY_SHARE = 0.5
BATCH_POSITIONS = 4096
POOL = 2048


@dataclass(frozen=True, slots=True)
class Batch:
    """Rows of about the same length."""

    text: Tensor  # [B, P] ids with offset; P <= text_window positions of the prompt are fed
    history: Tensor  # [B, P]
    said: Tensor  # [B, S] semantic tokens, fed
    targets: Tensor  # [B, S + 1] what follows each, the end token last, IGNORE behind it


class Pairs:
    """Text and semantic tokens of a data set, tokenised once."""

    def __init__(self, dataset: data.Dataset, tokenizer: Tokenizer) -> None:
        self.dataset = dataset
        self.text = [
            np.array(tokenizer.encode(text), dtype=np.int64) + LAYOUT.text_offset
            for text in dataset.texts
        ]
        self.usable = np.array(
            [
                0 < len(row) <= LAYOUT.text_window
                and 0 < len(dataset.semantic_of(i)) < LAYOUT.max_semantic_tokens
                for i, row in enumerate(self.text)
            ]
        )
        self.of_voice = [
            np.flatnonzero((dataset.voices == voice) & self.usable)
            for voice in range(int(dataset.voices.max()) + 1)
        ]

    def tokens_per_letter(self) -> float:
        letters = sum(len(row) for row in self.text)
        return float(self.dataset.offsets[-1]) / letters

    def history(self, index: int, rng: np.random.Generator) -> NDArray[np.int64]:
        """The end of something else that the same voice said."""
        others = self.of_voice[self.dataset.voices[index]]
        other = self.dataset.semantic_of(int(rng.choice(others)))
        return other[-int(rng.integers(8, LAYOUT.text_window + 1)) :].astype(np.int64)

    def batch(self, rows: NDArray[np.int64], rng: np.random.Generator, *, full: bool) -> Batch:
        """Assemble a batch; `full` feeds the whole prompt, padding included."""
        n_said = max(len(self.dataset.semantic_of(int(i))) for i in rows)
        n_prompt = LAYOUT.text_window
        if not full:
            longest = max(len(self.text[int(i)]) for i in rows)
            n_prompt = min(n_prompt, longest + int(rng.integers(0, 12)))
        text = np.full((len(rows), n_prompt), LAYOUT.text_pad)
        history = np.full((len(rows), n_prompt), LAYOUT.semantic_pad)
        said = np.zeros((len(rows), n_said), dtype=np.int64)
        targets = np.full((len(rows), n_said + 1), IGNORE)
        for row, index in enumerate(rows.tolist()):
            text[row, : len(self.text[index])] = self.text[index]
            if rng.random() < HISTORY_SHARE:
                past = self.history(index, rng)[-n_prompt:]
                history[row, : len(past)] = past
            tokens = self.dataset.semantic_of(index)
            said[row, : len(tokens)] = tokens
            targets[row, : len(tokens)] = tokens
            targets[row, len(tokens)] = LAYOUT.semantic_pad
        return Batch(*(torch.from_numpy(array) for array in (text, history, said, targets)))

    def batches(self, state: State, seed: int) -> Iterator[Batch]:
        """Endless batches of rows of like length, short ones first."""
        rng = np.random.default_rng([seed, state.step])
        lengths = np.diff(self.dataset.offsets)
        training = np.flatnonzero(self.usable[: self.dataset.n_training])
        while True:
            allowed = training
            if state.progress < SHORT_FIRST_UNTIL:
                allowed = training[lengths[training] <= SHORT_FIRST_TOKENS]
            pool = rng.choice(allowed, size=min(POOL, len(allowed)), replace=False)
            pool = pool[np.argsort(lengths[pool], kind="stable")]
            groups = _group(pool, lengths, [len(row) for row in self.text])
            for group in rng.permutation(len(groups)):
                full = state.progress >= SHORT_PROMPT_UNTIL
                yield self.batch(groups[group], rng, full=full)


def _group(
    pool: NDArray[np.int64], lengths: NDArray[np.int64], letters: list[int]
) -> list[NDArray[np.int64]]:
    """Cut a sorted pool into batches of about BATCH_POSITIONS."""
    groups, start = [], 0
    while start < len(pool):
        stop = start + 1
        while (
            stop < len(pool)
            and (stop + 1 - start) * (int(lengths[pool[stop]]) + letters[int(pool[stop])] + 8)
            <= BATCH_POSITIONS
        ):
            stop += 1
        groups.append(pool[start:stop])
        start = stop
    return groups


def loss(model: nn.Module, batch: Batch) -> Tensor:
    """Mean cross-entropy of the next semantic token, nats."""
    assert isinstance(model, CausalGPT)
    device = model.device
    text, history, said = (t.to(device) for t in (batch.text, batch.history, batch.said))
    n_prompt, n_said = text.shape[1], said.shape[1]
    infer = torch.full_like(text[:, :1], LAYOUT.semantic_infer)
    fed = torch.cat(
        [model.embed(text) + model.embed(history), model.embed(torch.cat([infer, said], dim=1))],
        dim=1,
    )
    speech = torch.arange(n_said + 1, device=device) + LAYOUT.text_window
    positions = torch.cat([torch.arange(n_prompt, device=device), speech])
    hidden = model(fed, positions=positions)[:, n_prompt:]
    logits = model.logits(hidden, 0, LAYOUT.semantic_vocab + 1).float()
    return F.cross_entropy(
        logits.flatten(0, 1), batch.targets.to(device).flatten(), ignore_index=IGNORE
    )


def phones_of(tokens: NDArray[np.int16] | NDArray[np.uint8]) -> list[int]:
    """Phones that a run of semantic tokens says: a new one where phone or third starts again."""
    said: list[int] = []
    before = (-1, 0)
    for token in tokens.tolist():
        phone, third = divmod(token, THIRDS)
        if phone != before[0] or third < before[1]:
            said.append(phone)
        before = (phone, third)
    return said


def edit_distance(a: list[int], b: list[int]) -> int:
    """Insertions, deletions and substitutions that turn a into b."""
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        corner, row[0] = row[0], i
        for j, y in enumerate(b, 1):
            corner, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, corner + (x != y))
    return row[-1]


def validator(pairs: Pairs, n_loss: int = 256, n_greedy: int = 24) -> dict[str, float] | object:
    """Figures on sentences that are not trained on: loss, and the phone error of greedy runs."""
    held = np.flatnonzero(pairs.usable)
    held = held[held >= pairs.dataset.n_training]

    def validate(model: nn.Module) -> dict[str, float]:
        assert isinstance(model, CausalGPT)
        rng = np.random.default_rng(0)
        losses = [
            float(loss(model, pairs.batch(rows, rng, full=True)))
            for rows in np.array_split(held[:n_loss], max(1, n_loss // 16))
        ]
        wrong = total = ended = 0
        for index in held[:n_greedy].tolist():
            heard = phones_of(_greedy(model, pairs.text[index]))
            wanted = phones_of(pairs.dataset.semantic_of(index))
            wrong += edit_distance(heard, wanted)
            total += len(wanted)
            ended += len(heard) < 2 * len(wanted)
        return {
            "validation_loss": float(np.mean(losses)),
            "phone_error": wrong / total,
            "ended": ended / n_greedy,
        }

    return validate


def _greedy(model: CausalGPT, text: NDArray[np.int64]) -> NDArray[np.int16]:
    steps = generate_semantic(
        model,
        TextTokens(text - LAYOUT.text_offset, LAYOUT),
        params=SemanticParams(temperature=0.0, min_eos_p=None, max_duration_s=8.0),
        generator=torch.Generator(model.device),
    )
    while True:
        try:
            next(steps)
        except StopIteration as end:
            tokens: SemanticTokens = end.value
            return tokens.values


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    parser.add_argument("--work", type=Path, default=data.DEFAULT_WORK)
    parser.add_argument("--minutes", type=float, default=120.0)
    parser.add_argument("--steps", type=int, default=1_000_000)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--fresh", action="store_true", help="don't go on from the checkpoint")


def trainer(args: argparse.Namespace) -> Trainer:
    """Model, data and budget, ready to run."""
    tokenizer = Tokenizer.from_vocabulary(character_vocabulary())
    pairs = Pairs(data.load(args.work, "pairs"), tokenizer)
    model = CausalGPT(CONFIG.text)
    positions = torch.arange(CONFIG.text.block_size)
    spoken = (positions - LAYOUT.text_window) / pairs.tokens_per_letter()
    initialise(
        model, torch.where(positions < LAYOUT.text_window, positions, spoken), seed=args.seed
    )
    share_letters(model, character_vocabulary())
    if args.fresh:
        (args.work / "semantic.pt").unlink(missing_ok=True)
    return Trainer(
        "semantic",
        model,
        batches=lambda state: pairs.batches(state, args.seed),
        loss=loss,
        validate=validator(pairs),  # type: ignore[arg-type]
        folder=args.work,
        budget=Budget(minutes=args.minutes, steps=args.steps),
        device=args.device,
    )


def share_letters(model: CausalGPT, vocabulary: list[str]) -> None:
    """Start all forms of a letter alike: "T" is read as "t", "##t" as "t" within a word."""
    rows = {token: LAYOUT.text_offset + i for i, token in enumerate(vocabulary)}
    table = model.transformer["wte"].weight
    assert isinstance(table, Tensor)
    with torch.no_grad():
        inside, capital = torch.randn(2, table.shape[1]) * table.std() * 0.5
        for letter in "abcdefghijklmnopqrstuvwxyz":
            start = table[rows[letter]].clone()
            table[rows[f"##{letter}"]] = start + inside
            table[rows[letter.upper()]] = start + capital
            table[rows[f"##{letter.upper()}"]] = start + inside + capital


def main(args: argparse.Namespace) -> None:
    """Train the semantic stage."""
    torch.set_num_threads(args.threads)
    trainer(args).run()

"""`python -m training coarse`: semantic tokens to coarse codes.

Every row is a prompt that the cascade itself would build (`bark_core.coarse.plan_coarse`): with
a voice, something else that the same voice said comes first, cut and shifted as there; then a
window somewhere in the sentence. All coarse tokens in sight are learnt from, not only the last.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from bark_core.coarse import flatten, plan_coarse
from bark_core.request import CoarseParams
from bark_core.tokens import CoarseCodes, SemanticTokens
from bark_core.transformer import CausalGPT
from training import data
from training.initial import initialise
from training.loop import Budget, State, Trainer
from training.pup import CONFIG, LAYOUT
from training.semantic import IGNORE
from training.semantic import add_arguments as add_arguments  # the same for every transformer

BATCH_ROWS = 6
HISTORY_SHARE = 0.6
PROMPT = LAYOUT.coarse_semantic_window + 1  # positions before the first coarse token


@dataclass(frozen=True, slots=True)
class Batch:
    """Prompts with what follows them."""

    tokens: Tensor  # [B, PROMPT + n]
    targets: Tensor  # [B, n + 1] the coarse token that follows, from the INFER position on


class Sound:
    """Semantic tokens and codes of the sentences that have sound."""

    def __init__(self, dataset: data.Dataset) -> None:
        self.dataset = dataset
        lengths = np.diff(dataset.offsets)
        self.usable = (lengths >= 4) & (lengths < LAYOUT.max_semantic_tokens)
        self.of_voice = [
            np.flatnonzero(
                (dataset.voices[: dataset.n_training] == voice) & self.usable[: dataset.n_training]
            )
            for voice in range(int(dataset.voices.max()) + 1)
        ]

    def pair(self, index: int) -> tuple[SemanticTokens, CoarseCodes]:
        codes = self.dataset.codes_of(index)[: LAYOUT.n_coarse_codebooks]
        semantic = SemanticTokens(self.dataset.semantic_of(index), LAYOUT)
        return semantic, CoarseCodes(codes, LAYOUT)

    def history_of(self, index: int, rng: np.random.Generator) -> int:
        """Something else that the same voice said."""
        return int(rng.choice(self.of_voice[self.dataset.voices[index]]))

    def row(self, index: int, rng: np.random.Generator) -> NDArray[np.int64]:
        """A prompt and the window after it, [PROMPT + n]."""
        semantic, codes = self.pair(index)
        history = None
        if rng.random() < HISTORY_SHARE:
            history = self.pair(self.history_of(index, rng))
        plan = plan_coarse(semantic, history, CoarseParams())
        made = flatten(codes)[: plan.n_steps]
        starts = np.arange(0, len(made), LAYOUT.coarse_window)
        if history is None:
            # while nothing has slid out, a later window holds all earlier ones
            starts = starts[starts >= min(starts[-1], LAYOUT.max_coarse_history - 30)]
        start = int(rng.choice(starts))
        return np.concatenate(
            [plan.prompt(made[:start]), made[start : start + LAYOUT.coarse_window]]
        )

    def batch(self, rows: NDArray[np.int64], rng: np.random.Generator) -> Batch:
        prompts = [self.row(int(index), rng) for index in rows]
        longest = max(len(prompt) for prompt in prompts)
        tokens = np.full((len(rows), longest), LAYOUT.coarse_semantic_pad)
        targets = np.full((len(rows), longest - PROMPT + 1), IGNORE)
        for row, prompt in enumerate(prompts):
            tokens[row, : len(prompt)] = prompt
            targets[row, : len(prompt) - PROMPT] = prompt[PROMPT:]
        return Batch(torch.from_numpy(tokens), torch.from_numpy(targets))

    def batches(self, state: State, seed: int) -> Iterator[Batch]:
        """Endless random batches."""
        rng = np.random.default_rng([seed, state.step])
        training = np.flatnonzero(self.usable[: self.dataset.n_training])
        while True:
            yield self.batch(rng.choice(training, BATCH_ROWS), rng)


def loss(model: nn.Module, batch: Batch) -> Tensor:
    """Mean cross-entropy within the codebook whose turn it is, nats a token."""
    first, second = losses(model, batch)
    return (first + second) / 2


def losses(model: nn.Module, batch: Batch) -> tuple[Tensor, Tensor]:
    """The loss of each coarse codebook."""
    assert isinstance(model, CausalGPT)
    tokens, targets = batch.tokens.to(model.device), batch.targets.to(model.device)
    hidden = model(model.embed(tokens))[:, PROMPT - 1 :]
    parts = []
    for codebook in range(LAYOUT.n_coarse_codebooks):
        start = LAYOUT.semantic_vocab + codebook * LAYOUT.codebook_size
        # the window starts with codebook 1, so every other position is its turn
        turn = slice(codebook, None, LAYOUT.n_coarse_codebooks)
        logits = model.logits(hidden[:, turn], start, start + LAYOUT.codebook_size).float()
        wanted = targets[:, turn]
        wanted = torch.where(wanted == IGNORE, IGNORE, wanted - start)
        parts.append(F.cross_entropy(logits.flatten(0, 1), wanted.flatten(), ignore_index=IGNORE))
    return parts[0], parts[1]


def trainer(args: argparse.Namespace) -> Trainer:
    """Model, data and budget, ready to run."""
    sound = Sound(data.load(args.work, "sound"))
    model = CausalGPT(CONFIG.coarse)
    positions = torch.arange(CONFIG.coarse.block_size)
    moments = (positions - PROMPT) / LAYOUT.coarse_per_semantic
    initialise(model, torch.where(positions < PROMPT, positions, moments), seed=args.seed)
    held = np.flatnonzero(sound.usable)
    held = held[held >= sound.dataset.n_training][:96]

    def validate(model: nn.Module) -> dict[str, float]:
        rng = np.random.default_rng(0)
        parts = [
            torch.stack(losses(model, sound.batch(rows, rng)))
            for rows in np.array_split(held, max(1, len(held) // BATCH_ROWS))
        ]
        first, second = torch.stack(parts).mean(dim=0).tolist()
        return {"validation_loss": (first + second) / 2, "codebook_1": first, "codebook_2": second}

    if args.fresh:
        (args.work / "coarse.pt").unlink(missing_ok=True)
    return Trainer(
        "coarse",
        model,
        batches=lambda state: sound.batches(state, args.seed),
        loss=loss,
        validate=validate,
        folder=args.work,
        budget=Budget(minutes=args.minutes, steps=args.steps),
        device=args.device,
    )


def main(args: argparse.Namespace) -> None:
    """Train the coarse stage."""
    torch.set_num_threads(args.threads)
    trainer(args).run()

"""`python -m training fine`: the first codebooks to the remaining ones.

Every row is a window that the cascade itself would cut (`bark_core.fine.plan_fine`), one
codebook of it masked from where the window is to be filled.
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

from bark_core.fine import plan_fine
from bark_core.tokens import FineCodes
from bark_core.transformer import FineGPT
from training import data
from training.coarse import Sound
from training.initial import initialise
from training.loop import Budget, Rates, State, Trainer
from training.pup import CONFIG, LAYOUT
from training.semantic import IGNORE
from training.semantic import add_arguments as add_arguments  # the same for every transformer

BATCH_ROWS = 14
HISTORY_SHARE = 0.6
OLD_VALUES_SHARE = 0.1  # the last window of a clip may overlap what is already filled


@dataclass(frozen=True, slots=True)
class Batch:
    """Windows with one codebook masked."""

    codebook: int
    codes: Tensor  # [B, fine_window, n_codebooks]
    targets: Tensor  # [B, fine_window], IGNORE where nothing is to be filled


class Windows:
    """Windows over the sentences that have sound."""

    def __init__(self, dataset: data.Dataset) -> None:
        self.dataset = dataset
        self.sound = Sound(dataset)

    def window(
        self, index: int, codebook: int, rng: np.random.Generator
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """One window and its targets: [fine_window, n_codebooks], [fine_window]."""
        fine = FineCodes(self.dataset.codes_of(index), LAYOUT)
        history = None
        if rng.random() < HISTORY_SHARE:
            other = self.sound.history_of(index, rng)
            history = FineCodes(self.dataset.codes_of(other), LAYOUT)
        plan = plan_fine(fine.coarse, history)
        end = plan.n_history + plan.n_frames
        known = plan.codes.copy()
        known[plan.n_history : end] = fine.values.T
        windows = list(plan.windows())
        start, fill = windows[int(rng.integers(len(windows)))]
        codes = known[start : start + LAYOUT.fine_window].copy()
        targets = np.full(LAYOUT.fine_window, IGNORE)
        stop = min(end - start, LAYOUT.fine_window)
        targets[fill:stop] = codes[fill:stop, codebook]
        if rng.random() >= OLD_VALUES_SHARE:
            codes[fill:, codebook] = LAYOUT.codebook_size
        return codes, targets

    def batch(self, rows: NDArray[np.int64], codebook: int, rng: np.random.Generator) -> Batch:
        windows = [self.window(int(index), codebook, rng) for index in rows]
        codes, targets = (np.stack(part) for part in zip(*windows, strict=True))
        return Batch(codebook, torch.from_numpy(codes), torch.from_numpy(targets))

    def batches(self, state: State, seed: int) -> Iterator[Batch]:
        """Endless random batches, codebook by codebook."""
        rng = np.random.default_rng([seed, state.step])
        training = np.flatnonzero(self.sound.usable[: self.dataset.n_training])
        while True:
            for codebook in range(LAYOUT.n_coarse_codebooks, LAYOUT.n_codebooks):
                yield self.batch(rng.choice(training, BATCH_ROWS), codebook, rng)


def loss(model: nn.Module, batch: Batch) -> Tensor:
    """Mean cross-entropy of the masked codes, nats a code."""
    assert isinstance(model, FineGPT)
    logits = model(batch.codebook, batch.codes.to(model.device))[:, :, : LAYOUT.codebook_size]
    targets = batch.targets.to(model.device)
    return F.cross_entropy(logits.float().flatten(0, 1), targets.flatten(), ignore_index=IGNORE)


def trainer(args: argparse.Namespace) -> Trainer:
    """Model, data and budget, ready to run."""
    windows = Windows(data.load(args.work, "sound"))
    model = FineGPT(CONFIG.fine)
    initialise(model, torch.arange(CONFIG.fine.block_size), seed=args.seed)
    held = np.flatnonzero(windows.sound.usable)
    held = held[held >= windows.dataset.n_training][:56]

    def validate(model: nn.Module) -> dict[str, float]:
        figures = {}
        for codebook in range(LAYOUT.n_coarse_codebooks, LAYOUT.n_codebooks):
            rng = np.random.default_rng(0)
            parts = [
                loss(model, windows.batch(rows, codebook, rng))
                for rows in np.array_split(held, max(1, len(held) // BATCH_ROWS))
            ]
            figures[f"codebook_{codebook + 1}"] = float(torch.stack(parts).mean())
        return {"validation_loss": float(np.mean(list(figures.values()))), **figures}

    if args.fresh:
        (args.work / "fine.pt").unlink(missing_ok=True)
    return Trainer(
        "fine",
        model,
        batches=lambda state: windows.batches(state, args.seed),
        loss=loss,
        validate=validate,
        folder=args.work,
        budget=Budget(minutes=args.minutes, steps=args.steps),
        # no output head of its own width to speak of: embeddings are tied to the heads
        rates=Rates(vectors=1e-3),
        device=args.device,
    )


def main(args: argparse.Namespace) -> None:
    """Train the fine stage."""
    torch.set_num_threads(args.threads)
    trainer(args).run()

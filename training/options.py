"""Arguments that training the parts of pup has in common."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

import torch

from training import data
from training.corpus import Corpus
from training.loop import Budget, State

GROW_EVERY_STEPS = 250


def add_training_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of all of them."""
    parser.add_argument("--work", type=Path, default=data.DEFAULT_WORK)
    parser.add_argument("--minutes", type=float, default=120.0)
    parser.add_argument("--steps", type=int, default=1_000_000)
    parser.add_argument("--until", type=float, help="end at this time at the latest, Unix seconds")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--batch", type=int, help="times a CPU's batch; 1 on a CPU, 16 on a GPU")
    parser.add_argument("--grow", action="store_true", help="also learn from what is rendered on")
    parser.add_argument("--dropout", type=float, default=0.0, help="in the blocks")
    parser.add_argument("--compile", action="store_true", help="compile the step (GPU)")
    parser.add_argument("--save-minutes", type=float, default=4.0, help="between checkpoints")
    parser.add_argument("--check-minutes", type=float, default=6.0, help="between validations")
    parser.add_argument("--greedy", type=int, default=10, help="prompts said out in validation")
    parser.add_argument("--fresh", action="store_true", help="don't go on from the checkpoint")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the three transformers."""
    add_training_arguments(parser)
    add_start(parser)


def add_start(parser: argparse.ArgumentParser) -> None:
    """Options of what can go on from a finished model."""
    parser.add_argument("--start", type=Path, help="a finished model whose stage this goes on from")
    parser.add_argument("--rates", type=float, default=1.0, help="of learning, times the usual")


def batch_scale(args: argparse.Namespace) -> int:
    """How many times as many rows as on a CPU."""
    if args.batch is not None:
        return int(args.batch)
    return 16 if args.device.startswith("cuda") else 1


def budget(args: argparse.Namespace) -> Budget:
    """When to end, save and validate."""
    return Budget(
        minutes=args.minutes,
        steps=args.steps,
        until=args.until,
        checkpoint_minutes=args.save_minutes,
        validate_minutes=args.check_minutes,
    )


def generators(state: State, corpus: Corpus, args: argparse.Namespace) -> Iterator[torch.Generator]:
    """For each step its own random numbers, so that a resumed run draws what an unbroken one would.

    Takes in what was rendered meanwhile, if asked to.
    """
    generator = torch.Generator(corpus.device)
    while True:
        if args.grow and state.step % GROW_EVERY_STEPS == GROW_EVERY_STEPS - 1:
            corpus.refresh()
        yield generator.manual_seed(args.seed * 1_000_003 + state.step)

"""What the tests of the three stages share: running a stage to its end, seeded draws."""

from __future__ import annotations

from collections.abc import Generator
from typing import TypeVar

import torch

from bark_core.events import StageProgress

T = TypeVar("T")


def result_of(run: Generator[StageProgress, None, T]) -> T:
    """Run a stage to its end."""
    while True:
        try:
            next(run)
        except StopIteration as end:
            value: T = end.value
            return value


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)

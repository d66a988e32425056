"""Takes of a segment: what decides what is drawn for one, and which of several is kept."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic, TypeVar

import torch

from bark_core.quality import Problem, find_length_problems
from bark_core.request import GenerationRequest, Settings
from bark_core.sampling import StageName, stage_generator
from bark_core.semantic import step_limit
from bark_core.text import Segment
from bark_core.tokens import SemanticTokens

Made = TypeVar("Made")


@dataclass(frozen=True, slots=True)
class Take:
    """One attempt at a segment, and all that decides what is drawn for it."""

    segment: Segment
    settings: Settings
    seed: int
    index: int  # of the segment in its request
    number: int  # of the take
    streaming: bool = False

    def draws(self, stage: StageName) -> torch.Generator:
        """The generator of one of its stages."""
        return stage_generator(self.seed, self.index, stage, take=self.number)

    def ended(self, semantic: SemanticTokens) -> bool:
        """False: the words ran into the limit without an end."""
        return len(semantic) < step_limit(self.settings.semantic, semantic.layout)

    def length_problems(self, semantic: SemanticTokens) -> tuple[Problem, ...]:
        """What the length of its words tells, before there is any sound."""
        if not self.settings.semantic.allow_early_stop:
            return ()  # it was told to go on to the limit
        ended = self.ended(semantic)
        return find_length_problems(self.segment.text, semantic.duration_s, ended=ended)


class Takes(Generic[Made]):
    """The takes of one segment: another one while something is wrong and the budget lasts.

    Of those that were made, the first with the fewest problems is the best.
    """

    def __init__(self, request: GenerationRequest) -> None:
        self.number = request.take
        self.best: Made | None = None
        self._last = request.take + request.retries
        self._fewest = len(Problem) + 1

    def another(self, made: Made | None, problems: tuple[Problem, ...]) -> bool:
        """Take note of what became of the current take; True: `number` is the next one's.

        Args:
            made: None if it came to nothing.
        """
        if made is not None and len(problems) < self._fewest:
            self.best, self._fewest = made, len(problems)
        if not problems or self.number == self._last:
            return False
        self.number += 1
        return True

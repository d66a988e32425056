"""What goes in: the text, who says it, and the settings of each stage.

A request is checked when it is made, in full, before any work is done for it. Defaults are
those of suno-ai/bark.
"""

from __future__ import annotations

import math
import secrets
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from bark_core.errors import InvalidSetting, InvalidText, InvalidTokens

if TYPE_CHECKING:
    from bark_core.tokens import SemanticTokens
    from bark_core.voices import Voice

MAX_TEXT_CHARACTERS = 100_000
MAX_SEED = 2**63 - 1
MAX_TEMPERATURE = 5.0
MAX_RETRIES = 10
MAX_TAKE = 1_000_000


def _number(what: str, value: object, low: float, high: float) -> float:
    """A finite number within low..high; bool doesn't count as one."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise InvalidSetting(f"{what} must be a number, got {value!r}")
    if not math.isfinite(value) or not low <= value <= high:
        raise InvalidSetting(f"{what} must be within {low:g}..{high:g}, got {value!r}")
    return float(value)


def _integer(what: str, value: object, low: int, high: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise InvalidSetting(f"{what} must be a whole number, got {value!r}")
    if not low <= value <= high:
        raise InvalidSetting(f"{what} must be within {low}..{high}, got {value}")
    return value


def _boolean(what: str, value: object) -> None:
    if not isinstance(value, bool):
        raise InvalidSetting(f"{what} must be true or false, got {value!r}")


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingParams:
    """How one token is drawn from a stage's logits."""

    temperature: float = 0.7  # 0 takes the likeliest token every time
    top_k: int | None = None  # only the k likeliest tokens
    top_p: float | None = None  # only the likeliest tokens that together reach p

    def __post_init__(self) -> None:
        _number("temperature", self.temperature, 0.0, MAX_TEMPERATURE)
        if self.top_k is not None:
            _integer("top_k", self.top_k, 1, 1_000_000)
        if self.top_p is not None:
            _number("top_p", self.top_p, 0.0, 1.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class SemanticParams(SamplingParams):
    """Text to semantic tokens: the wording of the sound, its pace and its end."""

    allow_early_stop: bool = True  # False: go on to the limit, whatever the model says
    min_eos_p: float | None = 0.2  # end as soon as the end token is that likely
    max_duration_s: float | None = None

    def __post_init__(self) -> None:
        # plain super() can't be used: slots=True makes a new class
        SamplingParams.__post_init__(self)
        _boolean("allow_early_stop", self.allow_early_stop)
        if self.min_eos_p is not None:
            _number("min_eos_p", self.min_eos_p, 0.0, 1.0)
        if self.max_duration_s is not None:
            _number("max_duration_s", self.max_duration_s, 0.0, 3600.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class CoarseParams(SamplingParams):
    """Semantic tokens to coarse codes: the timbre of the sound."""

    # at most the layout's own, at least one window of steps; None: the layout's own
    max_history: int | None = None

    def __post_init__(self) -> None:
        SamplingParams.__post_init__(self)
        if self.max_history is not None:
            _integer("max_history", self.max_history, 1, 1_000_000)


@dataclass(frozen=True, slots=True, kw_only=True)
class FineParams:
    """Coarse to fine codes: the detail of the sound."""

    temperature: float = 0.5  # 0 takes the likeliest code every time

    def __post_init__(self) -> None:
        _number("temperature", self.temperature, 0.0, MAX_TEMPERATURE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The settings of all three stages."""

    semantic: SemanticParams = field(default_factory=SemanticParams)
    coarse: CoarseParams = field(default_factory=CoarseParams)
    fine: FineParams = field(default_factory=FineParams)


def random_seed() -> int:
    """A seed to show and to keep, short enough to be read aloud: 0..2**32 - 1."""
    return secrets.randbelow(2**32)


@dataclass(frozen=True, slots=True)
class GenerationRequest:
    """One thing to say.

    Args:
        text: 1..100,000 characters; split into segments that fit the model.
        voice: who says it; None rolls a new voice.
        seed: 0..2**63 - 1; the same request with the same seed gives the same sound.
        settings: of the three stages.
        segment_pause_s: silence between two segments, 0..10 s.
        retries: how many further takes a segment gets when something is wrong with it, 0..10;
            of all its takes, the one with the fewest problems is kept.
        take: which of the takes of this seed to begin with, 0..1,000,000; another take is
            another sound.
        words: semantic tokens of each segment, kept from an earlier result: the semantic stage
            is skipped, the words and their timing stay, the sound is made anew. As many as the
            text has segments.
        streaming: have a segment's sound before the segment is finished. Its semantic and coarse
            tokens are the same; the fine stage, which sees both ways, sees less of what follows,
            so the sound differs in detail. Goes without retries: what was heard stays.

    Raises:
        InvalidText, InvalidSetting, InvalidTokens: at once, when the request is made.
    """

    text: str
    voice: Voice | None = None
    seed: int = field(default_factory=random_seed)
    settings: Settings = field(default_factory=Settings)
    segment_pause_s: float = 0.25
    retries: int = 0
    take: int = 0
    words: tuple[SemanticTokens, ...] | None = None
    streaming: bool = False

    def __post_init__(self) -> None:
        if not isinstance(self.text, str):
            raise InvalidText(f"the text must be a string, got {type(self.text).__name__}")
        if not self.text.strip():
            raise InvalidText("there is no text to say; type at least one word")
        if len(self.text) > MAX_TEXT_CHARACTERS:
            raise InvalidText(
                f"the text has {len(self.text):,} characters; at most {MAX_TEXT_CHARACTERS:,} "
                "can be said in one go: split it into parts"
            )
        _integer("seed", self.seed, 0, MAX_SEED)
        _number("segment_pause_s", self.segment_pause_s, 0.0, 10.0)
        _integer("retries", self.retries, 0, MAX_RETRIES)
        _integer("take", self.take, 0, MAX_TAKE)
        _boolean("streaming", self.streaming)
        if self.streaming and self.retries:
            raise InvalidSetting(
                f"what was heard can't be said again: streaming goes without retries, got "
                f"{self.retries}; turn one of them off"
            )
        if self.words is not None and not (isinstance(self.words, tuple) and self.words):
            raise InvalidTokens(
                "words must be a tuple of the semantic tokens of each segment, "
                f"got {type(self.words).__name__}; leave them out to have them made"
            )

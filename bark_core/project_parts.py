"""What a project is made of: its segments, their takes, what all of them share, orders for more."""

from __future__ import annotations

import secrets
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING

from bark_core.errors import InvalidSetting
from bark_core.request import MAX_RETRIES, MAX_SEED, GenerationRequest, Settings, random_seed
from bark_core.script import LINE_PAUSE_S, MAX_PAUSE_S, Line, shown

if TYPE_CHECKING:
    from bark_core.generation import Generation

BACKGROUND_ID = "background"  # stands for a segment's id where the background is meant
_ID_DIGITS = frozenset("0123456789abcdef")


def new_name() -> str:
    """A name of a segment or a take, and of a take's files: 16 hexadecimal digits."""
    return secrets.token_hex(8)


def is_take_name(text: object) -> bool:
    """Whether `new_name` could have made it; nothing else may become a file's name."""
    return isinstance(text, str) and len(text) == 16 and set(text) <= _ID_DIGITS


@dataclass(frozen=True, slots=True)
class Take:
    """One sound of a segment.

    Attributes:
        id: of its files in the project's folder.
        text: what it says.
        recipe: of what it was made; that of its segment where nothing changed since.
        number: which of the takes of its seed it is.
        problems: what seems to be wrong with it (`Problem`).
        ended: False: it ran into the limit without an end.
        voice_sha256: of the voice it was made with; None: rolled.
    """

    id: str
    text: str
    recipe: str
    duration_s: float
    seed: int = 0
    number: int = 0
    problems: tuple[str, ...] = ()
    ended: bool = True
    voice_name: str | None = None
    voice_sha256: str | None = None

    def __post_init__(self) -> None:
        if not is_take_name(self.id):
            raise InvalidSetting(f"the id of a take has 16 hexadecimal digits, got {self.id!r:.60}")
        object.__setattr__(self, "problems", tuple(map(str, self.problems)))


class SegmentState(StrEnum):
    """What a segment needs."""

    NEEDS_SOUND = "needs sound"
    READY = "ready"
    WRONG = "wrong"  # it has sound, and something seems to be wrong with it


@dataclass(frozen=True, slots=True)
class ProjectSegment:
    """Words said in one go, and their takes.

    Attributes:
        line: who says what, and how; its pause None is the project's usual one.
        chosen: id of the take that is heard; None: it needs sound.
        next_take: number of the take that is made next.
        number: counts the segments as they came to be, from 1 on; its seed follows from it.
    """

    id: str
    line: Line
    n_tokens: int
    takes: tuple[Take, ...] = ()
    chosen: str | None = None
    next_take: int = 0
    number: int = 0  # 0: not in a project yet

    @property
    def take(self) -> Take | None:
        """The take that is heard."""
        return next((take for take in self.takes if take.id == self.chosen), None)

    @property
    def state(self) -> SegmentState:
        take = self.take
        if take is None:
            return SegmentState.NEEDS_SOUND
        return SegmentState.WRONG if take.problems else SegmentState.READY


@dataclass(frozen=True, slots=True, kw_only=True)
class ProjectOptions:
    """What all segments share, as far as they have nothing of their own."""

    settings: Settings = field(default_factory=Settings)
    seed: int = field(default_factory=random_seed)
    line_pause_s: float = LINE_PAUSE_S  # 0..60
    retries: int = 2  # further takes of a segment that went wrong, 0..10

    def __post_init__(self) -> None:
        for name, top in (("line_pause_s", MAX_PAUSE_S), ("retries", MAX_RETRIES)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, (int, float)):
                raise InvalidSetting(f"{name} must be a number, got {shown(value)}")
            if not 0 <= value <= top:  # false of NaN as well
                raise InvalidSetting(f"{name} must be within 0..{top:g}, got {shown(value)}")
        if not isinstance(self.retries, int):
            raise InvalidSetting(f"retries must be a whole number, got {self.retries!r}")
        if isinstance(self.seed, bool) or not isinstance(self.seed, int):
            raise InvalidSetting(f"the seed must be a whole number, got {shown(self.seed)}")
        if not 0 <= self.seed <= MAX_SEED:
            raise InvalidSetting(f"the seed must be within 0..{MAX_SEED}, got {self.seed}")


@dataclass(frozen=True, slots=True)
class Order:
    """A take to be made: for which segment, from what, and its name."""

    segment_id: str  # or BACKGROUND_ID
    take_id: str
    recipe: str
    request: GenerationRequest

    def fulfil(self, made: Generation, *, n_takes: int = 1) -> tuple[Take, int]:
        """The take that a generation is, and the number of the next one.

        Args:
            n_takes: how many were tried.
        """
        voice = self.request.voice
        take = Take(
            id=self.take_id,
            text=self.request.text,
            recipe=self.recipe,
            duration_s=round(made.audio.duration_s, 6),
            seed=self.request.seed,
            number=max(segment.take for segment in made.segments),
            problems=tuple(
                dict.fromkeys(str(p) for segment in made.segments for p in segment.problems)
            ),
            ended=all(segment.ended for segment in made.segments),
            voice_name=voice.name or None if voice else None,
            voice_sha256=voice.sha256 if voice else None,
        )
        return take, self.request.take + n_takes

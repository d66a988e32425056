"""What comes out while a request runs: progress, sound as it is ready, the end.

The cascade, the engine and the page all speak in these. A stream of events ends with exactly
one of Finished, Failed or Stopped.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from bark_core.errors import BarkError
from bark_core.tokens import Audio

if TYPE_CHECKING:
    from bark_core.generation import Generation
    from bark_core.quality import Problem


class Stage(StrEnum):
    """The stages of the cascade, in their order."""

    SEMANTIC = "semantic"
    COARSE = "coarse"
    FINE = "fine"
    CODEC = "codec"


@dataclass(frozen=True, slots=True)
class StageProgress:
    """One step of a stage is done."""

    stage: Stage
    done: int  # steps
    total: int  # steps; for the semantic stage the most there can be
    segment: int = 0  # 0..n_segments - 1
    n_segments: int = 1


@dataclass(frozen=True, slots=True)
class Retry:
    """A take of a segment went wrong; another one follows."""

    segment: int  # 0..n_segments - 1
    n_segments: int
    take: int  # of the one that follows
    problems: tuple[Problem, ...]  # of the one before


@dataclass(frozen=True, slots=True)
class AudioChunk:
    """Sound that is ready, in the order in which it is to be heard, pauses included.

    A segment is one chunk, or where the request has streaming several; the last one of them has
    `ends_segment`.
    """

    audio: Audio
    segment: int
    n_segments: int
    so_far: Generation  # all segments that are finished: maybe none yet while one is streaming
    ends_segment: bool = True


@dataclass(frozen=True, slots=True)
class Finished:
    """All of it is done."""

    generation: Generation


@dataclass(frozen=True, slots=True)
class Failed:
    """It went wrong; segments that were finished before are kept in `partial`."""

    error: BarkError
    partial: Generation | None = None


@dataclass(frozen=True, slots=True)
class Stopped:
    """Somebody stopped it; segments that were finished before are kept in `partial`."""

    partial: Generation | None = None


Event = StageProgress | Retry | AudioChunk | Finished | Failed | Stopped

"""Lines become segments that fit a model: each within its window, none of their words lost."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol, Self

from bark_core.errors import InvalidText
from bark_core.project_parts import ProjectSegment, new_name
from bark_core.script import MAX_PAUSE_S, Line, Script
from bark_core.text import Segment

if TYPE_CHECKING:
    from bark_core.frontend import FrontEnd
    from bark_core.generation import ModelIdentity


class HasFrontEnd(Protocol):
    """A `Cascade`, or what is known of one that is loaded elsewhere."""

    @property
    def front(self) -> FrontEnd: ...

    @property
    def identity(self) -> ModelIdentity: ...


@dataclass(frozen=True, slots=True)
class Planner:
    """What a model needs to plan words: the segments that fit it, and how full they are."""

    model: str
    layout_name: str
    window: int  # text tokens that a segment may have
    count: Callable[[str], int]
    split: Callable[[str, str | None], Sequence[Segment]]  # words, name of a voice or None

    @classmethod
    def of(
        cls, model: HasFrontEnd, language_of: Callable[[str], str | None] = lambda _: None
    ) -> Self:
        """The planner of a model, loaded here or elsewhere.

        Args:
            language_of: the language of a voice by its name, where that is known.
        """
        front = model.front
        layout, count = front.config.layout, front.tokenizer.count

        def split(text: str, voice: str | None) -> Sequence[Segment]:
            return front.split(text, language_of(voice) if voice else None)

        return cls(model.identity.name, layout.name, layout.text_window, count, split)


def plan_script(script: Script, planner: Planner) -> tuple[ProjectSegment, ...]:
    """All lines' segments; a pause that is neither line's own is left to the project."""
    segments: list[ProjectSegment] = []
    for index, line in enumerate(script.lines):
        try:
            parts = plan_line(line, planner, script.voice_of(line))
        except InvalidText as error:
            start = line.text if len(line.text) <= 40 else f"{line.text[:39]}…"
            raise InvalidText(f"line {index + 1} ({start!r}): {error}") from error
        if index:
            # a pause before a line is one after the line before
            before_s = parts[0].line.pause_before_s
            parts[0] = replace(parts[0], line=replace(parts[0].line, pause_before_s=None))
            if before_s is not None:
                last = segments[-1].line
                pause_s = min((last.pause_after_s or 0.0) + before_s, MAX_PAUSE_S)
                segments[-1] = replace(segments[-1], line=replace(last, pause_after_s=pause_s))
        segments += parts
    return tuple(segments)


def plan_line(line: Line, planner: Planner, voice: str | None) -> list[ProjectSegment]:
    """The segments of one line, each with a line of its own."""
    *firsts, last = planner.split(line.text, voice)
    inner = [
        replace(
            line,
            text=part.text,
            pause_before_s=line.pause_before_s if index == 0 else None,
            pause_after_s=part.pause_s,
            end_s=None,
            start_s=line.start_s if index == 0 else None,
        )
        for index, part in enumerate(firsts)
    ]
    final = replace(
        line,
        text=last.text,
        pause_before_s=None if firsts else line.pause_before_s,
        start_s=None if firsts else line.start_s,
    )
    return [ProjectSegment(new_name(), each, planner.count(each.text)) for each in (*inner, final)]


def number_segments(segments: Iterable[ProjectSegment]) -> tuple[ProjectSegment, ...]:
    """Give numbers to the segments that have none yet."""
    kept = tuple(segments)
    following = itertools.count(1 + max((segment.number for segment in kept), default=0))
    return tuple(
        segment if segment.number else replace(segment, number=next(following)) for segment in kept
    )

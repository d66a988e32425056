"""Subtitles of what was spoken: SubRip (.srt) and WebVTT (.vtt), exact to the millisecond."""

from __future__ import annotations

import bisect
import html
import itertools
import math
import re
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from bark_core.errors import InvalidSetting, InvalidText
from bark_core.text import estimate_duration_s, normalize

__all__ = ["Cue", "plan_cues", "to_srt", "to_vtt"]

LINE_WIDTH = 42  # Latin letters; Chinese characters and their like take two
CUE_LINES = 2
MAX_TIME_S = 1_000_000.0


@dataclass(frozen=True, slots=True)
class Cue:
    """Words and when they are spoken; of planned cues the text holds line ends.

    Raises:
        InvalidText: no words.
        InvalidSetting: times that aren't finite, within 0..1,000,000 s and in order.
    """

    text: str
    speaker: str
    start_s: float
    end_s: float

    def __post_init__(self) -> None:
        if not normalize(self.text):
            raise InvalidText("a subtitle has no words; leave it out")
        normalize(self.speaker)
        if not 0 <= self.start_s <= self.end_s <= MAX_TIME_S:  # false of NaN as well
            raise InvalidSetting(
                "the times of a subtitle must be in order and within 0..1,000,000 s, got "
                f"{self.start_s!r} to {self.end_s!r}"
            )


def plan_cues(spoken: Iterable[Cue], *, line_width: int = LINE_WIDTH) -> tuple[Cue, ...]:
    """Cues of two lines at most, in the order of their times, none over another.

    A longer text is split, each part with a share of the time as it takes to say it. Times are
    whole milliseconds; where spoken ones overlap, the earlier ends when the later begins, as
    far as every cue can last a millisecond.

    Args:
        line_width: at least 8; a letter takes 1, a Chinese character or its like 2.
    """
    if line_width < 8:
        raise InvalidSetting(f"line_width must be at least 8, got {line_width}")
    ordered = sorted(spoken, key=lambda cue: cue.start_s)
    planned: list[Cue] = []
    free_ms = 0
    for cue, following in itertools.zip_longest(ordered, ordered[1:]):
        parts = _parts(normalize(cue.text), line_width)
        start_ms = max(free_ms, _ms(cue.start_s))
        end_ms = _ms(cue.end_s)
        if following is not None:
            end_ms = min(end_ms, _ms(following.start_s))
        end_ms = max(end_ms, start_ms + len(parts))
        ends_ms = _shared(start_ms, end_ms, [estimate_duration_s(part) for part in parts])
        for part, (begin, end) in zip(parts, itertools.pairwise([start_ms, *ends_ms]), strict=True):
            planned.append(Cue(part, normalize(cue.speaker), begin / 1000, end / 1000))
        free_ms = end_ms
    return tuple(planned)


def to_srt(spoken: Iterable[Cue], *, speakers: bool = True, line_width: int = LINE_WIDTH) -> str:
    """SubRip; `NAME: ` before the words when another speaker begins.

    SubRip has no escapes: `-->` within the words becomes an arrow.
    """
    cues = sorted(spoken, key=lambda cue: cue.start_s)
    named: list[Cue] = []
    speaker = ""
    for cue in cues:
        changes = speakers and cue.speaker and cue.speaker != speaker
        speaker = cue.speaker
        words = normalize(cue.text)
        named.append(replace(cue, text=f"{normalize(speaker)}: {words}" if changes else words))
    blocks = [
        f"{number}\n{_time(cue.start_s, ',')} --> {_time(cue.end_s, ',')}\n"
        + re.sub(r"-{2,}>", "→", cue.text)
        for number, cue in enumerate(plan_cues(named, line_width=line_width), 1)
    ]
    return "\n\n".join(blocks) + "\n" if blocks else ""


def to_vtt(spoken: Iterable[Cue], *, speakers: bool = True, line_width: int = LINE_WIDTH) -> str:
    """WebVTT; each cue in a voice span of its speaker."""
    blocks = ["WEBVTT"]
    for cue in plan_cues(spoken, line_width=line_width):
        words = html.escape(cue.text, quote=False)
        if speakers and cue.speaker:
            name = re.sub(r"--+$", "–", cue.speaker)  # no cue may hold -->
            words = f"<v {html.escape(name, quote=False)}>{words}"
        blocks.append(f"{_time(cue.start_s, '.')} --> {_time(cue.end_s, '.')}\n{words}")
    return "\n\n".join(blocks) + "\n"


def _ms(seconds: float) -> int:
    return math.floor(seconds * 1000 + 0.5)


def _time(seconds: float, mark: str) -> str:
    minutes, ms = divmod(_ms(seconds), 60_000)
    hours, minutes = divmod(minutes, 60)
    return f"{hours:02}:{minutes:02}:{ms // 1000:02}{mark}{ms % 1000:03}"


def _shared(start_ms: int, end_ms: int, shares: Sequence[float]) -> list[int]:
    """Ends of parts that share a time in proportion, each at least a millisecond."""
    total = sum(shares)
    ends: list[int] = []
    for index, said in enumerate(itertools.accumulate(shares)):
        even = start_ms + round((end_ms - start_ms) * said / total)
        first = start_ms + index + 1
        last = end_ms - (len(shares) - index - 1)
        ends.append(min(max(even, first, ends[-1] + 1 if ends else first), last))
    return ends


def _parts(text: str, width: int) -> list[str]:
    """Parts of a normalised text, each of two lines of about the same width at most."""
    words = _words(text, width)
    n_lines = len(_wrapped(words, width))
    narrow = bisect.bisect_left(
        range(1, width), True, key=lambda tried: len(_wrapped(words, tried)) <= n_lines
    )
    lines = _wrapped(words, narrow + 1)
    return ["\n".join(lines[i : i + CUE_LINES]) for i in range(0, len(lines), CUE_LINES)]


def _words(text: str, width: int) -> list[tuple[str, int, bool]]:
    """(word, width, whether a space stands before it); long words in pieces that fit a line.

    Wide characters stand alone: scripts of such have no spaces.
    """
    words: list[tuple[str, int, bool]] = []
    for word in text.split(" "):
        spaced, piece, size = True, "", 0
        for character in word:
            wide = _width(character)
            if piece and wide and (size + wide > width or _may_part(piece[-1], character)):
                words.append((piece, size, spaced))
                spaced, piece, size = False, "", 0
            piece += character
            size += wide
        words.append((piece, size, spaced))
    return words


def _may_part(character: str, following: str) -> bool:
    """Whether a line may end between two characters without a space."""
    is_wide = _width(character) == 2 or _width(following) == 2
    opens = unicodedata.category(character) in ("Ps", "Pi")
    closes = unicodedata.category(following) in ("Pe", "Pf", "Po")
    return is_wide and not opens and not closes


def _width(character: str) -> int:
    if unicodedata.category(character) in ("Mn", "Me", "Mc", "Cf"):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1


def _wrapped(words: Sequence[tuple[str, int, bool]], width: int) -> list[str]:
    """Lines filled word by word; a word wider than a line has one of its own."""
    lines: list[list[str]] = []
    used = width + 1
    for word, size, spaced in words:
        needed = size + spaced
        if used + needed > width:
            lines.append([word])
            used = size
        else:
            lines[-1].append(f" {word}" if spaced else word)
            used += needed
    return ["".join(line) for line in lines]

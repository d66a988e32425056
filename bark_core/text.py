"""Text before it is tokens: normalise it, spell its numbers, plan the segments of a long one.

A model says at most some 15 seconds in one go, so a long text becomes segments. Each is whole
sentences where that fits, else it ends at the best mark there is:

    paragraph │ sentence │ clause or line │ space │ the same within ♪ ♪ │ character

A place between a letter and its combining mark, or within [a cue], is taken only when there is
no other. Nothing is lost: `join_segments(plan_segments(text, ...)) == normalize(text)`.
"""

from __future__ import annotations

import bisect
import itertools
import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING

import sentencex

from bark_core.errors import InvalidSetting, InvalidText
from bark_core.numbers import spell_numbers

if TYPE_CHECKING:
    from bark_core.voices import Voice

__all__ = [
    "Segment",
    "estimate_duration_s",
    "join_segments",
    "normalize",
    "plan_segments",
    "spell_numbers",
]

CHARACTERS_PER_S = 15.0  # of alphabetic scripts, spaces counted: what Bark speaks on average
SMALLEST_SHARE = 0.25  # of what fits: cut no shorter than that for the sake of a better mark
PARAGRAPH_PAUSES = 2.0  # a paragraph's pause, in pauses of a sentence
CLAUSE_PAUSES = 0.5

# seconds a character takes, where it stands for more than a letter: (first, last, seconds)
_SECONDS = (
    ("0", "9", 0.25),
    ("\u0e00", "\u0eff", 1 / 12),  # Thai, Lao
    ("\u1000", "\u109f", 1 / 12),  # Burmese
    ("\u1780", "\u17ff", 1 / 12),  # Khmer
    ("\u3040", "\u30ff", 1 / 7.5),  # kana
    ("\u3400", "\u9fff", 1 / 4.5),  # Chinese characters
    ("\uac00", "\ud7a3", 1 / 5.5),  # Hangul syllables
    ("\uf900", "\ufaff", 1 / 4.5),
    ("\U00020000", "\U0003ffff", 1 / 4.5),
)
_FIRST_UNUSUAL = "\u0e00"

_CLAUSE_MARKS = ",;:—–،؛、，；：・"
_SPACED_MARKS = ",;:–،؛"  # part of a number, a time or a word unless a space follows
_CUE = re.compile(r"\[[^\[\]]{1,60}\]")
_SONG = re.compile(r"♪[^♪]+♪")
_LINE_END = re.compile("\r\n|[\n\r\x85\u2028]")
_PARAGRAPH_END = re.compile("\n\\s*\n|[\f\u2029]")


class _Cut(IntEnum):
    """What a segment may end at, the best first."""

    SENTENCE = 0
    CLAUSE = 1
    SPACE = 2
    SONG_SENTENCE = 3
    SONG_CLAUSE = 4
    SONG_SPACE = 5
    CHARACTER = 6  # leaves marks where they belong
    CUE = 7  # within [a cue], or before a closing mark
    ANYWHERE = 8  # even between a letter and its combining mark


@dataclass(frozen=True, slots=True)
class Segment:
    """One part of a text, said in one go.

    Attributes:
        text: normalised, not empty, without space at its ends.
        voice: who says it; None leaves that to the request.
        pause_s: silence after it; the last segment has none.
        space_after: whether a space stood between it and the next; False where a word or a
            script without spaces was cut. `join_segments` uses it.
    """

    text: str
    voice: Voice | None = None
    pause_s: float = 0.0
    space_after: bool = True


def normalize(text: str) -> str:
    """NFC, white space collapsed to single spaces, none at the ends, no control characters.

    Control characters can't be seen or said and are dropped, as the tokenizer would.

    Raises:
        InvalidText: it holds half a character (a lone surrogate): something visible was
            damaged on the way here, and dropping the rest of it would hide that.
    """
    if not isinstance(text, str):
        raise InvalidText(f"the text must be a string, got {type(text).__name__}")
    if not text.isascii():
        surrogate = next((c for c in text if "\ud800" <= c <= "\udfff"), None)
        if surrogate is not None:
            raise InvalidText(
                f"the text holds half a character (U+{ord(surrogate):04X}) at position "
                f"{text.index(surrogate)}; type that character, often an emoji, again"
            )
    visible = "".join(
        c for c in text if c.isprintable() or c.isspace() or unicodedata.category(c) != "Cc"
    )
    return " ".join(unicodedata.normalize("NFC", visible).split())


def estimate_duration_s(text: str) -> float:
    """About how long it takes to say `text`: 15 letters a second, fewer of denser scripts."""
    return sum(map(_seconds, text))


def plan_segments(
    text: str,
    *,
    count: Callable[[str], int],
    max_tokens: int,
    max_duration_s: float,
    language: str = "en",
    voice: Voice | None = None,
    pause_s: float = 0.25,
) -> tuple[Segment, ...]:
    """Split a text of any length into segments that a model can say.

    Args:
        text: as it was typed; a blank line ends a paragraph, and with it a segment.
        count: tokens of a text (`Tokenizer.count`).
        max_tokens: no segment has more; at least 1.
        max_duration_s: no segment is estimated to last longer. Leave room below the model's
            limit, for speech is sometimes slow: 13 s suits Bark.
        language: an ISO 639-1 code, for the ends of sentences.
        voice: of every segment.
        pause_s: silence after a segment that ends a sentence; twice that after a paragraph,
            half after a clause, none within a clause and after the last.

    Raises:
        InvalidText: nothing to say, half a character, or a single character of more than
            max_tokens tokens.
        InvalidSetting: max_tokens or max_duration_s isn't positive.
    """
    if max_tokens < 1 or not max_duration_s > 0:
        raise InvalidSetting(
            "max_tokens and max_duration_s must be positive, "
            f"got {max_tokens} and {max_duration_s:g}"
        )
    limits = _Limits(count, max_tokens, max_duration_s)
    paragraphs = _audible(_paragraphs(text), count)
    if not paragraphs:
        raise InvalidText("there is no text to say; type at least one word")
    segments: list[Segment] = []
    for paragraph in paragraphs:
        for start, end, cut in _plan_paragraph(paragraph, language, limits):
            pauses = {_Cut.SENTENCE: 1.0, _Cut.CLAUSE: CLAUSE_PAUSES}.get(cut, 0.0)
            if end == len(paragraph.text):
                pauses = PARAGRAPH_PAUSES
            piece = paragraph.text[start:end]
            spaced = piece.endswith(" ") or end == len(paragraph.text)
            segments.append(Segment(piece.rstrip(" "), voice, pauses * pause_s, spaced))
    segments[-1] = Segment(segments[-1].text, voice, 0.0, segments[-1].space_after)
    return tuple(segments)


def join_segments(segments: Iterable[Segment]) -> str:
    """The text that the segments were planned from, normalised: nothing is missing."""
    joined = "".join(s.text + (" " if s.space_after else "") for s in segments)
    return joined.removesuffix(" ")


@dataclass(frozen=True, slots=True)
class _Limits:
    count: Callable[[str], int]
    max_tokens: int
    max_seconds: float

    def fits(self, text: str, seconds: float) -> bool:
        """Whether one segment can hold this text, which takes that long to say."""
        return seconds <= self.max_seconds and self.count(text) <= self.max_tokens


@dataclass(frozen=True, slots=True)
class _Paragraph:
    text: str  # normalised
    line_ends: tuple[int, ...]  # where a line of the raw text began, but for the first


def _paragraphs(text: str) -> Iterator[_Paragraph]:
    normalize(text)  # complains of what it can't read, with its place in the whole text
    raw = _LINE_END.sub("\n", text)
    for part in _PARAGRAPH_END.split(raw):
        lines = [line for line in map(normalize, part.split("\n")) if line]
        ends = itertools.accumulate(len(line) + 1 for line in lines)
        if lines:
            yield _Paragraph(" ".join(lines), tuple(ends)[:-1])


def _audible(paragraphs: Iterable[_Paragraph], count: Callable[[str], int]) -> list[_Paragraph]:
    """Paragraphs of one token at least: others, of invisible characters, join a neighbour."""
    result: list[_Paragraph] = []
    silent: _Paragraph | None = None
    for paragraph in paragraphs:
        if silent is not None:
            paragraph = _joined(silent, paragraph)
        if count(paragraph.text) == 0:
            silent = paragraph
        else:
            silent = None
            result.append(paragraph)
    if silent is not None and result:
        result[-1] = _joined(result[-1], silent)
    return result


def _joined(first: _Paragraph, second: _Paragraph) -> _Paragraph:
    shift = len(first.text) + 1
    moved = tuple(shift + end for end in second.line_ends)
    return _Paragraph(f"{first.text} {second.text}", (*first.line_ends, shift, *moved))


def _plan_paragraph(
    paragraph: _Paragraph, language: str, limits: _Limits
) -> list[tuple[int, int, _Cut]]:
    """(start, end, what it ends at) of each segment; they cover the paragraph without gaps."""
    text = paragraph.text
    seconds = list(itertools.accumulate(map(_seconds, text), initial=0.0))
    cuts = _cuts(paragraph, language)
    sentence_ends = [place for place, cut in enumerate(cuts) if cut is _Cut.SENTENCE]
    pieces: list[tuple[int, int, _Cut]] = []
    for start, end in itertools.pairwise([0, *sentence_ends, len(text)]):
        if limits.fits(text[start:end], seconds[end] - seconds[start]):
            pieces.append((start, end, _Cut.SENTENCE))
        else:
            pieces += _split_sentence(text, start, end, cuts, seconds, limits)
    return _join_short(text, pieces, seconds, limits)


def _join_short(
    text: str, pieces: list[tuple[int, int, _Cut]], seconds: Sequence[float], limits: _Limits
) -> list[tuple[int, int, _Cut]]:
    """Join neighbours while they fit, and what has no token of its own in any case."""
    joined = pieces[:1]
    for start, end, cut in pieces[1:]:
        first, middle, _ = joined[-1]
        fits = limits.fits(text[first:end], seconds[end] - seconds[first])
        if not fits and (not limits.count(text[start:end]) or not limits.count(text[first:middle])):
            fits = limits.count(text[first:end]) <= limits.max_tokens
        if fits:
            joined[-1] = (first, end, cut)
        else:
            joined.append((start, end, cut))
    return joined


def _split_sentence(
    text: str,
    start: int,
    end: int,
    cuts: Sequence[_Cut],
    seconds: Sequence[float],
    limits: _Limits,
) -> Iterator[tuple[int, int, _Cut]]:
    """Cut text[start:end] at its best marks into pieces of about the same length that fit."""
    while start < end:
        longest = _longest_fit(text, start, end, seconds, limits)
        if longest == end:
            yield start, end, _Cut.SENTENCE
            return
        n_pieces = -(-(end - start) // (longest - start))
        even = start + (end - start) // n_pieces
        place = _best_cut(start, longest, even, cuts)
        # a word that is too long is one unknown token, its beginning is many: check again
        place = _longest_fit(text, start, place, seconds, limits)
        if text[place : place + 1] == " ":  # no piece begins with a space
            place += 1
        yield start, place, cuts[place]
        start = place


def _longest_fit(text: str, start: int, end: int, seconds: Sequence[float], limits: _Limits) -> int:
    """A place up to `end`, after `start`, up to which the text fits; about the last such."""
    place = bisect.bisect_right(seconds, seconds[start] + limits.max_seconds, start, end + 1) - 1
    place = max(place, start + 1)
    while (n_tokens := limits.count(text[start:place])) > limits.max_tokens:
        length = place - start
        if length == 1:
            raise InvalidText(
                f"the character {text[start]!r} alone has {n_tokens} tokens; "
                f"the model takes {limits.max_tokens}: leave it out"
            )
        share = min(max(limits.max_tokens / n_tokens, 0.25), 0.95)
        place = start + max(1, int(length * share))
    return place


def _best_cut(start: int, longest: int, even: int, cuts: Sequence[_Cut]) -> int:
    """The best kind of mark in start + 1..longest that isn't too near, nearest to `even`."""
    first = start + max(1, int((longest - start) * SMALLEST_SHARE))
    return min(range(first, longest + 1), key=lambda place: (cuts[place], abs(place - even)))


def _cuts(paragraph: _Paragraph, language: str) -> list[_Cut]:
    """For each place 0..len(text), what a segment that ends there would end at."""
    text = paragraph.text
    cuts = [_Cut.ANYWHERE, *itertools.starmap(_between, itertools.pairwise(text)), _Cut.SENTENCE]
    for place in range(1, len(text)):
        if text[place - 1] == " ":
            mark = text[place - 2] if place > 1 else ""
            cuts[place] = _Cut.CLAUSE if mark in _CLAUSE_MARKS else _Cut.SPACE
        elif text[place - 1] in _CLAUSE_MARKS and text[place - 1] not in _SPACED_MARKS:
            cuts[place] = _Cut.CLAUSE if cuts[place] is _Cut.CHARACTER else cuts[place]
    for place in paragraph.line_ends:
        cuts[place] = _Cut.CLAUSE
    for place in _sentence_ends(text, language):
        if cuts[place] <= _Cut.CHARACTER:
            cuts[place] = _Cut.SENTENCE
    _protect(text, cuts)
    return cuts


def _protect(text: str, cuts: list[_Cut]) -> None:
    """Make places within songs and cues worse than all places outside."""
    for match in _SONG.finditer(text):
        for place in range(match.start() + 1, match.end()):
            if cuts[place] <= _Cut.SPACE:
                cuts[place] = _Cut(cuts[place] + _Cut.SONG_SENTENCE)
    for match in _CUE.finditer(text):
        for place in range(match.start() + 1, match.end()):
            cuts[place] = max(cuts[place], _Cut.CUE)


def _sentence_ends(text: str, language: str) -> Iterator[int]:
    """Places after each sentence and the space that follows it, but the last.

    The text must be normalised: sentencex panics on a white space of several bytes.
    """
    sentences = sentencex.segment(re.split(r"[-_]", language)[0].lower(), text)
    place = 0
    for sentence in sentences:
        # a splitter that changed the text would shift every place after it
        if not text.startswith(sentence, place):
            return
        place += len(sentence)
        after_space = place + (text[place : place + 1] == " ")
        if 0 < after_space < len(text):
            yield after_space


def _between(before: str, after: str) -> _Cut:
    """What a cut between two characters of one word would be."""
    if _extends(after) or before in "\u200d\u200c" or unicodedata.combining(before) == 9:
        return _Cut.ANYWHERE  # 9: a virama, which ties two consonants together
    if _is_flag(before) and _is_flag(after):
        return _Cut.ANYWHERE
    opens = unicodedata.category(before) in ("Ps", "Pi")
    closes = unicodedata.category(after) in ("Pe", "Pf", "Po") or after == " "
    return _Cut.CUE if opens or closes else _Cut.CHARACTER


def _extends(character: str) -> bool:
    """Whether it belongs to the character before it."""
    return (
        unicodedata.category(character)[0] == "M"
        or character in "\u200c\u200d\u0e33\u0eb3\uff9e\uff9f"
        or "\U0001f3fb" <= character <= "\U0001f3ff"  # skin tones
        or "\u1160" <= character <= "\u11ff"  # conjoining vowels and finals of Hangul
        or "\ud7b0" <= character <= "\ud7ff"
        or "\U000e0020" <= character <= "\U000e007f"  # tags, as in some flags
    )


def _is_flag(character: str) -> bool:
    return "\U0001f1e6" <= character <= "\U0001f1ff"


def _seconds(character: str) -> float:
    if character >= _FIRST_UNUSUAL or character.isdigit():
        for first, last, seconds in _SECONDS:
            if first <= character <= last:
                return seconds
    return 1 / CHARACTERS_PER_S

"""Scripts out of other files: subtitles (.srt, .vtt) and a simple subset of SSML.

Both readers keep every word. What they can't use, a tag or a time, is named in `Script.notes`.
"""

from __future__ import annotations

import itertools
import re
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import PurePath
from typing import NoReturn
from xml.parsers import expat

from bark_core.errors import InvalidSetting, InvalidText
from bark_core.script import MAX_PAUSE_S, MAX_TIME_S, Line, Script, check_input, from_json, shown
from bark_core.script_text import (
    add_pauses_s,
    parse_plain,
    read_pause_s,
    split_lines,
    split_speaker,
)
from bark_core.text import normalize

__all__ = ["parse_any", "parse_srt", "parse_ssml"]

NO_WORDS = "there is no text to say; type at least one word"


def parse_any(text: str, filename: str | None = None) -> Script:
    """Read a script of any kind: by the file's ending where that says it, else by its look.

    Raises:
        InvalidText, InvalidSetting: as the reader of that kind does.
    """
    ending = PurePath(str(filename)).suffix.lower() if filename else ""
    start = check_input(text)[:2000].lstrip()
    if ending == ".json" or (start.startswith("{") and '"format"' in start):
        return from_json(text)
    if ending in (".ssml", ".xml") or start.startswith(("<speak", "<?xml")):
        return parse_ssml(text)
    if ending in (".srt", ".vtt") or _looks_timed(start):
        return parse_srt(text)
    return parse_plain(text)


# -- subtitles -------------------------------------------------------------------------------

_TIME = r"(?:([0-9]{1,4}) ?: ?)?([0-9]{1,3}) ?: ?([0-9]{1,2})(?: ?[.,] ?([0-9]{1,9}))?"
_TIMES = re.compile(rf"\s*{_TIME}\s*-{{1,3}}>\s*{_TIME}(?:\s.*)?")
_ALMOST_TIMES = re.compile(r"\s*[0-9]+\s*:[0-9:.,\s]*-{2,3}>")
_TAG = re.compile(
    r"</?(?:i|b|u|s|font|c|lang|ruby|rt|v)(?:[ .][^<>]{0,200})?/?>"
    r"|<[0-9:.]{5,16}>"
    r"|\{\\[^{}]{0,100}\}",
    re.IGNORECASE,
)
_SPEAKER_TAG = re.compile(r"<v(?:\.[^ <>]{0,80})? ([^<>]{1,200})>", re.IGNORECASE)
_DASH = re.compile(r"[-–‐] ?(?![-–0-9 ])")
_ENTITIES = {"amp": "&", "lt": "<", "gt": ">", "nbsp": " ", "lrm": "", "rlm": ""}
_ENTITY = re.compile(f"&({'|'.join(_ENTITIES)});")
_VTT_BLOCK = re.compile(r"(?:NOTE|STYLE|REGION)(?:\s|$)")


@dataclass(slots=True)
class _Cue:
    """One subtitle that is being read: when, and the rows of text."""

    number: int  # of its line of times
    start_s: float | None
    end_s: float | None
    rows: list[str] = field(default_factory=list)


@dataclass(slots=True)
class _Speech:
    """What one person says in a cue."""

    speaker: str
    rows: list[str]


def parse_srt(text: str) -> Script:
    """Read SubRip or WebVTT subtitles: a line for each cue, or each speaker in it.

    Lenient: missing numbers and hours, dots or commas, tags, blank lines within a cue, words
    before the first times. A cue's silence before the next becomes its pause, of 60 s at most.
    Speakers are `NAME:`, `<v Name>`, or unnamed after a dash; a cue without any goes on with
    the speaker before. The lines' texts hold the cues' words, but for these, tags and numbers.

    Raises:
        InvalidText: no times, times that can't be read (with the line's number), or no words.
    """
    text = check_input(text)
    is_vtt = text.lstrip().startswith("WEBVTT")
    cues = _read_cues(text, is_vtt=is_vtt)
    spoken: list[tuple[_Cue, list[_Speech]]] = []
    speaker = ""
    for cue in cues:
        speeches = _speeches(cue.rows, speaker, is_vtt=is_vtt)
        if speeches:
            speaker = speeches[-1].speaker
            spoken.append((cue, speeches))
    if not spoken:
        raise InvalidText(NO_WORDS)
    lines: list[Line] = []
    for (cue, speeches), following in itertools.zip_longest(spoken, spoken[1:]):
        pause_s = None if following is None else _silence_s(cue, following[0])
        for index, speech in enumerate(speeches):
            is_last = index == len(speeches) - 1
            lines.append(
                Line(
                    speech.speaker,
                    _joined(speech.rows),
                    pause_after_s=pause_s if is_last else None,
                    start_s=cue.start_s if index == 0 else None,
                    end_s=cue.end_s if is_last else None,
                )
            )
    return Script(tuple(lines), notes=tuple(_notes_on_times([cue for cue, _ in spoken])))


def _read_cues(text: str, *, is_vtt: bool) -> list[_Cue]:
    """The cues in the file's order; words before the first times are one without times."""
    cues = [_Cue(0, None, None)]
    numbered = False  # whether a number stands before the first times
    skipping = is_vtt  # the head of the file
    for number, row in split_lines(text):
        times = _TIMES.fullmatch(row)
        if times is not None:
            before = cues[-1].rows
            has_number = _ends_in_number(
                before, is_first=len(cues) == 1, numbered=numbered, is_vtt=is_vtt
            )
            if has_number:
                before.pop()
            numbered = numbered or (has_number and len(cues) == 1)
            cues.append(_cue(number, times.groups()))
            skipping = False
        elif not row.strip():
            skipping = False
            cues[-1].rows.append("")
        elif skipping:
            continue
        elif is_vtt and cues[-1].rows[-1:] == [""] and _VTT_BLOCK.match(row):
            skipping = True
        elif _ALMOST_TIMES.match(row):
            raise InvalidText(
                f"line {number}: can't read the times {shown(row.strip())}; write them as "
                "00:00:01,500 --> 00:00:04,000"
            )
        else:
            cues[-1].rows.append(row)
    if len(cues) == 1:
        raise InvalidText(
            "there are no times in these subtitles; each needs a line such as "
            "00:00:01,500 --> 00:00:04,000"
        )
    return cues


def _ends_in_number(rows: Sequence[str], *, is_first: bool, numbered: bool, is_vtt: bool) -> bool:
    """Whether the row before times is the number (in WebVTT: any name) of the cue they begin."""
    if not rows or not rows[-1]:
        return False
    is_apart = is_first if len(rows) == 1 else not rows[-2]
    if is_vtt and is_apart:
        return True
    return bool(re.fullmatch(r"\s*[0-9]{1,9}\s*", rows[-1])) and (is_apart or numbered)


def _cue(number: int, times: Sequence[str | None]) -> _Cue:
    start_s, end_s = _seconds(times[:4]), _seconds(times[4:])
    return _Cue(number, min(start_s, MAX_TIME_S), min(max(start_s, end_s), MAX_TIME_S))


def _seconds(parts: Sequence[str | None]) -> float:
    hours, minutes, seconds, fraction = (part or "0" for part in parts)
    thousandths = round(float(f"0.{fraction}") * 1000)
    whole = int(hours) * 3600 + int(minutes) * 60 + int(seconds)
    return (whole * 1000 + thousandths) / 1000


def _silence_s(cue: _Cue, following: _Cue) -> float | None:
    if cue.end_s is None or following.start_s is None:
        return None
    return min(max(round(following.start_s - cue.end_s, 3), 0.0), MAX_PAUSE_S)


def _notes_on_times(cues: Sequence[_Cue]) -> Iterator[str]:
    if cues[0].start_s is None:
        yield "The words before the first times became lines without times."
    for cue, following in itertools.pairwise(cues):
        if cue.start_s is None or cue.end_s is None or following.start_s is None:
            continue
        if following.start_s < cue.start_s:
            yield (f"Line {following.number}: times go back; the lines keep the order of the file.")
            return
    if any(
        cue.end_s is not None
        and following.start_s is not None
        and following.start_s - cue.end_s > MAX_PAUSE_S
        for cue, following in itertools.pairwise(cues)
    ):
        yield f"Silences of more than {MAX_PAUSE_S:g} s were cut to that."


def _speeches(rows: Sequence[str], speaker: str, *, is_vtt: bool) -> list[_Speech]:
    """What is said in a cue, and by whom; without tags and speakers' names."""
    speeches = [_Speech(speaker, [])]
    for row in rows:
        # text, name, text, name, text ...
        parts = _SPEAKER_TAG.split(row)
        for index, part in enumerate(parts):
            words = _TAG.sub("", part)
            if is_vtt:
                words = _ENTITY.sub(lambda entity: _ENTITIES[entity[1]], words)
            words = normalize(words)
            if index % 2:
                name = re.sub(r'["{}]', "", words)[:80]
                speeches.append(_Speech(name, []))
            elif words:
                speeches += _row_speeches(words, speeches)
    return [speech for speech in speeches if any(speech.rows)]


def _row_speeches(words: str, speeches: Sequence[_Speech]) -> list[_Speech]:
    """A new speech if the row begins with a dash or a name; else the row goes on with the last."""
    dash = _DASH.match(words)
    rest = words[dash.end() :] if dash else words
    named = split_speaker(rest)
    if named is not None and not named[0][0].islower():  # a sentence can go on after a colon
        return [_Speech(named[0], [named[1]])]
    if dash and rest:
        return [_Speech("", [rest])]
    speeches[-1].rows.append(words)
    return []


def _joined(rows: Sequence[str]) -> str:
    """Rows joined by spaces, but for scripts that have none."""
    text = ""
    for row in rows:
        spaced = text and row and not (_is_spaceless(text[-1]) and _is_spaceless(row[0]))
        text += f" {row}" if spaced else row
    return text


def _is_spaceless(character: str) -> bool:
    is_wide = unicodedata.east_asian_width(character) in "WF"
    return is_wide and not "\uac00" <= character <= "\ud7a3" and not character.isspace()


def _looks_timed(start: str) -> bool:
    rows = [row for _, row in split_lines(start) if row.strip()]
    return start.startswith("WEBVTT") or any(_TIMES.fullmatch(row) for row in rows[:3])


# -- SSML ------------------------------------------------------------------------------------

STRENGTHS_S = {
    "none": None,
    "x-weak": 0.1,
    "weak": 0.25,
    "medium": 0.5,
    "strong": 1.0,
    "x-strong": 1.5,
}
MAX_DEPTH = 64
_BOUNDARIES = frozenset({"speak", "p", "s", "paragraph", "sentence"})
_WITHOUT_EFFECT = frozenset({"say-as", "prosody", "phoneme", "lang", "mark", "w", "token"})
_KNOWN = "speak, p, s, break, voice, emphasis, sub"
_CUE = re.compile(r"(\[[^\[\]]{1,60}\])")


def parse_ssml(text: str) -> Script:
    """Read a simple subset of SSML: speak, p, s, break, voice, emphasis, sub.

    Paragraphs, sentences and breaks end a line. A voice's name is a speaker with that voice.
    Emphasised words become CAPITALS, an alias takes the place of its words. Other tags have no
    effect and get a note; their words are kept. Document types and entities are refused.

    Raises:
        InvalidText: not well-formed (with the line's number), a document type, too deep, or
            without words.
        InvalidSetting: a break that can't be.
    """
    text = check_input(text)
    content = text.lstrip()  # nothing may stand before an XML declaration
    reader = _SsmlReader(text[: len(text) - len(content)].count("\n"))
    try:
        reader.parser.Parse(content.encode("utf-8"), True)
    except expat.ExpatError as error:
        raise InvalidText(
            f"line {reader.number}: this SSML can't be read: {expat.ErrorString(error.code)}; "
            "it needs one <speak>...</speak>, closed tags, and &amp; for &"
        ) from error
    return reader.script()


@dataclass(slots=True)
class _SsmlLine:
    speaker: str
    text: str
    before_s: float | None
    after_s: float | None = None


class _SsmlReader:
    """Follows a parser's events; builds no tree, so depth and size cost nothing."""

    def __init__(self, n_lines_before: int) -> None:
        self._n_lines_before = n_lines_before
        self.parser = expat.ParserCreate("utf-8")
        self.parser.buffer_text = True
        self.parser.StartElementHandler = self._start
        self.parser.EndElementHandler = self._end
        self.parser.CharacterDataHandler = self._words_found
        self.parser.StartDoctypeDeclHandler = self._refuse_doctype
        self.parser.EntityDeclHandler = self._refuse_doctype
        self._lines: list[_SsmlLine] = []
        self._words: list[tuple[str, bool]] = []  # text, whether it is emphasised
        self._before_s: float | None = None
        self._open: list[str] = []
        self._speakers = [""]
        self._emphasis = [False]
        self._alias_depth: int | None = None  # of the <sub> whose words aren't spoken
        self._notes: dict[str, str] = {}  # tag to note

    def script(self) -> Script:
        self._flush()
        if not self._lines:
            raise InvalidText(NO_WORDS)
        voices = {line.speaker: line.speaker or None for line in self._lines}
        lines = (Line(x.speaker, x.text, x.before_s, x.after_s) for x in self._lines)
        return Script(tuple(lines), voices, notes=tuple(self._notes.values()))

    @property
    def number(self) -> int:
        """The line of the file that is being read, from 1."""
        return self._n_lines_before + self.parser.CurrentLineNumber

    def _refuse_doctype(self, *_: object) -> NoReturn:
        raise InvalidText(
            f"line {self.number}: a document type or an entity isn't read, for it can make a "
            "small file endless; delete <!DOCTYPE ...> and <!ENTITY ...>"
        )

    def _start(self, name: str, attributes: dict[str, str]) -> None:
        tag = name.rpartition(":")[2].lower()
        self._open.append(tag)
        if len(self._open) > MAX_DEPTH:
            raise InvalidText(
                f"line {self.number}: tags within tags, more than {MAX_DEPTH} deep; "
                "close some of them first"
            )
        if self._alias_depth is not None:
            return
        if tag in _BOUNDARIES:
            self._flush()
        elif tag == "break":
            self._break(attributes)
        elif tag == "voice":
            self._flush()
            self._speakers.append(self._speaker(attributes))
        elif tag == "emphasis":
            level = attributes.get("level", "moderate").strip().lower()
            self._emphasis.append(level not in ("none", "reduced"))
        elif tag == "sub" and "alias" in attributes:
            self._words_found(attributes["alias"])
            self._alias_depth = len(self._open)
        elif tag in _WITHOUT_EFFECT:
            self._note(tag, f"<{tag}> has no effect here; its words are kept.")
        else:
            self._note(tag, f"<{tag[:40]}> isn't known and its words are kept; known: {_KNOWN}.")

    def _end(self, name: str) -> None:
        tag = self._open.pop()
        if self._alias_depth is not None:
            if len(self._open) < self._alias_depth:
                self._alias_depth = None
            return
        if tag in _BOUNDARIES:
            self._flush()
        elif tag == "voice":
            self._flush()
            self._speakers.pop()
        elif tag == "emphasis":
            self._emphasis.pop()

    def _words_found(self, words: str) -> None:
        if self._alias_depth is None:
            self._words.append((words, self._emphasis[-1]))

    def _flush(self) -> None:
        """End the line that is being read, if it has words."""
        parts = itertools.groupby(self._words, key=lambda part: part[1])
        text = normalize(
            "".join(
                _capitals("".join(words for words, _ in run))
                if emphasised
                else "".join(words for words, _ in run)
                for emphasised, run in parts
            )
        )
        self._words = []
        if text:
            self._lines.append(_SsmlLine(self._speakers[-1], text, self._before_s))
            self._before_s = None

    def _break(self, attributes: dict[str, str]) -> None:
        strength = attributes.get("strength", "medium").strip().lower()
        if strength not in STRENGTHS_S:
            raise InvalidSetting(
                f"line {self.number}: a break of strength {shown(strength)}; allowed are "
                f"{', '.join(STRENGTHS_S)}, or a time such as 500ms"
            )
        seconds = STRENGTHS_S[strength]
        if "time" in attributes:
            seconds = read_pause_s(attributes["time"], self.number)
        if seconds is None:  # strength none: no break where one would be expected
            return
        self._flush()
        if self._lines:
            last = self._lines[-1]
            last.after_s = add_pauses_s(last.after_s, seconds, self.number)
        else:
            self._before_s = add_pauses_s(self._before_s, seconds, self.number)

    def _speaker(self, attributes: dict[str, str]) -> str:
        name = normalize(attributes.get("name", ""))
        if not name:
            self._note("voice", "a <voice> without a name has no effect; its words are kept.")
            return self._speakers[-1]
        if len(name) > 80 or re.search(r'["{}]', name):
            raise InvalidText(
                f"line {self.number}: the voice's name {shown(name)} is too long or holds "
                '" { or }; it may have 80 other characters'
            )
        return name

    def _note(self, tag: str, note: str) -> None:
        if len(self._notes) < 50:
            self._notes.setdefault(tag, f"Line {self.number}: {note}")


def _capitals(words: str) -> str:
    """In capitals, but for [cues]."""
    parts = _CUE.split(words)
    return "".join(part if index % 2 else part.upper() for index, part in enumerate(parts))

"""A script as plain text: paragraphs, or lines of `Name: words`.

    Anna: Have you heard? [laughs]
    Bob: {temperature=0.5 seed=7} Heard what? (pause 500ms) Tell me!

docs/scripts.md describes the syntax. Every character is spoken but for the markup: names,
`(pause ...)`, `{settings}`, and the backslash that turns those into words. There are no comments.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from bark_core.errors import InvalidSetting, InvalidText
from bark_core.request import MAX_SEED, MAX_TEMPERATURE
from bark_core.script import MAX_PAUSE_S, Line, LineSettings, Script, check_input, check_label
from bark_core.text import normalize

__all__ = ["is_name", "parse_plain", "split_speaker", "to_text"]

MAX_NAME_CHARACTERS = 40  # before a colon; other names are written {speaker="..."}
WORDLESS_PAUSE_S = 1.0  # of a bare (pause)

# each alternative is bounded, so that a text full of beginnings costs no more than another
_MARKUP = re.compile(
    r"\\(?P<escaped>[\\({:])"
    r"|\( ?(?P<pause>pause):? ?(?P<length>[-+]?[.,]?[0-9][^()]{0,40})?\)"
    r"|\{ ?(?P<settings>[A-Za-z_]{1,40} ?=[^{}]{0,300})\}",
    re.IGNORECASE,
)
_LENGTH = re.compile(
    r"([-+]?(?:[0-9]+(?:[.,][0-9]*)?|[.,][0-9]+)) ?(ms|milliseconds?|s|secs?|seconds?)? ?",
    re.IGNORECASE,
)
_SETTING = re.compile(r'([A-Za-z_]+) ?= ?(?:"([^"]*)"|([^\s,;"]+)) ?[,;]? ?')
_NAME = re.compile(
    r"(?P<name>[^:：{}\\\"()\[\]]{0,44}?) ?"
    r"(?:\{ ?(?P<settings>[A-Za-z_]{1,40} ?=[^{}]{0,300})\} ?)?(?P<colon>:(?= |$)|：) ?"
)
_NOT_NAMES = frozenset({"file", "ftp", "http", "https", "mailto", "tel", "www"})
_NAME_MARKS = " .-'’_"
_TEMPERATURES = ("temperature", "semantic", "coarse", "fine")
_KEYS = (*_TEMPERATURES, "seed", "voice", "speaker")
_LINE_END = re.compile("(\r\n|[\n\r\x85\u2028\f\u2029])")
_PARAGRAPH_ENDS = "\f\u2029"

_Item = tuple[str, str]  # its kind ("text", "pause", "settings"), what it says


def split_lines(text: str) -> Iterator[tuple[int, str]]:
    """(number from 1, line); a form feed gives an empty line of the same number."""
    parts = _LINE_END.split(text)
    for number, index in enumerate(range(0, len(parts), 2), 1):
        yield number, parts[index]
        if index + 1 < len(parts) and parts[index + 1] in _PARAGRAPH_ENDS:
            yield number, ""


def is_name(name: str) -> bool:
    """Whether words before a colon look like a speaker's name rather than a sentence's start.

    Up to 40 letters, digits, spaces and . - ' _, four words; of three or four, none but short
    ones ("of", "the") begin with a small letter.
    """
    if not 0 < len(name) <= MAX_NAME_CHARACTERS or name.casefold() in _NOT_NAMES:
        return False
    if not name[0].isalnum() or not any(c.isalpha() for c in name):
        return False
    if not all(c.isalnum() or c in _NAME_MARKS or unicodedata.category(c)[0] == "M" for c in name):
        return False
    words = name.split()
    small = [word for word in words if word[0].islower() and len(word) > 3]
    return len(words) <= 2 or (len(words) <= 4 and not small)


def _match_name(line: str, place: int = 0) -> re.Match[str] | None:
    """A name and its colon, or the colon and space that stand for nobody."""
    match = _NAME.match(line, place)
    if match is None or (match["name"] and not is_name(match["name"])):
        return None
    return match if match["name"] or match["colon"] == ":" else None


def split_speaker(line: str) -> tuple[str, str] | None:
    """(name, words) of a normalised line such as `Anna: Hello`; None if it begins otherwise."""
    match = _match_name(line)
    if match is None or match["settings"] or not match["name"]:
        return None
    return match["name"], line[match.end() :]


def parse_plain(text: str) -> Script:
    """Read paragraphs, or lines of `Name: words`; see docs/scripts.md for all of it.

    The lines' texts, joined by spaces, are the normalised text without its markup.

    Raises:
        InvalidText: no words, or too many.
        InvalidSetting: a pause or setting that can't be; the message says in which line.
    """
    reader = _PlainReader()
    for number, line in split_lines(check_input(text)):
        reader.read(number, normalize(line))
    return reader.finish()


def read_pause_s(length: str, number: int) -> float:
    """Seconds of "0.5", "0,5 s" or "500ms"; the number is that of the line, for the error."""
    match = _LENGTH.fullmatch(length.strip())
    seconds = float(match[1].replace(",", ".")) if match else math.nan
    if match and (match[2] or "s").lower().startswith("m"):
        seconds /= 1000
    if not 0 <= seconds <= MAX_PAUSE_S:
        raise InvalidSetting(
            f"line {number}: a pause of {length.strip()!r}; write seconds or milliseconds within "
            f"0..{MAX_PAUSE_S:g} s, such as 0.5 or 500ms"
        )
    return seconds


def add_pauses_s(first: float | None, second: float, number: int) -> float:
    """The sum of two pauses in a row."""
    total = round((first or 0.0) + second, 6)
    if total > MAX_PAUSE_S:
        raise InvalidSetting(
            f"line {number}: pauses of {total:g} s in a row; at most {MAX_PAUSE_S:g} s are allowed"
        )
    return total


@dataclass(slots=True)
class _Draft:
    """A line that is being read."""

    text: str
    before_s: float | None = None
    after_s: float | None = None


class _PlainReader:
    """Collects blocks: words that go on over line ends, with one speaker and one set of settings.

    A pause divides a block into lines; a name, an empty line, settings at a line's start or at
    its end divide two blocks.
    """

    def __init__(self) -> None:
        self._lines: list[Line] = []
        self._speaker = ""
        self._block: list[_Draft] = []
        self._words: list[str] = []
        self._settings: dict[str, str | float | int] = {}
        self._before_s: float | None = None
        self._number = 0

    def read(self, number: int, line: str) -> None:
        """One line of the file, normalised."""
        if not line:
            self._end_block()
            return
        self._number = number
        place = self._read_head(line)
        name = _match_name(line, place)
        speaker = self._settings.get("speaker", self._speaker)
        in_prose = (self._words or self._block) and not speaker
        if name is not None and not (in_prose and name["name"][:1].islower()):
            self._end_block()
            self._speaker = name["name"]
            if name["settings"]:
                self._set(name["settings"])
            place = name.end()
        self._read_body(_items(line, place))

    def finish(self) -> Script:
        self._end_block()
        if not self._lines:
            raise InvalidText("there is no text to say; type at least one word")
        if self._settings:
            raise InvalidSetting(
                f"line {self._number}: settings {{{', '.join(self._settings)}}} without words "
                "after them; put them at the start or the end of the line they are for"
            )
        if self._before_s is not None:
            last = self._lines[-1]
            after_s = add_pauses_s(last.pause_after_s, self._before_s, self._number)
            self._lines[-1] = replace(last, pause_after_s=after_s)
        return Script(tuple(self._lines))

    def _read_head(self, line: str) -> int:
        """Pauses and settings before a name; gives the place where they end."""
        place = 0
        while (match := _MARKUP.match(line, place)) and match["escaped"] is None:
            self._read_markup(_item(match))
            place = match.end() + (line[match.end() : match.end() + 1] == " ")
        return place

    def _read_markup(self, item: _Item) -> None:
        """A pause or settings before any word of this line of the file."""
        kind, value = item
        if kind == "settings":
            self._end_block()
            self._set(value)
        else:
            self._flush()
            self._before_s = add_pauses_s(self._before_s, self._pause_s(value), self._number)

    def _read_body(self, items: Sequence[_Item]) -> None:
        worded = [place for place, (kind, _) in enumerate(items) if kind == "text"]
        first, last = (worded[0], worded[-1]) if worded else (len(items), len(items))
        for place, (kind, value) in enumerate(items):
            if place < first:
                self._read_markup((kind, value))
            elif kind == "text":
                self._words.append(value)
            elif kind == "pause":
                self._flush()
                draft = self._block[-1]
                draft.after_s = add_pauses_s(draft.after_s, self._pause_s(value), self._number)
            elif place < last:
                raise InvalidSetting(
                    f"line {self._number}: settings {{{value}}} between words; put them at the "
                    "line's start or end, or write \\{ if they are to be spoken"
                )
            else:
                self._set(value)
        if any(kind == "settings" for kind, _ in items[last:]):
            self._end_block()

    def _pause_s(self, length: str) -> float:
        return read_pause_s(length, self._number) if length else WORDLESS_PAUSE_S

    def _set(self, raw: str) -> None:
        for key, value in _read_settings(raw, self._number):
            if key in self._settings:
                raise InvalidSetting(f"line {self._number}: {key} is given twice; keep one of them")
            self._settings[key] = value

    def _flush(self) -> None:
        text = " ".join(self._words)
        self._words = []
        if text:
            self._block.append(_Draft(text, self._before_s))
            self._before_s = None

    def _end_block(self) -> None:
        self._flush()
        if not self._block:  # settings without words wait for the next
            return
        self._speaker = str(self._settings.get("speaker", self._speaker))
        voice = self._settings.get("voice")
        for draft in self._block:
            self._lines.append(
                Line(
                    self._speaker,
                    draft.text,
                    draft.before_s,
                    draft.after_s,
                    _line_settings(self._settings),
                    str(voice) if voice is not None else None,
                )
            )
        self._block, self._settings = [], {}


def _item(match: re.Match[str]) -> _Item:
    if match["settings"] is not None:
        return "settings", match["settings"]
    return "pause", match["length"] or ""


def _items(line: str, place: int) -> list[_Item]:
    """What a normalised line consists of; words that only spaces separate from markup lose them."""
    items: list[_Item] = []
    words: list[str] = []

    def end_words() -> None:
        text = "".join(words).strip(" ")
        words.clear()
        if text:
            items.append(("text", text))

    for match in _MARKUP.finditer(line, place):
        words.append(line[place : match.start()])
        place = match.end()
        if match["escaped"] is not None:
            words.append(match["escaped"])
        else:
            end_words()
            items.append(_item(match))
    words.append(line[place:])
    end_words()
    return items


def _read_settings(raw: str, number: int) -> Iterator[tuple[str, str | float | int]]:
    """(key, value) of each setting in `temperature=0.5 seed=7`, checked."""
    place = 0
    while place < len(raw):
        match = _SETTING.match(raw, place)
        key = match[1].lower() if match else raw[place:].strip()
        if match is None or key not in _KEYS:
            raise InvalidSetting(
                f"line {number}: can't read the setting {key!r} in {{{raw}}}; allowed are "
                f"{', '.join(f'{known}=...' for known in _KEYS)}; \\{{ is a brace to be spoken"
            )
        value = match[2] if match[2] is not None else match[3]
        yield key, _setting_value(key, value, number)
        place = match.end()


def _setting_value(key: str, value: str, number: int) -> str | float | int:
    if key in ("voice", "speaker"):
        try:
            name = check_label(key, value)
        except InvalidText as error:
            raise InvalidSetting(f"line {number}: {error}") from error
        if not name and key == "voice":
            raise InvalidSetting(f'line {number}: voice is ""; name one, or leave the setting out')
        return name
    if key == "seed":
        seed = int(value) if re.fullmatch(r"[0-9]{1,19}", value) else -1
        if not 0 <= seed <= MAX_SEED:
            raise InvalidSetting(
                f"line {number}: seed must be a whole number within 0..{MAX_SEED}, got {value!r}"
            )
        return seed
    number_like = re.fullmatch(r"[-+]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:e[-+]?[0-9]+)?", value, re.I)
    temperature = float(value) if number_like else math.nan
    if not 0 <= temperature <= MAX_TEMPERATURE:
        raise InvalidSetting(
            f"line {number}: {key} must be a number within 0..{MAX_TEMPERATURE:g}, got {value!r}"
        )
    return temperature


def _line_settings(settings: Mapping[str, str | float | int]) -> LineSettings:
    """`temperature` is that of the first two stages, unless they have one of their own."""

    def temperature(*keys: str) -> float | None:
        found = [settings[key] for key in keys if key in settings]
        return float(found[0]) if found else None

    seed = settings.get("seed")
    return LineSettings(
        semantic_temperature=temperature("semantic", "temperature"),
        coarse_temperature=temperature("coarse", "temperature"),
        fine_temperature=temperature("fine"),
        seed=int(seed) if seed is not None else None,
    )


def to_text(script: Script) -> str:
    """The script as plain text, for `parse_plain`: who, words, pauses, settings of lines.

    Title, voices of speakers, background, times and locks are in `to_json` only.
    """
    written: list[str] = []
    before = ""
    for line in script.lines:
        head = _written_speaker(line, before)
        settings = _written_settings(line)
        pauses = (_written_pause(line.pause_before_s), _written_pause(line.pause_after_s))
        parts = (head, settings, pauses[0], _escaped(line.text), pauses[1])
        written.append(" ".join(filter(None, parts)))
        if not head or not before:
            written[-1] = f"\n{written[-1]}"
        before = line.speaker
    return "\n".join(written).removeprefix("\n") + "\n"


def _written_speaker(line: Line, before: str) -> str:
    if is_name(line.speaker):
        return f"{line.speaker}:"
    if line.speaker:
        return f'{{speaker="{line.speaker}"}}:'
    return ":" if before or _match_name(line.text) else ""


def _written_settings(line: Line) -> str:
    own = line.settings
    temperatures = {
        "semantic": own.semantic_temperature,
        "coarse": own.coarse_temperature,
        "fine": own.fine_temperature,
    }
    if own.semantic_temperature == own.coarse_temperature:
        del temperatures["semantic"], temperatures["coarse"]
        temperatures = {"temperature": own.semantic_temperature, **temperatures}
    parts = [f"{key}={value!r}" for key, value in temperatures.items() if value is not None]
    if own.seed is not None:
        parts.append(f"seed={own.seed}")
    if line.voice is not None:
        parts.append(f'voice="{line.voice}"')
    return f"{{{' '.join(parts)}}}" if parts else ""


def _written_pause(seconds: float | None) -> str:
    return "" if seconds is None else f"(pause {_decimal(seconds)})"


def _decimal(value: float) -> str:
    return f"{value:.6f}".rstrip("0").rstrip(".")


def _escaped(text: str) -> str:
    text = text.replace("\\", "\\\\").replace("{", "\\{")
    return re.sub(r"\((?= ?pause)", r"\\(", text, flags=re.IGNORECASE)

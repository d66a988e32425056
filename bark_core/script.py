"""What a script is: who says which words, in which voice, with which pauses; kept as JSON.

script_text.py reads and writes it as plain text, script_import.py reads subtitles and SSML.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from types import MappingProxyType

from bark_core.errors import BarkError, InvalidRequest, InvalidSetting, InvalidText
from bark_core.request import MAX_SEED, MAX_TEMPERATURE, MAX_TEXT_CHARACTERS, Settings
from bark_core.text import Segment, normalize

__all__ = [
    "Background",
    "Line",
    "LineSettings",
    "Script",
    "from_json",
    "to_json",
]

MAX_INPUT_CHARACTERS = 1_000_000  # of a file, markup and all
MAX_JSON_CHARACTERS = 20_000_000  # the longest script, every line one letter
MAX_PAUSE_S = 60.0
MAX_TIME_S = 1_000_000.0
MAX_LABEL_CHARACTERS = 80  # of the name of a speaker or a voice
LINE_PAUSE_S = 0.5  # between two lines that don't say otherwise

_FORMAT = "bark-studio-script"
_VERSION = 1

Plan = Callable[[str, "str | None"], Sequence[Segment]]


@dataclass(frozen=True, slots=True, kw_only=True)
class LineSettings:
    """What one line has of its own; None leaves it to the script's settings."""

    semantic_temperature: float | None = None  # 0..5, as the two below
    coarse_temperature: float | None = None
    fine_temperature: float | None = None
    seed: int | None = None  # 0..2**63 - 1

    def __post_init__(self) -> None:
        for stage in ("semantic", "coarse", "fine"):
            value = getattr(self, f"{stage}_temperature")
            if value is not None:
                _number(f"{stage} temperature", value, 0.0, MAX_TEMPERATURE)
        if self.seed is not None:
            if isinstance(self.seed, bool) or not isinstance(self.seed, int):
                raise InvalidSetting(f"seed must be a whole number, got {shown(self.seed)}")
            if not 0 <= self.seed <= MAX_SEED:
                raise InvalidSetting(f"seed must be within 0..{MAX_SEED}, got {shown(self.seed)}")

    def apply(self, settings: Settings) -> Settings:
        """The settings of the three stages, with this line's temperatures where it has any."""
        semantic, coarse, fine = settings.semantic, settings.coarse, settings.fine
        if self.semantic_temperature is not None:
            semantic = replace(semantic, temperature=self.semantic_temperature)
        if self.coarse_temperature is not None:
            coarse = replace(coarse, temperature=self.coarse_temperature)
        if self.fine_temperature is not None:
            fine = replace(fine, temperature=self.fine_temperature)
        return Settings(semantic=semantic, coarse=coarse, fine=fine)


@dataclass(frozen=True, slots=True)
class Line:
    """Words that one speaker says.

    Attributes:
        speaker: a name of up to 80 characters; "" is nobody in particular.
        text: normalised when the line is made; never empty.
        pause_before_s, pause_after_s: silence, 0..60 s; None leaves it to the script. Between
            two lines the given ones add up.
        settings: of this line only.
        voice: name of a voice for this line only; None takes that of the speaker.
        start_s, end_s: when subtitles say it is spoken.
        locked: not to be generated again.

    Raises:
        InvalidText, InvalidSetting: when the line is made.
    """

    speaker: str
    text: str
    pause_before_s: float | None = None
    pause_after_s: float | None = None
    settings: LineSettings = field(default_factory=LineSettings)
    voice: str | None = None
    start_s: float | None = None
    end_s: float | None = None
    locked: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "text", normalize(self.text))
        object.__setattr__(self, "speaker", check_label("speaker", self.speaker))
        if not self.text:
            raise InvalidText("a line of a script has no words; type at least one, or delete it")
        if self.voice is not None:
            object.__setattr__(self, "voice", check_label("voice", self.voice))
        for name, top in (
            ("pause_before_s", MAX_PAUSE_S),
            ("pause_after_s", MAX_PAUSE_S),
            ("start_s", MAX_TIME_S),
            ("end_s", MAX_TIME_S),
        ):
            if getattr(self, name) is not None:
                _number(name, getattr(self, name), 0.0, top)
        if not isinstance(self.settings, LineSettings):
            raise InvalidSetting(f"settings must be LineSettings, got {shown(self.settings)}")
        if not isinstance(self.locked, bool):
            raise InvalidSetting(f"locked must be true or false, got {shown(self.locked)}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Background:
    """One layer under the speech: a prompt to generate it from, or a sound file."""

    prompt: str | None = None
    file: str | None = None
    level_db: float = -18.0  # against the speech, -60..0
    fade_in_s: float = 1.0  # 0..60
    fade_out_s: float = 1.0
    duck_db: float = 0.0  # turned down by so much while somebody speaks, 0..40

    def __post_init__(self) -> None:
        if (self.prompt is None) == (self.file is None):
            raise InvalidSetting("a background has either a prompt or a file; give one of the two")
        if not normalize(self.prompt if self.prompt is not None else self.file or ""):
            raise InvalidText("the background's prompt or file is empty; type it, or have none")
        _number("level_db", self.level_db, -60.0, 0.0)
        _number("fade_in_s", self.fade_in_s, 0.0, MAX_PAUSE_S)
        _number("fade_out_s", self.fade_out_s, 0.0, MAX_PAUSE_S)
        _number("duck_db", self.duck_db, 0.0, 40.0)


@dataclass(frozen=True, slots=True)
class Script:
    """Lines in the order they are spoken, and a voice for each speaker.

    Attributes:
        lines: of 100,000 characters together at most.
        voices: speaker to name of a voice, None rolls one; speakers that were left out are
            added with None.
        title: "" or one line.
        background: under the speech, or None.
        notes: what the reading of a file left out or changed; not spoken.

    Raises:
        InvalidText, InvalidSetting: when the script is made.
    """

    lines: tuple[Line, ...]
    voices: Mapping[str, str | None] = field(default_factory=dict)
    title: str = ""
    background: Background | None = None
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not all(isinstance(line, Line) for line in self.lines):
            raise InvalidText("a script consists of lines only")
        n_characters = sum(len(line.text) for line in self.lines)
        if n_characters > MAX_TEXT_CHARACTERS:
            raise InvalidText(
                f"the script has {n_characters:,} characters to say; at most "
                f"{MAX_TEXT_CHARACTERS:,} are possible: split it into parts"
            )
        voices = dict.fromkeys((line.speaker for line in self.lines), None) | {
            check_label("speaker", speaker): None if voice is None else check_label("voice", voice)
            for speaker, voice in self.voices.items()
        }
        object.__setattr__(self, "lines", tuple(self.lines))
        object.__setattr__(self, "voices", MappingProxyType(voices))
        object.__setattr__(self, "title", normalize(self.title))
        object.__setattr__(self, "notes", tuple(map(normalize, self.notes)))

    @property
    def speakers(self) -> tuple[str, ...]:
        """Everyone who says something, in the order of their first words."""
        return tuple(dict.fromkeys(line.speaker for line in self.lines))

    @property
    def lead_in_s(self) -> float:
        """Silence before the first line; no segment can carry it."""
        return (self.lines[0].pause_before_s or 0.0) if self.lines else 0.0

    def voice_of(self, line: Line) -> str | None:
        """The name of the voice that says a line; None rolls one."""
        return line.voice if line.voice is not None else self.voices.get(line.speaker)

    def segments(
        self, *, plan: Plan, line_pause_s: float = LINE_PAUSE_S
    ) -> list[tuple[int, Segment]]:
        """Every line's segments, in order, each with the index of its line.

        Args:
            plan: from words and the name of a voice (or None) to segments that fit the model:
                `lambda text, voice: plan_segments(text, count=..., max_tokens=..., ...)`, or a
                cascade's own `plan`. Each line begins a segment.
            line_pause_s: silence between two lines that name no pause of their own.

        Raises:
            InvalidText: a line can't be planned; the message names it.
        """
        planned: list[tuple[int, Segment]] = []
        for index, line in enumerate(self.lines):
            try:
                *parts, last = plan(line.text, self.voice_of(line))
            except InvalidText as error:
                shown = line.text if len(line.text) <= 40 else f"{line.text[:39]}…"
                raise InvalidText(f"line {index + 1} ({shown!r}): {error}") from error
            planned += [(index, part) for part in parts]
            planned.append((index, replace(last, pause_s=self._gap_s(index, line_pause_s))))
        return planned

    def _gap_s(self, index: int, line_pause_s: float) -> float:
        """Silence after a line: what it and the next one ask for, else the usual."""
        after = self.lines[index].pause_after_s
        if index + 1 == len(self.lines):
            return after or 0.0
        before = self.lines[index + 1].pause_before_s
        if after is None and before is None:
            return line_pause_s
        return (after or 0.0) + (before or 0.0)


def check_input(text: str, limit: int = MAX_INPUT_CHARACTERS) -> str:
    """The text without a byte order mark; complains if it isn't text, or too much of it."""
    if not isinstance(text, str):
        raise InvalidText(f"a script must be text, got {type(text).__name__}")
    if len(text) > limit:
        raise InvalidText(
            f"the file has {len(text):,} characters; at most {limit:,} are read: split it"
        )
    normalize(text)  # complains of half a character, with its place
    return text.removeprefix("\ufeff")


def shown(value: object) -> str:
    """A value for an error's message: short, and of a container its type only."""
    if isinstance(value, (str, int, float, type(None))):
        text = repr(value)
        return text if len(text) <= 60 else f"{text[:59]}…"
    return type(value).__name__


def _number(what: str, value: object, low: float, high: float) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise InvalidSetting(f"{what} must be a number, got {shown(value)}")
    if not low <= value <= high or not math.isfinite(value):
        raise InvalidSetting(f"{what} must be within {low:g}..{high:g}, got {shown(value)}")


def check_label(what: str, value: str) -> str:
    """A name, normalised; without what the written form needs for itself."""
    name = normalize(value)
    if len(name) > MAX_LABEL_CHARACTERS or any(c in '"{}' for c in name):
        raise InvalidText(
            f"the name of a {what} may have {MAX_LABEL_CHARACTERS} characters and none of "
            f'" {{ }}, got {name[:100]!r}'
        )
    return name


def to_json(script: Script) -> str:
    """The whole script as JSON, for `from_json`; what a line leaves open isn't written."""
    content: dict[str, object] = {"format": _FORMAT, "version": _VERSION}
    if script.title:
        content["title"] = script.title
    content["voices"] = dict(script.voices)
    content["lines"] = [_line_as_json(line) for line in script.lines]
    if script.background is not None:
        content["background"] = _changed(script.background, Background(prompt="-"), keep=())
    if script.notes:
        content["notes"] = list(script.notes)
    return json.dumps(content, ensure_ascii=False, indent=1, allow_nan=False) + "\n"


def _line_as_json(line: Line) -> dict[str, object]:
    content = _changed(line, Line("", "-"), keep=("speaker", "text"))
    if "settings" in content:
        content["settings"] = _changed(line.settings, LineSettings(), keep=())
    return content


def _changed(
    value: Line | LineSettings | Background,
    default: Line | LineSettings | Background,
    *,
    keep: Iterable[str],
) -> dict[str, object]:
    """The fields that differ from the defaults, and those to keep."""
    content = {item.name: getattr(value, item.name) for item in fields(value)}
    return {
        name: item
        for name, item in content.items()
        if name in keep or item != getattr(default, name)
    }


def from_json(text: str) -> Script:
    """Read what `to_json` wrote; anything unknown in it is refused.

    Raises:
        InvalidText: not JSON, not a script, of a newer version, or with unknown fields.
        InvalidSetting: a value that can't be; the message says in which line.
    """
    content = _fields(
        "the script",
        _load_json(check_input(text, MAX_JSON_CHARACTERS)),
        ("format", "version", "title", "voices", "lines", "background", "notes"),
    )
    if content.get("format") != _FORMAT:
        raise InvalidText(f'this JSON isn\'t a script: it lacks "format": "{_FORMAT}"')
    version = content.get("version")
    if version != _VERSION or isinstance(version, bool):
        raise InvalidText(
            f"the script has version {shown(version)}; this program reads version {_VERSION}: "
            "update it if the script is newer"
        )
    lines = _list("lines", content.get("lines"))
    notes = _list("notes", content.get("notes", []))
    background = content.get("background")
    names = tuple(item.name for item in fields(Background))
    return Script(
        tuple(_line_from_json(number, line) for number, line in enumerate(lines, 1)),
        _voices(content.get("voices", {})),
        _string("title", content.get("title", "")),
        None if background is None else Background(**_fields("the background", background, names)),  # type: ignore[arg-type]
        tuple(_string("a note", note) for note in notes),
    )


def _load_json(text: str) -> object:
    def refuse(constant: str) -> object:
        raise InvalidSetting(f"the script holds the number {constant}; numbers must be finite")

    def unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
        content = dict(pairs)
        if len(content) != len(pairs):
            raise InvalidText("the script names a field twice; keep one of them")
        return content

    try:
        result: object = json.loads(text, object_pairs_hook=unique, parse_constant=refuse)
    except BarkError:
        raise
    except (ValueError, RecursionError) as error:
        raise InvalidText(f"this isn't JSON that can be read: {error}") from error
    return result


def _line_from_json(number: int, raw: object) -> Line:
    where = f"line {number} of the script"
    try:
        content = _fields(where, raw, tuple(item.name for item in fields(Line)))
        if not {"speaker", "text"} <= content.keys():
            raise InvalidText('it needs a "speaker" and a "text"')
        if "settings" in content:
            names = tuple(item.name for item in fields(LineSettings))
            own = _fields("its settings", content["settings"], names)
            content["settings"] = LineSettings(**own)  # type: ignore[arg-type]
        return Line(**content)  # type: ignore[arg-type]
    except InvalidRequest as error:
        raise type(error)(f"{where}: {error}") from error


def _fields(what: str, raw: object, known: Sequence[str]) -> dict[str, object]:
    if not isinstance(raw, dict):
        raise InvalidText(f"{what} must be an object {{...}}, got {shown(raw)}")
    unknown = [key for key in raw if key not in known]
    if unknown:
        raise InvalidText(
            f"{what} has the unknown field {unknown[0][:60]!r}; known are {', '.join(known)}"
        )
    return dict(raw)


def _list(what: str, raw: object) -> list[object]:
    if not isinstance(raw, list):
        raise InvalidText(f"{what} of the script must be a list [...], got {shown(raw)}")
    return raw


def _string(what: str, raw: object) -> str:
    if not isinstance(raw, str):
        raise InvalidText(f"{what} of the script must be text, got {shown(raw)}")
    return raw


def _voices(raw: object) -> dict[str, str | None]:
    if not isinstance(raw, dict):
        raise InvalidText(f"voices of the script must be an object {{...}}, got {shown(raw)}")
    return {
        speaker: None if voice is None else _string("a voice", voice)
        for speaker, voice in raw.items()
    }

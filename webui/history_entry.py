"""One thing that was made: what the index, the sidecar and the tags of its file say of it."""

from __future__ import annotations

import json
import math
import secrets
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np

from bark_core import Audio, InvalidSetting
from webui.history_schema import KINDS, SCRIPT, SPEECH

N_PEAKS = 72  # bars of the picture of a sound
MAX_TAGS = 20  # of one entry
MAX_TAG_CHARACTERS = 40
SIDECAR_VERSION = 2


@dataclass(frozen=True, slots=True)
class Entry:
    """One thing that was made."""

    id: str
    owner: str  # who made it; "" where nobody signs in
    created_at: float  # seconds since 1970
    duration_s: float
    complete: bool  # False: stopped before its end
    peaks: tuple[int, ...] = field(repr=False)  # 0..100, N_PEAKS of them
    details: Mapping[str, Any] = field(repr=False)  # Generation.metadata()
    kind: str = SPEECH  # or "script": the mix of a whole script
    group: str = ""  # the same for all that one press of a button made
    favourite: bool = False
    tags: tuple[str, ...] = ()
    trashed_at: float | None = None  # seconds since 1970; None: not in the bin
    n_bytes: int = field(default=0, compare=False)  # of all its files

    @property
    def text(self) -> str:
        return str(self.details.get("text", ""))

    @property
    def voice_name(self) -> str | None:
        """None: a new voice was rolled, or there are several."""
        voice = self.details.get("voice")
        return str(voice.get("name") or "unnamed") if isinstance(voice, Mapping) else None

    @property
    def voice_names(self) -> tuple[str, ...]:
        """Of a script's mix, all that are heard."""
        voices = self.details.get("voices")
        if isinstance(voices, Mapping):
            voices = list(voices.values())
        if not isinstance(voices, list):
            return () if self.voice_name is None else (self.voice_name,)
        return tuple(dict.fromkeys(str(voice) for voice in voices if voice))

    @property
    def model_name(self) -> str:
        model = self.details.get("model")
        return str(model.get("name", "?")) if isinstance(model, Mapping) else "?"

    @property
    def layout_name(self) -> str:
        """Of the tokens that it was made of; "" where nothing says."""
        model = self.details.get("model")
        return str(model.get("layout_name", "")) if isinstance(model, Mapping) else ""

    @property
    def seed(self) -> int:
        return int(self.details.get("seed") or 0)

    @property
    def segments(self) -> tuple[str, ...]:
        """The words of each segment."""
        return tuple(map(str, _list(self.details.get("segments"))))

    @property
    def words(self) -> str:
        """What a search looks through."""
        parts = (self.text, *self.voice_names, self.model_name, str(self.seed), *self.tags)
        return "\n".join(parts).casefold()

    def to_json(self) -> dict[str, Any]:
        return {
            "version": SIDECAR_VERSION,
            "id": self.id,
            "owner": self.owner,
            "created_at": self.created_at,
            "duration_s": self.duration_s,
            "complete": self.complete,
            "kind": self.kind,
            "group": self.group,
            "favourite": self.favourite,
            "tags": list(self.tags),
            "trashed_at": self.trashed_at,
            "peaks": list(self.peaks),
            "details": dict(self.details),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """Inverse of `to_json`. Raises KeyError, TypeError or ValueError for anything else."""
        if not isinstance(data["details"], dict):
            raise TypeError("details must be an object")
        trashed_at = data.get("trashed_at")
        kind = str(data.get("kind", SPEECH))
        return cls(
            id=str(data["id"]),
            owner=str(data["owner"]),
            created_at=_finite(data["created_at"]),
            duration_s=_finite(data["duration_s"]),
            complete=bool(data["complete"]),
            peaks=tuple(int(peak) for peak in data["peaks"]),
            details=data["details"],
            # version 1 knew none of these
            kind=kind if kind in KINDS else SPEECH,
            group=str(data.get("group", "")),
            favourite=bool(data.get("favourite", False)),
            tags=checked_tags(_list(data.get("tags"))),
            trashed_at=None if trashed_at is None else _finite(trashed_at),
        )

    @classmethod
    def from_tags(cls, entry_id: str, tags: Mapping[str, Any], *, owner: str = "") -> Self:
        """What the tags of its sound tell. Raises KeyError, TypeError or ValueError.

        Args:
            owner: tags don't tell: they leave the house with the file.
        """
        details = dict(tags)
        kind = str(details.pop("kind", SPEECH))
        details.pop("id", None)
        return cls(
            id=entry_id,
            owner=owner,
            created_at=_finite(details.pop("created_at")),
            duration_s=_finite(details["duration_s"]),
            complete=bool(details["complete"]),
            peaks=(0,) * N_PEAKS,
            details=details,
            kind=kind if kind in KINDS else SPEECH,
        )

    def to_tags(self) -> dict[str, Any]:
        """What its file says of itself: all that is needed to make it again."""
        tags = {**self.details, "id": self.id, "created_at": self.created_at}
        return tags if self.kind == SPEECH else {**tags, "kind": self.kind}

    def to_row(self) -> dict[str, Any]:
        """Its columns, but for state and bookkeeping."""
        # NULL: no single voice, which is no rolled one either
        voice = None if self.kind == SCRIPT and self.voice_name is None else self.voice_name or ""
        return {
            "id": self.id,
            "owner": self.owner,
            "created_at": self.created_at,
            "duration_s": self.duration_s,
            "complete": int(self.complete),
            "words": self.words,
            "peaks": json.dumps(self.peaks),
            "details": json.dumps(self.details, ensure_ascii=False),
            "kind": self.kind,
            "voice": voice,
            "model": self.model_name,
            "group": self.group,
            "favourite": int(self.favourite),
            "tags": json.dumps(self.tags, ensure_ascii=False),
            "trashed_at": self.trashed_at,
            "n_bytes": self.n_bytes,
        }

    @classmethod
    def from_row(cls, row: Any) -> Self:
        """Inverse of `to_row`, from anything that gives columns by name."""
        return cls(
            id=row["id"],
            owner=row["owner"],
            created_at=row["created_at"],
            duration_s=row["duration_s"],
            complete=bool(row["complete"]),
            peaks=tuple(json.loads(row["peaks"])),
            details=json.loads(row["details"]),
            kind=row["kind"],
            group=row["group"],
            favourite=bool(row["favourite"]),
            tags=tuple(json.loads(row["tags"])),
            trashed_at=row["trashed_at"],
            n_bytes=row["n_bytes"] or 0,
        )


def new_id() -> str:
    """A name that nobody can guess: of an entry, and of the job that makes it."""
    return secrets.token_hex(16)


def is_id(text: str) -> bool:
    """Whether `new_id` could have made it."""
    return len(text) == 32 and set(text) <= set("0123456789abcdef")


def checked_tags(tags: Iterable[Any]) -> tuple[str, ...]:
    """Tags as they are kept: on one line, without commas, no two alike but for case.

    Raises:
        InvalidSetting: one is empty, too long or no text, or there are too many.
    """
    found: dict[str, str] = {}
    for tag in tags:
        if not isinstance(tag, str):
            raise InvalidSetting(f"a tag must be text, got {tag!r}")
        plain = " ".join(unicodedata.normalize("NFC", tag).split())
        if not 0 < len(plain) <= MAX_TAG_CHARACTERS:
            raise InvalidSetting(
                f"a tag must have 1 to {MAX_TAG_CHARACTERS} characters, got {len(plain)}; "
                "type a shorter one"
            )
        if "," in plain or not plain.isprintable():
            raise InvalidSetting(
                f"the tag {plain!r} holds a comma or a control character; leave it away"
            )
        found.setdefault(plain.casefold(), plain)
    if len(found) > MAX_TAGS:
        raise InvalidSetting(
            f"{len(found)} tags are too many; an entry can have {MAX_TAGS}: remove some first"
        )
    return tuple(found.values())


def peaks_of(audio: Audio) -> tuple[int, ...]:
    """The picture of a sound: N_PEAKS loudest amplitudes, 0..100, relative to the loudest."""
    parts = np.array_split(np.abs(audio.samples), N_PEAKS)
    loudest = np.array([part.max(initial=0.0) for part in parts])
    scale = max(float(loudest.max(initial=0.0)), 1e-3)
    return tuple(round(100 * float(value) / scale) for value in loudest)


def _finite(value: Any) -> float:
    number = float(value)
    if not math.isfinite(number):
        raise ValueError("not a finite number")
    return number


def _list(value: Any) -> Sequence[Any]:
    return value if isinstance(value, list | tuple) else ()

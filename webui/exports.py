"""What leaves the history: a sound in other formats, many as a zip, their settings as a table.

Other formats are encoded from the FLAC file when they are asked for, with the same tags, and kept
for a while. A zip is streamed: it is never whole in memory or on the disk.
"""

from __future__ import annotations

import csv
import datetime
import io
import os
import re
import secrets
import threading
import time
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bark_core import InvalidAudio, InvalidRequest, read_audio, read_tags, write_audio
from webui.history import Entry, History
from webui.words import quote

MEDIA_TYPES: Mapping[str, str] = {
    "flac": "audio/flac",
    "wav": "audio/wav",
    "mp3": "audio/mpeg",
    "opus": "audio/ogg",
}
MAX_ENCODED_BYTES = 256 * 2**20  # kept of other formats
MAX_EXPORT_ENTRIES = 10_000
MAX_EXPORT_BYTES = 8 * 2**30  # of lossless sound
EXPORT_S = 600.0  # how long an export can be fetched
MAX_EXPORTS = 64

_CHUNK_BYTES = 2**18
_EXACT_DIGITS = 15  # of a number in a spreadsheet
_STAGES = ("semantic", "coarse", "fine", "codec")
_SETTINGS = (
    "semantic.temperature",
    "semantic.top_k",
    "semantic.top_p",
    "semantic.min_eos_p",
    "semantic.allow_early_stop",
    "semantic.max_duration_s",
    "coarse.temperature",
    "coarse.top_k",
    "coarse.top_p",
    "coarse.max_history",
    "fine.temperature",
)
_COLUMNS = (
    "file",
    "id",
    "made",
    "kind",
    "text",
    "duration_s",
    "complete",
    "favourite",
    "tags",
    "group",
    "voice",
    "voice_sha256",
    "seed",
    "take",
    "retries",
    "streaming",
    "n_segments",
    "takes",
    "problems",
    "segment_pause_s",
    *_SETTINGS,
    "model",
    "model_source",
    "model_revision",
    "precision",
    "layout",
    *(f"seconds.{stage}" for stage in _STAGES),
)
# what a spreadsheet takes for a formula
_FORMULA = re.compile(r"^[\s\0]*[=+\-@|%\t\r]")


def file_name(entry: Entry, suffix: str) -> str:
    """What to call the sound of an entry: its first words."""
    words = re.sub(r"\W+", "-", quote(entry.text, 40).lower()).strip("-_")
    return f"{words or 'sound'}.{suffix}"


# --- one sound in another format


class Encoder:
    """Sounds of the history in the formats of MEDIA_TYPES."""

    def __init__(self, history: History, *, max_bytes: int = MAX_ENCODED_BYTES) -> None:
        self._history = history
        self._max_bytes = max_bytes
        self._lock = threading.Lock()  # one at a time: the cores are for the models

    def path(self, entry_id: str, suffix: str) -> Path:
        """A file of the sound in that format. Who may have it was asked before.

        Raises:
            InvalidAudio: no such format, or the sound is gone.
            StorageError: it can't be written.
        """
        lossless = self._history.sound_path(entry_id)
        if suffix == "flac":
            return lossless
        if suffix not in MEDIA_TYPES:
            raise InvalidAudio(
                f"there is no format {suffix!r}; choose one of {', '.join(MEDIA_TYPES)}"
            )
        path = self._history.encoded / f"{entry_id}.{suffix}"
        with self._lock:
            if path.is_file():
                os.utime(path)  # the oldest go first
            else:
                audio = read_audio(lossless)
                # marked already, where it is marked; signed, for the signature is the file's
                stamp = self._history.stamp.signing_only()
                write_audio(path, audio, metadata=read_tags(lossless), stamp=stamp)
                self._history.origins.note_file(entry_id, path, made_at=time.time())
                self._forget_oldest(path)
        return path

    def _forget_oldest(self, newest: Path) -> None:
        files = [(path.stat(), path) for path in self._history.encoded.iterdir()]
        total = sum(status.st_size for status, _path in files)
        for status, path in sorted(files, key=lambda file: file[0].st_mtime):
            if total <= self._max_bytes:
                return
            if path != newest:
                path.unlink(missing_ok=True)
                total -= status.st_size


# --- many


@dataclass(frozen=True, slots=True)
class Export:
    """What one person may fetch as a zip, for some minutes."""

    token: str
    owner: str
    ids: tuple[str, ...]
    suffix: str
    until: float  # by time.monotonic()


class Exports:
    """Exports that were asked for and can be fetched."""

    def __init__(self, history: History) -> None:
        self._history = history
        self._lock = threading.Lock()
        self._waiting: dict[str, Export] = {}

    def prepare(self, ids: Sequence[str], *, owner: str, suffix: str = "flac") -> Export:
        """Take a list of entries to be fetched as a zip.

        Raises:
            InvalidRequest: none of them is there, too many or too large together, no such format.
        """
        entries = checked_export(self._history, ids, owner=owner, suffix=suffix)
        export = Export(
            secrets.token_hex(16),
            owner,
            tuple(entry.id for entry in entries),
            suffix,
            time.monotonic() + EXPORT_S,
        )
        with self._lock:
            now = time.monotonic()
            current = [one for one in self._waiting.values() if one.until > now]
            self._waiting = {one.token: one for one in [*current, export][-MAX_EXPORTS:]}
        return export

    def get(self, token: str, *, owner: str) -> Export | None:
        with self._lock:
            export = self._waiting.get(token)
        if export is None or export.owner != owner or export.until < time.monotonic():
            return None
        return export


def checked_export(history: History, ids: Sequence[str], *, owner: str, suffix: str) -> list[Entry]:
    """The entries of those ids that are there. Raises InvalidRequest as `Exports.prepare`."""
    if suffix not in MEDIA_TYPES:
        raise InvalidRequest(
            f"there is no format {suffix!r}; choose one of {', '.join(MEDIA_TYPES)}"
        )
    wanted = list(dict.fromkeys(ids))
    if len(wanted) > MAX_EXPORT_ENTRIES:
        raise InvalidRequest(
            f"{len(wanted):,} takes are too many for one zip; select {MAX_EXPORT_ENTRIES:,} at most"
        )
    found = [history.get(entry_id, owner=owner) for entry_id in wanted]
    entries = [entry for entry in found if entry is not None]
    if not entries:
        raise InvalidRequest("none of these takes is there any more; select others")
    n_bytes = sum(entry.n_bytes for entry in entries)
    if n_bytes > MAX_EXPORT_BYTES:
        raise InvalidRequest(
            f"these takes have {n_bytes / 1e9:.1f} GB together; select "
            f"{MAX_EXPORT_BYTES / 1e9:.1f} GB at most for one zip"
        )
    return entries


def zip_name(at: float) -> str:
    """What to call a zip that is made at a time, seconds since 1970."""
    day = datetime.datetime.fromtimestamp(at, datetime.UTC)
    return f"bark-studio-{day:%Y-%m-%d-%H%M}.zip"


def zipped(
    history: History, encoder: Encoder, ids: Sequence[str], *, owner: str, suffix: str = "flac"
) -> Iterator[bytes]:
    """A zip, piece by piece: settings.csv, then the sounds, in the order of the ids.

    What is deleted meanwhile is named in missing.txt.
    """
    entries = [e for key in ids if (e := history.get(key, owner=owner)) is not None]
    digits = len(str(len(entries)))
    names = {
        entry.id: f"{number:0{digits}d}-{file_name(entry, suffix)}"
        for number, entry in enumerate(entries, start=1)
    }
    pipe = _Pipe()
    missing: list[str] = []
    with zipfile.ZipFile(pipe, "w", zipfile.ZIP_STORED) as archive:
        table = settings_table(entries, names).encode("utf-8-sig")  # so that Excel reads UTF-8
        archive.writestr(_member("settings.csv", time.time()), table, zipfile.ZIP_DEFLATED)
        for entry in entries:
            yield pipe.take()
            try:
                source = encoder.path(entry.id, suffix).open("rb")
            except (InvalidAudio, OSError):
                missing.append(names[entry.id])
                continue
            with source, archive.open(_member(names[entry.id], entry.created_at), "w") as target:
                while piece := source.read(_CHUNK_BYTES):
                    target.write(piece)
                    yield pipe.take()
        if missing:
            archive.writestr("missing.txt", "\n".join(missing))
    yield pipe.take()


def settings_table(entries: Sequence[Entry], names: Mapping[str, str]) -> str:
    """A CSV of all settings, one row an entry, harmless in a spreadsheet.

    Args:
        names: of the files, by id.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\r\n")
    writer.writerow(_COLUMNS)
    for entry in entries:
        row = _row(entry, names.get(entry.id, ""))
        writer.writerow([_cell(row.get(column)) for column in _COLUMNS])
    return text.getvalue()


def _row(entry: Entry, name: str) -> dict[str, Any]:
    details = entry.details
    model, voice = _mapping(details.get("model")), _mapping(details.get("voice"))
    row: dict[str, Any] = {
        "file": name,
        "id": entry.id,
        "made": datetime.datetime.fromtimestamp(entry.created_at, datetime.UTC).isoformat(
            timespec="seconds"
        ),
        "kind": entry.kind,
        "text": entry.text,
        "duration_s": round(entry.duration_s, 3),
        "complete": entry.complete,
        "favourite": entry.favourite,
        "tags": ", ".join(entry.tags),
        "group": entry.group,
        "voice": ", ".join(entry.voice_names),
        "voice_sha256": voice.get("sha256"),
        "seed": details.get("seed"),
        "take": details.get("take"),
        "retries": details.get("retries"),
        "streaming": details.get("streaming"),
        "n_segments": len(entry.segments),
        "takes": _joined(details.get("takes")),
        "problems": _joined(details.get("problems")),
        "segment_pause_s": details.get("segment_pause_s"),
        "model": entry.model_name,
        "model_source": model.get("source"),
        "model_revision": model.get("revision"),
        "precision": model.get("precision"),
        "layout": entry.layout_name,
    }
    settings, computing = _mapping(details.get("settings")), _mapping(details.get("seconds"))
    for path in _SETTINGS:
        stage, name = path.split(".")
        row[path] = _mapping(settings.get(stage)).get(name)
    return row | {f"seconds.{stage}": computing.get(stage) for stage in _STAGES}


def _joined(values: Any) -> str:
    """One part a segment: "0; 2", "; no_end too_long"."""
    if not isinstance(values, list):
        return ""
    parts = [" ".join(map(str, part)) if isinstance(part, list) else str(part) for part in values]
    return "; ".join(parts) if any(parts) else ""


def _cell(value: Any) -> str | int | float:
    """A value as it can stand in a spreadsheet."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int) and abs(value) >= 10**_EXACT_DIGITS:
        return f"'{value}"
    if isinstance(value, int | float):
        return value
    text = str(value).replace("\0", "")
    # a quote in front makes it text, whatever it begins with
    return f"'{text}" if _FORMULA.match(text) else text


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _member(name: str, at: float) -> zipfile.ZipInfo:
    """A member of a zip; zips know no time zones and nothing before 1980."""
    moment = max(time.localtime(at)[:6], (1980, 1, 1, 0, 0, 0))
    info = zipfile.ZipInfo(name, moment)
    info.external_attr = 0o600 << 16
    return info


class _Pipe(io.RawIOBase):
    """Takes what a zip writes until somebody fetches it; can't go back."""

    def __init__(self) -> None:
        self._pieces: list[bytes] = []

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        self._pieces.append(bytes(data))
        return len(data)

    def take(self) -> bytes:
        taken = b"".join(self._pieces)
        self._pieces.clear()
        return taken

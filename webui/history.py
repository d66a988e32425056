"""All that was made, kept over restarts.

    DATA/history.sqlite3        the index: one row an entry
    DATA/sounds/ID.flac         the sound, with its settings in its tags
    DATA/sounds/ID.npz          its tokens, as a voice
    DATA/sounds/ID.json         the sidecar: all that the row says
    DATA/live/                  sound of jobs that still run; emptied at the start

An entry is written in that order: sound, tokens, sidecar, row, each file under a temporary name
first. A kill in between leaves something that `History.open` mends: temporaries go, a sound
without a row gets its row back from the sidecar or its own tags, a row without its sound is
marked and comes back with the sound.
"""

from __future__ import annotations

import contextlib
import json
import logging
import secrets
import shutil
import sqlite3
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import numpy as np

from bark_core import (
    Audio,
    BarkError,
    Generation,
    StorageError,
    read_tags,
    write_audio,
    write_bytes_atomically,
)

_log = logging.getLogger(__name__)

N_PEAKS = 72  # bars of the picture of a sound
READY, MISSING, DELETING = "ready", "missing", "deleting"

# user_version counts the migrations that a file has been through; never change one, add one
MIGRATIONS = (
    """
    CREATE TABLE entries (
        id TEXT PRIMARY KEY,
        owner TEXT NOT NULL,
        created_at REAL NOT NULL,
        state TEXT NOT NULL,
        duration_s REAL NOT NULL,
        complete INTEGER NOT NULL,
        words TEXT NOT NULL,
        peaks TEXT NOT NULL,
        details TEXT NOT NULL
    ) STRICT;
    CREATE INDEX entries_newest ON entries (owner, state, created_at DESC);
    """,
)


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

    @property
    def text(self) -> str:
        return str(self.details.get("text", ""))

    @property
    def voice_name(self) -> str | None:
        """None: a new voice was rolled."""
        voice = self.details.get("voice")
        return str(voice.get("name") or "unnamed") if isinstance(voice, Mapping) else None

    @property
    def model_name(self) -> str:
        model = self.details.get("model")
        return str(model.get("name", "?")) if isinstance(model, Mapping) else "?"

    @property
    def seed(self) -> int:
        return int(self.details.get("seed", 0))

    @property
    def words(self) -> str:
        """What a search looks through."""
        parts = (self.text, self.voice_name or "", self.model_name, str(self.seed))
        return "\n".join(parts).casefold()

    def to_json(self) -> dict[str, Any]:
        return {
            "version": 1,
            "id": self.id,
            "owner": self.owner,
            "created_at": self.created_at,
            "duration_s": self.duration_s,
            "complete": self.complete,
            "peaks": list(self.peaks),
            "details": dict(self.details),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """Inverse of `to_json`. Raises KeyError, TypeError or ValueError for anything else."""
        if not isinstance(data["details"], dict):
            raise TypeError("details must be an object")
        return cls(
            id=str(data["id"]),
            owner=str(data["owner"]),
            created_at=float(data["created_at"]),
            duration_s=float(data["duration_s"]),
            complete=bool(data["complete"]),
            peaks=tuple(int(peak) for peak in data["peaks"]),
            details=data["details"],
        )


def new_id() -> str:
    """A name that nobody can guess: of an entry, and of the job that makes it."""
    return secrets.token_hex(16)


def is_id(text: str) -> bool:
    """Whether `new_id` could have made it."""
    return len(text) == 32 and set(text) <= set("0123456789abcdef")


def peaks_of(audio: Audio) -> tuple[int, ...]:
    """The picture of a sound: N_PEAKS loudest amplitudes, 0..100, relative to the loudest."""
    parts = np.array_split(np.abs(audio.samples), N_PEAKS)
    loudest = np.array([part.max(initial=0.0) for part in parts])
    scale = max(float(loudest.max(initial=0.0)), 1e-3)
    return tuple(round(100 * float(value) / scale) for value in loudest)


class History:
    """The store. All methods may be called from any thread; made by `History.open`."""

    def __init__(self, folder: Path, connection: sqlite3.Connection) -> None:
        self.folder = folder
        self.sounds = folder / "sounds"
        self.live = folder / "live"
        self._connection = connection
        self._lock = threading.Lock()
        self._guard: sqlite3.Connection | None = None
        self.version = 0  # grows with every change that this process makes

    @classmethod
    def open(cls, folder: Path) -> Self:
        """Open the store in a folder, make it where there is none, and mend what a kill left.

        Raises:
            StorageError: the folder can't be used, or its index isn't ours.
        """
        try:
            for part in (folder, folder / "sounds", folder / "live"):
                part.mkdir(parents=True, exist_ok=True)
            connection = _connect(folder / "history.sqlite3")
            history = cls(folder, connection)
            # two studios on one folder get along, but only the first may tidy up
            history._guard = _hold(folder / "studio.lock")
            if history._guard is not None:
                history.sweep()
        except (OSError, sqlite3.Error) as error:
            if isinstance(error, StorageError):
                raise
            raise StorageError(
                f"the history in {folder} can't be opened: {error}; check the folder, "
                "or choose another one with --data"
            ) from error
        return history

    def close(self) -> None:
        with self._lock:
            self._connection.close()
            if self._guard is not None:
                self._guard.close()

    # --- writing

    def add(
        self,
        generation: Generation,
        *,
        owner: str = "",
        entry_id: str | None = None,
        created_at: float | None = None,
    ) -> Entry:
        """Keep a result, whole or partial.

        Raises:
            StorageError: it can't be written; nothing of it is left behind.
        """
        audio = generation.audio
        entry = Entry(
            id=entry_id or new_id(),
            owner=owner,
            created_at=time.time() if created_at is None else created_at,
            duration_s=audio.duration_s,
            complete=generation.complete,
            peaks=peaks_of(audio),
            details=json.loads(json.dumps(generation.metadata())),
        )
        try:
            tags = {**entry.details, "id": entry.id, "created_at": entry.created_at}
            write_audio(self.sound_path(entry.id), audio, metadata=tags)
            generation.voice.save(self.voice_path(entry.id))
            self._write_sidecar(entry)
            self._insert(entry)
        except BaseException as error:
            self._remove_files(entry.id)
            if isinstance(error, sqlite3.Error | OSError) and not isinstance(error, BarkError):
                raise StorageError(
                    f"the sound couldn't be kept in {self.folder}: {error}; "
                    "free some space or choose another folder with --data"
                ) from error
            raise
        return entry

    def delete(self, entry_id: str, *, owner: str = "") -> bool:
        """Remove an entry and its files for good; False: there is none of that owner."""
        # marked first, so that a kill in between doesn't bring it back at the next start
        with self._write() as connection:
            changed = connection.execute(
                "UPDATE entries SET state = ? WHERE id = ? AND owner = ?",
                (DELETING, entry_id, owner),
            ).rowcount
        if not changed:
            return False
        self._finish_deletion(entry_id)
        return True

    # --- reading

    def get(self, entry_id: str, *, owner: str = "") -> Entry | None:
        rows = self._read(
            "SELECT * FROM entries WHERE id = ? AND owner = ? AND state = ?",
            (entry_id, owner, READY),
        )
        return _entry(rows[0]) if rows else None

    def search(
        self, words: str = "", *, owner: str = "", limit: int = 50, offset: int = 0
    ) -> list[Entry]:
        """The newest first; each word must occur in text, voice, model or seed."""
        where, values = _matching(words, owner)
        rows = self._read(
            f"SELECT * FROM entries WHERE {where} ORDER BY created_at DESC, id LIMIT ? OFFSET ?",
            (*values, limit, offset),
        )
        return [_entry(row) for row in rows]

    def count(self, words: str = "", *, owner: str = "") -> int:
        where, values = _matching(words, owner)
        return int(self._read(f"SELECT count(*) FROM entries WHERE {where}", values)[0][0])

    def sound_path(self, entry_id: str) -> Path:
        return self.sounds / f"{entry_id}.flac"

    def voice_path(self, entry_id: str) -> Path:
        return self.sounds / f"{entry_id}.npz"

    def sidecar_path(self, entry_id: str) -> Path:
        return self.sounds / f"{entry_id}.json"

    # --- mending

    def sweep(self) -> None:
        """Bring files and rows together again, whatever interrupted the last run."""
        shutil.rmtree(self.live, ignore_errors=True)
        self.live.mkdir(exist_ok=True)
        for stray in self.sounds.glob(".*"):
            with contextlib.suppress(OSError):
                stray.unlink()
        states = dict(self._read("SELECT id, state FROM entries"))
        present = {path.stem for path in self.sounds.glob("*.flac") if is_id(path.stem)}
        for entry_id, state in states.items():
            if state == DELETING:
                self._finish_deletion(entry_id)
                present.discard(entry_id)
            elif (state == READY) != (entry_id in present):
                self._set_state(entry_id, READY if entry_id in present else MISSING)
        for entry_id in present - states.keys():
            self._index_again(entry_id)
        # an entry begins with its sound: what has none was being deleted
        for path in [*self.sounds.glob("*.json"), *self.sounds.glob("*.npz")]:
            if is_id(path.stem) and path.stem not in present and path.stem not in states:
                path.unlink(missing_ok=True)

    def _index_again(self, entry_id: str) -> None:
        entry = self._from_sidecar(entry_id) or self._from_tags(entry_id)
        if entry is None:
            damaged = self.folder / "damaged"
            damaged.mkdir(exist_ok=True)
            self.sound_path(entry_id).replace(damaged / f"{entry_id}.flac")
            _log.warning("%s.flac holds no settings; moved to %s", entry_id, damaged)
            return
        if not self.sidecar_path(entry_id).exists():
            self._write_sidecar(entry)
        self._insert(entry)
        _log.info("found %s again", entry_id)

    def _from_sidecar(self, entry_id: str) -> Entry | None:
        try:
            entry = Entry.from_json(json.loads(self.sidecar_path(entry_id).read_text("utf-8")))
        except (OSError, ValueError, KeyError, TypeError):
            return None
        return entry if entry.id == entry_id else None

    def _from_tags(self, entry_id: str) -> Entry | None:
        path = self.sound_path(entry_id)
        try:
            details = dict(read_tags(path) or {})
            created_at = float(details.pop("created_at"))
            details.pop("id")
            return Entry(
                id=entry_id,
                owner="",  # tags don't tell: they leave the house with the file
                created_at=created_at,
                duration_s=float(details["duration_s"]),
                complete=bool(details["complete"]),
                peaks=(0,) * N_PEAKS,
                details=details,
            )
        except (BarkError, OSError, KeyError, TypeError, ValueError):
            return None

    # --- the parts of it

    def _write_sidecar(self, entry: Entry) -> None:
        text = json.dumps(entry.to_json(), ensure_ascii=False, indent=1)
        write_bytes_atomically(self.sidecar_path(entry.id), text.encode())

    def _insert(self, entry: Entry) -> None:
        with self._write() as connection:
            connection.execute(
                "INSERT INTO entries VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    entry.id,
                    entry.owner,
                    entry.created_at,
                    READY,
                    entry.duration_s,
                    int(entry.complete),
                    entry.words,
                    json.dumps(entry.peaks),
                    json.dumps(entry.details, ensure_ascii=False),
                ),
            )

    def _set_state(self, entry_id: str, state: str) -> None:
        with self._write() as connection:
            connection.execute("UPDATE entries SET state = ? WHERE id = ?", (state, entry_id))

    def _finish_deletion(self, entry_id: str) -> None:
        self._remove_files(entry_id)
        with self._write() as connection:
            connection.execute("DELETE FROM entries WHERE id = ?", (entry_id,))

    def _remove_files(self, entry_id: str) -> None:
        for path in (self.sidecar_path, self.voice_path, self.sound_path):
            with contextlib.suppress(OSError):
                path(entry_id).unlink(missing_ok=True)

    @contextlib.contextmanager
    def _write(self) -> Iterator[sqlite3.Connection]:
        with self._lock, self._connection:
            yield self._connection
        self.version += 1

    def _read(self, query: str, values: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        with self._lock:
            return self._connection.execute(query, values).fetchall()


def _connect(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, check_same_thread=False, timeout=30.0)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    _migrate(connection, path)
    return connection


def _migrate(connection: sqlite3.Connection, path: Path) -> None:
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if version > len(MIGRATIONS):
        raise StorageError(
            f"{path} was written by a newer Bark Studio (version {version} of the store, this "
            f"one knows {len(MIGRATIONS)}); update the studio, or choose another --data folder"
        )
    for number, script in enumerate(MIGRATIONS[version:], start=version + 1):
        connection.executescript(f"BEGIN; {script} PRAGMA user_version = {number}; COMMIT;")


def _hold(path: Path) -> sqlite3.Connection | None:
    """Hold a lock for as long as this process lives; None: another process has it.

    SQLite's own locks end with the process, however it ends, on every system.
    """
    guard = sqlite3.connect(path, check_same_thread=False, timeout=0.0, isolation_level=None)
    try:
        guard.execute("BEGIN EXCLUSIVE")
    except sqlite3.OperationalError:
        guard.close()
        return None
    return guard


def _matching(words: str, owner: str) -> tuple[str, tuple[str, ...]]:
    where, values = "owner = ? AND state = ?", [owner, READY]
    for word in words.casefold().split():
        where += " AND words LIKE ? ESCAPE '\\'"
        escaped = word.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")
        values.append(f"%{escaped}%")
    return where, tuple(values)


def _entry(row: tuple[Any, ...]) -> Entry:
    entry_id, owner, created_at, _, duration_s, complete, _, peaks, details = row
    return Entry(
        id=entry_id,
        owner=owner,
        created_at=created_at,
        duration_s=duration_s,
        complete=bool(complete),
        peaks=tuple(json.loads(peaks)),
        details=json.loads(details),
    )

"""The queue on the disk: what was asked for survives a crash, a kill and a restart.

    DATA/queue.sqlite3      jobs that aren't over, and how much sound each user had on which day

A job's row holds its words until it is over; then the row goes, and SQLite overwrites it.
"""

from __future__ import annotations

import base64
import contextlib
import json
import logging
import sqlite3
import threading
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, Self

import numpy as np

from bark_core import (
    BarkError,
    GenerationRequest,
    InvalidSetting,
    SemanticTokens,
    StorageError,
    TokenLayout,
    load_voice,
    settings_from_metadata,
)
from webui.history_schema import hold, transaction

_log = logging.getLogger(__name__)

_VERSION = 1
_SCHEMA = """
CREATE TABLE jobs (
    id TEXT PRIMARY KEY,
    owner TEXT NOT NULL,
    browser TEXT NOT NULL,
    "group" TEXT NOT NULL,
    model TEXT NOT NULL,
    submitted_at REAL NOT NULL,
    state TEXT NOT NULL,
    attempts INTEGER NOT NULL,
    request TEXT NOT NULL
) STRICT;
CREATE TABLE used (
    owner TEXT NOT NULL,
    day INTEGER NOT NULL,
    audio_s REAL NOT NULL,
    PRIMARY KEY (owner, day)
) STRICT
"""


class Standing(StrEnum):
    """How a job on the disk stands."""

    QUEUED = "queued"
    RUNNING = "running"  # read at a start: it was interrupted
    INTERRUPTED = "interrupted"
    ABANDONED = "abandoned"


@dataclass(frozen=True, slots=True)
class Row:
    """A job on the disk."""

    id: str
    owner: str
    browser: str
    group: str
    model: str
    submitted_at: float
    state: Standing
    attempts: int
    request: str  # see `request_to_json`


class QueueStore:
    """All methods may be called from any thread; each is on the disk when it returns."""

    def __init__(self, connection: sqlite3.Connection, guard: sqlite3.Connection | None) -> None:
        self._connection, self._guard = connection, guard
        self._lock = threading.Lock()
        self._closed = False

    @classmethod
    def open(cls, folder: Path) -> Self:
        """Open the queue of a data folder. A second studio on it has one in memory only.

        Raises:
            StorageError: it can't be used.
        """
        path = folder / "queue.sqlite3"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            guard = hold(folder / "queue.lock")
            if guard is None:
                _log.warning("another studio uses %s: this one's queue isn't durable", folder)
            return cls(_connect(path if guard is not None else None), guard)
        except (OSError, sqlite3.Error) as error:
            raise StorageError(
                f"the queue in {folder} can't be opened: {error}; check the folder, or choose "
                "another one with --data"
            ) from error

    @classmethod
    def in_memory(cls) -> Self:
        """A queue that doesn't outlive this process."""
        return cls(_connect(None), None)

    def close(self) -> None:
        with self._lock:
            self._closed = True
            self._connection.close()
            if self._guard is not None:
                self._guard.close()

    def rows(self) -> list[Row]:
        """All jobs, those that were asked for first first."""
        found = self._read("SELECT * FROM jobs ORDER BY submitted_at, rowid")
        return [
            Row(job_id, owner, browser, group, model, submitted_at, Standing(state), n, request)
            for job_id, owner, browser, group, model, submitted_at, state, n, request in found
        ]

    def add(self, row: Row) -> None:
        """Raises StorageError: it can't be kept, so the job mustn't be taken."""
        values = tuple(asdict(row).values())
        self._do("INSERT INTO jobs VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", values)

    def mark(self, job_id: str, state: Standing, attempts: int) -> None:
        """Note how a job stands. Harmless when it isn't there."""
        self._do(
            "UPDATE jobs SET state = ?, attempts = ? WHERE id = ?", (state.value, attempts, job_id)
        )

    def remove(self, job_ids: Iterable[str]) -> None:
        """Forget jobs that are over."""
        for job_id in job_ids:
            self._do("DELETE FROM jobs WHERE id = ?", (job_id,))

    def use(self, owner: str, day: int, audio_s: float) -> None:
        """Add to what a user had on a day (counted from 1970); days long past go."""
        self._do(
            "INSERT INTO used VALUES (?, ?, ?) ON CONFLICT (owner, day) "
            "DO UPDATE SET audio_s = audio_s + excluded.audio_s",
            (owner, day, audio_s),
        )
        self._do("DELETE FROM used WHERE day < ?", (day - 40,))

    def used(self, day: int) -> dict[str, float]:
        """Seconds of sound that each user had on a day."""
        found = self._read("SELECT owner, audio_s FROM used WHERE day = ?", (day,))
        return {str(owner): float(audio_s) for owner, audio_s in found}

    def _read(self, query: str, values: tuple[Any, ...] = ()) -> list[Any]:
        with self._lock:
            return [] if self._closed else self._connection.execute(query, values).fetchall()

    def _do(self, statement: str, values: tuple[Any, ...]) -> None:
        with self._lock:
            if self._closed:
                return  # who still ends meanwhile is found at the next start
            try:
                with transaction(self._connection):
                    self._connection.execute(statement, values)
            except sqlite3.Error as error:
                raise StorageError(
                    f"the queue can't be written: {error}; free some space and try again"
                ) from error


def _connect(path: Path | None) -> sqlite3.Connection:
    connection = sqlite3.connect(
        path or ":memory:", check_same_thread=False, timeout=30.0, isolation_level=None
    )
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("PRAGMA secure_delete = ON")  # words that are over don't linger
    version = int(connection.execute("PRAGMA user_version").fetchone()[0])
    if version > _VERSION:
        raise sqlite3.DatabaseError(f"a newer Bark Studio wrote it (version {version})")
    if version == 0:
        with transaction(connection):
            for statement in _SCHEMA.split(";\n"):
                connection.execute(statement)
            connection.execute(f"PRAGMA user_version = {_VERSION}")
    return connection


# --- requests


def request_to_json(request: GenerationRequest) -> str:
    """All of a request, its voice and the words it keeps included."""
    voice, words = request.voice, request.words
    kept = None
    if words is not None:
        kept = {
            "layout": words[0].layout.name,
            "values": [[int(value) for value in tokens.values] for tokens in words],
        }
    return json.dumps(
        {
            "text": request.text,
            "seed": request.seed,
            "settings": asdict(request.settings),
            "segment_pause_s": request.segment_pause_s,
            "retries": request.retries,
            "take": request.take,
            "streaming": request.streaming,
            "words": kept,
            "voice": None
            if voice is None
            else {
                "layout": voice.layout.name,
                "file": base64.b64encode(voice.to_bytes()).decode("ascii"),
            },
        }
    )


def request_from_json(text: str, layouts: Iterable[TokenLayout]) -> GenerationRequest:
    """The request again.

    Raises:
        BarkError: it is damaged, or of a layout that isn't known any more.
    """
    known = {layout.name: layout for layout in layouts}
    with _as_bark_error():
        told = json.loads(text)
        voice, words = None, None
        if told["voice"] is not None:
            data = base64.b64decode(told["voice"]["file"])
            voice = load_voice(data, layout=_layout(known, told["voice"]["layout"]))
        if told["words"] is not None:
            layout = _layout(known, told["words"]["layout"])
            arrays = [np.array(values, dtype=np.int64) for values in told["words"]["values"]]
            words = tuple(SemanticTokens(array, layout) for array in arrays)
        return GenerationRequest(
            told["text"],
            voice=voice,
            seed=told["seed"],
            settings=settings_from_metadata(told),
            segment_pause_s=told["segment_pause_s"],
            retries=told["retries"],
            take=told["take"],
            streaming=told["streaming"],
            words=words,
        )


@contextlib.contextmanager
def _as_bark_error() -> Any:
    try:
        yield
    except BarkError:
        raise
    except (LookupError, TypeError, ValueError, RecursionError) as error:
        raise InvalidSetting(
            f"a job of the last start can't be read ({type(error).__name__}); ask for it again"
        ) from error


def _layout(known: dict[str, TokenLayout], name: str) -> TokenLayout:
    if name not in known:
        raise InvalidSetting(
            f"a job of the last start needs a model of the layout {name!r}, which isn't here any "
            "more; ask for it again with another model"
        )
    return known[name]

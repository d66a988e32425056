"""Hashes of all sound that was made here: `DATA/origins.sqlite3`.

They outlive their entries, so that "was this made here?" can be answered for what was deleted
too; they say when a sound was made, and nothing of what it says or whose it is.
"""

from __future__ import annotations

import contextlib
import logging
import sqlite3
import threading
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from bark_core import BarkError, Hashes, hashes_of

_log = logging.getLogger(__name__)

FILE, SOUND = "file", "sound"


@dataclass(frozen=True, slots=True)
class Origin:
    """What is known of a hash."""

    entry_id: str  # of the entry or the script that it came from, which may be gone
    made_at: float  # seconds since 1970


class Origins:
    """The store. All methods may be called from any thread."""

    def __init__(self, path: Path) -> None:
        """Open it, make it where there is none. Raises sqlite3.Error: it can't be used."""
        self._lock = threading.Lock()
        self._connection = sqlite3.connect(
            path, check_same_thread=False, timeout=30.0, isolation_level=None
        )
        self._connection.execute("PRAGMA journal_mode = WAL")
        self._connection.execute(
            "CREATE TABLE IF NOT EXISTS origins (hash TEXT NOT NULL, kind TEXT NOT NULL, "
            "entry_id TEXT NOT NULL, made_at REAL NOT NULL, PRIMARY KEY (hash, entry_id)) "
            "STRICT, WITHOUT ROWID"
        )
        self._connection.execute("CREATE INDEX IF NOT EXISTS origins_entry ON origins (entry_id)")

    def close(self) -> None:
        with self._lock:
            self._connection.close()

    def note_file(self, entry_id: str, path: Path, *, made_at: float) -> None:
        """Keep the hashes of a file that was written; what can't be kept is only logged."""
        try:
            self.note(entry_id, hashes_of(path), made_at=made_at)
        except (BarkError, OSError) as error:
            _log.warning("the origin of %s isn't kept: %s", path.name, error)

    def note(self, entry_id: str, hashes: Hashes, *, made_at: float) -> None:
        """Keep the hashes of a sound; what can't be kept is only logged."""
        rows = [(hashes.file, FILE, entry_id, made_at), (hashes.sound, SOUND, entry_id, made_at)]
        try:
            with self._lock:
                # the first time that a sound was made is the one that counts
                self._connection.executemany("INSERT OR IGNORE INTO origins VALUES (?,?,?,?)", rows)
        except sqlite3.Error as error:
            _log.warning("the origin of %s isn't kept: %s", entry_id, error)

    def find(self, hashed: str, kind: str) -> list[Origin]:
        """Where a hash comes from, the oldest first."""
        query = "SELECT entry_id, made_at FROM origins WHERE hash = ? AND kind = ? ORDER BY made_at"
        with self._lock, contextlib.suppress(sqlite3.Error):
            return [Origin(*row) for row in self._connection.execute(query, (hashed, kind))]
        return []

    def unknown(self, entry_ids: Iterable[str]) -> list[str]:
        """Those of which nothing is kept: made before hashes were."""
        with self._lock, contextlib.suppress(sqlite3.Error):
            rows = self._connection.execute("SELECT DISTINCT entry_id FROM origins")
            known = {row[0] for row in rows}
            return [entry_id for entry_id in entry_ids if entry_id not in known]
        return []

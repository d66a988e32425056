"""The index of the history: its tables, how older ones become today's, who may tidy up."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator
from pathlib import Path

from bark_core import StorageError

READY, MISSING = "ready", "missing"
TRASHED = "trashed"  # in the bin: hidden, whole, and can be put back
DELETING = "deleting"  # its files go, whatever happens
SPEECH, SCRIPT = "speech", "script"
KINDS = (SPEECH, SCRIPT)

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
    # n_bytes is NULL until somebody counts; written < revision: the sidecar is behind
    """
    ALTER TABLE entries ADD COLUMN kind TEXT NOT NULL DEFAULT 'speech';
    ALTER TABLE entries ADD COLUMN voice TEXT;
    ALTER TABLE entries ADD COLUMN model TEXT NOT NULL DEFAULT '?';
    ALTER TABLE entries ADD COLUMN "group" TEXT NOT NULL DEFAULT '';
    ALTER TABLE entries ADD COLUMN favourite INTEGER NOT NULL DEFAULT 0;
    ALTER TABLE entries ADD COLUMN tags TEXT NOT NULL DEFAULT '[]';
    ALTER TABLE entries ADD COLUMN trashed_at REAL;
    ALTER TABLE entries ADD COLUMN n_bytes INTEGER;
    ALTER TABLE entries ADD COLUMN revision INTEGER NOT NULL DEFAULT 0;
    ALTER TABLE entries ADD COLUMN written INTEGER NOT NULL DEFAULT 0;
    UPDATE entries SET
        voice = CASE json_type(details, '$.voice') WHEN 'object'
            THEN coalesce(nullif(json_extract(details, '$.voice.name'), ''), 'unnamed')
            ELSE '' END,
        model = coalesce(json_extract(details, '$.model.name'), '?');
    CREATE INDEX entries_voice ON entries (owner, state, voice);
    CREATE INDEX entries_model ON entries (owner, state, model);
    CREATE INDEX entries_disk ON entries (owner, state, n_bytes);
    CREATE INDEX entries_favourite ON entries (owner, state, created_at DESC) WHERE favourite;
    CREATE INDEX entries_tagged ON entries (owner, state, tags) WHERE tags <> '[]';
    """,
)


def connect(path: Path) -> sqlite3.Connection:
    """Open the index, made or brought up to date where it needs to be.

    Raises:
        StorageError: a newer studio wrote it.
        sqlite3.Error: it isn't an index, or can't be used.
    """
    connection = sqlite3.connect(path, check_same_thread=False, timeout=30.0, isolation_level=None)
    connection.row_factory = sqlite3.Row
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    migrate(connection, path)
    return connection


def migrate(connection: sqlite3.Connection, path: Path, *, to: int = len(MIGRATIONS)) -> None:
    """Run the migrations that a file hasn't been through, all of them or none."""
    if _version(connection) == to:
        return
    with transaction(connection):
        # read again: another process may have done it meanwhile
        version = _version(connection)
        if version > len(MIGRATIONS):
            raise StorageError(
                f"{path} was written by a newer Bark Studio (version {version} of the store, this "
                f"one knows {len(MIGRATIONS)}); update the studio, or choose another --data folder"
            )
        for number, script in enumerate(MIGRATIONS[version:to], start=version + 1):
            for statement in script.split(";\n"):
                connection.execute(statement)
            connection.execute(f"PRAGMA user_version = {number}")


@contextlib.contextmanager
def transaction(connection: sqlite3.Connection) -> Iterator[None]:
    """All or nothing, and nobody else writes meanwhile."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        # a full disk may have ended the transaction already
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


def hold(path: Path) -> sqlite3.Connection | None:
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


def _version(connection: sqlite3.Connection) -> int:
    return int(connection.execute("PRAGMA user_version").fetchone()[0])

"""Who did what when: `DATA/audit.jsonl`, which is only ever added to.

A line is JSON: when, who, what, and the ids and hashes that belong to it. Never a text, a
password, or a token. Of a text stands an HMAC with the key in `DATA/audit.key`: who has the key
can tell whether a text that they have was said, and nobody can guess short ones from the log
alone. Each line holds the hash of the one before, so that one which was changed or taken out
shows.
"""

from __future__ import annotations

import contextlib
import datetime
import hashlib
import hmac
import json
import logging
import os
import secrets
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

from bark_core import StorageError

_log = logging.getLogger(__name__)

FILE = "audit.jsonl"
KEY = "audit.key"
_START = "0" * 64  # what the first line has before it


class AuditLog:
    """The log of a data folder; may be written to from any thread, and by several processes."""

    def __init__(self, path: Path, key: bytes) -> None:
        self.path, self._key = path, key
        self._lock = threading.Lock()

    @classmethod
    def open(cls, folder: Path) -> Self:
        """The log of a folder, made where there is none.

        Raises:
            StorageError: it can't be written there.
        """
        try:
            folder.mkdir(parents=True, exist_ok=True)
            return cls(folder / FILE, _key_in(folder / KEY))
        except OSError as error:
            raise StorageError(
                f"the audit log in {folder} can't be used: {error}; check the folder"
            ) from error

    def note(self, what: str, who: str, **facts: Any) -> None:
        """Add a line. Where the disk is full the program's own log says so; work goes on.

        Args:
            who: the owner, "" where nobody signs in.
            facts: JSON; None is left out.
        """
        now = datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds")
        given = {name: value for name, value in facts.items() if value is not None}
        line = {"at": now, "who": who, "what": what, **given}
        with self._lock:
            try:
                self._append(line)
            except OSError:
                _log.exception("%s of %r isn't in the audit log", what, who)

    def hash_of(self, text: str) -> str:
        """What stands in the log in place of a text."""
        data = text.encode("utf-8", "surrogatepass")
        return hmac.new(self._key, data, hashlib.sha256).hexdigest()

    def lines(self) -> Iterator[dict[str, Any]]:
        """All of it, the oldest first. Raises StorageError: it can't be read."""
        try:
            with self.path.open("rb") as file:
                for line in file:
                    with contextlib.suppress(ValueError):
                        yield json.loads(line)
        except FileNotFoundError:
            return
        except OSError as error:
            raise StorageError(f"{self.path} can't be read: {error}; check the file") from error

    def first_break(self) -> int | None:
        """The number of the first line that was changed, or before which one is missing.

        None: it is whole. Lines taken off the end don't show.
        """
        before = _START
        if not self.path.exists():
            return None
        for number, line in enumerate(self.path.read_bytes().splitlines(), start=1):
            try:
                if json.loads(line)["before"] != before:
                    return number
            except (ValueError, KeyError, TypeError):
                return number
            before = hashlib.sha256(line).hexdigest()
        return None

    def _append(self, line: dict[str, Any]) -> None:
        flags = os.O_RDWR | os.O_APPEND | os.O_CREAT
        descriptor = os.open(self.path, flags, 0o600)
        with os.fdopen(descriptor, "r+b", buffering=0) as file, _alone(file.fileno()):
            data = json.dumps({**line, "before": _last_hash(file)}, ensure_ascii=False)
            file.write(data.encode("utf-8", "replace") + b"\n")
            os.fsync(file.fileno())


def _last_hash(file: Any) -> str:
    """Of the last line; the file isn't read as a whole."""
    size = file.seek(0, os.SEEK_END)
    if size == 0:
        return _START
    block = 4096
    while True:
        file.seek(max(0, size - block))
        tail = file.read(block)
        lines = tail.splitlines()
        if len(lines) > 1 or block >= size:
            return hashlib.sha256(lines[-1]).hexdigest()
        block *= 4


@contextlib.contextmanager
def _alone(descriptor: int) -> Iterator[None]:
    """No other process adds a line meanwhile; where there are no such locks, one studio writes."""
    try:
        import fcntl
    except ImportError:
        yield
        return
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    try:
        yield
    finally:
        fcntl.flock(descriptor, fcntl.LOCK_UN)


def file_hash(path: Path) -> str | None:
    """SHA-256 of a file; None where it isn't there."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return None


def _key_in(path: Path) -> bytes:
    try:
        descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
    except FileExistsError:
        return path.read_bytes()
    with os.fdopen(descriptor, "wb") as file:
        key = secrets.token_bytes(32)
        file.write(key)
        os.fsync(file.fileno())
    return key

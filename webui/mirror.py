"""A copy of the data folder somewhere else, kept up to date while the studio runs.

For a machine that may vanish, such as a notebook's: what is finished is copied within seconds,
to a mounted drive for instance. A studio that starts on an empty data folder with the same
mirror begins with what the mirror holds. Databases are copied as SQLite's own backup does it,
other files whole or not at all. What only this machine needs stays away: sounds that still grow,
other formats, previews, locks. What lets somebody in or speak for this host stays away too:
accounts, the key of the audit log, the signing key. (Sessions are on no disk.)
"""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path

from bark_core import InvalidSetting, atomic_path
from webui import accounts, audit

_log = logging.getLogger(__name__)

EVERY_S = 5.0
LEFT_OUT = frozenset({"live", "encoded", "previews", "signing"})
SECRET = frozenset({accounts.FILE, audit.KEY})
DATABASE = ".sqlite3"

_Stamp = tuple[tuple[int, int], ...]  # size and time of a file, and of a database's log


class Mirror:
    """Copies `source` to `target`, as long as it runs.

    Raises:
        InvalidSetting: one of the folders is inside the other.
    """

    def __init__(self, source: Path, target: Path) -> None:
        self.source, self.target = source.resolve(), target.resolve()
        if self.source.is_relative_to(self.target) or self.target.is_relative_to(self.source):
            raise InvalidSetting(
                f"the mirror {target} and the data folder {source} must not be inside of each "
                "other; choose another folder with --mirror"
            )
        self.problem = ""  # why the last pass isn't complete; "": it is
        self._seen: dict[Path, _Stamp] = {}
        self._pass = threading.Lock()
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None

    def restore(self) -> int:
        """Fill a data folder in which nothing was made yet; returns how many files came.

        Raises:
            StorageError: the mirror can't be read, or the data folder written.
        """
        if (self.source / "history.sqlite3").exists() or not self.target.is_dir():
            return 0
        n_files = 0
        for name in _names(self.target):
            if not (self.source / name).exists():
                _copy(self.target / name, self.source / name)
                n_files += 1
        return n_files

    def start(self) -> None:
        """Copy what changes from now on, and what changed before."""
        self._thread = threading.Thread(target=self._run, name="mirror", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End, after one more pass."""
        self._ended.set()
        if self._thread is not None:
            self._thread.join()
        self.copy()

    def copy(self) -> int:
        """One pass; returns how many files were copied. What fails is tried again in the next."""
        with self._pass:
            n_copied, problem = 0, ""
            present = set(_names(self.source))
            for name in sorted(present):
                try:
                    n_copied += self._copy_one(name)
                except (OSError, sqlite3.Error) as error:
                    if (self.source / name).exists():  # else it went meanwhile
                        problem = f"{name} can't be copied to {self.target}: {error}"
            # only what this mirror itself has seen here: it may hold older things
            for name in self._seen.keys() - present:
                with contextlib.suppress(OSError):
                    (self.target / name).unlink(missing_ok=True)
                del self._seen[name]
            if problem and problem != self.problem:
                _log.warning("the mirror is behind: %s", problem)
            self.problem = problem
            return n_copied

    def _run(self) -> None:
        while not self._ended.is_set():
            try:
                self.copy()
            except Exception:
                _log.exception("the mirror couldn't be written")
            self._ended.wait(EVERY_S)

    def _copy_one(self, name: Path) -> bool:
        source, target = self.source / name, self.target / name
        stamp = _stamp(source)
        if self._seen.get(name) == stamp:
            return False
        if name not in self._seen and source.suffix != DATABASE and _alike(source, target):
            self._seen[name] = stamp
            return False
        _copy(source, target)
        self._seen[name] = stamp
        return True


def _names(folder: Path) -> Iterator[Path]:
    """What is mirrored of a folder, relative to it."""
    for parent, folders, files in os.walk(folder):
        here = Path(parent).relative_to(folder)
        folders[:] = [name for name in folders if name not in LEFT_OUT and name[0] != "."]
        for name in files:
            logs = name.endswith((f"{DATABASE}-wal", f"{DATABASE}-shm", f"{DATABASE}-journal"))
            if not (logs or name in SECRET or name.startswith((".", "studio.lock"))):
                yield here / name


def _stamp(path: Path) -> _Stamp:
    found = []
    for one in (path, path.with_name(f"{path.name}-wal")):
        with contextlib.suppress(FileNotFoundError):
            status = one.stat()
            found.append((status.st_size, status.st_mtime_ns))
    return tuple(found)


def _alike(source: Path, target: Path) -> bool:
    """Whether a copy was made before; some drives keep times to two seconds only."""
    try:
        one, other = source.stat(), target.stat()
    except FileNotFoundError:
        return False
    return one.st_size == other.st_size and abs(one.st_mtime - other.st_mtime) <= 2


def _copy(source: Path, target: Path) -> None:
    """Whole or not at all. Raises StorageError, sqlite3.Error or FileNotFoundError."""
    with atomic_path(target, make_folder=True) as temporary:
        if source.suffix == DATABASE:
            with (
                contextlib.closing(sqlite3.connect(f"{source.as_uri()}?mode=ro", uri=True)) as one,
                contextlib.closing(sqlite3.connect(temporary)) as other,
            ):
                one.backup(other)
        else:
            shutil.copy2(source, temporary)

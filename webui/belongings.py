"""What lies with Gradio, and whose it is: sessions, events, uploads, files handed out.

Gradio keeps a page's state and results by a name that the page chose, serves every file in its
folder to everybody who is signed in, and takes the path of any of them as an input. Here each has
one owner, and is there for nobody else.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path

MAX_KEPT = {"page": 200, "event": 5_000, "upload": 500}  # of one owner; the oldest are forgotten
KEEP_FILES_S = 3600.0
MAX_FILES_BYTES = 500 * 2**20  # of one owner; the oldest go


class Kind(StrEnum):
    """What a name names."""

    PAGE = "page"  # Gradio's session_hash
    EVENT = "event"
    UPLOAD = "upload"  # under which the progress of an upload is asked for


class Belongings:
    """All methods may be called from any thread.

    Args:
        clock: gives seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._owners: dict[tuple[Kind, str], str] = {}
        self._of: dict[tuple[Kind, str], OrderedDict[str, None]] = {}  # by kind and owner
        # path -> owner -> when it was given, and how large it is
        self._files: dict[str, dict[str, tuple[float, int]]] = {}

    def claim(self, kind: Kind, name: str, owner: str) -> bool:
        """Take a name that is nobody's yet; False: it is somebody else's."""
        with self._lock:
            if self._owners.setdefault((kind, name), owner) != owner:
                return False
            names = self._of.setdefault((kind, owner), OrderedDict())
            names[name] = None
            names.move_to_end(name)
            while len(names) > MAX_KEPT[kind]:
                oldest, _none = names.popitem(last=False)
                del self._owners[kind, oldest]
            return True

    def belongs(self, kind: Kind, name: str, owner: str) -> bool:
        with self._lock:
            return self._owners.get((kind, name)) == owner

    def give(self, path: str | Path, owner: str) -> None:
        """Let somebody read a file for an hour. Two that sent the same one both may."""
        try:
            n_bytes = Path(path).stat().st_size
        except OSError:
            return
        with self._lock:
            self._files.setdefault(str(path), {})[owner] = (self._clock(), n_bytes)
        self._make_room(owner)

    def holds(self, path: str, owner: str) -> bool:
        """Whether somebody may read a file: only by exactly the path that they were told."""
        with self._lock:
            return owner in self._files.get(path, {})

    def sweep(self, *, keep_s: float = KEEP_FILES_S) -> int:
        """Remove files that were given longer ago than that; returns how many."""
        with self._lock:
            before = self._clock() - keep_s
            old = [
                (path, owner)
                for path, owners in self._files.items()
                for owner, (given_at, _size) in owners.items()
                if given_at <= before
            ]
            return sum(self._forget(path, owner) for path, owner in old)

    def _make_room(self, owner: str) -> None:
        with self._lock:
            own = sorted(
                (*owners[owner], path) for path, owners in self._files.items() if owner in owners
            )
            n_bytes = sum(size for _given_at, size, _path in own)
            for _given_at, size, path in own[:-1]:  # never the newest
                if n_bytes <= MAX_FILES_BYTES:
                    break
                self._forget(path, owner)
                n_bytes -= size

    def _forget(self, path: str, owner: str) -> bool:
        owners = self._files[path]
        del owners[owner]
        if owners:
            return False
        del self._files[path]
        with contextlib.suppress(OSError):
            Path(path).unlink()
            Path(path).parent.rmdir()  # where nothing else lies in it
        return True

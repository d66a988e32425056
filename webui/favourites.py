"""Which voices a person likes best, kept in `DATA/favourite-voices.json`: owner to names."""

from __future__ import annotations

import json
import logging
import threading
from pathlib import Path

from bark_core import write_bytes_atomically

_log = logging.getLogger(__name__)

FILE = "favourite-voices.json"


class FavouriteVoices:
    """The favourites of everybody. All methods may be called from any thread.

    The file is read anew at each change and each look: two studios may share one folder.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / FILE
        self._lock = threading.Lock()
        self._seen: tuple[int, dict[str, set[str]]] | None = None

    def of(self, owner: str) -> frozenset[str]:
        """Names of the voices that one person likes."""
        with self._lock:
            return frozenset(self._read().get(owner, ()))

    def like(self, name: str, favourite: bool, *, owner: str) -> None:
        """Like a voice, or no longer. Raises StorageError: it can't be written."""
        with self._lock:
            names = self._read()
            liked = names.setdefault(owner, set())
            if favourite:
                liked.add(name)
            else:
                liked.discard(name)
            self._write(names)

    def rename(self, name: str, new_name: str, *, owner: str) -> None:
        """Follow a voice of one's own that has another name now.

        Raises:
            StorageError: it can't be written.
        """
        with self._lock:
            names = self._read()
            liked = names.get(owner, set())
            if name in liked:
                liked.remove(name)
                liked.add(new_name)
                self._write(names)

    def _read(self) -> dict[str, set[str]]:
        try:
            changed_at = self._path.stat().st_mtime_ns
            if self._seen is None or self._seen[0] != changed_at:
                data = json.loads(self._path.read_bytes())
                names = {str(owner): set(map(str, liked)) for owner, liked in data.items()}
                self._seen = (changed_at, names)
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, TypeError, AttributeError) as error:
            # a list of voices is worth more than the stars in it
            _log.warning("%s can't be used and is left away: %s", self._path, error)
            return {}
        return {owner: set(liked) for owner, liked in self._seen[1].items()}

    def _write(self, names: dict[str, set[str]]) -> None:
        kept = {owner: sorted(liked) for owner, liked in sorted(names.items()) if liked}
        content = json.dumps(kept, ensure_ascii=False, indent=1).encode()
        write_bytes_atomically(self._path, content, make_folder=True)

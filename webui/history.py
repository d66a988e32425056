"""All that was made, kept over restarts.

    DATA/history.sqlite3        the index: one row an entry
    DATA/sounds/ID.flac         the sound, with its settings in its tags
    DATA/sounds/ID.npz          the tokens of its segments
    DATA/sounds/ID.json         the sidecar: all that the row says
    DATA/encoded/               the same sounds in other formats, as far as they were asked for
    DATA/origins.sqlite3        hashes of all that was made, see origins.py
    DATA/live/                  sound of jobs that still run; emptied at the start

An entry is written in this order: tokens, sound, sidecar, row, each file under a temporary name
first; it is there from its sound on. A change of tags or the like is written to the row first,
with a note that the sidecar is behind. A kill in between leaves something that `History.open`
mends: temporaries go, a sound without a row gets its row back from the sidecar or its own tags,
a row without its sound is marked and comes back with the sound, a sidecar that is behind is
written again.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import logging
import sqlite3
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, Unpack

from bark_core import (
    Audio,
    BarkError,
    Generation,
    Provenance,
    StorageError,
    Voice,
    read_segments,
    write_audio,
    write_bytes_atomically,
    write_segments,
)
from webui.history_entry import N_PEAKS, Entry, checked_tags, is_id, new_id, peaks_of
from webui.history_mend import Rescan, rescan, sweep
from webui.history_query import Choices, Filters, Usage, matching
from webui.history_schema import (
    DELETING,
    MIGRATIONS,
    READY,
    SCRIPT,
    SPEECH,
    TRASHED,
    connect,
    hold,
    transaction,
)
from webui.origins import Origins

if TYPE_CHECKING:
    from bark_core.config import TokenLayout

__all__ = [
    "MIGRATIONS",
    "N_PEAKS",
    "SCRIPT",
    "SPEECH",
    "Choices",
    "Entry",
    "Filters",
    "History",
    "Rescan",
    "Usage",
    "checked_tags",
    "is_id",
    "new_id",
    "peaks_of",
]

_log = logging.getLogger(__name__)

_AT_ONCE = 200  # sidecars that are noted as written together


class History:
    """The store. All methods may be called from any thread; made by `History.open`.

    Whoever still asks after `close` finds nothing.
    """

    def __init__(
        self, folder: Path, connection: sqlite3.Connection, origins: Origins, stamp: Provenance
    ) -> None:
        self.folder = folder
        self.origins = origins
        self.stamp = stamp  # what goes into files beside their tags
        self.on_kept: Callable[[Entry], None] = lambda entry: None  # told of each, when it is kept
        self.sounds = folder / "sounds"
        self.live = folder / "live"
        self.encoded = folder / "encoded"
        self._connection = connection
        self._lock = threading.RLock()
        self._files = threading.Lock()  # sidecars are written and removed by one at a time
        self._guard: sqlite3.Connection | None = None
        self._closed = False
        self._changes = 0

    @classmethod
    def open(cls, folder: Path, *, mend: bool = True, stamp: Provenance | None = None) -> Self:
        """Open the store in a folder, make it where there is none.

        Args:
            mend: bring in order what a kill left, unless a studio runs on the folder already.
            stamp: what goes into files from now on; None: tags alone.

        Raises:
            StorageError: the folder can't be used, or its index isn't ours.
        """
        history: Self | None = None
        try:
            for part in (folder, folder / "sounds", folder / "live", folder / "encoded"):
                part.mkdir(parents=True, exist_ok=True)
            origins = Origins(folder / "origins.sqlite3")
            connection = connect(folder / "history.sqlite3")
            history = cls(folder, connection, origins, stamp or Provenance())
            # two studios on one folder get along, but only the first may tidy up
            history._guard = hold(folder / "studio.lock") if mend else None
            if history._guard is not None:
                sweep(history)
        except (OSError, sqlite3.Error) as error:
            if history is not None:
                history.close()  # or nobody else could tidy up
            if isinstance(error, StorageError):
                raise
            raise StorageError(
                f"the history in {folder} can't be opened: {error}; check the folder, "
                "or choose another one with --data"
            ) from error
        return history

    def close(self) -> None:
        with self._files, self._lock:
            self._closed = True
            self._connection.close()
            self.origins.close()
            if self._guard is not None:
                self._guard.close()

    @property
    def version(self) -> int:
        """Grows with every change, whichever process made it."""
        others = self._read("PRAGMA data_version")
        return self._changes + (int(others[0][0]) if others else 0)

    # --- writing

    def add(
        self,
        generation: Generation,
        *,
        owner: str = "",
        group: str = "",
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
            details=_plain(generation.metadata()),
            group=group,
        )
        return self._keep(entry, audio, generation.voices)

    def add_sound(
        self,
        audio: Audio,
        details: Mapping[str, Any],
        *,
        segments: Sequence[Voice] = (),
        owner: str = "",
        group: str = "",
        kind: str = SCRIPT,
        created_at: float | None = None,
    ) -> Entry:
        """Keep a sound that is no single result, such as the mix of a script.

        Args:
            details: JSON as of `Generation.metadata()`, as far as it applies: "text" at least.
                "voices" may list the names of all that are heard.
            segments: the tokens of each segment, where there are any.

        Raises:
            StorageError: it can't be written; nothing of it is left behind.
        """
        facts = {"complete": True, **details, "duration_s": round(audio.duration_s, 3)}
        entry = Entry(
            id=new_id(),
            owner=owner,
            created_at=time.time() if created_at is None else created_at,
            duration_s=audio.duration_s,
            complete=bool(facts["complete"]),
            peaks=peaks_of(audio),
            details=_plain(facts),
            kind=kind,
            group=group,
        )
        return self._keep(entry, audio, segments)

    def set_favourite(self, entry_id: str, favourite: bool, *, owner: str = "") -> bool:
        """Mark an entry, or don't; False: there is none of that owner."""
        return self.set_favourites([entry_id], favourite, owner=owner) == 1

    def set_favourites(self, ids: Iterable[str], favourite: bool, *, owner: str = "") -> int:
        """Mark several, or don't; returns how many are there."""
        return self._alter(ids, owner, lambda e: dataclasses.replace(e, favourite=favourite))

    def set_tags(self, entry_id: str, tags: Iterable[str], *, owner: str = "") -> bool:
        """Give an entry these tags and no others; False: there is none of that owner.

        Raises:
            InvalidSetting: a tag is empty or too long, or there are too many.
        """
        wanted = checked_tags(tags)
        return self._alter([entry_id], owner, lambda e: dataclasses.replace(e, tags=wanted)) == 1

    def tag(
        self,
        ids: Iterable[str],
        *,
        add: Iterable[str] = (),
        remove: Iterable[str] = (),
        owner: str = "",
    ) -> int:
        """Give several entries some tags, and take others from them; returns how many are there.

        Raises:
            InvalidSetting: a tag is empty or too long, or there would be too many.
        """
        new, gone = checked_tags(add), {tag.casefold() for tag in checked_tags(remove)}

        def changed(entry: Entry) -> Entry:
            kept = [tag for tag in entry.tags if tag.casefold() not in gone]
            return dataclasses.replace(entry, tags=checked_tags([*kept, *new]))

        return self._alter(ids, owner, changed)

    # --- deleting

    def trash(self, ids: Iterable[str], *, owner: str = "") -> int:
        """Put entries into the bin; `restore` brings them back. Returns how many."""
        now = time.time()
        return self._alter(ids, owner, lambda e: dataclasses.replace(e, trashed_at=now))

    def restore(self, ids: Iterable[str], *, owner: str = "") -> int:
        """Bring entries back from the bin; returns how many."""
        back: Callable[[Entry], Entry] = lambda e: dataclasses.replace(e, trashed_at=None)  # noqa: E731
        return self._alter(ids, owner, back, state=TRASHED)

    def trashed(self, *, owner: str = "", limit: int = 10_000) -> list[Entry]:
        """What is in the bin, the last deleted first."""
        rows = self._read(
            "SELECT * FROM entries WHERE owner = ? AND state = ? "
            "ORDER BY trashed_at DESC, created_at DESC, id LIMIT ?",
            (owner, TRASHED, limit),
        )
        return [Entry.from_row(row) for row in rows]

    def empty_bin(self, *, owner: str = "") -> int:
        """Remove for good what is in the bin; returns how many entries that were."""
        return self._remove("owner = ? AND state = ?", (owner, TRASHED))

    def purge(self, *, before: float) -> int:
        """Remove for good what went into the bin before a time (seconds since 1970)."""
        return self._remove("state = ? AND trashed_at < ?", (TRASHED, before))

    def expire(self, *, before: float) -> int:
        """Remove for good what was made before a time, but never what is a favourite."""
        return self._remove(
            "state IN (?, ?) AND favourite = 0 AND created_at < ?", (READY, TRASHED, before)
        )

    def delete(self, entry_id: str, *, owner: str = "") -> bool:
        """Remove an entry and its files for good, at once; False: there is none of that owner."""
        return self._remove("id = ? AND owner = ?", (entry_id, owner)) == 1

    # --- reading

    def get(self, entry_id: str, *, owner: str = "") -> Entry | None:
        rows = self._read(
            "SELECT * FROM entries WHERE id = ? AND owner = ? AND state = ?",
            (entry_id, owner, READY),
        )
        return Entry.from_row(rows[0]) if rows else None

    def search(
        self,
        words: str = "",
        *,
        owner: str = "",
        limit: int = 50,
        offset: int = 0,
        **filters: Unpack[Filters],
    ) -> list[Entry]:
        """The newest first; each word must occur in text, voice, model, seed or tags."""
        where, values = matching(words, owner, filters)
        rows = self._read(
            f"SELECT * FROM entries WHERE {where} ORDER BY created_at DESC, id LIMIT ? OFFSET ?",
            (*values, limit, offset),
        )
        return [Entry.from_row(row) for row in rows]

    def ids(self, words: str = "", *, owner: str = "", **filters: Unpack[Filters]) -> list[str]:
        """All that a search finds, the newest first."""
        where, values = matching(words, owner, filters)
        query = f"SELECT id FROM entries WHERE {where} ORDER BY created_at DESC, id"
        return [str(row[0]) for row in self._read(query, values)]

    def count(self, words: str = "", *, owner: str = "", **filters: Unpack[Filters]) -> int:
        where, values = matching(words, owner, filters)
        rows = self._read(f"SELECT count(*) FROM entries WHERE {where}", values)
        return int(rows[0][0]) if rows else 0

    def choices(self, *, owner: str = "") -> Choices:
        """What there is to filter by."""

        def distinct(column: str) -> tuple[str, ...]:
            rows = self._read(
                f"SELECT DISTINCT {column} FROM entries "
                f"WHERE owner = ? AND state = ? AND {column} NOT NULL",
                (owner, READY),
            )
            return tuple(sorted((str(row[0]) for row in rows), key=str.casefold))

        tags = self._read(
            "SELECT DISTINCT value FROM entries, json_each(tags) "
            "WHERE tags <> '[]' AND owner = ? AND state = ?",
            (owner, READY),
        )
        return Choices(
            voices=distinct("voice"),
            models=distinct("model"),
            tags=tuple(sorted((str(row[0]) for row in tags), key=str.casefold)),
            kinds=distinct("kind"),
        )

    def usage(self, owner: str | None = None) -> Usage:
        """How much an owner's entries take of the disk, or (None) all together."""
        where, values = ("1", ()) if owner is None else ("owner = ?", (owner,))
        by_state = {
            row[0]: (int(row[1]), int(row[2]))
            for row in self._read(
                "SELECT state, count(*), coalesce(sum(n_bytes), 0) "
                f"FROM entries WHERE {where} GROUP BY state",
                values,
            )
        }
        return Usage(*by_state.get(READY, (0, 0)), *by_state.get(TRASHED, (0, 0)))

    def segments(self, entry_id: str, layout: TokenLayout, *, owner: str = "") -> tuple[Voice, ...]:
        """The tokens of each segment of an entry, each as a voice.

        Raises:
            StorageError: there is no such entry, or its tokens aren't there.
            LayoutMismatch: it was made by a model of another layout.
            InvalidVoice: the file is damaged.
        """
        path = self.voice_path(entry_id)
        if self.get(entry_id, owner=owner) is None or not path.is_file():
            raise StorageError("the tokens of this take aren't there any more; choose another take")
        return read_segments(path, layout=layout)

    def sound_path(self, entry_id: str) -> Path:
        return self.sounds / f"{entry_id}.flac"

    def voice_path(self, entry_id: str) -> Path:
        return self.sounds / f"{entry_id}.npz"

    def sidecar_path(self, entry_id: str) -> Path:
        return self.sounds / f"{entry_id}.json"

    def note_older(self) -> int:
        """Keep the hashes of what was made before hashes were; returns of how many."""
        older = self.origins.unknown(self.states())
        for entry_id in older:
            rows = self._read("SELECT created_at FROM entries WHERE id = ?", (entry_id,))
            if rows and self.sound_path(entry_id).is_file():
                made_at = float(rows[0]["created_at"])
                self.origins.note_file(entry_id, self.sound_path(entry_id), made_at=made_at)
        return len(older)

    # --- mending

    def rescan(self) -> Rescan:
        """Rebuild the index from what lies in the folder; others may go on meanwhile."""
        return rescan(self, alone=False)

    def states(self) -> dict[str, str]:
        """The state of every entry, by id."""
        return {row[0]: row[1] for row in self._read("SELECT id, state FROM entries")}

    def set_state(self, entry_id: str, state: str) -> None:
        with self._write() as connection:
            connection.execute("UPDATE entries SET state = ? WHERE id = ?", (state, entry_id))

    def believe(self, entry: Entry) -> bool:
        """Make the row say what an entry says; False: it does already."""
        rows = self._read("SELECT * FROM entries WHERE id = ?", (entry.id,))
        if rows and Entry.from_row(rows[0]) == entry:
            return False
        behind = not self.sidecar_path(entry.id).exists()
        measured = dataclasses.replace(entry, n_bytes=self._measure(entry.id))
        self._insert(measured, revision=int(behind))
        return True

    def count_bytes(self, *, again: bool = False) -> None:
        """Measure the files of entries that nobody has measured yet, or of all."""
        which = "" if again else " WHERE n_bytes IS NULL"
        ids = [row[0] for row in self._read(f"SELECT id FROM entries{which}")]
        found = [(self._measure(entry_id), entry_id) for entry_id in ids]
        if found:
            with self._write() as connection:
                connection.executemany("UPDATE entries SET n_bytes = ? WHERE id = ?", found)

    def renew_sidecars(self) -> None:
        """Write the sidecars that are behind."""
        with self._files:
            while rows := self._read(
                "SELECT * FROM entries WHERE revision <> written AND state IN (?, ?) LIMIT ?",
                (READY, TRASHED, _AT_ONCE),
            ):
                try:
                    for row in rows:
                        self._write_sidecar(Entry.from_row(row))
                except StorageError as error:
                    _log.warning("a sidecar stays behind the index: %s", error)
                    return
                # of a row that changed meanwhile the sidecar is behind again
                written = [(self._measure(row["id"]), row["id"], row["revision"]) for row in rows]
                with self._write() as connection:
                    connection.executemany(
                        "UPDATE entries SET written = revision, n_bytes = ? "
                        "WHERE id = ? AND revision = ?",
                        written,
                    )

    def finish_deletions(self, ids: Sequence[str]) -> None:
        """Remove files, then rows, of entries whose deletion has begun."""
        if not ids:
            return
        with self._files:
            for entry_id in ids:
                self._remove_files(entry_id)
        with self._write() as connection:
            connection.executemany("DELETE FROM entries WHERE id = ?", [(key,) for key in ids])

    # --- the parts of it

    def _keep(self, entry: Entry, audio: Audio, segments: Sequence[Voice]) -> Entry:
        try:
            # tokens first: a sound that a kill left alone comes back, and must have them
            if segments:
                write_segments(self.voice_path(entry.id), segments)
            path = self.sound_path(entry.id)
            write_audio(path, audio, metadata=entry.to_tags(), stamp=self.stamp)
            self._write_sidecar(entry)
            entry = dataclasses.replace(entry, n_bytes=self._measure(entry.id))
            self._insert(entry)
            self.origins.note_file(entry.id, path, made_at=entry.created_at)
        except BaseException as error:
            self._remove_files(entry.id)
            if isinstance(error, OSError) and not isinstance(error, BarkError):
                raise StorageError(
                    f"the sound couldn't be kept in {self.folder}: {error}; "
                    "free some space or choose another folder with --data"
                ) from error
            raise
        self.on_kept(entry)
        return entry

    def _alter(
        self,
        ids: Iterable[str],
        owner: str,
        change: Callable[[Entry], Entry],
        *,
        state: str = READY,
    ) -> int:
        """Change rows, then their sidecars; returns how many rows there were."""
        n_found = 0
        with self._write() as connection:
            for entry_id in dict.fromkeys(ids):
                row = connection.execute(
                    "SELECT * FROM entries WHERE id = ? AND owner = ? AND state = ?",
                    (entry_id, owner, state),
                ).fetchone()
                if row is None:
                    continue
                n_found += 1
                before = Entry.from_row(row)
                if (entry := change(before)) != before:
                    self._update(connection, entry)
        if n_found:
            self.renew_sidecars()
        return n_found

    @staticmethod
    def _update(connection: sqlite3.Connection, entry: Entry) -> None:
        row = entry.to_row()
        connection.execute(
            "UPDATE entries SET favourite = :favourite, tags = :tags, words = :words, "
            "trashed_at = :trashed_at, state = :state, revision = revision + 1 WHERE id = :id",
            {**row, "state": _state(entry)},
        )

    def _insert(self, entry: Entry, *, revision: int = 0) -> None:
        row = {**entry.to_row(), "state": _state(entry), "revision": revision, "written": 0}
        names = ", ".join(f'"{name}"' for name in row)
        marks = ", ".join(f":{name}" for name in row)
        # another process may have found the sound before its row was there
        with self._write() as connection:
            connection.execute(f"INSERT OR REPLACE INTO entries ({names}) VALUES ({marks})", row)

    def _remove(self, where: str, values: Sequence[Any]) -> int:
        # marked first, so that a kill in between doesn't bring them back at the next start
        with self._write() as connection:
            rows = connection.execute(
                f"UPDATE entries SET state = ? WHERE {where} RETURNING id", (DELETING, *values)
            ).fetchall()
        self.finish_deletions([row[0] for row in rows])
        return len(rows)

    def _write_sidecar(self, entry: Entry) -> None:
        text = json.dumps(entry.to_json(), ensure_ascii=False, indent=1)
        write_bytes_atomically(self.sidecar_path(entry.id), text.encode())

    def _measure(self, entry_id: str) -> int:
        """Bytes of all files of an entry."""
        total = 0
        for path in (self.sound_path, self.voice_path, self.sidecar_path):
            with contextlib.suppress(OSError):
                total += path(entry_id).stat().st_size
        return total

    def _remove_files(self, entry_id: str) -> None:
        others = self.encoded.glob(f"{entry_id}.*")
        for path in (
            self.sidecar_path(entry_id),
            self.voice_path(entry_id),
            self.sound_path(entry_id),
            *others,
        ):
            with contextlib.suppress(OSError):
                path.unlink(missing_ok=True)

    @contextlib.contextmanager
    def _write(self) -> Iterator[sqlite3.Connection]:
        with self._lock:
            if self._closed:
                raise StorageError("the history is closed; start the studio again")
            try:
                with transaction(self._connection):
                    yield self._connection
            except sqlite3.Error as error:
                raise self._index_error("written", error) from error
            self._changes += 1

    def _read(self, query: str, values: Sequence[Any] = ()) -> list[Any]:
        with self._lock:
            # pages may look once more while the studio closes
            if self._closed:
                return []
            try:
                return self._connection.execute(query, values).fetchall()
            except sqlite3.Error as error:
                raise self._index_error("read", error) from error

    def _index_error(self, done: str, error: sqlite3.Error) -> StorageError:
        return StorageError(
            f"the index of the history in {self.folder} can't be {done}: {error}; "
            "free some space or check the disk, and try again"
        )


def _state(entry: Entry) -> str:
    return READY if entry.trashed_at is None else TRASHED


def _plain(details: Mapping[str, Any]) -> dict[str, Any]:
    """A copy in plain JSON types."""
    copy: dict[str, Any] = json.loads(json.dumps(details))
    return copy

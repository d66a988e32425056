"""Bringing files and index together again: after a kill, and when one of them is lost.

The index is right where both are there: a change is written to it first, with a note that the
sidecar is behind. Where the index is lost, the sidecars hold all of it, and the tags of the
sounds the most of it.
"""

from __future__ import annotations

import contextlib
import json
import logging
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bark_core import BarkError, read_tags
from webui.history_entry import Entry, is_id
from webui.history_schema import DELETING, MISSING, READY, TRASHED

if TYPE_CHECKING:
    from webui.history import History

_log = logging.getLogger(__name__)

BIN_S = 7 * 86_400  # how long what was deleted can be put back
YOUNG_S = 60.0  # a younger sound without row may be one that another process is adding


@dataclass(frozen=True, slots=True)
class Rescan:
    """What a rescan found."""

    n_entries: int  # that are there now
    n_found: int  # sounds that the index didn't know
    n_changed: int  # entries whose sidecar said something else
    n_missing: int  # entries whose sound is gone
    n_damaged: int  # sounds that say nothing of themselves, moved aside


def sweep(history: History) -> None:
    """What every start does: temporaries, interrupted changes, what is too old for the bin."""
    shutil.rmtree(history.live, ignore_errors=True)
    history.live.mkdir(exist_ok=True)
    for stray in history.sounds.glob(".*"):
        with contextlib.suppress(OSError):
            stray.unlink()
    history.purge(before=time.time() - BIN_S)
    states = history.states()
    history.finish_deletions([key for key, state in states.items() if state == DELETING])
    states = {key: state for key, state in states.items() if state != DELETING}
    present = _sounds(history)
    _match_states(history, states, present)
    for entry_id in present - states.keys():
        _index_again(history, entry_id)
    # an entry is there from its sound on: what has none was being added, or deleted
    for path in [*history.sounds.glob("*.json"), *history.sounds.glob("*.npz")]:
        if is_id(path.stem) and path.stem not in present and path.stem not in states:
            path.unlink(missing_ok=True)
    history.count_bytes()
    history.renew_sidecars()


def rescan(history: History, *, alone: bool) -> Rescan:
    """Believe the sidecars: rebuild every row of the index from them, or from the tags.

    Args:
        alone: nobody else writes into the folder now; otherwise sounds of the last minute stay
            as they are.
    """
    history.renew_sidecars()  # what the index knows better
    states, present = history.states(), _sounds(history)
    known = {key for key, state in states.items() if state != DELETING}
    if not alone:
        present -= {key for key in present - known if _is_young(history, key)}
    n_changed = n_found = n_damaged = 0
    for entry_id in sorted(present):
        if entry_id not in states:
            found = _index_again(history, entry_id)
            n_found, n_damaged = n_found + found, n_damaged + (not found)
        elif entry_id in known and (entry := from_sidecar(history, entry_id)) is not None:
            n_changed += history.believe(entry)
    states = history.states()
    _match_states(history, states, _sounds(history))
    history.count_bytes(again=True)
    history.renew_sidecars()
    now = list(history.states().values())
    return Rescan(now.count(READY), n_found, n_changed, now.count(MISSING), n_damaged)


def from_sidecar(history: History, entry_id: str) -> Entry | None:
    """An entry as its sidecar tells it; None where that can't be read."""
    try:
        text = history.sidecar_path(entry_id).read_text("utf-8")
        entry = Entry.from_json(json.loads(text))
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None
    return entry if entry.id == entry_id else None


def _sounds(history: History) -> set[str]:
    return {path.stem for path in history.sounds.glob("*.flac") if is_id(path.stem)}


def _is_young(history: History, entry_id: str) -> bool:
    with contextlib.suppress(OSError):
        return time.time() - history.sound_path(entry_id).stat().st_mtime < YOUNG_S
    return True  # it went meanwhile


def _match_states(history: History, states: Mapping[str, str], present: set[str]) -> None:
    for entry_id, state in states.items():
        if state == READY and entry_id not in present:
            history.set_state(entry_id, MISSING)
        elif state == MISSING and entry_id in present:
            history.set_state(entry_id, READY)
        elif state == TRASHED and entry_id not in present:
            history.finish_deletions([entry_id])


def _index_again(history: History, entry_id: str) -> bool:
    """Give a sound its row back; False: it says nothing of itself and was moved aside."""
    entry = from_sidecar(history, entry_id) or _from_tags(history, entry_id)
    if entry is None:
        damaged = history.folder / "damaged"
        damaged.mkdir(exist_ok=True)
        history.sound_path(entry_id).replace(damaged / f"{entry_id}.flac")
        _log.warning("%s.flac holds no settings; moved to %s", entry_id, damaged)
        return False
    history.believe(entry)
    _log.info("found %s again", entry_id)
    return True


def _from_tags(history: History, entry_id: str) -> Entry | None:
    try:
        return Entry.from_tags(entry_id, read_tags(history.sound_path(entry_id)))
    except (BarkError, OSError, KeyError, TypeError, ValueError):
        return None

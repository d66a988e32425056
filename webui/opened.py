"""Files made here that somebody opened again: their settings are inside them."""

from __future__ import annotations

import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bark_core import GenerationRequest, InvalidAudio, read_tags, settings_from_metadata
from webui.history import Entry, new_id
from webui.languages import _

_log = logging.getLogger(__name__)

MAX_OPENED = 200  # of all together; the oldest go first


@dataclass(frozen=True, slots=True)
class Opened:
    """A file that was read."""

    entry: Entry  # as the file tells of it, under a name of its own
    origin: str  # the entry's name where it was made, as far as the file says; else ""


class OpenedFiles:
    """What was read out of files, for those who opened them; gone with the process."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._entries: OrderedDict[str, Entry] = OrderedDict()

    def read(self, path: Path, *, owner: str) -> Opened:
        """Read a file's settings; the entry is nowhere but here.

        Raises:
            InvalidAudio: not a sound file, not one made here, or its settings aren't whole.
        """
        try:
            tags = read_tags(path)
        except InvalidAudio as error:
            raise InvalidAudio(
                _("it isn’t a sound file that can be read; open a WAV, FLAC, MP3 or Opus file")
            ) from error
        entry = opened_entry(tags, owner=owner)
        with self._lock:
            self._entries[entry.id] = entry
            while len(self._entries) > MAX_OPENED:
                self._entries.popitem(last=False)
        return Opened(entry, str(tags.get("id", "")))

    def get(self, entry_id: str, *, owner: str) -> Entry | None:
        with self._lock:
            entry = self._entries.get(entry_id)
        return entry if entry is not None and entry.owner == owner else None


def opened_entry(tags: Mapping[str, Any], *, owner: str) -> Entry:
    """An entry of what a stranger's file says, each value checked. Raises InvalidAudio."""
    if not tags:
        raise InvalidAudio(
            _(
                "it holds no settings of Bark Studio, or another program took them out; "
                "open a file that was downloaded here"
            )
        )
    try:
        # one made by the command line doesn't say when
        entry = Entry.from_tags(new_id(), {"created_at": time.time(), **tags}, owner=owner)
        _check(entry)
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        _log.info("a file's settings aren't whole: %s", error)
        raise InvalidAudio(_("the settings in it aren’t whole; open another file")) from error
    return entry


def _check(entry: Entry) -> None:
    """Raises TypeError or ValueError where a page couldn't work with it."""
    details = entry.details
    voice, seed = details.get("voice"), details.get("seed", 0)
    if not isinstance(details.get("text"), str):
        raise TypeError("no text")
    if not isinstance(seed, int) or isinstance(seed, bool):
        raise TypeError("the seed is no number")
    if voice is not None and not (
        isinstance(voice, Mapping) and isinstance(voice.get("name") or "", str)
    ):
        raise TypeError("the voice has no name")
    GenerationRequest(entry.text, seed=seed, settings=settings_from_metadata(details))

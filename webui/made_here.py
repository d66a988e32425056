"""Was this made here? A file is held against hashes, tags, credentials and the watermark.

Each answers for itself, and none of them proves anything by being absent: see
docs/provenance.md.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bark_core import Found, SigningKey, examine
from webui.history import Entry, History
from webui.languages import _
from webui.origins import FILE, SOUND, Origin

if TYPE_CHECKING:
    from bark_core import Watermark


@dataclass(frozen=True, slots=True)
class Verdict:
    """What is known of a file.

    Attributes:
        file, sound: where its bytes, or its samples, are known from; None: from nowhere.
        entry: the asker's own entry that it is, as far as that is still here.
        named: its tags name an entry of the asker's own.
    """

    found: Found
    file: Origin | None
    sound: Origin | None
    entry: Entry | None
    named: bool

    def to_json(self) -> dict[str, Any]:
        """For programs; "unknown" where nobody could look."""
        credentials, watermark = self.found.credentials, self.found.watermark
        return {
            "file": _told(self.file),
            "sound": _told(self.sound),
            "tags": {"generated": bool(self.found.tags), "entry_here": self.named},
            "credentials": "unknown"
            if not self.found.credentials_read
            else None
            if credentials is None
            else {
                "intact": credentials.intact,
                "own": credentials.own,
                "generated": credentials.generated,
                "signer": credentials.signer,
                "problems": list(credentials.problems),
            },
            "watermark": "unknown"
            if watermark is None
            else {
                "found": watermark.found,
                "own_message": watermark.found and watermark.message,
                "probability": round(watermark.probability, 3),
            },
            "entry": self.entry.id if self.entry else None,
            "hashes": {"file": self.found.hashes.file, "sound": self.found.hashes.sound},
        }

    def lines(self) -> list[str]:
        """The same in words, a sentence each."""
        return [
            *self._hash_lines(),
            _("Its tags say that Bark Studio made it.")
            if self.found.tags
            else _("It has no tags of Bark Studio."),
            *self._credential_lines(),
            *self._watermark_lines(),
        ]

    def _hash_lines(self) -> Sequence[str]:
        if self.file is not None:
            return (_("This very file was made here on {day}.", day=_day(self.file)),)
        if self.sound is not None:
            return (_("This very sound was made here on {day}.", day=_day(self.sound)),)
        return (_("Neither the file nor its sound is known here."),)

    def _credential_lines(self) -> Sequence[str]:
        credentials = self.found.credentials
        if not self.found.credentials_read:
            return ()
        if credentials is None:
            return (_("It has no Content Credentials."),)
        if not credentials.intact:
            return (_("Its Content Credentials don’t hold: something was changed."),)
        if credentials.own:
            return (_("Its Content Credentials are this studio’s own, and hold."),)
        signer = credentials.signer or "?"
        return (_("Its Content Credentials hold; their signer says to be {name}.", name=signer),)

    def _watermark_lines(self) -> Sequence[str]:
        mark = self.found.watermark
        if mark is None:
            return ()
        if not mark.found:
            return (_("No watermark was found in it."),)
        if mark.message:
            return (_("Bark Studio’s watermark is in it."),)
        return (_("Another program’s watermark is in it."),)


class MadeHere:
    """Answers for one studio. May be called from any thread.

    Args:
        own: the host's key, to tell its own credentials; signing may be off.
        watermark: a detector, where there is one.
    """

    def __init__(
        self,
        history: History,
        *,
        own: SigningKey | None = None,
        watermark: Watermark | None = None,
    ) -> None:
        self._history = history
        self._own, self._watermark = own, watermark

    def examine(self, path: Path, *, owner: str) -> Verdict:
        """Look at a file.

        Args:
            owner: who asks. Of others' entries they hear only that there was one.

        Raises:
            InvalidAudio: it isn't a sound that can be read. StorageError: it can't be read.
        """
        found = examine(path, own=self._own, watermark=self._watermark)
        origins = self._history.origins
        files = origins.find(found.hashes.file, FILE)
        sounds = origins.find(found.hashes.sound, SOUND)
        if not files and not sounds and self._history.note_older():
            files = origins.find(found.hashes.file, FILE)
            sounds = origins.find(found.hashes.sound, SOUND)
        known = [origin.entry_id for origin in (*files, *sounds)]
        named = str(found.tags.get("id", ""))
        own = (self._history.get(key, owner=owner) for key in [named, *known])
        return Verdict(
            found,
            file=files[0] if files else None,
            sound=sounds[0] if sounds else None,
            entry=next((entry for entry in own if entry is not None), None),
            named=bool(named) and self._history.get(named, owner=owner) is not None,
        )


def _told(origin: Origin | None) -> dict[str, Any] | None:
    return None if origin is None else {"made_at": origin.made_at}


def _day(origin: Origin) -> str:
    return time.strftime("%Y-%m-%d", time.localtime(origin.made_at))

"""Whose voices: those that come with the models are everybody's, one's own are one's own.

DATA/voices/NAME.npz                of the one person of a studio where nobody signs in
DATA/users/OWNER/voices/NAME.npz    of those who do
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

from bark_core import InvalidSetting, VoiceLibrary
from webui.accounts import checked_name


class VoicesOf:
    """Each owner's library. May be called from any thread.

    Args:
        folder: the studio's data folder.
        library: makes a library whose own voices lie in a folder.
    """

    def __init__(self, folder: Path, library: Callable[[Path], VoiceLibrary]) -> None:
        self._folder, self._library = folder, library
        self._lock = threading.Lock()
        self._libraries: dict[str, VoiceLibrary] = {"": library(folder / "voices")}

    def __call__(self, owner: str) -> VoiceLibrary:
        """The voices that somebody has.

        Raises:
            InvalidSetting: no account can have that name.
        """
        with self._lock:
            if owner not in self._libraries:
                self._libraries[owner] = self._library(self.folder_of(owner) / "voices")
            return self._libraries[owner]

    def folder_of(self, owner: str) -> Path:
        """Where what is somebody's alone lies. Raises InvalidSetting."""
        if not owner:
            return self._folder
        if checked_name(owner) != owner:
            raise InvalidSetting(f"{owner[:64]!r} is no name of an account")
        return self._folder / "users" / owner

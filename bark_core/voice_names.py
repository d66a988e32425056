"""Names of one's own voices: such that they can name a file on every system."""

from __future__ import annotations

import itertools
import unicodedata
from collections.abc import Container

from bark_core.errors import InvalidVoice

MAX_NAME_CHARACTERS = 64
MAX_NAME_BYTES = 200  # file systems allow 255, suffixes included
_DEVICE_NAMES = {"con", "prn", "aux", "nul"} | {
    f"{port}{digit}" for port in ("com", "lpt") for digit in "0123456789¹²³"
}


def valid_name(name: str) -> str:
    """The name, NFC-normalised, if it can name a voice and its file on every system.

    Raises:
        InvalidVoice: it can't; the message says why.
    """
    if not isinstance(name, str):
        raise InvalidVoice(f"a voice's name must be text, got {type(name).__name__}")
    name = unicodedata.normalize("NFC", name)
    n_bytes = len(name.encode(errors="replace"))
    if not 1 <= len(name) <= MAX_NAME_CHARACTERS or n_bytes > MAX_NAME_BYTES:
        raise InvalidVoice(
            f"a voice's name must have 1..{MAX_NAME_CHARACTERS} characters, got {len(name)}; "
            "choose a shorter one"
        )
    wrong = [c for c in name if not (c.isalnum() or c in " -_." or _is_mark(c))]
    if wrong:
        raise InvalidVoice(
            "a voice's name may have letters, digits, spaces, '-', '_' and '.', "
            f"got {wrong[0]!r}; choose another"
        )
    if name[0] in " ." or name[-1] in " ." or _is_mark(name[0]):
        raise InvalidVoice(
            f"a voice's name must not begin or end with a space or a dot, got {name!r}"
        )
    if name.split(".")[0].strip().casefold() in _DEVICE_NAMES:
        raise InvalidVoice(f"{name!r} is the name of a device on Windows; choose another")
    return name


def free_name(wanted: str, taken: Container[str]) -> str:
    """A valid name as close to the wanted one as can be, that isn't taken.

    Args:
        taken: names as `str.casefold` leaves them.
    """
    allowed = (c if c.isalnum() or c in " -_." or _is_mark(c) else " " for c in wanted)
    plain = " ".join(unicodedata.normalize("NFC", "".join(allowed)).split()).strip(" .")
    try:
        plain = valid_name(_shortened(plain, 0))
    except InvalidVoice:
        plain = f"voice {plain}".strip()
    endings = itertools.chain([""], (f" {number}" for number in itertools.count(2)))
    names = (_shortened(plain, len(ending)) + ending for ending in endings)
    return next(name for name in names if name.casefold() not in taken)


def _shortened(name: str, room: int) -> str:
    name = name[: MAX_NAME_CHARACTERS - room]
    while len(name.encode(errors="replace")) > MAX_NAME_BYTES - room:
        name = name[:-1]
    return name.rstrip(" .")


def _is_mark(character: str) -> bool:
    return unicodedata.category(character) in ("Mn", "Mc")

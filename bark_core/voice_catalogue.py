"""The catalogue of voices: those that come with the project, and Suno's published ones.

`presets/voices.toml` says what is known of each; nothing is loaded or fetched to list them.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from bark_core.errors import StorageError
from bark_core.files import storage_error

Source = Literal["bundled", "yours", "published"]


@dataclass(frozen=True, slots=True)
class VoiceEntry:
    """What the library knows of a voice without loading it."""

    name: str
    language: str | None  # ISO 639-1
    description: str | None
    layout: str  # name of the layout of the models that can use it; "" where it can't be read
    source: Source
    available: bool  # False: its file is missing or damaged, or nothing can fetch it
    kind: str | None = None  # "announcer", "v1" and "v2" are Suno's


@dataclass(frozen=True, slots=True)
class Catalogue:
    """What voices.toml says.

    Attributes:
        languages: languages' own names by their ISO 639-1 codes.
        english: the same languages' English names.
        licence: of the published voices, for people.
    """

    languages: Mapping[str, str]
    english: Mapping[str, str]
    bundled: Mapping[str, VoiceEntry]  # not available: whoever asks looks for their files
    published: Mapping[str, VoiceEntry]
    licence: str


def read_catalogue(path: Path, *, fetched: bool) -> Catalogue:
    """Read voices.toml.

    Args:
        fetched: whether published voices can be fetched.

    Raises:
        StorageError: it is missing or damaged.
    """
    try:
        data = tomllib.loads(_text(path))
        published = data["published"]
        return Catalogue(
            dict(data["languages"]),
            dict(data["languages_in_english"]),
            _bundled(data["bundled"]),
            _published(published, available=fetched),
            str(published["licence"]),
        )
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise StorageError(
            f"the catalogue of voices {path} is damaged ({error!r}); get it again"
        ) from error


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise StorageError(
            f"the catalogue of voices {path} is missing; get the project's files again"
        ) from error
    except OSError as error:
        raise storage_error("read", path, error) from error


def _bundled(items: Mapping[str, Any]) -> dict[str, VoiceEntry]:
    return {
        name: VoiceEntry(
            name,
            item.get("language"),
            item.get("description"),
            item["layout"],
            "bundled",
            available=False,
            kind=item.get("kind"),
        )
        for name, item in items.items()
    }


def _published(published: Mapping[str, Any], *, available: bool) -> dict[str, VoiceEntry]:
    notes = published["descriptions"]
    speakers = [("announcer", "en", "announcer")] + [
        (f"{folder}{language}_speaker_{number}", language, kind)
        for folder, kind in (("v2/", "v2"), ("", "v1"))
        for language in published["languages"]
        for number in range(published["speakers"])
    ]
    return {
        name: VoiceEntry(
            name, language, notes.get(name), published["layout"], "published", available, kind
        )
        for name, language, kind in speakers
    }

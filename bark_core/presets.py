"""What a page offers to begin with: named settings, cues to insert, examples to try.

They stand in presets/generation.toml and presets/prompts.toml. Titles and descriptions are
English; a page translates them.
"""

from __future__ import annotations

import tomllib
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bark_core.config import CascadeConfig
from bark_core.errors import InvalidSetting, StorageError
from bark_core.files import storage_error
from bark_core.request import CoarseParams, FineParams, SemanticParams, Settings

_FOLDER = Path(__file__).resolve().parent.parent / "presets"


@dataclass(frozen=True, slots=True)
class Mood:
    """Settings that have a name."""

    name: str  # for programs and the command line
    title: str
    about: str  # what it does to the sound
    settings: Settings


@dataclass(frozen=True, slots=True)
class SoundCue:
    """Something to write into a text that isn't said but done."""

    insert: str  # what to insert, or to put around the selection; as a model's `cues` name it
    title: str
    about: str  # what it does to the sound
    wraps: bool = False  # it belongs before and after the words that are selected
    uppercases: bool = False  # it is no sign: the words that are selected become capitals
    layouts: tuple[str, ...] = ()  # models of these layouts know it, whether they name it or not

    def known_to(self, config: CascadeConfig) -> bool:
        """Whether a model has learned it; another one ignores it, or reads it out."""
        return self.insert in config.cues or config.layout.name in self.layouts


def moods() -> tuple[Mood, ...]:
    """The named settings, in the order in which to show them.

    Raises:
        StorageError: presets/generation.toml is missing or damaged.
    """
    path = _FOLDER / "generation.toml"
    try:
        return tuple(_mood(name, item) for name, item in _read(path)["moods"].items())
    except (ValueError, LookupError, TypeError, AttributeError, InvalidSetting) as error:
        raise _damaged(path, error) from error


def sound_cues() -> tuple[SoundCue, ...]:
    """The cues, in the order in which to show them.

    Raises:
        StorageError: presets/prompts.toml is missing or damaged.
    """
    path = _FOLDER / "prompts.toml"
    try:
        return tuple(
            SoundCue(**{**item, "layouts": tuple(item.get("layouts", ()))})
            for item in _read(path)["cues"]
        )
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise _damaged(path, error) from error


def examples(languages: Iterable[str] = ("en",), *, cues: Collection[str] = ()) -> tuple[str, ...]:
    """Texts to try.

    Args:
        languages: ISO 639-1 codes, as a model's config has them; one without an example is
            left out.
        cues: those that the model knows; an example that needs another is left out.

    Raises:
        StorageError: presets/prompts.toml is missing or damaged.
    """
    path = _FOLDER / "prompts.toml"
    try:
        every = _read(path)["examples"]
        signs = {str(item["insert"]) for item in _read(path)["cues"]}
        wanted = [str(text) for language in languages for text in every.get(language, ())]
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise _damaged(path, error) from error
    unknown = {sign for sign in signs - set(cues) if sign.startswith("[") or sign == "♪"}
    return tuple(text for text in wanted if not any(sign in text for sign in unknown))


def _mood(name: str, item: dict[str, Any]) -> Mood:
    settings = Settings(
        semantic=SemanticParams(**item.get("semantic", {})),
        coarse=CoarseParams(**item.get("coarse", {})),
        fine=FineParams(**item.get("fine", {})),
    )
    return Mood(name, item["title"], item["about"], settings)


def _read(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise StorageError(f"{path} is missing; get the project's files again") from error
    except OSError as error:
        raise storage_error("read", path, error) from error


def _damaged(path: Path, error: Exception) -> StorageError:
    return StorageError(f"{path} is damaged ({error!r}); get the project's files again")

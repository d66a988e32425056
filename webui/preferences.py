"""What a person chose in System and wants again at the next start, in the data folder."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

from bark_core import InvalidSetting, write_bytes_atomically
from webui.settings import PRECISIONS

_log = logging.getLogger(__name__)

FILE = "settings.json"
OFFLOAD: Mapping[str, bool | str] = MappingProxyType({"auto": "auto", "on": True, "off": False})


@dataclass(frozen=True, slots=True)
class Choice:
    """How a model is to be loaded, see `bark_core.load`.

    Raises:
        InvalidSetting: there is no such precision or offload.
    """

    precision: str = "auto"
    offload: str = "auto"  # "auto", "on" or "off"

    def __post_init__(self) -> None:
        for what, got, allowed in (
            ("precision", self.precision, PRECISIONS),
            ("offload", self.offload, tuple(OFFLOAD)),
        ):
            if got not in allowed:
                raise InvalidSetting(f"{what} must be one of {', '.join(allowed)}, got {got!r}")


@dataclass(frozen=True, slots=True)
class Preferences:
    """What is kept.

    Attributes:
        model: to begin with at the next start; "" leaves it to the studio.
        choices: of models, by their names.
    """

    model: str = ""
    choices: Mapping[str, Choice] = field(default_factory=dict)


def read_preferences(folder: Path) -> Preferences:
    """What was kept; nothing where there is no file, or one that can't be used."""
    try:
        data = json.loads((folder / FILE).read_bytes())
        choices = {str(name): Choice(**choice) for name, choice in data["choices"].items()}
        return Preferences(str(data["model"]), choices)
    except FileNotFoundError:
        return Preferences()
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        # a studio that starts is worth more than what was chosen in it
        _log.warning("%s can't be used and is left away: %s", folder / FILE, error)
        return Preferences()


def write_preferences(folder: Path, preferences: Preferences) -> None:
    """Keep them, whole or not at all.

    Raises:
        StorageError: the file can't be written.
    """
    data: dict[str, Any] = {
        "model": preferences.model,
        "choices": {
            name: {"precision": choice.precision, "offload": choice.offload}
            for name, choice in sorted(preferences.choices.items())
        },
    }
    content = json.dumps(data, indent=1).encode("utf-8")
    write_bytes_atomically(folder / FILE, content, make_folder=True)

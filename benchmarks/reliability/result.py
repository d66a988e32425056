"""What every module of this package gives back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Result:
    """What a run came to.

    Attributes:
        figures: what was counted and measured, JSON.
        broken: each time that a law didn't hold, for people; empty: it held throughout.
    """

    figures: Mapping[str, Any]
    broken: tuple[str, ...] = ()

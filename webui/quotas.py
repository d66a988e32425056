"""How much may be kept, and for how long: what the studio was started with."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Limits:
    """What the studio was started with."""

    quota_bytes: int | None = None  # of each owner; None: as much as there is
    keep_free_bytes: int = 10**9  # what stays free on the disk
    keep_days: float | None = None  # after which all but favourites go; None: never

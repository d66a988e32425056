"""Questions to the index: what is searched for, what there is to choose from, how much it takes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypedDict

from webui.history_schema import READY


class Filters(TypedDict, total=False):
    """What a search can be narrowed to; what isn't given doesn't matter."""

    voice: str  # by name; "" for those that were rolled
    model: str
    favourite: bool
    tag: str
    kind: str  # "speech" or "script"
    group: str


@dataclass(frozen=True, slots=True)
class Choices:
    """What one person's entries can be filtered by, each sorted."""

    voices: tuple[str, ...] = ()  # "" is one that was rolled
    models: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()
    kinds: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Usage:
    """How many entries there are, and what they take of the disk."""

    n_entries: int = 0
    n_bytes: int = 0
    n_trashed: int = 0  # in the bin
    trashed_bytes: int = 0


def matching(words: str, owner: str, filters: Filters) -> tuple[str, tuple[Any, ...]]:
    """A WHERE clause with its values; each word must occur."""
    clauses, values = ["owner = ?", "state = ?"], [owner, READY]
    for word in words.casefold().split():
        clauses.append("words LIKE ? ESCAPE '\\'")
        values.append(f"%{_literal(word)}%")
    for column in ("voice", "model", "kind", "group"):
        if (wanted := filters.get(column)) is not None:
            clauses.append(f'"{column}" = ?')
            values.append(str(wanted))
    if (favourite := filters.get("favourite")) is not None:
        # as the partial index has it
        clauses.append("favourite" if favourite else "NOT favourite")
    if (tag := filters.get("tag")) is not None:
        clauses.append("tags <> '[]' AND EXISTS (SELECT 1 FROM json_each(tags) WHERE value = ?)")
        values.append(tag)
    return " AND ".join(clauses), tuple(values)


def _literal(word: str) -> str:
    """For LIKE, which has characters of its own."""
    return word.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")

"""What goes wrong, written down without what people typed.

A traceback's frames name our own code only; the message of an exception may quote anything, so
it is left away but for kinds that speak of the machine.
"""

from __future__ import annotations

import logging
import sqlite3
import traceback
from types import TracebackType

# torch's and the system's messages: shapes, sizes, paths, codes
_OF_THE_MACHINE = (OSError, RuntimeError, MemoryError, sqlite3.Error)


def trace_of(error: BaseException) -> str:
    """A traceback without the values of anything."""
    lines = ["".join(traceback.format_tb(error.__traceback__)).rstrip()]
    named = type(error).__name__
    lines.append(f"{named}: {error}" if isinstance(error, _OF_THE_MACHINE) else named)
    if error.__cause__ is not None:
        lines.insert(0, f"{trace_of(error.__cause__)}\nwhich led to:")
    return "\n".join(line for line in lines if line)


class DiscreetFormatter(logging.Formatter):
    """A formatter whose tracebacks don't quote."""

    def formatException(
        self,
        ei: tuple[type[BaseException], BaseException, TracebackType | None]
        | tuple[None, None, None],
    ) -> str:
        return trace_of(ei[1]) if ei[1] is not None else ""

"""Keep what a training step frees, for the next step to have."""

from __future__ import annotations

import ctypes
import sys

# glibc's mallopt: give memory back only if so much lies free, ask for so much more than needed,
# and take blocks below this size from the heap instead of mapping each anew
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD = -1, -2, -3
_AT_ONCE = 1 << 28  # bytes


def keep_memory() -> bool:
    """Have glibc hold on to freed blocks; whether it does.

    A step allocates the same hundreds of megabytes as the one before. Mapped anew each time, their
    pages are cleared one by one: half of the decoder's training was that (docs/log.md).
    """
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:  # another C library
        return False
    largest = (1 << 31) - 1
    wanted = {_TRIM_THRESHOLD: largest, _TOP_PAD: _AT_ONCE, _MMAP_THRESHOLD: _AT_ONCE}
    return all(mallopt(option, value) == 1 for option, value in wanted.items())

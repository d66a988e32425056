"""What the system tells of this machine's processor."""

from __future__ import annotations

import contextlib
import functools
import os
import platform
from pathlib import Path

# the variable that says to do without what newer processors can: one of LEVELS
VARIABLE = "BARK_PROCESSOR"
# by their names: as compilers call such a processor, and beginnings of what it lacks
LEVELS = {
    "avx2": ("x86-64-v3", ("avx512", "amx", "avx_vnni")),
    "baseline": ("x86-64", ("avx", "amx", "fma", "f16c")),
}
_CPUINFO = Path("/proc/cpuinfo")


def name() -> str:
    """The product's name, as far as known."""
    return _told("model name") or platform.processor() or platform.machine() or "CPU"


def vendor() -> str:
    """Who made it, as the processor itself says: "GenuineIntel", "AuthenticAMD"; "" elsewhere."""
    return _told("vendor_id")


def level() -> str:
    """What VARIABLE names, "" where it is all that there is."""
    return os.environ.get(VARIABLE, "")


def abilities() -> frozenset[str]:
    """Names of the extensions to use, as Linux spells them, "avx2", "avx512_vnni"; elsewhere none.

    What VARIABLE forbids is left out.
    """
    _, without = LEVELS.get(level(), ("", ()))
    there = (_told("flags") or _told("Features")).split()
    return frozenset(name for name in there if not name.startswith(without))


@functools.cache
def _told(key: str) -> str:
    with contextlib.suppress(OSError):
        for line in _CPUINFO.read_text().splitlines():
            if line.partition(":")[0].strip() == key:
                return line.partition(":")[2].strip()
    return ""

"""What the system tells of this machine and this program, without asking any GPU.

It doesn't import torch: a page whose models run elsewhere needs none.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import sys
from pathlib import Path

from bark_core import processor
from bark_core.placement import DeviceInfo

_BFLOAT16 = ("avx512_bf16", "amx_bf16", "bf16")  # as Linux spells a processor's abilities


def describe_cpu() -> DeviceInfo:
    """The CPU alone; asks no other device, as a process that owns none must not."""
    total_bytes, free_bytes = _main_memory()
    native = bool(processor.abilities().intersection(_BFLOAT16))
    return DeviceInfo("cpu", "cpu", processor.name(), total_bytes, free_bytes, native)


def process_memory_bytes() -> int | None:
    """Main memory that this program takes now; None where the system doesn't tell."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) * 1024
    return None


def _main_memory() -> tuple[int | None, int | None]:
    """Total and free bytes, as far as the system and its containers tell."""
    if sys.platform == "win32":
        return _windows_memory()
    try:
        total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError):
        return None, None
    free = _available(Path("/proc/meminfo"))
    limit = _number_in(Path("/sys/fs/cgroup/memory.max"))
    used = _number_in(Path("/sys/fs/cgroup/memory.current"))
    if limit is not None and used is not None and limit < total:
        left = max(0, limit - used)
        total, free = limit, left if free is None else min(free, left)
    return total, free


def _available(meminfo: Path) -> int | None:
    """Linux's own estimate of what programs can have without swapping."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        for line in meminfo.read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    return None


def _number_in(file: Path) -> int | None:
    with contextlib.suppress(OSError, ValueError):
        return int(file.read_text())  # "max" where there is no limit
    return None


def _windows_memory() -> tuple[int | None, int | None]:
    class Status(ctypes.Structure):
        _fields_ = [
            ("length", ctypes.c_ulong),
            ("load", ctypes.c_ulong),
            *((name, ctypes.c_ulonglong) for name in ("total", "free", "a", "b", "c", "d", "e")),
        ]

    status = Status()
    status.length = ctypes.sizeof(Status)
    kernel = getattr(ctypes, "windll").kernel32  # noqa: B009 - only there on Windows
    if not kernel.GlobalMemoryStatusEx(ctypes.byref(status)):
        return None, None
    return int(status.total), int(status.free)

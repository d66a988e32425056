"""What devices torch can use here, and what is done to them: stages moved, memory given back.

Which of them a model runs on is decided in `placement`.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import sys
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch
from torch import nn

from bark_core import int8_linear
from bark_core.errors import InvalidSetting, OutOfMemory
from bark_core.machine import describe_cpu
from bark_core.placement import DeviceInfo, Placement, kind_of


def describe_devices() -> tuple[DeviceInfo, ...]:
    """All devices that torch can use here, the fastest kind first, the CPU last."""
    found: list[DeviceInfo] = []
    if torch.cuda.is_available():
        found.extend(_cuda_info(index) for index in range(torch.cuda.device_count()))
    if torch.backends.mps.is_available():
        total = int(torch.mps.recommended_max_memory())
        free = max(0, total - int(torch.mps.driver_allocated_memory()))
        found.append(DeviceInfo("mps", "mps", "Apple GPU", total, free, int8=False))
    return (*found, replace(describe_cpu(), int8=int8_linear.available()))


def named_devices(names: Sequence[str]) -> tuple[str, ...]:
    """Which devices are meant, each by its own name; asks the driver how many there are, no more.

    Args:
        names: "cuda:1", "cuda", "mps", "cpu"; "all": every GPU, or else the CPU; "auto": left to
            whoever loads a model. One may be there several times.
    Raises:
        InvalidSetting: no such device here, or "auto" beside others.
    """
    if tuple(names) == ("auto",):
        return ("auto",)
    there = tuple(f"cuda:{index}" for index in range(torch.cuda.device_count()))
    if torch.backends.mps.is_available():
        there += ("mps",)
    found: list[str] = []
    for name in names:
        if name == "all":
            found += there or ("cpu",)
        elif (full := "cuda:0" if name == "cuda" else name) in (*there, "cpu"):
            found.append(full)
        else:
            known = ", ".join(map(repr, (*there, "cpu")))
            more = "" if name != "auto" else "; 'auto' stands alone, 'all' is every GPU"
            raise InvalidSetting(f"there is no device {name!r} here; there is {known}{more}")
    return tuple(found)


def dtype_of(name: str) -> torch.dtype:
    """Torch's own, of one of STORED."""
    dtype = getattr(torch, name)
    assert isinstance(dtype, torch.dtype)
    return dtype


def make_current(device: str) -> None:
    """Have a thread's kernels and streams on a device: each thread begins with the first GPU."""
    if kind_of(device) == "cuda":
        torch.cuda.set_device(device)


@contextlib.contextmanager
def resident(module: nn.Module, placement: Placement) -> Iterator[None]:
    """Have a stage's module on the device for its turn; nothing to do unless offloading.

    Afterwards the module has the very tensors it had before (perhaps mapped from a file), so
    that nothing is copied back. Weights that are changed inside are lost.
    """
    if not placement.offload:
        yield
        return
    home = [(tensor, tensor.data) for tensor in (*module.parameters(), *module.buffers())]
    try:
        for tensor, data in home:
            tensor.data = data.to(placement.device)
        for part in module.modules():
            if isinstance(part, nn.RNNBase):
                part.flatten_parameters()  # cuDNN wants them side by side
        yield
    finally:
        for tensor, data in home:
            tensor.data = data
        _empty_caches()


def release_memory() -> None:
    """Give memory that is no longer used back to the system and to other programs."""
    gc.collect()
    _empty_caches()
    trim_heap()


@contextlib.contextmanager
def out_of_memory_as_error(doing: str = "generating") -> Iterator[None]:
    """Turn torch's, Python's and the allocators' ways to say it into OutOfMemory.

    Args:
        doing: for the message: "the device ran out of memory while ...".
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not _is_out_of_memory(error):
            raise
        detail = (str(error).strip() or type(error).__name__).splitlines()[0]
        # the frames would keep the very tensors alive that there is no room for
        traceback.clear_frames(error.__traceback__)
        message = (
            f"there wasn't enough memory while {doing} ({detail}); close other programs, turn "
            "offload on, choose a smaller model, or generate less at a time"
        )
    else:
        return
    release_memory()
    raise OutOfMemory(message)


def _cuda_info(index: int) -> DeviceInfo:
    properties = torch.cuda.get_device_properties(index)
    try:
        free, total = torch.cuda.mem_get_info(index)
    except RuntimeError:  # a device in use by others exclusively can't even be asked
        free, total = 0, properties.total_memory
    with torch.cuda.device(index):
        native = torch.cuda.is_bf16_supported(including_emulation=False)
    return DeviceInfo(f"cuda:{index}", "cuda", properties.name, total, free, native)


def _empty_caches() -> None:
    torch.cuda.empty_cache()  # does nothing where CUDA wasn't used
    if torch.backends.mps.is_available():
        torch.mps.empty_cache()


def trim_heap() -> None:
    """Give freed memory back: glibc keeps pieces of some megabytes, as weights and sounds are."""
    if sys.platform == "linux":
        # another C library has no such function, and needs none
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None).malloc_trim(0)


def _is_out_of_memory(error: BaseException) -> bool:
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    text = str(error)
    if text == "could not create a primitive":  # oneDNN says no more than that
        return True
    return any(
        sign in text
        for sign in (
            "DefaultCPUAllocator: can't allocate",
            "DefaultCPUAllocator: not enough memory",
            "MPS backend out of memory",
            "CUDA out of memory",
            "CUBLAS_STATUS_ALLOC_FAILED",
            "out of memory",
            "can't start new thread",  # Python's: there is no room for its stack
        )
    )

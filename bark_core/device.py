"""Where a model runs: device, precision, all of it resident or one stage at a time.

Asking the machine (`describe_devices`) and deciding (`choose_placement`) are apart, so that the
decisions can be tested for machines that aren't there.
"""

from __future__ import annotations

import contextlib
import gc
import os
import platform
import sys
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import nn

from bark_core.config import CascadeConfig, CodecConfig, FineConfig, GPTConfig, TokenLayout
from bark_core.errors import InvalidSetting, OutOfMemory

PRECISIONS = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}
CPU = torch.device("cpu")
# share of the free memory that a model may take: the rest is for kernels' own buffers and
# for what the allocator loses between blocks
USABLE = 0.9


@dataclass(frozen=True, slots=True)
class DeviceInfo:
    """One device of this machine, as it is now."""

    device: str  # "cpu", "cuda:0", "mps": what choose_placement takes
    kind: Literal["cpu", "cuda", "mps"]
    name: str  # the product's name, as far as known
    total_bytes: int | None  # None: unknown
    free_bytes: int | None
    native_bfloat16: bool = False


@dataclass(frozen=True, slots=True)
class Placement:
    """A decision: where the transformers and the codec run, in which precision."""

    device: torch.device
    dtype: torch.dtype  # of the transformers; the codec is float32 anywhere
    offload: bool  # weights wait in main memory, one stage at a time is on the device
    codec_device: torch.device

    @property
    def precision(self) -> str:
        """The name of dtype: "float32", "bfloat16", "float16"."""
        return str(self.dtype).removeprefix("torch.")


def describe_devices() -> tuple[DeviceInfo, ...]:
    """All devices that torch can use here, the fastest kind first, the CPU last."""
    found: list[DeviceInfo] = []
    if torch.cuda.is_available():
        found.extend(_cuda_info(index) for index in range(torch.cuda.device_count()))
    if torch.backends.mps.is_available():
        total = int(torch.mps.recommended_max_memory())
        free = max(0, total - int(torch.mps.driver_allocated_memory()))
        found.append(DeviceInfo("mps", "mps", "Apple GPU", total, free))
    total_bytes, free_bytes = _main_memory()
    found.append(
        DeviceInfo("cpu", "cpu", _cpu_name(), total_bytes, free_bytes, native_bfloat16=True)
    )
    return tuple(found)


def choose_placement(
    device: str = "auto",
    precision: str = "auto",
    offload: bool | str = "auto",
    needed_bytes: int | None = None,
    *,
    devices: Sequence[DeviceInfo] | None = None,
) -> Placement:
    """Decide where a model runs.

    Args:
        device: "auto" (the CUDA device with the most free memory, else MPS, else the CPU),
            "cuda", "cuda:1", "mps" or "cpu".
        precision: "auto" (CUDA: bfloat16 where it is native, else float16; float32 elsewhere),
            "float32", "bfloat16" or "float16".
        offload: keep one stage at a time on the device; "auto": if all don't fit.
        needed_bytes: of the model if it isn't offloaded, see `memory_needed`.
        devices: what there is; asks the machine by default.
    Raises:
        InvalidSetting: no such device here, or a setting that makes no sense on it.
    """
    info = _find(device, tuple(devices) if devices is not None else describe_devices())
    dtype = _dtype(precision, info)
    place = torch.device(info.device)
    return Placement(
        device=place,
        dtype=dtype,
        offload=_offload(offload, info, needed_bytes),
        codec_device=CPU if info.kind == "mps" else place,
    )


def memory_needed(
    config: CascadeConfig, dtype: torch.dtype, offload: bool, *, batch: int = 1
) -> int:
    """Bytes of device memory for weights and working buffers, from the model's shapes.

    Args:
        offload: only the largest stage counts, otherwise all weights and the largest buffers.
        batch: rows that are generated at the same time.
    """
    layout, size = config.layout, dtype.itemsize
    text_positions = layout.text_window + 1 + layout.max_semantic_tokens
    coarse_positions = (
        layout.coarse_semantic_window + 1 + layout.max_coarse_history + layout.coarse_window
    )
    frames = layout.fine_window
    stages = [
        (n_parameters(config.text) * size, _causal_bytes(config.text, text_positions, size)),
        (n_parameters(config.coarse) * size, _causal_bytes(config.coarse, coarse_positions, size)),
        (n_parameters(config.fine) * size, _fine_bytes(config.fine, frames, size)),
        (n_codec_parameters(config.codec, layout) * 4, _codec_bytes(config.codec, frames)),
    ]
    if offload:
        return max(weights + batch * work for weights, work in stages)
    return sum(weights for weights, _ in stages) + batch * max(work for _, work in stages)


def fits(
    config: CascadeConfig, info: DeviceInfo, *, dtype: torch.dtype, offload: bool, batch: int = 1
) -> bool | None:
    """Whether the model fits the device's free memory; None where that isn't known."""
    if info.free_bytes is None:
        return None
    return memory_needed(config, dtype, offload, batch=batch) <= USABLE * info.free_bytes


def n_parameters(config: GPTConfig) -> int:
    """Weights of one transformer, shared ones counted once."""
    width, fine = config.n_embd, isinstance(config, FineConfig)
    norm = 2 * width if config.bias or fine else width
    matrices = 12 * width * width + (9 * width if config.bias else 0)
    total = config.n_layer * (matrices + 2 * norm) + norm + config.block_size * width
    if isinstance(config, FineConfig):
        return total + config.n_codes_total * config.input_vocab_size * width
    return total + (config.input_vocab_size + config.output_vocab_size) * width


def n_codec_parameters(config: CodecConfig, layout: TokenLayout) -> int:
    """Weights of the codec, with the codebooks that the layout uses."""
    total = layout.n_codebooks * config.bins * config.dimension
    halves = [-1, 1] if config.encoder else [-1]
    widest = config.n_filters * 2 ** len(config.ratios)
    for half in halves:
        first, last = (1, config.dimension) if half == 1 else (config.dimension, 1)
        ends = (config.n_filters, widest) if half == 1 else (widest, config.n_filters)
        total += _conv(first, ends[0], config.kernel_size)
        total += _conv(ends[1], last, config.last_kernel_size)
        total += config.lstm * (8 * widest * widest + 8 * widest)
        width = config.n_filters
        for ratio in reversed(config.ratios):
            total += 2 * width * width * 2 * ratio + (2 * width if half == 1 else width)
            total += config.n_residual_layers * _residual(config, width)
            width *= 2
    return total


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


def _find(device: str, devices: tuple[DeviceInfo, ...]) -> DeviceInfo:
    if device == "auto":
        cuda = [info for info in devices if info.kind == "cuda"]
        if cuda:
            return max(cuda, key=lambda info: info.free_bytes or 0)
        return devices[0]
    wanted = "cuda:0" if device == "cuda" else device
    for info in devices:
        if info.device == wanted:
            return info
    there = ", ".join(repr(info.device) for info in devices)
    raise InvalidSetting(f"there is no device {device!r} here; there is {there} (or 'auto')")


def _dtype(precision: str, info: DeviceInfo) -> torch.dtype:
    if precision == "auto":
        if info.kind == "cuda":
            return torch.bfloat16 if info.native_bfloat16 else torch.float16
        return torch.float32
    if precision not in PRECISIONS:
        raise InvalidSetting(
            f"precision must be 'auto', {', '.join(map(repr, PRECISIONS))}, got {precision!r}"
        )
    if precision == "bfloat16" and not info.native_bfloat16:
        raise InvalidSetting(
            f"{info.device} ({info.name}) has no bfloat16 of its own; use 'float16' or 'float32'"
        )
    return PRECISIONS[precision]


def _offload(offload: bool | str, info: DeviceInfo, needed_bytes: int | None) -> bool:
    if offload not in (True, False, "auto"):
        raise InvalidSetting(f"offload must be True, False or 'auto', got {offload!r}")
    if info.kind != "cuda":
        if offload is True:
            raise InvalidSetting(
                f"offload moves weights to a CUDA device and back; {info.device} shares its "
                "memory with the rest of the machine, so there is nothing to gain: use 'auto'"
            )
        return False
    if offload != "auto":
        return bool(offload)
    if needed_bytes is None or info.free_bytes is None:
        return False
    return needed_bytes > USABLE * info.free_bytes


def _causal_bytes(config: GPTConfig, positions: int, size: int) -> int:
    """KV cache of one row, the hidden states of its prompt and float32 logits of one step."""
    positions = min(positions, config.block_size)
    cache = 2 * config.n_layer * positions * config.n_embd * size
    return cache + 8 * positions * config.n_embd * size + 4 * config.output_vocab_size * 4


def _fine_bytes(config: FineConfig, frames: int, size: int) -> int:
    """Hidden states of a window, attention scores, logits in float32 with their softmax."""
    scores = config.n_head * frames * frames * size
    return 8 * frames * config.n_embd * size + scores + 3 * frames * config.output_vocab_size * 4


def _codec_bytes(config: CodecConfig, frames: int) -> int:
    """The widest three float32 feature maps of the decoder, for one window of frames."""
    widest, width, length = 0, config.n_filters * 2 ** len(config.ratios), frames
    for ratio in config.ratios:
        length, width = length * ratio, width // 2
        widest = max(widest, width * length)
    return 3 * 4 * widest


def _conv(n_in: int, n_out: int, kernel: int) -> int:
    return n_in * n_out * kernel + n_out


def _residual(config: CodecConfig, width: int) -> int:
    hidden = width // config.compress
    skip = 0 if config.true_skip else _conv(width, width, 1)
    return _conv(width, hidden, config.residual_kernel_size) + _conv(hidden, width, 1) + skip


def _cuda_info(index: int) -> DeviceInfo:
    properties = torch.cuda.get_device_properties(index)
    try:
        free, total = torch.cuda.mem_get_info(index)
    except RuntimeError:  # a device in use by others exclusively can't even be asked
        free, total = 0, properties.total_memory
    with torch.cuda.device(index):
        native = torch.cuda.is_bf16_supported(including_emulation=False)
    return DeviceInfo(f"cuda:{index}", "cuda", properties.name, total, free, native)


def _cpu_name() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine() or "CPU"


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
    import ctypes

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


def _empty_caches() -> None:
    torch.cuda.empty_cache()  # does nothing where CUDA wasn't used
    if torch.backends.mps.is_available():
        torch.mps.empty_cache()


def _is_out_of_memory(error: BaseException) -> bool:
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    text = str(error)
    return any(
        sign in text
        for sign in (
            "DefaultCPUAllocator: can't allocate",
            "DefaultCPUAllocator: not enough memory",
            "MPS backend out of memory",
            "CUDA out of memory",
            "CUBLAS_STATUS_ALLOC_FAILED",
            "out of memory",
        )
    )

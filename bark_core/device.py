"""Where a model runs: device, precision, all of it resident or one stage at a time.

Asking the machine (`describe_devices`) and deciding (`choose_placement`) are apart, so that the
decisions can be tested for machines that aren't there.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import logging
import os
import sys
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import torch
from torch import nn

from bark_core import int8_linear, processor
from bark_core.config import (
    CascadeConfig,
    CodecConfig,
    FineConfig,
    GPTConfig,
    TokenLayout,
    VocoderConfig,
)
from bark_core.errors import InvalidSetting, OutOfMemory
from bark_core.vocoder import STEPS_AT_ONCE

# precisions that a model's files may have
STORED = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}
Bits = Literal["model", "int8"]
Kind = Literal["cpu", "cuda", "mps"]


@dataclass(frozen=True, slots=True)
class Numbers:
    """What a model computes with.

    Attributes:
        dtype: of the transformers, one of STORED.
        weights: "int8": those of linear layers. On a CPU all of them; on a CUDA device those
            that decode steps read, while prompts and the fine stage have dtype's.
        cache: "int8": keys and values of the past, with a scale a position and head.
    """

    dtype: torch.dtype
    weights: Bits = "model"
    cache: Bits = "model"


# those that it can run in, as they are where they are chiefly used
PRECISIONS = {
    **{name: Numbers(dtype) for name, dtype in STORED.items()},
    "int8": Numbers(torch.float32, weights="int8"),
    "bfloat16-kv8": Numbers(torch.bfloat16, cache="int8"),
}
CUDA_ONLY = ("bfloat16-kv8",)
CPU = torch.device("cpu")
_BFLOAT16 = ("avx512_bf16", "amx_bf16", "bf16")  # as Linux spells a processor's abilities
_log = logging.getLogger(__name__)
# share of the free memory that a model may take: the rest is for kernels' own buffers and
# for what the allocator loses between blocks
USABLE = 0.9


@dataclass(frozen=True, slots=True)
class DeviceInfo:
    """One device of this machine, as it is now."""

    device: str  # "cpu", "cuda:0", "mps": what choose_placement takes
    kind: Kind
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
    weights: Bits = "model"  # these two as in `Numbers`
    cache: Bits = "model"

    @property
    def numbers(self) -> Numbers:
        return Numbers(self.dtype, self.weights, self.cache)

    @property
    def precision(self) -> str:
        """The name of what it computes with, one of PRECISIONS."""
        if self.weights == "int8":
            return "int8"
        return self.stored_precision + ("-kv8" if self.cache == "int8" else "")

    @property
    def stored_precision(self) -> str:
        """The precision of the files that it is made of."""
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
    return (*found, describe_cpu())


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


def make_current(device: torch.device) -> None:
    """Have a thread's kernels and streams on a device: each thread begins with the first GPU."""
    if device.type == "cuda":
        torch.cuda.set_device(device)


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
            "float32", "bfloat16", "float16", on a CPU or a CUDA device "int8", on a CUDA device
            "bfloat16-kv8"; see PRECISIONS.
        offload: keep one stage at a time on the device; "auto": if all don't fit.
        needed_bytes: of the model if it isn't offloaded, see `memory_needed`.
        devices: what there is; asks the machine by default.
    Raises:
        InvalidSetting: no such device here, or a setting that makes no sense on it.
    """
    info = _find(device, tuple(devices) if devices is not None else describe_devices())
    numbers = _numbers(precision, info)
    place = torch.device(info.device)
    return Placement(
        device=place,
        dtype=numbers.dtype,
        offload=_offload(offload, info, needed_bytes),
        codec_device=CPU if info.kind == "mps" else place,
        weights=numbers.weights,
        cache=numbers.cache,
    )


def memory_needed(config: CascadeConfig, numbers: Numbers, offload: bool, *, batch: int = 1) -> int:
    """Bytes of device memory for weights and working buffers, from the model's shapes.

    Args:
        offload: only the largest stage counts, otherwise all weights and the largest buffers.
        batch: rows that are generated at the same time.
    """
    layout = config.layout
    size = numbers.dtype.itemsize
    text_positions = layout.text_window + 1 + layout.max_semantic_tokens
    coarse_positions = (
        layout.coarse_semantic_window + 1 + layout.max_coarse_history + layout.coarse_window
    )
    frames = layout.fine_window
    stages = [
        (_weight_bytes(config.text, numbers), _causal_bytes(config.text, text_positions, numbers)),
        (
            _weight_bytes(config.coarse, numbers),
            _causal_bytes(config.coarse, coarse_positions, numbers),
        ),
        (_weight_bytes(config.fine, numbers), _fine_bytes(config.fine, frames, size)),
        (n_codec_parameters(config.codec, layout) * 4, _codec_bytes(config.codec, frames)),
    ]
    if offload:
        return max(weights + batch * work for weights, work in stages)
    return sum(weights for weights, _ in stages) + batch * max(work for _, work in stages)


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
    if config.encoder and config.analysis is not None:
        total += config.analysis.n_mels * (1 + config.dimension)
    elif config.encoder:
        total += _seanet(config, decoder=False)
    if config.vocoder is not None:
        return total + _vocoder(config.vocoder, config.dimension)
    return total + _seanet(config, decoder=True)


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


def _numbers(precision: str, info: DeviceInfo) -> Numbers:
    half = torch.bfloat16 if info.native_bfloat16 else torch.float16
    if precision == "auto":
        return Numbers(half if info.kind == "cuda" else torch.float32)
    if precision not in PRECISIONS:
        raise InvalidSetting(
            f"precision must be 'auto', {', '.join(map(repr, PRECISIONS))}, got {precision!r}"
        )
    where = f"{info.device} ({info.name})"
    if precision in CUDA_ONLY and info.kind != "cuda":
        raise InvalidSetting(
            f"{precision!r} keeps keys and values in 8 bits, which only CUDA devices can; {where} "
            f"can have {', '.join(map(repr, _possible(info)))}: use 'auto'"
        )
    numbers = PRECISIONS[precision]
    if numbers.dtype == torch.bfloat16 and not info.native_bfloat16:
        if info.kind != "cpu":
            raise InvalidSetting(
                f"{where} has no bfloat16 of its own, which {precision!r} needs; "
                "use 'float16' or 'float32'"
            )
        _log.warning("%s computes bfloat16 slowly; int8 is quicker, and smaller", info.name)
    if precision != "int8" or info.kind == "cuda":
        return replace(numbers, dtype=half) if precision == "int8" else numbers
    if info.kind == "mps" or not int8_linear.available():
        raise InvalidSetting(
            f"torch can't compute with int8 on {where}; a CPU or a CUDA device can: use 'auto'"
        )
    return numbers


def _possible(info: DeviceInfo) -> list[str]:
    """Names of the precisions that a device which isn't CUDA's can have."""
    names = [*STORED, "int8"] if info.kind == "cpu" else list(STORED)
    return ["auto", *names]


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


def _weight_bytes(config: GPTConfig, numbers: Numbers) -> int:
    total = n_parameters(config)
    matrices = 12 * config.n_layer * config.n_embd**2
    fine = isinstance(config, FineConfig)
    head = 0 if fine else config.output_vocab_size * config.n_embd
    size = numbers.dtype.itemsize
    if numbers.weights == "model":
        return total * size
    if numbers.dtype == torch.float32:
        # a CPU's: of the matrices a second copy, packed for prompts
        return 2 * matrices + head + size * (total - matrices - head)
    return total * size + (0 if fine else matrices + head)  # decode steps have their own


def _causal_bytes(config: GPTConfig, positions: int, numbers: Numbers) -> int:
    """KV cache of one row, the hidden states of its prompt and float32 logits of one step."""
    positions, size = min(positions, config.block_size), numbers.dtype.itemsize
    cache = 2 * config.n_layer * positions * config.n_embd * size
    if numbers.cache == "int8":
        cache = 2 * config.n_layer * positions * (config.n_embd + 4 * config.n_head)
    return cache + 8 * positions * config.n_embd * size + 4 * config.output_vocab_size * 4


def _fine_bytes(config: FineConfig, frames: int, size: int) -> int:
    """Hidden states of a window, attention scores, logits in float32 with their softmax."""
    scores = config.n_head * frames * frames * size
    return 8 * frames * config.n_embd * size + scores + 3 * frames * config.output_vocab_size * 4


def _codec_bytes(config: CodecConfig, frames: int) -> int:
    """The widest three float32 feature maps of the decoder, for one window of frames."""
    if config.vocoder is not None:  # they are spectra, complex, one a step
        return 3 * 8 * STEPS_AT_ONCE * (config.vocoder.window // 2 + 1)
    widest, width, length = 0, config.n_filters * 2 ** len(config.ratios), frames
    for ratio in config.ratios:
        length, width = length * ratio, width // 2
        widest = max(widest, width * length)
    return 3 * 4 * widest


def _seanet(config: CodecConfig, *, decoder: bool) -> int:
    """Weights of EnCodec's encoder or decoder."""
    widest = config.n_filters << len(config.ratios)
    first, last = (config.dimension, 1) if decoder else (1, config.dimension)
    ends = (widest, config.n_filters) if decoder else (config.n_filters, widest)
    total = _conv(first, ends[0], config.kernel_size)
    total += _conv(ends[1], last, config.last_kernel_size)
    total += config.lstm * (8 * widest * widest + 8 * widest)
    width = config.n_filters
    for ratio in reversed(config.ratios):
        total += 2 * width * width * 2 * ratio + (width if decoder else 2 * width)
        total += config.n_residual_layers * _residual(config, width)
        width *= 2
    return total


def _vocoder(config: VocoderConfig, dimension: int) -> int:
    first, *others = config.kernel_sizes
    width, n_values = config.width, 1 + config.n_bands + config.n_cepstra
    total = _conv(dimension, width, first) + _conv(width, config.steps * n_values, 1)
    return total + sum(_conv(width, width, size) for size in others)


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

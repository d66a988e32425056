"""Decisions: where a model runs, in which precision, all of it resident or one stage at a time.

They are made of what `device` and `machine` find, and of names, so that they can be tested for
machines that aren't there, sent to other processes, and made without torch.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, cast

from bark_core.errors import InvalidSetting

Bits = Literal["model", "int8"]
Kind = Literal["cpu", "cuda", "mps"]

# precisions that a model's files may have, by torch's names, and the bytes of a number
STORED = {"float32": 4, "bfloat16": 2, "float16": 2}


@dataclass(frozen=True, slots=True)
class Numbers:
    """What a model computes with.

    Attributes:
        dtype: of the transformers, one of STORED.
        weights: "int8": those of linear layers. On a CPU all of them; on a CUDA device those
            that decode steps read, while prompts and the fine stage have dtype's.
        cache: "int8": keys and values of the past, with a scale a position and head.
    """

    dtype: str
    weights: Bits = "model"
    cache: Bits = "model"

    @property
    def n_bytes(self) -> int:
        """Of a number in dtype."""
        return STORED[self.dtype]


# those that it can run in, as they are where they are chiefly used
PRECISIONS = {
    **{name: Numbers(name) for name in STORED},
    "int8": Numbers("float32", weights="int8"),
    "bfloat16-kv8": Numbers("bfloat16", cache="int8"),
}
CUDA_ONLY = ("bfloat16-kv8",)
# share of the free memory that a model may take: the rest is for kernels' own buffers and
# for what the allocator loses between blocks
USABLE = 0.9
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class DeviceInfo:
    """One device of this machine, as it is now."""

    device: str  # "cpu", "cuda:0", "mps": what choose_placement takes
    kind: Kind
    name: str  # the product's name, as far as known
    total_bytes: int | None  # None: unknown
    free_bytes: int | None
    native_bfloat16: bool = False
    int8: bool = True  # torch can multiply int8 matrices there


@dataclass(frozen=True, slots=True)
class Placement:
    """A decision: where the transformers and the codec run, in which precision."""

    device: str  # as in `DeviceInfo`
    dtype: str  # of the transformers; the codec is float32 anywhere
    offload: bool  # weights wait in main memory, one stage at a time is on the device
    codec_device: str
    weights: Bits = "model"  # these two as in `Numbers`
    cache: Bits = "model"

    @property
    def kind(self) -> Kind:
        """Of the device."""
        return kind_of(self.device)

    @property
    def numbers(self) -> Numbers:
        return Numbers(self.dtype, self.weights, self.cache)

    @property
    def precision(self) -> str:
        """The name of what it computes with, one of PRECISIONS."""
        if self.weights == "int8":
            return "int8"
        return self.dtype + ("-kv8" if self.cache == "int8" else "")


def kind_of(device: str) -> Kind:
    """The kind of a device by its name: "cuda" of "cuda:1"."""
    return cast(Kind, device.partition(":")[0])


def choose_placement(
    device: str = "auto",
    precision: str = "auto",
    offload: bool | str = "auto",
    needed_bytes: int | None = None,
    *,
    devices: Sequence[DeviceInfo],
) -> Placement:
    """Decide where a model runs.

    Args:
        device: "auto" (the CUDA device with the most free memory, else MPS, else the CPU),
            "cuda", "cuda:1", "mps" or "cpu".
        precision: "auto" (CUDA: bfloat16 where it is native, else float16; float32 elsewhere),
            "float32", "bfloat16", "float16", on a CPU or a CUDA device "int8", on a CUDA device
            "bfloat16-kv8"; see PRECISIONS.
        offload: keep one stage at a time on the device; "auto": if all don't fit.
        needed_bytes: of the model if it isn't offloaded, see `sizes.memory_needed`.
        devices: what there is.
    Raises:
        InvalidSetting: no such device here, or a setting that makes no sense on it.
    """
    info = _find(device, devices)
    numbers = _numbers(precision, info)
    return Placement(
        device=info.device,
        dtype=numbers.dtype,
        offload=_offload(offload, info, needed_bytes),
        codec_device="cpu" if info.kind == "mps" else info.device,
        weights=numbers.weights,
        cache=numbers.cache,
    )


def _find(device: str, devices: Sequence[DeviceInfo]) -> DeviceInfo:
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
    half = "bfloat16" if info.native_bfloat16 else "float16"
    if precision == "auto":
        return Numbers(half if info.kind == "cuda" else "float32")
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
    if numbers.dtype == "bfloat16" and not info.native_bfloat16:
        if info.kind != "cpu":
            raise InvalidSetting(
                f"{where} has no bfloat16 of its own, which {precision!r} needs; "
                "use 'float16' or 'float32'"
            )
        _log.warning("%s computes bfloat16 slowly; int8 is quicker, and smaller", info.name)
    if precision != "int8" or info.kind == "cuda":
        return replace(numbers, dtype=half) if precision == "int8" else numbers
    if not info.int8:
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

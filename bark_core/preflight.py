"""Before anything is downloaded: which model fits this machine, and why.

Nothing here asks the machine: devices and disk are handed in, so that the answers can be tested
for machines that aren't there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from bark_core.config import CascadeConfig
from bark_core.placement import PRECISIONS, USABLE, DeviceInfo, Placement, choose_placement
from bark_core.sizes import memory_needed, n_codec_parameters, n_parameters


class Verdict(StrEnum):
    """Whether a model can run on a device."""

    FITS = "fits"
    FITS_WITH_OFFLOAD = "fits with offload"  # one stage at a time is on the device: slower
    TOO_LITTLE_MEMORY = "too little memory"
    TOO_LITTLE_DISK = "too little disk"
    UNKNOWN = "unknown"  # the device doesn't tell how much memory is free

    @property
    def good(self) -> bool:
        return self in (Verdict.FITS, Verdict.FITS_WITH_OFFLOAD, Verdict.UNKNOWN)


@dataclass(frozen=True, slots=True)
class Candidate:
    """A model that might be used.

    Attributes:
        disk_bytes: that getting it would take; 0 if it is here.
    """

    name: str
    config: CascadeConfig
    disk_bytes: int = 0

    @property
    def n_parameters(self) -> int:
        config = self.config
        transformers = sum(map(n_parameters, (config.text, config.coarse, config.fine)))
        return transformers + n_codec_parameters(config.codec, config.layout)


@dataclass(frozen=True, slots=True)
class Fit:
    """How a model would run on a device."""

    model: str
    device: DeviceInfo
    precision: str
    offload: bool
    needed_bytes: int  # of the device's memory, for weights and working buffers
    available_bytes: int | None  # of its free memory, what a model may take
    disk_needed_bytes: int  # 0: it is here
    disk_free_bytes: int | None
    verdict: Verdict
    lighter: str | None = None  # another precision in which it would fit, where this one doesn't

    def in_words(self) -> str:
        """ "fits", "too little memory: needs 5.1 GB, has 3.9"."""
        match self.verdict:
            case Verdict.TOO_LITTLE_MEMORY:
                needed, there = self.needed_bytes, self.available_bytes or 0
                lighter = f"; it would fit in {self.lighter}" if self.lighter else ""
                return f"{self.verdict}: needs {_gb(needed)} GB, has {_gb(there)}{lighter}"
            case Verdict.TOO_LITTLE_DISK:
                needed, there = self.disk_needed_bytes, self.disk_free_bytes or 0
                return f"{self.verdict}: needs {_gb(needed)} GB, has {_gb(there)}"
            case Verdict.UNKNOWN:
                return f"needs {_gb(self.needed_bytes)} GB; how much is free isn't known"
        return f"{self.verdict}: needs {_gb(self.needed_bytes)} GB"


class Reason(StrEnum):
    """Why a model is recommended."""

    ONLY = "there is no other"
    BEST = "the largest model, and it fits this GPU"
    BEST_WITH_OFFLOAD = "the largest model; it fits this GPU one stage at a time"
    NO_GPU = "there is no GPU here, and a larger model would be slow without one"
    MEMORY = "a larger model needs more memory than is free"
    DISK = "a larger model needs more disk than is free"
    NOTHING_FITS = "real Bark needs more memory or disk than is free; this one is to try things"


@dataclass(frozen=True, slots=True)
class Recommendation:
    """Which model to use on this machine, how, and why."""

    fit: Fit
    reason: Reason


def preflight(
    model: Candidate,
    devices: Sequence[DeviceInfo],
    *,
    device: str = "auto",
    precision: str = "auto",
    offload: bool | str = "auto",
    disk_free_bytes: int | None = None,
) -> Fit:
    """Whether and how a model would run on one of some devices.

    Args:
        device, precision, offload: as for `load`, which decides in the same way.
        disk_free_bytes: where it would be downloaded to; None: unknown.
    Raises:
        InvalidSetting: no such device, or a setting that makes no sense on it.
    """
    wanted = choose_placement(device, precision, devices=devices)
    resident = memory_needed(model.config, wanted.numbers, offload=False)
    placement = choose_placement(device, precision, offload, resident, devices=devices)
    info = next(info for info in devices if info.device == placement.device)
    needed = memory_needed(model.config, placement.numbers, placement.offload)
    available = None if info.free_bytes is None else int(USABLE * info.free_bytes)
    verdict = _verdict(needed, available, model.disk_bytes, disk_free_bytes, placement.offload)
    return Fit(
        model=model.name,
        device=info,
        precision=placement.precision,
        offload=placement.offload,
        needed_bytes=needed,
        available_bytes=available,
        disk_needed_bytes=model.disk_bytes,
        disk_free_bytes=disk_free_bytes,
        verdict=verdict,
        lighter=_lighter(model, placement, available)
        if verdict is Verdict.TOO_LITTLE_MEMORY
        else None,
    )


def recommend(
    models: Sequence[Candidate],
    devices: Sequence[DeviceInfo],
    *,
    device: str = "auto",
    disk_free_bytes: int | None = None,
) -> Recommendation:
    """The model to use on this machine.

    On a GPU the largest that fits, whole if that is possible at all. Without one the smallest
    real one: speed matters more there. A demonstration model only if nothing else fits.

    Args:
        models: at least one.
    Raises:
        InvalidSetting: no such device.
    """
    by_size = sorted(models, key=lambda model: (_is_real(model), model.n_parameters), reverse=True)
    fits = [
        preflight(model, devices, device=device, disk_free_bytes=disk_free_bytes)
        for model in by_size
    ]
    real = [fit for model, fit in zip(by_size, fits, strict=True) if _is_real(model)]
    good = [fit for fit in real if fit.verdict.good]
    if not good:
        return Recommendation(fits[-1], Reason.NOTHING_FITS if real else Reason.ONLY)
    if good[0].device.kind == "cpu":
        smaller = Reason.NO_GPU if good[0] is not good[-1] else _why_not_larger(real, good[-1])
        return Recommendation(good[-1], smaller)
    whole = [fit for fit in good if not fit.offload]
    chosen = whole[0] if whole else good[0]
    return Recommendation(chosen, _why_not_larger(real, chosen))


def disk_needed(total_bytes: int, done_bytes: int = 0) -> int:
    """What getting a model takes on the disk: what is still to come, and as much to convert it."""
    return total_bytes - done_bytes + total_bytes


def _why_not_larger(real: Sequence[Fit], chosen: Fit) -> Reason:
    if chosen is real[0] and chosen.device.kind == "cpu":
        return Reason.NO_GPU
    if chosen is real[0]:
        return Reason.BEST_WITH_OFFLOAD if chosen.offload else Reason.BEST
    larger = real[real.index(chosen) - 1]
    return Reason.DISK if larger.verdict is Verdict.TOO_LITTLE_DISK else Reason.MEMORY


def _is_real(model: Candidate) -> bool:
    return not model.config.demonstration


def _verdict(
    needed: int, available: int | None, disk_needed: int, disk_free: int | None, offload: bool
) -> Verdict:
    if available is not None and needed > available:
        return Verdict.TOO_LITTLE_MEMORY
    if disk_free is not None and disk_needed > disk_free:
        return Verdict.TOO_LITTLE_DISK
    if available is None:
        return Verdict.UNKNOWN
    return Verdict.FITS_WITH_OFFLOAD if offload else Verdict.FITS


def _lighter(model: Candidate, placement: Placement, available: int | None) -> str | None:
    """A smaller precision in which the model would fit."""
    precision = {"cuda": "float16", "mps": "bfloat16", "cpu": "int8"}[placement.kind]
    if placement.precision == precision or available is None:
        return None
    needed = memory_needed(model.config, PRECISIONS[precision], placement.offload)
    return precision if needed <= available else None


def _gb(n_bytes: int) -> str:
    return f"{n_bytes / 1e9:.1f}"

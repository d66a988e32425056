"""What a machine can do, and how long something takes on it when others disturb it."""

from __future__ import annotations

import functools
import os
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from bark_core import processor

# what holds torch, its libraries and our own kernel to AVX2; read when they are loaded
AVX2 = {
    "ATEN_CPU_CAPABILITY": "avx2",
    "MKL_ENABLE_INSTRUCTIONS": "AVX2",
    "ONEDNN_MAX_CPU_ISA": "AVX2",
    processor.VARIABLE: "avx2",
}
DISTURBED = 1.25  # samples that took so much longer than the best one are dropped


@dataclass(frozen=True, slots=True)
class Timed:
    """How long something took, seconds."""

    best: float
    median: float  # of the samples that weren't dropped
    cpu: float  # computing time of all threads in the best sample
    kept: int
    dropped: int

    def per(self, n: float) -> Timed:
        """The same for an n-th of the work."""
        return Timed(self.best / n, self.median / n, self.cpu / n, self.kept, self.dropped)


@dataclass(frozen=True, slots=True)
class Sample:
    """One measurement, seconds."""

    wall: float
    cpu: float


def sample(work: Callable[[], object], device: str = "cpu") -> Sample:
    """Do something once."""
    _wait(device)
    before, cpu = time.perf_counter(), time.process_time()
    work()
    _wait(device)
    return Sample(time.perf_counter() - before, time.process_time() - cpu)


def summed_up(samples: list[Sample]) -> Timed:
    """The best and what is near it."""
    best = min(samples, key=lambda one: one.wall)
    kept = [one.wall for one in samples if one.wall <= DISTURBED * best.wall]
    return Timed(best.wall, statistics.median(kept), best.cpu, len(kept), len(samples) - len(kept))


def timed(work: Callable[[], object], repeat: int = 3, device: str = "cpu") -> Timed:
    """Do something some times, and once before to warm up."""
    work()
    return summed_up([sample(work, device) for _ in range(repeat)])


@dataclass(frozen=True, slots=True)
class Limits:
    """What this machine reaches: bytes read a second, float32 operations a second."""

    bytes_s: float
    operations_s: float


def limits(device: str = "cpu", dtype: torch.dtype = torch.float32) -> Limits:
    """Measure them: a sum over 400 MB and a product of them with a vector, whichever is quicker;
    a product of two large matrices."""
    wide = torch.ones(10_000, 10_000, device=device)
    times_a_vector = functools.partial(torch.mv, wide, wide[0])
    reading = min(timed(work, 5, device).best for work in (wide.sum, times_a_vector))
    del wide, times_a_vector
    n = 2048 if device == "cpu" else 8192
    square = torch.ones(n, n, device=device, dtype=dtype)
    product = timed(lambda: square @ square, 5, device).best
    return Limits(4e8 / reading, 2 * n**3 / product)


def held_to_avx2() -> bool:
    """Whether the environment asks for AVX2 alone; if so, torch's int8 products are held to it.

    Those of FBGEMM, which torch takes by itself, know no such variable.
    """
    if any(os.environ.get(name) != value for name, value in AVX2.items()):
        return False
    torch.backends.quantized.engine = "onednn"
    return True


def conditions() -> dict[str, Any]:
    """Hardware and circumstances, for a report."""
    graphics = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {
        "date": time.strftime("%Y-%m-%d"),
        "processor": processor.name(),
        "abilities": sorted(
            processor.abilities() & {"avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_tile"}
        ),
        "environment": {name: os.environ[name] for name in AVX2 if name in os.environ},
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gpu": graphics,
        "torch": torch.__version__,
        "load_average": [round(load, 1) for load in os.getloadavg()],
    }


def _wait(device: str) -> None:
    if device.startswith("cuda"):
        torch.cuda.synchronize()

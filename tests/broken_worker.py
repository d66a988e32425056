"""A worker with a model that does what its text says: it crashes, hangs, runs out of memory.

`python -m tests.broken_worker`; the words that do it are those of `Fault`.
"""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import sys
import time
from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import Any

from bark_core import engine, wire, worker
from bark_core.backend import LoadedModel, ModelSpec
from bark_core.cascade import Cascade
from bark_core.checkpoint import load
from bark_core.errors import OutOfMemory
from bark_core.hub import ProgressCallback
from bark_core.in_process import InProcessBackend
from bark_core.job_run import JobRun
from bark_core.jobs import Job

COMMAND = (sys.executable, "-m", "tests.broken_worker")
HALF = "half:"  # and a folder: the first worker that loads it has too little memory
WORN = "worn:"  # and a folder: no process can load it twice
_loaded: set[str] = set()


class Fault(StrEnum):
    CRASH = "It crashes."  # as a fault in a native library does
    ASSERT = "It asserts."  # the device is lost, as after a device-side assert
    MEMORY = "It is large."
    OFFLOAD = "It fits offloaded."  # and not otherwise
    MUTE = "It is mute."  # there isn't the memory to tell what happens
    FREEZE = "It freezes."  # the process shows no sign of life any more
    STALL = "It stalls."  # the process lives, its job does not go on
    LIMIT = "It has a limit."  # once: from now on the process may take 8 MB more, no more
    DIRT = "It prints."  # a library writes to standard output
    SLOW = "It is slow."
    ONCE = "It crashes once."  # the file named by BROKEN_WORKER says that it did


def broken_load(model: str, *, device: str, offload: bool | str, **options: Any) -> Cascade:
    if model == "crash":
        os._exit(3)
    if model.startswith(HALF):
        if _for_the_first_time():
            raise OutOfMemory("there wasn't enough memory while loading the model")
        model = model.removeprefix(HALF)
    if model.startswith(WORN):
        if model in _loaded:
            raise OutOfMemory("there wasn't enough memory while loading the model")
        _loaded.add(model)
        model = model.removeprefix(WORN)
    if device.startswith("cuda"):  # there is none: the CPU is taken, and offloads as a GPU does
        cascade = load(model, device="cpu", offload="auto", **options)
        cascade.placement = replace(cascade.placement, offload=offload is True)
        return cascade
    return load(model, device=device, offload=offload, **options)


class Pretending(InProcessBackend):
    """Says of a model that was to be on a GPU that it is there."""

    def load(self, spec: ModelSpec, *, progress: ProgressCallback | None = None) -> LoadedModel:
        known = super().load(spec, progress=progress)
        if not spec.device.startswith("cuda"):
            return known
        return replace(known, placement=replace(known.placement, device=spec.device))


def _without_memory(*_anything: object) -> Any:
    raise MemoryError


def _data_bytes() -> int:
    """Of this process' own memory that it may write to, as RLIMIT_DATA counts it."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmData:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError("this system doesn't tell")


def _for_the_first_time() -> bool:
    try:
        Path(os.environ["BROKEN_WORKER"]).touch(exist_ok=False)
    except FileExistsError:
        return False
    return True


class BrokenRun(JobRun):
    """Does it in its third round."""

    n_rounds = 0

    def __init__(self, cascade: Cascade, job: Job) -> None:
        super().__init__(cascade, job)
        self.cascade = cascade

    def advance(self) -> None:
        super().advance()
        self.n_rounds += 1
        text = self.job.request.text
        if self.n_rounds == 3:
            _break(text, self.cascade)
        if Fault.SLOW in text:
            time.sleep(0.02)


def _break(text: str, cascade: Cascade) -> None:
    if Fault.CRASH in text:
        ctypes.string_at(0)
    if Fault.ONCE in text and _for_the_first_time():
        os.kill(os.getpid(), signal.SIGKILL)
    if Fault.ASSERT in text:
        worker.device_answers = lambda device: False
        raise RuntimeError("CUDA error: device-side assert triggered")
    if Fault.MEMORY in text or (Fault.OFFLOAD in text and not cascade.placement.offload):
        raise OutOfMemory("there wasn't enough memory while generating; shorten it")
    if Fault.LIMIT in text and _for_the_first_time():
        resource.setrlimit(resource.RLIMIT_DATA, (_data_bytes() + 2**23, -1))
    if Fault.MUTE in text:
        wire.Packer.pack = _without_memory  # type: ignore[method-assign, assignment]
    if Fault.FREEZE in text:
        os.kill(os.getpid(), signal.SIGSTOP)
    if Fault.STALL in text:
        time.sleep(3600)
    if Fault.DIRT in text:
        print("a library greets you", flush=True)


if __name__ == "__main__":
    engine.JobRun = BrokenRun  # type: ignore[attr-defined]
    worker.main(Pretending(load=broken_load))

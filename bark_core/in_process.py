"""Models in this process: for the command line, notebooks, tests, and inside of a worker."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from bark_core.backend import (
    LoadedModel,
    ModelSpec,
    Running,
    Told,
    WorkerState,
    WorkerStatus,
)
from bark_core.cascade import Cascade
from bark_core.checkpoint import download, load
from bark_core.device import describe_devices, out_of_memory_as_error
from bark_core.engine import MAX_BATCH, Engine, Line
from bark_core.errors import BarkError, OutOfMemory
from bark_core.events import Failed
from bark_core.hub import ProgressCallback
from bark_core.jobs import Job
from bark_core.machine import process_memory_bytes
from bark_core.placement import DeviceInfo
from bark_core.request import GenerationRequest
from bark_core.runs import Run, Runs, Watched, not_loaded
from bark_core.tokens import Audio, FineCodes


class Loader(Protocol):
    """What `bark_core.load` is."""

    def __call__(
        self,
        model: str,
        *,
        device: str,
        precision: str,
        offload: bool | str,
        cache_dir: Path | None,
        endpoint: str | None,
        progress: ProgressCallback | None,
    ) -> Cascade: ...


@dataclass(frozen=True, slots=True)
class _Held:
    """A model that is loaded here."""

    cascade: Cascade
    engine: Engine
    known: LoadedModel


class InProcessBackend(Watched):
    """A `Backend` whose models are in this process.

    Args:
        load: loads one; another one in tests.
        devices: asks the machine; another one in tests.
    """

    def __init__(
        self,
        *,
        load: Loader = load,
        devices: Callable[[], tuple[DeviceInfo, ...]] = describe_devices,
    ) -> None:
        super().__init__()
        self._load, self._devices = load, devices
        self._lock = threading.Lock()
        self._held: dict[str, _Held] = {}
        self._lines: dict[str, Line] = {}  # of each device
        self._runs = Runs()

    def load(self, spec: ModelSpec, *, progress: ProgressCallback | None = None) -> LoadedModel:
        self.unload(spec.name)
        cascade = self._load(
            spec.source,
            device=spec.device,
            precision=spec.precision,
            offload=spec.offload,
            cache_dir=spec.cache_dir,
            endpoint=spec.endpoint,
            progress=progress,
        )
        with self._lock:
            line = self._lines.setdefault(cascade.placement.device, Line())
        held = _hold(spec, cascade, line)
        with self._lock:
            self._held[spec.name] = held
        self._changed()
        return held.known

    def download(self, spec: ModelSpec, *, progress: ProgressCallback | None = None) -> None:
        download(
            spec.source,
            device=spec.device,
            precision=spec.precision,
            cache_dir=spec.cache_dir,
            endpoint=spec.endpoint,
            progress=progress,
        )

    def unload(self, name: str) -> None:
        with self._lock:
            held = self._held.pop(name, None)
        if held is None:
            return
        held.engine.close()
        held.cascade.unload()
        self._changed()

    def loaded(self, name: str) -> LoadedModel | None:
        held = self._held.get(name)
        return None if held is None else held.known

    def capacity(self, name: str) -> int:
        known = self.loaded(name)
        return 0 if known is None else self._runs.capacity(known.max_batch)

    def idle(self, name: str) -> bool:
        return name in self._held and not self._runs

    def submit(
        self, name: str, request: GenerationRequest, told: Told, *, alone: bool = False
    ) -> Running:
        run = self._runs.add(name, request, told, alone=alone)
        try:
            job = self._one(name).engine.submit(request)
        except BarkError as error:
            run.tell(Failed(error))
            return run
        run.begin(job.cancel)
        follow = threading.Thread(
            target=_follow, args=(job, run), name=f"tell-{job.id[:8]}", daemon=True
        )
        try:
            with out_of_memory_as_error("beginning"):
                follow.start()
        except OutOfMemory as error:
            job.cancel()  # nobody would hear of it
            run.tell(Failed(error))
        return run

    def decode(self, name: str, fine: FineCodes) -> Audio:
        return self._one(name).cascade.decode(fine)

    def devices(self) -> tuple[DeviceInfo, ...]:
        return self._devices()

    def workers(self) -> tuple[WorkerStatus, ...]:
        with self._lock:
            models, n_running = tuple(self._held), len(self._runs)
        state = WorkerState.READY if models else WorkerState.NONE
        memory_bytes = process_memory_bytes()
        return (WorkerStatus(state, "this process", models, n_running, memory_bytes, None, 0, 0.0),)

    def failure(self, name: str) -> BarkError | None:
        return None

    def close(self, *, timeout_s: float = 10.0) -> None:
        """Stop all jobs. The models stay in memory as long as somebody else holds them."""
        with self._lock:
            held, self._held = list(self._held.values()), {}
        for one in held:
            one.engine.close(timeout_s=timeout_s)
        self._changed()

    def device_of(self, name: str) -> str | None:
        """Where a model is: "cpu", "cuda:0"."""
        held = self._held.get(name)
        return None if held is None else held.cascade.placement.device

    def _one(self, name: str) -> _Held:
        held = self._held.get(name)
        if held is None:
            raise not_loaded(name)
        return held


def _follow(job: Job, run: Run) -> None:
    """Hand a job's events on."""
    for event in job.events():
        run.tell(event)


def _hold(spec: ModelSpec, cascade: Cascade, line: Line) -> _Held:
    """Put an engine before a cascade, and note what others may know of it."""
    engine = Engine(cascade, max_batch=spec.max_batch or MAX_BATCH, line=line)
    known = LoadedModel(
        name=spec.name,
        front=cascade.front,
        identity=cascade.identity,
        placement=cascade.placement,
        weight_bytes=_weight_bytes(cascade),
        max_batch=engine.max_batch,
    )
    return _Held(cascade, engine, known)


def _weight_bytes(cascade: Cascade) -> int:
    """What unloading it would free on its device."""
    if cascade.placement.offload:
        return 0  # its weights wait in main memory, mapped from their files
    stages = (cascade.text, cascade.coarse, cascade.fine, cascade.codec)
    return sum(weight.nbytes for stage in stages for weight in stage.parameters())

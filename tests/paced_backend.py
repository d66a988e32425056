"""A backend whose jobs end when a test says so."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from bark_core import (
    Audio,
    BarkError,
    DeviceInfo,
    Event,
    Failed,
    FineCodes,
    Finished,
    GenerationRequest,
    LoadedModel,
    ModelSpec,
    ProgressCallback,
    Stopped,
    WorkerLost,
    WorkerStatus,
)
from bark_core.generation import Generation, ModelIdentity
from tests import tiny


@dataclass(eq=False)
class PacedJob:
    """A job that runs until somebody ends it."""

    model: str
    request: GenerationRequest
    told: Callable[[Event], None]
    backend: PacedBackend
    alone: bool = False
    cancelled: bool = False

    def cancel(self) -> None:
        self.cancelled = True
        self.backend.end(self, Stopped())

    def finish(self) -> None:
        self.backend.end(self, Finished(Generation(self.request, tiny_identity(), (), 1)))

    def lose(self, *, stepped_down: bool = False) -> None:
        self.backend.end(self, Failed(WorkerLost("it died", stepped_down=stepped_down)))


def tiny_identity() -> ModelIdentity:
    return tiny.tiny_cascade().identity


@dataclass(eq=False)
class PacedBackend:
    """Implements `Backend`. Its models are all tiny; what they run is in `running`."""

    max_batch: int = 1
    up: bool = True  # False: its worker is being brought back
    running: list[PacedJob] = field(default_factory=list)
    begun: list[str] = field(default_factory=list)  # texts, in their order
    models: dict[str, LoadedModel] = field(default_factory=dict)
    most_together: int = 0
    together: list[frozenset[str]] = field(default_factory=list)  # models that ran beside another
    watchers: list[Callable[[], None]] = field(default_factory=list)
    lock: threading.RLock = field(default_factory=threading.RLock)
    lost: BarkError | None = None

    def load(self, spec: ModelSpec, *, progress: ProgressCallback | None = None) -> LoadedModel:
        cascade = tiny.tiny_cascade()
        self.models[spec.name] = LoadedModel(
            spec.name, cascade.front, cascade.identity, cascade.placement, 0, self.max_batch
        )
        self.changed()
        return self.models[spec.name]

    def download(self, spec: ModelSpec, *, progress: ProgressCallback | None = None) -> None:
        raise NotImplementedError

    def unload(self, name: str) -> None:
        self.models.pop(name, None)
        self.changed()

    def loaded(self, name: str) -> LoadedModel | None:
        return self.models.get(name)

    def capacity(self, name: str) -> int:
        if not self.up or name not in self.models:
            return 0
        return 1 if any(job.alone for job in self.running) else self.max_batch

    def idle(self, name: str) -> bool:
        return self.capacity(name) > 0 and not self.running

    def submit(
        self,
        name: str,
        request: GenerationRequest,
        told: Callable[[Event], None],
        *,
        alone: bool = False,
    ) -> PacedJob:
        job = PacedJob(name, request, told, self, alone)
        with self.lock:
            self.running.append(job)
            self.begun.append(request.text)
            self.most_together = max(self.most_together, len(self.running))
            self.together.append(frozenset(other.model for other in self.running))
        return job

    def end(self, job: PacedJob, event: Event) -> None:
        with self.lock:
            if job not in self.running:
                return
            self.running.remove(job)
        job.told(event)

    def decode(self, name: str, fine: FineCodes) -> Audio:
        return tiny.tiny_cascade().decode(fine)

    def devices(self) -> tuple[DeviceInfo, ...]:
        return (DeviceInfo("cpu", "cpu", "a processor", 10**10, 10**10),)

    def workers(self) -> tuple[WorkerStatus, ...]:
        return ()

    def failure(self, name: str) -> BarkError | None:
        return self.lost

    def watch(self, changed: Callable[[], None]) -> None:
        self.watchers.append(changed)

    def changed(self) -> None:
        for changed in self.watchers:
            changed()

    def close(self, *, timeout_s: float = 10.0) -> None:
        for job in list(self.running):
            job.cancel()

    # --- for tests

    def wait_for(self, n_running: int, *, timeout_s: float = 30.0) -> list[PacedJob]:
        """Wait until so many run; returns them, the first first."""
        deadline = time.monotonic() + timeout_s
        while len(self.running) != n_running:
            assert time.monotonic() < deadline, f"{len(self.running)} run, not {n_running}"
            time.sleep(0.005)
        return list(self.running)

    def finish_one(self) -> str:
        """Let the job end that began first; returns its text."""
        deadline = time.monotonic() + 30.0
        while not self.running:
            assert time.monotonic() < deadline, "nothing runs"
            time.sleep(0.005)
        job = self.running[0]
        job.finish()
        return job.request.text

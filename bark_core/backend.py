"""Where models run: the interface between a page (or a queue) and whatever holds the weights.

`InProcessBackend` runs an engine here, `ProcessBackend` in a process that owns the device,
`DevicePool` in one for each of several devices, `RayServeBackend` on other machines. All methods
may be called from any thread. What happens to a job is told through a callback, on a thread of
the backend's: a callback returns at once, and may call the backend.

A job that was submitted ends with exactly one of Finished, Failed or Stopped, also when its
worker dies: then with Failed(WorkerLost), or Stopped if it was cancelled before. A backend
restores its workers and their models by itself; it never runs a job a second time, whoever
submitted it decides that.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Protocol

from bark_core.errors import BarkError
from bark_core.events import Event
from bark_core.frontend import FrontEnd
from bark_core.generation import ModelIdentity
from bark_core.hub import ProgressCallback
from bark_core.placement import DeviceInfo, Placement
from bark_core.request import GenerationRequest
from bark_core.tokens import Audio, FineCodes

Told = Callable[[Event], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSpec:
    """Which model is to be loaded, and how; what `bark_core.load` takes."""

    name: str  # what it is called from then on
    source: str  # "pup", a hub repository, a folder
    device: str = "auto"
    precision: str = "auto"
    offload: bool | str = "auto"
    cache_dir: Path | None = None
    endpoint: str | None = None
    max_batch: int | None = None  # jobs that run together; None: as the device allows


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """What is known of a model that is loaded somewhere."""

    name: str
    front: FrontEnd
    identity: ModelIdentity
    placement: Placement
    weight_bytes: int  # on its device; 0 while they wait in main memory
    max_batch: int  # jobs that it runs together
    also: tuple[LoadedModel, ...] = ()  # the same model with further workers

    @property
    def everywhere(self) -> tuple[LoadedModel, ...]:
        """Itself, and what it is with each further worker."""
        return (self, *self.also)


class WorkerState(StrEnum):
    """Where a worker is in its life."""

    STARTING = "starting"
    READY = "ready"
    RESTARTING = "restarting"  # it was lost, and comes back
    FAILED = "failed"  # it was lost too often; the next load tries again
    NONE = "none"  # there is none, for nothing is loaded


@dataclass(frozen=True, slots=True)
class WorkerStatus:
    """One worker, at one moment."""

    state: WorkerState
    name: str  # process id or replica, for logs
    models: tuple[str, ...]
    n_running: int  # jobs that were handed to it and aren't over
    memory_bytes: int | None  # of its process in main memory
    device_bytes: int | None  # that it holds on its device
    n_restarts: int
    heard_s: float  # since its last sign of life
    problem: str = ""  # why it was lost last
    device: str = ""  # that it was given, "cuda:1"; "": it takes the best that there is


class Running(Protocol):
    """A job that was submitted."""

    def cancel(self) -> None:
        """Ask it to end at its next step; returns at once. Harmless when it is over."""


class Backend(Protocol):
    """Loads models and runs jobs on them."""

    def load(self, spec: ModelSpec, *, progress: ProgressCallback | None = None) -> LoadedModel:
        """Load a model, downloading it if need be; blocks until it is there.

        Raises:
            BarkError: as `bark_core.load`. Cancelled: `progress` raised it. WorkerLost: as told.
        """

    def download(self, spec: ModelSpec, *, progress: ProgressCallback | None = None) -> None:
        """Have a model's files here; blocks, raises as `bark_core.download_model`."""

    def unload(self, name: str) -> None:
        """Stop a model's jobs and give its memory back; blocks. Harmless if it isn't loaded."""

    def loaded(self, name: str) -> LoadedModel | None:
        """What is loaded under a name; None also when its worker was lost for good."""

    def capacity(self, name: str) -> int:
        """Jobs that a model may be given at once; 0 while it isn't loaded or is being restored.

        A worker with a job that is to be alone counts as one.
        """

    def idle(self, name: str) -> bool:
        """Whether a worker that has the model runs nothing: then a job can be alone on it."""

    def submit(
        self, name: str, request: GenerationRequest, told: Told, *, alone: bool = False
    ) -> Running:
        """Run a job now; returns at once. Everything else is told, refusals too.

        Args:
            alone: with nobody beside it on its worker, see `idle` and `capacity`.
        """

    def decode(self, name: str, fine: FineCodes) -> Audio:
        """Fine codes to sound, with a model's codec alone; also while jobs run.

        Raises:
            GenerationError: the model isn't loaded. WorkerLost, OutOfMemory.
        """

    def devices(self) -> tuple[DeviceInfo, ...]:
        """What there is to run on, as it was last seen; the fastest first."""

    def workers(self) -> tuple[WorkerStatus, ...]:
        """Who works, at this moment."""

    def failure(self, name: str) -> BarkError | None:
        """Why a model that was loaded isn't any more; None: it is, or was unloaded."""

    def watch(self, changed: Callable[[], None]) -> None:
        """Have a function called after each change of workers, models or capacity."""

    def close(self, *, timeout_s: float = 10.0) -> None:
        """Stop all jobs and end all workers."""

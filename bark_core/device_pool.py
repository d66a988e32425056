"""Several devices of one machine: a worker process for each, every model on all of them.

    submit ──► the device with the fewest jobs that has room ──► its ProcessBackend

A job runs on one device from its beginning to its end, and becomes the same on each of a kind.
When a worker dies, the others go on: its own jobs are told as lost, and submitted again they go
to whoever has room. A worker sees no GPU but its own, so it takes no memory of the others.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import TypeVar

from bark_core.backend import LoadedModel, ModelSpec, Running, Told, WorkerState, WorkerStatus
from bark_core.device import named_devices
from bark_core.errors import BarkError, InvalidSetting, OutOfMemory, WorkerLost
from bark_core.hub import ProgressCallback
from bark_core.machine import describe_cpu
from bark_core.placement import DeviceInfo, kind_of
from bark_core.process_backend import COMMAND, Patience, ProcessBackend
from bark_core.request import GenerationRequest
from bark_core.runs import not_loaded
from bark_core.tokens import Audio, FineCodes

_log = logging.getLogger(__name__)
Answer = TypeVar("Answer")


@dataclass(frozen=True, slots=True, eq=False)
class _Member:
    """One device and its worker."""

    device: str  # as this machine calls it: "cuda:1"
    inside: str  # as its worker does, which sees no other GPU: "cuda:0"
    backend: ProcessBackend

    def outside(self, known: LoadedModel) -> LoadedModel:
        """What its worker tells of a model, with the name that the device has here."""
        placement = known.placement
        if placement.device == self.inside:
            placement = replace(placement, device=self.device)
        return replace(known, placement=placement)

    def info(self) -> DeviceInfo:
        """The device as its worker saw it last."""
        for info in self.backend.devices():
            if info.device == self.inside:
                return replace(info, device=self.device)
        # its worker can't be started: nothing is known, and nothing ruled out
        kind = kind_of(self.device)
        return DeviceInfo(
            self.device, kind, self.device, None, None, native_bfloat16=True, int8=kind != "mps"
        )


class DevicePool:
    """A `Backend` with a worker process for each of some devices.

    Args:
        devices: at least one, as `named_devices` gives them; one may be there several times.
        command, patience: as for `ProcessBackend`.
    Raises:
        InvalidSetting: no such device here.
    """

    def __init__(
        self,
        devices: Sequence[str],
        *,
        command: Sequence[str] = COMMAND,
        patience: Patience | None = None,
    ) -> None:
        if not devices:
            raise InvalidSetting("a pool needs at least one device, got none; name some, or 'all'")
        names = named_devices(devices)
        self._members = tuple(
            _Member(
                device=name,
                inside="cuda:0" if name.startswith("cuda") else name,
                backend=ProcessBackend(
                    command=command,
                    patience=patience,
                    environment=_environment(name, names.count(name)),
                ),
            )
            for name in names
        )
        # of each model: the members that were to load it, and what hindered them
        self._problems: dict[str, dict[_Member, BarkError]] = {}

    # --- models

    def load(self, spec: ModelSpec, *, progress: ProgressCallback | None = None) -> LoadedModel:
        """As `Backend.load`. It is loaded where some device could load it.

        A device that has too little memory, or whose worker died, is told of in `workers`.
        """
        problems: dict[_Member, BarkError] = {}

        def load(member: _Member, follow: ProgressCallback | None = None) -> None:
            try:
                member.backend.load(replace(spec, device=member.inside), progress=follow)
            except (OutOfMemory, WorkerLost) as error:
                problems[member] = error

        others = list(self._members)
        try:
            while len(problems) + len(others) == len(self._members) and others:
                load(others.pop(0), progress)  # the first one gets what isn't here
            _each(others, load)
        except BarkError:
            self.unload(spec.name)
            raise
        if len(problems) == len(self._members):
            raise problems[self._members[0]]
        for member, error in problems.items():
            _log.warning("%s isn't loaded on %s: %s", spec.name, member.device, error)
        self._problems[spec.name] = problems
        known = self.loaded(spec.name)
        if known is None:  # all workers died meanwhile
            raise WorkerLost("the workers ended; try again in a moment")
        return known

    def download(self, spec: ModelSpec, *, progress: ProgressCallback | None = None) -> None:
        member = self._members[0]
        member.backend.download(replace(spec, device=member.inside), progress=progress)

    def unload(self, name: str) -> None:
        self._problems.pop(name, None)
        _each(self._members, lambda member: member.backend.unload(name))

    def loaded(self, name: str) -> LoadedModel | None:
        every = [
            member.outside(known)
            for member in self._members
            if (known := member.backend.loaded(name)) is not None
        ]
        return replace(every[0], also=tuple(every[1:])) if every else None

    def capacity(self, name: str) -> int:
        return sum(member.backend.capacity(name) for member in self._members)

    def idle(self, name: str) -> bool:
        return any(member.backend.idle(name) for member in self._members)

    def failure(self, name: str) -> BarkError | None:
        """As `Backend.failure`: while one device has it, or is about to, there is none."""
        hindered = self._problems.get(name, {})
        errors = [hindered.get(member) or member.backend.failure(name) for member in self._members]
        return errors[0] if all(errors) else None

    # --- jobs

    def submit(
        self, name: str, request: GenerationRequest, told: Told, *, alone: bool = False
    ) -> Running:
        backend = self._with_room(name, alone).backend
        return backend.submit(name, request, told, alone=alone)

    def decode(self, name: str, fine: FineCodes) -> Audio:
        lost: WorkerLost | None = None
        for member in sorted(self._members, key=lambda member: member.backend.n_running):
            if member.backend.loaded(name) is not None:
                try:
                    return member.backend.decode(name, fine)
                except WorkerLost as error:
                    lost = error
        raise lost or not_loaded(name)

    def _with_room(self, name: str, alone: bool) -> _Member:
        """The member that a job goes to."""
        members = [member for member in self._members if member.backend.capacity(name)]
        if alone:
            members = [member for member in members if member.backend.idle(name)] or members
        free = [m for m in members if m.backend.capacity(name) > m.backend.n_running]
        # where none has room, or none is up, the job is told so by the one that it goes to
        choice = free or members or self._members
        return min(choice, key=lambda member: member.backend.n_running)

    # --- what there is

    def devices(self) -> tuple[DeviceInfo, ...]:
        found = {info.device: info for info in _each(self._members, _Member.info)}
        cpu = found.pop("cpu", None) or describe_cpu()
        return (*found.values(), cpu)

    def workers(self) -> tuple[WorkerStatus, ...]:
        return tuple(self._status(member) for member in self._members)

    def _status(self, member: _Member) -> WorkerStatus:
        (status,) = member.backend.workers()
        status = replace(status, device=member.device)
        hindered = [problems.get(member) for problems in list(self._problems.values())]
        problem = next((error for error in hindered if error is not None), None)
        if problem is None or status.models:
            return status
        return replace(status, state=WorkerState.FAILED, problem=str(problem))

    def watch(self, changed: Callable[[], None]) -> None:
        for member in self._members:
            member.backend.watch(changed)

    def close(self, *, timeout_s: float = 10.0) -> None:
        _each(self._members, lambda member: member.backend.close(timeout_s=timeout_s))


def _each(members: Sequence[_Member], do: Callable[[_Member], Answer]) -> list[Answer]:
    """Have all members do something at the same time. What one of them raises is raised."""
    if not members:
        return []
    with ThreadPoolExecutor(len(members), thread_name_prefix="device-pool") as threads:
        return list(threads.map(do, members))


def _environment(device: str, n_workers: int) -> Mapping[str, str]:
    """What a device's worker sees of the machine: its own GPU, or its share of the processor.

    Args:
        n_workers: how many share the device.
    """
    kind, _, number = device.partition(":")
    if kind == "cuda":
        visible = os.environ.get("CUDA_VISIBLE_DEVICES", "")
        names = [name.strip() for name in visible.split(",") if name.strip()]
        return {"CUDA_VISIBLE_DEVICES": names[int(number)] if names else number}
    if kind == "cpu":
        n_cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None
        n_threads = max(1, (n_cores or os.cpu_count() or 1) // n_workers)
        threads = os.environ.get("OMP_NUM_THREADS", str(n_threads))
        return {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": threads}
    return {}

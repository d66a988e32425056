"""Models in a process of their own, which owns the device and is restarted when it dies.

This process holds no weights and never touches the device. Of a model it keeps what plans texts.
"""

from __future__ import annotations

import contextlib
import logging
import os
import pickle
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from itertools import count
from pathlib import Path
from typing import Any, cast

from bark_core import wire
from bark_core.backend import (
    LoadedModel,
    ModelSpec,
    Running,
    Told,
    WorkerState,
    WorkerStatus,
)
from bark_core.errors import BarkError, OutOfMemory, WorkerLost
from bark_core.events import Event, Failed
from bark_core.hub import ProgressCallback
from bark_core.machine import describe_cpu
from bark_core.placement import DeviceInfo
from bark_core.request import GenerationRequest
from bark_core.runs import OVER, Run, Runs, Watched, not_loaded
from bark_core.tokens import Audio, FineCodes
from bark_core.wire import Wire

_log = logging.getLogger(__name__)

COMMAND = (sys.executable, "-m", "bark_core.worker")
# How often a thread of GNU's OpenMP looks for work before it sleeps. By default it looks for some
# milliseconds: on a machine with other work it holds the very core that the thread it waits for
# needs, and a step takes four times as long (docs/log.md).
LOOKS = 5_000
SHAPES = 256  # for which oneDNN keeps what it compiled: 30 MB
MAX_TRIES = 3  # to bring a worker back before its models count as lost
LOOK_EVERY_S = 0.5
GOING_S = 5.0  # that a worker gets to end by itself


@dataclass(frozen=True, slots=True, kw_only=True)
class Patience:
    """How long a worker may be silent before it is taken for lost."""

    start_s: float = 180.0  # until its first sign of life: it reads libraries from a cold disk
    beat_s: float = 30.0  # between two signs of life, of a busy machine
    step_s: float = 600.0  # between two events of the jobs it runs


@dataclass(slots=True)
class _Call:
    """Something a worker was asked to do."""

    progress: ProgressCallback | None
    answer: Future[Any] = field(default_factory=Future)


class _Process:
    """One worker, from its start to its end.

    Args:
        lost: called once when it has ended, with the reason.
    """

    def __init__(
        self,
        command: Sequence[str],
        patience: Patience,
        environment: Mapping[str, str],
        *,
        lost: Callable[[_Process, str], None],
    ) -> None:
        self.patience = patience
        self.ready = threading.Event()  # it was heard, or it is gone
        self.gone = False
        self.ending = False  # it was told to
        self.beat = wire.Beat(None, None, ())
        self.first_devices: tuple[DeviceInfo, ...] = ()
        self.started_at = self.heard_at = self.stepped_at = time.monotonic()
        self.runs: dict[int, Run] = {}
        self._calls: dict[int, _Call] = {}
        self._ids = count(1)
        self._lock = threading.Lock()
        self._lost = lost
        self._killed_for = ""
        self.popen = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment,
            start_new_session=True,  # Ctrl+C is for the page, which ends it
        )
        assert self.popen.stdin is not None
        assert self.popen.stdout is not None
        self.wire = Wire(cast(Any, self.popen.stdout), cast(Any, self.popen.stdin))
        threading.Thread(target=self._read, name="worker-read", daemon=True).start()
        threading.Thread(target=self._guard, name="worker-guard", daemon=True).start()

    # --- what it is asked

    def call(self, method: str, *args: Any, progress: ProgressCallback | None = None) -> Any:
        """Have it do something, and wait for the answer. Raises BarkError."""
        call, call_id = _Call(progress), next(self._ids)
        with self._lock:
            if self.gone:
                raise WorkerLost("the worker ended; try again in a moment")
            self._calls[call_id] = call
        self._send(wire.Call(call_id, method, args))
        return call.answer.result()

    @property
    def busy(self) -> bool:
        return bool(self._calls or self.runs)

    def run(self, run: Run) -> None:
        """Have it run a job."""
        run_id = next(self._ids)
        with self._lock:
            gone = self.gone
            if not gone:
                self.runs[run_id] = run
        if gone:
            run.lose("the worker ended before it began; try again")
            return
        self.stepped_at = time.monotonic()
        self._send(wire.Start(run_id, run.model, run.request))
        run.begin(lambda: self._send(wire.CancelRun(run_id)))

    def end(self) -> None:
        """Let it go by itself, or else kill it."""
        self.ending = True
        self.wire.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.popen.wait(GOING_S)
        self.kill("")

    def kill(self, why: str) -> None:
        self._killed_for = self._killed_for or why
        with contextlib.suppress(OSError):
            self.popen.kill()

    # --- what it says

    def _send(self, message: object) -> None:
        with contextlib.suppress(OSError, ValueError):  # the reader sees that it is gone
            self.wire.send(message)

    def _read(self) -> None:
        try:
            while True:
                message = self.wire.receive()
                self.heard_at = time.monotonic()
                self._handle(message)
        except (EOFError, OSError):
            pass
        except pickle.UnpicklingError as error:
            self.kill(f"it sent what it may not: {error}")
        self._end()

    def _handle(self, message: object) -> None:
        match message:
            case wire.Beat():
                self.beat = message
                self.first_devices = self.first_devices or message.devices
                self.ready.set()
            case wire.Told(id=run_id):
                self.stepped_at = self.heard_at
                over = isinstance(message.event, OVER)
                run = self.runs.pop(run_id, None) if over else self.runs.get(run_id)
                if run is not None:
                    run.hear(message)
            case wire.CallProgress(id=call_id, progress=progress):
                self._follow(call_id, progress)
            case wire.Answer(id=call_id, value=value, error=error):
                with self._lock:
                    call = self._calls.pop(call_id)
                if error is None:
                    call.answer.set_result(value)
                else:
                    call.answer.set_exception(error)
            case wire.LogLine():
                text = f"{message.message}\n{message.trace}" if message.trace else message.message
                logging.getLogger(message.name).log(message.level, "%s", text)

    def _follow(self, call_id: int, progress: Any) -> None:
        with self._lock:
            call = self._calls.get(call_id)
        if call is None or call.progress is None:
            return
        try:
            call.progress(progress)
        except BarkError:  # whoever follows wants it no more
            self._send(wire.CancelCall(call_id))

    def _guard(self) -> None:
        """Kill it when it is silent for too long."""
        while self.popen.poll() is None:
            now, patience = time.monotonic(), self.patience
            if not self.ready.is_set() and now - self.started_at > patience.start_s:
                self.kill(f"it didn't begin within {patience.start_s:.0f} s")
            elif self.ready.is_set() and now - self.heard_at > patience.beat_s:
                self.kill(f"it gave no sign of life for {patience.beat_s:.0f} s")
            elif self.runs and now - self.stepped_at > patience.step_s:
                self.kill(f"its jobs stood still for {patience.step_s:.0f} s")
            time.sleep(LOOK_EVERY_S)

    def _end(self) -> None:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.popen.wait(1.0)  # its own exit status tells more than that of a kill
        self.kill("")
        status = self.popen.wait()
        with self._lock:
            self.gone = True
            calls, self._calls = list(self._calls.values()), {}
        why = self._killed_for or _meaning(status)
        for pipe in (self.popen.stdin, self.popen.stdout):
            with contextlib.suppress(OSError, ValueError):
                cast(Any, pipe).close()
        for call in calls:
            call.answer.set_exception(WorkerLost(f"the worker ended: {why}; try again"))
        self._lost(self, why)
        self.ready.set()


class ProcessBackend(Watched):
    """A `Backend` with one worker process.

    Args:
        command: what starts a worker.
        patience: how long it may be silent.
        environment: variables of its own, beside those of this process.
    """

    def __init__(
        self,
        *,
        command: Sequence[str] = COMMAND,
        patience: Patience | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__()
        self._command, self._patience = command, patience or Patience()
        self._environment = environment or {}
        self._lock = threading.RLock()
        self._starting = threading.Lock()
        self._process: _Process | None = None
        self._state = WorkerState.NONE
        self._specs: dict[str, ModelSpec] = {}  # what is to be loaded, also after a restart
        self._loaded: dict[str, LoadedModel] = {}
        self._failures: dict[str, BarkError] = {}
        self._smaller: dict[str, ModelSpec] = {}  # to be loaded so as soon as their jobs are over
        self._runs = Runs()
        self._devices: tuple[DeviceInfo, ...] = ()
        self._n_restarts = 0
        self._problem = ""
        self._restoring = False
        self._closed = False

    # --- models

    def load(self, spec: ModelSpec, *, progress: ProgressCallback | None = None) -> LoadedModel:
        known: LoadedModel = self._call("load", spec, progress=progress)
        with self._lock:
            self._specs[spec.name], self._loaded[spec.name] = spec, known
            self._failures.pop(spec.name, None)
        self._changed()
        return known

    def download(self, spec: ModelSpec, *, progress: ProgressCallback | None = None) -> None:
        self._call("download", spec, progress=progress)
        self._end_if_idle()

    def unload(self, name: str) -> None:
        with self._lock:
            spec, process = self._specs.pop(name, None), self._process
            self._loaded.pop(name, None)
            self._smaller.pop(name, None)
        if spec is None:
            return
        if process is not None:
            with contextlib.suppress(WorkerLost):  # then its memory is back already
                process.call("unload", name)
        self._end_if_idle()
        self._changed()

    def loaded(self, name: str) -> LoadedModel | None:
        with self._lock:
            return self._loaded.get(name)

    def capacity(self, name: str) -> int:
        with self._lock:
            known, process = self._loaded.get(name), self._process
            ready = process is not None and not process.gone and name not in self._smaller
            if not ready or known is None or self._state is not WorkerState.READY:
                return 0
            return self._runs.capacity(known.max_batch)

    def idle(self, name: str) -> bool:
        return self.capacity(name) > 0 and not self._runs

    @property
    def n_running(self) -> int:
        """Jobs that aren't over."""
        return len(self._runs)

    def failure(self, name: str) -> BarkError | None:
        with self._lock:
            return self._failures.get(name)

    # --- jobs

    def submit(
        self, name: str, request: GenerationRequest, told: Told, *, alone: bool = False
    ) -> Running:
        run = self._runs.add(name, request, self._with_less_memory(name, told), alone=alone)
        with self._lock:
            process = self._process
        if process is None:
            run.lose("there is no worker at this moment; try again")
        else:
            process.run(run)
        return run

    def decode(self, name: str, fine: FineCodes) -> Audio:
        process = self._process
        if process is None or name not in self._specs:
            raise not_loaded(name)
        audio: Audio = process.call("decode", name, fine)
        return audio

    def _with_less_memory(self, name: str, told: Told) -> Told:
        """Where a job has too little memory and there is a way to need less, go that way.

        The model is loaded anew after the last of its jobs that run.
        """

        def tell(event: Event) -> None:
            if isinstance(event, Failed) and isinstance(event.error, OutOfMemory):
                with self._lock:
                    smaller = self._smaller.get(name) or self._next_smaller(name)
                    if smaller is not None:
                        self._smaller[name] = smaller
                if smaller is not None:
                    lost = WorkerLost(f"{event.error}; less at a time is tried", stepped_down=True)
                    event = Failed(lost, event.partial)
                    self._changed()
            try:
                told(event)
            finally:
                if isinstance(event, OVER):
                    self._shrink_after_the_last(name)

        return tell

    def _next_smaller(self, name: str) -> ModelSpec | None:
        """Fewer jobs together; one; then one stage at a time on the device."""
        spec, known = self._specs.get(name), self._loaded.get(name)
        if spec is None or known is None:
            return None
        if known.max_batch > 1:
            return replace(spec, max_batch=max(1, known.max_batch // 4))
        if known.placement.kind == "cuda" and not known.placement.offload:
            return replace(spec, max_batch=1, offload=True)
        return None

    def _shrink_after_the_last(self, name: str) -> None:
        with self._lock:
            smaller = self._smaller.get(name)
        if smaller is not None and not self._runs.of(name):
            threading.Thread(target=self._shrink, args=(smaller,), daemon=True).start()

    def _shrink(self, spec: ModelSpec) -> None:
        try:
            known = self.load(spec)
            _log.warning(
                "out of memory: %s goes on with %d at a time%s",
                spec.name,
                known.max_batch,
                ", offloaded" if known.placement.offload else "",
            )
        except WorkerLost:
            pass  # it is brought back with what it had
        except OutOfMemory as error:
            self._begin_anew(spec, error)
            return
        except BarkError as error:
            with self._lock:
                self._failures[spec.name] = error
                self._specs.pop(spec.name, None)
                self._loaded.pop(spec.name, None)
        with self._lock:
            self._smaller.pop(spec.name, None)
        self._changed()

    def _begin_anew(self, spec: ModelSpec, error: OutOfMemory) -> None:
        """What a worker has in pieces it can't give back: another one loads the model instead."""
        _log.warning("%s can't be loaded again in the same process: %s", spec.name, error)
        with self._lock:
            process = self._process
            if spec.name in self._specs:  # nobody unloaded it meanwhile
                self._specs[spec.name] = spec
        if process is not None:
            process.kill("it had too little memory left to load a model")

    # --- what there is

    def devices(self) -> tuple[DeviceInfo, ...]:
        with self._lock:
            process = self._process
        if process is not None and not process.gone and process.beat.devices:
            return process.beat.devices
        if not self._devices and not self._closed:
            with contextlib.suppress(WorkerLost):
                self._devices = self._started().first_devices
        others = tuple(info for info in self._devices if info.kind != "cpu")
        return (*others, describe_cpu())

    def workers(self) -> tuple[WorkerStatus, ...]:
        with self._lock:
            process, state = self._process, self._state
            models = tuple(self._specs)
        if process is None:
            return (
                WorkerStatus(
                    state, "", models, 0, None, None, self._n_restarts, 0.0, self._problem
                ),
            )
        return (
            WorkerStatus(
                state=state,
                name=str(process.popen.pid),
                models=models,
                n_running=len(self._runs),
                memory_bytes=process.beat.memory_bytes,
                device_bytes=process.beat.device_bytes,
                n_restarts=self._n_restarts,
                heard_s=time.monotonic() - process.heard_at,
                problem=self._problem,
            ),
        )

    def close(self, *, timeout_s: float = 10.0) -> None:
        with self._lock:
            self._closed = True
            process = self._process
            self._specs, self._loaded = {}, {}
        if process is None:
            return
        self._runs.end(timeout_s)
        process.end()

    # --- the worker

    def _started(self) -> _Process:
        """A worker that has been heard; starts one where there is none.

        Raises:
            WorkerLost: it can't be started.
        """
        with self._starting:
            with self._lock:
                process = self._process
                if self._closed:
                    raise WorkerLost("the studio is closing; start it again")
                if process is None or process.gone:
                    if self._state is not WorkerState.RESTARTING:
                        self._state = WorkerState.STARTING
                    process = self._process = self._new_process()
            process.ready.wait()
            with self._lock:
                if process.gone:
                    raise WorkerLost(f"the worker can't be started: {self._problem}; try again")
                self._devices = process.first_devices
                if self._state is WorkerState.STARTING:
                    self._state = WorkerState.READY
        self._changed()
        return process

    def _call(self, method: str, *args: Any, progress: ProgressCallback | None = None) -> Any:
        process = self._started()
        try:
            return process.call(method, *args, progress=progress)
        except WorkerLost:
            if not process.ending:
                raise
        # it was just going, for it had nothing to do
        return self._started().call(method, *args, progress=progress)

    def _new_process(self) -> _Process:
        try:
            environment = {**_environment(), **self._environment}
            return _Process(self._command, self._patience, environment, lost=self._lost)
        except OSError as error:
            raise WorkerLost(f"the worker can't be started: {error}; try again") from error

    def _lost(self, process: _Process, why: str) -> None:
        """A worker has ended; on its reading thread. What it had is brought back."""
        with self._lock:
            current = self._process is process
            expected = process.ending or self._closed
            restore = current and not expected and bool(self._specs)
            if current:
                self._loaded = {}
                self._smaller = {}
                self._process = None
                self._problem = self._problem if expected else why
                self._state = WorkerState.RESTARTING if restore else WorkerState.NONE
            restoring = self._restoring
            self._restoring = restoring or restore
        runs = list(process.runs.values())
        if not expected:
            _log.error("worker %d ended: %s; %d jobs ran", process.popen.pid, why, len(runs))
        for run in runs:
            run.lose(f"the worker ended: {why}; try again")
        if restore and not restoring:
            threading.Thread(target=self._restore, name="worker-restore", daemon=True).start()
        self._changed()

    def _restore(self) -> None:
        """Bring a worker back with its models; give up after some tries."""
        error: BarkError | None = None
        for attempt in range(MAX_TRIES):
            time.sleep(attempt)  # at once, then a little later each time
            with self._lock:
                self._n_restarts += 1
                missing = [spec for spec in self._specs.values() if spec.name not in self._loaded]
            try:
                for spec in missing:
                    self.load(spec)
            except WorkerLost as problem:
                error = problem
            except BarkError as problem:
                error = problem
                break
            if self._is_restored():
                return
        with self._lock:
            self._restoring = False
            lost = [name for name in self._specs if name not in self._loaded]
            for name in lost:
                del self._specs[name]
                self._failures[name] = error or WorkerLost("the worker is gone; load it again")
            self._state = WorkerState.READY if self._loaded else WorkerState.FAILED
        _log.error("the worker wasn't brought back: %s are unloaded", ", ".join(lost))
        self._changed()

    def _is_restored(self) -> bool:
        with self._lock:
            if self._closed or not self._specs:
                self._state = WorkerState.NONE
            elif all(name in self._loaded for name in self._specs):
                self._state = WorkerState.READY
            else:
                return False
            self._restoring = False
        self._changed()
        return True

    def _end_if_idle(self) -> None:
        """A worker that holds no model is ended: that gives all its memory back."""
        with self._starting, self._lock:
            process = self._process
            if self._specs or process is None or process.busy:
                return
            process.ending = True
            self._state, self._process = WorkerState.NONE, None
        process.end()


def _environment() -> dict[str, str]:
    """That of this process, in which this very package is found, and threads soon fall asleep.

    oneDNN keeps what it compiled for each shape that a codec's layers met; sounds are of all
    lengths, and its own limit of 1,024 shapes comes to more than pup's weights.
    """
    root = str(Path(__file__).resolve().parent.parent)
    path = [root, *filter(None, [os.environ.get("PYTHONPATH")])]
    found = {**os.environ, "PYTHONPATH": os.pathsep.join(path)}
    if not {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT"} & found.keys():
        found["GOMP_SPINCOUNT"] = str(LOOKS)
    found.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", str(SHAPES))
    return found


def _meaning(status: int) -> str:
    """What an exit status says."""
    if status == wire.DEVICE_LOST:
        return "its device failed"
    if status == wire.UNTOLD:
        return "it couldn't answer any more"
    if status < 0:
        return f"signal {-status} ended it"
    return f"it exited with status {status}"

"""Laws of workers: they give what the cascade gives, and when they die somebody is told."""

from __future__ import annotations

import io
import os
import pickle
import queue
import signal
import struct
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bark_core.backend import Backend, ModelSpec, WorkerState
from bark_core.cascade import Cascade
from bark_core.checkpoint import load
from bark_core.errors import (
    Cancelled,
    GenerationError,
    LayoutMismatch,
    MissingFiles,
    OutOfMemory,
    WorkerLost,
)
from bark_core.events import AudioChunk, Event, Failed, Finished, StageProgress, Stopped
from bark_core.hub import DownloadProgress
from bark_core.in_process import InProcessBackend
from bark_core.process_backend import LOOKS, SHAPES, Patience, ProcessBackend, _environment
from bark_core.request import GenerationRequest
from bark_core.wire import Answer, Call, Wire
from bark_core.worker import TRIM_EVERY_S, Worker
from tests.broken_worker import COMMAND, WORN, Fault
from tests.hub_server import FakeHub, serve
from tests.test_cascade import STEADY
from tests.tiny import tiny_config

PATIENCE_S = 120.0
LONG = "The cat sat. The dog ran. " * 50
ENDS = (Finished, Failed, Stopped)


def request(text: str = "Hello.", seed: int = 1) -> GenerationRequest:
    return GenerationRequest(str(text), seed=seed, settings=STEADY)


def until(what: Callable[[], object]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not what():
        assert time.monotonic() < deadline, "it never happened"
        time.sleep(0.01)


class Heard:
    """What is told of one job."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self._news: queue.Queue[Event] = queue.Queue()

    def __call__(self, event: Event) -> None:
        self.events.append(event)
        self._news.put(event)

    def until(self, *kinds: type) -> Any:
        while not isinstance(event := self._news.get(timeout=PATIENCE_S), kinds):
            assert not isinstance(event, ENDS), f"it ended before: {event}"
        return event

    def end(self) -> Any:
        return self.until(*ENDS)


@pytest.fixture(scope="module")
def spec(tiny_folder: Path) -> ModelSpec:
    return ModelSpec(name="tiny", source=str(tiny_folder), device="cpu", max_batch=1)


@pytest.fixture(scope="module")
def broken(spec: ModelSpec) -> Iterator[ProcessBackend]:
    """One backend for all tests that let a worker die: each leaves it as it was."""
    patience = Patience(beat_s=PATIENCE_S, step_s=PATIENCE_S)
    backend = ProcessBackend(command=COMMAND, patience=patience)
    backend.load(spec)
    yield backend
    backend.close()


@pytest.fixture
def backend(broken: ProcessBackend) -> ProcessBackend:
    until(lambda: broken.capacity("tiny"))
    return broken


def end_of(backend: Backend, text: str) -> Any:
    heard = Heard()
    backend.submit("tiny", request(text), heard)
    return heard.end()


def test_a_worker_gives_what_the_cascade_gives(backend: ProcessBackend, tiny_folder: Path) -> None:
    heard = Heard()
    backend.submit("tiny", request("The cat sat. The dog ran.\n\nHello."), heard)
    made = heard.end().generation
    cascade = load(tiny_folder, device="cpu")
    expected = cascade.generate(request("The cat sat. The dog ran.\n\nHello."))
    assert len(made.segments) == len(expected.segments) > 1
    for ours, theirs in zip(made.segments, expected.segments, strict=True):
        assert np.array_equal(ours.fine.values, theirs.fine.values)
        assert np.array_equal(ours.semantic.values, theirs.semantic.values)
    assert np.array_equal(made.audio.samples, expected.audio.samples)
    assert made.model == expected.model
    assert any(isinstance(event, StageProgress) for event in heard.events)
    chunks = [event for event in heard.events if isinstance(event, AudioChunk)]
    assert [len(chunk.so_far.segments) for chunk in chunks] == list(range(1, len(chunks) + 1))
    decoded = backend.decode("tiny", made.segments[0].fine)
    assert np.array_equal(decoded.samples, expected.segments[0].audio.samples)


def test_what_is_known_of_it_plans_texts_here(backend: ProcessBackend, tiny_folder: Path) -> None:
    known = backend.loaded("tiny")
    assert known is not None
    cascade = load(tiny_folder, device="cpu")
    assert known.front.plan(request(LONG)) == cascade.plan(request(LONG))
    assert known.weight_bytes > 0
    assert (known.identity, known.placement) == (cascade.identity, cascade.placement)
    (worker,) = backend.workers()
    assert (worker.state, worker.models, worker.n_running) == (WorkerState.READY, ("tiny",), 0)
    assert worker.memory_bytes is None or worker.memory_bytes > 0
    assert int(worker.name) != os.getpid()
    assert backend.devices()[-1].device == "cpu"


def test_cancelling_ends_it_and_keeps_what_is_finished(backend: ProcessBackend) -> None:
    heard = Heard()
    running = backend.submit("tiny", request(f"{LONG} {Fault.SLOW}"), heard)
    heard.until(AudioChunk)
    running.cancel()
    stopped = heard.end()
    assert isinstance(stopped, Stopped)
    assert stopped.partial is not None
    assert 1 <= len(stopped.partial.segments) < stopped.partial.n_planned
    running.cancel()  # harmless
    assert isinstance(end_of(backend, "Hello."), Finished)


def test_what_can_t_run_is_told(backend: ProcessBackend) -> None:
    heard = Heard()
    backend.submit("huge", request(), heard)
    assert isinstance(heard.end().error, GenerationError)
    with pytest.raises(GenerationError, match="isn't loaded"):
        backend.decode("huge", None)  # type: ignore[arg-type]
    with pytest.raises(MissingFiles):
        backend.load(ModelSpec(name="none", source="/nowhere/at/all", device="cpu"))
    assert backend.capacity("tiny")


def test_prints_of_libraries_don_t_disturb(backend: ProcessBackend) -> None:
    assert isinstance(end_of(backend, f"Hello. {Fault.DIRT}"), Finished)


def test_too_little_memory_fails_one_job_where_nothing_smaller_is_left(
    backend: ProcessBackend,
) -> None:
    assert isinstance(end_of(backend, Fault.MEMORY).error, OutOfMemory)
    assert isinstance(end_of(backend, "Hello."), Finished)


def test_a_model_that_can_t_be_loaded_smaller_is_loaded_by_another_worker(spec: ModelSpec) -> None:
    backend = ProcessBackend(command=COMMAND, patience=Patience(beat_s=PATIENCE_S))
    backend.load(replace(spec, source=f"{WORN}{spec.source}", max_batch=2))
    before = backend.workers()[0].name
    assert end_of(backend, Fault.MEMORY).error.stepped_down
    until(lambda: backend.capacity("tiny") == 1)
    assert backend.workers()[0].name != before
    assert isinstance(end_of(backend, "Hello."), Finished)
    backend.close()


@pytest.mark.parametrize(
    ("fault", "why"),
    [
        (Fault.CRASH, "signal 11"),
        (Fault.ASSERT, "device"),
        (Fault.MUTE, "couldn't answer"),
        (None, "signal 9"),
    ],
)
def test_a_worker_that_dies_is_told_at_once_and_comes_back(
    backend: ProcessBackend, fault: Fault | None, why: str
) -> None:
    changes: list[int] = []
    backend.watch(lambda: changes.append(backend.capacity("tiny")))
    before = backend.workers()[0]
    heard, other = Heard(), Heard()
    backend.submit("tiny", request(f"{fault or Fault.SLOW} {LONG}"), heard)
    if fault is None:
        heard.until(StageProgress)  # a worker that crashes may be gone before it told of any
        backend.submit("tiny", request(), other)
        os.kill(int(before.name), signal.SIGKILL)
        assert isinstance(other.end().error, WorkerLost)
    failed = heard.end()
    assert isinstance(failed.error, WorkerLost)
    assert why in str(failed.error)
    assert not failed.error.stepped_down
    until(lambda: backend.capacity("tiny"))
    after = backend.workers()[0]
    assert after.name != before.name
    assert after.n_restarts == before.n_restarts + 1
    assert why in after.problem
    assert 0 in changes
    assert isinstance(end_of(backend, "Hello."), Finished)


@pytest.mark.parametrize(
    ("fault", "patience", "why"),
    [
        (Fault.FREEZE, Patience(beat_s=4.0), "no sign of life"),
        (Fault.STALL, Patience(step_s=2.0), "stood still"),
    ],
)
def test_a_worker_that_is_silent_is_taken_for_lost(
    spec: ModelSpec, fault: Fault, patience: Patience, why: str
) -> None:
    backend = ProcessBackend(command=COMMAND, patience=patience)
    backend.load(spec)
    assert why in str(end_of(backend, fault).error)
    backend.close()


def test_unloading_ends_the_process_and_loading_starts_one(
    backend: ProcessBackend, spec: ModelSpec
) -> None:
    (worker,) = backend.workers()
    backend.unload("tiny")
    assert backend.loaded("tiny") is None
    assert backend.workers()[0].state is WorkerState.NONE
    with pytest.raises(ProcessLookupError):
        os.kill(int(worker.name), 0)
    heard = Heard()
    backend.submit("tiny", request(), heard)
    assert isinstance(heard.end(), Failed)
    backend.load(spec)
    assert isinstance(end_of(backend, "Hello."), Finished)


def test_what_can_t_be_brought_back_is_given_up(
    spec: ModelSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bark_core.process_backend.MAX_TRIES", 1)
    backend = ProcessBackend(command=COMMAND)
    backend.load(spec)
    backend._specs["tiny"] = ModelSpec(name="tiny", source="crash")
    os.kill(int(backend.workers()[0].name), signal.SIGKILL)
    until(lambda: backend.failure("tiny"))
    assert backend.loaded("tiny") is None
    assert backend.workers()[0].state is WorkerState.FAILED
    backend.load(spec)  # somebody tries again
    assert backend.failure("tiny") is None
    assert isinstance(end_of(backend, "Hello."), Finished)
    backend.close()
    with pytest.raises(WorkerLost, match="closing"):
        backend.load(spec)


def test_a_worker_that_can_t_start_is_an_error() -> None:
    backend = ProcessBackend(command=(sys.executable, "-c", "raise SystemExit(4)"))
    with pytest.raises(WorkerLost, match="status 4"):
        backend.load(ModelSpec(name="pup", source="pup"))
    backend = ProcessBackend(command=("/nowhere/python",))
    with pytest.raises(WorkerLost, match="can't be started"):
        backend.load(ModelSpec(name="pup", source="pup"))


def test_a_download_goes_on_in_the_worker_and_can_be_stopped(
    backend: ProcessBackend, tiny_folder: Path, tmp_path: Path
) -> None:
    hub = FakeHub()
    hub.publish("suno/bark-small", tiny_folder)
    seen: list[DownloadProgress] = []

    def stop(progress: DownloadProgress) -> None:
        seen.append(progress)
        raise Cancelled("enough")

    with serve(hub):
        spec = ModelSpec(name="s", source="small", cache_dir=tmp_path, endpoint=hub.url)
        delay_s = 0.2
        hub.on_bytes = lambda: time.sleep(delay_s)
        with pytest.raises(Cancelled):
            backend.download(spec, progress=stop)
        delay_s = 0.0
        backend.download(spec, progress=seen.append)
        assert seen[-1].done_bytes == seen[-1].total_bytes


def test_a_worker_ends_with_whoever_started_it(spec: ModelSpec) -> None:
    program = textwrap.dedent(
        f"""
        import os, signal
        from bark_core.backend import ModelSpec
        from bark_core.process_backend import ProcessBackend
        backend = ProcessBackend()
        backend.load(ModelSpec(name="tiny", source={spec.source!r}, device="cpu"))
        print(backend.workers()[0].name, flush=True)
        os.kill(os.getpid(), signal.SIGKILL)
        """
    )
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert ran.returncode == -signal.SIGKILL, ran.stderr
    worker = int(ran.stdout)

    def is_gone() -> bool:
        try:
            os.kill(worker, 0)
        except ProcessLookupError:
            return True
        # in a container nobody may wait for it: then it stays as a zombie
        return ") Z " in Path(f"/proc/{worker}/stat").read_text()

    until(is_gone)


@pytest.mark.parametrize("asked", [None, "7"])
def test_a_worker_keeps_little_of_what_was_compiled_unless_somebody_asks_otherwise(
    asked: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = "ONEDNN_PRIMITIVE_CACHE_CAPACITY"
    monkeypatch.delenv(name, raising=False)
    if asked:
        monkeypatch.setenv(name, asked)
    assert _environment()[name] == (asked or str(SHAPES))


def test_a_worker_gives_back_what_its_jobs_took_every_few_seconds(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now_s = 100.0
    trims: list[float] = []
    monkeypatch.setattr("bark_core.worker.trim_heap", lambda: trims.append(now_s))
    worker = Worker(Wire(io.BytesIO(), io.BytesIO()), InProcessBackend(), clock=lambda: now_s)
    for step_s in (0.0, 1.0, 1.0, TRIM_EVERY_S, 1.0):
        now_s += step_s
        worker._trim()
    assert trims == [100.0, 102.0 + TRIM_EVERY_S]


def without_threads(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """There is no room for the stack of a thread with such a name."""
    start = threading.Thread.start

    def refused(self: threading.Thread) -> None:
        if self.name.startswith(name):
            raise RuntimeError("can't start new thread")
        start(self)

    monkeypatch.setattr(threading.Thread, "start", refused)


def test_a_job_without_room_for_its_thread_fails_and_the_next_one_runs(
    tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cascade = load(tiny_folder, device="cpu")
    backend = InProcessBackend(load=lambda *_source, **_options: cascade)
    backend.load(ModelSpec(name="tiny", source="tiny"))
    with monkeypatch.context() as patched:
        without_threads(patched, "tell-")
        assert isinstance(end_of(backend, LONG).error, OutOfMemory)
        assert backend.idle("tiny")
    assert isinstance(end_of(backend, "Hello."), Finished)
    backend.close()


def test_a_call_without_room_for_its_thread_is_answered(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = io.BytesIO()
    worker = Worker(Wire(io.BytesIO(), answers), InProcessBackend())
    without_threads(monkeypatch, "call-")
    worker._begin(Call(7, "unload", ("tiny",)))
    answer = Wire(io.BytesIO(answers.getvalue()), io.BytesIO()).receive()
    assert isinstance(answer, Answer)
    assert (answer.id, answer.value) == (7, None)
    assert isinstance(answer.error, OutOfMemory)
    assert not worker._calls


@pytest.mark.parametrize(
    ("asked", "found"),
    [
        ({}, {"GOMP_SPINCOUNT": str(LOOKS)}),
        ({"GOMP_SPINCOUNT": "7"}, {"GOMP_SPINCOUNT": "7"}),
        ({"OMP_WAIT_POLICY": "ACTIVE"}, {"OMP_WAIT_POLICY": "ACTIVE"}),
    ],
)
def test_a_workers_threads_soon_fall_asleep_unless_somebody_asks_otherwise(
    asked: dict[str, str], found: dict[str, str], spec: ModelSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY"):
        monkeypatch.delenv(name, raising=False)
    for name, value in asked.items():
        monkeypatch.setenv(name, value)
    backend = ProcessBackend()
    backend.load(spec)
    seen = Path(f"/proc/{backend.workers()[0].name}/environ").read_text().split("\0")
    backend.close()
    told = dict(entry.split("=", 1) for entry in seen if entry.startswith(("GOMP_S", "OMP_W")))
    assert told == found


# --- the same in this process


def test_the_plain_backend_keeps_the_same_laws(tiny_folder: Path) -> None:
    cascade = load(tiny_folder, device="cpu")
    backend = InProcessBackend(load=lambda *_source, **_options: cascade)
    known = backend.load(ModelSpec(name="tiny", source="tiny"))
    heard = Heard()
    backend.submit("tiny", request(), heard)
    made = heard.end().generation
    assert np.array_equal(made.audio.samples, load(tiny_folder).generate(request()).audio.samples)
    assert known.front.plan(request()) == cascade.plan(request())
    running = backend.submit("tiny", request(LONG), heard)
    heard.until(StageProgress)
    running.cancel()
    assert isinstance(heard.end(), Stopped)
    foreign: Cascade = load(tiny_folder)
    voice = foreign.generate(request()).voice
    object.__setattr__(voice.semantic.layout, "name", "other")
    backend.submit("tiny", GenerationRequest("Hello.", voice=voice, settings=STEADY), heard)
    assert isinstance(heard.end().error, LayoutMismatch)
    backend.unload("tiny")
    assert backend.capacity("tiny") == 0
    backend.submit("tiny", request(), heard)
    assert isinstance(heard.end().error, GenerationError)
    backend.close()


# --- the wire


def framed(message: object) -> bytes:
    data = pickle.dumps(message)
    return struct.pack(">Q", len(data)) + data


class Danger:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, ("true",)


def test_a_message_may_name_only_what_is_ours() -> None:
    config = tiny_config()
    sound = np.arange(3, dtype=np.float32)
    for good in (config, sound, Path("a"), OutOfMemory("x"), WorkerLost("x", stepped_down=True)):
        wire = Wire(io.BytesIO(framed(good)), io.BytesIO())
        again = wire.receive()
        assert type(again) is type(good)
    lost = Wire(io.BytesIO(framed(WorkerLost("x", stepped_down=True))), io.BytesIO()).receive()
    assert lost.stepped_down
    for bad in (Danger(), os.system, subprocess.Popen, eval, load):
        with pytest.raises(pickle.UnpicklingError, match="may not name"):
            Wire(io.BytesIO(framed(bad)), io.BytesIO()).receive()


@pytest.mark.parametrize("cut", [0, 3, 8, 12])
def test_half_a_message_is_the_end(cut: int) -> None:
    with pytest.raises(EOFError):
        Wire(io.BytesIO(framed("whole message")[:cut]), io.BytesIO()).receive()

"""Laws of several devices: a worker for each, one that dies leaves the others going."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from bark_core.backend import ModelSpec, WorkerState
from bark_core.checkpoint import load
from bark_core.device import named_devices
from bark_core.device_pool import DevicePool, _environment
from bark_core.errors import (
    GenerationError,
    InvalidSetting,
    MissingFiles,
    OutOfMemory,
    WorkerLost,
)
from bark_core.events import AudioChunk, Failed, Finished, StageProgress
from bark_core.jobs import JobState
from bark_core.placement import DeviceInfo
from bark_core.preflight import Fit, Verdict
from bark_core.process_backend import Patience
from tests.broken_worker import COMMAND, HALF, Fault
from tests.test_process_backend import LONG, PATIENCE_S, Heard, end_of, request, until
from webui.hosting import Hosting
from webui.models import ModelShelf
from webui.queue_store import QueueStore
from webui.scheduler import Happening, Note, QueuedJob, Scheduler
from webui.settings import StudioSettings, parse_arguments

SLOW = f"{Fault.SLOW} {LONG}"
PATIENCE = Patience(beat_s=PATIENCE_S, step_s=PATIENCE_S)


def pids(pool: DevicePool) -> list[int]:
    return [int(worker.name) for worker in pool.workers()]


@pytest.fixture(scope="module")
def spec(tiny_folder: Path) -> ModelSpec:
    return ModelSpec(name="tiny", source=str(tiny_folder), device="cpu", max_batch=1)


@pytest.fixture(scope="module")
def started(spec: ModelSpec) -> Iterator[DevicePool]:
    """One pool for all tests: each leaves it as it was."""
    pool = DevicePool(("cpu", "cpu"), command=COMMAND, patience=PATIENCE)
    pool.load(spec)
    yield pool
    pool.close()


@pytest.fixture
def pool(started: DevicePool) -> DevicePool:
    until(lambda: started.capacity("tiny") == 2)
    return started


def running(pool: DevicePool) -> list[int]:
    return [worker.n_running for worker in pool.workers()]


def slow(pool: DevicePool, seed: int = 1, *, alone: bool = False) -> tuple[Heard, Any]:
    """A job that runs until it is stopped."""
    heard = Heard()
    job = pool.submit("tiny", request(SLOW, seed), heard, alone=alone)
    heard.until(StageProgress)
    return heard, job


def test_two_jobs_run_at_the_same_time_on_two_workers(pool: DevicePool) -> None:
    first, one = slow(pool)
    second, two = slow(pool)  # it goes on only if the first doesn't hold it up
    assert running(pool) == [1, 1]
    assert pids(pool)[0] != pids(pool)[1]
    for heard, job in ((first, one), (second, two)):
        job.cancel()
        heard.end()
    assert running(pool) == [0, 0]


def test_the_same_seed_is_the_same_on_each(pool: DevicePool, tiny_folder: Path) -> None:
    expected = load(tiny_folder, device="cpu").generate(request())
    held, job = slow(pool)
    made = [end_of(pool, "Hello.").generation]  # on the second
    job.cancel()
    held.end()
    made.append(end_of(pool, "Hello.").generation)  # on the first
    for one in made:
        assert np.array_equal(one.segments[0].fine.values, expected.segments[0].fine.values)
    decoded = pool.decode("tiny", expected.segments[0].fine)
    assert np.array_equal(decoded.samples, expected.segments[0].audio.samples)


def test_one_that_dies_leaves_the_other_one_s_job_alone(pool: DevicePool) -> None:
    dying, _ = slow(pool)
    living, job = slow(pool)
    first, second = pids(pool)
    os.kill(first, signal.SIGKILL)
    lost = dying.end()
    assert isinstance(lost, Failed) and isinstance(lost.error, WorkerLost)
    assert pool.loaded("tiny") is not None
    assert pool.failure("tiny") is None
    living.until(AudioChunk)  # it goes on
    job.cancel()
    living.end()
    until(lambda: pool.capacity("tiny") == 2)
    assert pids(pool)[1] == second
    assert pids(pool)[0] != first
    assert [worker.state for worker in pool.workers()] == [WorkerState.READY] * 2
    assert isinstance(end_of(pool, "Hello."), Finished)


def test_a_job_that_is_to_be_alone_has_a_worker_to_itself(pool: DevicePool) -> None:
    alone, first = slow(pool, alone=True)
    assert pool.capacity("tiny") == 2
    assert pool.idle("tiny")  # the other one
    beside, second = slow(pool)
    assert running(pool) == [1, 1]
    assert not pool.idle("tiny")
    for heard, job in ((alone, first), (beside, second)):
        job.cancel()
        heard.end()


def test_what_is_known_is_known_of_each(pool: DevicePool) -> None:
    known = pool.loaded("tiny")
    assert known is not None
    assert [one.placement.device for one in known.everywhere] == ["cpu", "cpu"]
    assert [worker.device for worker in pool.workers()] == ["cpu", "cpu"]
    assert all(worker.models == ("tiny",) for worker in pool.workers())
    assert [info.device for info in pool.devices()] == ["cpu"]


def test_what_can_t_run_is_told(pool: DevicePool, spec: ModelSpec) -> None:
    heard = Heard()
    pool.submit("huge", request(), heard)
    assert isinstance(heard.end().error, GenerationError)
    with pytest.raises(GenerationError, match="isn't loaded"):
        pool.decode("huge", None)  # type: ignore[arg-type]
    with pytest.raises(MissingFiles):
        pool.load(replace(spec, name="none", source="/nowhere/at/all"))
    assert pool.loaded("none") is None
    assert pool.capacity("none") == 0


def test_unloading_frees_both(pool: DevicePool, spec: ModelSpec) -> None:
    before = pids(pool)
    pool.unload("tiny")
    assert pool.loaded("tiny") is None
    assert [worker.state for worker in pool.workers()] == [WorkerState.NONE] * 2
    for pid in before:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)
    pool.load(spec)
    assert pool.capacity("tiny") == 2


# --- where not every device can


def test_a_device_with_too_little_memory_is_left_out(
    spec: ModelSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BROKEN_WORKER", str(tmp_path / "once"))
    pool = DevicePool(("cpu", "cpu"), command=COMMAND, patience=PATIENCE)
    known = pool.load(replace(spec, source=f"{HALF}{spec.source}"))
    assert len(known.everywhere) == 1
    assert pool.capacity("tiny") == 1
    hindered, ready = pool.workers()
    assert (hindered.state, ready.state) == (WorkerState.FAILED, WorkerState.READY)
    assert "memory" in hindered.problem
    assert isinstance(end_of(pool, "Hello."), Finished)
    pool.load(spec)  # somebody loads it anew
    assert pool.capacity("tiny") == 2
    assert [worker.state for worker in pool.workers()] == [WorkerState.READY] * 2
    pool.close()


def test_where_none_can_the_first_one_s_reason_is_raised(spec: ModelSpec) -> None:
    pool = DevicePool(("cpu", "cpu"), command=COMMAND, patience=PATIENCE)
    with pytest.raises(WorkerLost, match="status 3"):
        pool.load(replace(spec, source="crash"))
    assert pool.loaded("tiny") is None
    pool.close()


def test_each_steps_down_by_itself_and_offloads_at_last(
    spec: ModelSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two GPUs are pretended; `Fault.MEMORY` never fits."""
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    pool = DevicePool(("all",), command=COMMAND, patience=PATIENCE)
    known = pool.load(replace(spec, max_batch=2))
    assert [one.placement.device for one in known.everywhere] == ["cuda:0", "cuda:1"]
    assert pool.capacity("tiny") == 4
    assert [info.device for info in pool.devices()] == ["cuda:0", "cuda:1", "cpu"]
    seen = []
    while not isinstance((end := end_of(pool, Fault.MEMORY)).error, OutOfMemory):
        assert isinstance(end.error, WorkerLost) and end.error.stepped_down
        until(lambda: pool.idle("tiny"))  # the other one is free at once
        now = pool.loaded("tiny")
        assert now is not None
        seen += [(one.max_batch, one.placement.offload) for one in now.everywhere]
    assert set(seen) >= {(1, False), (1, True)}
    assert isinstance(end_of(pool, "Hello."), Finished)
    pool.close()


# --- which devices


def test_a_worker_sees_its_own_gpu_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert _environment("cuda:1", 1) == {"CUDA_VISIBLE_DEVICES": "1"}
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3, GPU-12ab")
    assert _environment("cuda:0", 1)["CUDA_VISIBLE_DEVICES"] == "3"
    assert _environment("cuda:1", 1)["CUDA_VISIBLE_DEVICES"] == "GPU-12ab"
    assert _environment("cpu", 1)["CUDA_VISIBLE_DEVICES"] == ""


def test_workers_share_the_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    whole, half = (int(_environment("cpu", n)["OMP_NUM_THREADS"]) for n in (1, 2))
    assert half == max(1, whole // 2)
    assert int(_environment("cpu", 1000)["OMP_NUM_THREADS"]) == 1
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    assert _environment("cpu", 2)["OMP_NUM_THREADS"] == "7"


def test_devices_go_by_their_own_names(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert named_devices(("all",)) == ("cuda:0", "cuda:1")
    assert named_devices(("cuda", "cpu")) == ("cuda:0", "cpu")
    assert named_devices(("auto",)) == ("auto",)
    with pytest.raises(InvalidSetting, match=r"'cuda:2'.*'cuda:0', 'cuda:1', 'cpu'"):
        named_devices(("cuda:0", "cuda:2"))
    with pytest.raises(InvalidSetting, match="'all' is every GPU"):
        named_devices(("auto", "cuda:0"))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    assert named_devices(("all",)) == ("cpu",)
    with pytest.raises(InvalidSetting, match="at least one"):
        DevicePool(())


def test_devices_are_chosen_on_the_command_line(tmp_path: Path) -> None:
    def devices(*options: str) -> tuple[str, ...]:
        return parse_arguments(["--data", str(tmp_path), *options]).devices

    assert devices() == ("auto",)
    assert devices("--device", "cuda:1") == ("cuda:1",)
    assert devices("--device", "cuda:0", "--device", "cpu") == ("cuda:0", "cpu")
    assert devices("--device", "cpu", "--no-worker") == ("cpu",)
    for switch in ("--no-worker", "--ray"):
        with pytest.raises(InvalidSetting, match=switch):
            ray, worker = ("auto", True) if switch == "--ray" else (None, False)
            StudioSettings(devices=("cpu", "cpu"), hosting=Hosting(ray=ray, worker=worker))
    with pytest.raises(InvalidSetting, match="leave it away"):
        StudioSettings(devices=("",))


def test_a_model_fits_where_it_fits_worst(tmp_path: Path) -> None:
    """What System tells of a model that each of several devices is to hold."""
    large, small = (DeviceInfo(f"cuda:{n}", "cuda", "GPU", b, b) for n, b in enumerate((10**10, 7)))
    cpu = DeviceInfo("cpu", "cpu", "CPU", 10**10, 10**10)

    def fit(*devices: str) -> Fit:
        settings = StudioSettings(model="pup", data=tmp_path, devices=devices)
        shelf = ModelShelf(settings, devices=lambda: (large, small, cpu))
        assert shelf.recommendation() is not None
        fit = shelf.fit("small")
        shelf.close()
        assert fit is not None
        return fit

    assert fit("cuda:0").verdict is Verdict.FITS
    both = fit("cuda:0", "cuda:1")
    assert (both.device.device, both.verdict) == ("cuda:1", Verdict.TOO_LITTLE_MEMORY)
    # workers on the same device share its memory
    alone, shared = (fit(*["cpu"] * n).available_bytes or 0 for n in (1, 4))
    assert shared == pytest.approx(alone / 4, abs=4)


# --- through the queue


class Queue:
    """A scheduler over two workers, and all that it noted."""

    def __init__(self, folder: Path, model: Path, **hosting: Any) -> None:
        self.hosting = Hosting(**hosting)
        settings = StudioSettings(
            model=str(model),
            data=folder,
            cache=folder / "cache",
            devices=("cpu", "cpu"),
            hosting=self.hosting,
        )
        self.pool = DevicePool(settings.devices, command=COMMAND, patience=PATIENCE)
        self.models = ModelShelf(settings, backend=self.pool)
        self.scheduler = Scheduler(self.models, QueueStore.open(folder), self.hosting)
        self.notes: list[Note] = []
        self.scheduler.listen(self.notes.append)
        self.models.start()
        assert self.models.settled().wait(PATIENCE_S)

    def submit(self, text: str, owner: str = "ann") -> QueuedJob:
        return self.scheduler.submit(request(text), model=self.models.default, owner=owner)

    def noted(self, what: Happening) -> list[str]:
        return [note.job_id for note in list(self.notes) if note.what is what]

    def close(self) -> None:
        self.scheduler.close()
        self.models.close()


@pytest.fixture
def two(tmp_path: Path, tiny_folder: Path) -> Iterator[Queue]:
    queue = Queue(tmp_path, tiny_folder, max_batch=1)
    yield queue
    queue.close()


def test_the_queue_fills_all_devices_and_no_more(two: Queue) -> None:
    jobs = [two.submit(SLOW) for _ in range(3)]
    until(lambda: [job.state for job in jobs].count(JobState.RUNNING) == 2)
    until(lambda: running(two.pool) == [1, 1])
    place = two.scheduler.place(jobs[2])
    assert place is not None and place.n_before == 2
    assert two.models.status().devices == ("cpu", "cpu")
    for job in jobs:
        job.cancel()


def test_a_killed_worker_s_job_is_made_again_and_the_others_go_on(two: Queue) -> None:
    text = "The cat sat. " * 4 + Fault.SLOW  # it runs for seconds
    dying, living = two.submit(text, "ann"), two.submit(SLOW, "bob")
    until(lambda: dying.progress is not None and living.progress is not None)
    assert running(two.pool) == [1, 1]
    os.kill(pids(two.pool)[0], signal.SIGKILL)
    made = dying.wait(PATIENCE_S)
    assert two.noted(Happening.RESTARTED) == [dying.id]
    assert living.state is JobState.RUNNING
    assert living.attempts == 0
    expected = load(two.models._model("").source, device="cpu").generate(request(text))
    assert np.array_equal(made.audio.samples, expected.audio.samples)
    living.cancel()


def test_a_free_device_makes_a_lost_job_again_at_once(
    two: Queue, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It needn't wait until the worker that died is back."""
    first, second = pids(two.pool)
    job = two.submit(SLOW)
    until(lambda: job.progress is not None)
    gone = first if running(two.pool) == [1, 0] else second
    held = threading.Event()
    backend = two.pool._members[0 if gone == first else 1].backend
    restore = backend._restore

    def wait() -> None:
        held.wait(PATIENCE_S)
        restore()

    monkeypatch.setattr(backend, "_restore", wait)
    os.kill(gone, signal.SIGKILL)
    until(lambda: job.attempts == 1 and job.state is JobState.RUNNING)
    assert two.pool.capacity(two.models.default) == 1  # of the one that lives
    held.set()
    job.cancel()
    until(lambda: two.pool.capacity(two.models.default) == 2)

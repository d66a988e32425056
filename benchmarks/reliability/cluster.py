"""Two Ray replicas on one machine: one is killed mid-stream, jobs are stopped at any moment.

Needs ray (requirements-cluster.txt). For each round a long job is submitted; when its first
sound has come, the replica that runs it is killed (SIGKILL). The job must be told as lost within
5 s, and, submitted again as the scheduler does, be finished by the other replica with the same
tokens. Then a job is stopped at a random moment, and the replica must be free of it within 0.5 s.
"""

from __future__ import annotations

import os
import queue
import random
import signal
import tempfile
import time
from pathlib import Path
from typing import Any

from bark_core.backend import ModelSpec
from bark_core.errors import WorkerLost
from bark_core.events import AudioChunk, Event, Failed, Finished, Stopped
from bark_core.generation import Generation
from bark_core.request import GenerationRequest, SemanticParams, Settings
from benchmarks.reliability.result import Result
from tests.page_model import save_page_model

N = 20
LOST_S, FREE_S, WAIT_S = 5.0, 0.5, 180.0
NAME = "page"
TEXT = "The cat sat on the mat. The dog ran to the door. " * 6


class Heard:
    """What is told of one job."""

    def __init__(self) -> None:
        self._news: queue.Queue[Event] = queue.Queue()

    def __call__(self, event: Event) -> None:
        self._news.put(event)

    def until(self, *kinds: type) -> Any:
        while not isinstance(event := self._news.get(timeout=WAIT_S), kinds):
            pass
        return event

    def end(self) -> Any:
        return self.until(Finished, Failed, Stopped)


def long_request(seed: int) -> GenerationRequest:
    params = SemanticParams(allow_early_stop=False, max_duration_s=3.0)
    return GenerationRequest(TEXT, seed=seed, settings=Settings(semantic=params))


def busy_replica(backend: Any) -> Any:
    """The replica that has a job."""
    deadline = time.monotonic() + WAIT_S
    while time.monotonic() < deadline:
        about = backend.ask(NAME)
        if about.n_running:
            return about
    raise TimeoutError("no replica has a job")


def measure(n: int) -> Result:
    """Kill and stop `n` times each."""
    from bark_core.cluster import Cluster
    from bark_core.ray_serve import RayServeBackend

    lost_s, again_s, free_s = [], [], []
    broken: list[str] = []
    with tempfile.TemporaryDirectory(prefix="bark-studio-cluster-") as name:
        source = save_page_model(Path(name) / NAME)
        backend = RayServeBackend(Cluster(replicas=2))
        try:
            backend.load(ModelSpec(name=NAME, source=str(source), device="cpu", max_batch=2))
            whole = _finished(backend, long_request(0))
            for number in range(n):
                took = _killed(backend, long_request(0), whole, broken)
                lost_s.append(took[0])
                again_s.append(took[1])
                free_s.append(_stopped(backend, number, broken))
        finally:
            backend.close()
    figures = {
        "told_lost_worst_s": round(max(lost_s), 2),
        "finished_elsewhere_worst_s": round(max(again_s), 1),
        "free_after_stop_p95_s": round(sorted(free_s)[min(len(free_s) - 1, round(0.95 * n))], 3),
        "free_after_stop_worst_s": round(max(free_s), 3),
    }
    if figures["free_after_stop_p95_s"] > FREE_S:
        broken.append(f"a replica was free {figures['free_after_stop_p95_s']} s after a stop (p95)")
    return Result(figures, tuple(broken))


def _finished(backend: Any, request: GenerationRequest) -> Generation:
    heard = Heard()
    backend.submit(NAME, request, heard)
    end = heard.end()
    assert isinstance(end, Finished), end
    return end.generation


def _killed(
    backend: Any, request: GenerationRequest, whole: Generation, broken: list[str]
) -> tuple[float, float]:
    """Kill the replica of a job; seconds until it was told, and until it was finished."""
    heard = Heard()
    backend.submit(NAME, request, heard)
    heard.until(AudioChunk)
    os.kill(busy_replica(backend).pid, signal.SIGKILL)
    killed_at = time.monotonic()
    end = heard.end()
    told_s = time.monotonic() - killed_at
    if not (isinstance(end, Failed) and isinstance(end.error, WorkerLost)):
        broken.append(f"a killed replica was told as {end!r:.200}")
    elif told_s > LOST_S:
        broken.append(f"a killed replica was told after {told_s:.1f} s")
    made = _finished(backend, request)
    finished_s = time.monotonic() - killed_at
    if _tokens(made) != _tokens(whole):
        broken.append("the other replica made other tokens")
    deadline = time.monotonic() + WAIT_S
    while backend.capacity(NAME) < 4:  # both are back
        if time.monotonic() > deadline:
            broken.append("a killed replica didn't come back")
            break
        time.sleep(0.1)
    return told_s, finished_s


def _stopped(backend: Any, seed: int, broken: list[str]) -> float:
    """Stop a job at a random moment; seconds until no replica has it."""
    heard = Heard()
    running = backend.submit(NAME, long_request(seed), heard)
    busy_replica(backend)
    time.sleep(random.Random(seed).uniform(0.0, 0.5))
    running.cancel()
    stopped_at = time.monotonic()
    end = heard.end()
    if not isinstance(end, Stopped | Finished):
        broken.append(f"a stopped job ended as {end!r:.200}")
    # two in a row of each: Ray chooses whom it asks
    while any(backend.ask(NAME).n_running for _ in range(4)):
        if time.monotonic() - stopped_at > WAIT_S:
            broken.append("a stopped job went on")
            break
    return time.monotonic() - stopped_at


def _tokens(made: Generation) -> list[bytes]:
    return [segment.fine.values.tobytes() for segment in made.segments]

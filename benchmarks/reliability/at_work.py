"""A whole studio with its worker, and what runs in it handed over directly, for comparison."""

from __future__ import annotations

import contextlib
import os
import queue
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from bark_core import (
    Backend,
    Event,
    Failed,
    Finished,
    Generation,
    GenerationRequest,
    Stopped,
    read_segments,
)
from tests.served import Served, serving
from webui.hosting import Hosting
from webui.settings import StudioSettings

MODEL = "BARK_STUDIO_BENCHMARK_MODEL"  # an environment variable: the tests take a smaller one
PASSWORD = "a password of the benchmark"
PATIENCE_S = 600.0


def model_name() -> str:
    """The model that everything runs on."""
    return os.environ.get(MODEL, "pup")


@contextlib.contextmanager
def studio(*, password: str | None = None, **hosting: object) -> Iterator[Served]:
    """A studio that is served, in a folder of its own, with its model loaded."""
    with tempfile.TemporaryDirectory(prefix="bark-reliability-") as folder:
        settings = StudioSettings(
            model=model_name(),
            data=Path(folder) / "data",
            password=password,
            hosting=Hosting(**hosting),  # type: ignore[arg-type]
        )
        with serving(settings) as served:
            yield served


def until(what: Callable[[], object], timeout_s: float = PATIENCE_S) -> None:
    """Wait for something."""
    deadline = time.monotonic() + timeout_s
    while not what():
        if time.monotonic() > deadline:
            raise TimeoutError("it never happened")
        time.sleep(0.005)


def directly(
    backend: Backend, name: str, requests: Sequence[GenerationRequest]
) -> tuple[float, list[Generation]]:
    """Hand requests to a backend itself, as many at once as it takes: seconds, and what it made."""
    news: queue.Queue[tuple[int, Event]] = queue.Queue()
    made: dict[int, Generation] = {}
    n_begun = n_over = 0
    began = time.monotonic()
    while n_over < len(requests):
        while n_begun < len(requests) and n_begun - n_over < max(1, backend.capacity(name)):
            number = n_begun
            backend.submit(name, requests[number], lambda event, n=number: news.put((n, event)))  # type: ignore[misc]
            n_begun += 1
        number, event = news.get(timeout=PATIENCE_S)
        if isinstance(event, Finished):
            made[number] = event.generation
        elif isinstance(event, Failed):
            raise event.error
        n_over += isinstance(event, Finished | Stopped)
    return time.monotonic() - began, [made[number] for number in range(len(requests))]


def tokens_of(result: Generation) -> list[bytes]:
    """What was drawn, stage by stage, for comparing."""
    return [
        values.tobytes()
        for segment in result.segments
        for values in (segment.semantic.values, segment.coarse.values, segment.fine.values)
    ]


def tokens_kept(served: Served, entry_id: str) -> list[bytes]:
    """The same of an entry of the history."""
    config = served.studio.models.config()
    assert config is not None
    path = served.studio.history.voice_path(entry_id)
    return [
        values.tobytes()
        for voice in read_segments(path, layout=config.layout)
        for values in (voice.semantic.values, voice.coarse.values, voice.fine.values)
    ]

"""Laws of models on a cluster: two replicas of Ray Serve on this machine. Skipped without ray."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from bark_core.audio import read_audio
from bark_core.backend import ModelSpec, WorkerState
from bark_core.checkpoint import load
from bark_core.cluster import Cluster
from bark_core.errors import GenerationError, InvalidCheckpoint, InvalidSetting, WorkerLost
from bark_core.events import AudioChunk, Failed, Finished, Stopped
from bark_core.request import GenerationRequest
from benchmarks.reliability.cluster import NAME, WAIT_S, Heard, busy_replica, long_request
from tests.page_model import save_page_model
from tests.served import serving
from webui.hosting import Hosting
from webui.jobs import TicketState
from webui.settings import StudioSettings

pytest.importorskip("ray", reason="requirements-cluster.txt isn't installed")
if TYPE_CHECKING:
    from bark_core.ray_serve import RayServeBackend

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_page_model(tmp_path_factory.mktemp("cluster") / NAME)


@pytest.fixture(scope="module")
def backend(source: Path) -> Iterator[RayServeBackend]:
    from bark_core.ray_serve import RayServeBackend

    backend = RayServeBackend(Cluster(replicas=2))
    backend.load(ModelSpec(name=NAME, source=str(source), device="cpu", max_batch=2))
    yield backend
    backend.close()


def until(what: Callable[[], object]) -> None:
    deadline = time.monotonic() + WAIT_S
    while not what():
        assert time.monotonic() < deadline, "it never happened"
        time.sleep(0.05)


def test_through_a_studio_a_killed_replica_s_job_is_made_again(
    source: Path, tmp_path: Path
) -> None:
    hosting = Hosting(ray="local", replicas=2, max_batch=2)
    with serving(StudioSettings(model=str(source), data=tmp_path, hosting=hosting)) as served:
        desk, backend = served.studio.desk, served.studio.models.backend
        tickets = [desk.submit(long_request(2))]
        assert tickets[0].finished.wait(WAIT_S)
        tickets.append(desk.submit(long_request(2)))
        until(lambda: tickets[1].job is not None and tickets[1].job.progress is not None)
        os.kill(busy_replica(backend).pid, signal.SIGKILL)
        assert tickets[1].finished.wait(WAIT_S)
        assert [ticket.state for ticket in tickets] == [TicketState.DONE] * 2
        assert [ticket.attempts for ticket in tickets] == [0, 1]
        kept = [served.studio.history.sound_path(ticket.id) for ticket in tickets]
        first, again = (read_audio(path).samples for path in kept)
        assert np.array_equal(first, again)


def finished(backend: Any, request: GenerationRequest) -> Any:
    heard = Heard()
    backend.submit(NAME, request, heard)
    end = heard.end()
    assert isinstance(end, Finished), end
    return end.generation


def test_a_replica_gives_what_the_cascade_gives(backend: RayServeBackend, source: Path) -> None:
    request = long_request(5)
    made, alone = finished(backend, request), load(source, device="cpu").generate(request)
    assert np.array_equal(made.audio.samples, alone.audio.samples)
    # voices travel there and back
    again = finished(backend, GenerationRequest("More.", voice=made.voice, seed=1))
    assert again.request.voice is not None
    assert again.request.voice.sha256 == made.voice.sha256


def test_a_stop_reaches_the_replica(backend: RayServeBackend) -> None:
    heard = Heard()
    running = backend.submit(NAME, long_request(1), heard)
    heard.until(AudioChunk)
    running.cancel()
    end = heard.end()
    assert isinstance(end, Stopped) and end.partial is not None and end.partial.segments
    until(lambda: not any(backend.ask(NAME).n_running for _ in range(6)))
    running.cancel()  # harmless when it is over


def test_a_replica_that_dies_is_told_and_the_other_one_goes_on(backend: RayServeBackend) -> None:
    whole = finished(backend, long_request(2))
    changes: list[int] = []
    backend.watch(lambda: changes.append(backend.capacity(NAME)))
    heard = Heard()
    backend.submit(NAME, long_request(2), heard)
    heard.until(AudioChunk)
    os.kill(busy_replica(backend).pid, signal.SIGKILL)
    end = heard.end()
    assert isinstance(end, Failed) and isinstance(end.error, WorkerLost)
    assert end.partial is not None  # what was heard before
    # submitted again, as the scheduler does, before the dead one is back
    again = finished(backend, long_request(2))
    assert np.array_equal(again.audio.samples, whole.audio.samples)
    until(lambda: 2 in changes and changes[-1] == 4)
    (status,) = backend.workers()
    assert status.state is WorkerState.READY and status.n_restarts >= 1


def test_what_cannot_be_loaded_is_one_clear_error(backend: RayServeBackend, tmp_path: Path) -> None:
    damaged = save_page_model(tmp_path / "damaged")
    (damaged / "fine.safetensors").write_bytes(b"nothing")
    with pytest.raises(InvalidCheckpoint, match="fine"):
        backend.load(ModelSpec(name="damaged", source=str(damaged), device="cpu"))
    assert backend.loaded("damaged") is None and backend.capacity("damaged") == 0
    heard = Heard()
    backend.submit("damaged", long_request(1), heard)
    end = heard.end()
    assert isinstance(end, Failed) and "isn't loaded" in str(end.error)
    with pytest.raises(GenerationError, match="isn't loaded"):
        backend.decode("damaged", finished(backend, long_request(3)).voice.fine)


def test_settings_out_of_range_are_refused() -> None:
    with pytest.raises(InvalidSetting, match="replicas"):
        Cluster(replicas=0)
    with pytest.raises(InvalidSetting, match="gpus_each"):
        Cluster(gpus_each=-1)

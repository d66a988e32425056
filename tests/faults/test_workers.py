"""Workers that fail under a whole studio: what its users are told, and what goes on."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from bark_core import GenerationRequest, OutOfMemory, Patience, ProcessBackend, WorkerLost
from tests.broken_worker import COMMAND, Fault
from tests.served import Served, serving
from tests.test_process_backend import PATIENCE_S, request, until
from webui.hosting import Hosting
from webui.jobs import Ticket, TicketState
from webui.scheduler import Happening, Note
from webui.settings import StudioSettings
from webui.words import explain

SLOW = f"{'The cat sat. ' * 3}{Fault.SLOW}"
PATIENCE = Patience(beat_s=PATIENCE_S, step_s=PATIENCE_S)


@contextlib.contextmanager
def broken_studio(
    model: str, data: Path, device: str, *, max_batch: int = 8, patience: Patience = PATIENCE
) -> Iterator[Served]:
    """A studio whose worker does what texts say; a GPU is pretended."""
    backend = functools.partial(ProcessBackend, command=COMMAND, patience=patience)
    hosting = Hosting(max_batch=max_batch)
    settings = StudioSettings(model=model, data=data, devices=(device,), hosting=hosting)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("webui.studio.ProcessBackend", backend)
        with serving(settings) as served:
            yield served


@pytest.fixture(scope="module")
def studio(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with broken_studio(str(tiny_folder), tmp_path_factory.mktemp("workers"), "cuda:0") as served:
        yield served


@pytest.fixture
def served(studio: Served) -> Served:
    """With its model as it is loaded at first."""
    models = studio.studio.models
    models.unload()
    until(lambda: not models.status().state.busy)
    models.load(despite_memory=True)  # there is no such GPU
    assert models.settled().wait(PATIENCE_S)
    return studio


def ask(served: Served, text: str, owner: str = "ann") -> Ticket:
    return served.studio.desk.submit(request(text), owner=owner)


class Steps:
    """How the model was loaded each time, and what the page's head said meanwhile."""

    def __init__(self, served: Served) -> None:
        self._studio = served.studio
        self.model = served.studio.models.default
        self.placed: list[tuple[int, bool]] = []
        self.lines: set[str] = set()
        self.pages: set[int] = set()
        self.notes: list[Note] = []
        self._served = served
        served.studio.models.backend.watch(self._look)
        served.studio.desk.scheduler.listen(self.notes.append)
        self._look()

    def _look(self) -> None:
        backend = self._studio.models.backend
        known = backend.loaded(self.model)
        if known is not None and backend.capacity(known.name):
            step = (known.max_batch, known.placement.offload)
            if not self.placed or self.placed[-1] != step:
                self.placed.append(step)
        self.lines.add(self._studio.desk.status().line)
        self.pages.add(self._served.get("healthz")[0])

    def n(self, what: Happening) -> int:
        return sum(note.what is what for note in self.notes)


def test_too_little_memory_goes_all_the_way_down_and_is_told_at_last(served: Served) -> None:
    steps = Steps(served)
    ticket = ask(served, f"Hello there. {Fault.MEMORY}")
    assert ticket.finished.wait(PATIENCE_S)
    # fewer at a time, one, one stage at a time on the device
    assert steps.placed == [(8, False), (2, False), (1, False), (1, True)]
    assert steps.n(Happening.RESTARTED) == 3
    assert ticket.state is TicketState.FAILED
    assert isinstance(ticket.error, OutOfMemory)
    told = explain(ticket.error)
    assert told.what == "There is too little memory for this"
    assert "restarting the worker" in steps.lines
    assert steps.pages == {200}
    # for everybody else it goes on, with what fits
    after = ask(served, "The rain has stopped.", "bob")
    assert after.finished.wait(PATIENCE_S)
    assert after.state is TicketState.DONE
    assert served.studio.models.status().offloaded


def test_what_fits_on_the_way_is_made_and_nobody_else_fails(served: Served) -> None:
    steps = Steps(served)
    large = ask(served, f"Hello there. {Fault.OFFLOAD}")
    others = [ask(served, SLOW, "bob") for _ in range(3)]
    for ticket in (large, *others):
        assert ticket.finished.wait(PATIENCE_S)
        assert ticket.state is TicketState.DONE, ticket.error
    assert steps.placed[-1] == (1, True)
    assert steps.n(Happening.FAILED) == 0
    assert large.attempts == 0  # no worker died of it


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="counts memory as Linux does")
def test_under_a_real_limit_less_is_tried_and_every_job_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The operating system refuses the memory; what is told of it comes from torch and oneDNN."""
    monkeypatch.setenv("BROKEN_WORKER", str(tmp_path / "once"))
    with broken_studio("pup", tmp_path, "cpu", max_batch=4, patience=Patience()) as served:
        steps = Steps(served)
        text = "The rain has stopped, and the river is high. Come in and sit down. " * 2
        texts = [f"{text}{Fault.LIMIT}", *[text] * 3]
        desk = served.studio.desk
        tickets = [
            desk.submit(GenerationRequest(text, seed=n), owner=f"user{n}")
            for n, text in enumerate(texts)
        ]
        for ticket in tickets:
            assert ticket.finished.wait(2 * PATIENCE_S)
            if ticket.state is not TicketState.DONE:  # too much even by itself
                assert isinstance(ticket.error, OutOfMemory), ticket.error
        assert steps.placed[:2] == [(4, False), (1, False)]
        assert steps.n(Happening.RESTARTED) > 0
        assert steps.pages == {200}


def test_a_device_side_assert_is_survived_by_the_page_and_the_others(served: Served) -> None:
    steps = Steps(served)
    other = ask(served, SLOW, "bob")
    until(lambda: other.state is TicketState.RUNNING)
    before = served.studio.models.backend.workers()[0]
    poison = ask(served, f"Hello there. {Fault.ASSERT}")
    for ticket in (poison, other):
        assert ticket.finished.wait(PATIENCE_S)
    # it killed two workers, the second one alone; whoever ran beside it the first time is done
    assert poison.state is TicketState.FAILED
    assert isinstance(poison.error, WorkerLost)
    assert explain(poison.error).what == "The model’s worker stopped while it made this"
    assert other.state is TicketState.DONE, other.error
    until(lambda: served.studio.models.backend.capacity(served.studio.models.default))
    after = served.studio.models.backend.workers()[0]
    assert after.n_restarts == before.n_restarts + 2
    assert "its device failed" in after.problem
    assert "restarting the worker" in steps.lines
    assert steps.pages == {200}
    status, body, _ = served.get("readyz")
    assert (status, json.loads(body)["workers"]) == (200, [{"device": "", "state": "ready"}])


def test_a_job_whose_worker_is_killed_is_made_again(served: Served) -> None:
    ticket = ask(served, SLOW)
    until(lambda: ticket.state is TicketState.RUNNING)
    os.kill(int(served.studio.models.backend.workers()[0].name), signal.SIGKILL)
    assert ticket.finished.wait(PATIENCE_S)
    assert ticket.state is TicketState.DONE, ticket.error
    assert ticket.attempts == 1

"""Laws of restarts: however a studio ends, what waited runs and what ran is told of."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from bark_core import ProjectFolder
from tests.page_model import save_page_model
from webui.hosting import Hosting
from webui.jobs import TicketState
from webui.settings import StudioSettings
from webui.studio import Studio, open_studio

PATIENCE_S = 180.0


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_page_model(tmp_path_factory.mktemp("models") / "page")


@contextlib.contextmanager
def running(folder: Path, model: Path, what: int | str, *, drain_s: float) -> Iterator[Any]:
    """A studio with jobs or a script, of which one runs: the process, and what it said."""
    arguments = [str(folder), str(model), str(what), str(drain_s)]
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.faults.restarts", *arguments],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    try:
        said = json.loads(process.stdout.readline())
        assert "Bark Studio is at" in process.stdout.readline()
        yield process, said
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


@contextlib.contextmanager
def next_start(folder: Path, model: Path) -> Iterator[Studio]:
    settings = StudioSettings(model=str(model), data=folder, hosting=Hosting(worker=False))
    studio = open_studio(settings)
    try:
        yield studio
    finally:
        studio.close()


def until(what: Callable[[], object]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not what():
        assert time.monotonic() < deadline, "it never happened"
        time.sleep(0.02)


def is_gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    # in a container nobody may wait for it: then it stays as a zombie
    return ") Z " in Path(f"/proc/{pid}/stat").read_text()


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_what_waited_runs_and_what_ran_is_told_of(
    tmp_path: Path, model: Path, how: signal.Signals
) -> None:
    with running(tmp_path, model, 3, drain_s=0.0) as (process, said):
        ids = list(said["tickets"])
        until(lambda: _is_marked(tmp_path, ids[0]))
        process.send_signal(how)
        process.wait(timeout=PATIENCE_S)
        until(lambda: is_gone(int(said["worker"])))
    with next_start(tmp_path, model) as studio:
        tickets = [studio.desk.ticket(ticket_id, owner="ann") for ticket_id in ids]
        first, *others = [ticket for ticket in tickets if ticket is not None]
        assert len(others) == 2
        assert first.cut_off
        assert [view.cut_off for view in studio.desk.views(owner="ann", browser="one")][-1]
        for other in others:
            assert other.finished.wait(PATIENCE_S)
            assert other.state is TicketState.DONE, other.error
            assert studio.history.get(other.id, owner="ann") is not None
        again = studio.desk.again(first.id, owner="ann")
        assert again is not None
        assert again.finished.wait(PATIENCE_S)
        assert again.state is TicketState.DONE, again.error
        assert again.request.text == first.request.text
    with next_start(tmp_path, model) as studio:
        assert studio.desk.queue(owner="ann") == ([], 0)
        assert studio.desk.views(owner="ann", browser="one") == []


def _is_marked(folder: Path, job_id: str) -> bool:
    """Whether the disk knows that a job runs."""
    import sqlite3

    with contextlib.closing(sqlite3.connect(folder / "queue.sqlite3")) as connection:
        rows = connection.execute("SELECT state FROM jobs WHERE id = ?", (job_id,)).fetchall()
    return rows == [("running",)]


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_a_script_goes_on_with_what_was_left(
    tmp_path: Path, model: Path, how: signal.Signals
) -> None:
    with running(tmp_path, model, "script", drain_s=0.0) as (process, said):
        process.send_signal(how)
        process.wait(timeout=PATIENCE_S)
        until(lambda: is_gone(int(said["worker"])))
    script_id = said["script"]
    path = tmp_path / "scripts" / script_id
    left = json.loads((path / "run.json").read_text())
    before = {s.id: s.take for s in ProjectFolder.open(path).project.segments}
    assert 1 <= len(left) < len(before)
    with next_start(tmp_path, model) as studio:
        # nobody asks: it goes on by itself, for whom it belongs to
        until(lambda: (run := studio.scripts.run(script_id, "ann")) and run.state.over)
        assert studio.scripts.failures(script_id, "ann") == {}
        made = {s.id: s.take for s in studio.scripts.open(script_id, "ann").project.segments}
        assert all(made.values())
        # what was there before is as it was
        assert all(made[key] == take for key, take in before.items() if take and key not in left)
        until(lambda: studio.history.search(owner="ann"))
        assert not (path / "run.json").exists()


def test_sigterm_lets_what_runs_end_within_thirty_seconds(tmp_path: Path, model: Path) -> None:
    with running(tmp_path, model, 2, drain_s=25.0) as (process, said):
        first, second = said["tickets"]
        asked_at = time.monotonic()
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=PATIENCE_S) == 0
        took_s = time.monotonic() - asked_at
    # on a machine where the job itself takes longer, it is cut off instead
    with next_start(tmp_path, model) as studio:
        entry = studio.history.get(first, owner="ann")
        assert entry is not None
        assert entry.complete or took_s > 25
        ticket = studio.desk.ticket(second, owner="ann")
        assert ticket is not None
        assert not ticket.cut_off
        assert ticket.finished.wait(PATIENCE_S)
        assert ticket.state is TicketState.DONE, ticket.error

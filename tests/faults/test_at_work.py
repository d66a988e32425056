"""The short form of what is measured on a whole studio at work: the same laws, a small model."""

from __future__ import annotations

from dataclasses import replace

import pytest

from benchmarks.reliability import at_work, cancels, clients, neighbours, soak, turns, workers
from benchmarks.reliability.result import Result
from tests.page_model import page_config
from tests.tiny import save_tiny_model


@pytest.fixture(autouse=True)
def small_model(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    config = page_config()
    # a segment lasts a second at most, and takes a fraction of one
    config = replace(config, layout=replace(config.layout, max_semantic_tokens=40))
    model = save_tiny_model(tmp_path_factory.mktemp("models") / "brief", config=config)
    monkeypatch.setenv(at_work.MODEL, str(model))


def held(result: Result) -> dict[str, float]:
    assert not result.broken, "\n".join(result.broken)
    return dict(result.figures)


def test_programs_at_once_get_each_their_own() -> None:
    figures = held(clients.measure(12, clients=4, timed=False))
    assert figures["answered"] == figures["jobs"] == figures["compared"] == 12
    assert figures["server_errors"] == 0


def test_one_job_goes_before_another_user_s_forty() -> None:
    figures = held(turns.measure(1, timed=False))
    assert figures["jobs_that_went_first_most"] <= 2


def test_stops_and_broken_connections_free_their_places() -> None:
    # a stop and a break-off in every stage
    figures = held(cancels.measure(8, timed=False))
    assert (figures["stopped"], figures["disconnected"]) == (4, 4)


def test_a_killed_worker_costs_no_job_and_no_page() -> None:
    figures = held(workers.measure(1, timed=False))
    assert figures["restarts"] == 1
    assert figures["page_asked"] > 0


def test_neighbours_change_no_token() -> None:
    assert held(neighbours.measure(6))["tokens"] > 0


def test_a_studio_that_works_on_takes_no_more_handles_and_disk() -> None:
    assert held(soak.measure(40, kept=1, settled=False))["jobs"] == 40

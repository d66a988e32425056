"""One job behind another user's 40 starts within two jobs' time."""

from __future__ import annotations

import statistics
import time

from bark_core import GenerationRequest
from benchmarks.reliability.at_work import model_name, studio, until
from benchmarks.reliability.result import Result
from webui.scheduler import Happening, Note

N = 10
BEFORE = 40


def measure(n: int = N, *, timed: bool = True) -> Result:
    """Do it n times; each time the 40 are stopped afterwards.

    Args:
        timed: whether a time over the bound breaks a law: not on a machine that is shared.
    """
    broken: list[str] = []
    waits: list[float] = []
    ahead: list[int] = []
    with studio() as served:
        desk, backend = served.studio.desk, served.studio.models.backend
        began: list[tuple[str, float]] = []
        took: list[float] = []  # jobs among as many others as run at the same time

        def note(note: Note) -> None:
            if note.what is Happening.STARTED:
                began.append((note.job_id, time.monotonic()))
            elif note.what is Happening.FINISHED:
                took.append(note.ran_s)

        desk.scheduler.listen(note)
        job_s = _typical_s(desk)
        at_once = backend.capacity(model_name())
        took.clear()
        for round_ in range(n):
            began.clear()
            for number in range(BEFORE):
                request = GenerationRequest(f"Number {number} of ann.", seed=number)
                desk.submit(request, owner="ann")
            # as many as run together: a place that is free belongs to whoever comes first
            until(lambda: len(began) >= at_once)
            asked_at, n_before = time.monotonic(), len(began)
            ticket = desk.submit(GenerationRequest("Number one of bob.", seed=round_), owner="bob")
            until(lambda ticket=ticket: any(job == ticket.id for job, _ in began))  # type: ignore[misc]
            at = next(moment for job, moment in began if job == ticket.id)
            order = [job for job, _ in began]
            ahead.append(order.index(ticket.id) - n_before)
            waits.append(at - asked_at)
            if ahead[-1] > 2:
                broken.append(f"{ahead[-1]} jobs went first")
            assert ticket.finished.wait(600)
            desk.stop_all(owner="ann")
            until(lambda: not desk.scheduler.unfinished())
    if timed and max(waits) > 2 * statistics.median(took):
        broken.append(f"it began after {max(waits):.1f} s, jobs take {statistics.median(took):.1f}")
    return Result(
        {
            "rounds": n,
            "job_alone_s": round(job_s, 2),
            "job_among_others_s_median": round(statistics.median(took), 2),
            "wait_s_median": round(statistics.median(waits), 2),
            "wait_s_most": round(max(waits), 2),
            "jobs_that_went_first_most": max(ahead),
        },
        tuple(broken),
    )


def _typical_s(desk: object) -> float:
    """How long one such job takes alone."""
    from webui.jobs import Desk

    assert isinstance(desk, Desk)
    took = []
    for seed in range(3):
        began = time.monotonic()
        ticket = desk.submit(GenerationRequest("Number 7 of ann.", seed=seed), owner="ann")
        assert ticket.finished.wait(600)
        took.append(time.monotonic() - began)
    return statistics.median(took)

"""100 cancels and disconnects at random moments in every stage: the slot is free within 0.5 s.

Half of the jobs are stopped as the page's Stop does; half belong to programs that call an endpoint
over HTTP, by name and as Gradio's own client in turn, and close their connection or reset it. Each
goes at a random step of each stage in turn. Measured is the time from the press, or from the
connection's end, until the scheduler has room for the next job.
"""

from __future__ import annotations

import functools
import math
import random
import statistics
import time
from collections.abc import Callable

from bark_core import GenerationRequest, Stage
from benchmarks.reliability.at_work import studio, until
from benchmarks.reliability.result import Result
from tests.programs import End, Listener, Way, ask, generate_inputs
from tests.served import Served
from webui.jobs import Desk, Ticket, TicketState
from webui.scheduler import Happening, Note

N = 100
AT_MOST_S = 0.5
TEXT = "The rain has stopped, and the river is high. Come in and sit down by the fire."
STAGES = tuple(Stage)


def measure(n: int = N, *, timed: bool = True) -> Result:
    """Cancel n jobs.

    Args:
        timed: whether a time over the bound breaks a law: not on a machine that is shared.
    """
    draw = random.Random(3)
    broken: list[str] = []
    with studio(max_queued_each=1000) as served:
        desk = served.studio.desk
        free_at: dict[str, float] = {}

        def note(note: Note) -> None:
            if note.what in (Happening.STOPPED, Happening.FINISHED, Happening.FAILED):
                free_at[note.job_id] = time.time()

        desk.scheduler.listen(note)
        stopped: list[float] = []
        left: list[float] = []
        by_stage: dict[Stage, list[float]] = {stage: [] for stage in STAGES}
        for number in range(n):
            # a stop and a break-off in each stage, then the next stage
            stage = STAGES[number // 2 % len(STAGES)]
            if number % 2 == 0:
                stopped.append(_stop(desk, stage, draw, free_at))
            else:
                way = (Way.CALL, Way.QUEUE)[number // 8 % 2]
                end = (End.CLOSED, End.RESET)[number // 16 % 2]
                left.append(_leave(served, way, end, stage, draw, free_at))
            by_stage[stage].append((left if number % 2 else stopped)[-1])
        if desk.scheduler.unfinished():
            broken.append(f"{len(desk.scheduler.unfinished())} jobs are still there")
        ticket = desk.submit(GenerationRequest("Hello.", seed=1))
        if not ticket.finished.wait(600) or ticket.state is not TicketState.DONE:
            broken.append("nothing runs afterwards")
    figures = {
        "stopped": len(stopped),
        "disconnected": len(left),
        "stop_s_median": round(statistics.median(stopped), 3),
        "stop_s_p95": _p95(stopped),
        "stop_s_most": round(max(stopped), 3),
        "disconnect_s_median": round(statistics.median(left), 3),
        "disconnect_s_p95": _p95(left),
        "disconnect_s_most": round(max(left), 3),
        "s_most_by_stage": {stage.value: round(max(s), 3) for stage, s in by_stage.items() if s},
    }
    if timed and max(_p95(stopped), _p95(left)) > AT_MOST_S:
        broken.append(f"p95 is over {AT_MOST_S} s")
    return Result(figures, tuple(broken))


def _stop(desk: Desk, stage: Stage, draw: random.Random, free_at: dict[str, float]) -> float:
    """Stop a job somewhere in a stage; returns the seconds until its slot is free."""
    while True:
        ticket = desk.submit(GenerationRequest(TEXT, seed=draw.randrange(10**6)))
        until(_reached(ticket, stage, draw.random()))
        if ticket.id not in free_at:
            return _free_after(ticket, functools.partial(desk.stop, ticket.id), free_at)


def _leave(
    served: Served,
    way: Way,
    end: End,
    stage: Stage,
    draw: random.Random,
    free_at: dict[str, float],
) -> float:
    """A program asks, and goes away somewhere in a stage; as above."""
    tickets = served.studio.desk._tickets
    while True:
        known = set(tickets)
        values = generate_inputs(TEXT, draw.randrange(10**6))
        program = Listener(served, ask(served, way, "generate", values))
        until(lambda known=known: set(tickets) - known)  # type: ignore[misc]
        (ticket_id,) = set(tickets) - known
        until(_reached(tickets[ticket_id], stage, draw.random()))
        if ticket_id not in free_at:
            leave = functools.partial(program.leave, end)
            return _free_after(tickets[ticket_id], leave, free_at)
        program.close()


def _free_after(ticket: Ticket, act: Callable[[], object], free_at: dict[str, float]) -> float:
    """Seconds from an act until the slot of a job is free."""
    began = time.time()
    act()
    until(lambda: ticket.id in free_at)
    assert ticket.finished.wait(60)
    return max(0.0, free_at[ticket.id] - began)


def _reached(ticket: Ticket, stage: Stage, part: float) -> Callable[[], bool]:
    """Whether a job has come so far in a stage, or farther."""

    def reached() -> bool:
        progress = ticket.job.progress if ticket.job is not None else None
        if ticket.state.over or progress is None:
            return ticket.state.over
        if STAGES.index(progress.stage) > STAGES.index(stage):
            return True
        # of the first stage nobody knows the end before: half of the most there can be
        total = progress.total * (0.4 if stage is Stage.SEMANTIC else 1.0)
        # the codec tells of its end only: stopped while it works, after the fine stage
        if stage is Stage.CODEC and progress.stage is Stage.FINE:
            return progress.done >= progress.total
        return progress.stage is stage and progress.done >= part * total

    return reached


def _p95(values: list[float]) -> float:
    return round(sorted(values)[math.ceil(0.95 * len(values)) - 1], 3)

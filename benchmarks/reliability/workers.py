"""The worker is killed in the middle of a job, 50 times: the page stays up, no job is lost.

Each time two users have a job. The worker gets SIGKILL at a random moment. Within 5 s each of the
jobs that ran is in the queue again, or marked as failed; every job ends as it should in the end.
Meanwhile the page and its probe are asked all the time.
"""

from __future__ import annotations

import os
import random
import signal
import statistics
import threading
import time
import urllib.request

from bark_core import GenerationRequest, load
from benchmarks.reliability.at_work import model_name, studio, tokens_kept, tokens_of, until
from benchmarks.reliability.result import Result
from tests.served import Served
from webui.jobs import TicketState
from webui.scheduler import Happening, Note

N = 50
AT_MOST_S = 5.0
TEXT = "The rain has stopped, and the river is high. Come in and sit down."


class Prober:
    """Asks the page again and again."""

    def __init__(self, served: Served) -> None:
        self._address = served.address
        self._ended = threading.Event()
        self.n_asked = 0
        self.failures: list[str] = []
        self.longest_s = 0.0
        self._thread = threading.Thread(target=self._ask, daemon=True)
        self._thread.start()

    def end(self) -> None:
        self._ended.set()
        self._thread.join()

    def _ask(self) -> None:
        while not self._ended.wait(0.1):
            for path in ("healthz", "config"):
                began = time.monotonic()
                try:
                    with urllib.request.urlopen(f"{self._address}{path}", timeout=30) as answer:
                        answer.read()
                except OSError as error:
                    self.failures.append(f"{path}: {error}")
                self.n_asked += 1
                self.longest_s = max(self.longest_s, time.monotonic() - began)


def measure(n: int = N, *, timed: bool = True) -> Result:
    """Kill n workers.

    Args:
        timed: whether a time over the bound breaks a law: not on a machine that is shared.
    """
    draw = random.Random(11)
    broken: list[str] = []
    told_s: list[float] = []
    back_s: list[float] = []
    expected = tokens_of(load(model_name()).generate(GenerationRequest(TEXT, seed=1)))
    with studio() as served:
        desk, backend = served.studio.desk, served.studio.models.backend
        name = served.studio.models.default
        noted: list[tuple[Happening, str, float]] = []

        def note(note: Note) -> None:
            noted.append((note.what, note.job_id, time.monotonic()))

        desk.scheduler.listen(note)
        prober = Prober(served)
        for number in range(n):
            tickets = [
                desk.submit(GenerationRequest(TEXT, seed=1), owner="ann"),
                desk.submit(GenerationRequest("Hello there.", seed=number), owner="bob"),
            ]
            until(lambda ticket=tickets[0]: ticket.state is TicketState.RUNNING)  # type: ignore[misc]
            time.sleep(draw.uniform(0.0, 0.5))
            with desk.scheduler._lock:
                running = set(desk.scheduler._running)
            killed_at = time.monotonic()
            os.kill(int(backend.workers()[0].name), signal.SIGKILL)
            for job_id in running:
                told_s.append(max(0.0, _told_at(noted, job_id) - killed_at))
            until(lambda: backend.capacity(name))
            back_s.append(time.monotonic() - killed_at)
            for ticket in tickets:
                if not ticket.finished.wait(600) or ticket.state is not TicketState.DONE:
                    broken.append(f"round {number}: {ticket.state} {ticket.error}")
            if tokens_kept(served, tickets[0].id) != expected:
                broken.append(f"round {number}: other tokens than undisturbed")
            noted.clear()
        prober.end()
        n_restarts = backend.workers()[0].n_restarts
    broken += prober.failures
    if timed and told_s and max(told_s) > AT_MOST_S:
        broken.append(f"a job was told of after {max(told_s):.1f} s")
    return Result(
        {
            "kills": n,
            "restarts": n_restarts,
            "jobs_that_ran": len(told_s),
            "told_s_median": round(statistics.median(told_s), 3),
            "told_s_most": round(max(told_s), 3),
            "back_s_median": round(statistics.median(back_s), 1),
            "back_s_most": round(max(back_s), 1),
            "page_asked": prober.n_asked,
            "page_failed": len(prober.failures),
            "page_longest_s": round(prober.longest_s, 2),
        },
        tuple(broken),
    )


def _told_at(noted: list[tuple[Happening, str, float]], job_id: str) -> float:
    """When it was said what becomes of a job that ran."""
    ended = (Happening.RESTARTED, Happening.FAILED, Happening.FINISHED)
    until(lambda: any(job == job_id and what in ended for what, job, _ in noted), 60.0)
    return next(at for what, job, at in noted if job == job_id and what in ended)

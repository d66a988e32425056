"""2,000 jobs one after another: no growth in memory, file handles or disk.

Ten users keep the queue filled through the desk, pages are looked at as browsers do, every 17th
job is stopped, and each user keeps the newest 20 results, as a quota would. After the first tenth
(caches fill, heaps settle) memory may grow by 5 % and file handles by 8, in the page's process
and in the worker's; the data folder stays at what the kept results take. What counts is the median
of five samples, for a heap is larger in the middle of a job than after it.
"""

from __future__ import annotations

import os
import random
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median

from bark_core import GenerationRequest
from benchmarks.reliability.at_work import studio, until
from benchmarks.reliability.result import Result
from tests.served import Served

N = 2000
USERS = 10
KEPT = 20
AHEAD = 2  # jobs of each user in the queue
GROWTH = 0.05
HANDLES = 8
TOGETHER = 5  # samples, of 40


def measure(n: int = N, *, kept: int = KEPT, settled: bool = True) -> Result:
    """Run n jobs.

    Args:
        kept: results of each user.
        settled: whether memory that grows breaks a law: a short run only fills its caches.
    """
    draw = random.Random(2)
    samples: list[dict[str, float]] = []
    n_done = n_asked = 0
    with studio(max_queued_each=100) as served:
        desk, history = served.studio.desk, served.studio.history
        open_tickets: list[tuple[str, str]] = []
        began = time.monotonic()
        while n_done < n:
            while n_asked < n and len(open_tickets) < USERS * AHEAD:
                owner = f"user{n_asked % USERS}"
                text = f"Number {n_asked} of {owner}."
                ticket = desk.submit(GenerationRequest(text, seed=n_asked), owner=owner)
                open_tickets.append((ticket.id, owner))
                n_asked += 1
                if n_asked % 17 == 0:
                    desk.stop(ticket.id, owner=owner)
            time.sleep(0.02)
            for ticket_id, owner in list(open_tickets):
                desk.views(owner=owner)
                found = desk.ticket(ticket_id, owner=owner)
                if found is None or found.finished.is_set():
                    open_tickets.remove((ticket_id, owner))
                    desk.dismiss(ticket_id, owner=owner)
                    n_done += 1
                    for old in history.search(owner=owner, limit=100, offset=kept):
                        history.delete(old.id, owner=owner)
                    if n_done % max(1, n // 40) == 0:
                        samples.append({"jobs": n_done, **_taken(served)})
            if draw.random() < 0.05:
                served.get("config")
        took_s = time.monotonic() - began
        until(lambda: not desk.scheduler.unfinished())
    tenth = len(samples) // 10
    first, last = _typical(samples[tenth : tenth + TOGETHER]), _typical(samples[-TOGETHER:])
    broken = []
    for what in ("page_memory", "worker_memory"):
        if settled and last[what] > (1 + GROWTH) * first[what] + 8e6:
            broken.append(f"{what} grew from {first[what] / 1e6:.0f} to {last[what] / 1e6:.0f} MB")
    for what in ("page_handles", "worker_handles"):
        if last[what] > first[what] + HANDLES:
            broken.append(f"{what} grew from {first[what]:.0f} to {last[what]:.0f}")
    half = _typical(samples[len(samples) // 2 :][:TOGETHER])
    if last["disk"] > 1.2 * half["disk"] + 2e6:
        broken.append(f"disk grew from {half['disk'] / 1e6:.1f} to {last['disk'] / 1e6:.1f} MB")
    return Result(
        {
            "jobs": n_done,
            "jobs_a_minute": round(60 * n_done / took_s, 1),
            **{f"{what}_first": round(value) for what, value in first.items()},
            **{f"{what}_last": round(value) for what, value in last.items()},
        },
        tuple(broken),
    )


def _typical(samples: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """The median of each figure."""
    return {name: median(sample[name] for sample in samples) for name in samples[0]}


def _taken(served: Served) -> dict[str, float]:
    """What the studio takes now: bytes, handles, threads."""
    (worker,) = served.studio.models.backend.workers()
    pid = int(worker.name) if worker.name.isdecimal() else os.getpid()
    folder = served.studio.settings.data_folder
    return {
        "page_memory": _resident(os.getpid()),
        "worker_memory": _resident(pid),
        "page_handles": _n_in("/proc/self/fd"),
        "worker_handles": _n_in(f"/proc/{pid}/fd"),
        "page_threads": _n_in("/proc/self/task"),
        "disk": sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()),
    }


def _resident(pid: int) -> float:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return float(line.split()[1]) * 1024
    return 0.0


def _n_in(folder: str) -> int:
    return sum(1 for _ in Path(folder).iterdir())

"""50 clients ask for 20 jobs each over real HTTP: none wrong, none lost, no server error.

Each signs in under a name of its own, asks, follows its job's stream, fetches its file, and asks
again. Some are compared token by token with what the cascade makes alone. The ideal is the time
that the worker takes for the same requests when they are handed to it directly, as many at once
as it takes, measured before and after, as a machine's speed changes within minutes; wall time is
to be 1.3 times that at most.
"""

from __future__ import annotations

import time

from bark_core import GenerationRequest, load
from benchmarks.reliability import http_clients
from benchmarks.reliability.at_work import (
    PASSWORD,
    directly,
    model_name,
    studio,
    tokens_kept,
    tokens_of,
)
from benchmarks.reliability.result import Result

N = 1000
CLIENTS = 50
COMPARED = 20
MEASURED = 100  # requests that the ideal is measured with, at most, each time
AT_MOST = 1.3


def measure(n: int = N, *, clients: int = CLIENTS, timed: bool = True) -> Result:
    """Run n jobs of some clients.

    Args:
        timed: whether a wall time over the bound breaks a law: not on a machine that is shared.
    """
    n_each = max(1, n // clients)
    jobs = [
        [
            (f"Number {number} for client {client}.", 1000 * client + number)
            for number in range(n_each)
        ]
        for client in range(clients)
    ]
    wanted = {(text, seed): client for client, each in enumerate(jobs) for text, seed in each}
    with studio(password=PASSWORD) as served:
        models = served.studio.models
        sample = [GenerationRequest(text, seed=seed) for text, seed in list(wanted)[:MEASURED]]

        def ideal() -> float:
            took_s, _made = directly(models.backend, models.default, sample)
            return took_s / len(sample) * len(wanted)

        before_s = ideal()
        began = time.monotonic()
        answers = http_clients.ask(
            {"address": served.address.rstrip("/"), "password": PASSWORD, "jobs": jobs}
        )
        wall_s = time.monotonic() - began
        after_s = ideal()
        ideal_s = (before_s + after_s) / 2
        broken = _broken(answers, wanted)
        alone = load(model_name())
        for answer in [answer for answer in answers if not answer["error"]][:COMPARED]:
            request = GenerationRequest(answer["text"], seed=answer["seed"])
            if tokens_kept(served, answer["id"]) != tokens_of(alone.generate(request)):
                broken.append(f"{answer['text']!r} has other tokens than alone")
        for (text, seed), client in wanted.items():
            kept = served.studio.history.search(text, owner=f"user{client}")
            if not any(entry.text == text and entry.seed == seed for entry in kept):
                broken.append(f"{text!r} isn't in the history of its owner")
    if timed and wall_s > AT_MOST * ideal_s:
        broken.append(f"{wall_s:.0f} s, more than {AT_MOST} x {ideal_s:.0f} s")
    took = sorted(answer.get("took_s", 0.0) for answer in answers)
    return Result(
        {
            "clients": clients,
            "jobs": len(wanted),
            "answered": sum(not answer["error"] for answer in answers),
            "refused": sum(bool(answer["error"]) for answer in answers),
            "server_errors": sum(s >= 500 for answer in answers for s in answer["status"]),
            "wall_s": round(wall_s, 1),
            "ideal_s": round(ideal_s, 1),
            "ideal_before_and_after_s": [round(before_s, 1), round(after_s, 1)],
            "ratio": round(wall_s / ideal_s, 2),
            "longest_job_s": round(took[-1], 1),
            "compared": min(COMPARED, len(answers)),
        },
        tuple(broken),
    )


def _broken(answers: list[dict[str, object]], wanted: dict[tuple[str, int], int]) -> list[str]:
    broken = []
    seen = set()
    for answer in answers:
        text, seed, statuses = str(answer["text"]), int(str(answer["seed"])), answer["status"]
        assert isinstance(statuses, list)
        seen.add((text, seed))
        if any(status >= 500 for status in statuses):
            broken.append(f"{text!r}: {statuses}")
        elif answer["error"] and "queue is full" not in str(answer["error"]):
            broken.append(f"{text!r}: {answer['error']}")
        elif not answer["error"]:
            made = answer["made"]
            assert isinstance(made, dict)
            if (made["text"], made["seed"]) != (text, seed) or not answer["bytes"]:
                broken.append(f"{text!r} came back as {made['text']!r}")
    broken += [f"{text!r} was never answered" for text, _ in wanted.keys() - seen]
    return broken

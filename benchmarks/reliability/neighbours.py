"""Prompts alone and among eight neighbours: not one token may differ.

Each prompt is said by the cascade, which does one thing at a time, and by an engine that always
has eight others beside it, of other lengths, voices and settings. All are pup's, in float32.
"""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from bark_core import (
    BarkError,
    Cascade,
    CoarseParams,
    Engine,
    Generation,
    GenerationRequest,
    SemanticParams,
    Settings,
    VoiceLibrary,
    load,
)
from bark_core.voices import Voice
from benchmarks.reliability.result import Result

N = 200
N_NEIGHBOURS = 8
LONGEST_S = 2.5

_WHO = ("Anna", "The old man", "A bird", "My sister", "Nobody", "The train", "Rain")
_DOES = ("came home", "sang a song", "fell asleep", "laughed", "waited", "said: stop", "left")
_WHEN = ("at noon", "again", "in the dark", "for an hour", "twice", "today")


def prompts(n: int, voices: list[Voice | None]) -> list[GenerationRequest]:
    """Short sentences; voices, seeds and settings in turn."""
    texts = [f"{who} {does} {when}." for when, does, who in itertools.product(_WHEN, _DOES, _WHO)]
    plain = SemanticParams(max_duration_s=LONGEST_S)
    settings = (
        Settings(semantic=plain),
        Settings(semantic=replace(plain, temperature=1.0, top_p=0.95)),
        Settings(semantic=replace(plain, top_k=50), coarse=CoarseParams(temperature=1.0)),
    )
    return [
        GenerationRequest(
            texts[(i * 31) % len(texts)],
            voices[i % len(voices)],
            i,
            settings[i % len(settings)],
            streaming=i % 5 == 0,
        )
        for i in range(n)
    ]


def measure(n: int) -> Result:
    """Say n prompts in both ways."""
    torch.set_num_threads(1)  # so that other work on the machine disturbs less
    cascade, library = load("pup", device="cpu", precision="float32"), VoiceLibrary.default()
    names = library.names(cascade.config.layout.name)[:3]
    wanted = prompts(n, [*(library[name] for name in names), None])
    broken: list[str] = []
    alone = [_outcome(cascade, request) for request in wanted]
    with Engine(cascade, max_batch=N_NEIGHBOURS + 1) as engine:
        jobs = [engine.submit(request) for request in wanted]
        among: list[Generation | BarkError] = []
        for job in jobs:
            try:
                among.append(job.wait())
            except BarkError as error:
                among.append(error)
    n_tokens = 0
    for request, one, other in zip(wanted, alone, among, strict=True):
        if (hops := _hops(one)).keys() != (others := _hops(other)).keys():
            broken.append(f"{request.text!r}: {one!r:.80} and {other!r:.80}")
            continue
        n_tokens += sum(values.size for values in hops.values())
        for name, values in hops.items():
            if not np.array_equal(values, others[name]):
                broken.append(f"{request.text!r}, seed {request.seed}: {name} differ")
    figures = {"neighbours": N_NEIGHBOURS, "tokens": n_tokens}
    return Result(figures, tuple(broken))


def _outcome(cascade: Cascade, request: GenerationRequest) -> Generation | BarkError:
    try:
        return cascade.generate(request)
    except BarkError as error:
        return error


def _hops(made: Generation | BarkError) -> dict[str, Any]:
    """All tokens of all segments; of an error, its kind."""
    if isinstance(made, BarkError):
        return {type(made).__name__: np.zeros(0)}
    return {
        f"{hop} of segment {index}": getattr(segment, hop).values
        for index, segment in enumerate(made.segments)
        for hop in ("semantic", "coarse", "fine")
    }

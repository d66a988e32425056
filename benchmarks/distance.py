"""How far a precision is from float32, and a quicker setting from the ordinary one:

    python -m benchmarks.distance pup small
    python -m benchmarks.distance pup --settings

Both are led along the same tokens, those that float32 drew with ordinary settings, and their
logits are compared wherever a token was drawn: the Kullback-Leibler divergence of the
distributions at temperature 1, in bits and averaged, and the share of draws whose likeliest token
is the same. Settings are those that only one stage knows: half the history of the coarse stage,
and the fine stage piece by piece, as with streaming.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bark_core import GenerationRequest, SemanticParams, Settings, VoiceLibrary, processor
from bark_core.cascade import Cascade
from bark_core.coarse import flatten, plan_coarse
from bark_core.coarse import live_range as coarse_range
from bark_core.fine import FineRun, piece_at, plan_fine
from bark_core.generation import SegmentResult
from bark_core.request import CoarseParams, FineParams
from bark_core.semantic import live_range as semantic_range
from bark_core.semantic import prompt_of
from bark_core.tokens import FineCodes, TextTokens
from bark_core.transformer import CausalGPT
from bark_core.voices import Voice
from benchmarks.models import TEXT, cascade_of, random_voice

BITS = 1 / np.log(2)
SEEDS = 3  # of what settings are compared on
LogitsOf = Callable[[Cascade, SegmentResult, Voice], Iterator[Tensor]]


def led(model: CausalGPT, prompt: Tensor, tokens: np.ndarray) -> tuple[Tensor, Any]:
    """Hidden states that each of the tokens is drawn from, [n, C], and the decoder."""
    cache = model.new_cache(1, prompt.shape[1] + len(tokens))
    hidden, decoder = [model.prefill(prompt, cache)], model.decoder()
    for token in tokens[:-1]:
        hidden.append(decoder.step(torch.tensor([int(token)]), [cache]))
    return torch.cat(hidden), decoder


def semantic_logits(cascade: Cascade, made: SegmentResult, voice: Voice) -> Iterator[Tensor]:
    """[n, V]"""
    layout = cascade.config.layout
    text = TextTokens(np.array(cascade.tokenizer.encode(made.text)), layout)
    prompt = prompt_of(cascade.text, text, voice.semantic)
    hidden, decoder = led(cascade.text, prompt, made.semantic.values)
    yield decoder.logits(hidden, *semantic_range(layout, allow_end=True))


def coarse_logits(
    cascade: Cascade, made: SegmentResult, voice: Voice, max_history: int | None = None
) -> Iterator[Tensor]:
    """[n, V] of each window, step by step."""
    layout, params = cascade.config.layout, CoarseParams(max_history=max_history)
    plan = plan_coarse(made.semantic, (voice.semantic, voice.coarse), params)
    tokens, start = flatten(made.coarse), 0
    while start < plan.n_steps:
        prompt = torch.from_numpy(plan.prompt(tokens[:start]))[None]
        n_window = plan.n_window_steps(start)
        hidden, decoder = led(
            cascade.coarse, cascade.coarse.embed(prompt), tokens[start : start + n_window]
        )
        of_books = [
            decoder.logits(
                hidden[book :: layout.n_coarse_codebooks], *coarse_range(start + book, layout)
            )
            for book in range(layout.n_coarse_codebooks)
        ]
        yield torch.stack(of_books, dim=1).flatten(0, 1)
        start += n_window


def half_history(cascade: Cascade, made: SegmentResult, voice: Voice) -> Iterator[Tensor]:
    """As `coarse_logits`, with half of the history."""
    yield from coarse_logits(cascade, made, voice, cascade.config.layout.max_coarse_history // 2)


def fine_logits(cascade: Cascade, made: SegmentResult, voice: Voice) -> Iterator[Tensor]:
    """[frames, V] of each codebook, in the first window, all of its codes being there."""
    layout = cascade.config.layout
    plan = plan_fine(made.coarse, voice.fine)
    codes = torch.from_numpy(plan.codes.copy())
    stop = plan.n_history + plan.n_frames
    codes[plan.n_history : stop] = torch.from_numpy(made.fine.values.T.astype(np.int64))
    window, fill = codes[: layout.fine_window], slice(plan.n_history, stop)
    for codebook in range(layout.n_coarse_codebooks, layout.n_codebooks):
        yield cascade.fine(codebook, window[None])[0, fill, : layout.codebook_size]


def piece_logits(cascade: Cascade, made: SegmentResult, voice: Voice) -> Iterator[Tensor]:
    """As `fine_logits`, piece by piece: what a piece sees ahead it has drawn itself."""
    layout, device = cascade.config.layout, cascade.fine.device
    run = FineRun(
        layout, history=voice.fine, params=FineParams(), generator=torch.Generator().manual_seed(1)
    )
    truth = torch.from_numpy(made.fine.values.T.astype(np.int64))
    of_books: dict[int, list[Tensor]] = {}
    piece = piece_at(0, made.coarse.n_frames, complete=True, layout=layout)
    while piece is not None:
        before = FineCodes(made.fine.values[:, : piece.start], layout) if piece.start else None
        work, own = run.piece(piece, made.coarse, before, device)
        while not work.over:
            codebook, window = work.codebook, work.window()
            logits = cascade.fine(codebook, window[None])[0]
            of_books.setdefault(codebook, []).append(logits[own, : layout.codebook_size])
            work.fill(logits)
            window[own, codebook] = truth[piece.start : piece.stop, codebook]
        piece = piece_at(piece.stop, made.coarse.n_frames, complete=True, layout=layout)
    history = min(voice.fine.n_frames, layout.fine_history)
    for logits in of_books.values():
        yield torch.cat(logits)[: layout.fine_window - history]


STAGES: dict[str, LogitsOf] = {
    "semantic": semantic_logits,
    "coarse": coarse_logits,
    "fine": fine_logits,
}
# what a setting changes, and the stage that it changes
SETTINGS: dict[str, tuple[LogitsOf, LogitsOf]] = {
    "coarse history halved": (coarse_logits, half_history),
    "streaming": (fine_logits, piece_logits),
}


def voice_of(
    cascade: Cascade, seconds: float, seed: int = 1, voice: Voice | None = None
) -> tuple[Voice, SegmentResult]:
    """A voice, and what a model says with it."""
    voice = voice or random_voice(cascade.config.layout)
    semantic = SemanticParams(allow_early_stop=False, max_duration_s=seconds)
    request = GenerationRequest(TEXT, voice, seed, Settings(semantic=semantic))
    return voice, cascade.generate(request).segments[0]


def compared(exact: Tensor, close: Tensor) -> dict[str, Any]:
    """Logits [n, V] of the same draws."""
    log_p, log_q = exact.log_softmax(-1), close.log_softmax(-1)
    divergence = (log_p.exp() * (log_p - log_q)).sum(-1).mean()
    equal = (exact.argmax(-1) == close.argmax(-1)).float().mean()
    return {
        "divergence_bits": round(float(divergence) * BITS, 5),
        "same_likeliest": round(float(equal), 4),
        "draws": len(exact),
    }


def measure_settings(name: str, seconds: float) -> dict[str, Any]:
    """One model in float32: how far each setting is from the ordinary one."""
    cascade, library = cascade_of(name, "cpu", "float32"), VoiceLibrary.default()
    names = library.names(cascade.config.layout.name)
    voice = library[names[0]] if names else None
    said = [voice_of(cascade, seconds, seed, voice) for seed in range(SEEDS)]
    stages = {}
    with torch.inference_mode():
        for setting, pair in SETTINGS.items():
            ordinary, quick = (
                torch.cat([x for of, made in said for x in logits_of(cascade, made, of)])
                for logits_of in pair
            )
            stages[setting] = compared(ordinary, quick)
    return {"model": name, "precision": "float32", "stages": stages}


def measure(name: str, precision: str, seconds: float) -> dict[str, Any]:
    """One model: its distance in each stage."""
    exact = cascade_of(name, "cpu", "float32")
    voice, made = voice_of(exact, seconds)
    close = cascade_of(name, "cpu", precision)
    stages = {}
    with torch.inference_mode():
        for stage, logits_of in STAGES.items():
            both = (torch.cat(list(logits_of(model, made, voice))) for model in (exact, close))
            stages[stage] = compared(*both)
    return {"model": name, "precision": precision, "stages": stages}


def main() -> None:
    """Measure and print a table; --json writes the figures."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("models", nargs="+")
    parser.add_argument("--precision", default="int8")
    parser.add_argument("--settings", action="store_true", help="of settings, not of a precision")
    parser.add_argument("--seconds", type=float, default=4.0, help="of sound")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    rows = [
        measure_settings(name, args.seconds)
        if args.settings
        else measure(name, args.precision, args.seconds)
        for name in args.models
    ]
    print("| model | stage | draws | divergence, bits | same likeliest token |")
    print("|---|---|---|---|---|")
    for row in rows:
        for stage, found in row["stages"].items():
            print(
                f"| {row['model']} | {stage} | {found['draws']} | {found['divergence_bits']} "
                f"| {found['same_likeliest']} |"
            )
    if args.json:
        report = {"date": time.strftime("%Y-%m-%d"), "hardware": processor.name(), "rows": rows}
        args.json.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

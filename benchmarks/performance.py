"""Every stage and the whole, for each model, device, precision and batch:

    python -m benchmarks.performance pup small --precision float32 int8 --batch 1 8

Each of them runs in a process of its own, so that its peak of memory is its own. The published
models' weights are random: the cost doesn't depend on their values. Floors are what the bytes
that have to be read and the operations that have to be done take at the speed that the same run
measured of this machine.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch

from bark_core import AudioChunk, Engine, Generation, GenerationRequest
from bark_core.cascade import Cascade
from bark_core.coarse import live_range as coarse_range
from bark_core.config import GPTConfig
from bark_core.device import dtype_of
from bark_core.semantic import live_range as semantic_range
from bark_core.transformer import CausalGPT, KVCache
from benchmarks.machine import Limits, Timed, conditions, limits, timed
from benchmarks.models import cascade_of, options, request_for

STEPS = 20  # of a sample
CODEC_S = 10.0


def matrices(config: GPTConfig) -> int:
    """Weights that every position is multiplied with."""
    return 12 * config.n_layer * config.n_embd**2


class Stages:
    """The stages of one model alone, and what they can't go below.

    Args:
        at: positions that lie before the steps that are measured.
    """

    def __init__(self, cascade: Cascade, limits: Limits, batch: int) -> None:
        self._cascade, self._limits, self._batch = cascade, limits, batch
        self._device = cascade.placement.device
        self._bytes = {"int8": 1, "float32": 4}.get(cascade.placement.precision, 2)

    def measure(self) -> dict[str, Any]:
        layout = self._cascade.config.layout
        text, coarse = self._cascade.text, self._cascade.coarse
        n_text = layout.text_window + 1
        n_coarse = layout.coarse_semantic_window + 1 + layout.max_coarse_history
        middle = n_text + layout.max_semantic_tokens // 2 - STEPS
        live = semantic_range(layout, allow_end=True)
        with torch.inference_mode():
            return {
                "semantic prompt": self._prompt(text, n_text),
                "semantic step": self._step(text, middle, live),
                "coarse prompt": self._prompt(coarse, n_coarse),
                "coarse step": self._step(coarse, n_coarse, coarse_range(0, layout)),
                "fine codebook": self._fine(),
                "codec second": self._codec(),
            }

    def _prompt(self, model: CausalGPT, n_positions: int) -> dict[str, Any]:
        embeddings = model.embed(torch.arange(n_positions, device=model.device)[None] % 100)
        took = timed(
            lambda: model.prefill(embeddings, model.new_cache(1, n_positions)), 3, self._device
        )
        config = model.config
        operations = 2 * matrices(config) * n_positions
        operations += 2 * config.n_layer * config.n_embd * n_positions**2
        return _row(took, operations / self._limits.operations_s, positions=n_positions)

    def _step(self, model: CausalGPT, n_past: int, live: tuple[int, int]) -> dict[str, Any]:
        n_past = min(n_past, model.config.block_size - STEPS)
        decoder = model.decoder()
        caches = [model.new_cache(1, n_past + STEPS) for _ in range(self._batch)]
        tokens = torch.ones(self._batch, dtype=torch.long, device=model.device)

        def steps() -> None:
            for cache in caches:
                cache.n_positions = n_past
            for _ in range(STEPS):
                decoder.logits(decoder.step(tokens, caches), *live)

        took = timed(steps, 3, self._device).per(STEPS)
        config = model.config
        weights = matrices(config) + (live[1] - live[0]) * config.n_embd
        past = 2 * config.n_layer * config.n_embd * n_past * self._batch
        cache_bytes = _itemsize(caches[0])
        floor = max(
            (weights * self._bytes + past * cache_bytes) / self._limits.bytes_s,
            (2 * weights * self._batch + 2 * past) / self._limits.operations_s,
        )
        row = _row(took, floor, positions=n_past)
        return row | {"tokens_s": round(self._batch / took.best, 1)}

    def _fine(self) -> dict[str, Any]:
        layout, config = self._cascade.config.layout, self._cascade.config.fine
        n = layout.fine_window
        codes = torch.ones(1, n, layout.n_codebooks, dtype=torch.long, device=self._device)
        last = layout.n_codebooks - 1
        took = timed(lambda: self._cascade.fine(last, codes), 3, self._device)
        operations = 2 * matrices(config) * n + 4 * config.n_layer * config.n_embd * n**2
        return _row(took, operations / self._limits.operations_s, positions=n)

    def _codec(self) -> dict[str, Any]:
        layout = self._cascade.config.layout
        n_frames = round(CODEC_S * layout.frame_rate_hz)
        codes = torch.ones(1, layout.n_codebooks, n_frames, dtype=torch.long)
        took = timed(lambda: self._cascade.codec.decode_batch(codes), 3, self._device)
        return _row(took.per(CODEC_S), None)


def _itemsize(cache: KVCache) -> int:
    return cache.both.element_size()


def _row(took: Timed, floor_s: float | None, **more: Any) -> dict[str, Any]:
    """One stage's figures, in ms."""
    row = {"ms": _ms(took.best), "median_ms": _ms(took.median), "cpu_ms": _ms(took.cpu)}
    if floor_s is not None:
        row |= {"floor_ms": _ms(floor_s), "of_floor": round(took.best / floor_s, 2)}
    return row | {"dropped": took.dropped, **more}


def _ms(seconds: float) -> float:
    return round(1000 * seconds, 2)


def whole(cascade: Cascade, batch: int, seconds: float, max_history: int | None) -> dict[str, Any]:
    """So many requests at once through the engine, each of so many seconds of sound."""
    request = functools.partial(request_for, cascade, max_history=max_history)
    with Engine(cascade, max_batch=batch) as engine:
        engine.submit(request(0.3)).wait()
        before, cpu = time.perf_counter(), time.process_time()
        jobs = [engine.submit(request(seconds, seed)) for seed in range(batch)]
        made = [job.wait() for job in jobs]
        wall, cpu = time.perf_counter() - before, time.process_time() - cpu
        first_s = first_sound(engine, request(seconds))
    sound_s = sum(generation.audio.duration_s for generation in made)
    return {
        "sound_s": round(sound_s, 2),
        "computing_per_sound": round(wall / sound_s, 3),
        "cpu_per_sound": round(cpu / sound_s, 3),
        "tokens_s": round(sum(map(n_tokens, made)) / wall, 1),
        "first_sound_s": round(first_s, 3),
    }


def first_sound(engine: Engine, request: GenerationRequest) -> float:
    """Seconds until the first sound of a streamed request that is alone."""
    before = time.perf_counter()
    job = engine.submit(dataclasses.replace(request, streaming=True))
    for event in job.events():
        if isinstance(event, AudioChunk):
            job.cancel()
            return time.perf_counter() - before
    raise AssertionError("a job that isn't stopped ends with sound")


def n_tokens(generation: Generation) -> int:
    """Tokens that were drawn one after the other."""
    return sum(
        len(segment.semantic) + segment.coarse.values.size for segment in generation.segments
    )


def one(args: argparse.Namespace) -> dict[str, Any]:
    """One model, device, precision and batch; in a process of its own."""
    bare = _peak_gb("cpu")
    started = time.perf_counter()
    cascade = cascade_of(args.models[0], args.device, args.precision[0])
    load_s = time.perf_counter() - started
    device = cascade.placement.device
    peak = _peak_gb(device)
    of_machine = limits(
        device, torch.float32 if device == "cpu" else dtype_of(cascade.placement.dtype)
    )
    _forget_peak(device)  # what the machine reaches is measured with arrays of 400 MB
    batch = args.batch[0]
    row: dict[str, Any] = {
        "model": args.models[0],
        "device": device,
        "precision": cascade.placement.precision,
        "batch": batch,
        "max_history": args.coarse_history,
        "load_s": round(load_s, 2),
        "limits": {k: round(v / 1e9, 1) for k, v in dataclasses.asdict(of_machine).items()},
    }
    if not args.only_whole:
        row["stages"] = Stages(cascade, of_machine, batch).measure()
    if not args.only_stages:
        row["whole"] = whole(cascade, batch, args.seconds, args.coarse_history)
    return row | {"bare_gb": bare, "peak_memory_gb": max(peak, _peak_gb(device))}


def _peak_gb(device: str) -> float:
    """Most memory so far, or since it was forgotten, of the device that models are on."""
    if device != "cpu":
        return round(torch.cuda.max_memory_allocated(device) / 1e9, 2)
    told = Path("/proc/self/status").read_text().split("VmHWM:")[1]
    return round(int(told.split()[0]) / 1e6, 2)


def _forget_peak(device: str) -> None:
    if device != "cpu":
        torch.cuda.reset_peak_memory_stats(device)
    else:
        Path("/proc/self/clear_refs").write_text("5")  # see proc_pid_clear_refs(5)


def table(rows: list[dict[str, Any]]) -> str:
    """The figures as Markdown."""
    lines = [
        "| model | batch | a second of sound | CPU | first sound | peak memory |",
        "|---|---|---|---|---|---|",
    ]
    for row in rows:
        if "whole" in row:
            found, history = row["whole"], row["max_history"]
            name = f"{row['model']}, {row['precision']}, {row['device']}"
            name += f", windows of {history}" if history else ""
            lines.append(
                f"| {name} | {row['batch']} | {found['computing_per_sound']} s "
                f"| {found['cpu_per_sound']} s | {found['first_sound_s']} s "
                f"| {row['peak_memory_gb']} GB |"
            )
    lines += ["", "| model | batch | stage | ms | floor, ms | times the floor |"]
    lines += ["|---|---|---|---|---|---|"]
    for row in rows:
        for stage, found in row.get("stages", {}).items():
            floor, share = found.get("floor_ms", "-"), found.get("of_floor", "-")
            lines.append(
                f"| {row['model']}, {row['precision']}, {row['device']} | {row['batch']} "
                f"| {stage} | {found['ms']} | {floor} | {share} |"
            )
    return "\n".join(lines)


def measure(args: argparse.Namespace) -> list[dict[str, Any]]:
    """All that was asked for, one after the other."""
    rows = []
    for model in args.models:
        for precision in args.precision:
            for batch in args.batch:
                command = [sys.executable, "-m", "benchmarks.performance", model, "--one"]
                command += ["--precision", precision, "--batch", str(batch)]
                command += ["--device", args.device, "--seconds", str(args.seconds)]
                command += ["--only-stages"] if args.only_stages else []
                command += ["--only-whole"] if args.only_whole else []
                if args.coarse_history:
                    command += ["--coarse-history", str(args.coarse_history)]
                done = subprocess.run(command, check=True, capture_output=True, text=True)
                rows.append(json.loads(done.stdout))
                print(json.dumps(rows[-1]), file=sys.stderr)
    return rows


def main() -> None:
    """Measure and print tables; --json writes the figures, or adds them to those there."""
    parser = options(__doc__)
    parser.add_argument("--seconds", type=float, default=3.0, help="of sound, of each request")
    parser.add_argument("--coarse-history", type=int, help="shorter windows: coarse tokens")
    parser.add_argument("--only-stages", action="store_true")
    parser.add_argument("--only-whole", action="store_true")
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        print(json.dumps(one(args)))
        return
    rows = measure(args)
    print(table(rows))
    if args.json:
        before = json.loads(args.json.read_text())["rows"] if args.json.exists() else []
        report = {**conditions(), "rows": [*before, *rows]}
        args.json.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

"""Where the time goes, stage by stage and kind of work by kind of work:

    python -m benchmarks.profile pup small --precision float32 int8

Requests with a voice run through the engine, as on the page, while each part of the work counts
the time that it takes itself: what it calls counts on its own. Kinds of work:

    prompt     positions of prompts through a transformer
    steps      one position more of all rows
    head       logits of what was stepped to
    sampling   tokens and codes drawn from logits
    pass       windows through the fine stage's transformer
    sound      codes through the codec
    host       all else: lists of rows, checks, arrays, events

On a CUDA device `steps` holds head and sampling, which are captured with it; the device is waited
for at the end of each part, which costs some of the speed, and --operations lists its kernels by
their names. On a CPU it lists torch's operations of one request that nothing runs beside.

Beside other programs use --threads 1: then times are those of computing, on one thread, which the
others hardly change.
"""

from __future__ import annotations

import contextlib
import functools
import json
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any
from unittest import mock

import torch
from torch.profiler import ProfilerActivity, record_function

from bark_core import Engine, fine, lanes, products, rows
from bark_core.cascade import Cascade
from bark_core.cuda_graphs import FineGraphs
from bark_core.cuda_rows import CudaRows
from bark_core.transformer import CompiledDecoder, FineGPT, PlainDecoder
from benchmarks.machine import conditions
from benchmarks.models import cascade_of, options, request_for

HOST = "host"
ENGINE = "engine"  # what belongs to no stage
N_OPERATIONS = 20
# whose time counts as what; the innermost counts
PARTS: tuple[tuple[Any, str, str], ...] = (
    (rows.PlainRows, "prefill", "prompt"),
    (CudaRows, "prefill", "prompt"),
    (CudaRows, "run", "steps"),
    (CudaRows, "collect", "steps"),
    (CompiledDecoder, "step", "steps"),
    (PlainDecoder, "step", "steps"),
    (CompiledDecoder, "logits", "head"),
    (PlainDecoder, "logits", "head"),
    (rows, "probabilities", "sampling"),
    (rows, "pick", "sampling"),
    (fine, "draw_codes", "sampling"),
    (FineGPT, "forward", "pass"),
    (FineGraphs, "__call__", "pass"),
    (Cascade, "decode", "sound"),
    (Cascade, "decode_from", "sound"),
)
LANES = ((lanes.RowLane, ""), (lanes.FineLane, "fine"), (lanes.CodecLane, "codec"))


@dataclass(slots=True)
class Spent:
    """What was spent on one kind of work of one stage."""

    seconds: float = 0.0
    calls: int = 0


@dataclass(slots=True)
class Clock:
    """Counts the time of nested parts, each without those inside of it; for one thread.

    Args:
        device: that is waited for at the end of each part.
        now: seconds that go by for whom the time is counted.
    """

    device: torch.device
    now: Callable[[], float] = time.perf_counter
    spent: dict[tuple[str, str], Spent] = field(default_factory=lambda: defaultdict(Spent))
    _open: list[tuple[str, str]] = field(default_factory=list)
    _since: float = 0.0

    @contextlib.contextmanager
    def part(self, kind: str, stage: str = "") -> Iterator[None]:
        """Count what runs inside, for the stage that is open where none is named."""
        self._count()
        around = self._open[-1][0] if self._open else ENGINE
        self._open.append((stage or around, kind))
        self.spent[self._open[-1]].calls += 1
        try:
            yield
            if kind != HOST and self.device.type == "cuda":
                torch.cuda.synchronize(self.device)
        finally:
            self._count()
            self._open.pop()

    def _count(self) -> None:
        now = self.now()
        if self._open:
            self.spent[self._open[-1]].seconds += now - self._since
        self._since = now


@contextlib.contextmanager
def counting(clock: Clock) -> Iterator[None]:
    """Have all parts of engines count their time, until the end."""
    with contextlib.ExitStack() as changes:

        def change(owner: Any, name: str, kind: str, stage: str = "") -> None:
            original = getattr(owner, name)

            @functools.wraps(original)
            def counted(*args: Any, **kwargs: Any) -> Any:
                # of the lanes for rows there are two, which know their stages
                with clock.part(kind, stage or str(getattr(args[0], "_stage", ""))):
                    return original(*args, **kwargs)

            setattr(owner, name, counted)
            changes.callback(setattr, owner, name, original)

        for owner, name, kind in PARTS:
            change(owner, name, kind)
        for lane, stage in LANES:
            for name in ("launch", "settle"):
                change(lane, name, HOST, stage)
        change(Engine, "_round", HOST, ENGINE)
        yield


def measure(cascade: Cascade, batch: int, seconds: float) -> dict[str, Any]:
    """Where the time of some requests goes, after a short one to warm up."""
    alone = torch.get_num_threads() == 1 and cascade.placement.kind == "cpu"
    clock = Clock(
        torch.device(cascade.placement.device), time.thread_time if alone else time.perf_counter
    )
    with Engine(cascade, max_batch=batch) as engine:
        engine.submit(request_for(cascade, 0.3)).wait()
        with counting(clock):
            before, cpu = time.perf_counter(), time.process_time()
            jobs = [engine.submit(request_for(cascade, seconds, seed)) for seed in range(batch)]
            sound_s = sum(job.wait().audio.duration_s for job in jobs)
            wall, cpu = time.perf_counter() - before, time.process_time() - cpu
    whole = cpu if alone else wall
    return {
        "batch": batch,
        "threads": torch.get_num_threads(),
        "sound_s": round(sound_s, 2),
        "seconds": round(whole, 3),
        "parts": [
            {
                "stage": stage,
                "kind": kind,
                "calls": spent.calls,
                "seconds": round(spent.seconds, 4),
                "share": round(spent.seconds / whole, 4),
            }
            for (stage, kind), spent in clock.spent.items()
        ],
    }


@contextlib.contextmanager
def _own_products_named() -> Iterator[None]:
    """Have torch's profiler see what is compiled here, too."""

    def named(name: str) -> Callable[..., Any]:
        work = getattr(products, name)

        @functools.wraps(work)
        def recorded(*args: Any, **options: Any) -> Any:
            with record_function(f"bark::{name}"):
                return work(*args, **options)

        return recorded

    with contextlib.ExitStack() as stack:
        for name in ("multiply", "attend"):
            stack.enter_context(mock.patch.object(products, name, named(name)))
        yield


def operations(cascade: Cascade, seconds: float) -> list[dict[str, Any]]:
    """What one request has a device do, by the names of kernels or of torch's operations."""
    request = request_for(cascade, seconds)
    on_cuda = cascade.placement.kind == "cuda"
    activity = ProfilerActivity.CUDA if on_cuda else ProfilerActivity.CPU
    with _own_products_named(), Engine(cascade, max_batch=1) as engine:
        engine.submit(request).wait()  # all that is compiled and captured at first use
        with torch.profiler.profile(activities=[activity]) as found:
            # kernels are seen whoever launches them, operations on this thread only
            made = engine.submit(request).wait() if on_cuda else cascade.generate(request)
    assert made.segments
    name = "self_device_time_total" if on_cuda else "self_cpu_time_total"
    averages = sorted(found.key_averages(), key=lambda one: getattr(one, name), reverse=True)
    return [
        {"name": one.key[:80], "calls": one.count, "seconds": round(getattr(one, name) / 1e6, 4)}
        for one in averages[:N_OPERATIONS]
    ]


def table(found: list[dict[str, Any]]) -> str:
    """Markdown: a column of shares for each of them, in percent; a row for each kind of work."""
    shares = [{(p["stage"], p["kind"]): p for p in one["parts"]} for one in found]
    kinds = list(dict.fromkeys(key for parts in shares for key in parts))
    stages = list(dict.fromkeys(["semantic", "coarse", "fine", "codec", ENGINE]))
    kinds.sort(key=lambda key: (stages.index(key[0]), key[1] == HOST))
    titles = [f"{one['model']}, {one['precision']}, {one['batch']} at once" for one in found]
    lines = ["| stage | work | " + " | ".join(titles) + " |", "|---" * (2 + len(found)) + "|"]
    for stage, kind in kinds:
        cells = [
            f"{100 * parts[stage, kind]['share']:.1f} % ({_each(parts[stage, kind])})"
            if (stage, kind) in parts
            else ""
            for parts in shares
        ]
        lines.append(f"| {stage} | {kind} | " + " | ".join(cells) + " |")
    totals = [f"{one['seconds'] / one['sound_s']:.3f} s" for one in found]
    lines.append("| in all | a second of sound | " + " | ".join(totals) + " |")
    return "\n".join(lines)


def _each(part: dict[str, Any]) -> str:
    each = 1000 * part["seconds"] / part["calls"]
    return f"{part['calls']} x {each:.3g} ms"


def main() -> None:
    """Measure and print a table; --json writes the figures."""
    parser = options(__doc__)
    parser.add_argument("--seconds", type=float, default=4.0, help="of sound, of each request")
    parser.add_argument("--threads", type=int, help="to compute with (torch's own choice)")
    parser.add_argument("--operations", action="store_true", help="also by names of operations")
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    found, report = [], conditions()
    for model in args.models:
        for precision in args.precision:
            cascade = cascade_of(model, args.device, precision)
            named = {"model": model, "precision": cascade.placement.precision}
            named["device"] = cascade.placement.device
            for batch in args.batch:
                found.append(named | measure(cascade, batch, args.seconds))
            if args.operations:
                found[-1]["operations"] = operations(cascade, args.seconds)
                for one in found[-1]["operations"]:
                    print(f"{one['seconds']:9.4f} s  {one['calls']:7d} x  {one['name']}")
    print(table(found))
    if args.json:
        args.json.write_text(json.dumps({**report, "rows": found}, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main()

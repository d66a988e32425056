"""`python -m benchmarks.gpu --json gpu.json`: all stages on a CUDA device, against its floor.

Random weights of the published shapes: the cost doesn't depend on their values. Requests say the
same number of seconds with a voice whose history fills every window, as many at once as asked.
The decoders are those of the package; between them there is no engine, so what is measured is
what the device and the stages' own logic take. The floor is what this machine reaches, measured in
the same run.
"""

from __future__ import annotations

import argparse
import functools
import gc
import json
import math
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bark_core import load
from bark_core.cascade import Cascade
from bark_core.coarse import CoarsePlan, plan_coarse
from bark_core.codec import Codec
from bark_core.config import LARGE, SMALL, CascadeConfig, TokenLayout
from bark_core.cuda_graphs import FineGraphs
from bark_core.cuda_rows import CudaOptions, CudaRows
from bark_core.engine import Engine
from bark_core.fine import plan_fine
from bark_core.generation import ModelIdentity
from bark_core.placement import Placement
from bark_core.request import (
    CoarseParams,
    GenerationRequest,
    SamplingParams,
    SemanticParams,
    Settings,
)
from bark_core.rows import PlainRows, RowDecoder, RowStart, RowState
from bark_core.sampling import pick, soften
from bark_core.semantic import embed_prompt
from bark_core.tokenizer import Tokenizer
from bark_core.tokens import CoarseCodes, FineCodes, SemanticTokens
from bark_core.transformer import CausalGPT, FineGPT
from bark_core.voices import Voice

CONFIGS = {"small": SMALL, "large": LARGE}
SAMPLING = SamplingParams(temperature=0.7)
FINE_TEMPERATURE = 0.5
PRECISIONS = {"bfloat16": torch.bfloat16, "float32": torch.float32, "float16": torch.float16}


@dataclass(frozen=True, slots=True)
class Models:
    """What a cascade is made of, with random weights."""

    config: CascadeConfig
    text: CausalGPT
    coarse: CausalGPT
    fine: FineGPT
    codec: Codec


@dataclass(slots=True)
class Clock:
    """Seconds of the parts of one run, each ending when the device is done."""

    seconds: dict[str, float] = field(default_factory=dict)

    def measure(self, name: str, do: Callable[[], Any]) -> Any:
        torch.cuda.synchronize()
        started = time.perf_counter()
        result = do()
        torch.cuda.synchronize()
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - started
        return result

    @property
    def total(self) -> float:
        return sum(self.seconds.values())


def new_models(name: str, precision: str) -> Models:
    config, device = CONFIGS[name], torch.device("cuda")
    torch.manual_seed(0)
    with device:
        stages = [CausalGPT(config.text), CausalGPT(config.coarse), FineGPT(config.fine)]
        codec = Codec(config.codec, config.layout)
    codec.quantizer.codebooks.normal_()
    for module in (*stages, codec):
        module.eval().requires_grad_(False)
    text, coarse, fine = (module.to(PRECISIONS[precision]) for module in stages)
    assert isinstance(text, CausalGPT) and isinstance(coarse, CausalGPT)
    assert isinstance(fine, FineGPT)
    return Models(config, text, coarse, fine, codec)


def voice_of(layout: TokenLayout) -> tuple[SemanticTokens, FineCodes]:
    rng = np.random.default_rng(0)
    semantic = rng.integers(0, layout.semantic_vocab, round(8 * layout.semantic_rate_hz))
    n_frames = int(len(semantic) * layout.frames_per_semantic)
    codes = rng.integers(0, layout.codebook_size, (layout.n_codebooks, n_frames))
    return SemanticTokens(semantic, layout), FineCodes(codes, layout)


def finish(decoder: RowDecoder, starts: list[RowStart]) -> list[tuple[int, ...]]:
    """Rows side by side to their ends."""
    numbers = [decoder.start(start) for start in starts]
    made: dict[int, tuple[int, ...]] = dict.fromkeys(numbers, ())
    left = set(numbers)
    while left:
        decoder.prefill(100_000)
        decoder.run(decoder.stride)
        for number, news in decoder.collect().items():
            made[number] += news.tokens
            if news.state is not RowState.RUNNING:
                left.discard(number)
    return [made[number] for number in numbers]


class Run:
    """Some requests at once through all stages, with decoders that stay.

    Args:
        n: requests.
        options: of the decoders; None decodes with torch's operations, one by one.
    """

    def __init__(self, models: Models, n: int, options: CudaOptions | None) -> None:
        self.models, self.n = models, n
        self.layout = models.config.layout
        self.draws = torch.Generator().manual_seed(1)
        self.text, self.coarse = (
            PlainRows(model) if options is None else CudaRows(model, n, options=options)
            for model in (models.text, models.coarse)
        )
        self.fine = models.fine if options is None else FineGraphs(models.fine)
        self.voice_semantic, self.voice_fine = voice_of(self.layout)

    def semantic(self, n_tokens: int) -> list[SemanticTokens]:
        layout, device = self.layout, self.models.text.device
        words = layout.text_pad - layout.text_offset
        text = torch.randint(0, words, (1, layout.text_window), device=device)
        text += layout.text_offset
        history = self.voice_semantic.values[-layout.text_window :].astype(np.int64)
        past = torch.from_numpy(history)[None].to(device)
        prompt = embed_prompt(self.models.text, text, past, layout)[0]
        ranges = ((0, layout.semantic_vocab),)
        starts = [self._row(prompt, ranges, n_tokens) for _ in range(self.n)]
        return [SemanticTokens(np.array(t), layout) for t in finish(self.text, starts)]

    def _row(self, prompt: Tensor, ranges: tuple[tuple[int, int], ...], n: int) -> RowStart:
        return RowStart(prompt, ranges, n, torch.rand(n, generator=self.draws), SAMPLING)

    def codes(self, semantic: list[SemanticTokens], most: int | None = None) -> list[CoarseCodes]:
        layout = self.layout
        history = (self.voice_semantic, self.voice_fine.coarse)
        plans = [plan_coarse(tokens, history, CoarseParams()) for tokens in semantic]
        n_steps = min(plans[0].n_steps, most or plans[0].n_steps)
        made: list[list[int]] = [[] for _ in plans]
        first = layout.semantic_vocab
        ranges = tuple(
            (first + i * layout.codebook_size, first + (i + 1) * layout.codebook_size)
            for i in range(layout.n_coarse_codebooks)
        )
        while len(made[0]) < n_steps:
            n = min(layout.coarse_window, n_steps - len(made[0]))
            starts = [
                self._row(self._window(plan, done), ranges, n)
                for plan, done in zip(plans, made, strict=True)
            ]
            for done, new in zip(made, finish(self.coarse, starts), strict=True):
                done.extend(new)
        rows = [np.array(done).reshape(-1, layout.n_coarse_codebooks).T for done in made]
        offsets = first + layout.codebook_size * np.arange(layout.n_coarse_codebooks)
        return [CoarseCodes(row - offsets[:, None], layout) for row in rows]

    def _window(self, plan: CoarsePlan, made: list[int]) -> Tensor:
        prompt = torch.from_numpy(plan.prompt(np.array(made, dtype=np.int64)))
        return self.models.coarse.embed(prompt.to(self.models.coarse.device))

    def details(self, coarse: list[CoarseCodes]) -> Tensor:
        """Fine codes, [n, frames, codebooks] on the device."""
        layout, device = self.layout, self.models.fine.device
        plans = [plan_fine(codes, self.voice_fine) for codes in coarse]
        codes = torch.from_numpy(np.stack([plan.codes for plan in plans])).to(device)
        shape = (self.n, layout.fine_window)
        for start, fill in plans[0].windows():
            window = codes[:, start : start + layout.fine_window]
            for book in range(layout.n_coarse_codebooks, layout.n_codebooks):
                numbers = torch.rand(shape, generator=self.draws).to(device)[:, fill:]
                logits = self.fine(book, window)[:, fill:, : layout.codebook_size]
                window[:, fill:, book] = pick(soften(logits, FINE_TEMPERATURE), numbers)
        n_history, n_frames = plans[0].n_history, plans[0].n_frames
        return codes[:, n_history : n_history + n_frames]

    def sound(self, codes: Tensor) -> Tensor:
        return self.models.codec.decode_batch(codes.transpose(1, 2)).cpu()

    def whole(self, seconds: float) -> Clock:
        """All stages, one after another, each for all requests."""
        clock = Clock()
        n_tokens = math.ceil(seconds * self.layout.semantic_rate_hz)
        with torch.inference_mode():
            semantic = clock.measure("semantic", lambda: self.semantic(n_tokens))
            coarse = clock.measure("coarse", lambda: self.codes(semantic))
            fine = clock.measure("fine", lambda: self.details(coarse))
            clock.measure("codec", lambda: self.sound(fine))
        return clock

    def first_sound(self) -> Clock:
        """What a listener waits for: 256 semantic tokens, one coarse window, its sound.

        The fine stage then sees a window that isn't complete yet: a setting, not the original.
        """
        clock = Clock()
        with torch.inference_mode():
            n = self.layout.coarse_semantic_window
            semantic = clock.measure("semantic", lambda: self.semantic(n))
            coarse = clock.measure("coarse", lambda: self.codes(semantic, most=60))
            fine = clock.measure("fine", lambda: self.details(coarse))
            clock.measure("codec", lambda: self.sound(fine))
        return clock

    def close(self) -> None:
        self.text.close()
        self.coarse.close()


def timed(do: Callable[[], object], n: int = 5) -> float:
    """Seconds of one of n calls, by the device's own clock."""
    do()
    start, stop = (
        torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        for _ in range(2)
    )
    start.record()
    for _ in range(n):
        do()
    stop.record()
    torch.cuda.synchronize()
    return float(start.elapsed_time(stop)) / 1e3 / n


def floor() -> dict[str, float]:
    """What the device reaches: bytes copied a second, operations of a matrix product."""
    x = torch.empty(2**31, dtype=torch.uint8, device="cuda").random_()
    y = torch.empty_like(x)
    copy_s = timed(lambda: y.copy_(x))
    a = torch.randn(8192, 8192, device="cuda", dtype=torch.bfloat16)
    b = torch.randn_like(a)
    return {
        "copy_tb_s": round(2 * 2**31 / copy_s / 1e12, 2),
        "bfloat16_tflop_s": round(2 * 8192**3 / timed(lambda: a @ b) / 1e12),
    }


def paper_floor(config: CascadeConfig, n: int, seconds: float, reach: dict[str, float]) -> float:
    """Seconds that n requests take if bytes and operations were all, in bfloat16.

    Each step reads the layers' weights once and each row's keys and values; prompts and the fine
    stage do their operations.
    """
    bytes_s, operations_s = reach["copy_tb_s"] * 1e12, reach["bfloat16_tflop_s"] * 1e12
    layout, layers = config.layout, config.text.n_layer
    width = config.text.n_embd
    per_layer = 12 * width * width
    text_steps = math.ceil(seconds * layout.semantic_rate_hz)
    coarse_steps = round(text_steps * layout.coarse_per_semantic)
    position = 2 * 2 * width * layers  # bytes of keys and values
    text_read = text_steps * (layers * per_layer * 2 + n * position * (257 + text_steps / 2))
    text_read += text_steps * layout.semantic_vocab * width * 2
    coarse_read = coarse_steps * (layers * per_layer * 2 + n * position * (887 + 30))
    windows = math.ceil(coarse_steps / layout.coarse_window)
    frames = text_steps * layout.frames_per_semantic
    fine_windows = max(0, math.ceil((frames - 512) / 512)) + 1
    positions = windows * 887 + fine_windows * 6 * 1024
    operations = n * positions * 2 * layers * per_layer
    return (text_read + coarse_read) / bytes_s + operations / operations_s


def forget() -> None:
    """What was on the device before must not count."""
    gc.collect()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()


def measure_run(
    models: Models, n: int, options: CudaOptions | None, seconds: float, reach: dict[str, float]
) -> dict[str, Any]:
    forget()
    run = Run(models, n, options)
    run.whole(0.8 if n > 1 else 1.6)  # compiles and captures
    clock = run.whole(seconds)
    sound_s = n * seconds
    found = {
        "requests": n,
        "seconds": round(clock.total, 3),
        "sound_per_second": round(sound_s / clock.total, 1),
        "stages_s": {name: round(s, 3) for name, s in clock.seconds.items()},
        "tokens_per_second": {
            "semantic": round(sound_s * run.layout.semantic_rate_hz / clock.seconds["semantic"]),
            "coarse": round(2 * sound_s * run.layout.frame_rate_hz / clock.seconds["coarse"]),
        },
        "floor_s": round(paper_floor(models.config, n, seconds, reach), 3),
        "peak_memory_gb": round(torch.cuda.max_memory_allocated() / 1e9, 2),
    }
    if n == 1 and options is not None:
        run.first_sound()
        first = run.first_sound()
        found["first_sound_s"] = round(first.total, 3)
        found["first_sound_stages_s"] = {k: round(s, 3) for k, s in first.seconds.items()}
    run.close()
    return found


def through_engine(models: Models, n: int, seconds: float) -> dict[str, Any]:
    """The same requests as jobs of the engine, as users' are: its own work counts too."""
    words = "the quick brown fox jumps over the lazy dog"
    device, dtype = str(models.text.device), str(models.text.dtype).removeprefix("torch.")
    placement = Placement(device, dtype, offload=False, codec_device=device)
    cascade = Cascade(
        models.config,
        text=models.text,
        coarse=models.coarse,
        fine=models.fine,
        codec=models.codec,
        tokenizer=Tokenizer.from_vocabulary(["[PAD]", "[UNK]", *dict.fromkeys(words.split())]),
        placement=placement,
        identity=ModelIdentity(
            models.config.name, "random weights", "", placement.precision, models.config.layout.name
        ),
    )
    semantic, fine = voice_of(models.config.layout)
    voice = Voice(semantic=semantic, coarse=fine.coarse, fine=fine)

    def say(engine: Engine, how_many: int, duration_s: float) -> float:
        of_words = SemanticParams(allow_early_stop=False, max_duration_s=duration_s)
        settings = Settings(semantic=of_words)
        started = time.perf_counter()
        jobs = [
            engine.submit(GenerationRequest(words, voice, seed, settings))
            for seed in range(how_many)
        ]
        made = [job.wait() for job in jobs]
        spent = time.perf_counter() - started
        return sum(result.audio.duration_s for result in made) / spent

    with Engine(cascade, max_batch=n) as engine:
        say(engine, n, 0.5)
        return {"requests": n, "sound_per_second": round(say(engine, n, seconds), 1)}


def memory_by_stage(name: str, precision: str) -> dict[str, float]:
    """Peak of the device's memory while only one stage is on it, GB; a short request."""
    peaks: dict[str, float] = {}
    models = new_models(name, precision)
    stages = {"semantic": models.text, "coarse": models.coarse, "fine": models.fine}
    modules = {**stages, "codec": models.codec}
    for module in modules.values():
        module.to("cpu")
    made: dict[str, Any] = {}
    for stage, module in modules.items():
        forget()
        module.to("cuda")
        run = Run(models, 1, CudaOptions())
        with torch.inference_mode():
            match stage:
                case "semantic":
                    made["semantic"] = run.semantic(60)
                case "coarse":
                    made["coarse"] = run.codes(made["semantic"])
                case "fine":
                    made["fine"] = run.details(made["coarse"])
                case _:
                    run.sound(made["fine"])
        peaks[stage] = round(torch.cuda.max_memory_allocated() / 1e9, 2)
        run.close()
        module.to("cpu")
    return peaks


KINDS = {
    "float32": (torch.float32, CudaOptions(kernels=False)),
    "float32, our kernels": (torch.float32, CudaOptions()),
    "bfloat16": (torch.bfloat16, CudaOptions()),
    "bfloat16, weights int8": (torch.bfloat16, CudaOptions(weights="int8")),
    "bfloat16, weights float8": (torch.bfloat16, CudaOptions(weights="float8")),
    "bfloat16, cache int8": (torch.bfloat16, CudaOptions(cache="int8")),
}


def distances(model: CausalGPT, span: tuple[int, int], n_prompt: int) -> dict[str, Any]:
    """How far the logits behind prompts of random tokens are from those of float32.

    KL divergence, mean, nats; share of equal likeliest tokens. Prompt and one step are computed in
    what is named; of a float32 model.
    """
    draws = torch.Generator().manual_seed(3)
    vocabulary = model.config.input_vocab_size
    prompts = torch.randint(0, vocabulary, (64, n_prompt), generator=draws).to(model.device)
    logits = {kind: _logits(model, prompts, span, *how) for kind, how in KINDS.items()}
    exact = torch.log_softmax(logits["float32"], dim=-1)
    found = {}
    for kind, other in logits.items():
        close = torch.log_softmax(other, dim=-1)
        kl = (exact.exp() * (exact - close)).sum(dim=-1).mean()
        same = (exact.argmax(dim=-1) == close.argmax(dim=-1)).float().mean()
        found[kind] = {"kl": float(f"{float(kl):.2g}"), "same_likeliest": round(float(same), 3)}
    return found


def _logits(
    model: CausalGPT, prompts: Tensor, span: tuple[int, int], dtype: torch.dtype, how: CudaOptions
) -> Tensor:
    """Logits of the step behind each prompt's last token, float32 [n, V]; two rows at a time."""
    with prompts.device:
        whole = CausalGPT(model.config)
    whole.to(dtype).eval().requires_grad_(False).load_state_dict(model.state_dict())
    made = []
    with torch.inference_mode():
        decoder = CudaRows(whole, 2, options=how)
        for pair in torch.split(prompts, 2):
            made.append(decoder.logits_behind(pair, span))
        decoder.close()
    return torch.cat(made)


def random_coarse() -> tuple[CausalGPT, tuple[int, int], int]:
    """The large coarse stage with random weights, ids that may come, positions of a prompt."""
    torch.manual_seed(0)
    with torch.device("cuda" if torch.cuda.is_available() else "cpu"):
        model = CausalGPT(LARGE.coarse)
    return model.eval().requires_grad_(False), _coarse_ids(LARGE.layout), 800


def pup_coarse() -> tuple[CausalGPT, tuple[int, int], int]:
    """The same of a trained model."""
    cascade = load("pup", precision="float32")
    return cascade.coarse, _coarse_ids(cascade.config.layout), 250


def _coarse_ids(layout: TokenLayout) -> tuple[int, int]:
    n_ids = layout.n_coarse_codebooks * layout.codebook_size
    return layout.semantic_vocab, layout.semantic_vocab + n_ids


class Report:
    """Figures as they come, kept in a file and said in a line each."""

    def __init__(self, path: Path | None, limit_s: float) -> None:
        self.found: dict[str, Any] = {"date": time.strftime("%Y-%m-%d")}
        self._path, self._started, self._limit_s = path, time.monotonic(), limit_s

    def part(self, name: str, do: Callable[[], Any]) -> Any:
        spent = time.monotonic() - self._started
        if spent > self._limit_s:
            print(f"[{spent:5.1f}] {name}: no time left", flush=True)
            return None
        try:
            result = do()
        except Exception:
            result = {"failed": traceback.format_exc()[-1_500:]}
        self.found[name] = result
        print(f"[{time.monotonic() - self._started:5.1f}] {name}: {json.dumps(result)}", flush=True)
        if self._path:
            self._path.write_text(json.dumps(self.found, indent=1) + "\n", encoding="utf-8")
        return result


RUNS = {
    "large, alone": (1, CudaOptions()),
    "large, 32 at once": (32, CudaOptions()),
    "large, 32 at once, cache int8": (32, CudaOptions(cache="int8")),
    "large, 8 at once": (8, CudaOptions()),
    "large, alone, weights int8": (1, CudaOptions(weights="int8")),
    "small, alone": (1, CudaOptions()),
    "small, 32 at once": (32, CudaOptions()),
}
OF_DISTANCES = {"pup": pup_coarse, "large": random_coarse}


def warm(what: str) -> None:
    """Have the kernels of one part compiled, so that many parts can be at the same time."""
    if what in RUNS:
        n, options = RUNS[what]
        Run(new_models(what.split(",")[0], "bfloat16"), n, options).whole(0.3)
        return
    name, kind = what.split(": ")
    model, span, n_prompt = OF_DISTANCES[name]()
    _logits(model, torch.zeros((2, n_prompt), dtype=torch.long).cuda(), span, *KINDS[kind])


def compile_all() -> list[int]:
    """Return codes of all processes that compile."""
    whats = [*RUNS, *(f"{name}: {kind}" for name in OF_DISTANCES for kind in KINDS)]
    base = [sys.executable, "-m", "benchmarks.gpu", "--warm"]
    running = [subprocess.Popen([*base, what]) for what in whats]
    return [process.wait() for process in running]


def measure(report: Report, seconds: float) -> None:
    report.part("hardware", lambda: f"{torch.cuda.get_device_name()}, torch {torch.__version__}")
    reach = report.part("floor", floor)
    assert isinstance(reach, dict)
    models: dict[str, Models] = {}
    for title, (n, options) in RUNS.items():
        name = title.split(",")[0]
        if name not in models:
            models.clear()
            models[name] = new_models(name, "bfloat16")
        report.part(title, functools.partial(measure_run, models[name], n, options, seconds, reach))
        if name == "large" and options == CudaOptions():
            report.part(
                f"{title}, through the engine",
                functools.partial(through_engine, models[name], n, seconds),
            )
    models.clear()
    for name, new in OF_DISTANCES.items():
        report.part(f"{name}, distances of the coarse stage", lambda: distances(*new()))  # noqa: B023
    for name in CONFIGS:
        report.part(
            f"{name}, offloaded, peak GB", functools.partial(memory_by_stage, name, "bfloat16")
        )
    eager = new_models("large", "bfloat16")
    report.part("large, alone, torch's operations", lambda: measure_run(eager, 1, None, 1.0, reach))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=10.0, help="of sound, each request")
    parser.add_argument("--limit", type=float, default=600.0, help="seconds; no part begins later")
    parser.add_argument("--json", type=Path)
    parser.add_argument(
        "--distances", action="store_true", help="only how close precisions are; runs on a CPU too"
    )
    parser.add_argument("--warm", help="compile the kernels of one run and exit")
    args = parser.parse_args()
    if args.warm:
        warm(args.warm)
        return
    report = Report(args.json, args.limit)
    if args.distances:
        for name, new in OF_DISTANCES.items():
            report.part(f"{name}, coarse", lambda: distances(*new()))  # noqa: B023
        return
    report.part("compiled", compile_all)
    measure(report, args.seconds)


if __name__ == "__main__":
    main()

"""Beside suno-ai/bark and `transformers`, with the same random weights, in one run:

    BARK_ORIGINAL=folder python -m benchmarks.side_by_side --json benchmarks/side_by_side.json

`folder` is a checkout of https://github.com/suno-ai/bark (it needs `funcy` and `scipy`); without
it only `transformers` is compared with. With --avx2 all are held to what processors without
AVX-512 can. All compute on the CPU, from the very same tensors, and
take turns within each stage, so that whatever else the machine does disturbs them alike. A round
makes the semantic tokens of some seconds of sound with a voice, some windows of coarse codes, a
window of fine codes, and ten seconds of sound; from that follows what ten seconds with a voice
take: one prompt and 499 semantic tokens, 25 coarse windows of which each is like another, two
windows of fine codes.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib
import json
import os
import sys
from collections.abc import Callable, Generator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

from bark_core import processor
from bark_core.cascade import Cascade
from bark_core.coarse import generate_coarse, plan_coarse
from bark_core.coarse import live_range as coarse_range
from bark_core.config import BARK_LAYOUT, SMALL, CascadeConfig
from bark_core.decoders import new_decoder
from bark_core.fine import generate_fine
from bark_core.layouts import transformers_name
from bark_core.request import CoarseParams, SamplingParams, SemanticParams
from bark_core.rows import RowStart, RowState
from bark_core.sampling import uniforms
from bark_core.semantic import generate_semantic, prompt_of
from bark_core.semantic import live_range as semantic_range
from bark_core.tokens import CoarseCodes, FineCodes, SemanticTokens, TextTokens
from bark_core.transformer import CausalGPT
from bark_core.voices import Voice
from benchmarks.machine import (
    AVX2,
    Sample,
    Timed,
    conditions,
    held_to_avx2,
    limits,
    sample,
    summed_up,
)
from benchmarks.models import random_cascade, random_voice
from tests import tiny

WHOLE_S = 10.0
N_SEMANTIC = int(WHOLE_S * BARK_LAYOUT.semantic_rate_hz)
N_WINDOWS = 25  # of 60 coarse tokens in ten seconds
N_FINE_WINDOWS = 2
ROWS = 8
QUICK_HISTORY = 138  # coarse tokens: the shortest that the original's own voices need
STAGES = ("semantic", "coarse", "fine", "codec")
Work = dict[str, Callable[[], object]]  # of each stage


@dataclass(frozen=True, slots=True)
class Task:
    """What every one of them does in a round."""

    text: TextTokens
    voice: Voice
    n_semantic: int
    n_windows: int
    semantic: SemanticTokens  # what the coarse windows are made of
    coarse: CoarseCodes  # one window of fine codes
    fine: FineCodes  # ten seconds

    def share(self, stage: str) -> float:
        """How often the stage's work of a round is in ten seconds of sound."""
        return {
            "semantic": N_SEMANTIC / self.n_semantic,
            "coarse": N_WINDOWS / self.n_windows,
            "fine": N_FINE_WINDOWS,
            "codec": 1.0,
        }[stage]


def task_of(n_semantic: int, n_windows: int) -> Task:
    """Random tokens of the right numbers."""
    draw = np.random.default_rng(1)
    layout = BARK_LAYOUT
    n_looked_at = round(n_windows * layout.coarse_window / layout.coarse_per_semantic + 0.5)
    n_frames = round(WHOLE_S * layout.frame_rate_hz)
    return Task(
        text=TextTokens(draw.integers(0, 100_000, 40), layout),
        voice=random_voice(layout),
        n_semantic=n_semantic,
        n_windows=n_windows,
        semantic=SemanticTokens(draw.integers(0, 10_000, n_looked_at), layout),
        coarse=CoarseCodes(draw.integers(0, 1024, (2, 500)), layout),
        fine=FineCodes(draw.integers(0, 1024, (8, n_frames)), layout),
    )


def ended(run: Generator[Any, None, Any]) -> Any:
    """Run a stage to its end."""
    while True:
        try:
            next(run)
        except StopIteration as end:
            return end.value


def ours(cascade: Cascade, task: Task, *, max_history: int | None = None) -> Work:
    """The stages as `Cascade` runs them."""
    voice, length_s = task.voice, (task.n_semantic - 0.5) / BARK_LAYOUT.semantic_rate_hz
    semantic = SemanticParams(allow_early_stop=False, max_duration_s=length_s)
    return {
        "semantic": lambda: ended(
            generate_semantic(
                cascade.text, task.text, history=voice.semantic, params=semantic, generator=seed()
            )
        ),
        "coarse": lambda: ended(
            generate_coarse(
                cascade.coarse,
                task.semantic,
                history=(voice.semantic, voice.coarse),
                params=CoarseParams(max_history=max_history),
                generator=seed(),
            )
        ),
        "fine": lambda: ended(
            generate_fine(cascade.fine, task.coarse, history=voice.fine, generator=seed())
        ),
        "codec": lambda: cascade.codec.decode(task.fine),
    }


def ours_in_rows(cascade: Cascade, task: Task, n_rows: int) -> Work:
    """The stages as the engine runs them, so many requests at once: times of all together.

    Fine codes and sound are made one request after the other, and only of one.
    """
    layout = BARK_LAYOUT

    def rows(model: CausalGPT, start: RowStart) -> None:
        decoder, left = new_decoder(model, cascade.placement, n_rows), n_rows
        for _ in range(n_rows):
            decoder.start(start)
        while left:
            decoder.prefill(len(start.prompt))
            decoder.run(decoder.stride)
            left -= sum(news.state is RowState.FULL for news in decoder.collect().values())
        decoder.close()

    def semantic() -> None:
        prompt = prompt_of(cascade.text, task.text, task.voice.semantic)[0]
        live = (semantic_range(layout, allow_end=False),)
        draws = uniforms(seed(), task.n_semantic)
        rows(cascade.text, RowStart(prompt, live, task.n_semantic, draws, SamplingParams()))

    def coarse() -> None:
        history = (task.voice.semantic, task.voice.coarse)
        plan = plan_coarse(task.semantic, history, CoarseParams())
        ids = torch.from_numpy(plan.prompt(np.zeros(0, dtype=np.int64)))
        live = tuple(coarse_range(book, layout) for book in range(2))
        n = layout.coarse_window
        draws = uniforms(seed(), n)
        for _ in range(task.n_windows):
            prompt = cascade.coarse.embed(ids)
            rows(cascade.coarse, RowStart(prompt, live, n, draws, SamplingParams()))

    return {
        "semantic": torch.inference_mode()(semantic),
        "coarse": torch.inference_mode()(coarse),
    }


def seed() -> torch.Generator:
    return torch.Generator().manual_seed(1)


def original(folder: str, cascade: Cascade, task: Task) -> Work:
    """suno-ai/bark, its key-value cache on, fed with token ids below its tokenizer."""
    tiny.import_transformers()
    package = tiny.import_encodec()
    sys.path.insert(0, folder)
    bark = importlib.import_module("bark.generation")
    shape: dict[str, Any] = {"n_layer": SMALL.text.n_layer, "n_head": SMALL.text.n_head}
    shape |= {"n_embd": SMALL.text.n_embd, "bias": False, "dropout": 0.0, "block_size": 1024}
    ids = task.text.values.tolist()
    encode = SimpleNamespace(encode=lambda text, add_special_tokens: ids)
    for stage, model in (("text", cascade.text), ("coarse", cascade.coarse)):
        vocabularies = {
            "input_vocab_size": model.config.input_vocab_size,
            "output_vocab_size": model.config.output_vocab_size,
        }
        theirs = bark.GPT(bark.GPTConfig(**shape, **vocabularies)).eval()
        theirs.load_state_dict(_weights(model), assign=True)
        text = stage == "text"
        bark.models[stage] = {"model": theirs, "tokenizer": encode} if text else theirs
    sizes = {"input_vocab_size": 1056, "output_vocab_size": 1056}
    codebooks = {"n_codes_total": 8, "n_codes_given": 1}
    fine = bark.FineGPT(bark.FineGPTConfig(**shape, **sizes, **codebooks)).eval()
    fine.load_state_dict(_weights(cascade.fine), assign=True)
    bark.models["fine"] = fine
    codec = package.EncodecModel.encodec_model_24khz(pretrained=False)
    codec.set_target_bandwidth(6.0)
    bark.models["codec"] = codec.eval()
    voice = {
        "semantic_prompt": task.voice.semantic.values.astype(np.int64),
        "coarse_prompt": task.voice.coarse.values.astype(np.int64),
        "fine_prompt": task.voice.fine.values.astype(np.int64),
    }
    quiet: dict[str, Any] = {"history_prompt": voice, "silent": True}
    length_s = (task.n_semantic - 0.5) / BARK_LAYOUT.semantic_rate_hz
    semantic = task.semantic.values.astype(np.int64)
    return {
        "semantic": lambda: bark.generate_text_semantic(
            "text",
            use_kv_caching=True,
            allow_early_stop=False,
            max_gen_duration_s=length_s,
            **quiet,
        ),
        "coarse": lambda: bark.generate_coarse(semantic, use_kv_caching=True, **quiet),
        "fine": lambda: bark.generate_fine(task.coarse.values.astype(np.int64), **quiet),
        "codec": lambda: bark.codec_decode(task.fine.values.astype(np.int64)),
    }


def with_transformers(cascade: Cascade, task: Task) -> Work:
    """`transformers.BarkModel`, its key-value cache on."""
    package = tiny.import_transformers()
    settings = importlib.import_module("transformers.models.bark.generation_configuration_bark")
    model = package.BarkModel(_their_config(package, cascade.config)).eval()
    _share(model, cascade)
    to_tensor = torch.from_numpy
    voice = {
        "semantic_prompt": to_tensor(task.voice.semantic.values.astype(np.int64)),
        "coarse_prompt": to_tensor(task.voice.coarse.values.astype(np.int64)),
        "fine_prompt": to_tensor(task.voice.fine.values.astype(np.int64)),
    }
    semantic, coarse, fine = (
        settings.BarkSemanticGenerationConfig(do_sample=True, temperature=0.7),
        settings.BarkCoarseGenerationConfig(do_sample=True, temperature=0.7),
        settings.BarkFineGenerationConfig(temperature=0.5),
    )
    ids = torch.zeros(1, 256, dtype=torch.long)
    ids[0, : len(task.text)] = to_tensor(task.text.values.astype(np.int64))
    spoken = to_tensor(task.semantic.values.astype(np.int64))[None]
    flat = task.coarse.values.astype(np.int64) + 10_000 + 1024 * np.arange(2)[:, None]
    codes = to_tensor(task.fine.values.astype(np.int64))[None]
    shared: dict[str, Any] = {"history_prompt": voice, "semantic_generation_config": semantic}
    n = task.n_semantic
    works: Work = {
        "semantic": lambda: model.semantic.generate(
            ids, max_new_tokens=n, min_new_tokens=n, **shared
        ),
        "coarse": lambda: model.coarse_acoustics.generate(
            spoken, coarse_generation_config=coarse, codebook_size=1024, **shared
        ),
        "fine": lambda: model.fine_acoustics.generate(
            to_tensor(flat.ravel(order="F"))[None],
            coarse_generation_config=coarse,
            fine_generation_config=fine,
            codebook_size=1024,
            **shared,
        ),
        "codec": lambda: model.codec_decode(codes),
    }
    return {stage: torch.no_grad()(work) for stage, work in works.items()}


def _their_config(package: Any, config: CascadeConfig) -> Any:
    stages = {
        f"{name}_config": {
            "num_layers": shape.n_layer,
            "num_heads": shape.n_head,
            "hidden_size": shape.n_embd,
            "bias": False,
            "input_vocab_size": shape.input_vocab_size,
            "output_vocab_size": shape.output_vocab_size,
        }
        for name, shape in (
            ("semantic", config.text),
            ("coarse_acoustics", config.coarse),
            ("fine_acoustics", config.fine),
        )
    }
    return package.BarkConfig(codec_config=package.EncodecConfig().to_dict(), **stages)


def _weights(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Copies in usual memory: ours may lie in large pages, for which the others don't ask."""
    return {name: tensor.clone() for name, tensor in module.state_dict().items()}


def _share(model: Any, cascade: Cascade) -> None:
    """Give it our weights."""
    pairs = (
        (model.semantic, cascade.text),
        (model.coarse_acoustics, cascade.coarse),
        (model.fine_acoustics, cascade.fine),
    )
    for theirs, of_ours in pairs:
        state = {transformers_name(name): tensor for name, tensor in _weights(of_ours).items()}
        missing, extra = theirs.load_state_dict(state, strict=False, assign=True)
        left = [name for name in missing if not name.endswith("attn.bias")]
        assert not left, left
        assert not extra, extra


def compare(works: dict[str, Work], rounds: int) -> dict[str, dict[str, Timed]]:
    """All of them in turn, stage by stage, some rounds; the first warms up where there are more."""
    samples: dict[str, dict[str, list[Sample]]] = {
        name: {stage: [] for stage in STAGES} for name in works
    }
    for number in range(rounds):
        for stage in STAGES:
            for name, work in works.items():
                if stage not in work:
                    continue
                samples[name][stage].append(sample(work[stage]))
                print(number, stage, name, samples[name][stage][-1], file=sys.stderr, flush=True)
    return {
        name: {stage: summed_up(all_of) for stage, all_of in stages.items() if all_of}
        for name, stages in samples.items()
    }


def in_all(found: dict[str, dict[str, Timed]], name: str, task: Task) -> dict[str, Any]:
    """Ten seconds of sound with a voice; of one of the requests, where some run at once."""
    # fine codes and sound are made one request after the other
    stages = found["float32"] | found[name]
    at_once = set(found[name]) if "at once" in name else set()
    share = {stage: task.share(stage) / (ROWS if stage in at_once else 1) for stage in STAGES}
    wall = {stage: round(share[stage] * stages[stage].best, 2) for stage in STAGES}
    cpu = sum(share[stage] * stages[stage].cpu for stage in STAGES)
    return {"stages_s": wall, "total_s": round(sum(wall.values()), 1), "cpu_s": round(cpu, 1)}


def main() -> None:
    """Measure and print a table; --json writes the figures."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--semantic", type=int, default=N_SEMANTIC, help="tokens of a round")
    parser.add_argument("--windows", type=int, default=2, help="of coarse codes, of a round")
    parser.add_argument("--avx2", action="store_true", help="as on a processor without AVX-512")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    if args.avx2 and not held_to_avx2():
        # libraries that are loaded by now wouldn't notice
        command = [sys.executable, "-m", "benchmarks.side_by_side", *sys.argv[1:]]
        os.execve(sys.executable, command, {**os.environ, **AVX2})
    task = task_of(args.semantic, args.windows)
    exact, close = (random_cascade(SMALL, "cpu", precision) for precision in ("float32", "int8"))
    folder = os.environ.get("BARK_ORIGINAL")
    works = {"suno-ai/bark": original(folder, exact, task)} if folder else {}
    works |= {
        "transformers": with_transformers(exact, task),
        "float32": ours(exact, task),
        f"float32, {ROWS} at once": ours_in_rows(exact, task, ROWS),
        "int8": ours(close, task),
        f"int8, windows of {QUICK_HISTORY}": ours(close, task, max_history=QUICK_HISTORY),
    }
    if "amx_bf16" in processor.abilities():  # elsewhere it is slower than float32
        works["bfloat16"] = ours(random_cascade(SMALL, "cpu", "bfloat16"), task)
    before = conditions()
    found = compare(works, args.rounds)
    rows = {
        name: in_all(found, name, task)
        | {"samples": {stage: dataclasses.asdict(one) for stage, one in stages.items()}}
        for name, stages in found.items()
    }
    first = next(iter(rows.values()))["total_s"]
    print("| | semantic | coarse | fine | codec | in all | computing | times as fast |")
    print("|---|---|---|---|---|---|---|---|")
    for name, row in rows.items():
        row["times_as_fast"] = round(first / row["total_s"], 2)
        stages = " | ".join(f"{row['stages_s'][stage]}" for stage in STAGES)
        print(f"| {name} | {stages} | {row['total_s']} | {row['cpu_s']} | {row['times_as_fast']} |")
    if args.json:
        report = {
            **before,
            "load_average_after": [round(load, 1) for load in os.getloadavg()],
            "limits": dataclasses.asdict(limits()),
            "rounds": args.rounds,
            "ten_seconds_with_a_voice": rows,
        }
        args.json.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

"""`python -m benchmarks.speed pup small --seconds 10`: seconds of computing a second of sound.

The published models' weights can be random for this: the cost doesn't depend on their values.
Each model says so many seconds with a voice, stage by stage; a short run before it warms up.
"""

from __future__ import annotations

import argparse
import json
import platform
import resource
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bark_core import GenerationRequest, SemanticParams, Settings, load
from bark_core.cascade import Cascade
from bark_core.codec import Codec
from bark_core.config import LARGE, SMALL, CascadeConfig, TokenLayout
from bark_core.device import choose_placement
from bark_core.generation import ModelIdentity
from bark_core.tokenizer import Tokenizer
from bark_core.tokens import FineCodes, SemanticTokens
from bark_core.transformer import CausalGPT, FineGPT
from bark_core.voices import Voice

TEXT = "the quick brown fox jumps over the lazy dog"
VOICE_S = 8.0
CONFIGS = {"small": SMALL, "large": LARGE}


def random_cascade(config: CascadeConfig, device: str) -> Cascade:
    """A model of the true shape with random weights, float32 on a CPU."""
    placement = choose_placement(device)
    torch.manual_seed(0)
    text, coarse, fine = CausalGPT(config.text), CausalGPT(config.coarse), FineGPT(config.fine)
    for module in (text, coarse, fine):
        module.to(placement.device, placement.dtype).eval().requires_grad_(False)
    codec = Codec(config.codec, config.layout).eval().requires_grad_(False)
    codec.quantizer.codebooks.normal_()
    return Cascade(
        config,
        text=text,
        coarse=coarse,
        fine=fine,
        codec=codec.to(placement.codec_device),
        tokenizer=Tokenizer.from_vocabulary(["[PAD]", "[UNK]", *dict.fromkeys(TEXT.split())]),
        placement=placement,
        identity=ModelIdentity(
            config.name, "random weights", "", placement.precision, config.layout.name
        ),
    )


def random_voice(layout: TokenLayout) -> Voice:
    """A history prompt long enough to fill every window."""
    rng = np.random.default_rng(0)
    n_semantic = int(VOICE_S * layout.semantic_rate_hz)
    n_frames = int(n_semantic * layout.frames_per_semantic)
    fine = FineCodes(rng.integers(0, layout.codebook_size, (layout.n_codebooks, n_frames)), layout)
    semantic = SemanticTokens(rng.integers(0, layout.semantic_vocab, n_semantic), layout)
    return Voice(semantic=semantic, coarse=fine.coarse, fine=fine)


def measure(name: str, seconds: float, device: str) -> dict[str, Any]:
    """One model, one device."""
    started = time.perf_counter()
    if name in CONFIGS:
        cascade = random_cascade(CONFIGS[name], device)
    else:
        cascade = load(name, device=device)
    load_s = time.perf_counter() - started
    voice = random_voice(cascade.config.layout)

    def say(duration_s: float) -> Any:
        semantic = SemanticParams(allow_early_stop=False, max_duration_s=duration_s)
        return cascade.generate(GenerationRequest(TEXT, voice, 1, Settings(semantic=semantic)))

    say(0.3)
    before_cpu, before = time.process_time(), time.perf_counter()
    result = say(seconds)
    wall, cpu = time.perf_counter() - before, time.process_time() - before_cpu
    sound_s = result.audio.duration_s
    return {
        "model": name,
        "device": str(cascade.placement.device),
        "precision": cascade.placement.precision,
        "sound_s": round(sound_s, 2),
        "computing_per_sound": round(wall / sound_s, 3),
        "cpu_per_sound": round(cpu / sound_s, 3),
        "stages_per_sound": {k: round(v / sound_s, 3) for k, v in result.seconds.items()},
        "load_s": round(load_s, 2),
        "peak_memory_gb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6, 2),
    }


def processor() -> str:
    """The processor's name, as far as the system tells."""
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def main() -> None:
    """Measure and print a table; --json writes the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", nargs="+")
    parser.add_argument("--seconds", type=float, default=10.0, help="of sound")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    rows = [measure(name, args.seconds, args.device) for name in args.models]
    hardware = f"{processor()}, {torch.get_num_threads()} threads, torch {torch.__version__}"
    print(f"{hardware}\n\n| model | computing a second of sound | stages | peak memory |")
    print("|---|---|---|---|")
    for row in rows:
        stages = ", ".join(f"{k} {v}" for k, v in row["stages_per_sound"].items())
        print(
            f"| {row['model']} ({row['device']}, {row['precision']}) "
            f"| {row['computing_per_sound']} s | {stages} | {row['peak_memory_gb']} GB |"
        )
    if args.json:
        report = {"date": time.strftime("%Y-%m-%d"), "hardware": hardware, "rows": rows}
        args.json.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

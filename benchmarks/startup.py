"""How quickly things begin, and what memory a model takes: `python -m benchmarks.startup`.

Each figure is of a process of its own, the best of some. The published shape "small" has random
weights, written in our own layout first, as a download is after its conversion; all files are in
the disk's cache then.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

from benchmarks.machine import conditions
from benchmarks.models import CONFIGS, random_cascade

IMPORT = """
import time, torch
started = time.perf_counter()
from bark_core import load
print(time.perf_counter() - started)
"""
LOAD = """
import sys, time
from bark_core import load
started = time.perf_counter()
load(sys.argv[1], device="cpu", precision=sys.argv[2])
print(time.perf_counter() - started)
"""
# what is resident, without pages of files: weights are mapped, and count only where they were read
MEMORY = """
import gc, sys, resource
from pathlib import Path
import bark_core
from bark_core import GenerationRequest, SemanticParams, Settings, load
from benchmarks.models import TEXT, random_voice

def now():
    told = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return [int(told[key].split()[0]) / 1e6 for key in ("RssAnon", "RssFile", "VmHWM")]

bare = now()
cascade = load(sys.argv[1], device="cpu", precision=sys.argv[2])
semantic = SemanticParams(allow_early_stop=False, max_duration_s=float(sys.argv[3]))
voice = random_voice(cascade.config.layout)
cascade.generate(GenerationRequest(TEXT, voice, 1, Settings(semantic=semantic)))
print([bare, now()])
"""


def run(code: str, *arguments: str) -> str:
    """What a program prints in a process of its own."""
    command = [sys.executable, "-c", code, *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def seconds(code: str, *arguments: str, times: int = 3) -> float:
    """The best of some runs of a program that prints how long something took."""
    return round(min(float(run(code, *arguments)) for _ in range(times)), 2)


def page_ready() -> float:
    """From the start of the program to the page's first answer."""
    port = "7971"
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        command = [sys.executable, "app.py", "--port", port, "--data", folder, "--no-open"]
        studio = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            while True:
                with contextlib.suppress(urllib.error.URLError, ConnectionError):
                    urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=5).read()
                    return round(time.perf_counter() - started, 2)
                assert studio.poll() is None, "the studio ended before its page was there"
                time.sleep(0.02)
        finally:
            studio.terminate()
            studio.wait(30)


def memory(model: str, precision: str, sound_s: float) -> dict[str, float]:
    """GB that a process has before a model is loaded, and at most, after some sound."""
    bare, after = json.loads(run(MEMORY, model, precision, str(sound_s)))
    weights = sum(file.stat().st_size for file in Path(model).glob("*.safetensors")) / 1e9
    return {
        "bare_gb": round(bare[0] + bare[1], 2),
        "peak_gb": round(after[2], 2),
        "weights_gb": round(weights, 2),
        "times_the_weights": round((after[2] - bare[0] - bare[1]) / weights, 2),
    }


def write_random(name: str, folder: Path) -> Path:
    """A published shape with random weights, in our own layout."""
    from bark_core.formats import write_model

    cascade = random_cascade(CONFIGS[name], "cpu", "float32")
    stages = {
        "semantic": cascade.text,
        "coarse": cascade.coarse,
        "fine": cascade.fine,
        "codec": cascade.codec,
    }

    def read_stage(stage: str) -> Any:
        state = stages[stage].state_dict()
        if stage == "fine":  # kept once, as heads
            n_heads = cascade.config.fine.n_codes_total - cascade.config.fine.n_codes_given
            for i in range(n_heads):
                del state[f"transformer.wtes.{i + 1}.weight"]
        return state

    write_model(
        folder / name,
        config=cascade.config,
        tokenizer=cascade.tokenizer,
        read_stage=read_stage,
        precision="float32",
    )
    return folder / name


def measure(models: list[str], folder: Path, sound_s: float) -> dict[str, Any]:
    """All figures."""
    report: dict[str, Any] = {
        "import_beyond_torch_s": seconds(IMPORT),
        "page_ready_s": min(page_ready() for _ in range(2)),
        "models": {},
    }
    for name in models:
        source = str(write_random(name, folder)) if name in CONFIGS else name
        place = source if name in CONFIGS else str(Path("models") / name)
        report["models"][name] = {"load_s": seconds(LOAD, source, "float32")} | {
            precision: memory(place, precision, sound_s) for precision in ("float32", "int8")
        }
    return report


def main() -> None:
    """Measure and print; --json writes the figures."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("models", nargs="*", default=["pup", "small"])
    parser.add_argument("--seconds", type=float, default=1.0, help="of sound, to see the memory")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        report = conditions() | measure(args.models, Path(folder), args.seconds)
    text = json.dumps(report, indent=1)
    print(text)
    if args.json:
        args.json.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

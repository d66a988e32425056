"""`python -m training all`: from nothing to the shipped model, step by step.

Each step is a process of its own and can be taken up again: what is finished is left as it is,
what was stopped goes on from its last checkpoint. On a CPU the parts are trained one after the
other, each for its share of `--minutes`; on a GPU side by side, each for all of them.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from training import data
from training.evaluate import CODECS

SHARES = {"fine": 0.10, "decoder": 0.24, "coarse": 0.36, "semantic": 0.24, "recogniser": 0.06}
"""Of the minutes, for what is trained; rendering and evaluation come on top.

The fine stage comes first: the decoder also learns from its codes.
"""

SYSTEMS = ("teacher", *CODECS, "pup")
MINUTES = 420.0
ROUNDS = 3  # of evaluation: a hundred sentences alone are uncertain by a word in a hundred

# the least of each set that has something to train on behind its shards for validation
REHEARSED_TEXTS = {"sound": 200, "codes": 200, "pairs": 300}
REHEARSED_MINUTES = 6.0
REHEARSED_SENTENCES = 7
REHEARSED_SECONDS = 2.0  # what has learnt for minutes doesn't end by itself


@dataclass(frozen=True, slots=True)
class Step:
    """A command of `python -m training` with its arguments."""

    name: str
    arguments: tuple[str, ...]


def steps(args: argparse.Namespace) -> Iterator[tuple[Step, ...]]:
    """All steps in order; those of one group run at the same time."""
    args = rehearsed(args) if args.rehearse else args
    work = ("--work", str(args.work))
    jobs = ("--jobs", str(args.jobs), "--device", args.device)
    texts = tuple(word for name, n in args.texts.items() for word in (f"--{name}", str(n)))
    yield (Step("data", (*work, *jobs, *texts, "--only", "sound")),)
    yield (Step("codec", work),)
    yield (Step("data", (*work, *jobs, *texts, "--only", "codes", "pairs")),)
    yield from training_steps(args)
    where = (*work, "--model", str(args.model), "--voices", str(args.voices))
    yield (Step("export", where),)
    how_many = ("--n", str(args.sentences), "--rounds", str(args.rounds))
    yield (Step("evaluate", (*where, *how_many, "--systems", *SYSTEMS)),)
    yield (Step("behaviour", (*where, *args.behaviour)),)
    yield (Step("card", (*work, "--model", str(args.model))),)
    yield (Step("sounds", (*where, "--target", str(args.docs))),)


def rehearsed(args: argparse.Namespace) -> argparse.Namespace:
    """Every step, in little: nothing comes of it but that all of them fit together."""
    little = {
        "model": args.work / "model",
        "voices": args.work / "voices",
        "docs": args.work / "docs",
        "texts": REHEARSED_TEXTS,
        "sentences": REHEARSED_SENTENCES,
        "rounds": 1,
        "behaviour": ("--longest", str(REHEARSED_SECONDS)),
        "minutes": min(args.minutes, REHEARSED_MINUTES),
    }
    return argparse.Namespace(**{**vars(args), **little})


def training_steps(args: argparse.Namespace) -> Iterator[tuple[Step, ...]]:
    """One group on a GPU, a group for each part on a CPU."""
    common = ("--work", str(args.work), "--device", args.device)
    if args.device.startswith("cuda"):
        minutes = (
            "--minutes",
            f"{args.minutes:.1f}",
            "--save-minutes",
            "1",
            "--check-minutes",
            "0.5",
        )
        yield tuple(Step(name, (*common, *minutes)) for name in SHARES)
        return
    threads = ("--threads", str(args.jobs))
    for name, share in SHARES.items():
        yield (Step(name, (*common, *threads, "--minutes", f"{args.minutes * share:.1f}")),)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `python -m training all`."""
    parser.add_argument("--work", type=Path, default=data.DEFAULT_WORK)
    parser.add_argument("--model", type=Path, default=data.ROOT / "models" / "pup")
    parser.add_argument("--voices", type=Path, default=data.ROOT / "presets" / "voices")
    parser.add_argument("--docs", type=Path, default=data.ROOT / "docs")
    parser.add_argument("--minutes", type=float, default=MINUTES, help="of training, in all")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--jobs", type=int, default=2, help="processes or threads")
    parser.add_argument(
        "--rehearse",
        action="store_true",
        help="every step in little, within half an hour, into the work folder only",
    )
    parser.set_defaults(texts={}, sentences=100, rounds=ROUNDS, behaviour=())


def main(args: argparse.Namespace) -> None:
    """Run every step that isn't finished.

    A step leaves NN-NAME.done in the work folder; remove it to run that step once more.
    """
    args.work.mkdir(parents=True, exist_ok=True)
    for number, group in enumerate(steps(args), 1):
        waiting = [(step, args.work / f"{number:02d}-{step.name}.done") for step in group]
        running = []
        for step, done in waiting:
            if done.exists():
                print(f"{number}. {step.name}: done before", flush=True)
                continue
            print(f"{number}. {step.name} {' '.join(step.arguments)}", flush=True)
            command = [sys.executable, "-m", "training", step.name, *step.arguments]
            running.append((subprocess.Popen(command), command, done))
        finish(running)


def finish(running: list[tuple[subprocess.Popen[bytes], list[str], Path]]) -> None:
    """Wait for processes and note which are done.

    Raises:
        subprocess.CalledProcessError: one of them failed; the others went on to their end.
    """
    failed: subprocess.CalledProcessError | None = None
    for process, command, done in running:
        if process.wait() == 0:
            done.touch()
        else:
            failed = subprocess.CalledProcessError(process.returncode, command)
    if failed is not None:
        raise failed

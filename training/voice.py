"""`python -m training voice`: make sound and codes of what `data --device later` has performed.

Analysing texts takes processors and making the sound takes a GPU; this is for when the two aren't
free at the same time. Several of these may run side by side, each on its part.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import torch

from training import data

WAIT_S = 0.3


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `python -m training voice`."""
    parser.add_argument("--work", type=Path, default=data.DEFAULT_WORK)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--part", type=int, nargs=2, default=(0, 1), help="which of how many")
    parser.add_argument("--until", type=float, help="wait for more until then, Unix seconds")


def main(args: argparse.Namespace) -> None:
    """Turn score files into shards, those of "sound" first; what is done is removed."""
    torch.set_num_threads(1)
    data.load_voices()
    part, parts = args.part
    while True:
        found = [
            (name, path)
            for name in ("sound", "codes")
            for path in data.shards(args.work / data.SCORES, name)
            if int(path.stem) % parts == part
        ]
        if not found:
            if args.until is None or time.time() > args.until:
                return
            time.sleep(WAIT_S)
        for name, path in found:
            performed = data.read_scores(path)
            data.write_shard(args.work, name, int(path.stem), performed, args.device)
            path.unlink()
            print(f"{name}: shard {int(path.stem)}", flush=True)

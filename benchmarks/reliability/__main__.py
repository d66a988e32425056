"""Run what goes wrong on purpose, in its full length, and keep the figures.

    python -m benchmarks.reliability                    # the list
    python -m benchmarks.reliability all                # everything, some hours
    python -m benchmarks.reliability kills --n 50       # one of them, shorter

A module of this package with `N`, its full length, and `measure(n) -> Result` is one of them;
the first line of its docstring is what the list says. Figures go to benchmarks/reliability.json;
docs/reliability.md tells of them. Exit code 1: a law was broken.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import pkgutil
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import benchmarks.reliability as package
from bark_core.processor import name as processor
from benchmarks.reliability.result import Result

FIGURES = Path(__file__).resolve().parent.parent / "reliability.json"


def subjects() -> dict[str, Any]:
    """The modules that can be run, by name."""
    names = sorted(module.name for module in pkgutil.iter_modules(package.__path__))
    modules = {n: importlib.import_module(f"{package.__name__}.{n}") for n in names if n[0] != "_"}
    return {name: module for name, module in modules.items() if hasattr(module, "measure")}


def main(argv: Sequence[str] | None = None) -> int:
    """Run some; returns the exit code."""
    found = subjects()
    parser = argparse.ArgumentParser(prog="python -m benchmarks.reliability")
    parser.add_argument("name", nargs="?", choices=[*found, "all"])
    parser.add_argument("--n", type=int, help="how many (default: the full length)")
    parser.add_argument("--json", type=Path, default=FIGURES, help="where the figures go")
    args = parser.parse_args(argv)
    if args.name is None:
        for name, module in found.items():
            print(f"{name:14} {module.N:>7,}  {module.__doc__.splitlines()[0]}")
        return 0
    names = list(found) if args.name == "all" else [args.name]
    held = [_run(name, found[name], args.n, args.json) for name in names]
    return 0 if all(held) else 1


def _run(name: str, module: Any, n: int | None, file: Path) -> bool:
    n = module.N if n is None else n
    started, load_before = time.monotonic(), _load()
    result: Result = module.measure(n)
    told = {
        "n": n,
        "broken": len(result.broken),
        **result.figures,
        "took_s": round(time.monotonic() - started, 1),
        "load_before": load_before,  # of the machine, a minute's average: what else it did
        "load_after": _load(),
        "threads": os.environ.get("OMP_NUM_THREADS", "all"),  # of each process
        "processor": processor(),
        "day": time.strftime("%Y-%m-%d"),
    }
    print(json.dumps({name: told}, indent=1))
    for line in result.broken[:20]:
        print(f"BROKEN: {line}", file=sys.stderr)
    figures = json.loads(file.read_text()) if file.is_file() else {}
    file.write_text(json.dumps({**figures, name: told}, indent=1, sort_keys=True) + "\n")
    return not result.broken


def _load() -> float | None:
    return round(os.getloadavg()[0], 1) if hasattr(os, "getloadavg") else None


if __name__ == "__main__":
    sys.exit(main())

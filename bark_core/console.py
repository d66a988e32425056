"""What all commands share: what they print and where, and the options that all of them have."""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from bark_core.errors import BarkError
from bark_core.hub import DownloadProgress
from bark_core.placement import PRECISIONS

_PROGRESS_EVERY_S = 0.1


class Console:
    """Standard output and standard error, as lines for people or as JSON."""

    def __init__(self, *, as_json: bool, quiet: bool) -> None:
        self.as_json = as_json
        self.quiet = quiet
        self._shows_progress = sys.stderr.isatty() and not (as_json or quiet)
        self._shown = 0  # characters of the progress line
        self._next_at = 0.0

    def progress(self, text: str, *, last: bool = False) -> None:
        """Replace the progress line."""
        now = time.monotonic()
        if self._shows_progress and (last or now >= self._next_at):
            self._next_at = now + _PROGRESS_EVERY_S
            text = text[: _terminal_width() - 1]
            print(f"\r{text:<{self._shown}}", end="", file=sys.stderr, flush=True)
            self._shown = len(text)

    def clear(self) -> None:
        """Remove the progress line."""
        if self._shown:
            print(f"\r{'':<{self._shown}}\r", end="", file=sys.stderr, flush=True)
            self._shown = 0

    def result(self, data: Any, lines: Iterable[str]) -> None:
        """What a command made: `data` as JSON, or the lines."""
        self.clear()
        if self.as_json:
            print(json.dumps(data, allow_nan=False))
        elif not self.quiet:
            for line in lines:
                print(line)

    def remark(self, lines: Iterable[str]) -> None:
        """What a command has to say beside what it made, which standard output is full of."""
        self.clear()
        if not self.quiet:
            for line in lines:
                print(line, file=sys.stderr)

    def error(self, error: BarkError) -> None:
        """What went wrong, on one line."""
        self.clear()
        message = " ".join(str(error).split())
        if self.as_json:
            told = {"error": {"kind": type(error).__name__, "message": message}}
            print(json.dumps(told), file=sys.stderr)
        else:
            print(f"error: {message}", file=sys.stderr)

    def download(self, step: DownloadProgress) -> None:
        """Progress of getting a model ready."""
        done, total = step.done_bytes / 1e6, step.total_bytes / 1e6
        self.progress(f"{step.step} {step.file}: {done:,.0f} of {total:,.0f} MB")


Command = Callable[[argparse.Namespace, Console], None]


def add_command(
    commands: Any, name: str, command: Command, summary: str, **more: Any
) -> argparse.ArgumentParser:
    """A command with the options that all of them have."""
    parser: argparse.ArgumentParser = commands.add_parser(
        name, help=summary, description=f"{summary[0].upper()}{summary[1:]}.", allow_abbrev=False
    )
    parser.set_defaults(command=command)
    common = parser.add_argument_group("everywhere")
    common.add_argument("--json", action="store_true", help="print JSON instead of lines")
    common.add_argument("--quiet", action="store_true", help="print nothing but errors")
    common.add_argument("--offline", action="store_true", help="never use the network")
    common.add_argument("--cache-dir", metavar="DIR", help="downloaded and converted models")
    common.add_argument("--voices-dir", metavar="DIR", help="your own voices")
    return parser


def table(rows: Sequence[Sequence[str]]) -> list[str]:
    """Columns that stand under each other; the last one is as long as it likes."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(f"{c:<{w}}" for c, w in zip(row, widths, strict=True)).rstrip() for row in rows
    ]


def _terminal_width() -> int:
    try:
        return os.get_terminal_size(sys.stderr.fileno()).columns or 80
    except (OSError, ValueError):
        return 80


def add_place(command: Any) -> None:
    """Add `--device` and `--precision` to a command or a group of its options."""
    command.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, mps")
    command.add_argument(
        "--precision",
        choices=("auto", *PRECISIONS),
        default="auto",
        help="auto: bfloat16 or float16 on a GPU, float32 elsewhere; close, not the same: int8 "
        "(weights, on a CPU or a GPU), bfloat16-kv8 (keys and values in 8 bits, on a GPU)",
    )

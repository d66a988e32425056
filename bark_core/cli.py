"""The command line: `python -m bark_core say | voices | models`.

What a command made goes to standard output, as lines or with --json as JSON; progress and errors
go to standard error. Torch is imported by what computes, so lists and help are there at once. Exit
codes:

    0    fine                     4    the model: unknown, damaged, files missing, no network
    2    wrong usage              5    storage: full disk, no permission
    3    wrong request or voice   6    it couldn't be generated: no memory, nothing to hear
    130  interrupted              1    a bug, with its traceback
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import warnings
from collections.abc import Sequence
from types import FrameType
from typing import Any

from bark_core import __version__
from bark_core.cli_models import add_models
from bark_core.cli_say import add_say
from bark_core.cli_script import add_script
from bark_core.cli_voices import add_voices
from bark_core.console import Console
from bark_core.errors import (
    BarkError,
    Cancelled,
    InvalidRequest,
    ModelError,
    StorageError,
    VoiceError,
)

_EXIT_CODES: tuple[tuple[type[BarkError], int], ...] = (
    (InvalidRequest, 3),
    (VoiceError, 3),
    (ModelError, 4),
    (StorageError, 5),
    (Cancelled, 130),
    (BarkError, 6),
)
_INTERRUPTED = 130


def run() -> int:
    """What `python -m bark_core` does: `main` for a process of its own."""
    for stream in (sys.stdout, sys.stderr):
        # a terminal that can't show a voice's name shows its code points instead
        stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    warnings.showwarning = _show_warning
    # so that a `kill` cleans up as Ctrl+C does
    signal.signal(signal.SIGTERM, _terminate)
    try:
        code = main()
        sys.stdout.flush()
    except BrokenPipeError:
        # whoever read our output has seen enough; keep the exit from flushing into it again
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    return code


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    try:
        args = _parser().parse_args(argv)
    except SystemExit as end:  # argparse has said what is wrong, or shown its help
        return int(end.code or 0)
    console = Console(as_json=args.json, quiet=args.quiet)
    try:
        args.command(args, console)
    except BarkError as error:
        console.error(error)
        return next(code for kind, code in _EXIT_CODES if isinstance(error, kind))
    except KeyboardInterrupt:
        console.error(Cancelled("interrupted; what was not finished was not written"))
        return _INTERRUPTED
    return 0


# --- arguments -------------------------------------------------------------------------------


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m bark_core",
        description="Text to speech, music and noises with Bark.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"Bark Studio {__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    add_say(commands)
    add_script(commands)
    add_voices(commands)
    add_models(commands)
    return parser


# --- the terminal ----------------------------------------------------------------------------


def _show_warning(message: Warning | str, *_more: Any, **_options: Any) -> None:
    print(f"warning: {' '.join(str(message).split())}", file=sys.stderr)


def _terminate(_signal: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt

"""What the command lines that look after a studio share: its folder, errors, exit codes."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence

from bark_core import BarkError, StorageError
from webui.settings import default_data_folder

Work = Callable[[argparse.Namespace], int | None]


def run_command(parser: argparse.ArgumentParser, argv: Sequence[str] | None, work: Work) -> int:
    """Read a command and do its work; returns the exit code.

    Args:
        parser: with `--data`, which is the studio's folder when `work` gets it.
        work: returns an exit code, None is 0. What it makes nobody else can read.
    """
    try:
        args = parser.parse_args(argv)
    except SystemExit as end:  # argparse has said what is wrong, or shown its help
        return int(end.code or 0)
    os.umask(0o077)
    args.data = default_data_folder() if args.data is None else args.data.expanduser().resolve()
    try:
        code = work(args) or 0
        sys.stdout.flush()
    except BrokenPipeError:
        # whoever read our output has seen enough; keep the exit from flushing into it again
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except BarkError as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 5 if isinstance(error, StorageError) else 3
    except (KeyboardInterrupt, EOFError):
        print("Nothing was changed.", file=sys.stderr)
        return 130
    return code

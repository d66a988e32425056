"""The command line of the audit log: `python -m webui audit`.

Exit codes: 0 fine, 1 the log was changed, 2 wrong usage, 5 it can't be read.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from webui.audit import AuditLog
from webui.command_line import run_command


def main(argv: Sequence[str] | None = None) -> int:
    """Show, search or check the log; returns the exit code."""
    return run_command(parser(), argv, _work)


def _work(args: argparse.Namespace) -> int:
    log = AuditLog.open(args.data)
    if args.check:
        return _check(log)
    wanted = None if args.text is None else log.hash_of(args.text)
    for line in log.lines():
        if args.owner not in (None, line.get("who")):
            continue
        if wanted is None or line.get("text") == wanted:
            print(json.dumps(line, ensure_ascii=False) if args.json else _line(line))
    return 0


def _check(log: AuditLog) -> int:
    broken = log.first_break()
    if broken is None:
        print("The log is whole: no line was changed, and none taken out.")
        return 0
    print(f"Line {broken} doesn't follow from what stands before it.", file=sys.stderr)
    return 1


def _line(line: dict[str, Any]) -> str:
    known = ("at", "who", "what", "before")
    facts = " ".join(f"{name}={value}" for name, value in line.items() if name not in known)
    return f"{line.get('at')}  {line.get('who') or '-'}  {line.get('what')}  {facts}".rstrip()


def parser() -> argparse.ArgumentParser:
    """Of `audit`, and of nothing else."""
    made = argparse.ArgumentParser(
        prog="python -m webui audit",
        description="Who did what when, as the studio noted it: ids and hashes, never words.",
    )
    made.add_argument("--data", type=Path, metavar="DIR", help="the studio's data folder")
    made.add_argument("--owner", metavar="NAME", help="of one person alone")
    made.add_argument("--text", metavar="TEXT", help="where exactly this text was said")
    made.add_argument("--json", action="store_true", help="a line of JSON each")
    made.add_argument(
        "--check", action="store_true", help="whether a line was changed or taken out"
    )
    return made

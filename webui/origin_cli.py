"""Was a file made here, and the key that files are signed with.

    python -m webui origin FILE...
    python -m webui signing-key make | show

Works on the data folder itself, also while a studio runs on it. Exit codes:

    0    fine                    3    not a sound that can be read, or a package is missing
    2    wrong usage             5    storage: no such folder, no permission, full disk
"""

from __future__ import annotations

import argparse
import contextlib
import json
from collections.abc import Sequence
from pathlib import Path

from bark_core import StorageError, Watermark, load_signing_key, make_signing_key
from webui.command_line import run_command
from webui.history import History
from webui.made_here import MadeHere
from webui.settings import StudioSettings, signing_folder
from webui.studio import host_key, watermark_folder


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    return run_command(parser(), argv, _work)


def _work(args: argparse.Namespace) -> None:
    args.run(args)


def _origin(args: argparse.Namespace) -> None:
    if not (args.data / "history.sqlite3").is_file():
        raise StorageError(
            f"there is no history in {args.data}; name the studio's own folder with --data"
        )
    settings = StudioSettings(data=args.data, cache=args.cache_dir)
    detector = Watermark.load(watermark_folder(settings)) if args.watermark else None
    with contextlib.closing(History.open(args.data, mend=False)) as history:
        made_here = MadeHere(history, own=host_key(settings), watermark=detector)
        verdicts = {path: made_here.examine(path, owner=args.owner) for path in args.files}
    if args.json:
        told = [{"path": str(path), **verdict.to_json()} for path, verdict in verdicts.items()]
        print(json.dumps(told, ensure_ascii=False))
        return
    for path, verdict in verdicts.items():
        print(f"{path}:")
        for line in verdict.lines():
            print(f"  {line}")


def _make_key(args: argparse.Namespace) -> None:
    key = make_signing_key(signing_folder(args.data), name=args.name)
    print(f"made {signing_folder(args.data)}; keep a copy of it elsewhere, and show it to nobody")
    print(f"SHA-256 of its certificate: {key.fingerprint}")


def _show_key(args: argparse.Namespace) -> None:
    key = load_signing_key(signing_folder(args.data))
    print(f"SHA-256 of its certificate: {key.fingerprint}")
    print(key.certificates, end="")


def parser() -> argparse.ArgumentParser:
    """All commands and their options."""
    whole = argparse.ArgumentParser(prog="python -m webui", description="Where sounds come from.")
    commands = whole.add_subparsers(metavar="COMMAND", required=True)
    origin = commands.add_parser("origin", help="was this made here?", allow_abbrev=False)
    origin.add_argument("files", nargs="+", type=Path, metavar="FILE")
    origin.add_argument(
        "--owner", default="", metavar="NAME", help="where people sign in: who asks"
    )
    origin.add_argument("--watermark", action="store_true", help="look for AudioSeal's mark too")
    origin.add_argument("--cache-dir", type=Path, metavar="DIR", help="where models are kept")
    origin.add_argument("--json", action="store_true", help="JSON to standard output")
    origin.set_defaults(run=_origin)
    keys = commands.add_parser("signing-key", help="the key that files are signed with")
    kinds = keys.add_subparsers(metavar="COMMAND", required=True)
    make = kinds.add_parser("make", help="make one; the studio does so with --sign, too")
    make.add_argument("--name", default="Bark Studio host", help="of the host; stands in each file")
    make.set_defaults(run=_make_key)
    show = kinds.add_parser("show", help="its certificates, for others to tell your files by")
    show.set_defaults(run=_show_key)
    for command in (origin, make, show):
        command.add_argument("--data", type=Path, metavar="DIR", help="of the studio")
    return whole

"""The command line of the history: `python -m webui history COMMAND`.

Works on the data folder itself, also while a studio runs on it. What a command found or did goes
to standard output, as lines or with --json as JSON; errors go to standard error. Exit codes:

    0    fine                    5    storage: no such folder, full disk, no permission
    2    wrong usage             130  interrupted
    3    no such take or tag     1    a bug, with its traceback
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import datetime
import json
import os
import secrets
import sqlite3
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import platformdirs

from bark_core import BarkError, InvalidRequest, StorageError
from webui.history import SCRIPT, SPEECH, Entry, Filters, History

MIN_PREFIX = 4
MAX_ROWS = 10**9  # more than anybody has, and SQLite counts so far
FORMATS = ("flac", "wav", "mp3", "opus")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    for stream in (sys.stdout, sys.stderr):
        # a terminal that can't show some words shows their code points instead
        with contextlib.suppress(AttributeError):
            stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    try:
        args = parser().parse_args(argv)
    except SystemExit as end:  # argparse has said what is wrong, or shown its help
        return int(end.code or 0)
    try:
        with contextlib.closing(_opened(args)) as history:
            args.run(args, history)
        sys.stdout.flush()
    except BrokenPipeError:
        # whoever read our output has seen enough; keep the exit from flushing into it again
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except BarkError as error:
        _complain(args, error)
        return 5 if isinstance(error, StorageError) else 3
    except sqlite3.Error as error:
        why = f"the index of the history can't be used: {error}; check the folder, and try again"
        _complain(args, StorageError(why))
        return 5
    except KeyboardInterrupt:
        return 130
    return 0


# --- looking


def _list(args: argparse.Namespace, history: History) -> None:
    if getattr(args, "bin", False):
        _list_bin(args, history)
        return
    words, filters = " ".join(getattr(args, "words", ())), _filters(args)
    entries = history.search(
        words, owner=args.owner, limit=args.limit, offset=args.offset, **filters
    )
    _say_list(args, entries, total=history.count(words, owner=args.owner, **filters))


def _list_bin(args: argparse.Namespace, history: History) -> None:
    if _filters(args):
        raise InvalidRequest("the bin is listed whole; leave the filters away")
    binned = history.trashed(owner=args.owner)
    entries = binned[args.offset :][: args.limit]
    _say_list(args, entries, total=len(binned))


def _show(args: argparse.Namespace, history: History) -> None:
    (entry_id,) = _resolved(history, [args.id], args.owner)
    entry = _entry(history, entry_id, args.owner)
    paths = {
        "sound": history.sound_path(entry.id),
        "tokens": history.voice_path(entry.id),
        "sidecar": history.sidecar_path(entry.id),
    }
    files = {kind: str(path) for kind, path in paths.items() if path.exists()}
    details = json.dumps(entry.details, ensure_ascii=False, indent=2)
    lines = [_line(entry), *(f"{kind}: {path}" for kind, path in files.items()), details]
    _say(args, {**_brief(entry), "files": files, "details": dict(entry.details)}, lines)


# --- changing


def _tag(args: argparse.Namespace, history: History) -> None:
    ids = _resolved(history, args.ids, args.owner)
    if not args.add and not args.remove:
        raise InvalidRequest("there is no tag to add or to remove; give --add or --remove")
    history.tag(ids, add=args.add, remove=args.remove, owner=args.owner)
    _tell_changed(args, history, ids)


def _favourite(args: argparse.Namespace, history: History) -> None:
    ids = _resolved(history, args.ids, args.owner)
    history.set_favourites(ids, not args.off, owner=args.owner)
    _tell_changed(args, history, ids)


def _delete(args: argparse.Namespace, history: History) -> None:
    ids = _resolved(history, args.ids, args.owner)
    if args.for_good:
        n_gone = sum(history.delete(entry_id, owner=args.owner) for entry_id in ids)
        _say(args, {"deleted": n_gone}, [f"{n_gone} deleted for good"])
        return
    n_gone = history.trash(ids, owner=args.owner)
    _say(args, {"trashed": n_gone, "ids": ids}, [f"{n_gone} in the bin; restore brings them back"])


def _restore(args: argparse.Namespace, history: History) -> None:
    binned = [entry.id for entry in history.trashed(owner=args.owner)]
    unknown = "no take {} is in the bin; `list --bin` tells the ids"
    ids = [_match(binned, name, unknown) for name in args.ids] if args.ids else binned
    n_back = history.restore(ids, owner=args.owner)
    _say(args, {"restored": n_back}, [f"{n_back} restored"])


def _empty_bin(args: argparse.Namespace, history: History) -> None:
    n_bytes = history.usage(args.owner).trashed_bytes
    n_gone = history.empty_bin(owner=args.owner)
    told = {"deleted": n_gone, "bytes": n_bytes}
    _say(args, told, [f"{n_gone} deleted for good, {n_bytes / 1e6:.1f} MB freed"])


def _rescan(args: argparse.Namespace, history: History) -> None:
    found = history.rescan()
    line = (
        f"{_takes(found.n_entries)}; {found.n_found} found again, {found.n_changed} changed, "
        f"{found.n_missing} without their sound, {found.n_damaged} damaged"
    )
    _say(args, dataclasses.asdict(found), [line])


# --- taking away


def _export(args: argparse.Namespace, history: History) -> None:
    # gradio comes with it, which takes a second or two
    from webui.exports import Encoder, checked_export, settings_table, zipped

    filters = _filters(args)
    if args.ids and (args.words or filters):
        raise InvalidRequest("ids and filters are both given; give one of the two")
    if args.ids:
        ids = _resolved(history, args.ids, args.owner)
    else:
        ids = history.ids(" ".join(args.words), owner=args.owner, **filters)
    if not ids:
        raise InvalidRequest("no take fits; give other filters, or none for all")
    entries = checked_export(history, ids, owner=args.owner, suffix=args.format)
    output = Path(args.output).expanduser()
    if output.suffix.lower() == ".csv":
        pieces: Iterable[bytes] = [settings_table(entries, {}).encode("utf-8-sig")]
    elif output.suffix.lower() == ".zip":
        found = [entry.id for entry in entries]
        encoder = Encoder(history)
        pieces = zipped(history, encoder, found, owner=args.owner, suffix=args.format)
    else:
        raise InvalidRequest(f"can't write {output.name!r}; name a .zip or a .csv file")
    _write(output, pieces)
    n_bytes = output.stat().st_size
    told = {"file": str(output), "entries": len(entries), "bytes": n_bytes}
    _say(args, told, [f"{output}: {_takes(len(entries))}, {n_bytes / 1e6:.1f} MB"])


def _write(path: Path, pieces: Iterable[bytes]) -> None:
    """Write a file piece by piece, whole or not at all."""
    temporary = path.with_name(f".{path.stem[:32]}.{secrets.token_hex(6)}.partial")
    try:
        with temporary.open("wb") as file:
            for piece in pieces:
                file.write(piece)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        reason = error.strerror or error
        raise StorageError(f"can't write {path}: {reason}; choose another file") from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


# --- the parts of it


def _opened(args: argparse.Namespace) -> History:
    """The store, left to the studio that may run on it. Raises StorageError."""
    default = platformdirs.user_data_path("bark-studio", appauthor=False)
    folder = Path(args.data).expanduser().resolve() if args.data else default
    if not (folder / "history.sqlite3").is_file():
        raise StorageError(
            f"there is no history in {folder}; name the studio's own folder with --data"
        )
    return History.open(folder, mend=False)


def _resolved(history: History, names: Sequence[str], owner: str) -> list[str]:
    """Ids by their beginnings. Raises InvalidRequest: none begins so, or several."""
    ids = history.ids(owner=owner)
    return list(
        dict.fromkeys(
            _match(ids, name, "there is no take {}; `list` tells the ids") for name in names
        )
    )


def _match(ids: Sequence[str], name: str, otherwise: str) -> str:
    if len(name) < MIN_PREFIX:
        raise InvalidRequest(f"{name!r} is too short; give {MIN_PREFIX} characters of the id")
    found = [entry_id for entry_id in ids if entry_id.startswith(name.lower())]
    if not found:
        raise InvalidRequest(otherwise.format(repr(name)))
    if len(found) > 1:
        raise InvalidRequest(f"{len(found)} ids begin with {name!r}; give more of it")
    return found[0]


def _entry(history: History, entry_id: str, owner: str) -> Entry:
    entry = history.get(entry_id, owner=owner)
    if entry is None:
        raise InvalidRequest(f"the take {entry_id} was deleted meanwhile; list them again")
    return entry


def _filters(args: argparse.Namespace) -> Filters:
    filters: Filters = {}
    if args.voice is not None:
        filters["voice"] = args.voice
    if args.model is not None:
        filters["model"] = args.model
    if args.tag is not None:
        filters["tag"] = args.tag
    if args.kind is not None:
        filters["kind"] = args.kind
    if args.favourites:
        filters["favourite"] = True
    return filters


def _brief(entry: Entry) -> dict[str, Any]:
    """What a list tells of an entry, as JSON."""
    return {
        "id": entry.id,
        "created_at": entry.created_at,
        "text": entry.text,
        "kind": entry.kind,
        "voice": entry.voice_name,
        "model": entry.model_name,
        "seed": entry.seed,
        "duration_s": round(entry.duration_s, 3),
        "complete": entry.complete,
        "favourite": entry.favourite,
        "tags": list(entry.tags),
        "group": entry.group,
        "bytes": entry.n_bytes,
    }


def _line(entry: Entry) -> str:
    made = datetime.datetime.fromtimestamp(entry.created_at).strftime("%Y-%m-%d %H:%M")
    words = " ".join(entry.text.split())
    words = words if len(words) <= 60 else f"{words[:59]}…"
    voice = ", ".join(entry.voice_names) or "-"
    marks = "".join(["*" if entry.favourite else "", "" if entry.complete else "…"]) or "-"
    tags = f"  [{', '.join(entry.tags)}]" if entry.tags else ""
    return f"{entry.id[:12]}  {made}  {entry.duration_s:6.1f} s  {marks:<2}  {voice}  {words}{tags}"


def _takes(n: int) -> str:
    return "1 take" if n == 1 else f"{n} takes"


def _tell_changed(args: argparse.Namespace, history: History, ids: Sequence[str]) -> None:
    entries = [_entry(history, entry_id, args.owner) for entry_id in ids]
    _say(args, {"entries": [_brief(entry) for entry in entries]}, map(_line, entries))


def _say_list(args: argparse.Namespace, entries: Sequence[Entry], *, total: int) -> None:
    more = [] if args.offset + len(entries) >= total else [f"{total} in all; --limit shows more"]
    told = {"total": total, "entries": [_brief(entry) for entry in entries]}
    _say(args, told, [*map(_line, entries), *more])


def _say(args: argparse.Namespace, data: Any, lines: Iterable[str]) -> None:
    if args.json:
        print(json.dumps(data, ensure_ascii=False))
    elif not args.quiet:
        for line in lines:
            print(line)


def _complain(args: argparse.Namespace, error: BarkError) -> None:
    message = " ".join(str(error).split())
    if args.json:
        told = {"error": {"kind": type(error).__name__, "message": message}}
        print(json.dumps(told, ensure_ascii=False), file=sys.stderr)
    else:
        print(f"error: {message}", file=sys.stderr)


# --- options


def parser() -> argparse.ArgumentParser:
    """All commands and their options."""
    whole = argparse.ArgumentParser(
        prog="python -m webui", description=(__doc__ or "").split("\n")[0]
    )
    groups = whole.add_subparsers(metavar="COMMAND", required=True)
    group = groups.add_parser("history", help="what was made, without a page")
    commands = group.add_subparsers(metavar="COMMAND", required=True)
    _add_looking(commands)
    command = _add(commands, "tag", _tag, "give takes tags, or take tags from them")
    command.add_argument("ids", nargs="+", metavar="ID")
    command.add_argument("--add", action="append", default=[], metavar="TAG")
    command.add_argument("--remove", action="append", default=[], metavar="TAG")
    command = _add(commands, "favourite", _favourite, "make takes favourites")
    command.add_argument("ids", nargs="+", metavar="ID")
    command.add_argument("--off", action="store_true", help="no longer")
    command = _add(commands, "delete", _delete, "put takes into the bin")
    command.add_argument("ids", nargs="+", metavar="ID")
    command.add_argument("--for-good", action="store_true", help="past the bin")
    command = _add(commands, "restore", _restore, "bring takes back from the bin")
    command.add_argument("ids", nargs="*", metavar="ID", help="all of them where none is given")
    _add(commands, "empty-bin", _empty_bin, "delete for good what is in the bin")
    _add(commands, "rescan", _rescan, "rebuild the index from the files")
    return whole


def _add_looking(commands: Any) -> None:
    command = _add(commands, "list", _list, "list takes, the newest first")
    command.add_argument("--bin", action="store_true", help="what was deleted, the last first")
    _add_filters(command)
    _add_page(command)
    command = _add(commands, "search", _list, "find takes in which all words occur")
    command.add_argument("words", nargs="+", metavar="WORD", help="of text, voice, seed, tags ...")
    _add_filters(command)
    _add_page(command)
    command = _add(commands, "show", _show, "tell all that is known of a take")
    command.add_argument("id", metavar="ID", help="or its first characters, four at least")
    command = _add(commands, "export", _export, "write takes to a zip, or their settings to a .csv")
    command.add_argument("ids", nargs="*", metavar="ID", help="all that fit where none is given")
    command.add_argument("-o", "--output", required=True, metavar="FILE", help=".zip or .csv")
    command.add_argument("--format", choices=FORMATS, default="flac", help="of the sounds")
    command.add_argument("--words", nargs="+", default=[], metavar="WORD", help="as in search")
    _add_filters(command)


def _add_filters(command: argparse.ArgumentParser) -> None:
    command.add_argument("--voice", help="only of this voice; an empty one: rolled ones")
    command.add_argument("--model", help="only by this model")
    command.add_argument("--tag", help="only with this tag")
    command.add_argument("--kind", choices=(SPEECH, SCRIPT))
    command.add_argument("--favourites", action="store_true", help="only favourites")


def _add_page(command: argparse.ArgumentParser) -> None:
    command.add_argument("--limit", type=_natural, default=50, metavar="N", help="at most (50)")
    command.add_argument("--offset", type=_natural, default=0, metavar="N", help="leave out first")


def _add(
    commands: Any, name: str, run: Callable[[argparse.Namespace, History], None], summary: str
) -> argparse.ArgumentParser:
    """A command with the options that all of them have."""
    command: argparse.ArgumentParser = commands.add_parser(
        name, help=summary, description=f"{summary[0].upper()}{summary[1:]}.", allow_abbrev=False
    )
    command.set_defaults(run=run)
    common = command.add_argument_group("everywhere")
    common.add_argument("--data", metavar="DIR", help="of the studio (default: its own)")
    common.add_argument("--owner", default="", metavar="NAME", help="where people sign in: whose")
    common.add_argument("--json", action="store_true", help="JSON to standard output")
    common.add_argument("--quiet", action="store_true", help="nothing but errors")
    return command


def _natural(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"must be a whole number, 0 or more, got {text!r}")
    return min(int(text), MAX_ROWS)

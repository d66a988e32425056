"""`python -m bark_core voices`: everything that can be done with voices, without a page."""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from bark_core.audio import write_audio
from bark_core.config import TokenLayout
from bark_core.console import Console, add_command, add_place, table
from bark_core.errors import InvalidSetting, InvalidVoice, LayoutMismatch, StorageError
from bark_core.events import Finished, StageProgress
from bark_core.generation import Generation
from bark_core.models import config_in, known_models, voice_fetcher
from bark_core.request import MAX_SEED, GenerationRequest, random_seed
from bark_core.voice_catalogue import VoiceEntry
from bark_core.voice_library import VoiceLibrary
from bark_core.voices import Voice

MAX_ROLLS = 12
_SOURCES = ("bundled", "yours", "published")


def open_library(
    args: argparse.Namespace, console: Console, layouts: Iterable[TokenLayout] = ()
) -> VoiceLibrary:
    """The library that the options name.

    Args:
        layouts: of models that aren't known by a name.
    """
    fetch = voice_fetcher(args.cache_dir, progress=console.download, local_files_only=args.offline)
    folder = Path(args.voices_dir).expanduser() if args.voices_dir else None
    more = [*layouts, *([layout_of(args.model)] if getattr(args, "model", None) else [])]
    return VoiceLibrary.default(folder, fetch=fetch, layouts=lambda: more)


def is_voice_file(voice: str) -> bool:
    """Whether what was given for a voice is a file rather than a name."""
    return voice.lower().endswith(".npz")


def layout_of(model: str) -> TokenLayout:
    """The token layout of a model, without loading it."""
    for info in known_models():
        if model in (info.name, info.source):
            return info.config.layout
    return config_in(Path(model).expanduser()).layout


# --- looking


def _search(args: argparse.Namespace, console: Console) -> None:
    entries = open_library(args, console).search(
        " ".join(args.words),
        language=args.language,
        kind=args.kind,
        source=args.source,
        layout=layout_of(args.model).name if args.model else None,
    )
    rows = [
        (e.name, e.language or "", e.kind or "", e.layout, e.source, e.description or "")
        for e in entries
    ]
    console.result([asdict(entry) for entry in entries], table(rows))


def _show(args: argparse.Namespace, console: Console) -> None:
    library = open_library(args, console)
    file = Path(args.name).expanduser() if is_voice_file(args.name) else None
    voice = library[args.name] if file is None else _read(library, file)
    console.result(_told(voice), _lines(_told(voice)))


def _export(args: argparse.Namespace, console: Console) -> None:
    file = Path(args.file).expanduser()
    if file.suffix.lower() != ".npz":
        raise InvalidVoice(f"a voice is kept in an .npz file, got {str(file)!r}; end it with .npz")
    if file.exists() and not args.replace:
        raise StorageError(f"{file} is there already; choose another name, or add --replace")
    voice = open_library(args, console)[args.name]
    voice.save(file)
    console.result({"file": str(file), **_told(voice)}, [f"{file}: the voice {args.name!r}"])


# --- changing one's own


def _import(args: argparse.Namespace, console: Console) -> None:
    library = open_library(args, console)
    if args.name is not None and len(args.files) > 1:
        raise InvalidVoice("one name can't be that of several voices; leave --name out")
    # all are read before the first is kept
    voices = [_read(library, Path(file).expanduser()) for file in args.files]
    kept = []
    for voice in voices:
        name = library.free_name(voice.name) if args.name is None else args.name
        notes = {key: getattr(args, key) for key in ("description", "language", "kind")}
        given = {key: value for key, value in notes.items() if value is not None}
        kept.append(library.save(replace(voice, **given), name, replace_own=args.replace))
    lines = [f"kept as {entry.name!r}, for models of {entry.layout!r}" for entry in kept]
    console.result([asdict(entry) for entry in kept], lines)


def _rename(args: argparse.Namespace, console: Console) -> None:
    entry = open_library(args, console).rename(args.name, args.new_name)
    _told_of(console, entry, f"{args.name!r} is {entry.name!r} now")


def _describe(args: argparse.Namespace, console: Console) -> None:
    notes = {"description": args.description, "language": args.language, "kind": args.kind}
    if all(note is None for note in notes.values()):
        raise InvalidSetting(
            'nothing to write down; give --description, --language or --kind ("" clears one)'
        )
    entry = open_library(args, console).describe(args.name, **notes)
    _told_of(console, entry, f"written down for {entry.name!r}")


def _trim(args: argparse.Namespace, console: Console) -> None:
    if args.save_as is None and not args.replace:
        raise InvalidSetting(
            "a part of a voice is kept as a new one, or in place of the whole; "
            "add --as NEW, or --replace"
        )
    entry = open_library(args, console).trim(
        args.name,
        args.from_s,
        args.to_s,
        save_as=args.save_as or args.name,
        replace_own=args.replace,
    )
    length_s = args.to_s - args.from_s
    _told_of(console, entry, f"{entry.name!r} keeps {length_s:.2f} s of {args.name!r}")


def _delete(args: argparse.Namespace, console: Console) -> None:
    open_library(args, console).delete(args.name)
    line = f"deleted {args.name!r}; for a week `voices restore` brings it back"
    console.result({"deleted": args.name}, [line])


def _restore(args: argparse.Namespace, console: Console) -> None:
    entry = open_library(args, console).restore(args.name)
    _told_of(console, entry, f"{entry.name!r} is back")


# --- rolling


def _roll(args: argparse.Namespace, console: Console) -> None:
    """Say a sentence without a voice, several times; each is a sound file and a voice file."""
    if not 1 <= args.count <= MAX_ROLLS:
        raise InvalidSetting(f"--count must be within 1..{MAX_ROLLS}, got {args.count}")
    first = random_seed() if args.seed is None else args.seed
    GenerationRequest(args.text, seed=first)  # refuses a wrong one, before it is counted on
    seeds = [(first + number) % (MAX_SEED + 1) for number in range(args.count)]
    requests = [GenerationRequest(args.text, seed=seed) for seed in seeds]
    prefix = Path(args.output).expanduser()
    paths = [prefix.with_name(f"{prefix.name}-{number + 1}") for number in range(args.count)]
    _check_free(paths)

    from bark_core.checkpoint import load  # not for what is refused before
    from bark_core.engine import run

    cascade = load(
        args.model,
        device=args.device,
        precision=args.precision,
        cache_dir=args.cache_dir,
        progress=console.download,
        local_files_only=args.offline,
    )
    told = []
    for request, path in zip(requests, paths, strict=True):
        made = _generate(run(cascade, request), console)
        sound, file = path.with_name(f"{path.name}.flac"), path.with_name(f"{path.name}.npz")
        write_audio(sound, made.audio, made.metadata())
        source = f"rolled by {cascade.identity.name}, seed {request.seed}"
        replace(made.voice, name=path.name, source=source, kind="generated").save(file)
        told.append({"sound": str(sound), "voice": str(file), "seed": request.seed})
    lines = [f"{roll['sound']}, {roll['voice']}: seed {roll['seed']}" for roll in told]
    console.result(told, [*lines, "keep one with `voices import FILE --name NAME`"])


def _generate(events: Iterable[Any], console: Console) -> Generation:
    for event in events:
        match event:
            case StageProgress(stage, done, total):
                console.progress(f"{stage} {done}/{total}", last=done == total)
            case Finished(generation):
                return generation
    raise AssertionError("a run that neither fails nor is closed ends with Finished")


def _check_free(paths: Iterable[Path]) -> None:
    """Refuse before minutes are spent on what can't be written."""
    for path in paths:
        if not path.parent.is_dir():
            raise StorageError(f"there is no folder {path.parent}; make it or choose another")
        for file in (path.with_name(f"{path.name}{suffix}") for suffix in (".flac", ".npz")):
            if file.exists():
                raise StorageError(f"{file} is there already; choose another name with --output")


# --- the parts of it


def _read(library: VoiceLibrary, file: Path) -> Voice:
    try:
        return library.read(file)
    except LayoutMismatch as error:
        raise LayoutMismatch(f"{error}; say with --model for which model it is") from error


def _told(voice: Voice) -> dict[str, Any]:
    return {
        "name": voice.name,
        "description": voice.description,
        "language": voice.language,
        "source": voice.source,
        "kind": voice.kind,
        "layout": voice.layout.name,
        "duration_s": round(voice.duration_s, 3),
        "semantic_tokens": len(voice.semantic),
        "frames": voice.fine.n_frames,
        "sha256": voice.sha256,
    }


def _lines(told: dict[str, Any]) -> list[str]:
    return [f"{key}: {value}" for key, value in told.items() if value is not None]


def _told_of(console: Console, entry: VoiceEntry, line: str) -> None:
    console.result(asdict(entry), [line])


# --- arguments


def add_voices(commands: Any) -> None:
    """Add the command and its subcommands."""
    group = commands.add_parser("voices", help="list, search, make, keep and change voices")
    voices = group.add_subparsers(metavar="COMMAND", required=True)
    _add_looking(voices)
    _add_changing(voices)
    command = add_command(voices, "roll", _roll, "make up new voices")
    command.add_argument("text", metavar="TEXT", help="a sentence that each of them says")
    command.add_argument("--count", type=int, default=4, metavar="N", help=f"1 to {MAX_ROLLS} (4)")
    command.add_argument("-o", "--output", default="voice", metavar="PREFIX", help="voice-1, ...")
    command.add_argument("--seed", type=int, help="of the first; the others follow it")
    command.add_argument("--model", default="pup", help="pup, small, large, OWNER/NAME or a folder")
    add_place(command)


def _add_looking(voices: Any) -> None:
    listing = add_command(voices, "list", _search, "list voices")
    listing.set_defaults(words=[])
    finding = add_command(
        voices, "search", _search, "find voices by words of their name, description, language"
    )
    finding.add_argument("words", metavar="WORD", nargs="+")
    for command in (listing, finding):
        command.add_argument("--model", help="only those for this model")
        command.add_argument("--language", metavar="CODE", help="only those of a language, as en")
        command.add_argument("--kind", help="only those of a kind, as v2")
        command.add_argument("--source", choices=_SOURCES)
    command = add_command(voices, "show", _show, "tell what is known of a voice")
    command.add_argument("name", metavar="NAME", help="a voice's name or .npz file")
    command.add_argument("--model", help="that it was made for")
    command = add_command(voices, "export", _export, "write a voice to an .npz file")
    command.add_argument("name", metavar="NAME")
    command.add_argument("file", metavar="FILE")
    command.add_argument("--model", help="that it was made for")
    command.add_argument("--replace", action="store_true", help="overwrite the file")


def _add_changing(voices: Any) -> None:
    command = add_command(voices, "import", _import, "keep .npz files as voices of your own")
    command.add_argument("files", metavar="FILE", nargs="+")
    command.add_argument("--name", help="of the voice (default: as the file says)")
    _add_notes(command)
    command.add_argument("--replace", action="store_true", help="overwrite your own of that name")
    command = add_command(voices, "rename", _rename, "rename a voice of your own")
    command.add_argument("name", metavar="NAME")
    command.add_argument("new_name", metavar="NEW")
    command.add_argument("--model", help="that it was made for")
    command = add_command(voices, "describe", _describe, "write down what is known of your own")
    command.add_argument("name", metavar="NAME")
    _add_notes(command)
    command = add_command(voices, "trim", _trim, "keep a part of a voice")
    command.add_argument("name", metavar="NAME")
    command.add_argument("from_s", metavar="FROM", type=float, help="seconds")
    command.add_argument("to_s", metavar="TO", type=float, help="seconds")
    command.add_argument(
        "--as", dest="save_as", metavar="NEW", help="keep it as a voice of its own"
    )
    command.add_argument("--model", help="that it was made for")
    command.add_argument("--replace", action="store_true", help="overwrite your own")
    command = add_command(voices, "delete", _delete, "delete a voice of your own")
    command.add_argument("name", metavar="NAME")
    command = add_command(voices, "restore", _restore, "bring a deleted voice back")
    command.add_argument("name", metavar="NAME")


def _add_notes(command: argparse.ArgumentParser) -> None:
    command.add_argument("--description", metavar="TEXT", help="who is heard")
    command.add_argument("--language", metavar="CODE", help="as en")
    command.add_argument("--kind", help="in a word: cloned, generated, ...")
    command.add_argument("--model", help="that it was made for")

"""The command line: `python -m bark_core say | voices | models | convert`.

What a command made goes to standard output, as lines or with --json as JSON; progress and errors
go to standard error. Exit codes:

    0    fine                     4    the model: unknown, damaged, files missing, no network
    2    wrong usage              5    storage: full disk, no permission
    3    wrong request or voice   6    it couldn't be generated: no memory, nothing to hear
    130  interrupted              1    a bug, with its traceback
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import time
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from types import FrameType
from typing import Any

from bark_core import __version__
from bark_core.audio import FORMATS, write_audio
from bark_core.cascade import Cascade
from bark_core.checkpoint import convert, installed, known_models, load, remove, voice_fetcher
from bark_core.config import BARK_LAYOUT, TokenLayout
from bark_core.device import PRECISIONS, choose_placement
from bark_core.errors import (
    BarkError,
    Cancelled,
    InvalidAudio,
    InvalidRequest,
    InvalidText,
    InvalidVoice,
    LayoutMismatch,
    ModelError,
    StorageError,
    VoiceError,
)
from bark_core.events import Finished, StageProgress
from bark_core.formats import open_checkpoint
from bark_core.generation import Generation
from bark_core.hub import DownloadProgress
from bark_core.request import (
    MAX_TEXT_CHARACTERS,
    CoarseParams,
    FineParams,
    GenerationRequest,
    SemanticParams,
    Settings,
    random_seed,
)
from bark_core.voices import Voice, VoiceLibrary, load_voice

_EXIT_CODES: tuple[tuple[type[BarkError], int], ...] = (
    (InvalidRequest, 3),
    (VoiceError, 3),
    (ModelError, 4),
    (StorageError, 5),
    (Cancelled, 130),
    (BarkError, 6),
)
_INTERRUPTED = 130
_OFFLOAD: dict[str, bool | str] = {"auto": "auto", "on": True, "off": False}
_PROGRESS_EVERY_S = 0.1


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
    console = _Console(as_json=args.json, quiet=args.quiet)
    try:
        args.command(args, console)
    except BarkError as error:
        console.error(error)
        return next(code for kind, code in _EXIT_CODES if isinstance(error, kind))
    except KeyboardInterrupt:
        console.error(Cancelled("interrupted; nothing was written"))
        return _INTERRUPTED
    return 0


class _Console:
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


# --- say -------------------------------------------------------------------------------------


def _say(args: argparse.Namespace, console: _Console) -> None:
    settings = _settings(args)
    seed = random_seed() if args.seed is None else args.seed
    text = _text(args.text)
    # the request first, then the files, then the model: the cheapest checks come first
    GenerationRequest(text, None, seed, settings, args.pause)
    output = Path(args.output or f"bark-{seed}.flac").expanduser()
    _check_target(output, FORMATS)
    voice_output = Path(args.save_voice).expanduser() if args.save_voice else None
    if voice_output:
        _check_target(voice_output, (".npz",))
    _check_voice(args, console)
    cascade = load(
        args.model,
        device=args.device,
        precision=args.precision,
        offload=_OFFLOAD[args.offload],
        cache_dir=args.cache_dir,
        progress=console.download,
        local_files_only=args.offline,
    )
    voice = _voice(args, console, cascade) if args.voice else None
    started = time.monotonic()
    made = _generate(cascade, GenerationRequest(text, voice, seed, settings, args.pause), console)
    took_s = time.monotonic() - started
    write_audio(output, made.audio, made.metadata())
    if voice_output:
        made.voice.save(voice_output)
    told = {"file": str(output), **made.metadata()}
    if voice_output:
        told["voice_file"] = str(voice_output)
    duration_s = made.audio.duration_s
    line = f"{output}: {duration_s:.1f} s of sound in {took_s:.1f} s, seed {seed}"
    console.result(told, [line, *([f"{voice_output}: its voice"] if voice_output else [])])


def _generate(cascade: Cascade, request: GenerationRequest, console: _Console) -> Generation:
    for event in cascade.events(request):
        match event:
            case StageProgress(stage, done, total, segment, n_segments):
                where = f"segment {segment + 1}/{n_segments} " if n_segments > 1 else ""
                console.progress(f"{where}{stage} {done}/{total}", last=done == total)
            case Finished(generation):
                return generation
    raise AssertionError("a run that neither fails nor is closed ends with Finished")


def _text(given: str) -> str:
    if given != "-":
        return given
    try:
        # one more than can be said, so that an endless stream is refused instead of read
        return sys.stdin.read(MAX_TEXT_CHARACTERS + 1)
    except UnicodeDecodeError as error:
        raise InvalidText(f"standard input isn't text in {error.encoding}; convert it") from error


def _settings(args: argparse.Namespace) -> Settings:
    filters = {"top_k": args.top_k, "top_p": args.top_p}
    return Settings(
        semantic=SemanticParams(
            temperature=args.semantic_temperature,
            min_eos_p=args.min_eos_p,
            max_duration_s=args.max_duration,
            allow_early_stop=args.early_stop,
            **filters,
        ),
        coarse=CoarseParams(
            temperature=args.coarse_temperature, max_history=args.max_coarse_history, **filters
        ),
        fine=FineParams(temperature=args.fine_temperature),
    )


def _check_voice(args: argparse.Namespace, console: _Console) -> None:
    if args.voice and not _is_file(args.voice):
        library = _library(args, console)
        if args.voice not in library:
            library[args.voice]  # says that there is none


def _voice(args: argparse.Namespace, console: _Console, cascade: Cascade) -> Voice:
    """A file's or the library's voice."""
    layout = cascade.config.layout
    if _is_file(args.voice):
        return load_voice(Path(args.voice).expanduser(), layout=layout)
    voice = _library(args, console, [layout])[args.voice]
    console.clear()
    return voice


def _is_file(voice: str) -> bool:
    return voice.lower().endswith(".npz")


def _check_target(path: Path, suffixes: Iterable[str]) -> None:
    """Refuse what can't be written before minutes are spent on making it."""
    if path.suffix.lower() not in suffixes:
        kind = InvalidVoice if ".npz" in suffixes else InvalidAudio
        raise kind(f"{str(path)!r} must end with one of {', '.join(suffixes)}")
    if path.is_dir():
        raise StorageError(f"{path} is a folder; choose another name")
    if not path.parent.is_dir():
        raise StorageError(f"there is no folder {path.parent}; make it or choose another")
    if not os.access(path.parent, os.W_OK):
        raise StorageError(f"no permission to write to {path.parent}; choose another folder")


# --- voices ----------------------------------------------------------------------------------


def _voices_list(args: argparse.Namespace, console: _Console) -> None:
    library = _library(args, console)
    layout = _layout_of(args.model).name if args.model else None
    entries = [
        entry
        for entry in library.entries(layout)
        if args.language in (None, entry.language) and args.source in (None, entry.source)
    ]
    rows = [(e.name, e.language or "", e.layout, e.source, e.description or "") for e in entries]
    console.result([asdict(entry) for entry in entries], _table(rows))


def _voices_show(args: argparse.Namespace, console: _Console) -> None:
    if _is_file(args.name):
        voice = _read_voice_file(Path(args.name).expanduser(), args.model)
    else:
        layouts = [_layout_of(args.model)] if args.model else []
        voice = _library(args, console, layouts)[args.name]
    told = {
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
    console.result(told, (f"{key}: {value}" for key, value in told.items() if value is not None))


def _voices_save(args: argparse.Namespace, console: _Console) -> None:
    voice = _read_voice_file(Path(args.file).expanduser(), args.model)
    entry = _library(args, console).save(voice, args.name, replace_own=args.replace)
    console.result(asdict(entry), [f"kept as {entry.name!r}, for models of {entry.layout!r}"])


def _voices_delete(args: argparse.Namespace, console: _Console) -> None:
    _library(args, console).delete(args.name)
    console.result({"deleted": args.name}, [f"deleted {args.name!r}"])


def _library(
    args: argparse.Namespace, console: _Console, layouts: Iterable[TokenLayout] = ()
) -> VoiceLibrary:
    fetch = voice_fetcher(args.cache_dir, progress=console.download, local_files_only=args.offline)
    folder = Path(args.voices_dir).expanduser() if args.voices_dir else None
    return VoiceLibrary.default(folder, fetch=fetch, layouts=layouts)


def _read_voice_file(path: Path, model: str | None) -> Voice:
    """A voice of a given model's layout, or of any layout that is known."""
    if model:
        return load_voice(path, layout=_layout_of(model))
    layouts = {info.config.layout.name: info.config.layout for info in known_models()}
    mismatch: LayoutMismatch | None = None
    for layout in (layouts | {BARK_LAYOUT.name: BARK_LAYOUT}).values():
        try:
            return load_voice(path, layout=layout)
        except LayoutMismatch as error:
            mismatch = error
    raise LayoutMismatch(f"{mismatch}; say with --model for which model it is") from mismatch


def _layout_of(model: str) -> TokenLayout:
    """The token layout of a model, without loading it."""
    for info in known_models():
        if model in (info.name, info.source):
            return info.config.layout
    return open_checkpoint(Path(model).expanduser()).config.layout


# --- models ----------------------------------------------------------------------------------


def _models_list(args: argparse.Namespace, console: _Console) -> None:
    told: list[dict[str, Any]] = [
        {
            "name": info.name,
            "title": info.title,
            "source": info.source,
            "layout": info.config.layout.name,
            "installed": installed(info.name, args.cache_dir),
            "download_bytes": info.download_bytes,
            "memory_bytes": info.memory_bytes("float32"),
            "demonstration": info.demonstration,
            "description": info.description,
        }
        for info in known_models()
    ]
    rows = [
        (
            model["name"],
            "here" if model["installed"] else f"{model['download_bytes'] / 1e9:.1f} GB to download",
            model["description"],
        )
        for model in told
    ]
    console.result(told, _table(rows))


def _models_download(args: argparse.Namespace, console: _Console) -> None:
    # converted for the device that will use it, but loaded where there is always room
    precision = choose_placement(precision=args.precision).precision
    cascade = load(
        args.name,
        device="cpu",
        precision=precision,
        cache_dir=args.cache_dir,
        progress=console.download,
        local_files_only=args.offline,
        update=args.update,
    )
    identity = cascade.identity
    console.result(
        asdict(identity),
        [f"{args.name} is ready: {identity.source} at {identity.revision[:12]} in {precision}"],
    )


def _models_remove(args: argparse.Namespace, console: _Console) -> None:
    freed = remove(args.name, args.cache_dir)
    told = {"removed": args.name, "freed_bytes": freed}
    console.result(told, [f"removed {args.name}: {freed / 1e6:,.0f} MB freed"])


def _convert(args: argparse.Namespace, console: _Console) -> None:
    target = convert(
        args.source,
        Path(args.target).expanduser(),
        args.precision,
        cache_dir=args.cache_dir,
        progress=console.download,
        local_files_only=args.offline,
    )
    told = {"folder": str(target), "precision": args.precision}
    console.result(told, [f"{target}: the model in {args.precision}"])


# --- arguments -------------------------------------------------------------------------------

Command = Callable[[argparse.Namespace, _Console], None]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m bark_core",
        description="Text to speech, music and noises with Bark.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"Bark Studio {__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    _add_say(commands)
    _add_voices(commands)
    _add_models(commands)
    command = _add(commands, "convert", _convert, "write a model as safetensors")
    command.add_argument("source", metavar="SOURCE", help="a model's name, repository or folder")
    command.add_argument("target", metavar="TARGET", help="a new folder")
    command.add_argument("--precision", choices=tuple(PRECISIONS), default="float16")
    return parser


def _add(
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


def _add_say(commands: Any) -> None:
    say = _add(commands, "say", _say, "say a text")
    say.add_argument("text", metavar="TEXT", help="what to say; - reads standard input")
    say.add_argument(
        "-o",
        "--output",
        metavar="FILE",
        help=f"sound file, one of {', '.join(FORMATS)} (default: bark-SEED.flac)",
    )
    say.add_argument("--voice", metavar="NAME", help="a voice's name or .npz file (default: new)")
    say.add_argument("--save-voice", metavar="FILE", help="keep the voice as an .npz file")
    say.add_argument("--seed", type=int, help="the same seed gives the same sound")
    say.add_argument("--pause", type=float, default=0.25, metavar="S", help="between sentences")

    model = say.add_argument_group("model")
    model.add_argument("--model", default="pup", help="pup, small, large, OWNER/NAME or a folder")
    model.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, mps")
    model.add_argument("--precision", choices=("auto", *PRECISIONS), default="auto")
    model.add_argument(
        "--offload",
        choices=tuple(_OFFLOAD),
        default="auto",
        help="keep only one stage at a time on the device",
    )
    _add_sampling(say.add_argument_group("sampling"))


def _add_sampling(sampling: Any) -> None:
    defaults = Settings()
    for stage, default in (
        ("semantic", defaults.semantic.temperature),
        ("coarse", defaults.coarse.temperature),
        ("fine", defaults.fine.temperature),
    ):
        sampling.add_argument(
            f"--{stage}-temperature", type=float, default=default, metavar="T", help=f"{default}"
        )
    sampling.add_argument("--top-k", type=int, metavar="K", help="only the K likeliest tokens")
    sampling.add_argument("--top-p", type=float, metavar="P", help="only those that reach P")
    sampling.add_argument(
        "--min-eos-p",
        type=_number_or_off,
        default=defaults.semantic.min_eos_p,
        metavar="P",
        help="end when the end is that likely, or off (0.2)",
    )
    sampling.add_argument(
        "--early-stop",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="end where the model does",
    )
    sampling.add_argument("--max-duration", type=float, metavar="S", help="of a segment, seconds")
    sampling.add_argument("--max-coarse-history", type=int, metavar="N", help="coarse tokens")


def _add_voices(commands: Any) -> None:
    group = commands.add_parser("voices", help="list, show, save or delete voices")
    voices = group.add_subparsers(metavar="COMMAND", required=True)
    command = _add(voices, "list", _voices_list, "list voices")
    command.add_argument("--model", help="only those for this model")
    command.add_argument("--language", metavar="CODE", help="only those of a language, as en")
    command.add_argument("--source", choices=("bundled", "yours", "published"))
    command = _add(voices, "show", _voices_show, "tell what is known of a voice")
    command.add_argument("name", metavar="NAME", help="a voice's name or .npz file")
    command.add_argument("--model", help="that it was made for")
    command = _add(voices, "save", _voices_save, "keep an .npz file as a voice of your own")
    command.add_argument("name", metavar="NAME")
    command.add_argument("file", metavar="FILE")
    command.add_argument("--model", help="that it was made for")
    command.add_argument("--replace", action="store_true", help="overwrite your own of that name")
    command = _add(voices, "delete", _voices_delete, "delete a voice of your own")
    command.add_argument("name", metavar="NAME")


def _add_models(commands: Any) -> None:
    group = commands.add_parser("models", help="list, download or remove models")
    models = group.add_subparsers(metavar="COMMAND", required=True)
    _add(models, "list", _models_list, "list the models that have a name")
    command = _add(models, "download", _models_download, "download and convert a model")
    command.add_argument("name", metavar="MODEL", help="small, large or OWNER/NAME")
    command.add_argument("--update", action="store_true", help="to its newest version")
    command.add_argument("--precision", choices=("auto", *PRECISIONS), default="auto")
    command = _add(models, "remove", _models_remove, "delete a model's downloaded files")
    command.add_argument("name", metavar="MODEL")


def _number_or_off(text: str) -> float | None:
    return None if text == "off" else float(text)


# --- the terminal ----------------------------------------------------------------------------


def _table(rows: Sequence[Sequence[str]]) -> list[str]:
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


def _show_warning(message: Warning | str, *_more: Any, **_options: Any) -> None:
    print(f"warning: {' '.join(str(message).split())}", file=sys.stderr)


def _terminate(_signal: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt

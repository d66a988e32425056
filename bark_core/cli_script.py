"""`python -m bark_core script`: a script becomes one sound file, its stems, its subtitles."""

from __future__ import annotations

import argparse
import contextlib
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bark_core.audio import FORMATS, Stamp, write_audio
from bark_core.cli_models import add_model, load_chosen
from bark_core.cli_say import check_target, mood_settings
from bark_core.cli_sign import add_signing, stamp_of
from bark_core.cli_voices import is_voice_file, open_library
from bark_core.console import Console, add_command
from bark_core.errors import (
    Cancelled,
    EmptyGeneration,
    InvalidSetting,
    InvalidText,
)
from bark_core.events import Finished, Retry, StageProgress
from bark_core.files import storage_error, write_bytes_atomically
from bark_core.mix import Mix
from bark_core.project import Project
from bark_core.project_folder import ProjectFolder, stems
from bark_core.project_parts import Order, ProjectOptions
from bark_core.project_plan import Planner
from bark_core.script import Background, Script, to_json
from bark_core.script_import import parse_any
from bark_core.subtitles import to_srt, to_vtt
from bark_core.voices import Voice, load_voice

if TYPE_CHECKING:
    from bark_core.cascade import Cascade

MAX_FILE_BYTES = 20 * 2**20


def _script(args: argparse.Namespace, console: Console) -> None:
    # what is cheap to find out comes first
    script = _cast(_read(args.file), args.voice or [])
    options = _options(args)
    targets = _targets(args)
    stamp = stamp_of(args, [targets["output"]] if "output" in targets else [])
    cascade = load_chosen(args, console)
    library = open_library(args, console, [cascade.config.layout])

    def voice_named(name: str) -> Voice:
        if is_voice_file(name):
            return load_voice(Path(name).expanduser(), layout=cascade.config.layout)
        return library[name]

    for name in {script.voice_of(line) for line in script.lines} - {None}:
        voice_named(str(name))  # says that there is none, before minutes are spent
    languages = {entry.name: entry.language for entry in library.entries()}
    with _folder(args, script, Planner.of(cascade, languages.get), options) as folder:
        _set_background(args, folder)
        failed = _make(folder, cascade, voice_named, console)
        _write(folder, targets, failed, console, stamp)


def _read(file: str) -> Script:
    """A script of any kind; "-" is standard input."""
    if file == "-":
        try:
            return parse_any(sys.stdin.read(MAX_FILE_BYTES))
        except UnicodeDecodeError as error:
            raise InvalidText("standard input isn't UTF-8; convert it") from error
    path = Path(file).expanduser()
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            raise InvalidText(f"{path} has more than {MAX_FILE_BYTES:,} bytes; split it")
        return parse_any(path.read_text(encoding="utf-8"), path.name)
    except UnicodeDecodeError as error:
        raise InvalidText(f"{path} isn't text in UTF-8; convert it") from error
    except OSError as error:
        raise storage_error("read", path, error) from error


def _cast(script: Script, given: list[str]) -> Script:
    """Give speakers their voices: NAME=VOICE, or VOICE for all that have none."""
    voices: dict[str, str | None] = dict(script.voices)
    for item in given:
        name, found, voice = item.rpartition("=")
        if found and name not in voices:
            raise InvalidSetting(
                f"--voice {item}: nobody called {name!r} speaks; the speakers are "
                f"{', '.join(repr(speaker) for speaker in script.speakers)}"
            )
        for speaker in [name] if found else [s for s in voices if voices[s] is None]:
            voices[speaker] = voice
    return replace(script, voices=voices)


def _options(args: argparse.Namespace) -> dict[str, Any]:
    """What was said on the command line; the rest is as before, or as by default."""
    given = {"line_pause_s": args.pause, "retries": args.retries, "seed": args.seed}
    options = {key: value for key, value in given.items() if value is not None}
    if args.mood:
        options["settings"] = mood_settings(args.mood)
    ProjectOptions(**options)
    return options


def _targets(args: argparse.Namespace) -> Mapping[str, Path]:
    """Where things go, by what they are; all of them can be written."""
    kinds: dict[str, tuple[str, ...]] = {
        "output": tuple(FORMATS),
        "srt": (".srt",),
        "vtt": (".vtt",),
        "save_script": (".json",),
    }
    named = {key: getattr(args, key) for key in kinds}
    targets = {key: Path(name).expanduser() for key, name in named.items() if name}
    for key, path in targets.items():
        check_target(path, kinds[key])
    if args.stems:
        targets["stems"] = Path(args.stems).expanduser()
    if not targets and not args.project:
        raise InvalidSetting("nothing would be kept; say where with -o, --stems or --project")
    if args.background is not None and args.background_file is not None:
        raise InvalidSetting("give --background or --background-file, not both")
    return targets


@contextlib.contextmanager
def _folder(
    args: argparse.Namespace, script: Script, planner: Planner, options: dict[str, Any]
) -> Iterator[ProjectFolder]:
    """The project to work in: a new one, one to go on with, or one for now only."""
    if args.project and (Path(args.project).expanduser() / "project.json").exists():
        folder = ProjectFolder.open(Path(args.project).expanduser())
        folder.edit(lambda project: _continued(project, script, planner, options))
        yield folder
        return
    project = Project.make(script, planner, ProjectOptions(**options))
    if args.project:
        yield ProjectFolder.create(Path(args.project).expanduser(), project)
        return
    with tempfile.TemporaryDirectory(prefix="bark-script-") as temporary:
        yield ProjectFolder.create(Path(temporary) / "project", project)


def _continued(
    project: Project, script: Script, planner: Planner, options: dict[str, Any]
) -> Project:
    """The same project with the script as it is now; what is still there keeps its takes."""
    changed = project.with_script(script, planner)
    for speaker, voice in script.voices.items():
        changed = changed.with_speaker_voice(speaker, voice)
    return replace(changed, options=replace(project.options, **options))


def _set_background(args: argparse.Namespace, folder: ProjectFolder) -> None:
    layer, file = folder.project.background, None
    if args.background is not None:
        layer = Background(prompt=args.background)
    elif args.background_file is not None:
        file = Path(args.background_file).expanduser()
        layer = Background(file=file.name)
    if layer is not None:
        changed = {"level_db": args.background_level, "duck_db": args.duck}
        given: dict[str, Any] = {key: value for key, value in changed.items() if value is not None}
        folder.set_background(replace(layer, **given), file)


def _make(folder: ProjectFolder, cascade: Cascade, voice_named: Any, console: Console) -> list[str]:
    """Give sound to all that needs it; what said nothing is left out, and told."""
    layout, failed = cascade.config.layout, []
    wanted = folder.project.to_make
    for number, segment_id in enumerate(wanted, 1):
        order = folder.project.order(
            segment_id, voice_named, lambda take_id: folder.voice(take_id, layout)
        )
        try:
            _fulfil(folder, cascade, order, f"{number}/{len(wanted)}", console)
        except EmptyGeneration:
            failed.append(order.request.text)
        except KeyboardInterrupt:
            raise Cancelled(
                f"interrupted; {number - 1} of {len(wanted)} segments are finished: with --project "
                "the same command goes on there"
            ) from None
    return failed


def _fulfil(
    folder: ProjectFolder, cascade: Cascade, order: Order, where: str, console: Console
) -> None:
    from bark_core.engine import run

    n_takes = 1
    for event in run(cascade, order.request):
        match event:
            case StageProgress(stage, done, total):
                console.progress(f"segment {where} {stage} {done}/{total}", last=done == total)
            case Retry(take=take):
                n_takes = take - order.request.take + 1
            case Finished(generation):
                folder.add(order, generation, n_takes=n_takes)


def _write(
    folder: ProjectFolder,
    targets: Mapping[str, Path],
    failed: list[str],
    console: Console,
    stamp: Stamp | None,
) -> None:
    """All that was asked for, and what is to be known of it."""
    made, project = folder.mix(), folder.project
    metadata = folder.mix_metadata(made)
    for key, path in targets.items():
        match key:
            case "output":
                write_audio(path, made.audio, metadata, stamp=stamp)
            case "srt":
                write_bytes_atomically(path, to_srt(made.cues).encode())
            case "vtt":
                write_bytes_atomically(path, to_vtt(made.cues).encode())
            case "save_script":
                write_bytes_atomically(path, to_json(project.to_script()).encode())
            case "stems":
                _write_stems(path, made, metadata, stamp)
    wrong = {s.line.text: list(s.take.problems) for s in project.segments if s.take is not None}
    wrong = {text: problems for text, problems in wrong.items() if problems}
    told = {
        "files": {key: str(path) for key, path in targets.items()},
        "problems": wrong,
        "failed": failed,
        **metadata,
    }
    lines = [f"{path}" for path in targets.values()]
    lines.append(f"{len(made.cues)} segments, {made.audio.duration_s:.1f} s")
    lines += [f"went wrong ({', '.join(why)}): {text[:60]}" for text, why in wrong.items()]
    lines += [f"said nothing, and was left out: {text[:60]}" for text in failed]
    console.result(told, lines)


def _write_stems(folder: Path, made: Mix, metadata: Mapping[str, Any], stamp: Stamp | None) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise storage_error("make", folder, error) from error
    for name, sound, tags in stems(made, metadata):
        write_audio(folder / f"{name}.flac", sound, tags, stamp=stamp)


# --- arguments -------------------------------------------------------------------------------


def add_script(commands: Any) -> None:
    """Add the command to the parser of all of them."""
    script = add_command(commands, "script", _script, "say a script, each speaker with a voice")
    script.add_argument(
        "file", metavar="FILE", help=".txt, .srt, .vtt, SSML or JSON; - reads standard input"
    )
    script.add_argument(
        "--voice",
        action="append",
        metavar="NAME=VOICE",
        help="a speaker's voice, or one for all the others; may be given several times",
    )
    script.add_argument("--project", metavar="DIR", help="keep all takes there, and go on there")
    script.add_argument("--seed", type=int, help="the same seed gives the same sound")
    script.add_argument("--pause", type=float, metavar="S", help="between lines (0.5)")
    script.add_argument("--retries", type=int, metavar="N", help="of what went wrong (2)")
    script.add_argument("--mood", metavar="NAME", help="settings that have a name")
    files = script.add_argument_group("files")
    files.add_argument("-o", "--output", metavar="FILE", help=f"one of {', '.join(FORMATS)}")
    files.add_argument("--stems", metavar="DIR", help="a file for each speaker")
    files.add_argument("--srt", metavar="FILE", help="subtitles")
    files.add_argument("--vtt", metavar="FILE", help="subtitles")
    files.add_argument("--save-script", metavar="FILE", help="the script as JSON")
    layer = script.add_argument_group("background")
    layer.add_argument("--background", metavar="PROMPT", help="made under the speech, as [music]")
    layer.add_argument("--background-file", metavar="FILE", help="a sound under the speech")
    layer.add_argument("--background-level", type=float, metavar="DB", help="-60 to 0 (-18)")
    layer.add_argument("--duck", type=float, metavar="DB", help="quieter under words, 0 to 40 (0)")
    add_model(script.add_argument_group("model"))
    add_signing(script)

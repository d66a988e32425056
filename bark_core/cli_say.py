"""`python -m bark_core say`: a text becomes a sound file, or several takes become several.

`-o -` is a sound for another program to play, on standard output as soon as there is some.
"""

from __future__ import annotations

import argparse
import math
import os
import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bark_core.archive import read_segments, write_segments
from bark_core.audio import FORMATS, Stamp, read_tags, write_audio
from bark_core.cli_models import add_model, load_chosen
from bark_core.cli_sign import add_signing, stamp_of
from bark_core.cli_voices import is_voice_file, open_library
from bark_core.console import Console, add_command
from bark_core.errors import InvalidAudio, InvalidSetting, InvalidText, InvalidVoice, StorageError
from bark_core.events import AudioChunk, Finished, Retry, StageProgress
from bark_core.generation import Generation, settings_from_metadata
from bark_core.presets import moods
from bark_core.quality import Problem
from bark_core.request import (
    MAX_TAKE,
    MAX_TEXT_CHARACTERS,
    GenerationRequest,
    Settings,
    random_seed,
)
from bark_core.voices import Voice, load_voice
from bark_core.wav_stream import WavStream

if TYPE_CHECKING:
    from bark_core.cascade import Cascade

PIPE = "-"
MAX_TAKES = 100
_PROBLEMS = {
    Problem.NO_END: "it ran into the limit without an end",
    Problem.SILENT: "next to nothing can be heard",
    Problem.TOO_SHORT: "it is too short for its words",
    Problem.TOO_LONG: "it is too long for its words",
    Problem.EMPTY: "it ended before it made a sound",
}


@dataclass(frozen=True, slots=True)
class _Target:
    """Where one take goes."""

    sound: Path | None  # None: standard output
    voice: Path | None
    segments: Path | None

    @property
    def files(self) -> dict[str, str]:
        named = {"file": self.sound, "voice_file": self.voice, "segments_file": self.segments}
        return {key: str(path) for key, path in named.items() if path is not None}


def _say(args: argparse.Namespace, console: Console) -> None:
    # the request first, then the files, then the model: the cheapest checks come first
    takes = _takes(args)
    targets = _targets(args, takes[0].seed)
    stamp = stamp_of(args, [target.sound or Path(PIPE) for target in targets])
    _check_voice(args, console)
    cascade = load_chosen(args, console)
    stream = None
    if args.output == PIPE:
        stream = WavStream(sys.stdout.buffer, cascade.config.layout.sample_rate_hz)
    voice = _voice(args, console, cascade) if args.voice else None
    words = None
    if args.keep_words:
        kept = read_segments(Path(args.keep_words).expanduser(), layout=cascade.config.layout)
        words = tuple(segment.semantic for segment in kept)
    told = []
    for request, target in zip(takes, targets, strict=True):
        started = time.monotonic()
        request = replace(request, voice=voice, words=words)
        made, first_s = _generate(cascade, request, console, stream)
        _write(made, target, stamp)
        told.append({**target.files, **made.metadata()})
        if stream is not None:
            console.remark(_lines(made, target, time.monotonic() - started, first_s))
        elif not console.as_json:
            console.result(None, _lines(made, target, time.monotonic() - started, first_s))
    if console.as_json:
        console.result(told[0] if len(told) == 1 else told, ())


def _takes(args: argparse.Namespace) -> list[GenerationRequest]:
    """A request for each take, without its voice."""
    if not 1 <= args.takes <= MAX_TAKES:
        raise InvalidSetting(f"--takes must be within 1..{MAX_TAKES}, got {args.takes}")
    first = GenerationRequest(
        _text(args.text),
        seed=random_seed() if args.seed is None else args.seed,
        settings=_settings(args),
        segment_pause_s=args.pause,
        retries=args.retries,
        take=args.take,
        streaming=args.streaming,
    )
    # a retry of one is no take of the next
    numbers = [first.take + index * (first.retries + 1) for index in range(args.takes)]
    if numbers[-1] > MAX_TAKE:
        raise InvalidSetting(f"the last take would be {numbers[-1]:,}; at most {MAX_TAKE:,}")
    return [replace(first, take=number) for number in numbers]


def _targets(args: argparse.Namespace, seed: int) -> list[_Target]:
    """Files of each take, numbered where there are several; all can be written."""
    if args.output == PIPE:
        _check_pipe(args)
    named = (
        (None if args.output == PIPE else args.output or f"bark-{seed}.flac", FORMATS),
        (args.save_voice, (".npz",)),
        (args.save_segments, (".npz",)),
    )
    targets = []
    for number in range(1, args.takes + 1):
        paths = []
        for name, suffixes in named:
            path = Path(name).expanduser() if name else None
            if path is not None:
                if args.takes > 1:
                    path = path.with_name(f"{path.stem}-{number}{path.suffix}")
                check_target(path, suffixes)
            paths.append(path)
        sound, voice, segments = paths
        targets.append(_Target(sound, voice, segments))
    return targets


def _check_pipe(args: argparse.Namespace) -> None:
    if args.takes > 1:
        raise InvalidSetting(f"{args.takes} takes can't go into one stream; choose files with -o")
    if args.json:
        raise InvalidSetting("sound and JSON can't both go to standard output; leave one of them")
    if sys.stdout.isatty():
        raise InvalidSetting(
            "standard output is a terminal; send the sound on, for example to "
            "`ffplay -nodisp -autoexit -`"
        )


def _generate(
    cascade: Cascade, request: GenerationRequest, console: Console, stream: WavStream | None
) -> tuple[Generation, float]:
    """What was made, and how many seconds it took until there was some sound."""
    from bark_core.engine import run

    started, first_s = time.monotonic(), math.inf
    for event in run(cascade, request):
        match event:
            case StageProgress(stage, done, total, segment, n_segments):
                where = f"segment {segment + 1}/{n_segments} " if n_segments > 1 else ""
                console.progress(f"{where}{stage} {done}/{total}", last=done == total)
            case Retry(segment, n_segments, _, problems):
                where = f"segment {segment + 1}/{n_segments} " if n_segments > 1 else ""
                console.progress(f"{where}again: {_reasons(problems)}", last=True)
            case AudioChunk(audio):
                first_s = min(first_s, time.monotonic() - started)
                if stream is not None:
                    stream.write(audio)
            case Finished(generation):
                return generation, first_s
    raise AssertionError("a run that neither fails nor is closed ends with Finished")


def _write(made: Generation, target: _Target, stamp: Stamp | None) -> None:
    if target.sound is not None:
        write_audio(target.sound, made.audio, made.metadata(), stamp=stamp)
    if target.voice is not None:
        made.voice.save(target.voice)
    if target.segments is not None:
        write_segments(target.segments, made.segments)


def _lines(made: Generation, target: _Target, took_s: float, first_s: float) -> list[str]:
    first = f", the first of it after {first_s:.2f} s" if made.request.streaming else ""
    take = f", take {made.request.take}" if made.request.take else ""
    where = target.sound or "standard output"
    lines = [
        f"{where}: {made.audio.duration_s:.1f} s of sound in {took_s:.1f} s{first}, "
        f"seed {made.request.seed}{take}"
    ]
    for number, segment in enumerate(made.segments, 1):
        if segment.problems:
            lines.append(f"segment {number} may be wrong: {_reasons(segment.problems)}")
    if target.voice is not None:
        lines.append(f"{target.voice}: its voice")
    if target.segments is not None:
        lines.append(f"{target.segments}: its segments")
    return lines


def _reasons(problems: Iterable[Problem]) -> str:
    return ", ".join(_PROBLEMS[problem] for problem in problems)


def _text(given: str) -> str:
    if given != "-":
        return given
    try:
        # one more than can be said, so that an endless stream is refused instead of read
        return sys.stdin.read(MAX_TEXT_CHARACTERS + 1)
    except UnicodeDecodeError as error:
        raise InvalidText(f"standard input isn't text in {error.encoding}; convert it") from error


def _settings(args: argparse.Namespace) -> Settings:
    """Those of a mood, of a file or the original's, and what was given on top of them."""
    base = Settings()
    if args.mood:
        base = mood_settings(args.mood)
    elif args.settings_from:
        base = _settings_of(Path(args.settings_from).expanduser())
    filters = _given(args, top_k="top_k", top_p="top_p")
    semantic = _given(
        args,
        temperature="semantic_temperature",
        min_eos_p="min_eos_p",
        max_duration_s="max_duration",
        allow_early_stop="early_stop",
    )
    coarse = _given(args, temperature="coarse_temperature", max_history="max_coarse_history")
    fine = _given(args, temperature="fine_temperature")
    return Settings(
        semantic=replace(base.semantic, **semantic, **filters),
        coarse=replace(base.coarse, **coarse, **filters),
        fine=replace(base.fine, **fine),
    )


def _given(args: argparse.Namespace, **options: str) -> dict[str, Any]:
    """Values by the names of settings, of those options that somebody wrote."""
    told = vars(args)
    return {setting: told[option] for setting, option in options.items() if option in told}


def mood_settings(name: str) -> Settings:
    """The settings of a mood. Raises InvalidSetting with the names that there are."""
    by_name = {mood.name: mood.settings for mood in moods()}
    if name not in by_name:
        raise InvalidSetting(f"no mood {name!r}; choose one of {', '.join(by_name)}")
    return by_name[name]


def _settings_of(path: Path) -> Settings:
    tags = read_tags(path)
    if not tags or "settings" not in tags:
        raise InvalidAudio(f"{path} holds no settings; give a file that was made here")
    return settings_from_metadata(tags)


def _check_voice(args: argparse.Namespace, console: Console) -> None:
    if args.voice and not is_voice_file(args.voice):
        library = open_library(args, console)
        if args.voice not in library:
            library[args.voice]  # says that there is none


def _voice(args: argparse.Namespace, console: Console, cascade: Cascade) -> Voice:
    """A file's or the library's voice."""
    layout = cascade.config.layout
    if is_voice_file(args.voice):
        return load_voice(Path(args.voice).expanduser(), layout=layout)
    voice = open_library(args, console, [layout])[args.voice]
    console.clear()
    return voice


def check_target(path: Path, suffixes: Iterable[str]) -> None:
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


# --- arguments -------------------------------------------------------------------------------


def add_say(commands: Any) -> None:
    """Add the command to the parser of all of them."""
    say = add_command(commands, "say", _say, "say a text")
    say.add_argument("text", metavar="TEXT", help="what to say; - reads standard input")
    say.add_argument(
        "-o",
        "--output",
        metavar="FILE",
        help=f"sound file, one of {', '.join(FORMATS)} (default: bark-SEED.flac); "
        "-: a WAV to standard output, piece by piece",
    )
    say.add_argument("--voice", metavar="NAME", help="a voice's name or .npz file (default: new)")
    say.add_argument("--save-voice", metavar="FILE", help="keep the voice as an .npz file")
    say.add_argument("--pause", type=float, default=0.25, metavar="S", help="between sentences")
    _add_takes(say.add_argument_group("takes"))
    add_model(say.add_argument_group("model"))
    _add_sampling(say.add_argument_group("sampling"))
    add_signing(say)


def _add_takes(takes: Any) -> None:
    takes.add_argument("--seed", type=int, help="the same seed gives the same sound")
    takes.add_argument(
        "--takes", type=int, default=1, metavar="N", help="make several, FILE-1 and so on"
    )
    takes.add_argument(
        "--take", type=int, default=0, metavar="N", help="begin with another take of the seed"
    )
    takes.add_argument(
        "--retries",
        type=int,
        default=0,
        metavar="N",
        help="say a segment again that went wrong, up to N times (0 to 10)",
    )
    takes.add_argument(
        "--streaming",
        action="store_true",
        help="make sound before a sentence is finished; its finest detail is a little rougher",
    )
    takes.add_argument(
        "--save-segments", metavar="FILE", help="keep all segments' tokens as an .npz file"
    )
    takes.add_argument(
        "--keep-words",
        metavar="FILE",
        help="keep the words of such a file and make their sound anew",
    )


def _add_sampling(sampling: Any) -> None:
    # what nobody wrote is left out, so that it doesn't overrule the mood
    absent = argparse.SUPPRESS
    base = sampling.add_mutually_exclusive_group()
    base.add_argument("--mood", metavar="NAME", help="steady, lively, wild or bark")
    base.add_argument(
        "--settings-from", metavar="FILE", help="the settings of a sound file made here"
    )
    defaults = Settings()
    for stage, default in (
        ("semantic", defaults.semantic.temperature),
        ("coarse", defaults.coarse.temperature),
        ("fine", defaults.fine.temperature),
    ):
        sampling.add_argument(
            f"--{stage}-temperature", type=float, default=absent, metavar="T", help=f"({default})"
        )
    sampling.add_argument(
        "--top-k", type=_whole_or_off, default=absent, metavar="K", help="only the K likeliest"
    )
    sampling.add_argument(
        "--top-p", type=_number_or_off, default=absent, metavar="P", help="only those that reach P"
    )
    sampling.add_argument(
        "--min-eos-p",
        type=_number_or_off,
        default=absent,
        metavar="P",
        help="end when the end is that likely, or off (0.2)",
    )
    sampling.add_argument(
        "--early-stop",
        action=argparse.BooleanOptionalAction,
        default=absent,
        help="end where the model does",
    )
    sampling.add_argument(
        "--max-duration", type=float, default=absent, metavar="S", help="of a segment, seconds"
    )
    sampling.add_argument(
        "--max-coarse-history",
        type=int,
        default=absent,
        metavar="N",
        help="coarse tokens that are looked back on; fewer are quicker, and less steady",
    )


def _number_or_off(text: str) -> float | None:
    return None if text == "off" else float(text)


def _whole_or_off(text: str) -> int | None:
    return None if text == "off" else int(text)

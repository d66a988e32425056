"""`python -m training evaluate`: how many words pocketsphinx mishears.

Word error rates compare one pup with another; they are no measure of what a person hears.
The recogniser, its language model (general English, none of our sentences) and the text
normalisation are fixed.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import soxr
import torch
from numpy.typing import NDArray

from bark_core import (
    CoarseParams,
    FineParams,
    GenerationRequest,
    SemanticParams,
    Settings,
    load,
    load_voice,
)
from training import codec, data
from training.export import ROOT
from training.pup import LAYOUT
from training.sentences import held_out
from training.teacher import VOICES, Teacher, TeacherVoice
from training.voiceprint import VoiceJudge

SEED = 1
SAMPLE_RATE = 24_000
RECOGNISER_RATE = 16_000
PAUSE_S = 0.2  # silence put before and after, as the recogniser expects

CODECS = tuple(f"codec-{n}" for n in (LAYOUT.n_codebooks, LAYOUT.n_coarse_codebooks))
"""The codec alone, with all true codes and with the coarse ones."""

Speak = Callable[[str, TeacherVoice], NDArray[np.float32]]
"""Text and voice to float32 [n] at 24 kHz."""


@dataclass(frozen=True, slots=True)
class Heard:
    """One sentence as it was said and as it was heard."""

    voice: str
    said: str
    heard: str
    errors: int  # substitutions, deletions and insertions
    words: int  # in what was said


@dataclass(frozen=True, slots=True)
class Score:
    """Word error rate of one system, voice and list of sentences."""

    system: str
    sentences: str
    voice: str
    n: int
    wer: float
    exact: float  # share of sentences without an error


def normalise(text: str) -> list[str]:
    """Words as the recogniser writes them: lower case, hyphens split, apostrophes kept inside."""
    plain = re.sub(r"\(\d+\)", "", text.lower()).replace("\u2019", "'").replace("-", " ")
    words = re.sub(r"[^a-z' ]+", " ", plain).split()
    return [word.strip("'") for word in words if word.strip("'")]


def word_errors(said: Sequence[str], heard: Sequence[str]) -> int:
    """Levenshtein distance in words."""
    row = list(range(len(heard) + 1))
    for i, word in enumerate(said, 1):
        above, row = row, [i]
        for j, other in enumerate(heard, 1):
            row.append(min(above[j] + 1, row[j - 1] + 1, above[j - 1] + (word != other)))
    return row[-1]


class Listener:
    """Pocketsphinx with its default English model, loaded once."""

    def __init__(self) -> None:
        from pocketsphinx import Decoder

        self._decoder = Decoder(samprate=RECOGNISER_RATE, loglevel="FATAL")

    def hear(self, samples: NDArray[np.float32]) -> str:
        """Transcribe float32 [n] at 24 kHz, -1..1."""
        pcm = soxr.resample(samples, SAMPLE_RATE, RECOGNISER_RATE, quality="HQ")
        pause = np.zeros(int(PAUSE_S * RECOGNISER_RATE), np.float32)
        pcm = np.concatenate([pause, pcm, pause]).clip(-1, 1)
        self._decoder.start_utt()
        raw = (pcm * 32767).astype(np.int16).tobytes()
        self._decoder.process_raw(raw, no_search=False, full_utt=True)
        self._decoder.end_utt()
        hypothesis = self._decoder.hyp()
        return str(hypothesis.hypstr) if hypothesis else ""


def listen(
    listener: Listener, speak: Speak, texts: Sequence[str], voices: Sequence[TeacherVoice]
) -> list[Heard]:
    """Have sentences said, the voices by turns, and transcribed.

    The same sentence has the same voice in every system, so that systems can be compared.
    """
    results = []
    for number, text in enumerate(texts):
        voice = voices[number % len(voices)]
        said = normalise(text)
        heard = normalise(listener.hear(speak(text, voice)))
        errors = word_errors(said, heard)
        results.append(Heard(voice.name, " ".join(said), " ".join(heard), errors, len(said)))
    return results


def score(system: str, sentences: str, results: Sequence[Heard]) -> list[Score]:
    """A score for each voice, and one for all ("all")."""
    scores = []
    for voice in [*dict.fromkeys(result.voice for result in results), "all"]:
        chosen = [result for result in results if voice in ("all", result.voice)]
        errors, words = sum(r.errors for r in chosen), sum(r.words for r in chosen)
        exact = sum(r.errors == 0 for r in chosen) / len(chosen)
        wer = errors / max(1, words)
        scores.append(Score(system, sentences, voice, len(chosen), round(wer, 4), round(exact, 3)))
    return scores


def table(scores: Sequence[Score]) -> str:
    """Markdown: a line for each score."""
    lines = ["| system | sentences | voice | n | WER | exact |", "|---|---|---|---|---|---|"]
    for s in scores:
        cells = (s.system, s.sentences, s.voice, s.n, f"{s.wer:.3f}", f"{s.exact:.2f}")
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    return "\n".join(lines)


def teacher_speaks(teacher: Teacher) -> Speak:
    """The teacher's own sound."""
    return lambda text, voice: teacher.say(text, voice).samples


def codec_speaks(teacher: Teacher, work: Path, n_books: int) -> Speak:
    """The teacher's sound through the codes: analysis, codebooks, decoder."""
    codebooks, model = codec.load_codebooks(work), codec.load_model(work)

    def speak(text: str, voice: TeacherVoice) -> NDArray[np.float32]:
        samples = torch.from_numpy(teacher.say(text, voice).samples)
        codes = codebooks.encode(codebooks.latents(samples))
        latents = codebooks.decode(codes[:n_books])
        sound: NDArray[np.float32] = codec.synthesise(model, latents).numpy()
        return sound

    return speak


def pup_speaks(model: Path, voices: Path, settings: Settings, unended: list[str]) -> Speak:
    """The whole cascade, with each teacher voice's history prompt; notes what ran to the limit."""
    cascade = load(model, device="cpu")
    prompts = {
        voice.name: load_voice(voices / f"{voice.name}.npz", layout=cascade.config.layout)
        for voice in VOICES
    }

    def speak(text: str, voice: TeacherVoice) -> NDArray[np.float32]:
        request = GenerationRequest(text, voice=prompts[voice.name], seed=SEED, settings=settings)
        result = cascade.generate(request)
        if not all(segment.ended for segment in result.segments):
            unended.append(text)
        return result.audio.samples

    return speak


def said_before(folder: Path) -> Speak:
    """Sounds of the held-out sentences that were made elsewhere: LIST-NUMBER.flac, 24 kHz."""
    places = {
        text: folder / f"{name}-{number:03d}.flac"
        for name in ("prose", "open")
        for number, text in enumerate(held_out("prose" if name == "prose" else "open"))
    }

    def speak(text: str, _voice: TeacherVoice) -> NDArray[np.float32]:
        samples, rate = soundfile.read(places[text], dtype="float32")
        if rate != SAMPLE_RATE:
            raise ValueError(f"{places[text]} has {rate} Hz, expected {SAMPLE_RATE}")
        sound: NDArray[np.float32] = samples
        return sound

    return speak


def run(
    systems: dict[str, Speak], lists: Sequence[str], n: int, judge: VoiceJudge, rounds: int = 1
) -> dict[str, Any]:
    """Evaluate systems on the first n held-out sentences of each list, voices by turns.

    Args:
        rounds: how often each sentence is said, 1 to 7, each time by the voice after.
    Returns:
        {"scores": [Score as dict], "voice_recognised": {system/list: share},
        "heard": {system/list: [Heard as dict]}}, ready for JSON.
    """
    listener = Listener()
    scores: list[Score] = []
    heard: dict[str, list[dict[str, Any]]] = {}
    recognised: dict[str, float] = {}
    for name, speak in systems.items():
        for sentences in lists:
            texts = held_out("prose" if sentences == "prose" else "open")[:n]
            nearest: list[bool] = []
            judged = _judged(speak, judge, nearest)
            results: list[Heard] = []
            for first in range(rounds):
                results += listen(listener, judged, texts, VOICES[first:] + VOICES[:first])
            recognised[f"{name}/{sentences}"] = round(float(np.mean(nearest)), 3)
            scores += score(name, sentences, results)
            heard[f"{name}/{sentences}"] = [asdict(result) for result in results]
    return {
        "scores": [asdict(s) for s in scores],
        "voice_recognised": recognised,
        "heard": heard,
    }


def joined(old: dict[str, Any], new: dict[str, Any]) -> dict[str, Any]:
    """What was measured before of other systems and lists, and everything new."""
    measured = {(entry["system"], entry["sentences"]) for entry in new["scores"]}
    kept = [e for e in old["scores"] if (e["system"], e["sentences"]) not in measured]
    both = {key: {**old[key], **new[key]} for key in ("voice_recognised", "heard")}
    return {**old, **new, **both, "scores": kept + new["scores"]}


def _judged(speak: Speak, judge: VoiceJudge, nearest: list[bool]) -> Speak:
    """The same sounds; whether each is nearest to the voice that was asked for is noted."""

    def judged(text: str, voice: TeacherVoice) -> NDArray[np.float32]:
        samples = speak(text, voice)
        nearest.append(VOICES[judge.nearest(samples)] == voice)
        return samples

    return judged


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `python -m training evaluate`."""
    parser.add_argument("--work", type=Path, default=data.DEFAULT_WORK)
    parser.add_argument("--systems", nargs="+", default=["teacher", *CODECS])
    parser.add_argument("--lists", nargs="+", choices=("prose", "open"), default=["prose", "open"])
    parser.add_argument("--sounds", type=Path, help="pup's sounds, if they were made elsewhere")
    parser.add_argument("--n", type=int, default=100, help="sentences of each list")
    parser.add_argument(
        "--rounds",
        type=int,
        choices=range(1, len(VOICES) + 1),
        default=1,
        help="how often each sentence is said, each time by another voice",
    )
    parser.add_argument("--model", type=Path, default=ROOT / "models" / "pup")
    parser.add_argument("--voices", type=Path, default=ROOT / "presets" / "voices")
    for stage, temperature in (("semantic", 0.7), ("coarse", 0.7), ("fine", 0.5)):
        parser.add_argument(f"--{stage}-temperature", type=float, default=temperature)
    parser.add_argument(
        "--out", type=Path, help="JSON; default: evaluation.json in the work folder"
    )


def main(args: argparse.Namespace) -> None:
    """Evaluate the teacher, the codec alone (CODECS), the cascade ("pup")."""
    if args.sounds is not None and args.rounds > 1:
        raise SystemExit("--sounds holds every sentence once: leave --rounds out")
    torch.set_num_threads(1)
    teacher = Teacher()
    systems: dict[str, Speak] = {}
    unended: list[str] = []
    settings = Settings(
        semantic=SemanticParams(temperature=args.semantic_temperature),
        coarse=CoarseParams(temperature=args.coarse_temperature),
        fine=FineParams(temperature=args.fine_temperature),
    )
    for name in args.systems:
        if name == "teacher":
            systems[name] = teacher_speaks(teacher)
        elif name == "pup" and args.sounds is not None:
            systems[name] = said_before(args.sounds)
        elif name == "pup":
            systems[name] = pup_speaks(args.model, args.voices, settings, unended)
        else:
            systems[name] = codec_speaks(teacher, args.work, int(name.removeprefix("codec-")))
    report = run(
        systems, args.lists, args.n, VoiceJudge(data.load(args.work, "sound")), args.rounds
    )
    if "pup" in systems:
        report["settings"] = asdict(settings)
        report["ran_to_the_limit"] = unended
    out: Path = args.out or args.work / "evaluation.json"
    if out.exists():
        report = joined(json.loads(out.read_text(encoding="utf-8")), report)
    data.write_atomic(out, json.dumps(report, indent=1).encode())
    print(table([Score(**entry) for entry in report["scores"]]))
    print("voice recognised:", report["voice_recognised"])
    if "pup" in systems:
        print("ran to the limit:", len(unended))

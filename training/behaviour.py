"""`python -m training behaviour`: what pup does beside saying the right words.

Voices kept, cues heard, marks and capitals obeyed, ends found, what temperature does, what the
fine stage and the encoder add, and what it costs. Where it can be, the same figure is taken from
the teacher's own sound.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from bark_core import (
    Cascade,
    CoarseParams,
    FineParams,
    GenerationRequest,
    SemanticParams,
    Settings,
    Voice,
    load,
    load_recogniser,
    load_voice,
    voice_from_audio,
)
from bark_core.fine import generate_fine
from bark_core.generation import SegmentResult
from bark_core.semantic import generate_semantic
from bark_core.tokens import Audio, FineCodes, SemanticTokens, TextTokens
from training import codec, data
from training.decoder import DELAY
from training.features import log_mel
from training.pitch import pitch, rise_at_end
from training.prompts import CUES, prompts
from training.pup import LAYOUT
from training.semantic import edit_distance, phones_of
from training.sentences import held_out
from training.teacher import SAMPLE_RATE, VOICES, Teacher, TeacherVoice
from training.units import STRESSED, SUNG, parts
from training.voiceprint import VoiceJudge, voiceprint

SEED = 5
Samples = NDArray[np.float32]
Print = NDArray[np.float64]

# the sounds by which a cue is known among semantic tokens
CUE_UNITS = {
    "[laughs]": {"ha", "hx"},
    "[laughter]": {"ha", "hx"},
    "[sighs]": {"bi", "bo"},
    "[gasps]": {"gs"},
    "[clears throat]": {"tc", "tm"},
    "[music]": {"n1", "n2", "n3", "n4", "n5"},
}
QUESTIONS = (
    "Is the water cold", "You left it at home", "Will they come by train", "That was your brother",
    "Can we open the window", "She knows the answer", "Do you like the colour",
)  # fmt: skip
MARKS = ("", ",", ";", "...")
TEMPERATURES = (0.0, 0.4, 0.7, 1.1)
DIAL_TEMPERATURES = (0.0, 0.35, 0.7, 1.0, 1.4)


@dataclass(frozen=True, slots=True)
class Bench:
    """Everything that is measured with."""

    cascade: Cascade
    voices: dict[str, Voice]
    teacher: Teacher
    judge: VoiceJudge
    sound: data.Dataset
    longest_s: float | None = None

    def say(
        self, text: str, voice: Voice | None, seed: int = SEED, settings: Settings | None = None
    ) -> SegmentResult:
        """One segment."""
        settings = settings or Settings()
        semantic = replace(settings.semantic, max_duration_s=self.longest_s)
        request = GenerationRequest(text, voice, seed, replace(settings, semantic=semantic))
        return self.cascade.generate(request).segments[0]

    def units(
        self, text: str, voice: Voice | None, seed: int, temperature: float = 0.7
    ) -> SemanticTokens:
        """Semantic tokens only."""
        tokens = np.array(self.cascade.tokenizer.encode(text))
        steps = generate_semantic(
            self.cascade.text,
            TextTokens(tokens, LAYOUT),
            history=voice.semantic if voice else None,
            params=SemanticParams(temperature=temperature, max_duration_s=self.longest_s),
            generator=torch.Generator().manual_seed(seed),
        )
        while True:
            try:
                next(steps)
            except StopIteration as end:
                result: SemanticTokens = end.value
                return result


def ends(bench: Bench, n: int = 100) -> dict[str, float]:
    """Prompts of all kinds: ended by itself, and neither half nor twice as long as the teacher."""
    ended, as_long, n_said = 0, 0, 0
    ratios = []
    texts = [text for text in prompts(99, 4 * n) if "[" not in text and "♪" not in text][:n]
    for number, text in enumerate(texts):
        voice = VOICES[number % len(VOICES)]
        wanted = len(bench.teacher.say(text, voice, with_sound=False).semantic)
        if wanted >= LAYOUT.max_semantic_tokens:
            continue
        made = len(bench.units(text, bench.voices[voice.name], SEED + number))
        n_said += 1
        ended += made < LAYOUT.max_semantic_tokens
        ratios.append(made / wanted)
        as_long += 0.67 < made / wanted < 1.5
    return {
        "n": n_said,
        "ended": ended / n_said,
        "as_long_as_the_teacher": as_long / n_said,
        "shortest_ratio": min(ratios),
        "longest_ratio": max(ratios),
    }


def voices(bench: Bench) -> dict[str, Any]:
    """Recognised as the voice asked for; also when what was made is used as a voice."""
    lines = held_out("prose")[60:63]
    right: dict[str, list[bool]] = {"teacher": [], "asked": [], "saved": []}
    confused: dict[str, int] = {}
    for number, voice in enumerate(VOICES):
        for line in lines:
            right["teacher"].append(
                bench.judge.nearest(bench.teacher.say(line, voice).samples) == number
            )
            made = bench.say(line, bench.voices[voice.name])
            nearest = bench.judge.nearest(made.audio.samples)
            right["asked"].append(nearest == number)
            if nearest != number:
                key = f"{voice.name} as {VOICES[nearest].name}"
                confused[key] = confused.get(key, 0) + 1
        saved = bench.say(held_out("prose")[64], bench.voices[voice.name]).voice
        again = bench.say(held_out("prose")[65], saved, SEED + 1)
        right["saved"].append(bench.judge.nearest(again.audio.samples) == number)
    rolled = [bench.say(lines[0], None, seed).audio.samples for seed in range(8)]
    names = [VOICES[bench.judge.nearest(samples)].name for samples in rolled]
    shares = {name: float(np.mean(values)) for name, values in right.items()}
    return {**shares, "confused": confused, "without_a_voice": names}


def cues(bench: Bench) -> dict[str, Any]:
    """Whether a cue makes its own units and no other cue's, at the start, within, at the end."""
    found: dict[str, Any] = {}
    for cue in CUES:
        texts = (f"{cue} We found the key.", f"We found {cue} the key.", f"We found the key. {cue}")
        hits = []
        for number, text in enumerate(texts * 2):
            prompt = bench.voices[VOICES[number % len(VOICES)].name]
            heard = {parts(int(t))[0] for t in bench.units(text, prompt, SEED + number).values}
            every = set().union(*CUE_UNITS.values())
            hits.append(bool(heard & CUE_UNITS[cue]) and not heard & (every - CUE_UNITS[cue]))
        found[cue] = float(np.mean(hits))
    sung = []
    for number, voice in enumerate(VOICES):
        made = bench.units("♪ over the hills and far away ♪", bench.voices[voice.name], number)
        tones = [parts(int(t))[2] for t in made.values if parts(int(t))[2]]
        sung.append(float(np.mean([tone >= SUNG for tone in tones])) if tones else 0.0)
    found["♪"] = float(np.mean(sung))
    return found


def delivery(bench: Bench) -> dict[str, Any]:
    """Questions rise, each mark has its pause, capitals are louder, slower and higher."""

    def pup(text: str, voice: TeacherVoice) -> Samples:
        return bench.say(text, bench.voices[voice.name]).audio.samples

    def flite(text: str, voice: TeacherVoice) -> Samples:
        return bench.teacher.say(text, voice).samples

    figures: dict[str, Any] = {}
    for name, speak in (("teacher", flite), ("pup", pup)):
        rises: dict[str, list[float]] = {"?": [], ".": []}
        for number, line in enumerate(QUESTIONS):
            for mark, values in rises.items():
                values.append(rise_at_end(speak(line + mark, VOICES[number])))
        figures[name] = {
            "rise_of_questions": float(np.median(rises["?"])),
            "rise_of_statements": float(np.median(rises["."])),
            "questions_above": float(np.mean(np.array(rises["?"]) > np.array(rises["."]))),
            "pauses_s": {
                mark or "none": _longest_pause(speak, f"We went home{mark} and we slept.")
                for mark in MARKS
            },
        }
    figures["capitals"] = _capitals(bench)
    return figures


def _longest_pause(speak: Callable[[str, TeacherVoice], Samples], text: str) -> float:
    """Seconds of the longest quiet stretch within, mean over the voices."""
    lengths = []
    for voice in VOICES:
        samples = speak(text, voice)
        level = np.sqrt(np.square(samples[: len(samples) // 240 * 240].reshape(-1, 240)).mean(1))
        loud = np.flatnonzero(level > 0.1 * np.quantile(level, 0.95))
        lengths.append(float(np.diff(loud).max(initial=1) - 1) * 0.01)
    return float(np.mean(lengths))


def voiced(samples: Samples) -> NDArray[np.float64]:
    """Pitches of the voiced frames, Hz; a single NaN where there are none."""
    track = pitch(samples)
    heard = track[track > 0].astype(np.float64)
    return heard if len(heard) else np.array([np.nan])


def _capitals(bench: Bench) -> dict[str, float]:
    """A word in capitals beside itself: units stressed, and what that does to the sound."""
    stressed, seconds, level, higher = [], [], [], []
    for number, voice in enumerate(VOICES):
        texts = ("I said the green boat.", "I said the GREEN boat.")
        plain, loud = (bench.say(t, bench.voices[voice.name], SEED + number) for t in texts)
        tones = [parts(int(t))[2] for t in loud.semantic.values]
        stressed.append(STRESSED in tones)
        seconds.append(loud.semantic.duration_s - plain.semantic.duration_s)
        tops = [np.quantile(np.abs(one.audio.samples), 0.995) for one in (plain, loud)]
        level.append(20 * np.log10(tops[1] / tops[0]))
        highest = [np.quantile(voiced(one.audio.samples), 0.9) for one in (plain, loud)]
        higher.append(12 * np.log2(highest[1] / highest[0]))
    return {
        "stressed": float(np.mean(stressed)),
        "longer_s": float(np.mean(seconds)),
        "louder_db": float(np.mean(level)),
        "higher_semitones": float(np.mean(higher)),
    }


def mel_distance(made: Samples, wanted: Samples) -> float:
    """Mean absolute difference of log-mel bands, the decoder's delay undone."""
    return _mel_apart(made[DELAY:], wanted)


def _mel_apart(one: Samples, other: Samples) -> float:
    n = min(len(one), len(other))
    bands = [log_mel(torch.tensor(samples[:n])) for samples in (one, other)]
    return float((bands[0] - bands[1]).abs().mean())


def above(samples: Samples, edge_hz: float) -> float:
    """Level of what lies above a frequency, dB of the whole."""
    spectrum = np.abs(np.fft.rfft(samples)) ** 2
    edge = int(2 * edge_hz / SAMPLE_RATE * len(spectrum))
    return float(10 * np.log10(spectrum[edge:].sum() / spectrum.sum() + 1e-12))


def above_8_khz(samples: Samples) -> float:
    """The teacher has nothing there."""
    return above(samples, 8_000.0)


def codes(bench: Bench, n: int = 30) -> dict[str, Any]:
    """The teacher's coarse codes alone, with pup's fine codes, with all true ones."""
    held = np.arange(bench.sound.n_training, len(bench.sound))[:n]
    figures: dict[str, dict[str, list[float]]] = {}
    right: list[float] = []
    codebooks = codec.codebooks_of(bench.cascade.codec.state_dict())
    n_coarse = LAYOUT.n_coarse_codebooks
    for index in held.tolist():
        true = FineCodes(bench.sound.codes_of(index), LAYOUT)
        generator = torch.Generator().manual_seed(index)
        steps = generate_fine(
            bench.cascade.fine, true.coarse, params=FineParams(), generator=generator
        )
        made = _result(steps)
        right.append(float((made.values[n_coarse:] == true.values[n_coarse:]).mean()))
        wanted = bench.sound.audio_of(index)
        coarse, latents = (
            codebooks.decode(torch.from_numpy(codes.astype(np.int64)))
            for codes in (true.coarse.values, true.values)
        )
        sounds = {
            "coarse alone": codec.synthesise(bench.cascade.codec, coarse).numpy(),
            "with pup's fine": bench.cascade.codec.decode(made).samples,
            "with true fine": codec.synthesise(bench.cascade.codec, latents).numpy(),
            "teacher": np.concatenate([np.zeros(DELAY, np.float32), wanted]),
        }
        for name, sound in sounds.items():
            entry = figures.setdefault(name, {"mel": [], "above_8_khz_db": []})
            entry["mel"].append(mel_distance(sound, wanted))
            entry["above_8_khz_db"].append(above_8_khz(sound))
    means = {
        name: {key: float(np.mean(values)) for key, values in entry.items()}
        for name, entry in figures.items()
    }
    return {"fine_codes_right": float(np.mean(right)), **means}


def _result(steps: Any) -> FineCodes:
    while True:
        try:
            next(steps)
        except StopIteration as end:
            result: FineCodes = end.value
            return result


def hearing(bench: Bench, model: Path, n: int = 40) -> dict[str, float]:
    """Sound in: codes as in training, units as the teacher's, and a voice that is kept."""
    recogniser = load_recogniser(model)
    same, wrong, total, kept = [], 0, 0, []
    for index in range(bench.sound.n_training, bench.sound.n_training + n):
        audio = Audio(bench.sound.audio_of(index), SAMPLE_RATE)
        voice = voice_from_audio(audio, bench.cascade.codec, recogniser)
        same.append(float((voice.fine.values == bench.sound.codes_of(index)).mean()))
        heard = phones_of(voice.semantic.values)
        said = phones_of(bench.sound.semantic_of(index))
        wrong, total = wrong + edit_distance(heard, said), total + len(said)
        if index < bench.sound.n_training + 14 and voice.duration_s > 3:
            spoken = bench.say(held_out("prose")[67], voice, index).audio.samples
            kept.append(bench.judge.nearest(spoken) == int(bench.sound.voices[index]))
    return {
        "codes_as_in_training": float(np.mean(same)),
        "phone_error": wrong / total,
        "voice_kept": float(np.mean(kept)),
    }


def temperature(bench: Bench) -> dict[str, Any]:
    """How much four runs of a sentence differ: units, duration, pitch."""
    lines = held_out("prose")[70:75]
    figures: dict[str, Any] = {}
    for value in TEMPERATURES:
        differ, spread, pitches = [], [], []
        settings = Settings(
            semantic=SemanticParams(temperature=value),
            coarse=CoarseParams(temperature=value),
            fine=FineParams(temperature=min(value, 0.5)),
        )
        for number, line in enumerate(lines):
            voice = bench.voices[VOICES[number].name]
            runs = [bench.units(line, voice, seed, value).values.tolist() for seed in range(4)]
            differ += [edit_distance(runs[0], run) / len(runs[0]) for run in runs[1:]]
            spread.append(float(np.std([len(run) for run in runs]) / np.mean([*map(len, runs)])))
            if number < 3:
                heard = [bench.say(line, voice, seed, settings).audio for seed in (1, 2)]
                tracks = [voiced(audio.samples) for audio in heard]
                pitches += [float(np.std(12 * np.log2(track))) for track in tracks]
        figures[f"{value:g}"] = {
            "units_that_differ": float(np.mean(differ)),
            "spread_of_duration": float(np.mean(spread)),
            "pitch_deviation_semitones": float(np.mean(pitches)),
        }
    return figures


def dials(bench: Bench) -> dict[str, Any]:
    """What the coarse and the fine temperature do, each alone, to words that stay the same.

    How far the sound is from the voice's own by the teacher, how far two runs are from each other
    (both as distances of voice prints, in units of the spread between the teacher's sentences),
    log-mel distance of two runs, and how much lies above 4 and above 8 kHz.
    """
    lines = held_out("prose")[80:83]
    turned = {
        f"timbre {t:g}": Settings(coarse=CoarseParams(temperature=t)) for t in DIAL_TEMPERATURES
    }
    turned |= {f"detail {t:g}": Settings(fine=FineParams(temperature=t)) for t in DIAL_TEMPERATURES}
    figures: dict[str, dict[str, list[float]]] = {name: {} for name in turned}
    for number, voice in enumerate(VOICES):
        prompt = bench.voices[voice.name]
        teacher = [bench.teacher.say(text, voice).samples for text in held_out("prose")[:20]]
        own = np.stack([voiceprint(samples) for samples in teacher])
        spread = own.std(axis=0) + 1e-6

        def apart(a: Print, b: Print, spread: Print = spread) -> float:
            return float(np.sqrt((((a - b) / spread) ** 2).mean()))

        for text in lines:
            words = (bench.units(text, prompt, SEED + number),)
            for name, settings in turned.items():
                requests = [
                    GenerationRequest(text, prompt, seed, settings, words=words) for seed in (1, 2)
                ]
                runs = [bench.cascade.generate(request).audio.samples for request in requests]
                prints = [voiceprint(run) for run in runs]
                measured = {
                    "from_the_voice": apart(prints[0], own.mean(axis=0)),
                    "between_runs": apart(*prints),
                    "mel_between_runs": _mel_apart(*runs),
                    "above_4_khz_db": above(runs[0], 4_000.0),
                    "above_8_khz_db": above_8_khz(runs[0]),
                }
                for key, figure in measured.items():
                    figures[name].setdefault(key, []).append(figure)
    return {
        name: {key: float(np.mean(values)) for key, values in entry.items()}
        for name, entry in figures.items()
    }


def cost(model: Path, voice: Voice) -> dict[str, float]:
    """Processor time of one thread a second of sound, and of loading; what else runs, less so."""
    started = time.process_time()
    cascade = load(model, device="cpu")
    loading = time.process_time() - started
    line = "The little dog waited by the door until she came home, and then it slept."
    cascade.generate(GenerationRequest("Warm up.", voice, 1))
    sound, started = 0.0, time.process_time()
    for seed in range(4):
        sound += cascade.generate(GenerationRequest(line, voice, seed)).audio.duration_s
    return {"loading_s": loading, "seconds_a_second": (time.process_time() - started) / sound}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `python -m training behaviour`."""
    parser.add_argument("--work", type=Path, default=data.DEFAULT_WORK)
    parser.add_argument("--model", type=Path, default=data.ROOT / "models" / "pup")
    parser.add_argument("--voices", type=Path, default=data.ROOT / "presets" / "voices")
    parser.add_argument("--only", nargs="+", help="some of the measurements")
    parser.add_argument(
        "--longest",
        type=float,
        metavar="S",
        help="seconds after which nothing more is said, to see whether all of it works",
    )


def main(args: argparse.Namespace) -> None:
    """Take all measurements; behaviour.json in the work folder has what was measured so far."""
    torch.set_num_threads(1)
    sound = data.load(args.work, "sound")
    cascade = load(args.model, device="cpu")
    prompts_of = {
        voice.name: load_voice(args.voices / f"{voice.name}.npz", layout=LAYOUT) for voice in VOICES
    }
    bench = Bench(cascade, prompts_of, Teacher(), VoiceJudge(sound), sound, args.longest)
    measurements: dict[str, Callable[[], Any]] = {
        "ends": lambda: ends(bench),
        "voices": lambda: voices(bench),
        "cues": lambda: cues(bench),
        "delivery": lambda: delivery(bench),
        "codes": lambda: codes(bench),
        "hearing": lambda: hearing(bench, args.model),
        "temperature": lambda: temperature(bench),
        "dials": lambda: dials(bench),
        "cost": lambda: cost(args.model, prompts_of[VOICES[0].name]),
    }
    out = args.work / "behaviour.json"
    report = json.loads(out.read_text(encoding="utf-8")) if out.exists() else {}
    chosen: Sequence[str] = args.only or list(measurements)
    for name in chosen:
        report[name] = measurements[name]()
        print(name, json.dumps(report[name]), flush=True)
        data.write_atomic(out, json.dumps(report, indent=1).encode())

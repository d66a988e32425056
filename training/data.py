"""`python -m training data`: what pup learns from, rendered by the teacher.

Three sets, each in a folder of its own under the work folder:

- `sound`: prompts with tokens, codes and sound, for the decoder, the recogniser and evaluation;
- `codes`: the same without the sound, for the transformers that make codes;
- `pairs`: text and semantic tokens only.

A set is rendered in shards, each from a seed of its own, so that it can be stopped, taken up
again and added to while others read it. The first shards of each set are for validation. What takes
time is flite's analysis of a text, so each one serves all voices that are made from it; the sound
itself is made where it is quickest (`--device`).
"""

from __future__ import annotations

import argparse
import functools
import multiprocessing
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from training.delivery import Melody
from training.flite import TeacherError
from training.prompts import prompts
from training.pup import LAYOUT
from training.teacher import FRAME_SAMPLES, VOICES, Score, Teacher, sounds

if TYPE_CHECKING:
    from training.codec import Codebooks

SHARD_TEXTS = 100
ROOT = Path(__file__).resolve().parent.parent
DEFAULT_WORK = Path("training/work")
SETS = ("sound", "codes", "pairs")
HELD_OUT_SHARDS = {"sound": 1, "codes": 1, "pairs": 2}
SEEDS = {"sound": 1, "pairs": 2, "codes": 3}
SEED_STEP = 1_000_003  # between the seeds of a set's shards; larger than any set's seed
SOUNDS_AT_ONCE = 40
# indices of the voices that are made from each of flite's
VOICES_OF = tuple(
    tuple(i for i, voice in enumerate(VOICES) if voice.character.library == library)
    for library in dict.fromkeys(voice.character.library for voice in VOICES)
)


@dataclass(frozen=True, slots=True)
class Dataset:
    """Prompts of one or more sets. Number i owns offsets[i]:offsets[i + 1] of the flat arrays.

    Attributes:
        n_training: prompts to train on; those from here on are for validation.
        texts: N prompts.
        voices: uint8 [N], indices into teacher.VOICES.
        semantic, offsets: int16 flat tokens; int64 [N + 1].
        codes, frame_offsets: uint16 [4, all frames]; int64 [N + 1]. None without codes.
        audio, audio_offsets: int16 flat, 24 kHz; int64 [N + 1]. None without sound.
    """

    n_training: int
    texts: tuple[str, ...]
    voices: NDArray[np.uint8]
    semantic: NDArray[np.int16]
    offsets: NDArray[np.int64]
    codes: NDArray[np.uint16] | None = None
    frame_offsets: NDArray[np.int64] | None = None
    audio: NDArray[np.int16] | None = None
    audio_offsets: NDArray[np.int64] | None = None

    def __len__(self) -> int:
        return len(self.texts)

    def semantic_of(self, index: int) -> NDArray[np.int16]:
        """Semantic tokens of one prompt, int16 [S]."""
        return self.semantic[self.offsets[index] : self.offsets[index + 1]]

    def codes_of(self, index: int) -> NDArray[np.uint16]:
        """Codes of one prompt, uint16 [4, floor(1.5 * S)]."""
        if self.codes is None or self.frame_offsets is None:
            raise ValueError("this set has no codes: load a set that has them")
        return self.codes[:, self.frame_offsets[index] : self.frame_offsets[index + 1]]

    def audio_of(self, index: int, start: int = 0, stop: int | None = None) -> NDArray[np.float32]:
        """Sound of one prompt, float32 [480 * floor(1.5 * S)] at 24 kHz, -1..1, or a part."""
        if self.audio is None or self.audio_offsets is None:
            raise ValueError("this set has no sound: load 'sound' alone")
        pcm = self.audio[self.audio_offsets[index] : self.audio_offsets[index + 1]][start:stop]
        samples: NDArray[np.float32] = pcm.astype(np.float32) / np.float32(32768)
        return samples


def load(work: Path, *names: str) -> Dataset:
    """Load sets from the shards rendered so far, training prompts first.

    Args:
        work: the work folder.
        names: of SETS; several are joined, and have what all of them have.
    Raises:
        FileNotFoundError: a set has no shards.
    """
    training: list[Path] = []
    held_out: list[Path] = []
    for name in names:
        found = shards(work, name)
        if not found:
            raise FileNotFoundError(f"no {name} in {work}: run `python -m training data` first")
        held_out += [path for path in found if is_held_out(name, path)]
        training += [path for path in found if not is_held_out(name, path)]
    keys = ["voices", "semantic", "lengths"]
    keys += ["audio"] if names == ("sound",) else []
    if all(_has_codes(path) for path in (*training, *held_out)):
        keys.append("codes")
    return _joined(training, held_out, keys)


def _has_codes(path: Path) -> bool:
    with np.load(path, allow_pickle=False) as shard:
        return "codes" in shard.files


def shards(work: Path, name: str) -> list[Path]:
    """The rendered shards of a set, in order."""
    return sorted((work / name).glob("[0-9]*[0-9].npz"))


def is_held_out(name: str, path: Path) -> bool:
    """Whether a set's shard is for validation."""
    return int(path.stem) < HELD_OUT_SHARDS[name]


def _joined(training: list[Path], held_out: list[Path], keys: list[str]) -> Dataset:
    columns: dict[str, list[NDArray[np.generic]]] = {key: [] for key in keys}
    texts: list[str] = []
    n_training = 0
    for number, path in enumerate((*training, *held_out)):
        with np.load(path, allow_pickle=False) as shard:
            texts += shard["texts"].tolist()
            for key in keys:
                columns[key].append(shard[key])
        if number < len(training):
            n_training = len(texts)
    joined = {key: np.concatenate(parts, axis=-1) for key, parts in columns.items()}
    lengths = joined.pop("lengths")
    frames = _offsets(lengths * 3 // 2)
    if "codes" in joined:
        joined["frame_offsets"] = frames
    if "audio" in joined:
        joined["audio_offsets"] = frames * FRAME_SAMPLES
    return Dataset(
        n_training=n_training,
        texts=tuple(texts),
        offsets=_offsets(lengths),
        **joined,
    )


def write_atomic(path: Path, data: bytes) -> None:
    """Write a file so that a reader sees the old one or the new one, never a part."""
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    part.write_bytes(data)
    part.replace(path)


@dataclass(frozen=True, slots=True)
class Performed:
    """A prompt before it is sound."""

    text: str
    voice: int  # index into VOICES
    semantic: NDArray[np.int16]
    score: Score


@functools.cache
def _teacher() -> Teacher:
    torch.set_num_threads(1)
    return Teacher()


@functools.cache
def _codebooks(work: Path, device: str) -> Codebooks:
    from training import codec  # it reads this module's sets

    books = codec.load_codebooks(work)
    return codec.Codebooks(
        *(one.to(device) for one in (books.mean, books.components, books.entries))
    )


def texts_of(name: str, shard: int) -> tuple[str, ...]:
    """The texts of a shard; held-out sentences are never among them."""
    seed = SEEDS[name] + SEED_STEP * shard
    return tuple(" ".join(text.split()) for text in prompts(seed, SHARD_TEXTS))


def perform(name: str, shard: int) -> list[Performed]:
    """All prompts of a shard: each text in every voice that is made from one of flite's."""
    done = []
    for index, text in enumerate(texts_of(name, shard)):
        for voice in VOICES_OF[index % len(VOICES_OF)]:
            try:
                _phones, semantic, score = _teacher().perform(text, VOICES[voice])
            except TeacherError:
                break
            if len(semantic) < LAYOUT.max_semantic_tokens:
                done.append(Performed(text, voice, semantic, score))
    return done


LATER = "later"  # instead of a device: only as far as no sound is made yet, see `training.voice`
SCORES = "scores"
Task = tuple[Path, str, int, str]  # work folder, set, shard, device


def _render_task(task: Task) -> tuple[int, list[Performed] | None]:
    """Render a shard, unless it is there already; on a GPU only up to where it becomes sound."""
    work, name, number, device = task
    if _path(work, name, number).exists() or _path(work / SCORES, name, number).exists():
        return number, None
    performed = perform(name, number)
    if device == LATER:
        write_scores(_path(work / SCORES, name, number), performed)
        return number, None
    if device == "cpu" or name == "pairs":
        write_shard(work, name, number, performed, device)
        return number, None
    return number, performed


def load_voices() -> None:
    """Load what the vocoder takes from flite's voices."""
    for voices in VOICES_OF:
        _teacher().perform("Hello.", VOICES[voices[0]])


def write_scores(path: Path, performed: list[Performed]) -> None:
    """Write prompts that are to become sound later, in half the precision."""
    scores = [one.score for one in performed]
    notes = [
        (number, *note)
        for number, score in enumerate(scores)
        for melody in score.melodies
        for note in melody.notes
    ]
    columns: dict[str, NDArray[np.generic]] = {
        "voices": np.array([one.voice for one in performed], np.uint8),
        "semantic": np.concatenate([one.semantic for one in performed]),
        "lengths": np.array([len(one.semantic) for one in performed], np.int64),
        "parameters": np.concatenate([score.parameters for score in scores]).astype(np.float16),
        "strengths": np.concatenate([score.strengths for score in scores]).astype(np.float16),
        "frames": np.array([len(score.parameters) for score in scores], np.int64),
        "notes": np.array(notes, np.float64).reshape(-1, 4),
    }
    _write(path, np.array([one.text for one in performed]), columns)


def read_scores(path: Path) -> list[Performed]:
    """Read what `write_scores` wrote."""
    with np.load(path, allow_pickle=False) as shard:
        columns = {key: shard[key] for key in shard.files}
    semantic = np.split(columns["semantic"], np.cumsum(columns["lengths"])[:-1])
    ends = np.cumsum(columns["frames"])[:-1]
    parameters = np.split(columns["parameters"].astype(np.float32), ends)
    strengths = np.split(columns["strengths"].astype(np.float32), ends)
    done = []
    for number, text in enumerate(columns["texts"].tolist()):
        notes = columns["notes"][columns["notes"][:, 0] == number, 1:]
        melody = Melody(tuple((float(s), float(n), int(d)) for s, n, d in notes))
        n_samples = len(semantic[number]) * 3 // 2 * FRAME_SAMPLES
        melodies = (melody,) if melody.notes else ()
        score = Score(parameters[number], strengths[number], melodies, n_samples)
        done.append(Performed(text, int(columns["voices"][number]), semantic[number], score))
    return done


def write_shard(
    work: Path, name: str, number: int, performed: list[Performed], device: str
) -> None:
    """Make the sound and the codes that a set has, and write its shard."""
    columns: dict[str, NDArray[np.generic]] = {
        "voices": np.array([one.voice for one in performed], np.uint8),
        "semantic": np.concatenate([one.semantic for one in performed]),
        "lengths": np.array([len(one.semantic) for one in performed], np.int64),
    }
    if name != "pairs":
        spoken = _voiced(performed, number, device)
        if name == "sound":
            pcm = torch.cat([torch.round(one * 32767).to(torch.int16) for one in spoken])
            columns["audio"] = pcm.cpu().numpy()
        if _has_codebooks(work):
            columns["codes"] = _codes(work, spoken, device)
    _write(_path(work, name, number), np.array([one.text for one in performed]), columns)


def _voiced(performed: list[Performed], seed: int, device: str) -> list[Tensor]:
    """Sounds of prompts, those of one voice in one go."""
    generator = torch.Generator(device).manual_seed(seed)
    made: list[Tensor | None] = [None] * len(performed)
    for number, voice in enumerate(VOICES):
        places = [i for i, one in enumerate(performed) if one.voice == number]
        excitation = _teacher().excitation(voice)
        for start in range(0, len(places), SOUNDS_AT_ONCE):
            some = places[start : start + SOUNDS_AT_ONCE]
            scores = [performed[place].score for place in some]
            for place, sound in zip(
                some, sounds(scores, voice, excitation, generator), strict=True
            ):
                made[place] = sound
    return [one for one in made if one is not None]


def _has_codebooks(work: Path) -> bool:
    from training import codec

    return (work / codec.CODEBOOKS).exists()


def _codes(work: Path, spoken: list[Tensor], device: str) -> NDArray[np.uint16]:
    """Codes of sounds, each by itself: uint16 [4, all frames]."""
    books = _codebooks(work, device)
    latents = torch.cat([books.latents(one) for one in spoken])
    return books.encode(latents).to(torch.int32).cpu().numpy().astype(np.uint16)


def _path(work: Path, name: str, number: int) -> Path:
    return work / name / f"{number:07d}.npz"


def _write(path: Path, texts: NDArray[np.str_], columns: dict[str, NDArray[np.generic]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(f".{os.getpid()}.part.npz")
    np.savez(part, texts=texts, **columns)  # type: ignore[arg-type]
    part.replace(path)


def add_codes(work: Path) -> None:
    """Give "sound" its codes, now that there are codebooks."""
    for path in shards(work, "sound"):
        with np.load(path, allow_pickle=False) as shard:
            columns = {key: shard[key] for key in shard.files}
        ends = np.cumsum(columns["lengths"] * 3 // 2 * FRAME_SAMPLES)[:-1]
        pieces = np.split(columns["audio"].astype(np.float32) / 32768, ends)
        columns["codes"] = _codes(work, [torch.from_numpy(piece) for piece in pieces], "cpu")
        _write(path, columns.pop("texts"), columns)


def render(work: Path, name: str, numbers: range, jobs: int, device: str) -> Iterator[int]:
    """Render shards of a set, in parallel; yields the number of each as it is done."""
    tasks = [(work, name, number, device) for number in numbers]
    if device not in ("cpu", LATER):
        load_voices()
    with multiprocessing.get_context("spawn").Pool(jobs) as pool:
        for number, performed in pool.imap_unordered(_render_task, tasks):
            if performed is not None:
                write_shard(work, name, number, performed, device)
            yield number


def _offsets(lengths: NDArray[np.generic]) -> NDArray[np.int64]:
    return np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `python -m training data`."""
    parser.add_argument("--work", type=Path, default=DEFAULT_WORK)
    parser.add_argument("--only", choices=SETS, nargs="+", default=SETS)
    parser.add_argument("--sound", type=int, default=2_400, help="texts with sound")
    parser.add_argument("--codes", type=int, default=36_000, help="texts with codes")
    parser.add_argument("--pairs", type=int, default=60_000, help="texts without either")
    parser.add_argument("--first", type=int, default=0, help="number of the first shard")
    parser.add_argument("--device", default="cpu", help="where the sound is made; or later")
    parser.add_argument("--jobs", type=int, default=2, help="processes")


def main(args: argparse.Namespace) -> None:
    """Render the sets that were asked for."""
    for name in args.only:
        if name == "codes" and not _has_codebooks(args.work):
            raise SystemExit(
                f"no codebooks in {args.work}: run `python -m training codec`, which needs the "
                "sound, then this again"
            )
        last = args.first - (-getattr(args, name) // SHARD_TEXTS)
        for done, number in enumerate(
            render(args.work, name, range(args.first, last), args.jobs, args.device), 1
        ):
            print(f"{name}: shard {number}, {done} of {last - args.first}", flush=True)

"""`python -m training data`: what pup learns from, rendered by the teacher.

Two sets, each in a folder of its own under the work folder:

- `pairs`: text and semantic tokens, no sound;
- `sound`: the same with the sound and, once the codebooks exist, its codes.

Rendering goes in shards, so that it can be stopped and taken up again. A set is published by
swapping a symbolic link: readers that have the old one open are not disturbed.
"""

from __future__ import annotations

import argparse
import functools
import multiprocessing
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from training.teacher import FRAME_SAMPLES, VOICES, Teacher, TeacherError, frames_of

SHARD_SENTENCES = 200
HELD_OUT_SHARE = 0.02  # the last sentences of each set are for validation
DEFAULT_WORK = Path("training/work")
SEEDS = {"sound": 1, "pairs": 2}


@dataclass(frozen=True, slots=True)
class Dataset:
    """A published set. Sentence i owns the slice offsets[i]:offsets[i + 1] of the flat arrays.

    Attributes:
        texts: N sentences.
        voices: uint8 [N], indices into teacher.VOICES.
        semantic, offsets: uint8 flat tokens; int64 [N + 1].
        codes, frame_offsets: uint16 [4, all frames]; int64 [N + 1]. None without codes.
        audio, audio_offsets: int16 flat, 24 kHz, a read-only memmap; int64 [N + 1]. None in pairs.
    """

    texts: tuple[str, ...]
    voices: NDArray[np.uint8]
    semantic: NDArray[np.uint8]
    offsets: NDArray[np.int64]
    codes: NDArray[np.uint16] | None = None
    frame_offsets: NDArray[np.int64] | None = None
    audio: NDArray[np.int16] | None = None
    audio_offsets: NDArray[np.int64] | None = None

    def __len__(self) -> int:
        return len(self.texts)

    @property
    def n_training(self) -> int:
        """Sentences to train on; those from here on are for validation."""
        return len(self) - max(1, int(len(self) * HELD_OUT_SHARE))

    def semantic_of(self, index: int) -> NDArray[np.uint8]:
        """Semantic tokens of one sentence, uint8 [S]."""
        return self.semantic[self.offsets[index] : self.offsets[index + 1]]

    def codes_of(self, index: int) -> NDArray[np.uint16]:
        """Codes of one sentence, uint16 [4, floor(1.5 * S)]."""
        if self.codes is None or self.frame_offsets is None:
            raise ValueError("this set has no codes: run `python -m training codec` first")
        return self.codes[:, self.frame_offsets[index] : self.frame_offsets[index + 1]]

    def audio_of(self, index: int) -> NDArray[np.float32]:
        """Sound of one sentence, float32 [480 * floor(1.5 * S)] at 24 kHz, -1..1."""
        if self.audio is None or self.audio_offsets is None:
            raise ValueError("this set has no sound: load 'sound' instead of 'pairs'")
        pcm = self.audio[self.audio_offsets[index] : self.audio_offsets[index + 1]]
        samples: NDArray[np.float32] = pcm.astype(np.float32) / np.float32(32768)
        return samples


def load(work: Path, name: str) -> Dataset:
    """Load a published set.

    Args:
        work: the work folder.
        name: "pairs" or "sound".
    """
    folder = work / name
    if not folder.exists():
        raise FileNotFoundError(f"no set at {folder}: run `python -m training data` first")
    # Resolved once, so that all files are of one publication.
    folder = folder.resolve()
    arrays = {}
    for path in folder.glob("*.npy"):
        arrays[path.stem] = np.load(path, mmap_mode="r" if path.stem == "audio" else None)
    texts = (folder / "texts.txt").read_text(encoding="utf-8").splitlines()
    return Dataset(texts=tuple(texts), **arrays)


def write_atomic(path: Path, data: bytes) -> None:
    """Write a file so that a reader sees the old one or the new one, never a part."""
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    part.write_bytes(data)
    part.replace(path)


@functools.cache
def _teacher() -> Teacher:
    return Teacher()


def _render_shard(path: Path, texts: tuple[str, ...], first: int, with_sound: bool) -> int:
    """Render one shard, unless it is there already. Returns the sentences that flite refused."""
    if path.exists() and _shard_matches(path, texts):
        return 0
    said: list[str] = []
    voices, semantic, audio = [], [], []
    for index, text in enumerate(texts, first):
        voice = index % len(VOICES)
        try:
            spoken = _teacher().say(text, VOICES[voice], with_sound=with_sound)
        except TeacherError:
            continue
        said.append(text)
        voices.append(voice)
        semantic.append(spoken.semantic)
        audio.append(np.round(spoken.samples * 32767).astype(np.int16))
    part = path.with_suffix(".part.npz")
    np.savez(
        part,
        asked=np.array(texts),
        texts=np.array(said),
        voices=np.array(voices, np.uint8),
        semantic=np.concatenate(semantic),
        lengths=np.array([len(tokens) for tokens in semantic], np.int64),
        audio=np.concatenate(audio),
    )
    part.replace(path)
    return len(texts) - len(said)


def _shard_matches(path: Path, texts: tuple[str, ...]) -> bool:
    with np.load(path, allow_pickle=False) as shard:
        return tuple(shard["asked"].tolist()) == texts


def _render_task(task: tuple[Path, tuple[str, ...], int, bool]) -> int:
    return _render_shard(*task)


def render(work: Path, name: str, texts: tuple[str, ...], jobs: int) -> Iterator[int]:
    """Render a set's shards, in parallel; yields how many are done after each."""
    folder = work / "shards" / name
    folder.mkdir(parents=True, exist_ok=True)
    tasks = [
        (
            folder / f"{start:07d}.npz",
            texts[start : start + SHARD_SENTENCES],
            start,
            name == "sound",
        )
        for start in range(0, len(texts), SHARD_SENTENCES)
    ]
    with multiprocessing.get_context("spawn").Pool(jobs) as pool:
        for done, _refused in enumerate(pool.imap(_render_task, tasks), 1):
            yield done


def publish(work: Path, name: str, n_shards: int) -> Path:
    """Join the first shards into a set that `load` reads, and swap it in.

    Codes are added to "sound" if the codebooks exist.
    """
    shards = sorted((work / "shards" / name).glob("[0-9]*[0-9].npz"))[:n_shards]
    target = work / f"{name}-{n_shards:04d}"
    part = work / f"{name}-{n_shards:04d}.part"
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    columns: dict[str, list[NDArray[np.generic]]] = {}
    texts: list[str] = []
    for path in shards:
        with np.load(path, allow_pickle=False) as shard:
            texts += shard["texts"].tolist()
            for key in ("voices", "semantic", "lengths", "audio"):
                columns.setdefault(key, []).append(shard[key])
    lengths = np.concatenate(columns["lengths"])
    (part / "texts.txt").write_text("\n".join(texts) + "\n", encoding="utf-8")
    np.save(part / "voices.npy", np.concatenate(columns["voices"]))
    np.save(part / "semantic.npy", np.concatenate(columns["semantic"]))
    np.save(part / "offsets.npy", _offsets(lengths))
    if name == "sound":
        frames = _offsets(np.array([frames_of(int(n)) for n in lengths]))
        np.save(part / "frame_offsets.npy", frames)
        np.save(part / "audio_offsets.npy", frames * FRAME_SAMPLES)
        np.save(part / "audio.npy", np.concatenate(columns["audio"]))
        _add_codes(work, part)
    if target.exists():  # a reader may have it open: it keeps what it has
        shutil.rmtree(target)
    part.rename(target)
    link = work / f"{name}.link"
    link.unlink(missing_ok=True)
    link.symlink_to(target.name)
    link.replace(work / name)
    return target


def publish_codes(work: Path) -> None:
    """Publish "sound" again, now that there are codebooks."""
    publish(work, "sound", int((work / "sound").resolve().name.rpartition("-")[2]))


def _add_codes(work: Path, folder: Path) -> None:
    from training import codec  # the codec needs torch and reads this module's sets

    if (work / codec.CODEBOOKS).exists():
        audio = np.load(folder / "audio.npy", mmap_mode="r")
        offsets = np.load(folder / "audio_offsets.npy")
        np.save(folder / "codes.npy", codec.encode_all(codec.load_codebooks(work), audio, offsets))


def _offsets(lengths: NDArray[np.generic]) -> NDArray[np.int64]:
    return np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)


def sentences_of(name: str, count: int) -> tuple[str, ...]:
    """The sentences of a set; held-out ones are never among them."""
    from training.sentences import sentences

    return tuple(" ".join(text.split()) for text in sentences(SEEDS[name], count))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `python -m training data`."""
    parser.add_argument("--work", type=Path, default=DEFAULT_WORK)
    parser.add_argument("--sound", type=int, default=6_000, help="sentences with sound")
    parser.add_argument("--pairs", type=int, default=30_000, help="sentences without sound")
    parser.add_argument("--jobs", type=int, default=2, help="processes")
    parser.add_argument("--early", type=int, default=0, help="publish also after so many shards")


def main(args: argparse.Namespace) -> None:
    """Render and publish both sets."""
    for name, count in (("sound", args.sound), ("pairs", args.pairs)):
        if count == 0:
            continue
        done = 0
        for done in render(args.work, name, sentences_of(name, count), args.jobs):
            print(f"{name}: {done * SHARD_SENTENCES} of {count} sentences", flush=True)
            if done == args.early:
                print(f"published {publish(args.work, name, done)}", flush=True)
        print(f"published {publish(args.work, name, done)}", flush=True)

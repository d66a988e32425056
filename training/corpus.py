"""Sets of the teacher's prompts as flat tensors on a device, from which batches are gathered.

A row of a batch is built by index arithmetic for the whole batch at once, on the device, so that
assembling it costs next to nothing beside learning from it. While a set is still being rendered,
`refresh` adds what is new.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bark_core.tokenizer import Tokenizer
from training import data
from training.pup import LAYOUT
from training.teacher import FRAME_SAMPLES
from training.vocabulary import character_vocabulary

Columns = dict[str, NDArray[Any]]

LEAST_TOKENS = 4  # shorter prompts hold no frame worth learning from


@dataclass(slots=True)
class Ragged:
    """Rows of different lengths, one behind the other.

    Attributes:
        flat: [all].
        starts, lengths: int64 [N].
    """

    flat: Tensor
    starts: Tensor
    lengths: Tensor

    def at(self, index: Tensor, places: Tensor) -> Tensor:
        """Values int64 at places [B, W] of rows [B]; a place outside its row gives anything."""
        where = (self.starts[index][:, None] + places).clamp(0, len(self.flat) - 1)
        return self.flat[where].long()

    def rows(self, index: Tensor, width: int, fill: int, first: Tensor | None = None) -> Tensor:
        """Rows [B] from places `first` [B] on, `fill` where there is none: int64 [B, width]."""
        places = torch.arange(width, device=index.device).expand(len(index), width)
        if first is not None:
            places = places + first[:, None]
        inside = (places >= 0) & (places < self.lengths[index][:, None])
        return torch.where(inside, self.at(index, places), fill)


class Corpus:
    """Prompts of one or more sets.

    Args:
        names: of data.SETS.
        kind: what is held beside the semantic tokens: "text", "codes", or "sound" (with codes).
        held_out: the shards that are for validation, instead of the others.
    """

    def __init__(
        self, work: Path, *names: str, kind: str, device: str = "cpu", held_out: bool = False
    ) -> None:
        self.work, self.names, self.device, self.held_out = work, names, device, held_out
        self.kind = kind
        self._tokenizer = Tokenizer.from_vocabulary(character_vocabulary())
        self._seen: set[Path] = set()
        self._columns: dict[str, list[Tensor]] = {}
        self.refresh()
        if not self._seen:
            raise FileNotFoundError(
                f"no {' or '.join(names)} in {work}: run `python -m training data` first"
            )

    @classmethod
    def of(cls, dataset: data.Dataset, device: str = "cpu") -> Corpus:
        """A corpus of prompts at hand, none of them held out."""
        corpus = cls.__new__(cls)
        corpus.work, corpus.names, corpus.device, corpus.held_out = Path(), (), device, False
        corpus.kind = "text" if dataset.codes is None else "codes"
        corpus.kind = "sound" if dataset.audio is not None else corpus.kind
        corpus._tokenizer = Tokenizer.from_vocabulary(character_vocabulary())
        corpus._seen, corpus._columns = set(), {}
        columns: Columns = {"voices": dataset.voices, "semantic": dataset.semantic}
        columns["lengths"] = np.diff(dataset.offsets)
        if dataset.codes is not None:
            columns["codes"] = dataset.codes
        if dataset.audio is not None:
            columns["audio"] = dataset.audio
        corpus._add(list(dataset.texts), columns)
        corpus._index()
        return corpus

    def __len__(self) -> int:
        return len(self.voices)

    def refresh(self) -> bool:
        """Add shards that were not there before. Returns whether there were any."""
        new = [path for path in self._paths() if path not in self._seen]
        for path in new:
            with np.load(path, allow_pickle=False) as shard:
                if self.kind != "text" and "codes" not in shard.files:
                    raise ValueError(f"{path} has no codes: run `python -m training codec` first")
                columns = {key: shard[key] for key in shard.files if key != "texts"}
                self._add(shard["texts"].tolist(), columns)
            self._seen.add(path)
        if new:
            self._index()
        return bool(new)

    def _paths(self) -> list[Path]:
        found: list[Path] = []
        for name in self.names:
            shards = data.shards(self.work, name)
            found += [p for p in shards if data.is_held_out(name, p) == self.held_out]
        return found

    def _add(self, texts: list[str], columns: Columns) -> None:
        rows = [np.array(self._tokenizer.encode(text), np.int16) for text in texts]
        fresh = {
            "text": np.concatenate(rows) + np.int16(LAYOUT.text_offset),
            "text_lengths": np.array([len(row) for row in rows], np.int64),
            "lengths": columns["lengths"].astype(np.int64),
            "voices": columns["voices"].astype(np.int64),
            "semantic": columns["semantic"],
        }
        if self.kind != "text":
            fresh["codes"] = columns["codes"].astype(np.int16)
        if self.kind == "sound":
            fresh["audio"] = columns["audio"]
        for key, values in fresh.items():
            self._columns.setdefault(key, []).append(torch.from_numpy(values))

    def _index(self) -> None:
        """Join what there is on the device."""
        for key, parts in self._columns.items():
            self._columns[key] = [torch.cat([part.to(self.device) for part in parts], dim=-1)]
        column = {key: parts[0] for key, parts in self._columns.items()}
        lengths, frames = column["lengths"], column["lengths"] * 3 // 2
        self.text = _ragged(column["text"], column["text_lengths"])
        self.said = _ragged(column["semantic"], lengths)
        self.voices = column["voices"]
        if self.kind != "text":
            self.codes = column["codes"]
            self.frames = _ragged(self.codes[0], frames)
        if self.kind == "sound":
            self.audio = _ragged(column["audio"], frames * FRAME_SAMPLES)
        fits = (self.text.lengths <= LAYOUT.text_window) & (self.text.lengths > 0)
        long = (lengths >= LEAST_TOKENS) & (lengths < LAYOUT.max_semantic_tokens)
        self.usable = (fits & long).nonzero()[:, 0]
        # once more where the host can look at them without waiting for the device
        self.n_said, self.n_text = lengths.cpu().numpy(), self.text.lengths.cpu().numpy()
        self.usable_rows = self.usable.cpu().numpy()
        # usable prompts by voice, to draw what else a voice said
        self._by_voice = self.usable[self.voices[self.usable].argsort(stable=True)]
        self._n_of_voice = self.voices[self.usable].bincount()
        self._first_of_voice = self._n_of_voice.cumsum(0) - self._n_of_voice

    def draw(self, count: int, generator: torch.Generator) -> Tensor:
        """Usable prompts at random, int64 [count]."""
        places = torch.randint(len(self.usable), (count,), generator=generator, device=self.device)
        return self.usable[places]

    def others(self, index: Tensor, generator: torch.Generator) -> Tensor:
        """For each prompt one that the same voice said, int64 [B]."""
        voice = self.voices[index]
        share = torch.rand(len(index), generator=generator, device=self.device)
        place = (share * self._n_of_voice[voice]).long()
        return self._by_voice[self._first_of_voice[voice] + place]

    def code(self, codebook: Tensor | int, index: Tensor, places: Tensor) -> Tensor:
        """Codes int64 at frames `places` [B, W] of prompts [B]; outside of them anything."""
        where = (self.frames.starts[index][:, None] + places).clamp(0, self.codes.shape[1] - 1)
        return self.codes[codebook, where].long()

    @property
    def tokens_per_letter(self) -> float:
        return float(self.said.lengths.sum() / self.text.lengths.sum())


def _ragged(flat: Tensor, lengths: Tensor) -> Ragged:
    return Ragged(flat, lengths.cumsum(0) - lengths, lengths)


def randint(
    low: int, high: Tensor | int, count: int, generator: torch.Generator, device: str
) -> Tensor:
    """Integers low..high - 1, each with a bound of its own, int64 [count]."""
    share = torch.rand(count, generator=generator, device=device)
    return low + (share * (high - low)).long()


def chance(share: float, count: int, generator: torch.Generator, device: str) -> Tensor:
    """True so often, bool [count]."""
    return torch.rand(count, generator=generator, device=device) < share

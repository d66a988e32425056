"""Rows: prompts, and what is drawn behind each, many at a time. What the engine decodes with.

A row is a segment's semantic tokens, or the coarse tokens of one window. It carries all that
decides its tokens: the prompt, which ids may come, how and with which numbers they are drawn,
when it ends. A row decoder makes them; there may be several kinds, for different devices. This
module holds what they have in common, and the plain one, which runs anywhere.

The law of all of them: a row's tokens don't depend on the rows beside it, nor on when those come
and go. In float32 on a CPU that holds bit for bit.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol

import torch
from torch import Tensor

from bark_core.request import SamplingParams
from bark_core.sampling import pick, probabilities
from bark_core.transformer import PREFILL_CHUNK, CausalGPT, Decoder, KVCache


class RowState(StrEnum):
    """Where a row is in its life."""

    RUNNING = "running"  # it waits for its prompt, or goes on
    FULL = "full"  # it made all its steps
    ENDED = "ended"  # the model said that it is over
    BROKEN = "broken"  # its logits weren't finite


@dataclass(frozen=True, slots=True)
class RowStart:
    """A row that is to begin.

    Args:
        prompt: embeddings without positions, [T, C], on the model's device and in its precision.
        ranges: ids [start, stop) that may come: step i uses ranges[i % len(ranges)].
        n_steps: most tokens to make; all but the last have to fit into the model behind the
            prompt.
        uniforms: float32 [n_steps] on the CPU, each in [0, 1): step i draws with the i-th.
        sampling: temperature (0 takes the likeliest), top-k, top-p.
        end: this id, the last of its range, ends the row and isn't one of its tokens.
        min_end_p: so does an end that is at least as likely in what was just drawn from.
    """

    prompt: Tensor
    ranges: tuple[tuple[int, int], ...]
    n_steps: int
    uniforms: Tensor
    sampling: SamplingParams
    end: int | None = None
    min_end_p: float | None = None


@dataclass(frozen=True, slots=True)
class RowNews:
    """What became of a row since it was last asked for."""

    tokens: tuple[int, ...]
    state: RowState


class RowDecoder(Protocol):
    """Makes the tokens of many rows. One thread calls it, in inference mode."""

    stride: int  # steps that a turn should have: more than 1 where `run` doesn't wait

    def start(self, row: RowStart) -> int:
        """Take a row in and return its number; nothing is computed yet."""

    def prefill(self, n_positions: int) -> None:
        """Work on the prompts that wait, the oldest first, on about so many positions of them."""

    def run(self, n_steps: int) -> None:
        """Have each row whose prompt is done make up to so many tokens; needn't wait for them."""

    def collect(self) -> Mapping[int, RowNews]:
        """Wait for what runs; tell of all rows that have news. One that isn't RUNNING is gone."""

    def drop(self, row: int) -> None:
        """Give a row up at once, wherever it stands."""

    def close(self) -> None:
        """Give all memory back."""


@dataclass(slots=True)
class _Row:
    """A row on its way."""

    start: RowStart
    cache: KVCache | None = None
    n_prefilled: int = 0
    hidden: Tensor | None = None  # [1, C], from the prompt: no token was drawn from it yet
    tokens: list[int] = field(default_factory=list)
    n_told: int = 0
    state: RowState = RowState.RUNNING
    how: SamplingParams = field(init=False)

    def __post_init__(self) -> None:
        self.how = _how(self.start.sampling)

    @property
    def range(self) -> tuple[int, int]:
        return self.start.ranges[len(self.tokens) % len(self.start.ranges)]

    @property
    def ready(self) -> bool:
        """Its next token can be made."""
        prefilled = self.hidden is not None or bool(self.tokens)
        return prefilled and self.state is RowState.RUNNING

    def take(self, token: int, end_p: float) -> None:
        """Decide what a draw means: -1 that there was nothing to draw from."""
        start = self.start
        if token < 0:
            self.state = RowState.BROKEN
        elif start.end is not None and (
            token == start.end or (start.min_end_p is not None and end_p >= start.min_end_p)
        ):
            self.state = RowState.ENDED
        else:
            self.tokens.append(token)
            if len(self.tokens) == start.n_steps:
                self.state = RowState.FULL


class PlainRows:
    """The row decoder that runs anywhere: torch's own operations, a cache for each row.

    Memory is taken when a row's prompt begins and given back when the row is gone. On a CPU in
    float32 its tokens are those of the stages' own loops, bit for bit.
    """

    stride = 1

    def __init__(self, model: CausalGPT) -> None:
        self._model = model
        self._decoder: Decoder | None = None
        self._rows: dict[int, _Row] = {}
        self._numbers = itertools.count()

    def start(self, row: RowStart) -> int:
        number = next(self._numbers)
        self._rows[number] = _Row(row)
        return number

    def prefill(self, n_positions: int) -> None:
        for row in self._rows.values():
            while n_positions > 0 and row.n_prefilled < len(row.start.prompt):
                n_positions -= self._prefill_chunk(row)

    def _prefill_chunk(self, row: _Row) -> int:
        prompt = row.start.prompt
        if row.cache is None:
            row.cache = self._model.new_cache(1, len(prompt) + row.start.n_steps)
        chunk = prompt[row.n_prefilled : row.n_prefilled + PREFILL_CHUNK]
        hidden = self._model(chunk[None], row.cache, n_out=1)
        row.n_prefilled += len(chunk)
        if row.n_prefilled == len(prompt):
            row.hidden = hidden[:, -1]
        return len(chunk)

    def run(self, n_steps: int) -> None:
        for _ in range(n_steps):
            rows = [row for row in self._rows.values() if row.ready]
            if not rows:
                return
            self._draw(rows, self._next_hidden(rows))

    def _next_hidden(self, rows: Sequence[_Row]) -> Tensor:
        """The hidden states that the next tokens are drawn from, [B, C], in the rows' order."""
        self._decoder = self._decoder or self._model.decoder()
        going = [row for row in rows if row.hidden is None]
        if going:
            tokens = torch.tensor([row.tokens[-1] for row in going], device=self._model.device)
            caches = [row.cache for row in going if row.cache is not None]
            stepped = iter(torch.split(self._decoder.step(tokens, caches), 1))
        hidden = [next(stepped) if row.hidden is None else row.hidden for row in rows]
        for row in rows:
            row.hidden = None
        return torch.cat(hidden)

    def _draw(self, rows: Sequence[_Row], hidden: Tensor) -> None:
        """Draw a token for each row; those that draw in the same way do it together."""
        assert self._decoder is not None
        groups: dict[tuple[tuple[int, int], SamplingParams], list[int]] = {}
        for place, row in enumerate(rows):
            groups.setdefault((row.range, row.how), []).append(place)
        for ((start, stop), sampling), places in groups.items():
            chosen = hidden if len(places) == len(rows) else hidden[places]
            probs = probabilities(self._decoder.logits(chosen, start, stop), sampling)
            numbers = torch.stack([rows[p].start.uniforms[len(rows[p].tokens)] for p in places])
            drawn = pick(probs, numbers.to(probs.device)).tolist()
            end_p = probs[:, -1].tolist()
            for place, token, likely in zip(places, drawn, end_p, strict=True):
                rows[place].take(token + start if token >= 0 else token, likely)

    def collect(self) -> Mapping[int, RowNews]:
        news: dict[int, RowNews] = {}
        for number, row in list(self._rows.items()):
            tokens = tuple(row.tokens[row.n_told :])
            row.n_told = len(row.tokens)
            if row.state is not RowState.RUNNING:
                del self._rows[number]
            elif not tokens:
                continue
            news[number] = RowNews(tokens, row.state)
        return news

    def drop(self, row: int) -> None:
        self._rows.pop(row, None)

    def close(self) -> None:
        self._rows.clear()
        self._decoder = None


def _how(params: SamplingParams) -> SamplingParams:
    """Only what the drawing itself depends on: rows of several stages' settings compare equal."""
    return SamplingParams(temperature=params.temperature, top_k=params.top_k, top_p=params.top_p)

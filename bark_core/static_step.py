"""One decode step of many rows that never asks the host: all it depends on is in device tensors.

So a step can be captured in a CUDA graph and replayed: tokens, lengths, states and settings of
the rows are read and written where they lie, and a row that is over changes nothing any more.
`StaticStep` computes it with torch's own operations, on any device; `triton_step` computes the
same with kernels of its own.

Axes: S slots (the rows that there is room for, and one that stays empty), B rows of a step,
T positions, C channels, H heads, D channels a head, V ids of a range.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import IntEnum
from typing import Literal, Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from bark_core.cpu_step import LayerWeights, LinearWeights, NormWeights, StepWeights
from bark_core.sampling import pick
from bark_core.transformer import NORM_EPS, CausalGPT

CacheBits = Literal["model", "int8"]
WeightBits = Literal["model", "int8", "float8"]
MAX_TURNS = 4  # ranges of ids that may follow each other in a row


class SlotState(IntEnum):
    """What a device knows of a row."""

    RUNNING = 0
    FULL = 1
    ENDED = 2
    BROKEN = 3


@dataclass(frozen=True, slots=True)
class Span:
    """The ids that an output head must cover, and the most of one range."""

    first_id: int
    stop_id: int
    widest: int

    def joined(self, other: Span) -> Span:
        return Span(
            min(self.first_id, other.first_id),
            max(self.stop_id, other.stop_id),
            max(self.widest, other.widest),
        )


class Slots:
    """Where the rows stand: one tensor, a column a slot, and names for its lines.

    A row begins by one copy of its column. `draws` and `out` hold a row's numbers and tokens.
    """

    N_LINES = 12 + 2 * MAX_TURNS

    def __init__(self, n_slots: int, n_draws: int, device: torch.device) -> None:
        self.n_slots, self.n_draws = n_slots, n_draws
        self.lines = torch.zeros((self.N_LINES, n_slots), dtype=torch.int32, device=device)
        real = self.lines.view(torch.float32)
        (
            self.state, self.token, self.length, self.made, self.offset, self.n_turns, self.limit,
            self.end, self.top_k,
        ) = self.lines[:9]  # fmt: skip
        self.temperature, self.top_p, self.min_end = real[9:12]  # 0; none: -1; none: 2
        self.starts = self.lines[12 : 12 + MAX_TURNS]  # (turn, S)
        self.counts = self.lines[12 + MAX_TURNS :]
        self.state.fill_(SlotState.FULL)
        self.n_turns.fill_(1)
        self.draws = torch.zeros((n_slots, n_draws), dtype=torch.float32, device=device)
        self.out = torch.zeros((n_slots, n_draws), dtype=torch.int32, device=device)

    def take(self, other: Slots, n: int) -> None:
        """The first n slots of others, which are as long."""
        self.lines[:, :n] = other.lines[:, :n]
        self.draws[:n] = other.draws[:n]
        self.out[:n] = other.out[:n]


class SlotCache:
    """Keys and values of all slots, in the model's precision or in 8 bits.

    In 8 bits there is one scale a position and head: the largest of its D numbers is 127.
    """

    def __init__(
        self, model: CausalGPT, n_slots: int, capacity: int, bits: CacheBits = "model"
    ) -> None:
        config = model.config
        shape = (config.n_layer, n_slots, config.n_head, capacity, config.n_embd // config.n_head)
        dtype = model.dtype if bits == "model" else torch.int8
        self.capacity = capacity
        self.keys = torch.zeros(shape, dtype=dtype, device=model.device)
        self.values = torch.zeros_like(self.keys)
        self.key_scales: Tensor | None = None
        self.value_scales: Tensor | None = None
        if bits == "int8":
            self.key_scales = torch.zeros(shape[:-1], dtype=torch.float32, device=model.device)
            self.value_scales = torch.zeros_like(self.key_scales)

    def take(self, other: SlotCache, n: int) -> None:
        """The first n slots of another cache of the same model and kind."""
        for mine, theirs in (
            (self.keys, other.keys),
            (self.values, other.values),
            (self.key_scales, other.key_scales),
            (self.value_scales, other.value_scales),
        ):
            if mine is not None and theirs is not None:
                mine[:, :n] = theirs[:, :n]

    def write(self, layer: int, slots: Tensor, keys: Tensor, values: Tensor) -> None:
        """Keys and values [n, H, T, D] of positions 0..T - 1 of n slots."""
        length = keys.shape[2]
        for new, kept, scales in self._pairs(keys, values):
            if scales is None:
                kept[layer, :, :, :length].index_copy_(0, slots, new)
                continue
            whole, scale = quantised(new)
            kept[layer, :, :, :length].index_copy_(0, slots, whole)
            scales[layer, :, :, :length].index_copy_(0, slots, scale)

    def write_at(
        self, layer: int, slots: Tensor, places: Tensor, keys: Tensor, values: Tensor
    ) -> None:
        """Keys and values [B, H, D] of one position each."""
        for new, kept, scales in self._pairs(keys, values):
            if scales is not None:
                new, scale = quantised(new)
                scales[layer][slots, :, places] = scale
            kept[layer][slots, :, places] = new

    def read(self, layer: int, slots: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Keys and values [B, H, T, D] of all positions, live or not."""
        keys, values = self.keys[layer][slots], self.values[layer][slots]
        if self.key_scales is None or self.value_scales is None:
            return keys, values
        return (
            (keys * self.key_scales[layer][slots][..., None]).to(dtype),
            (values * self.value_scales[layer][slots][..., None]).to(dtype),
        )

    def _pairs(
        self, keys: Tensor, values: Tensor
    ) -> tuple[tuple[Tensor, Tensor, Tensor | None], ...]:
        return (
            (keys, self.keys, self.key_scales),
            (values, self.values, self.value_scales),
        )


def quantised_rows(weight: Tensor, bits: WeightBits) -> tuple[Tensor, Tensor]:
    """A weight matrix in 8 bits with a scale a row: [N, K] to [N, K] and float32 [N]."""
    top = weight.float().abs().amax(dim=1).clamp_min(1e-12)
    if bits == "int8":
        scale = top / 127
        return (weight.float() / scale[:, None]).round().to(torch.int8), scale
    scale = top / 448  # the largest float8 of this kind
    return (weight.float() / scale[:, None]).to(torch.float8_e4m3fn), scale


def quantised(x: Tensor) -> tuple[Tensor, Tensor]:
    """int8 and its scale, float32, over the last axis: [..., D] to [..., D] and [...]."""
    scale = x.float().abs().amax(dim=-1).clamp_min(1e-20) / 127
    return torch.floor(x.float() / scale[..., None] + 0.5).to(torch.int8), scale


class Step(Protocol):
    """One step of a fixed number of rows, which are those of `rows` [B], numbers of slots."""

    rows: Tensor

    def launch(self) -> Tensor:
        """Each row's last token through the model, the next one drawn; the logits."""

    def close(self) -> None: ...


class StaticStep:
    """A step by torch's own operations.

    Args:
        n_rows: B.
        span: ids that rows may draw.
        bits: precision that the weights are rounded to; computed with in the model's own.
    """

    def __init__(
        self,
        model: CausalGPT,
        cache: SlotCache,
        slots: Slots,
        n_rows: int,
        span: Span,
        bits: WeightBits = "model",
    ) -> None:
        config = model.config
        self._cache, self._slots, self._span = cache, slots, span
        self._heads = (config.n_head, config.n_embd // config.n_head)
        self._weights = model.step_weights()
        if bits != "model":
            self._weights = _rounded(self._weights, bits)
        self.rows = torch.full((n_rows,), slots.n_slots - 1, dtype=torch.int32, device=model.device)
        self._positions = torch.arange(cache.capacity, device=model.device)

    def launch(self) -> Tensor:
        slots, rows, weights = self._slots, self.rows.long(), self._weights
        alive = slots.state[rows] == SlotState.RUNNING
        places = slots.length[rows].long().where(alive, 0)
        # whoever is over must not write where the slot's next row may already be
        writable = rows.where(alive, slots.n_slots - 1)
        x = F.embedding(slots.token[rows], weights.tokens) + weights.positions[places]
        seen = (self._positions <= places[:, None])[:, None, None]  # (B, 1, 1, T)
        for layer, of_layer in enumerate(weights.layers):
            x = self._layer(layer, of_layer, x, seen, rows, writable, places)
        head = weights.head.weight[self._span.first_id : self._span.stop_id]
        logits = F.linear(normed(x, weights.last_norm), head)
        draw_tokens(logits, rows, slots, self._span, advance=True)
        return logits

    def _layer(
        self,
        layer: int,
        weights: LayerWeights,
        x: Tensor,
        seen: Tensor,
        rows: Tensor,
        writable: Tensor,
        places: Tensor,
    ) -> Tensor:
        qkv = linear(normed(x, weights.norm_1), weights.attention)
        q, k, v = qkv.view(len(x), 3, *self._heads).unbind(1)  # (B, H, D)
        self._cache.write_at(layer, writable, places, k, v)
        keys, values = self._cache.read(layer, rows, x.dtype)
        y = F.scaled_dot_product_attention(q.unsqueeze(2), keys, values, attn_mask=seen)
        x = x + linear(y.flatten(1), weights.projection)
        return x + widened(normed(x, weights.norm_2), weights)

    def close(self) -> None:
        """It holds nothing of its own."""


def _rounded(weights: StepWeights, bits: WeightBits) -> StepWeights:
    def of(linear: LinearWeights) -> LinearWeights:
        packed, scale = quantised_rows(linear.weight, bits)
        weight = (packed.float() * scale[:, None]).to(linear.weight.dtype)
        return replace(linear, weight=weight)

    layers = tuple(
        replace(
            layer,
            attention=of(layer.attention),
            projection=of(layer.projection),
            widening=of(layer.widening),
            narrowing=of(layer.narrowing),
        )
        for layer in weights.layers
    )
    return replace(weights, layers=layers, head=of(weights.head))


def normed(x: Tensor, norm: NormWeights) -> Tensor:
    """Layer normalisation, [..., C]."""
    return torch.layer_norm(x, x.shape[-1:], norm.weight, norm.bias, NORM_EPS)


def linear(x: Tensor, weights: LinearWeights) -> Tensor:
    """[..., K] to [..., N]."""
    return F.linear(x, weights.weight, weights.bias)


def widened(x: Tensor, weights: LayerWeights) -> Tensor:
    """The two linear layers around a GELU."""
    return linear(F.gelu(linear(x, weights.widening)), weights.narrowing)


def draw_tokens(logits: Tensor, rows: Tensor, slots: Slots, span: Span, *, advance: bool) -> None:
    """Draw one token a row, note it, and decide whether the row goes on; never waits.

    Args:
        logits: [B, span.stop_id - span.first_id].
        rows: int64 [B], the slots.
        advance: the row's cache has got one position more.
    """
    alive = slots.state[rows] == SlotState.RUNNING
    made = slots.made[rows]
    offset, counts = slots.offset[rows], slots.counts[made % slots.n_turns[rows], rows]
    ids = torch.arange(span.widest, device=logits.device)
    at = (offset - span.first_id)[:, None] + ids
    live = ids < counts[:, None]
    chosen = logits.float().gather(1, at.clamp(0, logits.shape[1] - 1).long())
    probs = row_probabilities(chosen.masked_fill(~live, -torch.inf), rows, slots)
    index = pick(probs, slots.draws[rows, made.clamp_max(slots.n_draws - 1).long()])
    token = (offset + index).int()
    of_end = probs.gather(1, (counts - 1).clamp_min(0)[:, None].long())[:, 0]
    end = slots.end[rows]
    over = (end >= 0) & ((token == end) | (of_end >= slots.min_end[rows]))
    broken = index < 0
    appended = alive & ~broken & ~over
    n_made = made + appended.int()
    state = torch.where(n_made >= slots.limit[rows], SlotState.FULL, SlotState.RUNNING)
    state = torch.where(over, SlotState.ENDED, state)
    state = torch.where(broken, SlotState.BROKEN, state).int()
    spare = slots.n_slots - 1
    place = made.clamp_max(slots.n_draws - 1).long()
    # what else is drawn is no token of the model, and must not be looked up even in the spare slot
    slots.out[rows.where(appended, spare), place] = token.where(appended, 0)
    slots.token[rows.where(appended, spare)] = token.where(appended, 0)
    slots.made[rows] = n_made
    slots.offset[rows] = slots.starts[n_made % slots.n_turns[rows], rows]
    slots.state[rows] = torch.where(alive, state, slots.state[rows])
    if advance:
        slots.length[rows] = slots.length[rows] + alive.int()


def row_probabilities(logits: Tensor, rows: Tensor, slots: Slots) -> Tensor:
    """What each row draws from, by its own settings: float32 [B, V] to [B, V].

    The same as `sampling.probabilities`, whose settings are the same for all rows.
    """
    top_p, top_k = slots.top_p[rows][:, None], slots.top_k[rows][:, None]
    ordered, order = torch.sort(logits, dim=-1, descending=True)
    beyond = torch.cumsum(torch.softmax(ordered, dim=-1), dim=-1) > top_p
    beyond = torch.roll(beyond, 1, dims=-1)
    beyond[:, 0] = False
    beyond &= top_p >= 0
    logits = logits.masked_fill(torch.zeros_like(beyond).scatter(1, order, beyond), -torch.inf)
    # what top-p left is still in order: the k-th of all is the k-th of it, or below it
    kth = ordered.gather(1, (top_k - 1).clamp(0, logits.shape[1] - 1).long())
    logits = logits.masked_fill((logits < kth) & (top_k > 0), -torch.inf)
    temperature = slots.temperature[rows][:, None]
    greedy = temperature == 0
    soft = torch.softmax(logits / temperature.where(~greedy, 1.0), dim=-1)
    best = logits.argmax(dim=-1, keepdim=True)
    sharp = torch.zeros_like(soft).scatter(1, best, soft.sum(dim=-1, keepdim=True) * 0 + 1)
    return torch.where(greedy, sharp, soft)

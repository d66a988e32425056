"""What `static_step.StaticStep` does, with few and fast launches. Needs triton.

Up to some rows each output is a dot product of a row of weights, which are read once (`product`);
beyond that, in half precision, the matrix units are faster (`products`). What the kernels are and
why they don't wait for each other is told in `triton_kernels`.

Axes: B rows of a step, N outputs, K inputs, C channels.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
import triton
from torch import Tensor
from torch.nn import functional as F

from bark_core import triton_kernels as kernels
from bark_core.cpu_step import LinearWeights, NormWeights
from bark_core.static_step import SlotCache, Slots, Span, WeightBits, quantised_rows
from bark_core.transformer import NORM_EPS, CausalGPT


@dataclass(frozen=True, slots=True)
class Cuts:
    """How launches are cut; the defaults are what was fastest on an H200.

    Args:
        overlap: when a launch may begin to load weights (Hopper and newer): 0: behind the one
            before it, 1: when that has begun its work, 2: as soon as there is room.
        matrix_rows: from so many rows on, in half precision, the matrix units are used.
        rows: rows that share one reading of the weights, below that.
        weight_bytes: most weights that one program holds at once.
        programs: least programs of a launch, as far as there are outputs.
        split: positions that one program of an attention sees, below that.
        many_programs: least programs of an attention, for many rows; each reads its part
            many_tile positions at a time.
    """

    overlap: int = 2
    matrix_rows: int = 8
    rows: int = 2
    weight_bytes: int = 32768
    programs: int = 128
    warps: int = 8
    split: int = 256
    split_warps: int = 8
    many_programs: int = 512
    many_tile: int = 64
    many_warps: int = 2
    many_stages: int = 3


# what was fastest for many rows whose keys and values are in 8 bits, with tiles twice as long
QUANTISED_CUTS = {"many_warps": 4, "many_stages": 2}


@dataclass(frozen=True, slots=True)
class Matrix:
    """Weights [N, K] in any precision, and what goes with them."""

    exact: Tensor  # in the model's precision
    weight: Tensor  # the same, or in 8 bits
    scale: Tensor | None  # float32 [N], of weights in 8 bits
    bias: Tensor | None  # [N]
    gain: Tensor | None = None  # [K] of the norm before it
    shift: Tensor | None = None  # [K]
    sums: Tensor | None = None  # float32 [N], weight @ gain
    shifted: Tensor | None = None  # float32 [N], bias + weight @ shift

    @property
    def n_outputs(self) -> int:
        return int(self.weight.shape[0])

    @property
    def n_inputs(self) -> int:
        return int(self.weight.shape[1])


def pack(of: LinearWeights, norm: NormWeights | None, bits: WeightBits) -> Matrix:
    """A linear layer behind a norm, ready for the kernels; by rows where 8 bits are asked for."""
    weight, bias = of.weight.detach(), of.bias
    scale = None
    packed = weight
    if bits != "model":
        packed, scale = quantised_rows(weight, bits)
    gain, shift = (None, None) if norm is None else (norm.weight, norm.bias)
    sums = shifted = None
    if gain is not None:
        real = packed.float() if scale is None else packed.float() * scale[:, None]
        sums = real @ gain.float()
        if shift is not None or bias is not None:
            shifted = torch.zeros_like(sums) if bias is None else bias.float()
            if shift is not None:
                shifted = shifted + real @ shift.float()
    elif bias is not None:
        shifted = bias.float()
    return Matrix(weight, packed.contiguous(), scale, bias, gain, shift, sums, shifted)


class TritonStep:
    """The launches of one step, for a fixed number of rows.

    Args:
        n_rows: B.
        span: ids that rows may draw.
    """

    def __init__(
        self,
        weights: PackedWeights,
        cache: SlotCache,
        slots: Slots,
        n_rows: int,
        span: Span,
        cuts: Cuts | None = None,
    ) -> None:
        self.weights, self.cache, self.slots = weights, cache, slots
        self.n_rows, self.span = n_rows, span
        self.cuts = cuts = cuts or Cuts()
        config, device, dtype = weights.config, weights.device, weights.dtype
        width, n_ids = config.n_embd, span.stop_id - span.first_id
        self.matrix = n_rows >= cuts.matrix_rows and dtype != torch.float32
        self.rows = torch.full((n_rows,), slots.n_slots - 1, dtype=torch.int32, device=device)
        # each row its own range of the head, where each row reads its own weights
        self.whole_head = self.matrix or span.widest >= n_ids
        self.n_logits = n_ids if self.whole_head else span.widest
        quantised = cache.key_scales is not None
        if quantised and self.matrix:
            self.cuts = cuts = replace(cuts, many_tile=cuts.many_tile * 2, **QUANTISED_CUTS)
        self.tile = cuts.many_tile if self.matrix else cuts.split
        parts = triton.cdiv(cache.capacity, self.tile)
        if self.matrix:
            parts = min(parts, triton.cdiv(cuts.many_programs, n_rows * config.n_head))
        self.splits = parts
        self.tiles = triton.cdiv(cache.capacity, self.tile * self.splits)

        def real(*shape: int) -> Tensor:
            return torch.zeros(shape, dtype=torch.float32, device=device)

        self.x, self.qkv = real(n_rows, width), real(n_rows, 3 * width)
        self.logits = real(n_rows, self.n_logits)
        self.parts = real(n_rows, self.splits, width)
        self.part_weights = real(n_rows, self.splits, 2, width)
        self.attended, self.wide = real(n_rows, width), real(n_rows, 4 * width)
        self.half = self.delta = self.x
        if self.matrix:
            self.half, self.delta = self.x.to(dtype), self.x.to(dtype)
            self.qkv, self.attended = self.qkv.to(dtype), self.attended.to(dtype)
            self.wide = self.wide.to(dtype)

    def launch(self) -> Tensor:
        """Embed each row's last token, run the layers, draw the next one; the logits."""
        overlap = 0 if self.matrix else self.cuts.overlap
        self._embed(overlap)
        for layer, weights in enumerate(self.weights.layers):
            if self.matrix:
                self._matrix_layer(layer, weights)
            else:
                self._layer(layer, weights)
        self._head()
        draw_tokens(
            self.logits, self.rows, self.slots, self.span,
            whole=self.whole_head, advance=True, overlap=overlap,
        )  # fmt: skip
        return self.logits

    def _embed(self, overlap: int) -> None:
        w, s = self.weights, self.slots
        width = w.config.n_embd
        kernels.embed[(self.n_rows,)](
            s.token, s.length, self.rows, w.table, w.positions, self.x, width,
            BLOCK=triton.next_power_of_2(width), PDL=overlap, **_launch(overlap),
        )  # fmt: skip

    def _layer(self, layer: int, w: LayerMatrices) -> None:
        self._product(w.qkv, self.x, self.qkv, kernels.NORM, kernels.STORE)
        self._attend(layer, self.cuts.overlap)
        if self.splits == 1:
            self._product(w.out, self.attended, self.x, kernels.PLAIN, kernels.ADD)
        else:
            self._product(w.out, self.parts, self.x, kernels.COMBINE, kernels.ADD)
        self._product(w.fc, self.x, self.wide, kernels.NORM, kernels.GELU)
        self._product(w.proj, self.wide, self.x, kernels.PLAIN, kernels.ADD)

    def _matrix_layer(self, layer: int, w: LayerMatrices) -> None:
        self._add_and_norm(w.qkv, delta=layer > 0)
        _linear_into(self.qkv, self.half, w.qkv)
        self._attend(layer, 0)
        _linear_into(self.delta, self.attended, w.out)
        self._add_and_norm(w.fc, delta=True)
        _linear_into(self.wide, self.half, w.fc)
        _linear_into(self.delta, F.gelu(self.wide), w.proj)

    def _add_and_norm(self, follower: Matrix, *, delta: bool) -> None:
        """The residual that is waiting into x, and x normalised into half."""
        width = self.weights.config.n_embd
        shift = follower.shift if follower.shift is not None else self.x
        kernels.add_and_norm[(self.n_rows,)](
            self.x, self.delta, follower.gain, shift, self.half, width, NORM_EPS,
            BLOCK=triton.next_power_of_2(width), DELTA=delta, SHIFT=follower.shift is not None,
        )  # fmt: skip

    def _head(self) -> None:
        w, span = self.weights, self.span
        if self.matrix:
            head = w.head_rows(span.first_id, span.stop_id)
            self._add_and_norm(head, delta=True)
            self.logits.copy_(F.linear(self.half, head.exact))
        elif self.whole_head:
            head = w.head_rows(span.first_id, span.stop_id)
            self._product(head, self.x, self.logits, kernels.NORM, kernels.STORE)
        else:
            head = w.head_rows(0, span.stop_id)
            self._product(
                head, self.x, self.logits, kernels.NORM, kernels.STORE, n_outputs=self.n_logits
            )

    def _product(
        self,
        matrix: Matrix,
        x: Tensor,
        out: Tensor,
        before: object,
        after: object,
        *,
        n_outputs: int | None = None,
    ) -> None:
        """x [B, K] to out [B, N]; n_outputs: so many, from the row that each slot's range is at."""
        o = self.cuts
        own = n_outputs is not None
        n_out, n_in = n_outputs or matrix.n_outputs, matrix.n_inputs
        bk = triton.next_power_of_2(n_in)
        rows = 1 if own else _rows_a_launch(self.n_rows, o.rows)
        budget = o.weight_bytes // (bk * max(matrix.weight.element_size(), 2))
        most = max(1, min(budget, n_out // o.programs))
        bn = 1 << (most.bit_length() - 1)
        half = self.weights.dtype != torch.float32
        one_pass = half and before is kernels.NORM
        bias = matrix.shifted if one_pass else matrix.bias
        none = self.x
        kernels.product[(triton.cdiv(n_out, bn), self.n_rows // rows)](
            x, matrix.weight, _or(matrix.scale, none), _or(bias, none), _or(matrix.gain, none),
            _or(matrix.shift, none), _or(matrix.sums, none), out, self.part_weights,
            self.rows, self.slots.offset, n_out, n_in, NORM_EPS,
            ROWS=rows, BN=bn, BK=bk, BEFORE=before, AFTER=after, ONE_PASS=one_pass,
            SPLITS=self.splits, SCALED=matrix.scale is not None, BIAS=bias is not None,
            SHIFT=matrix.shift is not None, OFFSET=own, PDL=o.overlap,
            num_warps=o.warps, **_launch(o.overlap),
        )  # fmt: skip

    def _attend(self, layer: int, overlap: int) -> None:
        o, c, config = self.cuts, self.cache, self.weights.config
        head = config.n_embd // config.n_head
        key_scales = c.key_scales[layer] if c.key_scales is not None else self.x
        value_scales = c.value_scales[layer] if c.value_scales is not None else self.x
        into = self.attended if self.splits == 1 else self.parts
        kernels.attend[(config.n_head, self.splits, self.n_rows)](
            self.qkv, c.keys[layer], c.values[layer], key_scales, value_scales,
            self.rows, self.slots.length, self.slots.state, into, self.part_weights,
            config.n_embd, config.n_head, c.capacity, head**-0.5,
            HEAD=head, BD=triton.next_power_of_2(head), BT=self.tile, TILES=self.tiles,
            SPLITS=self.splits, QUANTISED=c.key_scales is not None,
            STAGES=o.many_stages, PDL=overlap,
            num_warps=o.many_warps if self.matrix else o.split_warps, **_launch(overlap),
        )  # fmt: skip
        if self.matrix and self.splits > 1:
            block = min(512, triton.next_power_of_2(config.n_embd))
            kernels.combine[(self.n_rows, triton.cdiv(config.n_embd, block))](
                self.parts, self.part_weights, self.attended, config.n_embd,
                SPLITS=self.splits, BLOCK=block,
            )  # fmt: skip

    def close(self) -> None:
        """What it holds goes with it."""


def draw_tokens(
    logits: Tensor,
    rows: Tensor,
    slots: Slots,
    span: Span,
    *,
    whole: bool,
    advance: bool,
    overlap: int,
) -> None:
    """What `static_step.draw_tokens` does, in one launch.

    Args:
        logits: float32 [B, ids of the span] if whole, else [B, span.widest] of the rows' ranges.
        rows: int32 [B], the slots.
    """
    block = triton.next_power_of_2(span.widest)
    kernels.sample[(len(rows),)](
        logits, rows, slots.token, slots.length, slots.state, slots.made, slots.offset,
        slots.starts, slots.counts, slots.n_turns, slots.limit, slots.end, slots.min_end,
        slots.temperature, slots.top_p, slots.top_k, slots.draws, slots.out,
        logits.shape[1], slots.n_draws, slots.n_slots, span.first_id,
        BLOCK=block, WHOLE=whole, ADVANCE=advance, PDL=overlap,
        num_warps=max(4, min(16, block // 512)), **_launch(overlap),
    )  # fmt: skip


def _or(x: Tensor | None, otherwise: Tensor) -> Tensor:
    """What a kernel is given for a tensor that it doesn't read."""
    return otherwise if x is None else x


def _linear_into(out: Tensor, x: Tensor, matrix: Matrix) -> None:
    if matrix.bias is None:
        torch.mm(x, matrix.exact.t(), out=out)
    else:
        torch.addmm(matrix.bias, x, matrix.exact.t(), out=out)


def _launch(overlap: int) -> dict[str, bool]:
    return {"launch_pdl": True} if overlap else {}


def _rows_a_launch(n_rows: int, most: int) -> int:
    rows = most
    while n_rows % rows:
        rows //= 2
    return rows


@dataclass(frozen=True, slots=True)
class LayerMatrices:
    """The four products of a layer."""

    qkv: Matrix
    out: Matrix
    fc: Matrix
    proj: Matrix


class PackedWeights:
    """The weights of a model as the kernels read them. In 8 bits it holds a copy of its own."""

    def __init__(self, model: CausalGPT, bits: WeightBits = "model") -> None:
        self.config, self.device, self.dtype = model.config, model.device, model.dtype
        self.bits = bits
        weights = model.step_weights()
        self.table, self.positions = weights.tokens.detach(), weights.positions.detach()
        self.layers = [
            LayerMatrices(
                qkv=pack(layer.attention, layer.norm_1, bits),
                out=pack(layer.projection, None, bits),
                fc=pack(layer.widening, layer.norm_2, bits),
                proj=pack(layer.narrowing, None, bits),
            )
            for layer in weights.layers
        ]
        self._head = pack(weights.head, weights.last_norm, bits)

    def head_rows(self, start: int, stop: int) -> Matrix:
        """The output head, its rows start..stop - 1."""
        h = self._head

        def cut(x: Tensor | None) -> Tensor | None:
            return None if x is None else x[start:stop]

        return replace(
            h,
            exact=h.exact[start:stop],
            weight=h.weight[start:stop],
            scale=cut(h.scale),
            sums=cut(h.sums),
            shifted=cut(h.shifted),
        )

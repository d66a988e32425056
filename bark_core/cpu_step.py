"""Decode steps on a CPU in one compiled call: what `decode_step.cpp` is given, and its calls.

This module knows tensors and their places in memory, not modules: transformer.py gathers the
weights and keeps the rows' caches.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

_KINDS = {torch.float32: 0, torch.int8: 1}


@dataclass(frozen=True, slots=True)
class LinearWeights:
    """A linear layer.

    Args:
        weight: [n_out, n_in].
        bias: [n_out].
        scale: of an int8 weight, float32 [n_out].
        product: how else to compute with an int8 weight, for decoders that aren't compiled.
    """

    weight: Tensor
    bias: Tensor | None = None
    scale: Tensor | None = None
    product: Callable[[Tensor], Tensor] | None = None


@dataclass(frozen=True, slots=True)
class NormWeights:
    """A layer normalisation, [C]."""

    weight: Tensor
    bias: Tensor | None


@dataclass(frozen=True, slots=True)
class LayerWeights:
    """All that one layer computes with."""

    norm_1: NormWeights
    attention: LinearWeights
    projection: LinearWeights
    norm_2: NormWeights
    widening: LinearWeights
    narrowing: LinearWeights


@dataclass(frozen=True, slots=True)
class StepWeights:
    """All that a step computes with.

    Args:
        tokens: embeddings, [vocabulary, C].
        positions: embeddings, [block size, C].
        head: without a bias.
    """

    n_head: int
    tokens: Tensor
    positions: Tensor
    layers: tuple[LayerWeights, ...]
    last_norm: NormWeights
    head: LinearWeights


class _Linear(ctypes.Structure):
    _fields_ = [
        ("weight", ctypes.c_void_p),
        ("scale", ctypes.c_void_p),
        ("bias", ctypes.c_void_p),
        ("kind", ctypes.c_int64),
    ]


class _Layer(ctypes.Structure):
    _fields_ = [
        *((name, ctypes.c_void_p) for name in ("norm_1", "norm_1_bias", "norm_2", "norm_2_bias")),
        *((name, _Linear) for name in ("attention", "projection", "widening", "narrowing")),
    ]


class _Model(ctypes.Structure):
    _fields_ = [
        *((n, ctypes.c_void_p) for n in ("tokens", "positions", "last_norm", "last_norm_bias")),
        ("head", _Linear),
        ("layers", ctypes.POINTER(_Layer)),
        *((name, ctypes.c_int64) for name in ("n_layer", "n_head", "width")),
    ]


class _Row(ctypes.Structure):
    _fields_ = [
        ("keys", ctypes.c_void_p),
        ("values", ctypes.c_void_p),
        *((n, ctypes.c_int64) for n in ("layer_stride", "head_stride", "half")),
        *((n, ctypes.c_int64) for n in ("position", "token")),
    ]


_SIZES = ctypes.sizeof(_Row) + (ctypes.sizeof(_Model) << 16) + (ctypes.sizeof(_Layer) << 32)


def can_compute(weights: StepWeights) -> bool:
    """Whether the compiled step is made for weights of these kinds."""
    of_linears = [weights.head, *(linear for layer in weights.layers for linear in _linears(layer))]
    plain = [weights.tokens, weights.positions, weights.last_norm.weight]
    return all(
        tensor.device.type == "cpu" and tensor.dtype == torch.float32 for tensor in plain
    ) and all(linear.weight.dtype in _KINDS for linear in of_linears)


class CompiledStep:
    """The compiled step for one model's weights, which it keeps alive.

    Args:
        library: of `native.Native`.
    """

    def __init__(self, library: ctypes.CDLL, weights: StepWeights) -> None:
        library.bark_sizes.restype = ctypes.c_int64
        assert library.bark_sizes() == _SIZES, "decode_step.cpp and cpu_step.py differ"
        self._step, self._logits = library.bark_step, library.bark_logits
        self._step.restype = self._logits.restype = None
        self._weights = weights
        self._width = weights.tokens.shape[1]
        self._kept: list[Tensor] = []
        layers = (_Layer * len(weights.layers))(*map(self._layer, weights.layers))
        self._model = _Model(
            tokens=self._pointer(weights.tokens),
            positions=self._pointer(weights.positions),
            last_norm=self._pointer(weights.last_norm.weight),
            last_norm_bias=self._pointer(weights.last_norm.bias),
            head=self._linear(weights.head),
            layers=layers,
            n_layer=len(weights.layers),
            n_head=weights.n_head,
            width=self._width,
        )

    def step(
        self, tokens: Sequence[int], places: Sequence[int], caches: Sequence[Tensor]
    ) -> Tensor:
        """Hidden states of each row's next position.

        Args:
            tokens: B token ids.
            places: positions of those tokens; all before them are in the caches.
            caches: B tensors of keys and values, float32 or float16 [n_layer, 2, 1, H, T, D];
                those of the new positions are written.
        Returns:
            float32 [B, C], normalised, ready for `logits`.
        """
        rows = (_Row * len(tokens))()
        for row, token, place, cache in zip(rows, tokens, places, caches, strict=True):
            layer, of_values, _, head, _, _ = cache.stride()
            start = cache.data_ptr()
            row.keys, row.values = start, start + cache.element_size() * of_values
            row.half = cache.dtype == torch.float16
            row.layer_stride, row.head_stride = layer, head
            row.position, row.token = place, token
        hidden = torch.empty(len(rows), self._width)
        self._step(
            ctypes.byref(self._model),
            rows,
            len(rows),
            ctypes.c_void_p(hidden.data_ptr()),
            torch.get_num_threads(),
        )
        return hidden

    def logits(self, hidden: Tensor, start: int, stop: int) -> Tensor:
        """Outputs start..stop - 1 of the head: float32 [B, C] to [B, stop - start]."""
        hidden = hidden.contiguous()
        out = torch.empty(len(hidden), stop - start)
        self._logits(
            ctypes.byref(self._model),
            ctypes.c_void_p(hidden.data_ptr()),
            *(len(hidden), start, stop),
            ctypes.c_void_p(out.data_ptr()),
            torch.get_num_threads(),
        )
        return out

    def _layer(self, layer: LayerWeights) -> _Layer:
        return _Layer(
            self._pointer(layer.norm_1.weight),
            self._pointer(layer.norm_1.bias),
            self._pointer(layer.norm_2.weight),
            self._pointer(layer.norm_2.bias),
            *map(self._linear, _linears(layer)),
        )

    def _linear(self, linear: LinearWeights) -> _Linear:
        return _Linear(
            self._pointer(linear.weight),
            self._pointer(linear.scale),
            self._pointer(linear.bias),
            _KINDS[linear.weight.dtype],
        )

    def _pointer(self, tensor: Tensor | None) -> Any:
        if tensor is None:
            return None
        tensor = tensor.contiguous()
        self._kept.append(tensor)
        return tensor.data_ptr()


def _linears(layer: LayerWeights) -> tuple[LinearWeights, ...]:
    return layer.attention, layer.projection, layer.widening, layer.narrowing

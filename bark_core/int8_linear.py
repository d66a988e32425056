"""Linear layers whose weights are int8, for CPUs: a quarter of the bytes to read at each step.

Each output has a scale of its own. With many positions, what comes in is rounded as it comes: on
processors with AVX2 and nothing newer to 7 bits, with a scale for each position (see `products`),
elsewhere to 8, with one scale for all of it: right for prompts, a chunk of one prompt at a time.
Decode steps read the same weights, with inputs that are rounded to 13 bits and more, row by row,
on processors of the first kind and stay as they are elsewhere: a row's result doesn't depend on
its neighbours.
"""

from __future__ import annotations

import contextlib
import ctypes
import warnings
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bark_core import processor, products

_VNNI = ("avx512_vnni", "avx_vnni")
_AMX_BFLOAT16 = "amx_bf16"


class Int8Linear(nn.Module):
    """A linear layer with its weights rounded to int8.

    Args:
        linear: what it is made of, float32.
        chunks: it is to compute with many positions at once; False for a head that only `rows`
            and decode steps need.
    Attributes:
        attention_dtype: what attention beside it multiplies many positions in.
    """

    weight: Tensor
    scale: Tensor

    def __init__(self, linear: nn.Linear, *, chunks: bool = True) -> None:
        super().__init__()
        weight = linear.weight.detach()
        scale = weight.abs().amax(dim=1).clamp(min=1e-12) / 127
        self.register_buffer("scale", scale)  # [n_out]
        self.register_buffer("weight", (weight / scale[:, None]).round_().to(torch.int8))
        self.bias = linear.bias
        # without these instructions sums of pairs may overflow unless the inputs have 7 bits only
        self._seven_bits = not processor.abilities().intersection(_VNNI)
        # nearer to exact than int8, and with AMX a few times as quick as float32
        amx = _AMX_BFLOAT16 in processor.abilities()
        self.attention_dtype = torch.bfloat16 if amx else torch.float32
        # torch's product has a copy of the weights in an order of its own
        torchs = chunks and self._own_product() is None
        self.packed: Any = _pack(self.weight, scale, linear.bias) if torchs else None

    def forward(self, x: Tensor) -> Tensor:
        """[..., n_in] to [..., n_out], float32."""
        library = self._own_product()
        if library is not None:
            return products.multiply(library, x, self.weight, self.bias, self.scale)
        if self.packed is None:
            self.packed = _pack(self.weight, self.scale, self.bias)
        out: Tensor = torch.ops.quantized.linear_dynamic(
            x, self.packed, reduce_range=self._seven_bits
        )
        return out

    def activated(self, x: Tensor) -> Tensor:
        """The GELU of what comes out."""
        library = self._own_product()
        if library is None:
            return F.gelu(self(x))
        return products.multiply(library, x, self.weight, self.bias, self.scale, gelu=True)

    def _own_product(self) -> ctypes.CDLL | None:
        return products.library(int8=True) if self._seven_bits else None

    def rows(self, x: Tensor, start: int, stop: int | None) -> Tensor:
        """Only outputs start..stop - 1, with the inputs as they are: [..., n_in] to [..., n]."""
        return F.linear(x, self.weight[start:stop].float()) * self.scale[start:stop]

    def _apply(self, fn: Any, recurse: bool = True) -> Int8Linear:
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        if self.weight.device.type == "meta":
            self.packed = None  # the memory is to be given back
        return self


def available() -> bool:
    """Whether torch can multiply int8 matrices here."""
    return torch.backends.quantized.engine != "none"


@contextlib.contextmanager
def _best_engine() -> Iterator[None]:
    """Let torch pack weights for the engine that is the quickest here.

    oneDNN takes nine tenths of FBGEMM's time with VNNI, and a third with AMX, which FBGEMM doesn't
    know (docs/log.md). Elsewhere it stays the usual one.
    """
    chosen = torch.backends.quantized.engine
    quicker = bool(processor.abilities().intersection(_VNNI))
    if quicker and "onednn" in torch.backends.quantized.supported_engines:
        torch.backends.quantized.engine = "onednn"
    try:
        yield
    finally:
        torch.backends.quantized.engine = chosen


def make_int8(module: nn.Module) -> None:
    """Replace the linear layers of a transformer's blocks, and the head of a causal one."""
    for block in module.get_submodule("transformer.h").modules():
        for name, child in list(block.named_children()):
            if isinstance(child, nn.Linear):
                setattr(block, name, Int8Linear(child))
    head = getattr(module, "lm_head", None)
    if isinstance(head, nn.Linear):
        module.lm_head = Int8Linear(head, chunks=False)


def _pack(weight: Tensor, scale: Tensor, bias: Tensor | None) -> Any:
    with warnings.catch_warnings():
        # tensors of this kind are to go from a later torch than requirements.txt allows; what
        # is to take their place has no product that makes its inputs int8 itself
        warnings.filterwarnings("ignore", message=".*deprecated", category=UserWarning)
        quantized = torch._make_per_channel_quantized_tensor(
            weight, scale.double(), torch.zeros(len(scale), dtype=torch.long), 0
        )
        with _best_engine():
            return torch.ops.quantized.linear_prepack(quantized, bias)

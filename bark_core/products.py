"""Many positions on a CPU: a layer's products and attention, `products.cpp` and `attention.cpp`.

They are for processors with AVX2, int8 for those with nothing newer. On Intel's with AVX-512, on
others without AVX2 and without a compiler torch's own libraries do the same. Each position's
numbers are its own, whatever lies beside it, and however many threads there are.
"""

from __future__ import annotations

import ctypes

import torch
from torch import Tensor

from bark_core import native, processor


def library(*, int8: bool = False) -> ctypes.CDLL | None:
    """What `multiply` and `attend` are computed by; None: not here.

    Args:
        int8: it is to multiply weights in int8.
    Raises:
        InvalidSetting: as `native.library`.
    """
    found = native.library()
    if found is None:
        return None
    if int8:
        return found if found.bark_has_int8_products() else None
    return found if found.bark_has_products() and not _mkl_is_quicker(found) else None


def _mkl_is_quicker(library: ctypes.CDLL) -> bool:
    """Torch multiplies with MKL, Intel's: on its own processors with AVX-512 nobody is quicker.

    A library that is built for those has no int8.
    """
    return processor.vendor() == "GenuineIntel" and not library.bark_has_int8_products()


def library_for(x: Tensor, *weights: Tensor) -> ctypes.CDLL | None:
    """The library, where it can compute with these: float32 on the CPU, without gradients."""
    if x.device.type != "cpu" or any(one.dtype != torch.float32 for one in (x, *weights)):
        return None
    if torch.is_grad_enabled() and any(one.requires_grad for one in (x, *weights)):
        return None
    return library()


def multiply(
    library: ctypes.CDLL,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    scale: Tensor | None = None,
    *,
    gelu: bool = False,
) -> Tensor:
    """A linear layer, on the CPU.

    Args:
        x: float32 [..., n_in].
        weight: [n_out, n_in], float32, or int8 with a scale for each output.
        bias: float32 [n_out].
        scale: float32 [n_out]; with it inputs are rounded, too: to 127 steps between the least and
            the largest of each position.
        gelu: what comes out goes through a GELU.
    Returns:
        float32 [..., n_out].
    Raises:
        MemoryError: for the inputs in the order in which they are read.
    """
    n_out, n_in = weight.shape
    x, weight = x.contiguous(), weight.contiguous()
    out = torch.empty(*x.shape[:-1], n_out)
    done = library.bark_product(
        *map(_pointer, (x, weight, scale, bias, out)),
        *(ctypes.c_int64(n) for n in (x.numel() // n_in, n_in, n_out)),
        int(gelu),
        torch.get_num_threads(),
    )
    if not done:
        raise MemoryError("not enough memory for a product's inputs")
    return out


def attend(
    library: ctypes.CDLL, query: Tensor, keys: Tensor, values: Tensor, n_past: int | None
) -> Tensor:
    """Attention, on the CPU.

    Args:
        query: float32 [B, H, T, D], whose channels lie side by side, as those of the others do.
        keys: float32 [B, H, n, D].
        values: the same.
        n_past: how many keys lie before the first query's own: each query sees all up to its own;
            None: each sees all.
    Returns:
        float32 [B, T, H x D].
    Raises:
        MemoryError: for keys, values and scores in the order in which they are read.
    """
    batch, n_head, n_query, head_dim = query.shape
    parts = [one if one.stride(3) == 1 else one.contiguous() for one in (query, keys, values)]
    out = torch.empty(batch, n_query, n_head * head_dim)
    strides = [stride for one in parts for stride in one.stride()[1:3]]
    for row in range(batch):
        firsts = [one.data_ptr() + one.element_size() * one.stride(0) * row for one in parts]
        done = library.bark_attention(
            (ctypes.c_void_p * 3)(*firsts),
            (ctypes.c_int64 * 6)(*strides),
            _pointer(out[row]),
            *(ctypes.c_int64(n) for n in (n_head, n_query, keys.shape[2], head_dim)),
            ctypes.c_int64(-1 if n_past is None else n_past),
            torch.get_num_threads(),
        )
        if not done:
            raise MemoryError("not enough memory for an attention's keys and scores")
    return out


def _pointer(tensor: Tensor | None) -> ctypes.c_void_p | None:
    return None if tensor is None else ctypes.c_void_p(tensor.data_ptr())

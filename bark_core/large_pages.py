"""Weights in memory of large pages, where the system has them (Linux).

A decode step reads all weights of a stage's layers, one after another. With pages of 4 KiB the
processor looks up where the next one lies 83,000 times in a step of small; in a virtual machine
each of those asks two systems. With pages of 2 MiB the step takes a tenth less (docs/log.md).
"""

from __future__ import annotations

import mmap

import torch
from torch import Tensor, nn

from bark_core.int8_linear import Int8Linear

PAGE = 2**21  # bytes, of x86-64 and most others
_ALIGNMENT = 64  # bytes, of a line of the processor's caches


def settle(module: nn.Module) -> frozenset[str]:
    """Move the weights of a module's linear layers, on the CPU, into large pages.

    Nothing is moved where there are none, or too little to fill one.

    Returns:
        The names of the parameters that were moved, as `named_parameters` gives them.
    """
    layers = (one for one in module.modules() if isinstance(one, nn.Linear | Int8Linear))
    weights = [layer.weight for layer in layers]
    memory = _memory(sum(_room(weight) for weight in weights))
    if memory is None:
        return frozenset()
    start = 0
    for weight in weights:
        place = memory[start : start + weight.nbytes].view(weight.dtype).view(weight.shape)
        weight.data = place.copy_(weight.data)
        start += _room(weight)
    moved = {id(weight) for weight in weights}
    return frozenset(name for name, one in module.named_parameters() if id(one) in moved)


def _room(weight: Tensor) -> int:
    return -(-weight.nbytes // _ALIGNMENT) * _ALIGNMENT


def _memory(n_bytes: int) -> Tensor | None:
    """So many bytes in large pages, given back with the last tensor that lies in them."""
    advice = getattr(mmap, "MADV_HUGEPAGE", None)
    if advice is None or n_bytes < PAGE:
        return None
    try:
        # the system begins it with a large page only where it ends with one
        whole = -(-n_bytes // PAGE) * PAGE
        memory = mmap.mmap(-1, whole, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        memory.madvise(advice)
    except OSError:  # too little of it, or a system without large pages
        return None
    return torch.frombuffer(memory, dtype=torch.uint8)[:n_bytes]

"""Attention for training on a CPU: plain matrix products in the precision of autocast.

The fused attention of PyTorch is fast forwards, but its backward pass on a CPU takes several times
as long as the products themselves; at the lengths used here they win.
"""

from __future__ import annotations

import functools

import torch
from torch import Tensor

from bark_core.transformer import SelfAttention


@functools.cache
def _causal_mask(length: int, dtype: torch.dtype) -> Tensor:
    return torch.full((length, length), float("-inf"), dtype=dtype).triu(1)


def _attend(self: SelfAttention, q: Tensor, k: Tensor, v: Tensor, n_past: int) -> Tensor:
    """As `SelfAttention._attend_with_torch`, without a cache: [B, H, T, D] each."""
    if n_past or q.shape[2] != k.shape[2] or q.device.type != "cpu" or not torch.is_grad_enabled():
        return _fused(self, q, k, v, n_past)
    batch, heads, length, width = q.shape
    rows = batch * heads
    q, k, v = (part.reshape(rows, length, width) for part in (q, k, v))
    q = q * width**-0.5
    if self.causal:
        scores = torch.baddbmm(_causal_mask(length, q.dtype), q, k.mT)
    else:
        scores = torch.bmm(q, k.mT)
    weights = scores.softmax(-1, dtype=scores.dtype)
    return torch.bmm(weights, v).view(batch, heads, length, width)


_fused = SelfAttention._attend_with_torch


def use_plain_products() -> None:
    """Make every transformer of this process attend this way while it learns."""
    SelfAttention._attend_with_torch = _attend  # type: ignore[method-assign]

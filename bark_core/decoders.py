"""What a model is computed with: the quickest that its placement allows."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from bark_core.cuda_graphs import FineGraphs
from bark_core.cuda_rows import CudaOptions, CudaRows
from bark_core.placement import Placement
from bark_core.rows import PlainRows, RowDecoder
from bark_core.transformer import CausalGPT, FineGPT


def new_decoder(model: CausalGPT, placement: Placement, n_rows: int) -> RowDecoder:
    """A decoder for a model that is on its device.

    Args:
        n_rows: most rows at the same time.
    """
    if placement.kind == "cuda":
        return CudaRows(model, n_rows, options=cuda_options(placement))
    return PlainRows(model)


def cuda_options(placement: Placement) -> CudaOptions:
    """What a placement's precision means for decode steps on a CUDA device."""
    return CudaOptions(weights=placement.weights, cache=placement.cache)


def fine_forward(model: FineGPT, placement: Placement) -> Callable[[int, Tensor, int], Tensor]:
    """`FineGPT.forward` for a model that is on its device; good for one logits at a time."""
    if placement.kind == "cuda":
        return FineGraphs(model)
    return model

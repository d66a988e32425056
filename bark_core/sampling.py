"""From logits to tokens: top-p, top-k, temperature, and one random number for each draw.

The order is that of suno-ai/bark: top-p on the unscaled logits, then top-k, then the softmax
of logits / temperature, then one draw. A draw is the inverse of the distribution function at a
uniform number, and those are drawn in advance: no device needs a generator, no step waits for
the device, and the same numbers are used wherever and beside whomever a row is decoded.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from torch import Tensor

from bark_core.errors import GenerationError
from bark_core.request import SamplingParams

StageName = Literal["semantic", "coarse", "fine"]
_STAGE_KEYS: dict[StageName, int] = {"semantic": 0, "coarse": 1, "fine": 2}


def stage_generator(seed: int, segment: int, stage: StageName, *, take: int = 0) -> torch.Generator:
    """The random generator of one stage of one segment, on the CPU.

    Each draws from a stream of its own, so a result depends neither on its neighbours in a batch
    nor on how the stages take turns.
    """
    key = np.random.SeedSequence([seed, segment, _STAGE_KEYS[stage], take])
    generator = torch.Generator()
    # 63 bits: some generators refuse seeds that don't fit a signed integer
    generator.manual_seed(int(key.generate_state(1, np.uint64)[0]) >> 1)
    return generator


def uniforms(generator: torch.Generator, n: int) -> Tensor:
    """The next n numbers of a stream, float32 [n] on the CPU, each in [0, 1).

    They are the same whether they are asked for at once or bit by bit.
    """
    return torch.rand(n, generator=generator)


def keep_top_p(logits: Tensor, top_p: float) -> Tensor:
    """Mask all but the likeliest tokens that together reach probability top_p.

    Args:
        logits: float32 [..., V].
        top_p: 0..1; the likeliest token always stays.
    """
    ordered, order = torch.sort(logits, dim=-1, descending=True)
    beyond = torch.cumsum(torch.softmax(ordered, dim=-1), dim=-1) > top_p
    # shift right by one: the token that crosses the threshold stays
    beyond = torch.roll(beyond, 1, dims=-1)
    beyond[..., 0] = False
    return logits.masked_fill(beyond.scatter(-1, order, beyond), -torch.inf)


def keep_top_k(logits: Tensor, top_k: int) -> Tensor:
    """Mask what is less likely than the k-th likeliest token; ties with it stay. [..., V]."""
    kth = torch.topk(logits, min(top_k, logits.shape[-1]), dim=-1).values[..., -1:]
    return logits.masked_fill(logits < kth, -torch.inf)


def probabilities(logits: Tensor, params: SamplingParams) -> Tensor:
    """The distribution that a token is drawn from.

    Args:
        logits: [..., V], any floating dtype.
    Returns:
        float32 [..., V], summing to 1; at temperature 0 all on the likeliest token.
    """
    logits = logits.float()
    if params.top_p is not None:
        logits = keep_top_p(logits, params.top_p)
    if params.top_k is not None:
        logits = keep_top_k(logits, params.top_k)
    return soften(logits, params.temperature)


def soften(logits: Tensor, temperature: float) -> Tensor:
    """softmax(logits / temperature) over the last axis; one-hot at temperature 0."""
    if temperature == 0:
        best = logits.argmax(dim=-1, keepdim=True)
        return torch.zeros_like(logits, dtype=torch.float32).scatter_(-1, best, 1.0)
    return torch.softmax(logits.float() / temperature, dim=-1)


def pick(probs: Tensor, uniform: Tensor) -> Tensor:
    """Draw one token from each row: the first at which the running sum exceeds the number.

    Where rounding leaves the whole sum at or below it, the first at which the sum is whole.

    Args:
        probs: float32 [..., V], not negative.
        uniform: float32 [...], in [0, 1).
    Returns:
        int64 [...]; -1 where the probabilities aren't finite.
    """
    reached = probs.cumsum(dim=-1)
    total = reached[..., -1:]
    below = torch.minimum(uniform[..., None], torch.nextafter(total, torch.zeros_like(total)))
    token = torch.searchsorted(reached, below.contiguous(), right=True)
    return token.where(total.isfinite(), -1)[..., 0]


def checked(token: Tensor) -> int:
    """What `pick` gave for one row, on the host.

    Raises:
        GenerationError: the probabilities weren't finite.
    """
    number = int(token)
    if number < 0:
        raise not_finite()
    return number


def not_finite() -> GenerationError:
    """The error of a row whose logits are NaN or infinite."""
    return GenerationError(
        "the model made NaN or infinity instead of tokens; its files may be damaged: get them "
        "again, or load it in float32"
    )

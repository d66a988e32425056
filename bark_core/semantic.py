"""Stage 1: text to semantic tokens.

The prompt is text_window + 1 positions long (257 in Bark). Text and history lie on top of each
other: their embeddings are added, each padded on the right:

    text      t t t t t t P P P P P P │
    history   h h h h h h h h h p p p │ INFER
              └───── text_window ─────┘

    P = text_pad    p = semantic_pad (all of it without a voice)

Then one token a step, until the end token, the threshold on its probability, the longest
duration or the layout's limit.
"""

from __future__ import annotations

from collections.abc import Generator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bark_core.config import TokenLayout
from bark_core.errors import EmptyGeneration
from bark_core.events import Stage, StageProgress
from bark_core.request import SemanticParams
from bark_core.sampling import checked, pick, probabilities, uniforms
from bark_core.tokens import SemanticTokens, TextTokens
from bark_core.transformer import CausalGPT


def text_row(text: TextTokens) -> NDArray[np.int64]:
    """The text's half of the prompt: offset, padded on the right, int64 [text_window]."""
    layout = text.layout
    row = np.full(layout.text_window, layout.text_pad, dtype=np.int64)
    row[: len(text)] = text.values.astype(np.int64) + layout.text_offset
    return row


def history_row(history: SemanticTokens | None, layout: TokenLayout) -> NDArray[np.int64]:
    """The history's half of the prompt: its last tokens, padded on the right, [text_window]."""
    row = np.full(layout.text_window, layout.semantic_pad, dtype=np.int64)
    if history is not None:
        recent = history.values[-layout.text_window :]
        row[: len(recent)] = recent
    return row


def prompt_of(model: CausalGPT, text: TextTokens, history: SemanticTokens | None) -> Tensor:
    """The whole prompt as embeddings without positions, [1, W + 1, C]."""
    layout = text.layout
    words = torch.from_numpy(text_row(text))[None].to(model.device)
    past = torch.from_numpy(history_row(history, layout))[None].to(model.device)
    return embed_prompt(model, words, past, layout)


def embed_prompt(model: CausalGPT, text: Tensor, history: Tensor, layout: TokenLayout) -> Tensor:
    """Text plus history, then the token that says "speak": [B, W], [B, W] to [B, W + 1, C]."""
    infer = torch.full_like(text[:, :1], layout.semantic_infer)
    return torch.cat([model.embed(text) + model.embed(history), model.embed(infer)], dim=1)


def live_range(layout: TokenLayout, *, allow_end: bool) -> tuple[int, int]:
    """Token ids that may come, the end token last."""
    # the end token's id follows the last semantic token's, so one slice of the head is enough
    return 0, layout.semantic_vocab + (1 if allow_end else 0)


def live_logits(
    model: CausalGPT, hidden: Tensor, layout: TokenLayout, *, allow_end: bool
) -> Tensor:
    """Logits of the tokens that may come next: [B, C] to [B, vocab (+ 1)]."""
    return model.logits(hidden, *live_range(layout, allow_end=allow_end))


def step_limit(params: SemanticParams, layout: TokenLayout) -> int:
    """Most tokens to make: the first count that lasts longer than max_duration_s is the last."""
    if params.max_duration_s is None:
        return layout.max_semantic_tokens
    elapsed_s, n_tokens = 0.0, 0
    # added up as the original does, so that rounding ends on the same token
    while n_tokens < layout.max_semantic_tokens:
        n_tokens += 1
        elapsed_s += 1 / layout.semantic_rate_hz
        if elapsed_s > params.max_duration_s:
            break
    return n_tokens


def generate_semantic(
    model: CausalGPT,
    text: TextTokens,
    *,
    history: SemanticTokens | None = None,
    params: SemanticParams | None = None,
    generator: torch.Generator,
) -> Generator[StageProgress, None, SemanticTokens]:
    """Say a text in semantic tokens; one event a step, closing the generator stops it.

    Args:
        text: [L], L <= layout.text_window.
        history: a voice's semantic tokens, [S]; the last text_window of them count.
        generator: on the CPU.
    Returns:
        [S] at layout.semantic_rate_hz, 1 <= S <= layout.max_semantic_tokens.
    Raises:
        EmptyGeneration: the very first token was the end.
        GenerationError: the model made NaN or infinity.
    Source: suno-ai/bark, generate_text_semantic.
    """
    params = params or SemanticParams()
    layout = text.layout
    limit = step_limit(params, layout)
    cache = model.new_cache(batch=1, length=layout.text_window + 1 + limit)
    draws = uniforms(generator, limit).to(model.device)
    live = live_range(layout, allow_end=params.allow_early_stop)
    tokens: list[int] = []
    with torch.inference_mode():
        hidden = model.prefill(prompt_of(model, text, history), cache)
        decoder = model.decoder()
    while True:
        with torch.inference_mode():
            probs = probabilities(decoder.logits(hidden, *live), params)
            token = pick(probs, draws[len(tokens) : len(tokens) + 1])
            if params.allow_early_stop and _ends(token, probs, params, layout):
                break
            tokens.append(checked(token))
            if len(tokens) >= limit:
                break
            hidden = decoder.step(token, [cache])
        yield StageProgress(Stage.SEMANTIC, len(tokens), limit)
    if not tokens:
        raise nothing_said()
    yield StageProgress(Stage.SEMANTIC, len(tokens), len(tokens))
    return SemanticTokens(np.array(tokens), layout)


def nothing_said() -> EmptyGeneration:
    """The error of a take whose very first token was the end."""
    return EmptyGeneration(
        "the model ended before it said anything; try another seed, a higher semantic "
        "temperature or a longer text"
    )


def _ends(token: Tensor, probs: Tensor, params: SemanticParams, layout: TokenLayout) -> bool:
    if int(token) == layout.semantic_pad:
        return True
    return params.min_eos_p is not None and float(probs[0, -1]) >= params.min_eos_p

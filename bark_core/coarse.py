"""Stage 2: semantic tokens to coarse codes.

Coarse codes of one frame are neighbours in a flat sequence: codebook 1, codebook 2, codebook 1
of the next frame, and so on, each codebook with ids of its own. A prompt (in Bark's numbers):

    │ semantic, at most 256: 209 of history, the rest to come │ INFER │ last 630 coarse tokens │
    │ s s s s s s s s s s s s s s s s s s s s s s p p p p p p │       │ c1 c2 c1 c2 c1 c2 ...  │

    p = coarse_semantic_pad

It makes 60 tokens, then slides: both sides move on by the same time. Positions are learned, so
what was cached before a slide can't be used after it: the next window starts from its prompt. As
long as neither side is full nothing slides, and one window goes on.
"""

from __future__ import annotations

import math
from collections.abc import Generator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from bark_core.config import TokenLayout
from bark_core.errors import InvalidSetting, InvalidTokens
from bark_core.events import Stage, StageProgress
from bark_core.request import CoarseParams
from bark_core.sampling import checked, pick, probabilities, uniforms
from bark_core.tokens import CoarseCodes, SemanticTokens
from bark_core.transformer import CausalGPT

History = tuple[SemanticTokens, CoarseCodes]


def flatten(codes: CoarseCodes) -> NDArray[np.int64]:
    """Interleave codebooks into one sequence of token ids: [n_coarse, T] to [n_coarse * T]."""
    layout = codes.layout
    offsets = layout.semantic_vocab + layout.codebook_size * np.arange(layout.n_coarse_codebooks)
    return (codes.values.astype(np.int64) + offsets[:, None]).ravel(order="F")


def unflatten(tokens: NDArray[np.int64], layout: TokenLayout) -> CoarseCodes:
    """Inverse of `flatten`."""
    rows = tokens.reshape(-1, layout.n_coarse_codebooks).T
    offsets = layout.semantic_vocab + layout.codebook_size * np.arange(layout.n_coarse_codebooks)
    return CoarseCodes(rows - offsets[:, None], layout)


def n_coarse_steps(n_semantic: int, layout: TokenLayout) -> int:
    """Coarse tokens that go with so many semantic ones, whole frames only."""
    frames = math.floor(n_semantic * layout.coarse_per_semantic / layout.n_coarse_codebooks)
    return frames * layout.n_coarse_codebooks


@dataclass(frozen=True, slots=True)
class CoarsePlan:
    """Everything about the windows of one run that doesn't depend on what is sampled."""

    layout: TokenLayout
    max_history: int  # coarse tokens
    semantic: NDArray[np.int64]  # history, then the tokens to be turned into codes
    n_semantic_history: int
    coarse_history: NDArray[np.int64]  # flat
    n_steps: int

    @property
    def max_semantic_history(self) -> int:
        return math.floor(self.max_history / self.layout.coarse_per_semantic)

    def prompt(self, made: NDArray[np.int64]) -> NDArray[np.int64]:
        """The prompt of the window that follows the tokens `made` so far, int64 [n]."""
        layout = self.layout
        seen = self.semantic[self._window_start(len(made)) :]
        window = np.full(layout.coarse_semantic_window, layout.coarse_semantic_pad, dtype=np.int64)
        window[: len(seen)] = seen[: layout.coarse_semantic_window]
        past = np.concatenate([self.coarse_history, made])[-self.max_history :]
        return np.concatenate([window, [layout.coarse_infer], past])

    def needs(self, n_made: int) -> int:
        """How many semantic tokens, at most, the prompt behind n_made coarse ones looks at."""
        start = self._window_start(n_made)
        return start + self.layout.coarse_semantic_window - self.n_semantic_history

    def n_window_steps(self, n_made: int) -> int:
        """Tokens that can be made behind n_made ones before the prompt slides."""
        step, n_window = self.layout.coarse_window, self.layout.coarse_window
        start, n_past = self._window_start(n_made), len(self.coarse_history) + n_made
        while (
            n_past + n_window <= self.max_history
            and self._window_start(n_made + n_window) == start
            and n_made + n_window < self.n_steps
        ):
            n_window += step
        return min(n_window, self.n_steps - n_made)

    def _window_start(self, n_made: int) -> int:
        """First semantic token of the prompt behind n_made coarse ones."""
        now = self.n_semantic_history + round(n_made / self.layout.coarse_per_semantic)
        return max(0, now - self.max_semantic_history)


def plan_coarse(
    semantic: SemanticTokens, history: History | None, params: CoarseParams
) -> CoarsePlan:
    """Trim the history so that both of its halves end at the same time.

    Raises:
        InvalidSetting: max_history is below one window or above the layout's.
        InvalidTokens: too few semantic tokens for one frame.
    """
    layout = semantic.layout
    max_history = layout.max_coarse_history if params.max_history is None else params.max_history
    if not layout.coarse_window <= max_history <= layout.max_coarse_history:
        raise InvalidSetting(
            f"max_history must be within {layout.coarse_window}..{layout.max_coarse_history} "
            f"coarse tokens for this model, got {max_history}"
        )
    n_steps = n_coarse_steps(len(semantic), layout)
    if n_steps == 0:
        raise InvalidTokens(f"{len(semantic)} semantic tokens are too few for one frame of sound")
    past_semantic, past_coarse = _trim_history(history, max_history, layout)
    return CoarsePlan(
        layout=layout,
        max_history=max_history,
        semantic=np.concatenate([past_semantic, semantic.values.astype(np.int64)]),
        n_semantic_history=len(past_semantic),
        coarse_history=past_coarse,
        n_steps=n_steps,
    )


def _trim_history(
    history: History | None, max_history: int, layout: TokenLayout
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    nothing = np.zeros(0, dtype=np.int64)
    if history is None:
        return nothing, nothing
    semantic, coarse = history[0].values.astype(np.int64), flatten(history[1])
    ratio = layout.coarse_per_semantic
    n_semantic = min(
        math.floor(max_history / ratio),
        len(semantic) - len(semantic) % 2,
        math.floor(len(coarse) / ratio),
    )
    n_coarse = round(n_semantic * ratio)
    if n_semantic == 0:  # [-0:] would keep everything
        return nothing, nothing
    # drop one frame: Suno trims it for time alignment
    return semantic[-n_semantic:], coarse[-n_coarse:][: -layout.n_coarse_codebooks]


def live_range(step: int, layout: TokenLayout) -> tuple[int, int]:
    """Token ids that may come at a step: those of the codebook whose turn it is."""
    start = layout.semantic_vocab + (step % layout.n_coarse_codebooks) * layout.codebook_size
    return start, start + layout.codebook_size


def generate_coarse(
    model: CausalGPT,
    semantic: SemanticTokens,
    *,
    history: History | None = None,
    params: CoarseParams | None = None,
    generator: torch.Generator,
) -> Generator[StageProgress, None, CoarseCodes]:
    """Predict the first EnCodec codebooks; one event a step, closing the generator stops it.

    Args:
        semantic: [S] at layout.semantic_rate_hz.
        history: a voice's (semantic, coarse) pair.
        generator: on the CPU.
    Returns:
        [n_coarse_codebooks, T], T = floor(S * frames_per_semantic).
    Raises:
        InvalidSetting, InvalidTokens: see `plan_coarse`.
        GenerationError: the model made NaN or infinity.
    Source: suno-ai/bark, generate_coarse.
    """
    params = params or CoarseParams()
    layout = semantic.layout
    plan = plan_coarse(semantic, history, params)
    draws = uniforms(generator, plan.n_steps).to(model.device)
    made: list[int] = []
    while len(made) < plan.n_steps:
        prompt = torch.from_numpy(plan.prompt(np.array(made, dtype=np.int64)))[None]
        n_window = plan.n_window_steps(len(made))
        cache = model.new_cache(batch=1, length=prompt.shape[1] + n_window)
        with torch.inference_mode():
            hidden = model.prefill(model.embed(prompt.to(model.device)), cache)
            decoder = model.decoder()
        for n_left in reversed(range(n_window)):
            with torch.inference_mode():
                start, stop = live_range(len(made), layout)
                probs = probabilities(decoder.logits(hidden, start, stop), params)
                token = pick(probs, draws[len(made) : len(made) + 1])
                made.append(checked(token) + start)
                if n_left:
                    hidden = decoder.step(token + start, [cache])
            yield StageProgress(Stage.COARSE, len(made), plan.n_steps)
    return unflatten(np.array(made, dtype=np.int64), layout)

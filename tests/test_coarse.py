"""Laws of the second stage."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from bark_core.coarse import flatten, generate_coarse, live_range, plan_coarse, unflatten
from bark_core.config import BARK_LAYOUT
from bark_core.errors import InvalidSetting
from bark_core.request import CoarseParams
from bark_core.sampling import pick, probabilities, uniforms
from bark_core.tokens import CoarseCodes, SemanticTokens
from bark_core.transformer import CausalGPT
from tests.stages import result_of, seeded
from tests.tiny import TINY_LAYOUT, tiny_parts

LAYOUT = TINY_LAYOUT


@pytest.fixture(scope="module")
def model() -> CausalGPT:
    _, coarse, *_ = tiny_parts(4)
    return coarse


def semantic_of(n: int, seed: int = 0) -> SemanticTokens:
    values = np.random.default_rng(seed).integers(0, LAYOUT.semantic_vocab, n)
    return SemanticTokens(values, LAYOUT)


def history_of(n: int) -> tuple[SemanticTokens, CoarseCodes]:
    frames = math.floor(n * LAYOUT.frames_per_semantic)
    codes = np.random.default_rng(n).integers(0, LAYOUT.codebook_size, (2, frames))
    return semantic_of(n, seed=n), CoarseCodes(codes, LAYOUT)


def test_unflatten_undoes_flatten() -> None:
    codes = history_of(20)[1]
    assert (unflatten(flatten(codes), LAYOUT).values == codes.values).all()


def test_flat_tokens_alternate_between_the_codebooks() -> None:
    flat = flatten(CoarseCodes(np.array([[1, 2], [3, 4]]), LAYOUT))
    start, second = LAYOUT.semantic_vocab, LAYOUT.semantic_vocab + LAYOUT.codebook_size
    assert flat.tolist() == [start + 1, second + 3, start + 2, second + 4]


def test_bark_keeps_209_semantic_tokens_of_a_long_history() -> None:
    semantic = SemanticTokens(np.zeros(300, int), BARK_LAYOUT)
    codes = CoarseCodes(np.zeros((2, 450), int), BARK_LAYOUT)
    plan = plan_coarse(semantic, (semantic, codes), CoarseParams())
    assert plan.n_semantic_history == 209
    assert len(plan.coarse_history) == 628 - 2
    assert plan.n_steps == 900  # floor(300 * 1.503) = 450 frames


@pytest.mark.parametrize("n_history", [1, 2, 3, 8, 60])
def test_history_loses_one_frame_and_never_flips_to_everything(n_history: int) -> None:
    plan = plan_coarse(semantic_of(10), history_of(n_history), CoarseParams())
    expected = min(8, (n_history // 2) * 2)
    if n_history == 3:
        expected = 2
    assert plan.n_semantic_history <= expected
    if plan.n_semantic_history:
        n_coarse = round(plan.n_semantic_history * LAYOUT.coarse_per_semantic)
        assert len(plan.coarse_history) == n_coarse - 2
    else:
        assert len(plan.coarse_history) == 0


def test_prompt_is_padded_window_then_infer_then_past() -> None:
    plan = plan_coarse(semantic_of(3), None, CoarseParams())
    prompt = plan.prompt(np.array([20, 36]))
    window = LAYOUT.coarse_semantic_window
    assert prompt[:3].tolist() == plan.semantic.tolist()
    assert set(prompt[3:window].tolist()) == {LAYOUT.coarse_semantic_pad}
    assert prompt[window:].tolist() == [LAYOUT.coarse_infer, 20, 36]


@pytest.mark.parametrize("n_history", [0, 1, 30])
@pytest.mark.parametrize("max_history", [None, 6])
def test_cached_windows_equal_plain_ones(
    model: CausalGPT, n_history: int, max_history: int | None
) -> None:
    """The description of the stage, written down without a cache, gives the same codes."""
    semantic = semantic_of(25, seed=9)
    history = history_of(n_history) if n_history else None
    params = CoarseParams(temperature=0.8, top_k=9, max_history=max_history)
    plan = plan_coarse(semantic, history, params)
    draws = uniforms(seeded(2), plan.n_steps)
    made: list[int] = []
    for window_start in range(0, plan.n_steps, LAYOUT.coarse_window):
        prompt = plan.prompt(np.array(made[:window_start], dtype=np.int64)).tolist()
        for step in range(window_start, min(window_start + LAYOUT.coarse_window, plan.n_steps)):
            tokens = torch.tensor([prompt + made[window_start:]])
            start, stop = live_range(step, LAYOUT)
            logits = model.logits(model(model.embed(tokens)))[:, -1, start:stop]
            made.append(int(pick(probabilities(logits, params), draws[step][None])) + start)
    run = generate_coarse(model, semantic, history=history, params=params, generator=seeded(2))
    assert flatten(result_of(run)).tolist() == made


@pytest.mark.parametrize("n", [1, 2, 7, 40])
def test_frames_follow_the_rates(model: CausalGPT, n: int) -> None:
    codes = result_of(generate_coarse(model, semantic_of(n), generator=seeded(0)))
    assert codes.n_frames == math.floor(n * LAYOUT.frames_per_semantic)


@pytest.mark.parametrize("bad", [1, LAYOUT.coarse_window - 1, LAYOUT.max_coarse_history + 1])
def test_history_out_of_range_is_refused(model: CausalGPT, bad: int) -> None:
    params = CoarseParams(max_history=bad)
    with pytest.raises(InvalidSetting, match="max_history must be within 6"):
        next(generate_coarse(model, semantic_of(3), params=params, generator=seeded(0)))


@pytest.mark.parametrize("n_history", [0, 2, 5, 30])
def test_a_window_goes_on_as_long_as_nothing_slides(n_history: int) -> None:
    """As long as the next prompt is this one and what was made since, and no longer."""
    history = history_of(n_history) if n_history else None
    plan = plan_coarse(semantic_of(40), history, CoarseParams())
    made = np.random.default_rng(1).integers(20, 52, plan.n_steps)
    n_made = 0
    while n_made < plan.n_steps:
        n_window = plan.n_window_steps(n_made)
        assert n_made + n_window <= plan.n_steps
        for n in range(LAYOUT.coarse_window, n_window + 1, LAYOUT.coarse_window):
            later = plan.prompt(made[: n_made + n]).tolist()
            longer = [*plan.prompt(made[:n_made]).tolist(), *made[n_made : n_made + n].tolist()]
            if n < n_window:
                assert later == longer
            elif n_made + n < plan.n_steps:
                assert later != longer
        n_made += n_window
    assert n_made == plan.n_steps


@pytest.mark.parametrize("n_history", [0, 30])
def test_a_window_needs_the_words_that_its_prompt_shows(n_history: int) -> None:
    history = history_of(n_history) if n_history else None
    plan = plan_coarse(semantic_of(40), history, CoarseParams())
    for n_made in range(0, plan.n_steps, LAYOUT.coarse_window):
        made = np.full(n_made, 21)
        n_needed = plan.needs(n_made)
        others = plan.semantic.copy()
        others[plan.n_semantic_history + n_needed :] = 0
        changed = replace(plan, semantic=others)
        assert (changed.prompt(made) == plan.prompt(made)).all()
        if n_needed <= 40:
            others[plan.n_semantic_history + n_needed - 1] += 1
            assert (replace(plan, semantic=others).prompt(made) != plan.prompt(made)).any()

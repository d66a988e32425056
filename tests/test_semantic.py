"""Laws of the first stage."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from bark_core.errors import EmptyGeneration
from bark_core.events import Stage
from bark_core.request import SemanticParams
from bark_core.sampling import pick, probabilities, uniforms
from bark_core.semantic import generate_semantic, history_row, step_limit, text_row
from bark_core.tokens import SemanticTokens, TextTokens
from bark_core.transformer import CausalGPT
from tests.stages import result_of, seeded
from tests.tiny import TINY_LAYOUT, tiny_parts

LAYOUT = TINY_LAYOUT


@pytest.fixture(scope="module")
def model() -> CausalGPT:
    text, *_ = tiny_parts(3)
    return text


def text_of(*ids: int) -> TextTokens:
    return TextTokens(np.array(ids), LAYOUT)


def history_of(n: int) -> SemanticTokens:
    return SemanticTokens(np.arange(n) % LAYOUT.semantic_vocab, LAYOUT)


def test_text_is_offset_and_padded_on_the_right() -> None:
    row = text_row(text_of(3, 5))
    offset, pad = LAYOUT.text_offset, LAYOUT.text_pad
    assert row.tolist() == [3 + offset, 5 + offset] + [pad] * (LAYOUT.text_window - 2)


def test_history_keeps_its_end_and_is_padded_on_the_right() -> None:
    window, pad = LAYOUT.text_window, LAYOUT.semantic_pad
    assert history_row(None, LAYOUT).tolist() == [pad] * window
    assert history_row(history_of(3), LAYOUT).tolist() == [0, 1, 2] + [pad] * (window - 3)
    long = history_of(window + 4)
    assert history_row(long, LAYOUT).tolist() == long.values[4:].tolist()


@pytest.mark.parametrize("n_history", [0, 5, 40])
def test_cached_loop_equals_plain_loop(model: CausalGPT, n_history: int) -> None:
    """The description of the stage, written down without a cache, gives the same tokens."""
    text = text_of(9, 8, 7, 6)
    history = history_of(n_history) if n_history else None
    params = SemanticParams(min_eos_p=None, temperature=0.9, top_p=0.95)
    draws = uniforms(seeded(1), LAYOUT.max_semantic_tokens)
    prompt = model.embed(torch.from_numpy(text_row(text)))
    prompt = prompt + model.embed(torch.from_numpy(history_row(history, LAYOUT)))
    said: list[int] = []
    while len(said) < LAYOUT.max_semantic_tokens:
        tail = model.embed(torch.tensor([LAYOUT.semantic_infer, *said]))
        logits = model.logits(model(torch.cat([prompt, tail])[None]))[:, -1]
        probs = probabilities(logits[:, : LAYOUT.semantic_vocab + 1], params)
        token = int(pick(probs, draws[len(said)][None]))
        if token == LAYOUT.semantic_pad:
            break
        said.append(token)
    assert said
    run = generate_semantic(model, text, history=history, params=params, generator=seeded(1))
    assert result_of(run).values.tolist() == said


def test_history_matters(model: CausalGPT) -> None:
    params = SemanticParams(temperature=0, min_eos_p=None)
    without, with_history = (
        result_of(
            generate_semantic(
                model, text_of(1, 2), history=past, params=params, generator=seeded(0)
            )
        ).values.tolist()
        for past in (None, history_of(12))
    )
    assert without != with_history


def test_no_early_stop_goes_to_the_limit(model: CausalGPT) -> None:
    params = SemanticParams(allow_early_stop=False)
    tokens = result_of(generate_semantic(model, text_of(1), params=params, generator=seeded(0)))
    assert len(tokens) == LAYOUT.max_semantic_tokens
    assert tokens.values.max() < LAYOUT.semantic_vocab


@pytest.mark.parametrize(("seconds", "n_tokens"), [(0.0, 1), (0.1, 5), (0.5, 25), (99.0, 48)])
def test_longest_duration_ends_with_the_first_token_beyond_it(
    model: CausalGPT, seconds: float, n_tokens: int
) -> None:
    params = SemanticParams(allow_early_stop=False, max_duration_s=seconds)
    assert step_limit(params, LAYOUT) == n_tokens
    tokens = result_of(generate_semantic(model, text_of(1), params=params, generator=seeded(0)))
    assert len(tokens) == n_tokens


def test_end_threshold_of_zero_ends_at_once(model: CausalGPT) -> None:
    params = SemanticParams(min_eos_p=0.0)
    with pytest.raises(EmptyGeneration, match="try another seed"):
        result_of(generate_semantic(model, text_of(1), params=params, generator=seeded(0)))


def test_lower_threshold_ends_no_later(model: CausalGPT) -> None:
    def length(threshold: float) -> int:
        params = SemanticParams(min_eos_p=threshold)
        run = generate_semantic(model, text_of(4, 2), params=params, generator=seeded(5))
        try:
            return len(result_of(run))
        except EmptyGeneration:
            return 0

    lengths = [length(threshold) for threshold in (1e-3, 1e-2, 0.1, 1.0)]
    assert lengths == sorted(lengths)


def test_each_step_is_one_event(model: CausalGPT) -> None:
    params = SemanticParams(allow_early_stop=False)
    events = list(generate_semantic(model, text_of(1), params=params, generator=seeded(0)))
    assert {event.stage for event in events} == {Stage.SEMANTIC}
    assert [event.done for event in events][-1] == events[-1].total
    assert [event.done for event in events[:-1]] == list(range(1, len(events)))

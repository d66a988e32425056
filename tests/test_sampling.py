"""Laws of sampling."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from bark_core.errors import GenerationError
from bark_core.request import SamplingParams
from bark_core.sampling import (
    StageName,
    checked,
    keep_top_k,
    keep_top_p,
    pick,
    probabilities,
    soften,
    stage_generator,
    uniforms,
)

logit_lists = st.lists(st.floats(-20, 20, width=32), min_size=1, max_size=12)


def kept(logits: Tensor) -> Tensor:
    return logits > -torch.inf


@given(logit_lists, st.floats(0, 1))
def test_top_p_keeps_the_smallest_set_that_exceeds_p(values: list[float], top_p: float) -> None:
    logits = torch.tensor(values)
    stays = kept(keep_top_p(logits, top_p))
    probs = torch.softmax(logits, dim=-1)
    assert stays[logits == logits.max()].any()  # the likeliest always stays
    # what stays is at least as likely as what goes
    if not stays.all():
        assert probs[stays].min() >= probs[~stays].max()
        assert probs[stays].sum() > top_p - 1e-5
    # without the least likely of them it would not exceed p
    if stays.sum() > 1:
        assert probs[stays].sum() - probs[stays].min() <= top_p + 1e-5


@given(logit_lists, st.integers(1, 15))
def test_top_k_keeps_the_k_likeliest_and_ties(values: list[float], k: int) -> None:
    logits = torch.tensor(values)
    stays = kept(keep_top_k(logits, k))
    kth = sorted(values, reverse=True)[min(k, len(values)) - 1]
    assert stays.tolist() == [value >= kth for value in values]


@given(logit_lists)
def test_filters_that_let_all_through_change_nothing(values: list[float]) -> None:
    logits = torch.tensor(values)
    assert torch.equal(keep_top_k(logits, len(values)), logits)
    plain = probabilities(logits, SamplingParams())
    # beyond float32's resolution the sum exceeds 1 before the last token
    torch.testing.assert_close(
        probabilities(logits, SamplingParams(top_p=1.0)), plain, atol=1e-6, rtol=0
    )


@given(
    logit_lists,
    st.floats(0.05, 5),
    st.one_of(st.none(), st.integers(1, 12)),
    st.one_of(st.none(), st.floats(0, 1)),
)
def test_probabilities_add_up_to_one(
    values: list[float], temperature: float, top_k: int | None, top_p: float | None
) -> None:
    params = SamplingParams(temperature=temperature, top_k=top_k, top_p=top_p)
    probs = probabilities(torch.tensor(values), params)
    assert probs.dtype == torch.float32
    assert probs.sum().item() == pytest.approx(1, abs=1e-5)


@given(logit_lists)
def test_temperature_zero_puts_all_on_the_likeliest(values: list[float]) -> None:
    logits = torch.tensor(values)
    probs = probabilities(logits, SamplingParams(temperature=0))
    assert probs.max() == 1
    assert probs.sum() == 1
    assert logits[probs.argmax()] == logits.max()


def test_filters_look_at_the_unscaled_logits() -> None:
    """Top-p comes before the temperature: a high temperature lets no more tokens through."""
    logits = torch.tensor([4.0, 2.0, 0.0])
    probs = probabilities(logits, SamplingParams(temperature=5, top_p=0.5))
    assert probs.tolist() == [1, 0, 0]


def test_top_k_counts_what_top_p_left() -> None:
    logits = torch.tensor([3.0, 2.9, -5.0, -6.0])
    probs = probabilities(logits, SamplingParams(top_p=0.9, top_k=3))
    assert (probs > 0).tolist() == [True, True, False, False]


def test_rows_are_filtered_apart() -> None:
    logits = torch.tensor([[0.0, 5.0, 1.0], [5.0, 0.0, 1.0]])
    params = SamplingParams(top_k=1, top_p=0.9)
    both = probabilities(logits, params)
    for row, alone in zip(both, logits, strict=True):
        assert torch.equal(row, probabilities(alone, params))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_sampled_in_float32(dtype: torch.dtype) -> None:
    logits = torch.randn(50, generator=torch.Generator().manual_seed(0)).to(dtype)
    params = SamplingParams(top_p=0.9, top_k=20)
    assert torch.equal(probabilities(logits, params), probabilities(logits.float(), params))


def test_lower_temperatures_are_more_certain() -> None:
    logits = torch.tensor([1.0, 0.0, -1.0])
    best = [soften(logits, t)[0].item() for t in (5.0, 1.0, 0.3, 0.05, 0.0)]
    assert best == sorted(best)
    assert best[-1] == 1


def test_the_same_seed_draws_the_same_numbers_all_at_once_or_bit_by_bit() -> None:
    whole = uniforms(stage_generator(7, 0, "semantic"), 1000)
    generator = stage_generator(7, 0, "semantic")
    parts = [uniforms(generator, n) for n in (1, 7, 16, 400, 576)]
    assert torch.equal(torch.cat(parts), whole)
    assert 0 <= whole.min() < 0.01
    assert 0.99 < whole.max() < 1


def test_a_row_draws_the_same_whatever_its_neighbours() -> None:
    probs = torch.softmax(torch.randn(4, 40, generator=torch.Generator().manual_seed(2)), -1)
    numbers = uniforms(stage_generator(7, 0, "coarse"), 4)
    alone = [pick(probs[row], numbers[row]) for row in range(4)]
    assert torch.equal(pick(probs, numbers), torch.stack(alone))


@given(
    st.lists(st.floats(0, 1, width=32), min_size=1, max_size=12).filter(lambda p: sum(p) > 1e-3),
    st.floats(0, 1, exclude_max=True, width=32),
)
def test_the_first_token_whose_running_sum_exceeds_the_number_is_drawn(
    weights: list[float], number: float
) -> None:
    probs = torch.tensor(weights) / torch.tensor(weights).sum()
    reached = probs.cumsum(-1)
    token = int(pick(probs, torch.tensor(number)))
    assert probs[token] > 0
    if reached[-1] > number:
        assert reached[token] > number
        assert token == 0 or reached[token - 1] <= number
    else:
        assert reached[token] == reached[-1]


def test_what_is_not_finite_draws_nothing_and_leaves_its_neighbours_alone() -> None:
    probs = torch.tensor([[0.5, 0.5], [torch.nan, 0.5], [0.5, 0.5]])
    assert pick(probs, torch.tensor([0.0, 0.5, 0.75])).tolist() == [0, -1, 1]
    with pytest.raises(GenerationError, match="NaN"):
        checked(pick(probs[1], torch.tensor(0.5)))


def test_streams_of_seeds_segments_stages_and_takes_differ() -> None:
    stages: tuple[StageName, ...] = ("semantic", "coarse", "fine")
    seeds = {
        stage_generator(seed, segment, stage, take=take).initial_seed()
        for seed in (0, 1, 2**32, 2**63 - 1)
        for segment in (0, 1, 500)
        for stage in stages
        for take in (0, 1)
    }
    assert len(seeds) == 4 * 3 * 3 * 2
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_draws_follow_the_probabilities() -> None:
    probs = torch.tensor([[0.5, 0.3, 0.2, 0.0]])
    numbers = uniforms(stage_generator(3, 0, "fine"), 2000)
    counts = np.bincount(pick(probs.expand(2000, 4), numbers).numpy(), minlength=4) / 2000
    assert counts == pytest.approx(probs[0].numpy(), abs=0.05)
    assert counts[3] == 0

"""Laws of requests: whatever can't be done is refused at once, with a message for a person."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bark_core.errors import BarkError, InvalidSetting, InvalidText, InvalidTokens
from bark_core.request import (
    MAX_RETRIES,
    MAX_SEED,
    MAX_TAKE,
    MAX_TEXT_CHARACTERS,
    CoarseParams,
    FineParams,
    GenerationRequest,
    SamplingParams,
    SemanticParams,
    Settings,
    random_seed,
)

NOT_NUMBERS: list[Any] = [math.nan, math.inf, -math.inf, True, "0.5", b"1", [1], 1j]
FRACTIONS: list[tuple[type, str]] = [
    (SamplingParams, "temperature"),
    (SemanticParams, "temperature"),
    (CoarseParams, "temperature"),
    (FineParams, "temperature"),
    (SemanticParams, "top_p"),
    (CoarseParams, "top_p"),
    (SemanticParams, "min_eos_p"),
    (SemanticParams, "max_duration_s"),
]
WHOLE: list[tuple[type, str]] = [
    (SemanticParams, "top_k"),
    (CoarseParams, "top_k"),
    (CoarseParams, "max_history"),
]


@pytest.mark.parametrize(("params", "name"), FRACTIONS + WHOLE)
@pytest.mark.parametrize("value", [*NOT_NUMBERS, -1, -0.001])
def test_what_is_no_number_in_range_is_refused(params: type, name: str, value: Any) -> None:
    with pytest.raises(InvalidSetting, match=name):
        params(**{name: value})


@pytest.mark.parametrize(("params", "name"), WHOLE)
@pytest.mark.parametrize("value", [0, 1.0, 1.5])
def test_whole_numbers_start_at_one(params: type, name: str, value: Any) -> None:
    with pytest.raises(InvalidSetting, match=name):
        params(**{name: value})
    params(**{name: 1})


@pytest.mark.parametrize("name", ["top_p", "min_eos_p"])
def test_probabilities_end_at_one(name: str) -> None:
    params: Any = SemanticParams
    params(**{name: 0})
    params(**{name: 1})
    with pytest.raises(InvalidSetting, match=r"0\.\.1"):
        params(**{name: 1.01})


@pytest.mark.parametrize("temperature", [0, 0.0, 0.7, 5])
def test_temperatures_within_the_range_are_taken(temperature: float) -> None:
    assert FineParams(temperature=temperature).temperature == temperature


def test_a_temperature_beyond_the_range_is_refused() -> None:
    with pytest.raises(InvalidSetting, match=r"within 0\.\.5, got 5\.1"):
        FineParams(temperature=5.1)


@pytest.mark.parametrize("value", [1, 0, "yes", None])
def test_a_switch_is_true_or_false(value: Any) -> None:
    with pytest.raises(InvalidSetting, match="allow_early_stop"):
        SemanticParams(allow_early_stop=value)


def test_defaults_are_those_of_the_original() -> None:
    settings = Settings()
    assert (settings.semantic.temperature, settings.coarse.temperature) == (0.7, 0.7)
    assert settings.fine.temperature == 0.5
    assert settings.semantic.min_eos_p == 0.2
    assert settings.semantic.allow_early_stop
    assert settings.semantic.max_duration_s is None
    for stage in (settings.semantic, settings.coarse):
        assert (stage.top_k, stage.top_p) == (None, None)


@pytest.mark.parametrize("text", ["", " ", "\n\t  \u00a0"])
def test_empty_text_is_refused(text: str) -> None:
    with pytest.raises(InvalidText, match="no text"):
        GenerationRequest(text)


@pytest.mark.parametrize("text", [None, b"hello", 7, ["hello"]])
def test_what_is_no_text_is_refused(text: Any) -> None:
    with pytest.raises(InvalidText, match="must be a string"):
        GenerationRequest(text)


def test_endless_text_is_refused_not_cut() -> None:
    GenerationRequest("a" * MAX_TEXT_CHARACTERS)
    with pytest.raises(InvalidText, match="100,001"):
        GenerationRequest("a" * (MAX_TEXT_CHARACTERS + 1))


@pytest.mark.parametrize("seed", [-1, MAX_SEED + 1, 1.0, True, "7", None, math.nan])
def test_seeds_out_of_range_are_refused(seed: Any) -> None:
    with pytest.raises(InvalidSetting, match="seed"):
        GenerationRequest("a", seed=seed)
    assert GenerationRequest("a", seed=MAX_SEED).seed == MAX_SEED


@pytest.mark.parametrize("pause", [-0.1, 10.1, math.nan, "1"])
def test_pauses_out_of_range_are_refused(pause: Any) -> None:
    with pytest.raises(InvalidSetting, match="pause"):
        GenerationRequest("a", segment_pause_s=pause)


@pytest.mark.parametrize(("name", "top"), [("retries", MAX_RETRIES), ("take", MAX_TAKE)])
def test_takes_and_retries_are_whole_numbers_in_range(name: str, top: int) -> None:
    values: Any
    for values in (0, 1, top):
        assert getattr(GenerationRequest("a", **{name: values}), name) == values
    for values in (-1, top + 1, 1.0, True, "1", None, math.nan):
        with pytest.raises(InvalidSetting, match=name):
            GenerationRequest("a", **{name: values})


@pytest.mark.parametrize("words", [(), [], "words", 7])
def test_words_are_those_of_each_segment(words: Any) -> None:
    assert GenerationRequest("a").words is None
    with pytest.raises(InvalidTokens, match="words"):
        GenerationRequest("a", words=words)


def test_requests_without_a_seed_differ() -> None:
    assert GenerationRequest("a").seed != GenerationRequest("a").seed
    assert all(0 <= random_seed() < 2**32 for _ in range(100))


def test_a_request_does_not_change() -> None:
    request = GenerationRequest("a")
    with pytest.raises(dataclasses.FrozenInstanceError):
        request.text = "b"  # type: ignore[misc]


@given(
    st.sampled_from(FRACTIONS + WHOLE),
    st.one_of(st.none(), st.integers(), st.floats(), st.text(max_size=3), st.booleans()),
)
def test_a_setting_is_in_range_or_refused(where: tuple[type, str], value: Any) -> None:
    params, name = where
    try:
        kept = getattr(params(**{name: value}), name)
    except BarkError as error:
        message = str(error)
    else:
        assert kept is None or (math.isfinite(kept) and kept >= 0 and not isinstance(kept, bool))
        return
    assert name in message
    assert repr(value) in message

"""Laws of the semantic vocabulary and of cutting phones into tokens."""

from __future__ import annotations

import numpy as np
import pytest

from training.pup import SEMANTIC_VOCAB
from training.teacher import frames_of
from training.units import (
    CUE_SOUNDS,
    HIGH,
    LOW,
    MIDDLE,
    N_SUNG,
    N_UNITS,
    PHONES,
    PITCHED,
    SPOKEN,
    SUNG,
    THIRDS,
    TONES,
    TOP,
    Phone,
    parts,
    semantic_tokens,
    tone_of,
    unit,
)

TOKEN_S = 0.03


def test_phones_are_distinct_and_fit_the_vocabulary() -> None:
    assert list(SPOKEN) == sorted(set(SPOKEN))
    assert len(PHONES) == len(set(PHONES)) == len(SPOKEN) + len(CUE_SOUNDS)
    assert set(PITCHED) <= set(SPOKEN)
    assert N_UNITS <= SEMANTIC_VOCAB
    assert len(TONES) == SUNG + N_SUNG


def test_every_unit_is_one_phone_third_and_tone() -> None:
    found = [parts(token) for token in range(N_UNITS)]
    assert len(set(found)) == N_UNITS
    assert [unit(*each) for each in found] == list(range(N_UNITS))


def test_a_phone_without_pitch_has_the_middle_tone_only() -> None:
    assert unit("s", 1, TOP) == unit("s", 1, MIDDLE)


@pytest.mark.parametrize(
    ("semitones", "tone"), [(-6.0, LOW), (0.0, MIDDLE), (2.0, HIGH), (7.0, TOP)]
)
def test_tone_rises_with_pitch(semitones: float, tone: int) -> None:
    assert tone_of(semitones) == tone


def _said(*phones: Phone) -> list[tuple[str, int, int]]:
    return [parts(int(token)) for token in semantic_tokens(phones, TOKEN_S)]


def test_thirds_follow_time_within_a_phone() -> None:
    said = _said(Phone("aa", 0.18, HIGH), Phone("b", 0.27))
    assert [(name, third) for name, third, _ in said] == [
        *(("aa", third) for third in (0, 0, 1, 1, 2, 2)),
        *(("b", third) for third in (0, 1, 2)),
    ]
    assert {tone for name, _, tone in said if name == "aa"} == {HIGH}


def test_short_phone_takes_a_token_from_a_longer_one() -> None:
    names = [name for name, *_ in _said(Phone("aa", 0.10), Phone("t", 0.104), Phone("s", 0.21))]
    assert names.count("t") == 1
    assert names == sorted(names, key=["aa", "t", "s"].index)


def test_short_phone_takes_nothing_from_a_phone_with_one_token() -> None:
    said = _said(Phone("aa", 0.03), Phone("t", 0.031), Phone("s", 0.06))
    assert [name for name, *_ in said] == ["aa", "s"]


def test_every_phone_long_enough_is_heard() -> None:
    rng = np.random.default_rng(0)
    spans = rng.uniform(0.031, 0.2, 40)
    names = [SPOKEN[i % 28] for i in range(40)]  # no two alike in a row
    phones = [Phone(n, float(e)) for n, e in zip(names, np.cumsum(spans), strict=True)]
    heard = [name for name, *_ in _said(*phones)]
    runs = [name for i, name in enumerate(heard) if i == 0 or name != heard[i - 1]]
    assert runs == names


def test_frames_are_one_and_a_half_a_token() -> None:
    assert [frames_of(n) for n in (1, 2, 3, 100)] == [1, 3, 4, 150]
    assert THIRDS == 3

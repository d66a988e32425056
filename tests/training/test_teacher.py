"""Laws of the teacher: phones, tokens and sound agree."""

from __future__ import annotations

import ctypes

import numpy as np
import pytest

from training.teacher import (
    FRAME_SAMPLES,
    PHONE_INDEX,
    PHONES,
    SEMANTIC_VOCAB,
    THIRDS,
    VOICES,
    Phone,
    Teacher,
    frames_of,
    semantic_tokens,
    trim_pauses,
)


def _flite_is_there() -> bool:
    try:
        ctypes.CDLL("libflite.so.1")
    except OSError:
        return False
    return True


needs_flite = pytest.mark.skipif(not _flite_is_there(), reason="libflite1 is not installed")


@pytest.fixture(scope="module")
def teacher() -> Teacher:
    return Teacher()


def test_phones_are_sorted_and_fit_the_vocabulary() -> None:
    assert list(PHONES) == sorted(set(PHONES))
    assert len(PHONES) == 41
    assert len(PHONES) * THIRDS <= SEMANTIC_VOCAB


def test_thirds_follow_time_within_a_phone() -> None:
    tokens = semantic_tokens((Phone("aa", 0.18), Phone("b", 0.27)))
    assert tokens.tolist() == [0, 0, 1, 1, 2, 2, 21, 22, 23]


def test_short_phone_takes_a_token_from_a_longer_one() -> None:
    tokens = semantic_tokens((Phone("aa", 0.10), Phone("t", 0.104), Phone("s", 0.21)))
    names = [PHONES[token // THIRDS] for token in tokens]
    assert names.count("t") == 1
    assert names == sorted(names, key=["aa", "t", "s"].index)


def test_short_phone_takes_nothing_from_a_phone_with_one_token() -> None:
    tokens = semantic_tokens((Phone("aa", 0.03), Phone("t", 0.031), Phone("s", 0.06)))
    assert [token // THIRDS for token in tokens] == [PHONE_INDEX["aa"], PHONE_INDEX["s"]]


def test_every_phone_long_enough_is_heard() -> None:
    rng = np.random.default_rng(0)
    spans = rng.uniform(0.031, 0.2, 40)
    names = [PHONES[i % 28] for i in range(40)]  # no two alike in a row
    phones = tuple(Phone(n, float(e)) for n, e in zip(names, np.cumsum(spans), strict=True))
    heard = semantic_tokens(phones) // THIRDS
    runs = heard[np.concatenate([[True], heard[1:] != heard[:-1]])]
    assert [PHONES[index] for index in runs] == names


def test_frames_are_one_and_a_half_a_token() -> None:
    assert [frames_of(n) for n in (1, 2, 3, 100)] == [1, 3, 4, 150]


def test_pauses_are_trimmed_and_times_move_with_them() -> None:
    phones = (Phone("pau", 0.2), Phone("aa", 0.3), Phone("pau", 0.4), Phone("b", 0.5))
    trimmed, cut_s = trim_pauses((*phones, Phone("pau", 0.9)))
    assert cut_s == pytest.approx(0.14)
    assert [phone.name for phone in trimmed] == ["pau", "aa", "pau", "b", "pau"]
    assert [phone.end_s for phone in trimmed] == pytest.approx([0.06, 0.16, 0.26, 0.36, 0.51])


def test_short_pauses_stay() -> None:
    phones = (Phone("pau", 0.03), Phone("aa", 0.13), Phone("pau", 0.2))
    assert trim_pauses(phones) == (phones, 0.0)


@needs_flite
def test_sound_is_as_long_as_its_tokens(teacher: Teacher) -> None:
    for voice in VOICES:
        spoken = teacher.say("The kettle is on.", voice)
        assert len(spoken.samples) == frames_of(len(spoken.semantic)) * FRAME_SAMPLES
        assert spoken.phones[-1].end_s == pytest.approx(len(spoken.semantic) * 0.03, abs=0.0151)
        assert 0.02 < float(np.sqrt(np.mean(spoken.samples**2))) < 0.4
        assert float(np.abs(spoken.samples).max()) < 1


@needs_flite
def test_phones_are_the_same_without_sound(teacher: Teacher) -> None:
    for voice in VOICES:
        silent = teacher.say("Nine grey geese flew over.", voice, with_sound=False)
        spoken = teacher.say("Nine grey geese flew over.", voice)
        assert len(silent.samples) == 0
        assert silent.phones == spoken.phones
        assert silent.semantic.tolist() == spoken.semantic.tolist()


@needs_flite
def test_voices_differ(teacher: Teacher) -> None:
    first, second = (teacher.say("A short line.", voice) for voice in VOICES[:2])
    assert first.phones != second.phones

"""Laws of the training text."""

from __future__ import annotations

import re
from collections import Counter
from functools import cache
from itertools import islice
from statistics import mean

import pytest

from training.sentences import MAX_CHARS, held_out, normalised, sentences


@cache
def _sample() -> tuple[str, ...]:
    return tuple(sentences(seed=1, count=5000))


def _words(lines: tuple[str, ...] | list[str]) -> list[str]:
    return [word for line in lines for word in re.findall(r"[a-z]+(?:'[a-z]+)?", line.lower())]


def test_the_same_seed_gives_the_same_sentences() -> None:
    assert list(sentences(3, 300)) == list(sentences(3, 300))


def test_a_longer_run_begins_like_a_shorter_one() -> None:
    assert list(islice(sentences(3, 1000), 200)) == list(sentences(3, 200))


def test_another_seed_gives_other_sentences() -> None:
    assert len(set(sentences(3, 300)) & set(sentences(4, 300))) < 60


def test_no_sentence_comes_twice() -> None:
    assert len(set(_sample())) == len(_sample()) == 5000


def test_only_letters_spaces_and_a_few_marks_occur() -> None:
    assert all(re.fullmatch(r"[A-Za-z .,?!'\-;:]+", line) for line in _sample())


def test_sentences_begin_with_a_capital_and_end_with_a_mark() -> None:
    assert all(re.fullmatch(r"'?[A-Z].*[.?!]'?", line) for line in _sample())


def test_spacing_is_ordinary() -> None:
    assert not [line for line in _sample() if re.search(r"^ | $|  | [.,?!;:]", line)]


def test_no_slot_or_separator_of_the_lexicon_is_left() -> None:
    assert not [line for line in _sample() if re.search(r"[{}_/+]", line)]


def test_lengths_lie_in_range() -> None:
    lengths = [len(line) for line in _sample()]
    assert min(lengths) >= 1
    assert max(lengths) <= MAX_CHARS
    assert 40 <= mean(lengths) <= 52


def test_articles_suit_the_next_word() -> None:
    text = " ".join(_sample())
    assert not re.findall(r"\b[Aa] (?:apple|egg|orange|owl|hour|honest)\b", text)
    assert not re.findall(r"\b[Aa]n (?:dog|house|university|uniform|useful)\b", text)


@pytest.mark.parametrize(("name", "count"), [("prose", 100), ("open", 50)])
def test_held_out_sentences_are_never_drawn(name: str, count: int) -> None:
    lines = held_out("prose" if name == "prose" else "open")
    assert len({normalised(line) for line in lines}) == count
    assert not {normalised(line) for line in lines} & {normalised(line) for line in _sample()}


def test_held_out_prose_is_short() -> None:
    assert all(len(line) <= 90 and 4 <= len(line.split()) <= 16 for line in held_out("prose"))


def test_the_words_of_the_held_out_prose_are_in_the_training_text() -> None:
    known = set(_words(_sample()))
    words = _words(held_out("prose"))
    assert mean(word in known for word in words) >= 0.97


def test_common_words_come_often() -> None:
    counts = Counter(_words(_sample()))
    assert all(counts[word] >= 100 for word in ("the", "a", "i", "you", "and", "to", "was", "in"))


def test_normalised_keeps_letters_only() -> None:
    assert normalised("Don't go, Emma!") == "dontgoemma"

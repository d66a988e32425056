"""Laws of the prompts that pup learns from."""

from __future__ import annotations

import re
from functools import cache

from bark_core.tokenizer import Tokenizer
from training.prompts import CUES, MAX_CHARS, prompts
from training.pup import LAYOUT
from training.sentences import held_out, normalised
from training.vocabulary import character_vocabulary


@cache
def _sample() -> tuple[str, ...]:
    return tuple(prompts(seed=1, count=4000))


def test_the_same_seed_gives_the_same_prompts() -> None:
    assert list(prompts(3, 200)) == list(prompts(3, 200)) != list(prompts(4, 200))


def test_no_held_out_sentence_is_in_any_prompt() -> None:
    banned = [normalised(line) for line in (*held_out("prose"), *held_out("open"))]
    assert not [p for p in map(normalised, _sample()) if any(line in p for line in banned)]


def test_every_prompt_can_be_read_and_fits_the_window() -> None:
    tokenizer = Tokenizer.from_vocabulary(character_vocabulary())
    for prompt in _sample():
        assert 0 < len(prompt) <= MAX_CHARS
        assert not tokenizer.unknown(prompt)
        assert tokenizer.count(prompt) <= LAYOUT.text_window


def test_everything_that_pup_should_know_occurs() -> None:
    share = {
        name: sum(bool(re.search(pattern, prompt)) for prompt in _sample()) / len(_sample())
        for name, pattern in {
            "question": r"\?",
            "capitals": r"\b[A-Z]{2,}\b",
            "dots": r"\.\.\.|…",
            "song": r"♪ .+ ♪",
            "word": r"^[A-Za-z']+[.?!]?$",
            "long": r"^.{120}",
            **{cue: re.escape(cue) for cue in CUES},
        }.items()
    }
    assert min(share.values()) > 0.006
    assert share["question"] > 0.1 and share["long"] > 0.05 and share["capitals"] > 0.05

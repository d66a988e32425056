"""Laws of the evaluation: who says what, and what is counted."""

from __future__ import annotations

from typing import Any, cast

import numpy as np
import pytest
from numpy.typing import NDArray

from training import evaluate
from training.sentences import held_out
from training.teacher import VOICES, TeacherVoice


class FirstVoice:
    """A judge who always hears the first voice."""

    def nearest(self, _samples: object) -> int:
        return 0


def test_each_round_has_every_sentence_said_by_the_voice_after() -> None:
    pytest.importorskip("pocketsphinx")
    said: list[tuple[str, str]] = []

    def speak(text: str, voice: TeacherVoice) -> NDArray[np.float32]:
        said.append((text, voice.name))
        return np.zeros(2400, np.float32)

    judge = cast("Any", FirstVoice())
    report = evaluate.run({"silence": speak}, ["prose"], 2, judge, rounds=3)
    names = [voice.name for voice in VOICES]
    one, two = held_out("prose")[:2]
    assert said == [
        *((one, names[0]), (two, names[1])),
        *((one, names[1]), (two, names[2])),
        *((one, names[2]), (two, names[3])),
    ]
    of_all = next(score for score in report["scores"] if score["voice"] == "all")
    assert (of_all["n"], of_all["exact"]) == (6, 0.0)
    assert of_all["wer"] > 0.9  # in silence the recogniser hears a word now and then
    assert report["voice_recognised"] == {"silence/prose": round(1 / 6, 3)}
    assert len(report["heard"]["silence/prose"]) == 6


def test_words_are_counted_as_the_recogniser_writes_them() -> None:
    said = evaluate.normalise("It's well-made, \u2018isn\u2019t\u2019 it?")
    assert said == ["it's", "well", "made", "isn't", "it"]
    assert evaluate.word_errors(said, said) == 0
    assert evaluate.word_errors(["a", "b", "c"], ["a", "x", "c", "d"]) == 2

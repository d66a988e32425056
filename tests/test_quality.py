"""Laws of quality: what a listener would notice is noticed, what is good is left alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bark_core import VoiceLibrary, load
from bark_core.errors import BarkError
from bark_core.quality import (
    Problem,
    audible_s,
    find_length_problems,
    find_problems,
    is_silent,
    plausible_s,
)
from bark_core.request import GenerationRequest
from bark_core.text import estimate_duration_s
from bark_core.tokens import Audio

SENTENCE = "The kettle is on, and the bread is still warm."
RATE = 24_000
PUP = Path(__file__).resolve().parent.parent / "models" / "pup"


def hum(seconds: float, level_db: float = -20.0) -> Audio:
    """A tone as loud as speech."""
    time = np.arange(round(seconds * RATE)) / RATE
    loudness = np.sqrt(2) * 10 ** (level_db / 20)
    return Audio((loudness * np.sin(2 * np.pi * 150 * time)).astype(np.float32))


def speech(text: str, pace: float = 1.0) -> Audio:
    """Sound of the length that the text has on average, `pace` times faster."""
    return hum(max(0.3, estimate_duration_s(text) / pace))


GOOD = [
    SENTENCE,
    "Yes.",
    "No!",
    "Hm.",
    "A",
    "It was 1987, and he had 12,345 dollars and 67 cents.",
    "NASA and the FBI know.",
    "... well ... I don't know ... maybe.",
    "[laughs] Oh, stop it!",
    "♪ Row, row, row your boat. ♪",
    "早上好！茶已经泡好了，面包还是热的。",
    "おはようございます。お茶が入りました。",
    "좋은 아침이에요! 커피가 준비됐어요.",
    "सुप्रभात! चाय तैयार है।",
    "Доброе утро! Чай готов.",
    "WAIT — no, STOP!",
]


@pytest.mark.parametrize("pace", [0.7, 1.0, 1.5])
@pytest.mark.parametrize("text", GOOD)
def test_speech_of_any_usual_pace_is_left_alone(text: str, pace: float) -> None:
    assert find_problems(text, speech(text, pace), ended=True) == ()


@pytest.mark.parametrize("text", ["Yes.", "No!", "Hm.", "Ouch!"])
def test_a_single_word_may_take_its_time(text: str) -> None:
    for seconds in (0.25, 0.8, 1.5):
        assert find_problems(text, hum(seconds), ended=True) == ()


def test_what_ran_to_the_cap_is_told() -> None:
    assert find_problems(SENTENCE, hum(3.0), ended=False) == (Problem.NO_END,)
    # a limit that somebody chose may be below what the words need
    assert find_problems(SENTENCE, hum(0.5), ended=False) == (Problem.NO_END,)


@pytest.mark.parametrize("level_db", [-90.0, -60.0, -50.0])
def test_near_silence_is_told(level_db: float) -> None:
    assert find_problems(SENTENCE, hum(3.0, level_db), ended=True) == (Problem.SILENT,)


def test_a_whisper_is_no_silence() -> None:
    assert find_problems(SENTENCE, hum(3.0, -40.0), ended=True) == ()


def test_a_click_before_silence_is_silence() -> None:
    click = np.concatenate([hum(0.2).samples, np.zeros(3 * RATE, np.float32)])
    assert find_problems(SENTENCE, Audio(click), ended=True) == (Problem.SILENT,)


def test_pauses_within_speech_are_no_silence() -> None:
    pause = np.zeros(RATE // 2, np.float32)
    halves = [hum(1.0).samples, pause, hum(1.0).samples, pause]
    assert find_problems(SENTENCE, Audio(np.concatenate(halves)), ended=True) == ()


def test_sound_shorter_than_a_window_is_silent() -> None:
    for n_samples in (0, 1, 1199):
        audio = Audio(np.ones(n_samples, np.float32))
        assert audible_s(audio) == 0
        assert is_silent("Hm.", audio)


def test_what_was_cut_is_too_short() -> None:
    cut = hum(0.35 * estimate_duration_s(SENTENCE))
    assert find_problems(SENTENCE, cut, ended=True) == (Problem.TOO_SHORT,)


def test_what_babbles_on_is_too_long() -> None:
    babble = hum(2.2 * estimate_duration_s(SENTENCE) + 1.5)
    assert find_problems(SENTENCE, babble, ended=True) == (Problem.TOO_LONG,)
    assert find_problems(SENTENCE, babble, ended=False) == (Problem.NO_END, Problem.TOO_LONG)


@pytest.mark.parametrize("cue", ["[laughs]", "[sighs]", "[clears throat]"])
def test_a_cue_makes_room_for_its_sound(cue: str) -> None:
    longest = plausible_s(SENTENCE)[1]
    assert find_length_problems(SENTENCE, longest + 1, ended=True) == (Problem.TOO_LONG,)
    assert find_length_problems(f"{cue} {SENTENCE}", longest + 1, ended=True) == ()
    # and asks for nothing: a model may skip it
    assert plausible_s(f"{SENTENCE} {cue}")[0] == plausible_s(SENTENCE)[0]


@pytest.mark.parametrize("text", ["[music]", "♪", "[laughs]", "...", "[MUSIC] Hello!", "—"])
def test_music_and_cues_alone_last_as_long_as_they_like(text: str) -> None:
    assert find_problems(text, hum(15.0), ended=True) == ()


def test_singing_takes_longer_than_speaking() -> None:
    words = "Row, row, row your boat, gently down the stream."
    assert plausible_s(f"♪ {words} ♪")[1] > 1.5 * plausible_s(words)[1]


def test_a_long_number_may_be_short_when_it_is_said() -> None:
    assert find_problems("2,000,000,000!", hum(0.7), ended=True) == ()


@settings(max_examples=300)
@given(st.text(max_size=200), st.floats(0, 30), st.booleans())
def test_any_text_has_a_plausible_length(text: str, seconds: float, ended: bool) -> None:
    shortest, longest = plausible_s(text)
    assert 0 <= shortest < longest
    problems = find_length_problems(text, seconds, ended=ended)
    assert not {Problem.TOO_SHORT, Problem.TOO_LONG} <= set(problems)
    assert (Problem.NO_END in problems) is not ended


@pytest.mark.slow
@pytest.mark.skipif(not (PUP / "config.json").is_file(), reason="models/pup isn't here")
def test_it_leaves_the_bundled_model_alone_and_hears_what_is_damaged() -> None:
    cascade, library = load("pup"), VoiceLibrary.default()
    voice = library[library.names(cascade.config.layout.name)[0]]
    texts = [
        "Good morning to all of you.",
        "The phone rang twice and then stopped.",
        "She smiled at me, but she did not say a word.",
    ]
    n_good = n_heard = 0
    for seed, text in enumerate(texts):
        (segment,) = cascade.generate(GenerationRequest(text, voice, seed)).segments
        n_good += not segment.problems
        samples = segment.audio.samples
        damaged = [samples[: int(0.3 * len(samples))], samples * 0.01, np.tile(samples, 5)]
        n_heard += sum(
            bool(find_problems(segment.text, Audio(part), ended=True)) for part in damaged
        )
    assert n_good == len(texts)
    assert n_heard == 3 * len(texts)


def test_problems_are_no_errors() -> None:
    assert not any(issubclass(type(problem), BarkError) for problem in Problem)
    assert [str(problem) for problem in Problem] == [
        "no_end",
        "silent",
        "too_short",
        "too_long",
        "empty",
    ]

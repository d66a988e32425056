"""Laws of takes: what is wrong is noticed and said again, and the words can be kept."""

from __future__ import annotations

import functools
from dataclasses import replace

import numpy as np
import pytest

from bark_core.cascade import Cascade
from bark_core.config import BARK_LAYOUT
from bark_core.errors import EmptyGeneration, InvalidTokens, LayoutMismatch
from bark_core.events import Event, Finished, Retry, Stage, StageProgress
from bark_core.generation import Generation, SegmentResult, settings_from_metadata
from bark_core.quality import Problem
from bark_core.request import CoarseParams, GenerationRequest, SemanticParams, Settings
from bark_core.text import Segment
from bark_core.tokens import SemanticTokens
from tests import tiny
from tests.stages import result_of

# of a random model, some takes end at once, some too early, some never
UNSTEADY = Settings(semantic=SemanticParams(temperature=1.5, min_eos_p=None))
STEADY = Settings(semantic=SemanticParams(allow_early_stop=False, max_duration_s=0.39))
TEXT = "Hello the cat."
TWO_SENTENCES = "The cat sat. The dog ran."
SEEDS = (0, 1, 2, 3, 6, 8, 13, 15)  # whose takes go wrong in every way


@functools.cache
def take_of(seed: int, take: int) -> SegmentResult | None:
    """One take by itself; None if it ended before it made a sound."""
    run = tiny.tiny_cascade().say(Segment(TEXT), settings=UNSTEADY, seed=seed, take=take)
    try:
        return result_of(run)
    except EmptyGeneration:
        return None


def events_of(cascade: Cascade, request: GenerationRequest) -> list[Event]:
    return list(cascade.events(request))


def made_by(events: list[Event]) -> Generation:
    end = events[-1]
    assert isinstance(end, Finished)
    return end.generation


def known(result: SegmentResult | None) -> tuple[Problem, ...]:
    """What a retry goes by: what the length tells, and only without that what is heard."""
    if result is None:
        return (Problem.EMPTY,)
    of_length = tuple(problem for problem in result.problems if problem is not Problem.SILENT)
    return of_length or result.problems


@pytest.mark.parametrize("first", [0, 2])
@pytest.mark.parametrize("seed", SEEDS)
def test_the_first_good_take_is_kept_or_else_the_best(
    tiny_cascade: Cascade, seed: int, first: int
) -> None:
    retries = 3
    takes = {take: take_of(seed, take) for take in range(first, first + retries + 1)}
    good = next((take for take in takes if not known(takes[take])), None)
    last = first + retries if good is None else good
    request = GenerationRequest(TEXT, None, seed, UNSTEADY, retries=retries, take=first)
    heard = [take for take, result in takes.items() if result is not None]
    if not heard:
        with pytest.raises(EmptyGeneration):
            tiny_cascade.generate(request)
        return
    best = good if good is not None else min(heard, key=lambda take: len(known(takes[take])))
    events = events_of(tiny_cascade, request)
    (kept,) = made_by(events).segments
    expected = takes[best]
    assert expected is not None
    assert kept.take == best
    assert kept.problems == expected.problems
    assert np.array_equal(kept.audio.samples, expected.audio.samples)
    again = [event for event in events if isinstance(event, Retry)]
    assert [event.take for event in again] == list(range(first + 1, last + 1))
    assert [event.problems for event in again] == [known(takes[t]) for t in range(first, last)]


def test_the_takes_of_a_random_model_go_wrong_in_every_way(tiny_cascade: Cascade) -> None:
    """Else the law above would say nothing."""
    takes = [take_of(seed, take) for seed in SEEDS for take in range(4)]
    seen = {problem for take in takes for problem in known(take)}
    assert {Problem.NO_END, Problem.TOO_SHORT, Problem.EMPTY} <= seen
    assert any(take is not None and not take.problems for take in takes)
    assert any(take is not None and Problem.SILENT in take.problems for take in takes)


def test_without_retries_a_bad_take_is_kept_and_told_of(tiny_cascade: Cascade) -> None:
    for seed in range(8):
        alone = take_of(seed, 0)
        request = GenerationRequest(TEXT, None, seed, UNSTEADY)
        if alone is None:
            with pytest.raises(EmptyGeneration):
                tiny_cascade.generate(request)
            continue
        events = events_of(tiny_cascade, request)
        assert not any(isinstance(event, Retry) for event in events)
        made = made_by(events)
        assert np.array_equal(made.audio.samples, alone.audio.samples)
        assert made.metadata()["takes"] == [0]
        assert made.metadata()["problems"] == [list(alone.problems)]


def test_bad_words_do_not_become_sound_while_a_retry_is_left(tiny_cascade: Cascade) -> None:
    short = (seed for seed in range(8) if Problem.TOO_SHORT in known(take_of(seed, 0)))
    request = GenerationRequest(TEXT, None, next(short), UNSTEADY, retries=1)
    events = events_of(tiny_cascade, request)
    again = next(index for index, event in enumerate(events) if isinstance(event, Retry))
    before = {event.stage for event in events[:again] if isinstance(event, StageProgress)}
    after = {event.stage for event in events[again:] if isinstance(event, StageProgress)}
    assert before == {Stage.SEMANTIC}
    assert Stage.CODEC in after


def test_another_take_is_another_sound(tiny_cascade: Cascade) -> None:
    sounds = {
        tiny_cascade.generate(
            GenerationRequest(TEXT, None, 7, STEADY, take=take)
        ).audio.samples.tobytes()
        for take in (0, 1, 2, 1_000_000)
    }
    assert len(sounds) == 4


def test_a_length_that_was_asked_for_is_not_held_against_a_take(tiny_cascade: Cascade) -> None:
    (segment,) = tiny_cascade.generate(GenerationRequest(TEXT, None, 7, STEADY)).segments
    assert not segment.ended
    assert set(segment.problems) <= {Problem.SILENT}


def test_each_segment_has_a_budget_of_its_own(tiny_cascade: Cascade) -> None:
    for seed in range(30):
        request = GenerationRequest(TWO_SENTENCES, None, seed, UNSTEADY, retries=4)
        try:
            events = events_of(tiny_cascade, request)
        except EmptyGeneration:
            continue
        again = [event for event in events if isinstance(event, Retry)]
        n_segments = made_by(events).n_planned
        assert n_segments > 1
        assert {event.n_segments for event in again} <= {n_segments}
        for index in range(n_segments):
            takes = [event.take for event in again if event.segment == index]
            assert takes == list(range(1, len(takes) + 1))
        if {event.segment for event in again} == set(range(n_segments)):
            return
    pytest.fail("no seed retried every segment")


# --- kept words


def kept_words(made: Generation) -> tuple[SemanticTokens, ...]:
    return tuple(segment.semantic for segment in made.segments)


def test_kept_words_stay_and_their_sound_is_made_anew(tiny_cascade: Cascade) -> None:
    made = tiny_cascade.generate(GenerationRequest(TWO_SENTENCES, None, 1, STEADY))
    request = GenerationRequest(TWO_SENTENCES, None, 2, STEADY, words=kept_words(made))
    again = tiny_cascade.generate(request)
    for old, new in zip(made.segments, again.segments, strict=True):
        assert np.array_equal(old.semantic.values, new.semantic.values)
        assert not np.array_equal(old.coarse.values, new.coarse.values)
    assert again.metadata()["words"] != made.metadata()["words"]
    assert made.metadata()["words"] is None


def test_kept_words_skip_the_semantic_stage(tiny_cascade: Cascade) -> None:
    made = tiny_cascade.generate(GenerationRequest(TEXT, None, 1, STEADY))
    events = events_of(
        tiny_cascade, GenerationRequest(TEXT, None, 2, STEADY, words=kept_words(made))
    )
    stages = [event.stage for event in events if isinstance(event, StageProgress)]
    assert Stage.SEMANTIC not in stages
    assert set(stages) == {Stage.COARSE, Stage.FINE, Stage.CODEC}
    assert set(made_by(events).seconds) == {"coarse", "fine", "codec"}


def test_kept_words_with_their_own_seed_give_the_same_sound(tiny_cascade: Cascade) -> None:
    made = tiny_cascade.generate(GenerationRequest(TEXT, None, 1, STEADY))
    again = tiny_cascade.generate(GenerationRequest(TEXT, None, 1, STEADY, words=kept_words(made)))
    assert np.array_equal(made.audio.samples, again.audio.samples)


def test_kept_words_are_not_blamed_for_their_length(tiny_cascade: Cascade) -> None:
    short = SemanticTokens(np.array([3, 4]), tiny.TINY_LAYOUT)
    request = GenerationRequest(TEXT, None, 1, retries=3, words=(short,))
    (segment,) = made_by(events_of(tiny_cascade, request)).segments
    assert segment.ended
    assert set(segment.problems) <= {Problem.SILENT}


def test_words_that_cannot_be_those_of_the_text_are_refused(tiny_cascade: Cascade) -> None:
    tokens = SemanticTokens(np.arange(10), tiny.TINY_LAYOUT)
    with pytest.raises(InvalidTokens, match="2 segments were kept, but the text has 1"):
        tiny_cascade.plan(GenerationRequest(TEXT, words=(tokens, tokens)))
    foreign = SemanticTokens(np.arange(10), BARK_LAYOUT)
    with pytest.raises(LayoutMismatch, match=r"'bark'.*'tiny'"):
        tiny_cascade.plan(GenerationRequest(TEXT, words=(foreign,)))
    with pytest.raises(InvalidTokens, match="SemanticTokens"):
        tiny_cascade.plan(GenerationRequest(TEXT, words=(np.arange(10),)))  # type: ignore[arg-type]


# --- what is written down


def test_voices_are_those_of_the_segments(tiny_cascade: Cascade) -> None:
    made = tiny_cascade.generate(GenerationRequest(TWO_SENTENCES, None, 1, STEADY))
    assert [voice.sha256 for voice in made.voices] == [s.voice.sha256 for s in made.segments]
    assert made.voice.sha256 in {voice.sha256 for voice in made.voices}


def test_what_is_written_down_makes_it_again(tiny_cascade: Cascade) -> None:
    settings = replace(UNSTEADY, coarse=CoarseParams(temperature=0.9, max_history=12))
    seed = next(seed for seed in range(20) if take_of(seed, 1) is not None)
    made = tiny_cascade.generate(GenerationRequest(TEXT, None, seed, settings, retries=2, take=1))
    told = made.metadata()
    again = tiny_cascade.generate(
        GenerationRequest(
            told["text"],
            None,
            told["seed"],
            settings_from_metadata(told),
            told["segment_pause_s"],
            retries=told["retries"],
            take=told["take"],
        )
    )
    assert np.array_equal(made.audio.samples, again.audio.samples)
    assert again.metadata()["takes"] == told["takes"]

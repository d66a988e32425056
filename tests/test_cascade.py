"""Laws of the cascade, on a tiny random model."""

from __future__ import annotations

import weakref
from dataclasses import replace

import numpy as np
import pytest

from bark_core.cascade import Cascade
from bark_core.config import BARK_LAYOUT, CascadeConfig
from bark_core.errors import EmptyGeneration, GenerationError, InvalidSetting, LayoutMismatch
from bark_core.events import AudioChunk, Event, Finished, Stage, StageProgress
from bark_core.generation import Generation, SegmentResult
from bark_core.request import (
    CoarseParams,
    FineParams,
    GenerationRequest,
    SemanticParams,
    Settings,
)
from bark_core.text import Segment, join_segments, normalize
from bark_core.tokens import CoarseCodes, FineCodes, SemanticTokens
from bark_core.voices import Voice
from tests import tiny

# 20 steps whatever the model says: a random one would often end at once
STEADY = Settings(semantic=SemanticParams(allow_early_stop=False, max_duration_s=0.39))
GREEDY = Settings(
    semantic=replace(STEADY.semantic, temperature=0),
    coarse=CoarseParams(temperature=0),
    fine=FineParams(temperature=0),
)
TWO_SENTENCES = "The cat sat. The dog ran."


def make(
    cascade: Cascade,
    text: str = "Hello the cat.",
    *,
    seed: int = 7,
    settings: Settings = STEADY,
    voice: Voice | None = None,
    pause_s: float = 0.25,
) -> Generation:
    return cascade.generate(GenerationRequest(text, voice, seed, settings, pause_s))


def say(cascade: Cascade, segment: Segment, *, index: int = 0, take: int = 0) -> SegmentResult:
    run = cascade.say(segment, settings=STEADY, seed=7, index=index, take=take)
    while True:
        try:
            next(run)
        except StopIteration as end:
            result: SegmentResult = end.value
            return result


def same(a: SegmentResult | Generation, b: SegmentResult | Generation) -> bool:
    return np.array_equal(a.audio.samples, b.audio.samples)


def a_voice(seed: int = 0, n_semantic: int = 20, n_frames: int = 30) -> Voice:
    draw = np.random.default_rng(seed).integers
    layout = tiny.TINY_LAYOUT
    fine = FineCodes(draw(0, 16, (8, n_frames)), layout)
    return Voice(SemanticTokens(draw(0, 20, n_semantic), layout), fine.coarse, fine)


def test_same_seed_same_audio(tiny_cascade: Cascade) -> None:
    assert same(make(tiny_cascade), make(tiny_cascade))


def test_same_weights_same_audio(tiny_cascade: Cascade) -> None:
    assert same(make(tiny_cascade), make(tiny.tiny_cascade()))


def test_different_seed_different_audio(tiny_cascade: Cascade) -> None:
    assert not same(make(tiny_cascade), make(tiny_cascade, seed=8))


def test_different_text_different_audio(tiny_cascade: Cascade) -> None:
    assert not same(make(tiny_cascade), make(tiny_cascade, "Hello the dog."))


def test_temperature_zero_does_not_depend_on_the_seed(tiny_cascade: Cascade) -> None:
    first = make(tiny_cascade, seed=1, settings=GREEDY)
    assert same(first, make(tiny_cascade, seed=2, settings=GREEDY))
    assert not same(first, make(tiny_cascade, seed=1))


def test_each_stage_draws_from_its_own_stream(tiny_cascade: Cascade) -> None:
    """A setting of a later stage leaves the earlier ones as they were."""
    plain = make(tiny_cascade).segments[0]
    cold = make(tiny_cascade, settings=replace(STEADY, fine=FineParams(temperature=0)))
    other = cold.segments[0]
    assert np.array_equal(plain.semantic.values, other.semantic.values)
    assert np.array_equal(plain.coarse.values, other.coarse.values)
    assert not np.array_equal(plain.fine.values, other.fine.values)


def test_every_hop_has_the_length_that_the_rates_say(tiny_cascade: Cascade) -> None:
    segment = make(tiny_cascade).segments[0]
    assert len(segment.semantic) == 20
    assert segment.coarse.n_frames == segment.fine.n_frames == int(20 * 75 / 49.9)
    assert len(segment.audio) == 320 * segment.fine.n_frames
    assert np.array_equal(segment.fine.coarse.values, segment.coarse.values)
    assert set(segment.seconds) == {stage.value for stage in Stage}


def test_events_tell_every_step_in_order_and_end_with_finished(tiny_cascade: Cascade) -> None:
    events = list(tiny_cascade.events(GenerationRequest(TWO_SENTENCES, seed=1, settings=STEADY)))
    chunks = [event for event in events if isinstance(event, AudioChunk)]
    n_segments = chunks[0].n_segments
    assert n_segments > 1
    assert [chunk.segment for chunk in chunks] == list(range(n_segments))
    assert isinstance(events[-1], Finished)
    assert sum(isinstance(event, Finished) for event in events) == 1
    progress = [event for event in events if isinstance(event, StageProgress)]
    order = [(event.segment, list(Stage).index(event.stage), event.done) for event in progress]
    assert order == sorted(order)
    assert {event.n_segments for event in progress} == {n_segments}
    for event in progress:
        assert 1 <= event.done <= event.total
    ends = {(e.segment, e.stage) for e in progress if e.done == e.total}
    assert len(ends) == n_segments * len(Stage)


def test_the_chunks_are_the_audio(tiny_cascade: Cascade) -> None:
    events = list(tiny_cascade.events(GenerationRequest(TWO_SENTENCES, seed=1, settings=STEADY)))
    heard = np.concatenate([e.audio.samples for e in events if isinstance(e, AudioChunk)])
    end = events[-1]
    assert isinstance(end, Finished)
    assert np.array_equal(heard, end.generation.audio.samples)
    partials = [e.so_far for e in events if isinstance(e, AudioChunk)]
    assert [partial.complete for partial in partials] == [*[False] * (len(partials) - 1), True]


def test_closing_the_events_stops_at_once(tiny_cascade: Cascade) -> None:
    run = tiny_cascade.events(GenerationRequest(TWO_SENTENCES, seed=1, settings=STEADY))
    seen: list[Event] = [next(run) for _ in range(5)]
    run.close()  # type: ignore[attr-defined]
    assert list(run) == []
    assert len(seen) == 5
    assert same(make(tiny_cascade), make(tiny.tiny_cascade()))  # the model is none the worse


def test_interleaved_runs_do_not_disturb_each_other(tiny_cascade: Cascade) -> None:
    requests = [GenerationRequest("Hello.", seed=seed, settings=STEADY) for seed in (1, 2)]
    runs = [tiny_cascade.events(request) for request in requests]
    ends: list[Generation] = []
    for pair in zip(*runs, strict=True):
        ends += [event.generation for event in pair if isinstance(event, Finished)]
    for request, end in zip(requests, ends, strict=True):
        assert same(tiny_cascade.generate(request), end)


def test_a_segment_depends_on_its_index_and_take_only(tiny_cascade: Cascade) -> None:
    segment = Segment("Hello the cat.", voice=a_voice())
    first = say(tiny_cascade, segment, index=1)
    say(tiny_cascade, Segment("Something else.", voice=a_voice(3)), index=0)
    assert same(first, say(tiny_cascade, segment, index=1))
    assert not same(first, say(tiny_cascade, segment, index=2))
    assert not same(first, say(tiny_cascade, segment, index=1, take=1))


def test_segments_with_a_voice_do_not_depend_on_each_other(tiny_cascade: Cascade) -> None:
    voice = a_voice()
    both = make(tiny_cascade, TWO_SENTENCES, voice=voice).segments
    second = say(tiny_cascade, Segment(both[1].text, voice=voice), index=1)
    assert same(both[1], second)
    changed = make(tiny_cascade, "The cow sat. The dog ran.", voice=voice).segments
    assert [segment.text for segment in changed[1:]] == [segment.text for segment in both[1:]]
    assert all(same(a, b) for a, b in zip(both[1:], changed[1:], strict=True))


def test_without_a_voice_later_segments_keep_the_first_ones(tiny_cascade: Cascade) -> None:
    segments = make(tiny_cascade, TWO_SENTENCES).segments
    again = say(tiny_cascade, Segment(segments[1].text, voice=segments[0].voice), index=1)
    assert same(segments[1], again)


def test_a_voice_is_heard(tiny_cascade: Cascade) -> None:
    plain, first, second = (make(tiny_cascade, voice=v) for v in (None, a_voice(1), a_voice(2)))
    assert not same(plain, first)
    assert not same(first, second)


def test_a_result_is_a_voice_for_the_next(tiny_cascade: Cascade) -> None:
    voice = make(tiny_cascade).voice
    assert voice.layout.name == tiny_cascade.config.layout.name
    assert not same(make(tiny_cascade), make(tiny_cascade, voice=voice))


@pytest.mark.parametrize(("n_semantic", "n_frames"), [(1, 1), (2, 3), (3, 4), (400, 601)])
def test_voices_from_one_token_to_long_ones_work(
    tiny_cascade: Cascade, n_semantic: int, n_frames: int
) -> None:
    """The shortest keep nothing for the coarse stage; the longest are trimmed to the window."""
    made = make(tiny_cascade, voice=a_voice(4, n_semantic, n_frames))
    assert len(made.segments[0].semantic) == 20


def test_sound_longer_than_the_fine_window_is_whole(tiny_cascade: Cascade) -> None:
    settings = replace(STEADY, semantic=SemanticParams(allow_early_stop=False))
    segment = make(tiny_cascade, settings=settings, voice=a_voice()).segments[0]
    layout = tiny_cascade.config.layout
    assert len(segment.semantic) == layout.max_semantic_tokens
    assert segment.fine.n_frames == 72 > 2 * layout.fine_window
    assert not segment.ended
    # no frame is left as padding or as a row of one repeated code
    assert (np.array([len(set(row)) for row in segment.fine.values.tolist()]) > 1).all()


def test_the_longest_duration_is_kept_to_one_token(tiny_cascade: Cascade) -> None:
    for limit_s in (0.0, 0.05, 0.3):
        settings = Settings(semantic=SemanticParams(allow_early_stop=False, max_duration_s=limit_s))
        segment = make(tiny_cascade, settings=settings).segments[0]
        assert limit_s < segment.semantic.duration_s <= limit_s + 1 / 49.9 + 1e-9
        assert not segment.ended


def test_an_end_probability_of_zero_ends_before_the_first_sound(tiny_cascade: Cascade) -> None:
    with pytest.raises(EmptyGeneration, match="another seed"):
        make(tiny_cascade, settings=Settings(semantic=SemanticParams(min_eos_p=0)))


def test_a_lower_end_threshold_ends_no_later(tiny_cascade: Cascade) -> None:
    lengths = []
    for min_eos_p in (None, 0.15, 0.1, 0.07):
        semantic = SemanticParams(min_eos_p=min_eos_p, temperature=1.0)
        try:
            made = make(tiny_cascade, seed=0, settings=Settings(semantic=semantic))
        except EmptyGeneration:
            lengths.append(0)
        else:
            lengths.append(len(made.segments[0].semantic))
            assert made.segments[0].ended
    assert lengths == sorted(lengths, reverse=True)
    assert len(set(lengths)) > 1


def test_a_long_text_loses_no_word(tiny_cascade: Cascade) -> None:
    words = " ".join(f"word{n}" for n in range(10))
    text = f"First. {words}! Then, a pause\n\nand a new paragraph; (the end)."
    request = GenerationRequest(text, settings=STEADY)
    segments = tiny_cascade.plan(request)
    assert join_segments(segments) == normalize(text)
    window = tiny_cascade.config.layout.text_window
    assert all(1 <= tiny_cascade.tokenizer.count(segment.text) <= window for segment in segments)
    made = tiny_cascade.generate(request)
    assert [result.text for result in made.segments] == [segment.text for segment in segments]
    assert made.complete


def test_pauses_are_silence_of_the_length_asked_for(tiny_cascade: Cascade) -> None:
    without = make(tiny_cascade, TWO_SENTENCES, pause_s=0).audio
    pauses = sum(s.pause_s for s in make(tiny_cascade, TWO_SENTENCES, pause_s=0.5).segments)
    longer = make(tiny_cascade, TWO_SENTENCES, pause_s=0.5).audio
    assert pauses > 0
    assert longer.duration_s - without.duration_s == pytest.approx(pauses)
    assert len(make(tiny_cascade, "Hello.").audio) == 320 * 30  # none after the last


def test_a_voice_of_another_layout_is_refused_before_any_work(tiny_cascade: Cascade) -> None:
    layout = BARK_LAYOUT
    fine = FineCodes(np.zeros((8, 15), dtype=int), layout)
    voice = Voice(SemanticTokens(np.zeros(10, dtype=int), layout), fine.coarse, fine, name="rosa")
    with pytest.raises(LayoutMismatch, match=r"'rosa'.*'bark'.*'tiny'"):
        tiny_cascade.plan(GenerationRequest("Hello.", voice))


@pytest.mark.parametrize("max_history", [1, 5, 25, 1000])
def test_a_coarse_history_that_does_not_fit_is_refused(
    tiny_cascade: Cascade, max_history: int
) -> None:
    settings = replace(STEADY, coarse=CoarseParams(max_history=max_history))
    with pytest.raises(InvalidSetting, match=r"within 6\.\.24"):
        make(tiny_cascade, settings=settings)


def test_metadata_is_enough_to_make_it_again(tiny_cascade: Cascade) -> None:
    made = make(tiny_cascade, voice=a_voice())
    told = made.metadata()
    settings = told["settings"]
    request = GenerationRequest(
        told["text"],
        a_voice(),
        told["seed"],
        Settings(
            semantic=SemanticParams(**settings["semantic"]),
            coarse=CoarseParams(**settings["coarse"]),
            fine=FineParams(**settings["fine"]),
        ),
        told["segment_pause_s"],
    )
    assert same(made, tiny_cascade.generate(request))
    assert told["voice"]["sha256"] == a_voice().sha256
    assert told["model"]["name"] == tiny_cascade.identity.name


def test_numbers_are_spelled_only_for_models_that_cannot_read_them(
    tiny_cascade: Cascade, tiny_config: CascadeConfig
) -> None:
    request = GenerationRequest("I am 7.", settings=STEADY)
    assert join_segments(tiny_cascade.plan(request)) == "I am 7."
    speller = tiny.tiny_cascade(config=replace(tiny_config, spell_numbers=True))
    assert join_segments(speller.plan(request)) == "I am seven."


def test_coarse_codes_of_a_voice_are_the_first_of_its_fine_ones() -> None:
    voice = a_voice()
    assert isinstance(voice.coarse, CoarseCodes)
    assert np.array_equal(voice.coarse.values, voice.fine.values[:2])


def test_unload_leaves_no_weight_in_memory_and_says_so() -> None:
    cascade = tiny.tiny_cascade()
    modules = (cascade.text, cascade.coarse, cascade.fine, cascade.codec)
    alive = [weakref.ref(tensor) for module in modules for tensor in module.parameters()]
    cascade.unload()
    assert all(tensor.is_meta for module in modules for tensor in module.parameters())
    assert all(tensor.is_meta for module in modules for tensor in module.buffers())
    assert not any(ref() is not None and not ref().is_meta for ref in alive)  # type: ignore[union-attr]
    with pytest.raises(GenerationError, match="load it again"):
        cascade.generate(GenerationRequest("Anybody there?"))

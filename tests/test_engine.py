"""Laws of the engine and its jobs.

What a job becomes is what the cascade makes of it alone, whoever runs beside it; jobs outlive who
watches them, stop at once, and never take the engine along.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

import bark_core.jobs
from bark_core.cascade import Cascade
from bark_core.engine import Engine, Line
from bark_core.errors import (
    BarkError,
    Cancelled,
    EmptyGeneration,
    GenerationError,
    InvalidSetting,
    LayoutMismatch,
    OutOfMemory,
)
from bark_core.events import (
    AudioChunk,
    Event,
    Failed,
    Finished,
    Retry,
    Stage,
    StageProgress,
    Stopped,
)
from bark_core.generation import Generation, SegmentResult
from bark_core.jobs import Job, JobState
from bark_core.request import CoarseParams, FineParams, GenerationRequest, SemanticParams, Settings
from bark_core.voices import Voice
from tests import tiny
from tests.test_cascade import STEADY, TWO_SENTENCES, a_voice

PATIENCE_S = 60.0
LONG_TEXT = "The cat sat. The dog ran. " * 50


def request(text: str = "Hello.", seed: int = 1, settings: Settings = STEADY) -> GenerationRequest:
    return GenerationRequest(text, seed=seed, settings=settings)


@pytest.fixture
def engine() -> Iterator[Engine]:
    with Engine(tiny.tiny_cascade()) as engine:
        yield engine


@pytest.fixture
def narrow() -> Iterator[Engine]:
    """One that has room for one segment."""
    with Engine(tiny.tiny_cascade(), max_batch=1) as engine:
        yield engine


def watch(job: Job) -> list[Event]:
    return list(job.events(timeout_s=PATIENCE_S))


def sound(events: list[Event]) -> bytes:
    return b"".join(e.audio.samples.tobytes() for e in events if isinstance(e, AudioChunk))


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, "it never happened"
        time.sleep(0.002)


class Gate(threading.Semaphore):
    """Lets an engine make a round for each release: a step of each lane."""

    def __init__(self) -> None:
        super().__init__(0)
        self.n_rounds = 0

    def step(self) -> None:
        """One round, from its beginning to its end."""
        n_rounds = self.n_rounds
        self.release()
        until(lambda: self.n_rounds > n_rounds)


@contextlib.contextmanager
def steps(engine: Engine) -> Iterator[Gate]:
    """Hold an engine back."""
    gate = Gate()
    run = engine._round

    def gated() -> None:
        gate.acquire()
        run()
        gate.n_rounds += 1

    engine._round = gated  # type: ignore[method-assign]
    try:
        yield gate
    finally:
        engine._round = run  # type: ignore[method-assign]
        gate.release(1_000_000)


def test_a_job_gives_what_the_cascade_gives(engine: Engine, tiny_cascade: Cascade) -> None:
    made = engine.submit(request(TWO_SENTENCES)).wait(PATIENCE_S)
    expected = tiny_cascade.generate(request(TWO_SENTENCES))
    assert np.array_equal(made.audio.samples, expected.audio.samples)


def test_jobs_run_in_their_order(narrow: Engine) -> None:
    with steps(narrow) as gate:
        jobs = [narrow.submit(request(seed=seed)) for seed in range(3)]
        gate.release(1)
        until(lambda: jobs[0].state is JobState.RUNNING)
        assert [narrow.position(job) for job in jobs] == [None, 1, 2]
        assert narrow.n_waiting == 2
        gate.release(1_000_000)
        for job in jobs:
            job.wait(PATIENCE_S)
    assert [narrow.position(job) for job in jobs] == [None, None, None]
    assert narrow.n_waiting == 0


def test_events_end_with_exactly_one_end(engine: Engine) -> None:
    events = watch(engine.submit(request(TWO_SENTENCES)))
    ends = [event for event in events if isinstance(event, Finished | Failed | Stopped)]
    assert ends == [events[-1]]
    assert isinstance(events[-1], Finished)


def test_two_watchers_hear_the_same(engine: Engine) -> None:
    with steps(engine) as gate:
        job = engine.submit(request(TWO_SENTENCES))
        heard: list[list[Event]] = [[], []]
        threads = [
            threading.Thread(target=lambda seen=seen: seen.extend(watch(job))) for seen in heard
        ]
        for thread in threads:
            thread.start()
        gate.release(1_000_000)
        for thread in threads:
            thread.join(PATIENCE_S)
    made = job.wait(0)
    assert sound(heard[0]) == sound(heard[1]) == made.audio.samples.tobytes()
    assert isinstance(heard[0][-1], Finished)
    assert heard[0][-1] is heard[1][-1]


def test_who_comes_late_hears_all_of_it(engine: Engine) -> None:
    job = engine.submit(request(TWO_SENTENCES))
    made = job.wait(PATIENCE_S)
    assert sound(watch(job)) == made.audio.samples.tobytes()
    assert sound(watch(job)) == made.audio.samples.tobytes()  # and again
    assert job.result is made


def test_who_comes_in_the_middle_learns_where_it_stands(engine: Engine) -> None:
    with steps(engine) as gate:
        job = engine.submit(request(TWO_SENTENCES))
        gate.release(10)
        until(lambda: job.progress is not None and job.progress.done >= 10)
        first = next(job.events(timeout_s=PATIENCE_S))
        assert isinstance(first, StageProgress)
        assert first.done == 10
        assert job.result is None
        gate.release(1_000_000)
        job.wait(PATIENCE_S)


def test_a_watcher_that_leaves_does_not_stop_the_job(engine: Engine) -> None:
    job = engine.submit(request(TWO_SENTENCES))
    watcher = job.events(timeout_s=PATIENCE_S)
    next(watcher)
    watcher.close()  # type: ignore[attr-defined]
    assert job.wait(PATIENCE_S).complete


def test_a_slow_watcher_does_not_slow_the_job(engine: Engine) -> None:
    job = engine.submit(request(TWO_SENTENCES))
    watcher = job.events(timeout_s=PATIENCE_S)
    first = next(watcher)
    made = job.wait(PATIENCE_S)
    assert sound([first, *watcher]) == made.audio.samples.tobytes()


def test_cancel_stops_within_one_step_and_frees_the_engine(engine: Engine) -> None:
    with steps(engine) as gate:
        job = engine.submit(request(LONG_TEXT))
        gate.release(5)
        until(lambda: job.progress is not None and job.progress.done == 5)
        job.cancel()
        gate.release(1)
        until(lambda: job.state is JobState.STOPPED)
        assert job.progress is not None
        assert job.progress.done <= 6
    with pytest.raises(Cancelled, match="stopped"):
        job.wait(PATIENCE_S)
    assert watch(job) == [Stopped(None)]
    assert engine.submit(request()).wait(PATIENCE_S).complete


def test_a_cancelled_job_keeps_its_finished_segments(engine: Engine) -> None:
    with steps(engine) as gate:
        job = engine.submit(request(LONG_TEXT))
        while not job.chunks:
            gate.step()
        job.cancel()
        gate.release(10)
        until(lambda: job.state.over)
    assert isinstance(job.result, Generation)
    assert not job.result.complete
    assert job.result.audio.samples.tobytes() == sound(watch(job))


def test_a_job_stopped_during_a_retry_keeps_what_was_finished(engine: Engine) -> None:
    """A job whose second segment goes wrong is stopped in its second take."""
    unsteady = Settings(semantic=SemanticParams(temperature=1.5, min_eos_p=None))
    for seed in range(50):
        wanted = GenerationRequest(TWO_SENTENCES, None, seed, unsteady, retries=3)
        with contextlib.suppress(EmptyGeneration):
            expected = list(engine.cascade.events(wanted))
            again = [i for i, e in enumerate(expected) if isinstance(e, Retry) and e.segment == 1]
            if again:
                break
    with steps(engine) as gate:
        job = engine.submit(wanted)
        seen: list[Event] = []
        watcher = threading.Thread(target=lambda: seen.extend(watch(job)))
        watcher.start()
        while not any(isinstance(e, Retry) and e.segment == 1 for e in job._kept):
            gate.step()
        gate.step()
        job.cancel()
        gate.release(1)
        watcher.join(PATIENCE_S)
    assert job.state is JobState.STOPPED
    assert job.result is not None
    assert len(job.result.segments) == 1
    told = [event for event in seen if isinstance(event, Retry)]
    assert told == [event for event in expected if isinstance(event, Retry)][: len(told)]
    assert sound(seen) == job.result.audio.samples.tobytes()


def test_a_job_cancelled_while_it_waits_never_starts(narrow: Engine) -> None:
    with steps(narrow) as gate:
        first, second, third = (narrow.submit(request(seed=seed)) for seed in range(3))
        gate.release(1)
        until(lambda: first.state is JobState.RUNNING)
        second.cancel()
        gate.release(1_000_000)
        assert third.wait(PATIENCE_S).complete
    assert first.state is JobState.FINISHED
    assert second.state is JobState.STOPPED
    assert second.progress is None
    assert second.result is None


def test_cancelling_what_is_over_does_nothing(engine: Engine) -> None:
    job = engine.submit(request())
    made = job.wait(PATIENCE_S)
    job.cancel()
    assert job.state is JobState.FINISHED
    assert job.wait(0) is made


def test_a_failing_job_does_not_take_the_engine_along(engine: Engine) -> None:
    ends_at_once = Settings(semantic=SemanticParams(min_eos_p=0))
    job = engine.submit(request(settings=ends_at_once))
    with pytest.raises(EmptyGeneration):
        job.wait(PATIENCE_S)
    assert job.state is JobState.FAILED
    end = watch(job)[-1]
    assert isinstance(end, Failed)
    assert isinstance(end.error, EmptyGeneration)
    assert engine.submit(request()).wait(PATIENCE_S).complete


def test_a_surprise_is_an_error_for_people_and_a_traceback_for_the_log(
    engine: Engine, caplog: pytest.LogCaptureFixture
) -> None:
    working, broken = engine.cascade.codec.decode, "the decoder broke"

    def decode(_codes: object, **_: object) -> None:
        raise ZeroDivisionError(broken)

    engine.cascade.codec.decode = decode  # type: ignore[assignment, method-assign]
    with caplog.at_level(logging.ERROR), pytest.raises(GenerationError) as caught:
        engine.submit(request()).wait(PATIENCE_S)
    assert broken not in str(caught.value)
    assert "ZeroDivisionError" in str(caught.value)
    assert broken in caplog.text
    engine.cascade.codec.decode = working  # type: ignore[method-assign]
    assert engine.submit(request()).wait(PATIENCE_S).complete


def test_what_cannot_run_is_refused_when_it_is_submitted(engine: Engine) -> None:
    made = engine.submit(request()).wait(PATIENCE_S)
    foreign = tiny.tiny_cascade()
    foreign.config = tiny.true_config()
    with Engine(foreign) as other, pytest.raises(LayoutMismatch):
        other.submit(GenerationRequest("Hello.", made.voice))
    assert engine.n_waiting == 0


def test_a_setting_that_the_model_cannot_do_fails_its_job_only(engine: Engine) -> None:
    settings = Settings(semantic=STEADY.semantic, coarse=CoarseParams(max_history=1))
    bad, good = None, None
    with contextlib.suppress(BarkError):
        bad = engine.submit(request(settings=settings))
    good = engine.submit(request())
    if bad is not None:
        with pytest.raises(InvalidSetting):
            bad.wait(PATIENCE_S)
    assert good.wait(PATIENCE_S).complete


def test_silence_of_a_job_is_a_timeout(engine: Engine) -> None:
    with steps(engine):
        job = engine.submit(request())
        with pytest.raises(TimeoutError):
            next(job.events(timeout_s=0.01))
        with pytest.raises(TimeoutError):
            job.wait(0.01)


def test_closing_stops_what_runs_and_what_waits() -> None:
    engine = Engine(tiny.tiny_cascade())
    with steps(engine) as gate:
        jobs = [engine.submit(request(LONG_TEXT, seed)) for seed in range(3)]
        gate.release(3)
        until(lambda: jobs[0].progress is not None)
        closer = threading.Thread(target=engine.close)
        closer.start()
        gate.release(100)
        closer.join(PATIENCE_S)
        assert not closer.is_alive()
    assert [job.state for job in jobs] == [JobState.STOPPED] * 3
    with pytest.raises(GenerationError, match="closing"):
        engine.submit(request())
    engine.close()  # a second time is harmless


def test_many_threads_may_submit_at_once(engine: Engine) -> None:
    jobs: list[Job] = []
    threads = [
        threading.Thread(target=lambda seed=seed: jobs.append(engine.submit(request(seed=seed))))
        for seed in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE_S)
    made = {job.request.seed: job.wait(PATIENCE_S).audio.samples.tobytes() for job in jobs}
    assert sorted(made) == list(range(8))
    assert len({job.id for job in jobs}) == 8
    assert len(set(made.values())) == 8


def test_watchers_are_not_woken_at_every_step(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They hear all sound and each stage's end, and of the steps between only now and then."""
    monkeypatch.setattr(bark_core.jobs, "TELL_EVERY_S", 3600.0)
    expected = list(engine.cascade.events(request(TWO_SENTENCES)))
    steps_of = [event for event in expected if isinstance(event, StageProgress)]
    seen: list[Event] = []
    with steps(engine) as gate:
        job = engine.submit(request(TWO_SENTENCES))
        watcher = threading.Thread(target=lambda: seen.extend(watch(job)))
        watcher.start()
        gate.release(1_000_000)
        watcher.join(PATIENCE_S)
    assert sound(seen) == job.wait(0).audio.samples.tobytes()
    n_loud = sum(event.done == event.total for event in steps_of)
    n_chunks = sum(isinstance(event, AudioChunk) for event in expected)
    n_told = sum(isinstance(event, StageProgress) for event in seen)
    assert n_told <= 1 + n_loud + n_chunks < len(steps_of)
    assert job.progress == steps_of[-1]


# --- many at once

UNSTEADY = Settings(semantic=SemanticParams(temperature=1.2, min_eos_p=None))
VARIED = Settings(
    semantic=SemanticParams(allow_early_stop=False, max_duration_s=0.6, top_k=7, top_p=0.9),
    coarse=CoarseParams(temperature=0, max_history=12),
    fine=FineParams(temperature=1.3),
)


def many(streaming: bool = False) -> list[GenerationRequest]:
    """Of all kinds: long and short, with and without a voice, with retries, other settings."""
    wanted = []
    for seed, settings in enumerate([STEADY, VARIED, UNSTEADY, STEADY, VARIED, UNSTEADY]):
        text = TWO_SENTENCES * (1 + seed % 3)
        voice = a_voice(seed, 4 + 5 * seed, 6 + 8 * seed) if seed % 2 else None
        retries = 0 if streaming else 2 * (seed % 3 == 2)
        request = GenerationRequest(
            text, voice, seed, settings, retries=retries, streaming=streaming
        )
        wanted.append(request)
    return wanted


@functools.cache
def alone(streaming: bool = False) -> list[Generation | BarkError]:
    """What each of many becomes alone."""
    cascade = tiny.tiny_cascade()
    return [outcome(functools.partial(cascade.generate, wanted)) for wanted in many(streaming)]


def outcome(make: Callable[[], Generation]) -> Generation | BarkError:
    try:
        return make()
    except BarkError as error:
        return error


def check_hops(made: Generation | BarkError, expected: Generation | BarkError) -> None:
    assert type(made) is type(expected)
    if isinstance(made, BarkError) or isinstance(expected, BarkError):
        return
    for ours, theirs in zip(made.segments, expected.segments, strict=True):
        check_segment(ours, theirs)


def check_segment(ours: SegmentResult, theirs: SegmentResult) -> None:
    assert np.array_equal(ours.semantic.values, theirs.semantic.values)
    assert np.array_equal(ours.coarse.values, theirs.coarse.values)
    assert np.array_equal(ours.fine.values, theirs.fine.values)
    np.testing.assert_allclose(ours.audio.samples, theirs.audio.samples, atol=1e-5)
    for name in ("text", "take", "problems", "ended", "pause_s"):
        assert getattr(ours, name) == getattr(theirs, name)


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("max_batch", [3, 16])
def test_many_at_once_become_what_each_becomes_alone(max_batch: int, streaming: bool) -> None:
    with Engine(tiny.tiny_cascade(), max_batch=max_batch) as engine:
        jobs = [engine.submit(request) for request in many(streaming)]
        made = [outcome(functools.partial(job.wait, PATIENCE_S)) for job in jobs]
    for result, expected in zip(made, alone(streaming), strict=True):
        check_hops(result, expected)


def test_who_joins_and_leaves_in_between_changes_nothing(
    engine: Engine, tiny_cascade: Cascade
) -> None:
    wanted = request(TWO_SENTENCES, seed=5)
    with steps(engine) as gate:
        job = engine.submit(wanted)
        others: list[Job] = []
        for turn in range(100):
            gate.step()
            if turn % 7 == 0:
                others.append(engine.submit(request("Hello there.", seed=turn)))
            if turn % 11 == 10:
                others[-1].cancel()
    check_hops(job.wait(PATIENCE_S), tiny_cascade.generate(wanted))
    until(lambda: all(other.state.over for other in others))
    assert JobState.STOPPED in {other.state for other in others}


def test_segments_with_a_voice_run_side_by_side(engine: Engine) -> None:
    with steps(engine) as gate:
        job = engine.submit(GenerationRequest(TWO_SENTENCES * 2, a_voice(), 1, STEADY))
        gate.release(1)
        until(lambda: job.progress is not None)
        (run,) = engine._runs
        assert len(run.active) == 4
        gate.release(1_000_000)
        job.wait(PATIENCE_S)


def test_without_a_voice_the_later_segments_wait_for_the_first(engine: Engine) -> None:
    with steps(engine) as gate:
        job = engine.submit(GenerationRequest(TWO_SENTENCES * 2, None, 1, STEADY))
        gate.release(1)
        until(lambda: job.progress is not None)
        (run,) = engine._runs
        assert len(run.active) == 1
        while not job.chunks:
            gate.step()
        gate.release(1)
        until(lambda: len(run.active) == 3)
        gate.release(1_000_000)
        job.wait(PATIENCE_S)


def test_no_more_segments_run_than_there_is_room_for() -> None:
    with Engine(tiny.tiny_cascade(), max_batch=3) as engine, steps(engine) as gate:
        jobs = [
            engine.submit(GenerationRequest(TWO_SENTENCES * 3, a_voice(), seed, STEADY))
            for seed in range(3)
        ]
        for _ in range(150):
            gate.step()
            assert sum(len(run.active) for run in list(engine._runs)) <= 3
        gate.release(1_000_000)
        for job in jobs:
            job.wait(PATIENCE_S)


def test_a_short_job_does_not_wait_for_the_end_of_a_long_one() -> None:
    with Engine(tiny.tiny_cascade(), max_batch=2) as engine:
        with steps(engine) as gate:
            long = engine.submit(GenerationRequest(LONG_TEXT, a_voice(), 1, STEADY))
            gate.release(3)
            until(lambda: long.progress is not None)
            short = engine.submit(request())
        short.wait(PATIENCE_S)
        assert not long.state.over
        long.cancel()


def test_cancelling_frees_the_row_for_who_waits_within_one_round(narrow: Engine) -> None:
    with steps(narrow) as gate:
        first, second = narrow.submit(request(LONG_TEXT)), narrow.submit(request())
        gate.release(4)
        until(lambda: first.progress is not None and first.progress.done == 4)
        assert second.state is JobState.QUEUED
        first.cancel()
        gate.release(1)
        until(lambda: second.progress is not None)
        assert first.state is JobState.STOPPED
        gate.release(1_000_000)
        second.wait(PATIENCE_S)


def hooked(engine: Engine, act: Callable[[], object]) -> list[str]:
    """Do something when the codec first begins; returns the list of layers that are begun."""
    layers, begun = engine.cascade.codec.layers, []

    def at_first(*_: object) -> None:
        begun.append("first")
        if begun.count("first") == 1:
            act()

    layers[0].register_forward_hook(at_first)
    layers[-1].register_forward_hook(lambda *_: begun.append("last"))
    return begun


@pytest.mark.parametrize("streaming", [False, True])
def test_a_stop_takes_hold_between_two_layers_of_the_codec(engine: Engine, streaming: bool) -> None:
    jobs: list[Job] = []
    begun = hooked(engine, lambda: jobs[0].cancel())
    jobs.append(engine.submit(replace(request(), streaming=streaming)))
    assert isinstance(watch(jobs[0])[-1], Stopped)
    assert begun == ["first"]
    assert isinstance(watch(engine.submit(request()))[-1], Finished)


@pytest.mark.parametrize("streaming", [False, True])
def test_whoever_stops_does_not_wait_for_another_one_s_sound(
    engine: Engine, streaming: bool
) -> None:
    wanted = replace(request(), streaming=streaming)
    expected = sound(watch(engine.submit(wanted)))
    begun = hooked(engine, lambda: long.cancel())
    long = engine.submit(request(LONG_TEXT))
    made = watch(engine.submit(wanted))
    assert isinstance(watch(long)[-1], Stopped)
    # begun anew, and the same to the bit
    assert begun[:2] == ["first", "first"]
    assert sound(made) == expected


def poison(cascade: Cascade) -> None:
    """NaN in the embedding of one letter: texts that have it fail."""
    token = cascade.tokenizer.encode("Z")[0] + cascade.config.layout.text_offset
    table = cascade.text.transformer["wte"]
    assert isinstance(table, nn.Embedding)
    table.weight[token] = torch.nan


def test_a_failing_row_does_not_take_its_neighbours_along(tiny_cascade: Cascade) -> None:
    cascade = tiny.tiny_cascade()
    poison(cascade)
    with Engine(cascade) as engine:
        bad = [engine.submit(request("Z", seed=seed)) for seed in range(2)]
        good = [engine.submit(request(TWO_SENTENCES, seed=seed)) for seed in range(3)]
        for job in bad:
            with pytest.raises(GenerationError, match="NaN"):
                job.wait(PATIENCE_S)
        for job in good:
            check_hops(job.wait(PATIENCE_S), tiny_cascade.generate(job.request))


def test_a_segment_that_fails_leaves_those_before_it(engine: Engine) -> None:
    poison(engine.cascade)
    text = "The cat sat. The dog ran. Zoe Z came. They all went home."
    job = engine.submit(GenerationRequest(text, a_voice(), 3, STEADY))
    with pytest.raises(GenerationError):
        job.wait(PATIENCE_S)
    texts = [segment.text for segment in engine.cascade.plan(job.request)]
    first_bad = next(i for i, part in enumerate(texts) if "Z" in part)
    assert job.result is not None
    assert [segment.text for segment in job.result.segments] == texts[:first_bad]


def test_what_breaks_a_step_fails_its_rows_and_the_next_jobs_run(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_memory(*_: object) -> None:
        raise MemoryError("no room")

    with monkeypatch.context() as patch:
        patch.setattr("bark_core.rows.PlainRows.run", no_memory)
        job = engine.submit(request())
        with pytest.raises(OutOfMemory):
            job.wait(PATIENCE_S)
    assert engine.submit(request()).wait(PATIENCE_S).complete


def test_chunks_come_in_the_order_of_the_text_and_are_the_audio(engine: Engine) -> None:
    """The second segment is the shortest: it is finished before the first."""
    text = "The cat sat on the mat. No. The dog ran far away."
    request = GenerationRequest(text, a_voice(), 2, UNSTEADY)
    events = watch(engine.submit(request))
    chunks = [event for event in events if isinstance(event, AudioChunk)]
    assert [chunk.segment for chunk in chunks] == list(range(chunks[0].n_segments))
    assert [len(chunk.so_far.segments) for chunk in chunks] == [1 + c.segment for c in chunks]
    progress = [event for event in events if isinstance(event, StageProgress)]
    places = [(event.segment, list(Stage).index(event.stage), event.done) for event in progress]
    assert places == sorted(places)


def test_streaming_is_heard_before_the_segment_is_finished(engine: Engine) -> None:
    settings = Settings(semantic=SemanticParams(allow_early_stop=False))
    with steps(engine) as gate:
        job = engine.submit(GenerationRequest("Hello.", a_voice(), 1, settings, streaming=True))
        while not job.chunks:
            gate.step()
        (run,) = engine._runs
        assert run.takes[0].coarse is None
        gate.release(1_000_000)
        made = job.wait(PATIENCE_S)
    chunks = job.chunks
    assert len(chunks) > 3
    assert [chunk.ends_segment for chunk in chunks] == [False] * (len(chunks) - 1) + [True]
    assert chunks[0].so_far.segments == ()
    heard = np.concatenate([chunk.audio.samples for chunk in chunks])
    assert np.array_equal(heard, made.audio.samples)


@pytest.mark.parametrize("voice", [None, a_voice(3)])
def test_streaming_changes_neither_words_nor_coarse_codes(
    engine: Engine, voice: Voice | None
) -> None:
    settings = Settings(semantic=SemanticParams(allow_early_stop=False))
    made = [
        engine.submit(GenerationRequest("Hello.", voice, 4, settings, streaming=streaming))
        for streaming in (False, True)
    ]
    (plain,), (streamed,) = (job.wait(PATIENCE_S).segments for job in made)
    assert np.array_equal(plain.semantic.values, streamed.semantic.values)
    assert np.array_equal(plain.coarse.values, streamed.coarse.values)
    assert not np.array_equal(plain.fine.values, streamed.fine.values)


def test_streaming_goes_without_retries() -> None:
    with pytest.raises(InvalidSetting, match="streaming goes without retries"):
        GenerationRequest("Hello.", retries=1, streaming=True)


def test_an_offloaded_model_makes_the_same() -> None:
    cascade = tiny.tiny_cascade()
    cascade.placement = replace(cascade.placement, offload=True)
    moves: list[nn.Module] = []
    on_device = cascade.on_device

    def counted(stage: nn.Module) -> contextlib.AbstractContextManager[None]:
        moves.append(stage)
        return on_device(stage)

    cascade.on_device = counted  # type: ignore[method-assign, assignment]
    wanted = [*many(), *many(streaming=True)]
    with Engine(cascade, max_batch=32) as engine, steps(engine) as gate:
        jobs = [engine.submit(request) for request in wanted]
        gate.release(1_000_000)
        made = [outcome(functools.partial(job.wait, PATIENCE_S)) for job in jobs]
    for result, expected in zip(made, [*alone(), *alone(streaming=True)], strict=True):
        check_hops(result, expected)
    n_segments = sum(len(cascade.plan(request)) for request in wanted)
    of_text = sum(stage is cascade.text for stage in moves)
    assert of_text < n_segments / 3  # many at once, then it moves


def test_engines_of_one_device_take_turns() -> None:
    line, inside, most = Line(), [0], [0]
    engines = [Engine(tiny.tiny_cascade(seed), line=line) for seed in range(3)]
    for engine in engines:
        run = engine._round

        def counted(run: Callable[[], None] = run) -> None:
            inside[0] += 1
            most[0] = max(most[0], inside[0])
            run()
            inside[0] -= 1

        engine._round = counted  # type: ignore[method-assign]
    jobs = [engine.submit(request(TWO_SENTENCES)) for engine in engines]
    for job in jobs:
        job.wait(PATIENCE_S)
    assert most == [1]
    for engine in engines:
        engine.close()


def test_there_is_room_for_a_segment_at_least(tiny_cascade: Cascade) -> None:
    with pytest.raises(InvalidSetting, match="at least 1"):
        Engine(tiny_cascade, max_batch=0)


def test_a_closed_engine_holds_no_weights() -> None:
    cascade = tiny.tiny_cascade()
    with Engine(cascade) as engine:
        engine.submit(request()).wait(PATIENCE_S)
    alive = [weakref.ref(weight) for weight in cascade.text.parameters()]
    cascade.unload()
    assert not any(ref() is not None and not ref().is_meta for ref in alive)  # type: ignore[union-attr]

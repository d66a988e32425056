"""Laws of jobs: they outlive who watches them, stop at once, and never take the engine along."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Iterator

import numpy as np
import pytest

from bark_core.cascade import Cascade
from bark_core.engine import Engine, Job, JobState
from bark_core.errors import (
    BarkError,
    Cancelled,
    EmptyGeneration,
    GenerationError,
    InvalidSetting,
    LayoutMismatch,
)
from bark_core.events import AudioChunk, Event, Failed, Finished, StageProgress, Stopped
from bark_core.generation import Generation
from bark_core.request import CoarseParams, GenerationRequest, SemanticParams, Settings
from tests import tiny
from tests.test_cascade import STEADY, TWO_SENTENCES

PATIENCE_S = 60.0
LONG_TEXT = "The cat sat. The dog ran. " * 50


def request(text: str = "Hello.", seed: int = 1, settings: Settings = STEADY) -> GenerationRequest:
    return GenerationRequest(text, seed=seed, settings=settings)


@pytest.fixture
def engine() -> Iterator[Engine]:
    with Engine(tiny.tiny_cascade()) as engine:
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


@contextlib.contextmanager
def steps(cascade: Cascade) -> Iterator[threading.Semaphore]:
    """Let the cascade make one step for each release."""
    gate = threading.Semaphore(0)
    run = cascade.events

    def gated(request: GenerationRequest) -> Iterator[Event]:
        for event in run(request):
            gate.acquire()
            yield event

    cascade.events = gated  # type: ignore[method-assign]
    try:
        yield gate
    finally:
        gate.release(1_000_000)


def test_a_job_gives_what_the_cascade_gives(engine: Engine, tiny_cascade: Cascade) -> None:
    made = engine.submit(request(TWO_SENTENCES)).wait(PATIENCE_S)
    expected = tiny_cascade.generate(request(TWO_SENTENCES))
    assert np.array_equal(made.audio.samples, expected.audio.samples)


def test_jobs_run_in_their_order(engine: Engine) -> None:
    with steps(engine.cascade) as gate:
        jobs = [engine.submit(request(seed=seed)) for seed in range(3)]
        until(lambda: jobs[0].state is JobState.RUNNING)
        assert [engine.position(job) for job in jobs] == [None, 1, 2]
        assert engine.n_waiting == 2
        gate.release(1_000_000)
        for job in jobs:
            job.wait(PATIENCE_S)
    assert [engine.position(job) for job in jobs] == [None, None, None]
    assert engine.n_waiting == 0


def test_events_end_with_exactly_one_end(engine: Engine) -> None:
    events = watch(engine.submit(request(TWO_SENTENCES)))
    ends = [event for event in events if isinstance(event, Finished | Failed | Stopped)]
    assert ends == [events[-1]]
    assert isinstance(events[-1], Finished)


def test_two_watchers_hear_the_same(engine: Engine) -> None:
    with steps(engine.cascade) as gate:
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
    with steps(engine.cascade) as gate:
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
    with steps(engine.cascade) as gate:
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
    with steps(engine.cascade) as gate:
        job = engine.submit(request(LONG_TEXT))
        while not job.chunks:
            gate.release(1)
            time.sleep(0.0005)
        job.cancel()
        gate.release(10)
        until(lambda: job.state.over)
    assert isinstance(job.result, Generation)
    assert not job.result.complete
    assert job.result.audio.samples.tobytes() == sound(watch(job))


def test_a_job_cancelled_while_it_waits_never_starts(engine: Engine) -> None:
    with steps(engine.cascade) as gate:
        first, second, third = (engine.submit(request(seed=seed)) for seed in range(3))
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

    def decode(_codes: object) -> None:
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
    with steps(engine.cascade):
        job = engine.submit(request())
        with pytest.raises(TimeoutError):
            next(job.events(timeout_s=0.01))
        with pytest.raises(TimeoutError):
            job.wait(0.01)


def test_closing_stops_what_runs_and_what_waits() -> None:
    engine = Engine(tiny.tiny_cascade())
    with steps(engine.cascade) as gate:
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

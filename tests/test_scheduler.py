"""Laws of the queue: everybody's turn comes, nothing is lost, and it ends when it is told to."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from bark_core import (
    Audio,
    AudioChunk,
    BarkError,
    Failed,
    Finished,
    GenerationError,
    GenerationRequest,
    InvalidSetting,
    JobState,
    OutOfMemory,
    Stopped,
    WorkerLost,
)
from tests import tiny
from tests.paced_backend import PacedBackend
from tests.test_cascade import STEADY
from webui.hosting import Hosting
from webui.models import ModelShelf
from webui.queue_store import (
    QueueStore,
    Row,
    Standing,
    request_from_json,
    request_to_json,
)
from webui.scheduler import Abandoned, Happening, Note, QueuedJob, QueueFull, Scheduler
from webui.settings import StudioSettings

PATIENCE_S = 30.0


def until(what: Callable[[], object]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not what():
        assert time.monotonic() < deadline, "it never happened"
        time.sleep(0.005)


class Queue:
    """A scheduler over a paced backend, and all that it noted."""

    def __init__(self, folder: Path, *, max_batch: int = 1, **hosting: object) -> None:
        self.backend = PacedBackend(max_batch=max_batch)
        settings = StudioSettings(model="pup", data=folder, cache=folder / "cache")
        self.models = ModelShelf(settings, backend=self.backend)
        self.store = QueueStore.open(folder)
        self.now = time.time()
        self.scheduler = Scheduler(
            self.models,
            self.store,
            Hosting(**hosting),  # type: ignore[arg-type]
            clock=lambda: self.now,
        )
        self.notes: list[Note] = []
        self.scheduler.listen(self.notes.append)
        self.models.start()
        assert self.models.settled().wait(PATIENCE_S)

    def submit(
        self, text: str, owner: str = "ann", model: str = "pup", *, durable: bool = True
    ) -> QueuedJob:
        request = GenerationRequest(text, seed=1, settings=STEADY)
        return self.scheduler.submit(request, model=model, owner=owner, durable=durable)

    def noted(self, what: Happening) -> list[Note]:
        return [note for note in self.notes if note.what is what]

    def close(self) -> None:
        self.scheduler.close()
        self.models.close()


@pytest.fixture
def queue(tmp_path: Path) -> Iterator[Queue]:
    queue = Queue(tmp_path)
    yield queue
    queue.close()


@pytest.fixture
def wide(tmp_path: Path) -> Iterator[Queue]:
    queue = Queue(tmp_path, max_batch=3)
    yield queue
    queue.close()


def held(queue: Queue) -> None:
    """Let nothing begin until the queue is as a test wants it."""
    queue.backend.up = False


def released(queue: Queue) -> None:
    queue.backend.up = True
    queue.backend.changed()


# --- whose turn it is


def test_one_job_behind_forty_of_another_user_is_second(queue: Queue) -> None:
    for number in range(40):
        queue.submit(f"a{number}", "ann")
    queue.backend.wait_for(1)
    job = queue.submit("b", "bob")
    place = queue.scheduler.place(job)
    assert place is not None
    assert place.n_before <= 2
    order = [queue.backend.finish_one() for _ in range(3)]
    assert "b" in order
    assert order[0] == "a0"


def test_users_take_turns_and_each_one_s_jobs_run_in_their_order(queue: Queue) -> None:
    held(queue)
    for owner, n_jobs in (("ann", 4), ("bob", 2), ("eve", 3)):
        for number in range(n_jobs):
            queue.submit(f"{owner}{number}", owner)
    foretold = [job.request.text for job in queue.scheduler.unfinished()]
    released(queue)
    order = [queue.backend.finish_one() for _ in range(9)]
    assert order == foretold
    assert order == ["ann0", "bob0", "eve0", "ann1", "bob1", "eve1", "ann2", "eve2", "ann3"]


def test_places_are_the_order_in_which_jobs_begin(queue: Queue) -> None:
    held(queue)
    jobs = [queue.submit(f"{owner}{n}", owner) for n in range(3) for owner in ("ann", "bob")]
    places = {}
    for job in jobs:
        place = queue.scheduler.place(job)
        assert place is not None
        places[job.request.text] = place.n_before
    released(queue)
    order = [queue.backend.finish_one() for _ in range(6)]
    assert [places[text] for text in order] == list(range(6))
    assert queue.scheduler.place(jobs[0]) is None


def test_no_more_run_than_there_is_room_for(wide: Queue) -> None:
    for number in range(7):
        wide.submit(f"a{number}")
    wide.backend.wait_for(3)
    for _ in range(7):
        wide.backend.finish_one()
    until(lambda: not wide.scheduler.unfinished())
    assert wide.backend.most_together == 3


def test_a_user_may_be_held_to_some_at_a_time(tmp_path: Path) -> None:
    queue = Queue(tmp_path, max_batch=3, max_running_each=1)
    for number in range(3):
        queue.submit(f"a{number}", "ann")
    queue.submit("b0", "bob")
    running = queue.backend.wait_for(2)
    assert sorted(job.request.text for job in running) == ["a0", "b0"]
    queue.close()


def test_one_model_runs_at_a_time_and_none_starves(wide: Queue) -> None:
    wide.backend.load(replace(wide.models._spec(wide.models._model("")), name="small"))
    wide.models._model("small").loaded = wide.backend.models["small"]
    wide.models.touch("small")
    wide.submit("p0", "ann")
    wide.backend.wait_for(1)
    waiting = wide.submit("s0", "bob", "small")
    for number in range(1, 4):
        wide.submit(f"p{number}", "ann")
    time.sleep(0.05)
    # bob's turn came: ann's others don't begin beside the first one for ever
    until(lambda: wide.scheduler.place(waiting) is not None)
    for _ in range(5):
        wide.backend.finish_one()
    until(lambda: not wide.scheduler.unfinished())
    assert all(len(models) == 1 for models in wide.backend.together)
    assert wide.backend.begun.index("s0") <= 3


# --- bounds


def test_the_queue_is_bounded_for_each_and_for_all(tmp_path: Path) -> None:
    queue = Queue(tmp_path, max_queued=5, max_queued_each=3)
    for number in range(3):
        queue.submit(f"a{number}", "ann")
    with pytest.raises(QueueFull, match="3 of your jobs"):
        queue.submit("a3", "ann")
    queue.submit("b0", "bob")
    last = queue.submit("b1", "bob")
    with pytest.raises(QueueFull, match="the queue is full"):
        queue.submit("e0", "eve")
    last.cancel()
    queue.submit("e0", "eve")
    assert [note.owner for note in queue.noted(Happening.REFUSED)] == ["ann", "eve"]
    queue.close()


def test_sound_is_counted_by_the_day_over_restarts(tmp_path: Path) -> None:
    queue = Queue(tmp_path, audio_s_each_day=10.0)
    queue.now = 86_400.0 * 20_000 + 100
    queue.scheduler._count_audio("ann", 12.0)
    with pytest.raises(QueueFull, match="midnight UTC"):
        queue.submit("a", "ann")
    queue.submit("b", "bob")
    queue.close()
    again = Queue(tmp_path, audio_s_each_day=10.0)
    again.now = queue.now
    assert again.scheduler.audio_left_s("ann") == 0.0
    assert again.scheduler.audio_left_s("bob") == 10.0
    again.now += 86_400
    assert again.scheduler.audio_left_s("ann") == 10.0
    again.close()


def test_what_nobody_waits_for_is_given_up(tmp_path: Path) -> None:
    queue = Queue(tmp_path, patience_s=60.0)
    running = queue.submit("a0")
    queue.backend.wait_for(1)
    watched, forgotten = queue.submit("a1"), queue.submit("a2")
    queue.now += 50
    queue.scheduler.look(watched)
    queue.now += 20
    until(lambda: forgotten.state is JobState.FAILED)
    with pytest.raises(Abandoned):
        forgotten.wait(PATIENCE_S)
    assert (watched.state, running.state) == (JobState.QUEUED, JobState.RUNNING)
    (row,) = [row for row in queue.store.rows() if row.id == forgotten.id]
    assert row.state is Standing.ABANDONED  # its owner is told when they come back
    queue.close()


# --- ends


def test_cancelling_reaches_what_runs_and_what_waits(queue: Queue) -> None:
    first, second = queue.submit("a0"), queue.submit("a1")
    (running,) = queue.backend.wait_for(1)
    second.cancel()
    assert second.state is JobState.STOPPED
    assert queue.scheduler.place(second) is None
    first.cancel()
    until(lambda: first.state is JobState.STOPPED)
    assert running.cancelled
    assert queue.backend.begun == ["a0"]


def test_many_cancels_at_random_moments_leave_a_free_queue(wide: Queue) -> None:
    draw = np.random.default_rng(5)

    def use(owner: str) -> None:
        for number in range(25):
            job = wide.submit(f"{owner}{number}", owner)
            time.sleep(float(draw.uniform(0, 0.01)))
            job.cancel()
            assert job.state.over or job.cancelled

    threads = [threading.Thread(target=use, args=(owner,)) for owner in ("ann", "bob", "eve")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    until(lambda: not wide.scheduler.unfinished() and not wide.backend.running)
    last = wide.submit("last")
    until(lambda: wide.backend.running)
    wide.backend.finish_one()
    until(lambda: last.state is JobState.FINISHED)


def test_a_job_whose_worker_died_runs_once_more_alone_and_first(wide: Queue) -> None:
    first, second = wide.submit("a0", "ann"), wide.submit("b0", "bob")
    waiting = wide.submit("e0", "eve")
    running = wide.backend.wait_for(3)
    wide.backend.up = False
    for job in running:
        job.lose()
    assert [job.state for job in (first, second, waiting)] == [JobState.QUEUED] * 3
    assert first.attempts == 1
    released(wide)
    for _ in range(3):
        (alone,) = wide.backend.wait_for(1)
        alone.finish()
    until(lambda: all(job.state is JobState.FINISHED for job in (first, second, waiting)))
    assert len(wide.noted(Happening.RESTARTED)) == 3


def test_a_job_that_kills_its_worker_twice_fails_and_takes_nobody_along(wide: Queue) -> None:
    poison, other = wide.submit("poison", "ann"), wide.submit("b0", "bob")
    wide.backend.wait_for(2)
    for _ in range(2):
        for job in list(wide.backend.running):
            if "poison" in job.request.text or len(wide.backend.running) > 1:
                job.lose()
        until(lambda: wide.backend.running or poison.state is JobState.FAILED)
        for job in list(wide.backend.running):
            if "poison" not in job.request.text:
                job.finish()
    until(lambda: poison.state.over or wide.backend.running)
    for job in list(wide.backend.running):
        job.lose() if "poison" in job.request.text else job.finish()
    until(lambda: poison.state is JobState.FAILED and other.state is JobState.FINISHED)
    with pytest.raises(WorkerLost):
        poison.wait(1)


def test_less_memory_is_tried_as_often_as_there_is_a_way(queue: Queue) -> None:
    job = queue.submit("large")
    for _ in range(4):
        (running,) = queue.backend.wait_for(1)
        running.lose(stepped_down=True)
        until(lambda: queue.backend.running)
    (running,) = queue.backend.wait_for(1)
    queue.backend.end(running, Failed(OutOfMemory("there is too little")))
    with pytest.raises(OutOfMemory):
        job.wait(PATIENCE_S)
    assert job.attempts == 0


def test_sound_is_told_once_though_it_is_made_twice(queue: Queue) -> None:
    job = queue.submit("a0")
    cascade = tiny.tiny_cascade()
    request = GenerationRequest("The cat sat. The dog ran.\n\nHello.", seed=1, settings=STEADY)
    chunks = [event for event in cascade.events(request) if isinstance(event, AudioChunk)]
    assert len(chunks) > 1
    (running,) = queue.backend.wait_for(1)
    half = len(chunks[1].audio) // 2
    begun = replace(chunks[1], audio=Audio(np.asarray(chunks[1].audio.samples)[:half]))
    for chunk in (chunks[0], begun):
        running.told(chunk)
    running.lose()
    (running,) = queue.backend.wait_for(1)
    for chunk in chunks:
        running.told(chunk)
    running.told(Finished(chunks[-1].so_far))
    heard = np.concatenate(
        [np.asarray(e.audio.samples) for e in job.events() if isinstance(e, AudioChunk)]
    )
    whole = np.concatenate([np.asarray(chunk.audio.samples) for chunk in chunks])
    assert np.array_equal(heard, whole)


def test_cancelled_while_its_worker_died_it_stays_stopped(queue: Queue) -> None:
    job = queue.submit("a0")
    (running,) = queue.backend.wait_for(1)
    job._cancelled.set()
    running.lose()
    until(lambda: job.state is JobState.STOPPED)


# --- models


def test_a_model_that_is_lost_for_good_fails_its_jobs(queue: Queue) -> None:
    held(queue)
    job = queue.submit("a0")
    queue.backend.lost = WorkerLost("the worker can't be brought back; load it again")
    queue.backend.models.clear()
    queue.backend.changed()
    with pytest.raises(WorkerLost):
        job.wait(PATIENCE_S)
    assert queue.models.status().error is not None


def test_an_idle_model_falls_asleep_and_a_job_wakes_it(tmp_path: Path) -> None:
    queue = Queue(tmp_path, idle_unload_s=0.2)
    until(lambda: queue.models.status().asleep)
    assert not queue.backend.models
    front = queue.models.front()
    assert front is not None
    assert front.plan(GenerationRequest("Hello.", settings=STEADY))
    job = queue.submit("a0")
    queue.backend.finish_one()
    until(lambda: job.state is JobState.FINISHED)
    queue.close()


def test_estimates_come_from_what_was_made(queue: Queue) -> None:
    held(queue)
    queue.submit("The cat sat.")
    job = queue.submit("The dog ran.")
    place = queue.scheduler.place(job)
    assert place is not None
    assert place.wait_s is None  # nothing was made yet
    made = tiny.tiny_cascade().generate(GenerationRequest("Hello.", seed=1, settings=STEADY))
    pace = queue.models.pace()
    assert pace is not None
    pace.learn(made.segments[0])
    place = queue.scheduler.place(job)
    assert place is not None
    assert place.wait_s is not None
    assert place.wait_s > 0


# --- the end, and the next start


def test_draining_lets_what_runs_end_and_keeps_what_waits(tmp_path: Path) -> None:
    queue = Queue(tmp_path)
    running, waiting = queue.submit("a0"), queue.submit("a1")
    queue.backend.wait_for(1)
    drained = threading.Thread(target=queue.scheduler.drain, args=(PATIENCE_S,))
    drained.start()
    until(lambda: queue.scheduler.draining)
    with pytest.raises(GenerationError, match="closing"):
        queue.submit("a2")
    queue.backend.finish_one()
    drained.join(PATIENCE_S)
    assert not drained.is_alive()
    until(lambda: running.state is JobState.FINISHED)
    assert waiting.state is JobState.STOPPED
    assert waiting.kept_for_later
    queue.scheduler.settle(running)
    queue.close()
    store = QueueStore.open(tmp_path)
    assert [(row.id, row.state) for row in store.rows()] == [(waiting.id, Standing.QUEUED)]
    store.close()


def test_what_doesn_t_end_in_time_is_marked(tmp_path: Path) -> None:
    queue = Queue(tmp_path)
    job = queue.submit("a0")
    queue.backend.wait_for(1)
    queue.scheduler.drain(0.05)
    until(lambda: job.state is JobState.STOPPED)
    assert isinstance(list(job.events())[-1], Stopped)
    queue.close()
    store = QueueStore.open(tmp_path)
    assert [(row.id, row.state) for row in store.rows()] == [(job.id, Standing.INTERRUPTED)]
    store.close()


def test_a_kill_loses_no_job(tmp_path: Path) -> None:
    """The queue is on the disk before a job is taken; what ran is known as such."""
    queue = Queue(tmp_path)
    first, second, third = (queue.submit(f"a{n}") for n in range(3))
    queue.backend.wait_for(1)
    until(lambda: Standing.RUNNING in {row.state for row in queue.store.rows()})
    queue.backend.finish_one()
    until(lambda: first.state.over)
    queue.scheduler.settle(first)
    # as after a kill at this moment
    expected = {second.id: Standing.RUNNING, third.id: Standing.QUEUED}
    until(lambda: {row.id: row.state for row in queue.store.rows()} == expected)
    queue.close()


def test_what_was_restored_runs_with_what_it_was_asked_with(tmp_path: Path) -> None:
    queue = Queue(tmp_path)
    held(queue)
    job = queue.submit("Say it again.", "bob")
    queue.close()
    again = Queue(tmp_path)
    (row,) = again.store.rows()
    request = request_from_json(row.request, again.models.layouts())
    restored = again.scheduler.restore(row, request)
    assert (restored.id, restored.owner, restored.request.text) == (job.id, "bob", "Say it again.")
    assert again.backend.finish_one() == "Say it again."
    until(lambda: restored.state is JobState.FINISHED)
    again.close()


def test_a_second_studio_on_the_folder_leaves_its_queue_alone(tmp_path: Path) -> None:
    first = QueueStore.open(tmp_path)
    row = Row("id", "ann", "b", "", "pup", 1.0, Standing.QUEUED, 0, "{}")
    first.add(row)
    second = QueueStore.open(tmp_path)
    assert second.rows() == []
    second.close()
    assert first.rows() == [row]
    first.close()
    assert QueueStore.open(tmp_path).rows() == [row]


# --- requests on the disk


def test_a_request_survives_the_disk_with_voice_and_words() -> None:
    cascade = tiny.tiny_cascade()
    made = cascade.generate(GenerationRequest("Hello.", seed=1, settings=STEADY))
    request = GenerationRequest(
        "Grüße 好 \U0001f600",
        voice=replace(made.voice, name="Änne", language="en"),
        seed=2**63 - 1,
        settings=STEADY,
        segment_pause_s=0.5,
        retries=3,
        take=4,
        words=tuple(segment.semantic for segment in made.segments),
    )
    again = request_from_json(request_to_json(request), [cascade.config.layout])
    assert again.voice is not None
    assert request.voice is not None
    assert again.voice.sha256 == request.voice.sha256
    assert (again.voice.name, again.voice.language) == ("Änne", "en")
    assert again.words is not None
    assert all(
        np.array_equal(a.values, b.values)
        for a, b in zip(again.words, request.words or (), strict=True)
    )
    assert replace(again, voice=None, words=None) == replace(request, voice=None, words=None)
    with pytest.raises(InvalidSetting, match="isn't here any more"):
        request_from_json(request_to_json(request), [])


@pytest.mark.parametrize("damage", ["", "{", "[]", "null", '{"text": 1}', '{"text": "a"}'])
def test_a_damaged_request_is_an_error_for_people(damage: str) -> None:
    with pytest.raises(BarkError):
        request_from_json(damage, [])


# --- settings


@pytest.mark.parametrize(
    "wrong",
    [
        {"max_queued": 0},
        {"max_queued": True},
        {"max_queued_each": 2.5},
        {"audio_s_each_day": float("nan")},
        {"drain_s": 26},
        {"log_format": "xml"},
        {"metrics_token": "short"},
        {"worker": 1},
    ],
)
def test_limits_that_make_no_sense_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(InvalidSetting):
        Hosting(**wrong)  # type: ignore[arg-type]

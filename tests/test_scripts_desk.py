"""Laws of the desk of scripts: runs go on, stop at once, keep what is finished, survive the end."""

from __future__ import annotations

import functools
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bark_core import (
    Background,
    BarkError,
    GenerationError,
    InvalidRequest,
    InvalidText,
    Project,
    ProjectFolder,
    SegmentState,
    SemanticParams,
    Settings,
    VoiceLibrary,
    parse_plain,
    read_audio,
    read_tags,
)
from tests.page_model import page_config
from tests.tiny import save_tiny_model
from webui import script_table, script_view
from webui.history import SCRIPT, History
from webui.models import ModelShelf
from webui.queue_store import QueueStore
from webui.scheduler import Scheduler
from webui.script_run import RunState
from webui.script_view import Scene
from webui.scripts import MAX_RUNS, ScriptDesk
from webui.settings import StudioSettings

TALK = "Anna: The cat.\nBob: Has it?\nAnna: The end."
N_LONG = 8
LONG = "\n\n".join(f"Line {n}." for n in range(N_LONG))
# a random model would end at once now and then
SETTINGS = Settings(semantic=SemanticParams(allow_early_stop=False))
ANN = "ann"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    config = page_config()
    # a segment lasts a second at most, and takes a fraction of one
    config = replace(config, layout=replace(config.layout, max_semantic_tokens=40))
    return save_tiny_model(tmp_path_factory.mktemp("models") / "brief", config=config)


@pytest.fixture(scope="module")
def models(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ModelShelf]:
    shelf = ModelShelf(StudioSettings(model=str(model), data=tmp_path_factory.mktemp("data")))
    shelf.start()
    assert shelf.settled().wait(60)
    yield shelf
    shelf.close()


@pytest.fixture
def history(tmp_path: Path) -> Iterator[History]:
    history = History.open(tmp_path / "data")
    yield history
    history.close()


def desk_in(folder: Path, models: ModelShelf, history: History) -> ScriptDesk:
    voices = VoiceLibrary.default(folder / "voices", layouts=models.layouts)
    return ScriptDesk(
        folder / "scripts",
        models=models,
        voices_of=lambda owner: voices,
        history=history,
        scheduler=scheduler_of(models),
    )


@functools.cache
def scheduler_of(models: ModelShelf) -> Scheduler:
    """One for all tests, as its shelf is."""
    return Scheduler(models, QueueStore.in_memory())


@pytest.fixture
def desk(tmp_path: Path, models: ModelShelf, history: History) -> Iterator[ScriptDesk]:
    desk = desk_in(tmp_path, models, history)
    yield desk
    desk.close()


def written(desk: ScriptDesk, text: str = TALK, owner: str = ANN) -> str:
    script_id = desk.create(owner, settings=SETTINGS)
    folder = desk.open(script_id, owner)
    folder.edit(lambda p: replace(p, options=replace(p.options, retries=0, seed=3)))
    desk.set_script(script_id, owner, parse_plain(text), "", source=text)
    return script_id


def until(what: Callable[[], object], timeout_s: float = 60.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not what():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def ended(desk: ScriptDesk, script_id: str, state: RunState = RunState.DONE) -> Project:
    run = desk._kept[script_id].run
    assert run is not None and run.finished.wait(60)
    assert run.state is state, run.error
    assert not run.failures, run.failures
    return desk.open(script_id, ANN).project


def n_ready(desk: ScriptDesk, script_id: str) -> int:
    project = desk.open(script_id, ANN).project
    return sum(segment.take is not None for segment in project.segments)


def test_a_run_makes_all_and_the_whole_goes_into_the_history(
    desk: ScriptDesk, history: History
) -> None:
    script_id = written(desk)
    desk.make(script_id, ANN)
    project = ended(desk, script_id)
    assert project.to_make == ()
    assert project.rolled.keys() == {"Anna", "Bob"}
    first, _, third = project.segments
    assert first.take is not None and third.take is not None
    assert first.take.voice_sha256 is None and third.take.voice_sha256 is not None
    (entry,) = history.search(owner=ANN)
    assert (entry.kind, entry.complete) == (SCRIPT, True)
    assert entry.details["script"] == {"id": script_id}
    assert "Bob: Has it?" in entry.text
    mixed = desk.mixed(script_id, ANN)
    assert mixed is not None
    assert mixed.duration_s == pytest.approx(entry.duration_s, abs=0.001)
    assert read_audio(mixed.path).duration_s == pytest.approx(mixed.duration_s, abs=0.001)
    assert read_tags(mixed.path)["script"] == {"id": script_id}
    with pytest.raises(InvalidRequest, match="New take"):
        desk.make(script_id, ANN)


def test_another_take_differs_and_its_whole_takes_the_place_of_the_one_before(
    desk: ScriptDesk, history: History
) -> None:
    script_id = written(desk)
    desk.make(script_id, ANN)
    segment_id = ended(desk, script_id).segments[1].id
    (before,) = history.search(owner=ANN)
    desk.make(script_id, ANN, [segment_id])
    project = ended(desk, script_id)
    old, new = project.segment(segment_id).takes
    assert (new.number, project.segment(segment_id).chosen) == (old.number + 1, new.id)
    folder = desk.open(script_id, ANN)
    assert folder.audio(old.id).samples.tobytes() != folder.audio(new.id).samples.tobytes()
    (entry,) = history.search(owner=ANN)
    assert entry.id != before.id
    history.set_favourite(entry.id, True, owner=ANN)
    desk.make(script_id, ANN, [segment_id])
    ended(desk, script_id)
    assert len(history.search(owner=ANN)) == 2  # what is dear stays


def test_stop_takes_hold_at_once_and_keeps_what_is_finished(
    desk: ScriptDesk, history: History
) -> None:
    script_id = written(desk, LONG)
    desk.make(script_id, ANN)
    until(lambda: n_ready(desk, script_id) >= 2)
    stopped_at = time.monotonic()
    assert desk.stop(script_id, ANN)
    project = ended(desk, script_id, RunState.STOPPED)
    # the test's own machine may be busy: the engine stops within one step
    assert time.monotonic() - stopped_at < 2.0
    made = n_ready(desk, script_id)
    assert 2 <= made < len(project.segments)
    assert history.search(owner=ANN) == []
    assert not desk.stop(script_id, ANN)
    desk.make(script_id, ANN)
    assert len(ended(desk, script_id).segments) == n_ready(desk, script_id)


def test_after_the_end_of_the_process_the_rest_just_needs_sound(
    tmp_path: Path, models: ModelShelf, history: History
) -> None:
    first = desk_in(tmp_path, models, history)
    script_id = written(first, LONG)
    first.make(script_id, ANN)
    until(lambda: n_ready(first, script_id) >= 1)
    first.close()
    made = n_ready(first, script_id)
    second = desk_in(tmp_path, models, history)
    assert [entry.id for entry in second.entries(ANN)] == [script_id]
    assert n_ready(second, script_id) == made
    assert second.run(script_id, ANN) is None
    assert second.text(script_id, ANN) == (LONG, False)
    second.make(script_id, ANN)
    ended(second, script_id)
    second.close()


def test_a_run_tells_how_it_goes(desk: ScriptDesk) -> None:
    script_id = written(desk, LONG)
    desk.make(script_id, ANN)
    until(lambda: n_ready(desk, script_id) >= 1)
    until(lambda: (desk.run(script_id, ANN) or pytest.fail("no run")).bars is not None)
    view = desk.run(script_id, ANN)
    assert view is not None
    assert view.current is not None and view.left_s is not None and view.left_s > 0
    assert view.n_segments == N_LONG and 1 <= view.n_done < N_LONG
    assert len(view.waiting) == N_LONG - view.n_done - 1
    told = json.loads(script_view.pulse(scene(desk, script_id)))
    assert 0 < told["share"] < 1
    desk.stop(script_id, ANN)


def test_what_is_pressed_meanwhile_is_made_as_well(desk: ScriptDesk) -> None:
    script_id = written(desk, LONG)
    ids = [segment.id for segment in desk.open(script_id, ANN).project.segments]
    desk.make(script_id, ANN, ids[:2])
    run = desk._kept[script_id].run
    desk.make(script_id, ANN, ids[1:3])  # the one that waits already isn't made twice
    assert desk._kept[script_id].run is run
    project = ended(desk, script_id)
    assert [len(segment.takes) for segment in project.segments[:4]] == [1, 1, 1, 0]


def test_edits_while_it_runs_lose_nothing(desk: ScriptDesk) -> None:
    script_id = written(desk, LONG)
    folder = desk.open(script_id, ANN)
    ids = [segment.id for segment in folder.project.segments]
    planner = desk.planner("", ANN)
    desk.make(script_id, ANN)
    folder.edit(lambda p: p.deleted(ids[2]).locked(ids[3], True))
    folder.edit(lambda p: p.with_words(ids[4], "Else.", planner))
    project = ended(desk, script_id)
    assert [s.id for s in project.segments if s.take is None] == [ids[3]]
    take = project.segment(ids[4]).take
    assert take is not None and take.text == "Else."


def test_what_goes_wrong_with_one_segment_is_told_and_the_others_are_made(
    desk: ScriptDesk,
) -> None:
    script_id = written(desk)
    folder = desk.open(script_id, ANN)
    second = folder.project.segments[1].id
    folder.edit(lambda p: p.with_voice(second, "nobody"))
    desk.make(script_id, ANN)
    run = desk._kept[script_id].run
    assert run is not None and run.finished.wait(60)
    assert run.state is RunState.DONE
    assert n_ready(desk, script_id) == 2
    assert "nobody" in str(desk.failures(script_id, ANN)[second])
    html = script_table.table(scene(desk, script_id))
    assert "That voice isn’t here" in html
    folder.edit(lambda p: p.with_voice(second, None))
    desk.make(script_id, ANN)
    ended(desk, script_id)
    assert desk.failures(script_id, ANN) == {}


def test_a_background_is_made_with_the_segments(desk: ScriptDesk) -> None:
    script_id = written(desk)
    desk.open(script_id, ANN).set_background(Background(prompt="[music]"))
    desk.make(script_id, ANN)
    assert ended(desk, script_id).layer is not None
    _, made = desk.whole(script_id, ANN)
    assert made.background is not None


def test_scripts_are_their_owner_s(desk: ScriptDesk) -> None:
    script_id = written(desk)
    assert desk.entries("bob") == []
    assert not desk.has(script_id, "bob")
    for forbidden in (
        lambda: desk.open(script_id, "bob"),
        lambda: desk.make(script_id, "bob"),
        lambda: desk.delete(script_id, "bob"),
        lambda: desk.text(script_id, "bob"),
        lambda: desk.run(script_id, "bob"),
    ):
        with pytest.raises(InvalidRequest, match="deleted"):
            forbidden()
    assert desk.current("bob", "x") == ""
    assert desk.current(ANN, "x") == script_id


def test_one_person_can_t_take_all(desk: ScriptDesk) -> None:
    ids = [written(desk, LONG) for _ in range(MAX_RUNS + 1)]
    for script_id in ids[:-1]:
        desk.make(script_id, ANN)
    with pytest.raises(GenerationError, match="wait until"):
        desk.make(ids[-1], ANN)


def test_what_is_typed_is_kept_until_it_is_in_the_segments(desk: ScriptDesk) -> None:
    script_id = written(desk)
    assert desk.text(script_id, ANN) == (TALK, False)
    desk.set_draft(script_id, ANN, TALK + "\nBob: Half a \ud83d")
    assert desk.text(script_id, ANN)[1]
    with pytest.raises(InvalidText):
        desk.set_script(script_id, ANN, parse_plain(""), "")
    # segments that were changed otherwise have another text
    desk.set_draft(script_id, ANN, TALK, of=desk.open(script_id, ANN).project)
    desk.open(script_id, ANN).edit(lambda p: p.deleted(p.segments[0].id))
    text, more = desk.text(script_id, ANN)
    assert not more
    assert parse_plain(text).speakers == ("Bob", "Anna")


def test_renaming_and_deleting(desk: ScriptDesk, tmp_path: Path) -> None:
    script_id = written(desk, LONG)
    assert desk.entries(ANN)[0].opening.startswith("Line 0")
    desk.rename(script_id, ANN, "  My  river ")
    assert desk.entries(ANN)[0].title == "My river"
    desk.make(script_id, ANN)
    desk.delete(script_id, ANN)
    assert desk.entries(ANN) == []
    assert not (tmp_path / "scripts" / script_id).exists()


def test_a_damaged_script_is_told_and_the_others_open(
    tmp_path: Path, models: ModelShelf, history: History
) -> None:
    first = desk_in(tmp_path, models, history)
    bad, good = written(first), written(first)
    (tmp_path / "scripts" / bad / "project.json").write_text("{")
    (tmp_path / "scripts" / "stray").mkdir()
    second = desk_in(tmp_path, models, history)
    assert {entry.id for entry in second.entries(ANN)} == {bad, good}
    with pytest.raises(InvalidText, match="damaged"):
        second.open(bad, ANN)
    assert isinstance(second.open(good, ANN), ProjectFolder)
    second.delete(bad, ANN)


def test_speakers_of_a_model_with_voices_get_one_each(desk: ScriptDesk) -> None:
    project = desk.open(written(desk), ANN).project
    # the random model came with none, so they are rolled
    assert set(project.voices.values()) == {None}


# --- how it looks


def scene(desk: ScriptDesk, script_id: str, chosen: int | None = None) -> Scene:
    folder = desk.open(script_id, ANN)
    segments = folder.project.segments
    return Scene(
        script_id=script_id,
        project=folder.project,
        run=desk.run(script_id, ANN),
        failures=desk.failures(script_id, ANN),
        mixed=desk.mixed(script_id, ANN),
        entry_id="",
        window=96,
        can_undo=folder.can_undo,
        chosen=None if chosen is None else segments[chosen].id,
    )


def everything(shown: Scene) -> str:
    return "".join(
        (
            script_view.setup(shown, (), (), mood=""),
            script_view.actions(shown),
            script_table.table(shown),
            script_table.editor(shown, ()),
            script_table.takes_of(shown),
        )
    )


def test_nothing_that_was_typed_becomes_markup(desk: ScriptDesk) -> None:
    wild = "<img src=x onerror=alert(1)> \"quoted\" & 'single'"
    script_id = written(desk, f"Anna: {wild}\nBob: {wild}")
    folder = desk.open(script_id, ANN)
    folder.edit(lambda p: p.with_speaker(p.segments[0].id, "<b>'&"))
    folder.edit(lambda p: p.with_speaker_voice("Bob", "<i>x</i>"))
    folder.set_background(Background(prompt="</details><script>alert(1)</script>"))
    desk.rename(script_id, ANN, '"><script>alert(2)</script>')
    html = everything(scene(desk, script_id, chosen=0))
    html += script_view.head(desk.entries(ANN), script_id, can_undo=True)
    for bad in ("<script", "<img", "<b>'", "<i>x"):
        assert bad not in html
    assert "&lt;img" in html


def test_two_hundred_segments_are_quick_to_draw(desk: ScriptDesk) -> None:
    text = "\n".join("Anna: Line." for _ in range(200))
    shown = scene(desk, written(desk, text))
    started = time.process_time()
    html = script_table.table(shown)
    assert time.process_time() - started < 0.5
    assert html.count("<tr data-segment") == 200
    assert len(html) < 400_000


@pytest.mark.parametrize(
    ("state", "said"),
    [(SegmentState.NEEDS_SOUND, "needs sound"), (SegmentState.WRONG, "went wrong")],
)
def test_the_table_says_where_a_segment_stands(
    desk: ScriptDesk, state: SegmentState, said: str
) -> None:
    script_id = written(desk)
    shown = scene(desk, script_id)
    if state is SegmentState.WRONG:
        project = shown.project
        order = project.order(project.segments[0].id, _none, _none)
        from tests.made import made

        take, following = order.fulfil(made("x"))
        wrong = replace(take, problems=("silent",))
        project = project.with_take(order.segment_id, wrong, following)
        shown = replace(shown, project=project)
        assert "was almost silent" in script_table.table(shown)
    assert said in script_table.table(shown)


def _none(name: str) -> Any:
    raise BarkError(name)

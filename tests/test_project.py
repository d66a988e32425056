"""Laws of projects: changes keep what still fits, the disk keeps all of it, the mix is clean."""

from __future__ import annotations

import io
import itertools
import json
import os
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bark_core.audio import loudness_lufs, read_audio, read_tags, write_audio
from bark_core.cascade import Cascade
from bark_core.errors import InvalidAudio, InvalidRequest, InvalidText, StorageError
from bark_core.mix import FADE_S, LOUDNESS_LUFS, Spoken, mix
from bark_core.project import Project
from bark_core.project_folder import ProjectFolder, stem_names, stems_zip
from bark_core.project_parts import BACKGROUND_ID, Order, ProjectOptions, SegmentState, new_name
from bark_core.project_plan import Planner
from bark_core.request import SemanticParams, Settings
from bark_core.script import Background, Line, LineSettings, Script, from_json, to_json
from bark_core.script_import import parse_any
from bark_core.script_text import parse_plain
from bark_core.text import normalize
from bark_core.tokens import Audio
from bark_core.voices import Voice
from tests.made import made

RATE = 24_000
TONES_HZ = (110, 230, 470)
TALK = "Anna: Hello the cat. (pause 1)\nBob: The dog?\nAnna: {seed=7} No."
# chance decides when the random model ends, and it is not to end at once
STEADY = ProjectOptions(
    settings=Settings(semantic=SemanticParams(min_eos_p=None)), seed=1, retries=0
)


@pytest.fixture(scope="session")
def planner(tiny_cascade: Cascade) -> Planner:
    return Planner.of(tiny_cascade)


@pytest.fixture
def talk(planner: Planner) -> Project:
    return Project.make(parse_plain(TALK), planner, STEADY)


def named_voice(name: str) -> Voice:
    return replace(made().voice, name=name)


def rolled_voice(take_id: str) -> Voice:
    return replace(made(seed=int(take_id[:4], 16)).voice, name="")


def ordered(project: Project, segment_id: str) -> Order:
    return project.order(segment_id, named_voice, rolled_voice)


def with_sound(project: Project, *segment_ids: str) -> Project:
    """The project, with a take of each of these segments (of all that need one)."""
    for segment_id in segment_ids or project.to_make:
        order = ordered(project, segment_id)
        project = project.with_take(segment_id, *order.fulfil(made(order.request.text)))
    return project


def words(project: Project) -> list[tuple[str, str]]:
    return [(segment.line.speaker, segment.line.text) for segment in project.segments]


# --- planning


def test_a_script_becomes_segments_that_fit_and_need_sound(talk: Project) -> None:
    assert words(talk) == [("Anna", "Hello the cat."), ("Bob", "The dog?"), ("Anna", "No.")]
    assert {segment.state for segment in talk.segments} == {SegmentState.NEEDS_SOUND}
    assert talk.to_make == tuple(segment.id for segment in talk.segments)
    assert [talk.pause_after_s(index) for index in range(3)] == [1.0, 0.5, 0.0]


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["", "Anna", "Bob"]), st.text(st.sampled_from("abc .!,"), min_size=1)
        ).filter(lambda line: any(c.isalpha() for c in line[1])),
        min_size=1,
        max_size=6,
    )
)
@settings(max_examples=40)
def test_no_character_is_lost_and_every_segment_is_within_the_window(
    planner: Planner, lines: list[tuple[str, str]]
) -> None:
    script = Script(tuple(Line(speaker, text) for speaker, text in lines))
    project = Project.make(script, planner)
    assert all(0 < segment.n_tokens <= planner.window for segment in project.segments)
    for speaker in script.speakers:
        before = "".join(line.text for line in script.lines if line.speaker == speaker)
        after = "".join(s.line.text for s in project.segments if s.line.speaker == speaker)
        assert after.replace(" ", "") == before.replace(" ", "")


def _as_plain(texts: list[str]) -> str:
    return "\n".join(texts)


def _as_srt(texts: list[str]) -> str:
    times = "00:00:01,000 --> 00:00:02,000"
    return "\n\n".join(f"{n}\n{times}\n{text}" for n, text in enumerate(texts, 1))


def _as_ssml(texts: list[str]) -> str:
    return f"<speak>{''.join(f'<p>{text}</p>' for text in texts)}</speak>"


@pytest.mark.parametrize("written", [_as_plain, _as_srt, _as_ssml])
@given(
    # words longer than a window, too, marks alone, and letters of other scripts
    st.lists(
        st.builds(
            lambda first, text, times: first + text * times,
            st.sampled_from("acé語"),
            st.text(st.sampled_from("abc é語.,!?'"), max_size=12),
            st.integers(0, 40),
        ),
        min_size=1,
        max_size=5,
    )
)
@settings(max_examples=25, deadline=None)
def test_a_file_of_any_kind_becomes_segments_that_fit_and_say_all_of_it(
    planner: Planner, written: Callable[[list[str]], str], texts: list[str]
) -> None:
    project = Project.make(parse_any(written(texts)), planner)
    assert all(0 < segment.n_tokens <= planner.window for segment in project.segments)
    said = "".join(segment.line.text for segment in project.segments)
    assert "".join(said.split()) == "".join(normalize(" ".join(texts)).split())


def test_pauses_of_both_neighbours_add_up(planner: Planner) -> None:
    script = Script((Line("", "One.", 2.0, 0.25), Line("", "Two.", 0.5), Line("", "Three.", 3.0)))
    project = Project.make(script, planner)
    assert project.lead_in_s == 2.0
    assert [project.pause_after_s(index) for index in range(3)] == [0.75, 3.0, 0.0]


def test_what_a_line_cannot_be_planned_for_is_named(planner: Planner) -> None:
    with pytest.raises(InvalidText, match="line 2"):
        Project.make(Script((Line("", "a"), Line("", "\u200d"))), planner)


# --- changing


def test_a_take_makes_a_segment_ready_and_a_problem_marks_it(talk: Project) -> None:
    first = talk.segments[0]
    order = ordered(talk, first.id)
    good = talk.with_take(first.id, *order.fulfil(made("Hello the cat.")))
    assert good.segment(first.id).state is SegmentState.READY
    take, next_take = order.fulfil(made("Hello the cat."), n_takes=3)
    bad = talk.with_take(first.id, replace(take, problems=("silent",)), next_take)
    assert bad.segment(first.id).state is SegmentState.WRONG
    assert ordered(bad, first.id).request.take == 3  # none is tried twice


def test_a_speaker_without_a_voice_keeps_the_one_that_was_rolled(talk: Project) -> None:
    first, other, last = talk.segments
    assert ordered(talk, first.id).request.voice is None
    sounding = with_sound(talk, first.id)
    rolled = sounding.segment(first.id).chosen
    assert sounding.rolled == {"Anna": rolled}
    wanted = ordered(sounding, last.id).request.voice
    assert rolled is not None and wanted is not None
    assert wanted.sha256 == rolled_voice(rolled).sha256
    assert ordered(sounding, other.id).request.voice is None
    # it stays, whatever becomes of that take
    assert rolled in sounding.without_take(first.id, rolled).files
    again = sounding.with_new_roll("Anna")
    assert again.segment(first.id).take is None
    assert ordered(again, last.id).request.voice is None


def test_a_voice_is_asked_for_by_its_name(talk: Project) -> None:
    chosen = talk.with_speaker_voice("Anna", "rosa")
    request = ordered(chosen, chosen.segments[2].id).request
    assert request.voice is not None
    assert (request.voice.name, request.seed) == ("rosa", 7)
    own = chosen.with_voice(chosen.segments[2].id, "otto")
    assert [own.voice_of(segment) for segment in own.segments] == ["rosa", None, "otto"]


def test_seeds_differ_between_segments_and_stay_when_they_move(talk: Project) -> None:
    seeds = {s.id: ordered(talk, s.id).request.seed for s in talk.segments}
    assert len(set(seeds.values())) == 3
    moved = talk.moved(talk.segments[0].id, 2)
    assert {s.id: ordered(moved, s.id).request.seed for s in moved.segments} == seeds


@pytest.mark.parametrize(
    "change",
    [
        lambda project, it, planner: project.with_words(it, "Good night.", planner),
        lambda project, it, planner: project.with_voice(it, "rosa"),
        lambda project, it, planner: project.with_speaker_voice("Anna", "rosa"),
        lambda project, it, planner: project.with_speaker(it, "Carl"),
        lambda project, it, planner: project.with_settings(
            it, LineSettings(semantic_temperature=0.1)
        ),
    ],
)
def test_what_changes_the_sound_asks_for_it_anew_and_going_back_brings_it_back(
    talk: Project, planner: Planner, change: Callable[[Project, str, Planner], Project]
) -> None:
    first = talk.segments[0].id
    sounding = with_sound(talk)
    take = sounding.segment(first).chosen
    changed = change(sounding, first, planner)
    assert changed.segment(first).state is SegmentState.NEEDS_SOUND
    assert [t.id for t in changed.segment(first).takes] == [take]  # still to be chosen by hand
    back = (
        changed.with_words(first, "Hello the cat.", planner)
        .with_speaker(first, "Anna")
        .with_voice(first, None)
        .with_speaker_voice("Anna", None)
        .with_settings(first, LineSettings())
    )
    assert back.segment(first).chosen == take


def test_a_pause_or_a_place_changes_no_sound(talk: Project) -> None:
    sounding = with_sound(talk)
    first = sounding.segments[0].id
    changed = sounding.with_pause(first, 3.0).moved(first, 1)
    assert changed.to_make == ()
    assert changed.pause_after_s(1) == 3.0
    assert [s.id for s in changed.moved(first, -9).segments] == [s.id for s in talk.segments]


def test_long_words_become_several_segments(talk: Project, planner: Planner) -> None:
    first = talk.segments[0]
    text = "The dog and the cat. " * 4
    changed = talk.with_words(first.id, text, planner)
    parts = changed.segments[: len(changed.segments) - 2]
    assert len(parts) > 1 and parts[0].id == first.id
    assert " ".join(part.line.text for part in parts) == normalize(text)
    assert changed.pause_after_s(len(parts) - 1) == 1.0  # that of the words before


def test_a_locked_segment_is_left_alone(talk: Project, planner: Planner) -> None:
    first = talk.segments[0].id
    locked = with_sound(talk).locked(first, True)
    take = locked.segment(first).chosen
    assert locked.with_speaker_voice("Anna", "rosa").segment(first).chosen == take
    assert talk.locked(first, True).to_make == talk.to_make[1:]
    for change in (
        lambda: locked.with_words(first, "No.", planner),
        lambda: locked.with_voice(first, "rosa"),
        lambda: ordered(locked, first),
    ):
        with pytest.raises(InvalidRequest, match="unlock"):
            change()
    assert locked.locked(first, False).segment(first).chosen == take


def test_insert_and_delete(talk: Project, planner: Planner) -> None:
    longer, new = talk.inserted(talk.segments[0].id, "Wait.", planner, speaker="Bob")
    assert words(longer)[1] == ("Bob", "Wait.")
    assert longer.index(new) == 1
    front, _ = talk.inserted(None, "Listen.", planner)
    assert words(front)[0] == ("", "Listen.")
    assert words(longer.deleted(new)) == words(talk)
    with pytest.raises(InvalidRequest, match="no segment"):
        longer.deleted(new).deleted(new)


def test_takes_are_chosen_and_deleted(talk: Project) -> None:
    first = talk.segments[0].id
    twice = with_sound(with_sound(talk, first), first)
    old, new = (take.id for take in twice.segment(first).takes)
    assert twice.segment(first).chosen == new
    assert twice.with_chosen(first, old).segment(first).chosen == old
    assert twice.without_take(first, new).segment(first).chosen == old
    bare = twice.without_take(first, new).without_take(first, old)
    assert bare.segment(first).state is SegmentState.NEEDS_SOUND
    assert ordered(bare, first).request.take == 2
    with pytest.raises(InvalidRequest, match="deleted"):
        bare.with_chosen(first, old)


def test_a_take_of_older_words_is_kept_and_not_heard(talk: Project, planner: Planner) -> None:
    first = talk.segments[0].id
    order = ordered(talk, first)
    changed = talk.with_words(first, "Good night.", planner)
    late = changed.with_take(first, *order.fulfil(made("Hello the cat.")))
    assert late.segment(first).state is SegmentState.NEEDS_SOUND
    assert [take.text for take in late.segment(first).takes] == ["Hello the cat."]


def test_another_text_keeps_the_takes_of_what_is_still_there(
    talk: Project, planner: Planner
) -> None:
    sounding = with_sound(talk).with_speaker_voice("Bob", None)
    text = "Anna: Hello the cat. (pause 1)\nCarl: Me too.\nAnna: {seed=7} No."
    changed = sounding.with_script(parse_plain(text), planner)
    assert [segment.state for segment in changed.segments] == [
        SegmentState.READY,
        SegmentState.NEEDS_SOUND,
        SegmentState.READY,
    ]
    assert changed.segments[0].id == sounding.segments[0].id
    assert sounding.with_script(sounding.script, planner) == sounding


def test_a_wrong_guess_of_a_speaker_is_undone(planner: Planner) -> None:
    project = Project.make(parse_plain("Anna: I say\nNote: this.\nBob: Yes."), planner)
    assert project.speakers == ("Anna", "Note", "Bob")
    mended = project.without_speaker("Note", planner)
    assert words(mended) == [("Anna", "I say"), ("Anna", "Note: this."), ("Bob", "Yes.")]
    assert "Note" not in mended.voices


def test_a_background_is_made_from_its_prompt(talk: Project) -> None:
    sounding = with_sound(talk)
    wanted = sounding.with_background(Background(prompt="[music]"))
    assert wanted.to_make == (BACKGROUND_ID,)
    full = with_sound(wanted)
    assert full.to_make == () and full.layer is not None
    quieter = full.with_background(Background(prompt="[music]", level_db=-30))
    assert quieter.layer == full.layer
    assert full.with_background(Background(prompt="♪ la ♪")).to_make == (BACKGROUND_ID,)
    assert full.with_background(None).layer is None


def test_going_back_loses_no_sound_made_since(talk: Project, planner: Planner) -> None:
    first, second, _ = (segment.id for segment in talk.segments)
    edited = talk.with_words(second, "Which dog?", planner)
    later = with_sound(edited, first)
    back = talk.with_takes_of(later)
    assert words(back) == words(talk)
    assert back.segment(first).state is SegmentState.READY
    assert back.rolled == later.rolled


# --- as JSON


def test_json_gives_the_same_project(talk: Project, planner: Planner) -> None:
    full = with_sound(talk.with_background(Background(prompt="[music]")))
    changed = full.with_voice(full.segments[1].id, "otto").locked(full.segments[0].id, True)
    assert Project.from_json(changed.to_json()) == changed


def test_the_script_of_a_project_opens_again(talk: Project, planner: Planner) -> None:
    slow = replace(talk, options=replace(STEADY, line_pause_s=2.0))
    changed = slow.with_speaker_voice("Anna", "rosa").with_pause(slow.segments[0].id, 0.1)
    again = Project.make(from_json(to_json(changed.to_script())), planner, STEADY)
    assert words(again) == words(changed)
    assert [again.pause_after_s(i) for i in range(3)] == [0.1, 2.0, 0.0]
    assert again.voices == changed.voices
    assert again.segments[2].line.settings.seed == 7


@pytest.mark.parametrize(
    "change",
    [
        {"format": "another"},
        {"version": 2},
        {"segments": []},
        {"rolled": 3},
        {"options": {}, "script": {}},
        {"options": {"settings": {}, "seed": -1, "line_pause_s": 0.5, "retries": 0}},
        {"options": {"settings": {}, "seed": 1, "line_pause_s": "long", "retries": 0}},
    ],
)
def test_a_damaged_project_is_told(talk: Project, change: dict[str, object]) -> None:
    content = {**json.loads(talk.to_json()), **change}
    with pytest.raises(InvalidText):
        Project.from_json(json.dumps(content))
    with pytest.raises(InvalidText):
        Project.from_json(talk.to_json()[:-100])


def test_the_name_of_a_take_can_t_lead_elsewhere(talk: Project) -> None:
    content = json.loads(with_sound(talk).to_json())
    content["segments"][0]["takes"][0]["id"] = "../../secret"
    with pytest.raises(InvalidText, match="damaged"):
        Project.from_json(json.dumps(content))


# --- on the disk


@pytest.fixture
def folder(tmp_path: Path, talk: Project) -> ProjectFolder:
    return ProjectFolder.create(tmp_path / "project", talk)


def fill(folder: ProjectFolder, *segment_ids: str) -> None:
    for segment_id in segment_ids or folder.project.to_make:
        order = ordered(folder.project, segment_id)
        folder.add(order, made(order.request.text, seconds=0.6))


def test_what_is_kept_opens_again(folder: ProjectFolder) -> None:
    fill(folder)
    again = ProjectFolder.open(folder.folder)
    assert again.project == folder.project
    take = again.project.segments[0].take
    assert take is not None
    assert again.audio(take.id).duration_s == pytest.approx(take.duration_s)
    layout = made().voice.layout
    assert again.voice(take.id, layout).sha256 == made("Hello the cat.", seconds=0.6).voice.sha256
    with pytest.raises(StorageError, match="already"):
        ProjectFolder.create(folder.folder, folder.project)


def test_a_change_is_undone_once_and_not_the_sound(folder: ProjectFolder) -> None:
    first = folder.project.segments[0].id
    before = folder.project
    folder.edit(lambda project: project.deleted(first))
    folder.edit(lambda project: project)  # changes nothing, so there is nothing to take back
    fill(folder, folder.project.segments[0].id)
    assert folder.undo()
    assert words(folder.project) == words(before)
    assert folder.project.segments[1].state is SegmentState.READY
    assert not folder.undo()
    assert ProjectFolder.open(folder.folder).project == folder.project


def test_a_kill_leaves_a_project_that_opens(folder: ProjectFolder) -> None:
    fill(folder)
    first = folder.project.segments[0]
    assert first.chosen is not None
    # a take whose project.json was never written, a file half-written, a sound that is gone
    stray = folder.takes / f"{new_name()}.flac"
    stray.write_bytes(folder.sound_path(first.chosen).read_bytes())
    half = folder.takes / ".ab.123456.partial.flac"
    half.write_bytes(b"half")
    (folder.folder / ".project.1.partial.json").write_text("{")
    folder.sound_path(first.chosen).unlink()
    again = ProjectFolder.open(folder.folder)
    assert again.project.segment(first.id).state is SegmentState.NEEDS_SOUND
    assert len(again.project.to_make) == 1
    assert not stray.exists() and not half.exists()
    assert [path.name for path in folder.folder.glob(".*")] == []


@pytest.mark.skipif(os.name == "nt" or os.getuid() == 0, reason="needs permissions")
def test_a_folder_that_can_t_be_written_changes_nothing(folder: ProjectFolder) -> None:
    before = folder.project
    folder.folder.chmod(0o500)
    try:
        with pytest.raises(StorageError):
            folder.edit(lambda project: project.deleted(before.segments[0].id))
    finally:
        folder.folder.chmod(0o700)
    assert folder.project == before


def test_a_take_that_comes_too_late_leaves_no_file(folder: ProjectFolder) -> None:
    first = folder.project.segments[0].id
    order = ordered(folder.project, first)
    folder.edit(lambda project: project.deleted(first))
    with pytest.raises(InvalidRequest):
        folder.add(order, made())
    assert list(folder.takes.iterdir()) == []


def test_a_background_of_a_file(folder: ProjectFolder, tmp_path: Path) -> None:
    fill(folder)
    file = tmp_path / "rain.wav"
    write_audio(file, Audio(noise(0.3), RATE))
    wanted = Background(file="rain.wav", level_db=-20)
    with pytest.raises(InvalidAudio, match="isn't here"):
        folder.set_background(wanted)
    folder.set_background(wanted, file)
    assert folder.project.to_make == ()
    folder.set_background(replace(wanted, level_db=-30))
    assert folder.mix().background is not None
    assert ProjectFolder.open(folder.folder).mix().background is not None
    (tmp_path / "not.wav").write_text("sound?")
    with pytest.raises(InvalidAudio):
        folder.set_background(wanted, tmp_path / "not.wav")


def test_deleting_leaves_nothing(folder: ProjectFolder) -> None:
    fill(folder)
    folder.delete()
    assert not folder.folder.exists()


# --- the mix


def noise(seconds: float, seed: int = 0, level: float = 0.2) -> np.ndarray:
    """A voice-like hum: smooth, so that a click would stand out."""
    draw = np.random.default_rng(seed)
    t = np.arange(round(seconds * RATE)) / RATE
    tones = [np.sin(2 * np.pi * f * t + draw.uniform(0, 6)) / n for n, f in enumerate(TONES_HZ, 1)]
    samples: np.ndarray = (level / 2 * np.sum(tones, axis=0)).astype(np.float32)
    return samples


def spoken(*seconds: float, pauses: float = 0.0) -> list[Spoken]:
    return [
        Spoken("ab"[n % 2], f"Words {n}.", Audio(noise(s, n, 0.02 * (n + 1)), RATE), pauses)
        for n, s in enumerate(seconds)
    ]


def largest_step(samples: np.ndarray) -> float:
    return float(np.abs(np.diff(samples)).max())


def test_joins_don_t_click() -> None:
    parts = spoken(0.6, 0.7, 0.8)
    made_mix = mix(parts)
    # sound that was cut in full swing would jump by its amplitude; it moves no faster than
    # within the segments themselves
    samples = made_mix.audio.samples
    joins = [round(cue.end_s * RATE) for cue in made_mix.cues[:-1]]
    inside = max(
        largest_step(samples[round(c.start_s * RATE) + 500 : round(c.end_s * RATE) - 500])
        for c in made_mix.cues
    )
    for join in joins:
        near = samples[join - round(FADE_S * RATE) : join + round(FADE_S * RATE)]
        assert largest_step(near) <= inside * 1.05
        assert abs(float(samples[join])) < 0.01
    assert abs(float(samples[0])) < 1e-4 and abs(float(samples[-1])) < 1e-3


def test_pauses_are_exact_silence() -> None:
    made_mix = mix(spoken(0.5, 0.5, pauses=0.4), lead_in_s=0.3)
    first, second = made_mix.cues
    assert first.start_s == pytest.approx(0.3)
    assert second.start_s - first.end_s == pytest.approx(0.4)
    gap = made_mix.audio.samples[round(first.end_s * RATE) : round(second.start_s * RATE)]
    assert len(gap) == round(0.4 * RATE) and not gap.any()


def test_all_segments_are_of_one_loudness() -> None:
    made_mix = mix(spoken(1.0, 1.2, 1.5))
    found = []
    for cue in made_mix.cues:
        part = made_mix.audio.samples[round(cue.start_s * RATE) : round(cue.end_s * RATE)]
        found.append(loudness_lufs(Audio(part, RATE)))
    assert max(found) - min(found) < 0.5
    assert loudness_lufs(made_mix.audio) == pytest.approx(LOUDNESS_LUFS, abs=0.3)


def test_stems_add_up_to_the_speech() -> None:
    parts = spoken(0.6, 0.5, 0.7, pauses=0.1)
    plain = mix(parts)
    assert list(plain.stems) == ["a", "b"]
    total = sum(stem.samples for stem in plain.stems.values())
    assert np.array_equal(total, plain.audio.samples)
    over = mix(parts, background=Background(prompt="x", duck_db=12), bed=Audio(noise(0.4), RATE))
    assert over.background is not None
    lengths = {len(sound) for sound in (over.audio, over.background, *over.stems.values())}
    assert lengths == {len(over.audio)}
    speech = sum(stem.samples for stem in over.stems.values())
    np.testing.assert_allclose(speech + over.background.samples, over.audio.samples, atol=1e-6)


@pytest.mark.parametrize("bed_s", [0.05, 0.4, 30.0])
def test_a_background_is_looped_or_cut_without_clicks(bed_s: float) -> None:
    background = Background(prompt="x", level_db=-6, fade_in_s=0.2, fade_out_s=0.5)
    # ends where its amplitude is not that of its beginning
    bed = Audio(noise(bed_s, 3), RATE)
    made_mix = mix(spoken(1.0, 1.0, pauses=0.2), background=background, bed=bed)
    assert made_mix.background is not None
    layer = made_mix.background.samples
    assert layer[len(layer) // 3 :][: RATE // 2].any()
    assert abs(float(layer[0])) < 1e-6 and abs(float(layer[-1])) < 1e-3
    gain = float(np.abs(layer).max() / np.abs(bed.samples).max())
    assert largest_step(layer) <= 1.5 * gain * largest_step(bed.samples)
    assert made_mix.audio.duration_s == pytest.approx(made_mix.cues[-1].end_s + 0.7, abs=0.01)


def test_a_background_is_as_quiet_as_it_is_told_and_gives_way() -> None:
    bed = Audio(noise(8.0, 5), RATE)
    parts = [Spoken("", "Words.", Audio(noise(2.0), RATE), 3.0)]
    fades: dict[str, Any] = {"fade_in_s": 0.0, "fade_out_s": 0.0}
    even = mix(parts, background=Background(prompt="x", level_db=-20, **fades), bed=bed)
    assert even.background is not None
    assert loudness_lufs(even.background) == pytest.approx(LOUDNESS_LUFS - 20, abs=0.5)
    ducked = mix(
        parts, background=Background(prompt="x", level_db=-20, duck_db=12, **fades), bed=bed
    )
    assert ducked.background is not None
    during, after = slice(RATE, RATE + 2000), slice(4 * RATE, 4 * RATE + 2000)
    levels = [
        float(np.abs(ducked.background.samples[part]).max())
        / float(np.abs(even.background.samples[part]).max())
        for part in (during, after)
    ]
    assert levels == [pytest.approx(10 ** (-12 / 20), rel=0.01), pytest.approx(1.0)]


def test_nothing_gets_louder_than_one() -> None:
    loud = [Spoken("", "a", Audio(noise(1.0, level=1.0), RATE))]
    bed = Audio(noise(1.0, 4, level=1.0), RATE)
    made_mix = mix(loud, background=Background(prompt="x", level_db=0), bed=bed)
    assert float(np.abs(made_mix.audio.samples).max()) <= 1.0


def test_nothing_to_mix_is_told() -> None:
    with pytest.raises(InvalidAudio, match="make a segment first"):
        mix([])


def test_a_silent_segment_has_its_place() -> None:
    quiet = [Spoken("", "a", Audio(np.zeros(RATE, np.float32), RATE)), *spoken(0.5)]
    assert len(mix(quiet).cues) == 2


def test_a_project_is_mixed_in_its_order_with_exact_times(folder: ProjectFolder) -> None:
    fill(folder, *folder.project.to_make[:2])
    made_mix = folder.mix()
    assert [cue.text for cue in made_mix.cues] == ["Hello the cat.", "The dog?"]
    for before, after in itertools.pairwise(made_mix.cues):
        assert after.start_s - before.end_s == pytest.approx(1.0, abs=1 / RATE)
    told = folder.mix_metadata(made_mix)
    assert told["text"] == "Anna: Hello the cat.\nBob: The dog?"
    assert told["complete"] is False
    takes = [read_tags(folder.sound_path(s.take.id)) for s in folder.project.segments if s.take]
    assert len(takes) == 2
    assert told["settings"] == takes[0]["settings"]
    for key in ("revision", "precision"):
        assert told["model"][key] == takes[0]["model"][key]
    for stage, total in told["seconds"].items():
        assert total == pytest.approx(sum(take["seconds"][stage] for take in takes), abs=0.002)
    assert set(told["seconds"]) == {"semantic", "coarse", "fine", "codec"}
    json.dumps(told)


def test_stems_are_files_of_the_same_length(folder: ProjectFolder) -> None:
    fill(folder)
    made_mix = folder.mix()
    metadata = folder.mix_metadata(made_mix)
    with zipfile.ZipFile(io.BytesIO(stems_zip(made_mix, metadata=metadata))) as archive:
        assert archive.namelist() == ["01-Anna.flac", "02-Bob.flac"]
        archive.extractall(folder.folder)
    for speaker, name in stem_names(made_mix).items():
        path = folder.folder / f"{name}.flac"
        assert len(read_audio(path)) == len(made_mix.audio)
        assert read_tags(path) == {**metadata, "stem": speaker}


def test_a_mix_is_the_same_until_something_heard_changes(talk: Project, planner: Planner) -> None:
    sounding = with_sound(talk)
    first = sounding.segments[0].id
    assert sounding.with_voice(first, "rosa").with_voice(first, None).mix_key == sounding.mix_key
    assert sounding.with_pause(first, 4.0).mix_key != sounding.mix_key
    assert sounding.moved(first, 1).mix_key != sounding.mix_key


def test_a_file_of_any_kind_makes_a_project(planner: Planner) -> None:
    srt = "1\n00:00:01,000 --> 00:00:02,000\nANNA: Hello\n\n2\n00:00:04,000 --> 00:00:05,000\nNo"
    project = Project.make(parse_any(srt, "talk.srt"), planner)
    assert words(project) == [("ANNA", "Hello"), ("ANNA", "No")]
    assert project.pause_after_s(0) == 2.0

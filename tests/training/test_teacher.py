"""Laws of the teacher: tokens and sound agree, and what is typed is heard."""

from __future__ import annotations

import ctypes
import re
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from training import data
from training.delivery import last_mark, parts
from training.flite import TeacherError
from training.teacher import FRAME_SAMPLES, VOICES, Teacher, Utterance, frames_of
from training.units import MIDDLE, PITCHED_INDEX, STRESSED, SUNG, TOP
from training.units import parts as unit_parts


def _flite_is_there() -> bool:
    try:
        ctypes.CDLL("libflite.so.1")
    except OSError:
        return False
    return True


needs_flite = pytest.mark.skipif(not _flite_is_there(), reason="libflite1 is not installed")


@pytest.fixture(scope="module")
def teacher() -> Teacher:
    return Teacher()


def _names(spoken: Utterance) -> list[str]:
    return [phone.name for phone in spoken.phones]


def _spans(spoken: Utterance) -> NDArray[np.float64]:
    return np.diff([0.0, *(phone.end_s for phone in spoken.phones)])


def test_text_is_cut_into_cues_songs_and_words() -> None:
    text = "Well [laughs], ♪ row your boat ♪ and stop."
    assert list(parts(text)) == ["Well", "[laughs]", ",", "♪ row your boat ♪", "and stop."]


@pytest.mark.parametrize(
    ("word", "mark"), [("so,", ","), ("no...", "…"), ("'yes?'", "?"), ("-", "-"), ("plain", "")]
)
def test_the_mark_of_a_word(word: str, mark: str) -> None:
    assert last_mark(word) == mark


@needs_flite
def test_sound_is_as_long_as_its_tokens(teacher: Teacher) -> None:
    for voice in VOICES:
        spoken = teacher.say("The kettle [sighs] is on.", voice)
        assert len(spoken.samples) == frames_of(len(spoken.semantic)) * FRAME_SAMPLES
        assert spoken.phones[-1].end_s == pytest.approx(len(spoken.semantic) * 0.03, abs=0.0151)
        assert 0.02 < float(np.sqrt(np.mean(spoken.samples**2))) < 0.4
        assert float(np.abs(spoken.samples).max()) < 1


@needs_flite
def test_phones_are_the_same_without_sound(teacher: Teacher) -> None:
    for voice in VOICES:
        silent = teacher.say("Nine grey geese [laughs] flew over.", voice, with_sound=False)
        spoken = teacher.say("Nine grey geese [laughs] flew over.", voice)
        assert len(silent.samples) == 0
        assert silent.phones == spoken.phones
        assert silent.semantic.tolist() == spoken.semantic.tolist()


@needs_flite
def test_voices_differ(teacher: Teacher) -> None:
    said = {voice.name: teacher.say("A short line.", voice) for voice in VOICES}
    assert len({spoken.samples.tobytes() for spoken in said.values()}) == len(VOICES) >= 6


@needs_flite
def test_a_question_ends_higher_than_a_statement(teacher: Teacher) -> None:
    question, statement = (teacher.say(f"You saw the moon{m}", VOICES[0]) for m in "?.")
    tones = [
        [phone.tone for phone in spoken.phones if phone.name in PITCHED_INDEX]
        for spoken in (question, statement)
    ]
    assert tones[0][-1] == TOP
    assert tones[1][-1] < TOP


@needs_flite
def test_every_mark_has_its_own_pause(teacher: Teacher) -> None:
    lengths = []
    for mark in ("", ",", ";", "..."):
        spoken = teacher.say(f"We went home{mark} and slept.", VOICES[1])
        pauses = [
            s for s, name in zip(_spans(spoken), _names(spoken), strict=True) if name == "pau"
        ]
        lengths.append(sum(pauses[1:-1]))
    assert lengths == sorted(set(lengths))


@needs_flite
def test_capitals_are_stressed_and_last_longer(teacher: Teacher) -> None:
    loud, plain = (teacher.say(text, VOICES[0]) for text in ("I saw a DOG.", "I saw a dog."))
    assert {phone.tone for phone in loud.phones} >= {STRESSED}
    assert STRESSED not in {phone.tone for phone in plain.phones}
    assert _names(loud) == _names(plain)
    assert loud.phones[-1].end_s > plain.phones[-1].end_s + 0.03
    peaks = [
        float(np.abs(spoken.samples[len(spoken.samples) // 2 :]).max()) for spoken in (loud, plain)
    ]
    assert peaks[0] > peaks[1]


@needs_flite
def test_words_between_notes_are_sung(teacher: Teacher) -> None:
    spoken = teacher.say("♪ over the hills ♪", VOICES[2])
    vowels = [phone for phone in spoken.phones if phone.name in PITCHED_INDEX]
    assert all(phone.tone >= SUNG for phone in vowels)
    assert len({phone.tone for phone in vowels}) > 1


@needs_flite
@pytest.mark.parametrize(
    ("cue", "sound"),
    [
        ("laughs", "ha"),
        ("sighs", "bo"),
        ("gasps", "gs"),
        ("clears throat", "tc"),
        ("music", "n[1-5]"),
    ],
)
def test_a_cue_makes_its_own_sound(teacher: Teacher, cue: str, sound: str) -> None:
    spoken = teacher.say(f"Now [{cue}] listen.", VOICES[3])
    assert any(re.fullmatch(sound, name) for name in _names(spoken))
    cued = [unit_parts(t) for t in spoken.semantic.tolist()]
    assert {tone for name, _, tone in cued if re.fullmatch(sound, name)} == {MIDDLE}


@needs_flite
@pytest.mark.parametrize("text", ["", "...", "[no such cue]"])
def test_nothing_to_say_is_an_error(teacher: Teacher, text: str) -> None:
    with pytest.raises(TeacherError):
        teacher.say(text, VOICES[0])


@needs_flite
def test_what_is_performed_first_and_voiced_later_is_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(data, "SHARD_TEXTS", 3)
    performed = data.perform("sound", 1)
    assert {one.voice for one in performed} == set(range(len(VOICES)))
    data.write_scores(tmp_path / "0000001.npz", performed)
    again = data.read_scores(tmp_path / "0000001.npz")
    for one, other in zip(performed, again, strict=True):
        assert (one.text, one.voice) == (other.text, other.voice)
        assert one.semantic.tolist() == other.semantic.tolist()
        assert one.score.n_samples == other.score.n_samples
        assert one.score.melodies == other.score.melodies
        np.testing.assert_allclose(
            one.score.parameters, other.score.parameters, rtol=2e-3, atol=1e-3
        )
    data.write_shard(tmp_path, "sound", 1, again, "cpu")
    loaded = data.load(tmp_path, "sound")
    assert len(loaded) == len(performed)
    for index, one in enumerate(performed):
        assert len(loaded.audio_of(index)) == one.score.n_samples

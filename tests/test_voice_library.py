"""Laws of the library: one's own voices change whole or not at all; nothing is overwritten."""

from __future__ import annotations

import os
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bark_core.config import BARK_LAYOUT
from bark_core.errors import (
    DownloadError,
    InvalidSetting,
    InvalidVoice,
    LayoutMismatch,
    StorageError,
    UnknownVoice,
)
from bark_core.npz import npz_bytes
from bark_core.voice_library import KEEP_DELETED_S, VoiceLibrary
from bark_core.voice_names import free_name, valid_name
from bark_core.voices import KEYS, MIN_VOICE_S, load_voice
from tests.test_voices import PUBLISHED_FILES, ROOT, arrays, load, make_voice
from tests.tiny import TINY_LAYOUT

BUNDLED = {"rosa", "greta", "pia", "ralf", "bruno", "tim", "angus"}


@pytest.fixture
def library(tmp_path: Path) -> VoiceLibrary:
    """The bundled voices, of the tiny layout, of which rosa's file is there."""
    presets = tmp_path / "presets"
    (presets / "voices").mkdir(parents=True)
    catalogue = (ROOT / "presets/voices.toml").read_text(encoding="utf-8")
    catalogue = catalogue.replace('layout = "pup-2"', 'layout = "tiny"')
    (presets / "voices.toml").write_text(catalogue, encoding="utf-8")
    make_voice(source="the training").save(presets / "voices" / "rosa.npz")
    return VoiceLibrary(
        presets_dir=presets,
        user_dir=tmp_path / "mine",
        layouts=lambda: {"bark": BARK_LAYOUT, "tiny": TINY_LAYOUT},
    )


def test_catalogue_has_every_published_voice(tmp_path: Path) -> None:
    library = VoiceLibrary.default(tmp_path / "mine")
    published = [e for e in library.entries("bark") if e.source == "published"]
    assert len(published) == 1 + 2 * 130
    assert {e.language for e in published} == set(library.languages)
    assert library.languages["de"] == "Deutsch"
    by_name = {e.name: e for e in published}
    assert by_name["announcer"].kind == "announcer"
    assert by_name["zh_speaker_9"].kind == "v1" and by_name["v2/zh_speaker_0"].language == "zh"
    assert by_name["v2/en_speaker_9"].description == "a woman"
    assert not any(e.available for e in published)
    assert {e.name for e in library.entries("pup-2")} == BUNDLED
    assert not (tmp_path / "mine").exists()


def test_bundled_voice_is_loaded_with_its_notes(library: VoiceLibrary) -> None:
    voice = library["rosa"]
    assert (voice.name, voice.language) == ("rosa", "en")
    assert "woman" in (voice.description or "")
    assert voice.source == "the training" and voice.layout is TINY_LAYOUT
    available = {e.name: e.available for e in library.entries("tiny")}
    assert available == {name: name == "rosa" for name in BUNDLED}
    with pytest.raises(UnknownVoice, match=r"ralf\.npz"):
        library["ralf"]


def test_unknown_voice_names_the_closest(library: VoiceLibrary) -> None:
    with pytest.raises(UnknownVoice, match=r"no voice 'v2/en_9'; closest: .*'v2/en_speaker_9'"):
        library["v2/en_9"]
    with pytest.raises(UnknownVoice, match="closest: 'rosa'"):
        library["Rosa"]
    for name in ("qqqqqqqq", "", "x" * 10_000, "../../etc/passwd", "\0", "\ud800"):
        with pytest.raises(UnknownVoice, match="no voice"):
            library[name]


def test_own_voice_is_saved_listed_loaded_and_deleted(library: VoiceLibrary) -> None:
    voice = make_voice(language="de", description="me", kind="cloned")
    entry = library.save(voice, "My voice.2")
    assert entry.source == "yours" and entry.available and entry.layout == "tiny"
    assert entry in library.entries("tiny") and entry not in library.entries("bark")
    assert "My voice.2" in library and "My voice.2" in library.names()
    again = library["My voice.2"]
    assert again.sha256 == voice.sha256 and again.name == "My voice.2"
    assert (again.language, again.description, again.kind) == ("de", "me", "cloned")
    n_before = len(library)
    library.delete("My voice.2")
    assert "My voice.2" not in library and len(list(library)) == n_before - 1
    with pytest.raises(UnknownVoice):
        library.delete("My voice.2")


def test_taken_names_are_refused(library: VoiceLibrary) -> None:
    library.save(make_voice(), "Anna")
    for name in ("Anna", "anna", "ROSA", "Announcer"):
        with pytest.raises(InvalidVoice, match="is taken by"):
            library.save(make_voice(), name)
    with pytest.raises(InvalidVoice, match="is taken by"):
        library.save(make_voice(), "anna", replace_own=True)
    other = make_voice(n_semantic=31)
    library.save(other, "Anna", replace_own=True)
    assert library["Anna"].sha256 == other.sha256


def test_only_ones_own_can_be_deleted(library: VoiceLibrary) -> None:
    for name in ("rosa", "announcer"):
        with pytest.raises(InvalidVoice, match="only your own"):
            library.delete(name)
    assert library["rosa"]


@pytest.mark.parametrize(
    "name", ["a", "Änne 好", "हिन्दी", "x" * 64, "a.b-c_d 1", "console", "e\u0301"]
)
def test_good_names_are_kept(name: str, library: VoiceLibrary) -> None:
    entry = library.save(make_voice(), name)
    assert entry.name == valid_name(name) in library


@pytest.mark.parametrize(
    "name",
    [
        "", " ", ".", "..", ".hidden", "a.", " a", "a ", "a/b", "a\\b", "../a", "C:a", "a\0", "a\n",
        "a*", "a?", 'a"', "<a>", "a|b", "con", "NUL", "com1.txt", "Lpt9", "aux .x", "x" * 65,
        "\u0301a", "\ud800", "a\u202eb", "𝒜" * 64, "v2/en_speaker_6", None, 5,
    ],
)  # fmt: skip
def test_bad_names_are_refused(name: str, library: VoiceLibrary, tmp_path: Path) -> None:
    with pytest.raises(InvalidVoice, match="name"):
        library.save(make_voice(), name)
    assert not (tmp_path / "mine").exists()


def test_damaged_own_file_is_listed_as_such(library: VoiceLibrary, tmp_path: Path) -> None:
    library.save(make_voice(), "good")
    (tmp_path / "mine" / "bad.npz").write_bytes(b"junk")
    (tmp_path / "mine" / "rosa.npz").write_bytes(b"in the way of a bundled voice")
    (tmp_path / "mine" / "notes.txt").write_text("not a voice")
    own = {e.name: e for e in library.entries() if e.source == "yours"}
    assert set(own) == {"good", "bad"}
    assert not own["bad"].available
    assert (own["bad"].description or "").startswith("damaged")
    with pytest.raises(InvalidVoice, match=r"bad\.npz"):
        library["bad"]
    library.delete("bad")
    assert "bad" not in library


def test_voice_of_a_model_that_is_not_here(library: VoiceLibrary) -> None:
    library.save(make_voice(replace(TINY_LAYOUT, name="elsewhere")), "far")
    with pytest.raises(LayoutMismatch, match="'elsewhere', which isn't here"):
        library["far"]


def test_published_voice_is_fetched_when_asked_for(library: VoiceLibrary, tmp_path: Path) -> None:
    asked: list[str] = []

    def fetch(name: str) -> Path:
        asked.append(name)
        path = tmp_path / Path(name).name
        np.save(path, next(a for k, a in arrays().items() if path.stem.endswith(k)))
        return path

    online = VoiceLibrary(
        presets_dir=ROOT / "presets", user_dir=tmp_path / "mine",
        layouts=lambda: {"bark": BARK_LAYOUT}, fetch=fetch,
    )  # fmt: skip
    assert all(entry.available for entry in online.entries("bark"))
    assert "v2/en_speaker_6" in online and not asked
    voice = online["v2/en_speaker_6"]
    assert asked == [f"speaker_embeddings/v2/en_speaker_6_{key}.npy" for key in KEYS]
    assert voice.sha256 == load(npz_bytes(arrays())).sha256
    assert (voice.name, voice.language, voice.kind) == ("v2/en_speaker_6", "en", "v2")
    with pytest.raises(UnknownVoice, match="downloads are off"):
        library["v2/en_speaker_6"]


def test_failed_fetch_is_typed(tmp_path: Path) -> None:
    def fetch(name: str) -> Path:
        raise ConnectionError("no route")

    library = VoiceLibrary.default(tmp_path, fetch=fetch)
    with pytest.raises(StorageError, match="can't fetch the voice 'announcer': no route"):
        library["announcer"]


@pytest.mark.parametrize("text", ["", "x =", "[languages]\n[bundled]\n", "languages = 1", "\xff"])
def test_damaged_catalogue_is_named(text: str, tmp_path: Path) -> None:
    (tmp_path / "voices.toml").write_bytes(text.encode("latin-1"))
    with pytest.raises(StorageError, match=r"voices\.toml"):
        VoiceLibrary(presets_dir=tmp_path, user_dir=tmp_path, layouts=dict)


def test_missing_catalogue_is_named(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="missing"):
        VoiceLibrary(presets_dir=tmp_path, user_dir=tmp_path, layouts=dict)


# renaming, describing


def test_rename_keeps_all_but_the_name(library: VoiceLibrary, tmp_path: Path) -> None:
    voice = make_voice(description="me", language="de", kind="cloned")
    library.save(voice, "Anna")
    entry = library.rename("Anna", "Berta")
    assert (entry.name, entry.language, entry.description) == ("Berta", "de", "me")
    assert "Anna" not in library and library["Berta"].sha256 == voice.sha256
    # the file says so itself, wherever it goes
    assert load_voice(tmp_path / "mine" / "Berta.npz", layout=TINY_LAYOUT).name == "Berta"
    assert library.rename("Berta", "berta").name == "berta"
    assert sorted(path.name for path in (tmp_path / "mine").iterdir()) == ["berta.npz"]
    assert library.rename("berta", "berta") == library.entry("berta")


def test_rename_never_overwrites(library: VoiceLibrary) -> None:
    library.save(make_voice(), "Anna")
    library.save(make_voice(n_semantic=31), "Berta")
    for taken in ("Berta", "berta", "rosa", "ANNOUNCER"):
        with pytest.raises(InvalidVoice, match="is taken by"):
            library.rename("Anna", taken)
    for bad in ("", "a/b", "../x", "con"):
        with pytest.raises(InvalidVoice, match="name"):
            library.rename("Anna", bad)
    for foreign in ("rosa", "announcer"):
        with pytest.raises(InvalidVoice, match="only your own can be renamed"):
            library.rename(foreign, "Carla")
    with pytest.raises(UnknownVoice):
        library.rename("nobody", "Carla")
    assert library["Anna"].sha256 == make_voice().sha256
    assert library["Berta"].sha256 == make_voice(n_semantic=31).sha256


def test_describe_writes_what_is_given_and_leaves_the_rest(library: VoiceLibrary) -> None:
    library.save(make_voice(description="me", kind="cloned"), "Anna")
    library.describe("Anna", language="de")
    voice = library["Anna"]
    assert (voice.description, voice.language, voice.kind) == ("me", "de", "cloned")
    entry = library.describe("Anna", description="", kind="warm")
    assert (entry.description, entry.language, entry.kind) == (None, "de", "warm")
    assert library["Anna"].sha256 == make_voice().sha256


@pytest.mark.parametrize(
    "notes",
    [
        {"language": "deutsch"}, {"language": "DE"}, {"language": "../"}, {"language": "d"},
        {"kind": "x" * 41}, {"description": "x" * 2001},
    ],
)  # fmt: skip
def test_bad_notes_are_refused(notes: dict[str, str], library: VoiceLibrary) -> None:
    library.save(make_voice(description="me"), "Anna")
    with pytest.raises(InvalidVoice):
        library.describe("Anna", **notes)
    assert library["Anna"].description == "me"
    with pytest.raises(InvalidVoice, match="only your own can be described"):
        library.describe("rosa", description="mine")


# cutting


def seconds_of(voice: Any) -> tuple[float, float]:
    return voice.semantic.duration_s, voice.fine.duration_s


@given(st.floats(0, 1), st.floats(0, 1), st.integers(60, 700), st.booleans())
def test_a_cut_is_a_voice_of_that_length(
    one: float, other: float, n_semantic: int, bark: bool
) -> None:
    voice = make_voice(BARK_LAYOUT if bark else TINY_LAYOUT, n_semantic)
    from_s, to_s = (share * voice.duration_s for share in sorted((one, other)))
    if to_s - from_s < MIN_VOICE_S:
        with pytest.raises(InvalidSetting, match="at least"):
            voice.cut(from_s, to_s)
        return
    part = voice.cut(from_s, to_s)
    for length in seconds_of(part):
        assert length == pytest.approx(to_s - from_s, abs=0.06)
    assert part.coarse.n_frames == part.fine.n_frames
    # what is kept is what sounded there, and it is read back untrimmed
    first = round(from_s * voice.layout.semantic_rate_hz)
    kept = voice.semantic.values[first : first + len(part.semantic)]
    assert np.array_equal(part.semantic.values, kept)
    start = round(first * voice.layout.frames_per_semantic)
    assert np.array_equal(
        part.fine.values, voice.fine.values[:, start : start + part.fine.n_frames]
    )
    assert load_voice(part.to_bytes(), layout=part.layout).sha256 == part.sha256


def test_the_whole_is_a_cut_too() -> None:
    voice = make_voice(BARK_LAYOUT, 158)
    assert seconds_of(voice.cut(0, voice.duration_s)) == pytest.approx(seconds_of(voice), abs=0.03)


@pytest.mark.parametrize(
    ("from_s", "to_s"),
    [
        (0.0, 0.49), (1.0, 1.0), (1.5, 1.0), (-0.1, 1.0), (0.0, 99.0), (float("nan"), 1.0),
        (0.0, float("inf")), ("0", 1.0), (None, 1.0), (True, 1.0),
    ],
)  # fmt: skip
def test_bad_cuts_are_refused(from_s: Any, to_s: Any) -> None:
    with pytest.raises(InvalidSetting):
        make_voice(n_semantic=100).cut(from_s, to_s)


def test_trim_makes_a_new_voice_or_replaces_when_told(library: VoiceLibrary) -> None:
    whole = make_voice(n_semantic=120, description="me")
    library.save(whole, "Anna")
    library.trim("Anna", 0.5, 1.5, save_as="Anna short")
    assert library["Anna"].sha256 == whole.sha256
    assert library["Anna short"].duration_s == pytest.approx(1.0, abs=0.05)
    assert library["Anna short"].description == "me"
    with pytest.raises(InvalidVoice, match="is taken by"):
        library.trim("Anna", 0.5, 1.5, save_as="Anna")
    library.trim("Anna", 0.0, 1.0, save_as="Anna", replace_own=True)
    assert library["Anna"].duration_s == pytest.approx(1.0, abs=0.05)
    # of one that isn't one's own, too
    library.trim("rosa", 0.0, 0.5, save_as="A little of Rosa")
    with pytest.raises(InvalidVoice, match="is taken by"):
        library.trim("rosa", 0.0, 0.5, save_as="rosa", replace_own=True)


@pytest.mark.skipif(not PUBLISHED_FILES, reason="BARK_STUDIO_VOICES names no published voices")
@pytest.mark.parametrize("path", PUBLISHED_FILES, ids=lambda path: path.stem)
def test_a_published_voice_is_cut(path: Path) -> None:
    voice = load_voice(path, layout=BARK_LAYOUT)
    for from_s, to_s in ((0.0, 1.0), (voice.duration_s - 1.0, voice.duration_s), (0.7, 2.9)):
        part = voice.cut(from_s, to_s)
        assert part.duration_s == pytest.approx(to_s - from_s, abs=0.06)
        assert load_voice(part.to_bytes(), layout=BARK_LAYOUT).sha256 == part.sha256


# searching


def test_search_looks_everywhere_and_filters(library: VoiceLibrary) -> None:
    library.save(make_voice(description="my own uncle", language="de", kind="cloned"), "Otto")

    def names(words: str = "", **filters: str) -> list[str]:
        return [entry.name for entry in library.search(words, **filters)]

    assert len(names()) == len(library)
    assert names("UNCLE") == ["Otto"] == names("otto own", layout="tiny")
    assert set(names("german", source="yours")) == {"Otto"} == set(names("deutsch yours"))
    assert names("speaker 7", language="pl") == ["v2/pl_speaker_7", "pl_speaker_7"]
    assert names("woman", layout="tiny") == ["rosa", "greta", "pia"]
    assert len(names(kind="v2")) == 130 and len(names(source="published")) == 261
    assert names("nobody at all") == [] == names(kind="none")


def test_a_changed_file_is_looked_at_again(library: VoiceLibrary, tmp_path: Path) -> None:
    library.save(make_voice(description="one"), "Anna")
    assert library.entry("Anna").description == "one"
    make_voice(description="another one").save(tmp_path / "mine" / "Anna.npz")
    assert library.entry("Anna").description == "another one"


# deleting, and back


def test_a_deleted_voice_comes_back(library: VoiceLibrary) -> None:
    voice = make_voice(description="me")
    library.save(voice, "Anna")
    library.delete("Anna")
    assert library.deleted() == ["Anna"]
    assert library.restore("Anna").description == "me"
    assert library["Anna"].sha256 == voice.sha256 and library.deleted() == []
    for name in ("Anna", "nobody", "", "../Anna", "\ud800"):
        with pytest.raises(UnknownVoice, match="was deleted"):
            library.restore(name)


def test_coming_back_never_overwrites(library: VoiceLibrary) -> None:
    library.save(make_voice(), "Anna")
    library.delete("Anna")
    other = make_voice(n_semantic=31)
    library.save(other, "anna")
    with pytest.raises(InvalidVoice, match="is taken by 'anna'"):
        library.restore("Anna")
    assert library["anna"].sha256 == other.sha256


def test_deleted_ones_are_forgotten_after_a_week(library: VoiceLibrary, tmp_path: Path) -> None:
    for name in ("old", "new"):
        library.save(make_voice(), name)
    library.delete("old")
    then = time.time() - KEEP_DELETED_S - 60
    os.utime(tmp_path / "mine" / ".deleted" / "old.npz", (then, then))
    library.delete("new")
    assert library.deleted() == ["new"]


# files, names


def test_files_of_any_known_layout_are_read(library: VoiceLibrary, tmp_path: Path) -> None:
    path = tmp_path / "someone.npz"
    path.write_bytes(npz_bytes(arrays()))
    assert library.read(path).layout is BARK_LAYOUT
    assert library.read(path).name == "someone"
    assert library.read(make_voice().to_bytes(), name="x").layout is TINY_LAYOUT
    with pytest.raises(LayoutMismatch, match="'elsewhere', which isn't here"):
        library.read(make_voice(replace(TINY_LAYOUT, name="elsewhere")).to_bytes())
    with pytest.raises(InvalidVoice):
        library.read(b"junk")


@given(st.text(max_size=100))
def test_a_free_name_is_always_a_valid_one(wanted: str) -> None:
    name = free_name(wanted, set())
    assert valid_name(name) == name
    again = free_name(wanted, {name.casefold()})
    assert valid_name(again) == again and again.casefold() != name.casefold()


def test_free_names_are_close(library: VoiceLibrary) -> None:
    assert library.free_name("Anna") == "Anna"
    assert library.free_name("Rosa") == "Rosa 2"
    assert library.free_name("v2/en_speaker_6") == "v2 en_speaker_6"
    assert library.free_name("") == "voice" and library.free_name("con") == "voice con"


def test_what_is_here_needs_no_network(library: VoiceLibrary, tmp_path: Path) -> None:
    def unreachable(name: str) -> Path:
        raise DownloadError("no network")

    offline = VoiceLibrary(
        presets_dir=ROOT / "presets", user_dir=tmp_path / "mine",
        layouts=lambda: {"bark": BARK_LAYOUT}, fetch=unreachable, cached=unreachable,
    )  # fmt: skip
    assert offline.here("announcer") is None
    with pytest.raises(DownloadError):
        offline["announcer"]
    assert library.here("announcer") is None
    rosa = library.here("rosa")
    assert rosa is not None and rosa.name == "rosa"
    with pytest.raises(UnknownVoice):
        library.here("nobody")

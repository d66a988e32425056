"""Laws of archives: all segments come back as they were, what is damaged is refused by name."""

from __future__ import annotations

import io
import os
import sys
import tracemalloc
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from bark_core.archive import MAX_SEGMENTS, archive_bytes, read_segments, write_segments
from bark_core.cascade import Cascade
from bark_core.config import BARK_LAYOUT
from bark_core.errors import (
    BarkError,
    InvalidTokens,
    InvalidVoice,
    LayoutMismatch,
    StorageError,
    UnknownVoice,
)
from bark_core.npz import npz_bytes
from bark_core.request import GenerationRequest, SemanticParams, Settings
from bark_core.tokens import CoarseCodes, FineCodes, SemanticTokens
from bark_core.voices import Voice
from tests.tiny import TINY_LAYOUT

STEADY = Settings(semantic=SemanticParams(allow_early_stop=False, max_duration_s=0.3))


def a_voice(seed: int = 0, n_semantic: int = 20, n_frames: int = 30) -> Voice:
    draw = np.random.default_rng(seed).integers
    fine = FineCodes(draw(0, 16, (8, n_frames)), TINY_LAYOUT)
    # coarse codes of their own: those of a voice file may differ from its fine ones
    coarse = CoarseCodes(draw(0, 16, (2, n_frames)), TINY_LAYOUT)
    return Voice(SemanticTokens(draw(0, 20, n_semantic), TINY_LAYOUT), coarse, fine)


def arrays(n_segments: int = 3) -> dict[str, NDArray[Any]]:
    voices = [a_voice(seed, 2 + seed, 3 + seed) for seed in range(n_segments)]
    return {
        "semantic": np.concatenate([voice.semantic.values for voice in voices]),
        "coarse": np.concatenate([voice.coarse.values for voice in voices], axis=1),
        "fine": np.concatenate([voice.fine.values for voice in voices], axis=1),
        "n_semantic": np.array([len(voice.semantic) for voice in voices]),
        "n_frames": np.array([voice.fine.n_frames for voice in voices]),
        "layout": np.array("tiny"),
    }


def read(data: bytes) -> tuple[Voice, ...]:
    return read_segments(data, layout=TINY_LAYOUT)


@pytest.mark.parametrize("n_segments", [1, 2, 40])
def test_what_is_written_is_read_back(n_segments: int, tmp_path: Path) -> None:
    voices = [a_voice(seed, 1 + seed % 7, 1 + seed % 5) for seed in range(n_segments)]
    write_segments(tmp_path / "a.npz", voices)
    again = read_segments(tmp_path / "a.npz", layout=TINY_LAYOUT)
    assert [voice.sha256 for voice in again] == [voice.sha256 for voice in voices]


def test_the_words_of_a_result_can_be_kept_from_its_archive(
    tiny_cascade: Cascade, tmp_path: Path
) -> None:
    text = "Hello the cat. The dog sat down."
    made = tiny_cascade.generate(GenerationRequest(text, seed=1, settings=STEADY))
    assert len(made.segments) > 1
    write_segments(tmp_path / "a.npz", made.segments)
    voices = read_segments(tmp_path / "a.npz", layout=TINY_LAYOUT)
    assert [v.sha256 for v in voices] == [v.sha256 for v in made.voices]
    words = tuple(voice.semantic for voice in voices)
    again = tiny_cascade.generate(GenerationRequest(text, None, 1, STEADY, words=words))
    assert np.array_equal(again.audio.samples, made.audio.samples)


def test_same_segments_same_bytes() -> None:
    assert archive_bytes([a_voice(1), a_voice(2)]) == archive_bytes([a_voice(1), a_voice(2)])
    assert archive_bytes([a_voice(1), a_voice(2)]) != archive_bytes([a_voice(2), a_voice(1)])


def test_path_bytes_and_file_are_the_same(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    write_segments(path, [a_voice()])
    with path.open("rb") as file:
        ways = [read_segments(way, layout=TINY_LAYOUT) for way in (path, str(path), file)]
    assert {voices[0].sha256 for voices in ways} == {a_voice().sha256}


def test_a_voice_file_is_the_archive_of_one_segment(tmp_path: Path) -> None:
    a_voice().save(tmp_path / "old.npz")
    (voice,) = read_segments(tmp_path / "old.npz", layout=TINY_LAYOUT)
    assert voice.sha256 == a_voice().sha256


def test_nothing_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(InvalidTokens, match="no segment"):
        write_segments(tmp_path / "a.npz", [])
    assert not list(tmp_path.iterdir())


def test_segments_of_two_models_are_refused() -> None:
    fine = FineCodes(np.zeros((8, 15), dtype=int), BARK_LAYOUT)
    foreign = Voice(SemanticTokens(np.zeros(10, dtype=int), BARK_LAYOUT), fine.coarse, fine)
    with pytest.raises(LayoutMismatch, match="bark, tiny"):
        archive_bytes([a_voice(), foreign])


def test_an_archive_of_another_model_is_refused() -> None:
    with pytest.raises(LayoutMismatch, match=r"'tiny'.*'bark'"):
        read_segments(archive_bytes([a_voice()]), layout=BARK_LAYOUT)
    other = replace(TINY_LAYOUT, name="other")
    with pytest.raises(LayoutMismatch):
        read_segments(a_voice().to_bytes(), layout=other)


DAMAGED: list[tuple[str, Any, str]] = [
    ("semantic", np.zeros(9, dtype=np.int16) + 20, r"0\.\.19"),
    ("semantic", np.full(9, -1), r"0\.\.19"),
    ("semantic", np.zeros((3, 3), dtype=int), r"shape \[n\]"),
    ("semantic", np.zeros(0, dtype=int), r"n > 0"),
    ("semantic", np.zeros(9), "must hold integers"),
    ("semantic", np.zeros(10, dtype=int), "add up to 9, but 10"),
    ("coarse", np.zeros((3, 12), dtype=int), r"\[2, n\]"),
    ("coarse", np.zeros((2, 11), dtype=int), "add up to 12, but 11"),
    ("fine", np.zeros((8, 13), dtype=int), "add up to 12, but 13"),
    ("fine", np.zeros((8, 12), dtype=int) + 16, r"0\.\.15"),
    ("n_semantic", np.array([9]), "as many segments"),
    ("n_semantic", np.array([9, 0, 0]), "positive"),
    ("n_semantic", np.array([-1, 5, 5]), "positive"),
    ("n_semantic", np.array(9), "positive lengths"),
    ("n_semantic", np.zeros(0, dtype=int), "positive lengths"),
    ("n_semantic", np.array([2**63 - 1, 1, 1]), "add up to"),
    ("n_frames", np.array([2**63, 2**63, 2**63], dtype=np.uint64), "add up to"),
    ("n_frames", np.ones(MAX_SEGMENTS + 1, dtype=np.int8), "100,000 positive"),
    ("n_frames", np.array([[3, 4, 5]]), "positive lengths"),
    ("layout", np.array(["tiny"]), "one string"),
    ("layout", np.array(3), "one string"),
]


@pytest.mark.parametrize(("key", "value", "message"), DAMAGED)
def test_wrong_arrays_are_refused_with_what_is_wrong(key: str, value: Any, message: str) -> None:
    assert len(read(npz_bytes(arrays()))) == 3
    with pytest.raises(InvalidVoice, match=message):
        read(npz_bytes(arrays() | {key: value}))


@pytest.mark.parametrize("key", sorted(arrays()))
def test_missing_arrays_are_named(key: str) -> None:
    with pytest.raises(InvalidVoice, match=f"missing: {key}"):
        read(npz_bytes({name: array for name, array in arrays().items() if name != key}))


@pytest.mark.parametrize("share", np.linspace(0, 0.999, 200))
def test_what_is_cut_off_is_refused(share: float) -> None:
    data = npz_bytes(arrays())
    with pytest.raises(InvalidVoice):
        read(data[: int(share * len(data))])


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), min_size=1, max_size=6),
    st.booleans(),
)
def test_mutated_archive_is_read_or_refused(edits: list[tuple[int, int]], stored: bool) -> None:
    data = bytearray(uncompressed(arrays()) if stored else npz_bytes(arrays()))
    for place, value in edits:
        data[place % len(data)] = value
    try:
        voices = read(bytes(data))
    except (InvalidVoice, LayoutMismatch):
        return
    assert sum(len(voice.semantic) for voice in voices) == 9


def uncompressed(members: dict[str, NDArray[Any]]) -> bytes:
    """As numpy's own writer makes them: edits reach the arrays."""
    buffer = io.BytesIO()
    np.savez(buffer, **members)  # type: ignore[arg-type]
    return buffer.getvalue()


def test_a_bomb_is_refused_unopened() -> None:
    bomb = npz_bytes(arrays() | {"fine": np.zeros((8, 6 * 2**20), dtype=np.int8)})
    assert len(bomb) < 2**17
    tracemalloc.start()
    try:
        with pytest.raises(InvalidVoice, match="claims 50,"):
            read(bomb)
        assert tracemalloc.get_traced_memory()[1] < 2**20
    finally:
        tracemalloc.stop()


def test_a_file_without_end_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "large.npz"
    with path.open("wb") as file:
        file.write(b"PK\x03\x04")
        file.truncate(2**31)  # sparse
    with pytest.raises(InvalidVoice, match="more than"):
        read_segments(path, layout=TINY_LAYOUT)


def test_a_path_that_is_no_archive_is_named(tmp_path: Path) -> None:
    with pytest.raises(UnknownVoice, match=r"gone\.npz"):
        read_segments(tmp_path / "gone.npz", layout=TINY_LAYOUT)
    with pytest.raises(InvalidVoice, match="isn't a file"):
        read_segments(tmp_path, layout=TINY_LAYOUT)
    with pytest.raises(UnknownVoice):
        read_segments("a\0b.npz", layout=TINY_LAYOUT)
    (tmp_path / "bad.npz").write_bytes(b"PK\x03\x04 nothing")
    with pytest.raises(InvalidVoice, match=r"bad\.npz: .*damaged"):
        read_segments(tmp_path / "bad.npz", layout=TINY_LAYOUT)


@pytest.mark.skipif(sys.platform == "win32", reason="has no named pipes in folders")
def test_a_pipe_is_refused_without_waiting(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.npz")
    with pytest.raises(InvalidVoice, match="isn't a file"):
        read_segments(tmp_path / "pipe.npz", layout=TINY_LAYOUT)


def test_files_that_cannot_be_read_are_typed() -> None:
    closed = io.BytesIO()
    closed.close()
    with pytest.raises(StorageError, match="give it again"):
        read_segments(closed, layout=TINY_LAYOUT)
    text: Any = io.StringIO("PK")
    with pytest.raises(InvalidVoice, match="binary mode"):
        read_segments(text, layout=TINY_LAYOUT)


def test_a_folder_that_is_not_there_is_typed(tmp_path: Path) -> None:
    with pytest.raises(BarkError):
        write_segments(tmp_path / "none" / "a.npz", [a_voice()])

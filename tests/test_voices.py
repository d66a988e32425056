"""Laws of voices: what is saved is read back, what is unsafe is refused, always by name."""

from __future__ import annotations

import io
import os
import pickle
import struct
import sys
import time
import tracemalloc
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from bark_core.config import BARK_LAYOUT, TokenLayout
from bark_core.errors import (
    InvalidVoice,
    LayoutMismatch,
    StorageError,
    UnknownVoice,
)
from bark_core.npz import npz_bytes
from bark_core.tokens import CoarseCodes, FineCodes, SemanticTokens
from bark_core.voices import (
    KEYS,
    MAX_MISFIT_FRAMES,
    Voice,
    load_voice,
    load_voice_npy,
)
from tests.tiny import TINY_LAYOUT

ROOT = Path(__file__).resolve().parent.parent
# a folder of Suno's published voice files, for whoever has one
PUBLISHED = os.environ.get("BARK_STUDIO_VOICES")
PUBLISHED_FILES = sorted(Path(PUBLISHED).glob("**/*.npz")) if PUBLISHED else []


def arrays(
    n_semantic: int = 60, n_frames: int | None = None, layout: TokenLayout = BARK_LAYOUT
) -> dict[str, NDArray[Any]]:
    """Random arrays of a voice that fits `layout`."""
    n_frames = int(n_semantic * layout.frames_per_semantic) if n_frames is None else n_frames
    random = np.random.default_rng(n_semantic)
    fine = random.integers(0, layout.codebook_size, (layout.n_codebooks, n_frames))
    return {
        "semantic_prompt": random.integers(0, layout.semantic_vocab, n_semantic),
        "coarse_prompt": fine[: layout.n_coarse_codebooks].copy(),
        "fine_prompt": fine,
    }


def make_voice(layout: TokenLayout = TINY_LAYOUT, n_semantic: int = 30, **notes: Any) -> Voice:
    semantic, coarse, fine = arrays(n_semantic, layout=layout).values()
    return Voice(
        SemanticTokens(semantic, layout), CoarseCodes(coarse, layout), FineCodes(fine, layout),
        **notes,
    )  # fmt: skip


def short(value: object) -> str:
    """The id of a test's parameter; files of megabytes would make megabytes of it."""
    return value if isinstance(value, str) else f"{len(value)} bytes"  # type: ignore[arg-type]


def load(data: bytes, layout: TokenLayout = BARK_LAYOUT) -> Voice:
    return load_voice(data, layout=layout)


def npy(array: NDArray[Any], *, allow_pickle: bool = False) -> bytes:
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, array, allow_pickle=allow_pickle)
    return buffer.getvalue()


def npy_header(descr: str, shape: str, *, fortran: str = "False", body: bytes = b"") -> bytes:
    """An .npy file whose header says what it likes."""
    text = f"{{'descr': {descr}, 'fortran_order': {fortran}, 'shape': {shape}, }}\n".encode()
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text + body


def archive(members: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as file:
        for name, data in members.items():
            file.writestr(name, data)
    return buffer.getvalue()


def with_member(key: str, data: bytes, compression: int = zipfile.ZIP_STORED) -> bytes:
    """A voice with one member replaced by raw bytes."""
    members = {f"{name}.npy": npy(array) for name, array in arrays().items()}
    return archive({**members, f"{key}.npy": data}, compression)


# what is read back


def test_saved_is_read_back_the_same(tmp_path: Path) -> None:
    notes: dict[str, Any] = {
        "name": "Änne 好", "description": 'says "hi"', "language": "de",
        "source": "a test", "kind": "cloned",
    }  # fmt: skip
    voice = make_voice(**notes)
    voice.save(tmp_path / "a.npz")
    again = load_voice(tmp_path / "a.npz", layout=TINY_LAYOUT)
    assert again.sha256 == voice.sha256
    assert {key: getattr(again, key) for key in notes} == notes
    assert again.layout.name == "tiny"
    assert np.array_equal(again.fine.values, voice.fine.values)
    assert again.duration_s == pytest.approx(voice.fine.n_frames / 75)
    assert [path.name for path in tmp_path.iterdir()] == ["a.npz"]


def test_same_voice_same_bytes() -> None:
    assert make_voice().to_bytes() == make_voice().to_bytes()


def test_numpy_reads_what_is_saved(tmp_path: Path) -> None:
    make_voice().save(tmp_path / "a.npz")
    with np.load(tmp_path / "a.npz", allow_pickle=False) as file:
        assert set(file.files) == {*KEYS, "layout", "metadata"}
        assert all(file[key].dtype == np.int16 for key in KEYS)
        assert str(file["layout"]) == "tiny"


def test_hash_depends_on_tokens_and_layout_only() -> None:
    voice = make_voice()
    assert replace(voice, name="x", description="y").sha256 == voice.sha256
    assert make_voice(n_semantic=31).sha256 != voice.sha256
    other = replace(TINY_LAYOUT, name="other")
    assert make_voice(other).sha256 != voice.sha256


@pytest.mark.parametrize("dtype", ["<i8", ">i8", "<i4", "<u2", ">u2", "<i2", "<u4"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_any_integers_give_the_same_voice(dtype: str, order: Any) -> None:
    reference = load(npz_bytes(arrays()))
    stored = {key: np.asarray(array, dtype=dtype, order=order) for key, array in arrays().items()}
    for data in (npz_bytes(stored), archive({f"{k}.npy": npy(a) for k, a in stored.items()})):
        assert load(data).sha256 == reference.sha256


def test_codes_of_bytes_are_read() -> None:
    tiny = arrays(30, layout=TINY_LAYOUT) | {"layout": np.array("tiny")}
    stored = {k: a.astype("u1") if a.dtype.kind == "i" else a for k, a in tiny.items()}
    assert load(npz_bytes(stored), TINY_LAYOUT).sha256 == make_voice().sha256


def test_path_bytes_and_file_are_the_same(tmp_path: Path) -> None:
    path = tmp_path / "someone.npz"
    path.write_bytes(npz_bytes(arrays()))
    voices = [load_voice(s, layout=BARK_LAYOUT) for s in (path, str(path), path.read_bytes())]
    with path.open("rb") as file:
        voices.append(load_voice(file, layout=BARK_LAYOUT))
    assert len({voice.sha256 for voice in voices}) == 1
    assert voices[0].name == "someone" and voices[2].name == ""
    assert load_voice(path, layout=BARK_LAYOUT, name="given").name == "given"


def test_more_keys_and_odd_notes_do_no_harm() -> None:
    extra = {
        "speaker": np.array([1.5, 2.5]),
        "metadata": np.array(["not", "one", "string"]),
        "z": np.array("x" * 10),
    }
    voice = load(npz_bytes({**arrays(), **extra}))
    assert voice.sha256 == load(npz_bytes(arrays())).sha256
    assert voice.description is None
    for notes in ("[1]", "{", '{"name": 5, "description": "a\\u0000b\\ud800"}', "[" * 20_000):
        assert load(npz_bytes({**arrays(), "metadata": np.array(notes)})).name == ""


def test_coarse_of_its_own_is_kept() -> None:
    stored = arrays()
    stored["coarse_prompt"] = stored["coarse_prompt"][::-1].copy()
    assert np.array_equal(load(npz_bytes(stored)).coarse.values, stored["coarse_prompt"])


@pytest.mark.skipif(not PUBLISHED_FILES, reason="BARK_STUDIO_VOICES names no published voices")
@pytest.mark.parametrize("path", PUBLISHED_FILES, ids=lambda path: path.stem)
def test_published_voice_is_read_untrimmed(path: Path, tmp_path: Path) -> None:
    voice = load_voice(path, layout=BARK_LAYOUT)
    with np.load(path) as reference:
        values = voice.semantic.values, voice.coarse.values, voice.fine.values
        for key, array in zip(KEYS, values, strict=True):
            assert np.array_equal(array, reference[key])
            np.save(tmp_path / f"{key}.npy", reference[key])
    parts = [tmp_path / f"{key}.npy" for key in KEYS]
    assert load_voice_npy(*parts, layout=BARK_LAYOUT, name="x").sha256 == voice.sha256
    with pytest.raises(LayoutMismatch, match="'small' or 'large'"):
        load_voice(path, layout=TINY_LAYOUT)


# what is trimmed


@pytest.mark.parametrize("n_semantic", [1, 2, 5, 60, 400])
@pytest.mark.parametrize("excess", range(-MAX_MISFIT_FRAMES, MAX_MISFIT_FRAMES + 1))
def test_a_few_frames_too_many_are_trimmed(n_semantic: int, excess: int) -> None:
    ratio = BARK_LAYOUT.frames_per_semantic
    n_frames = int(n_semantic * ratio) + excess
    if n_frames < 1 or abs(n_frames - n_semantic * ratio) > MAX_MISFIT_FRAMES:
        return
    stored = arrays(n_semantic, n_frames)
    voice = load(npz_bytes(stored))
    n_kept, frames_kept = len(voice.semantic), voice.fine.n_frames
    assert voice.coarse.n_frames == frames_kept
    assert abs(frames_kept - n_kept * ratio) <= 0.76 or round(frames_kept / n_kept, 1) == 1.5
    assert n_kept == n_semantic or frames_kept == n_frames
    assert np.array_equal(voice.semantic.values, stored["semantic_prompt"][:n_kept])
    assert np.array_equal(voice.fine.values, stored["fine_prompt"][:, :frames_kept])


def test_coarse_and_fine_are_trimmed_to_the_shorter() -> None:
    stored = arrays(60, 90)
    stored["coarse_prompt"] = stored["coarse_prompt"][:, :-3]
    voice = load(npz_bytes(stored))
    assert voice.coarse.n_frames == voice.fine.n_frames == 87
    stored["coarse_prompt"] = stored["coarse_prompt"][:, : 90 - MAX_MISFIT_FRAMES - 1]
    with pytest.raises(InvalidVoice, match="as many frames, got 81 and 90"):
        load(npz_bytes(stored))


def test_a_wrong_ratio_is_refused() -> None:
    with pytest.raises(InvalidVoice, match=r"about 301 frames of codes, got 250"):
        load(npz_bytes(arrays(200, 250)))


# what is refused


def test_wrong_layout_names_the_model_needed() -> None:
    with pytest.raises(
        LayoutMismatch, match=r"'tiny', and this one's is 'bark'; load the model that"
    ):
        load(make_voice().to_bytes())
    with pytest.raises(LayoutMismatch, match="load 'small' or 'large'"):
        load(npz_bytes(arrays()), TINY_LAYOUT)


def test_parts_of_a_voice_must_fit() -> None:
    voice, other = make_voice(), make_voice(replace(TINY_LAYOUT, name="other"))
    with pytest.raises(LayoutMismatch, match="share one layout, got other, tiny"):
        replace(voice, semantic=other.semantic)
    with pytest.raises(InvalidVoice, match="as many frames"):
        replace(voice, fine=make_voice(n_semantic=31).fine)


BAD_ARRAYS: dict[str, tuple[str, Callable[[NDArray[Any]], NDArray[Any]], str]] = {
    "float": ("semantic_prompt", lambda a: a.astype("f8"), "floating point"),
    "nan": ("fine_prompt", lambda a: np.full(a.shape, np.nan), "floating point"),
    "complex": ("coarse_prompt", lambda a: a.astype("c16"), "complex"),
    "bool": ("semantic_prompt", lambda a: a.astype(bool), "booleans"),
    "text": ("semantic_prompt", lambda a: a.astype("U4"), "text"),
    "dates": ("semantic_prompt", lambda a: a.astype("M8[s]"), "header can't be read"),
    "records": ("semantic_prompt", lambda a: a.view("i4,i4"), "header can't be read"),
    "negative": ("semantic_prompt", lambda a: a - 10_000, r"within 0\.\.9999"),
    "too large": ("fine_prompt", lambda a: a + 1024, r"within 0\.\.1023, got 1024"),
    "huge": ("fine_prompt", lambda a: a.astype("u8") + 2**63, r"within 0\.\.1023"),
    "wraps": ("fine_prompt", lambda a: a + 2**16, r"within 0\.\.1023"),
    "empty": ("semantic_prompt", lambda a: a[:0], "n > 0"),
    "no frames": ("fine_prompt", lambda a: a[:, :0], "n > 0"),
    "scalar": ("semantic_prompt", lambda a: a[0], r"shape \[n\]"),
    "flat": ("coarse_prompt", lambda a: a.reshape(-1), r"shape \[2, n\]"),
    "rows": ("fine_prompt", lambda a: a[:7], r"shape \[8, n\]"),
    "turned": ("fine_prompt", lambda a: a.T, r"shape \[8, n\]"),
    "deep": ("fine_prompt", lambda a: a[None], r"shape \[8, n\]"),
}


@pytest.mark.parametrize("case", BAD_ARRAYS)
def test_wrong_array_is_refused(case: str) -> None:
    key, change, message = BAD_ARRAYS[case]
    stored = arrays()
    with pytest.raises(InvalidVoice, match=message):
        load(npz_bytes({**stored, key: change(stored[key])}))


def test_missing_arrays_are_named() -> None:
    stored = arrays()
    del stored["coarse_prompt"], stored["fine_prompt"]
    with pytest.raises(InvalidVoice, match="coarse_prompt, fine_prompt are missing, it has sem"):
        load(npz_bytes(stored))


class Explosive:
    """Unpickling it would be seen."""

    def __reduce__(self) -> tuple[Any, ...]:
        return exec, ("import sys; sys.modules['exploded'] = sys",)


def test_pickles_are_never_opened() -> None:
    explosive = np.array([Explosive()], dtype=object)
    for data in (
        with_member("semantic_prompt", npy(explosive, allow_pickle=True)),
        with_member("semantic_prompt", pickle.dumps(Explosive())),
        with_member("layout", npy(explosive, allow_pickle=True)),
        with_member("layout", npy(np.array(Explosive(), dtype=object), allow_pickle=True)),
        pickle.dumps(Explosive()),
        pickle.dumps(Explosive(), protocol=0),
        npy(explosive, allow_pickle=True),
    ):
        with pytest.raises(InvalidVoice):
            load(data)
    with_notes = with_member("metadata", npy(explosive, allow_pickle=True))
    assert load(with_notes).sha256 == load(npz_bytes(arrays())).sha256
    assert "exploded" not in sys.modules


@pytest.fixture(scope="module")
def bomb() -> bytes:
    """An .npz of 487 KB whose semantic_prompt is 500 MB of zeros."""

    def deflated(data: bytes, flush: int) -> bytes:
        compressor = zlib.compressobj(9, zlib.DEFLATED, -15)
        return compressor.compress(data) + compressor.flush(flush)

    header = npy_header("'<i8'", f"({500 * 10**6 // 8},)")
    block = deflated(bytes(10**7), zlib.Z_FULL_FLUSH)  # such blocks can be repeated
    stream = deflated(header, zlib.Z_FULL_FLUSH) + 50 * block + deflated(b"", zlib.Z_FINISH)
    data = bytearray(with_member("semantic_prompt", stream))
    place = data.index(b"PK\x01\x02")
    size = len(header) + 500 * 10**6
    data[8:10] = data[place + 10 : place + 12] = struct.pack("<H", zipfile.ZIP_DEFLATED)
    data[22:26] = data[place + 24 : place + 28] = struct.pack("<I", size)
    return bytes(data)


def refused_within(data: bytes, *, seconds: float, most_bytes: int) -> str:
    """The message of the refusal, which must be quick and must not allocate much."""
    tracemalloc.start()
    started = time.process_time()
    try:
        with pytest.raises(InvalidVoice) as caught:
            load(data)
        assert time.process_time() - started < seconds
        assert tracemalloc.get_traced_memory()[1] < most_bytes
    finally:
        tracemalloc.stop()
    return str(caught.value)


def test_bomb_is_refused_unopened(bomb: bytes) -> None:
    assert len(bomb) < 600_000
    message = refused_within(bomb, seconds=1, most_bytes=8 * 2**20)
    assert "it claims 500,0" in message


def test_bomb_that_lies_is_cut_off(bomb: bytes) -> None:
    with zipfile.ZipFile(io.BytesIO(bomb)) as file:
        true_size = struct.pack("<I", file.getinfo("semantic_prompt.npy").file_size)
    message = refused_within(
        bomb.replace(true_size, struct.pack("<I", 1000)), seconds=1, most_bytes=24 * 2**20
    )
    assert "damaged" in message


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (npy_header("'<i8'", "(10000000000000,)"), "needs 80,000,000,000,000 bytes, but 0 are"),
        (npy_header("'<i8'", f"({'9' * 30},)"), "shape can't be"),
        (npy_header("'<i8'", "(0, 10000000000000)"), r"shape \[n\]"),
        (npy_header("'<i8'", "(-1,)", body=b"x" * 8), "header can't be read"),
        (npy_header("'<i8'", "(2.0,)", body=b"x" * 16), "header can't be read"),
        (npy_header("'<i8'", "(2,)", body=b"x" * 15), "needs 16 bytes, but 15"),
        (npy_header("'<i8'", "(2,)", body=b"x" * 17), "needs 16 bytes, but 17"),
        (npy_header("'<i8'", "(1,1,1,1,1)", body=b"x" * 8), "shape can't be"),
        (npy_header("'<i3'", "(1,)", body=b"x" * 3), "must hold integers"),
        (npy_header("'<i999999999999'", "(1,)"), "claim 999999999999 bytes"),
        (npy_header("'|O'", "(1,)", body=b"x" * 8), "Python objects"),
        (npy_header("__import__('os')", "(1,)"), "header can't be read"),
        (b"\x93NUMPY\x01\x00\xff\xff{    ", "header claims 65,535"),
        (b"\x93NUMPY\x09\x00\x10\x00" + b" " * 16, "version 9"),
        (b"\x93NUMPY\x02\x00\xff\xff\xff\xff", "header claims"),
        (b"\x93NUM", "something else"),
        (b"", "empty"),
    ],
    ids=short,
)
def test_header_is_not_believed(data: bytes, message: str) -> None:
    with pytest.raises(InvalidVoice, match=message):
        load(with_member("semantic_prompt", data))


def many_members() -> bytes:
    return archive({f"x{index}.npy": b"" for index in range(40)})


def doubled() -> bytes:
    data = npz_bytes({**arrays(), "semantic_prompu": np.zeros(3, int)})
    return data.replace(b"semantic_prompu", b"semantic_prompt")


def encrypted() -> bytes:
    data = bytearray(npz_bytes(arrays()))
    data[data.index(b"PK\x01\x02") + 8] |= 1
    return bytes(data)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "is empty, not an .npz"),
        (b"hello", "something else"),
        (npy(np.arange(3)), r"a single array \(\.npy\)"),
        (b"PK\x03\x04", "truncated or damaged"),
        (npz_bytes(arrays())[:-30], "truncated or damaged"),
        (b"PK\x03\x04" + bytes(3 * 2**20), "more than 2097152 bytes"),
        (many_members(), "more than 32 members"),
        (doubled(), "two members of the same name"),
        (encrypted(), "encrypted"),
        (with_member("fine_prompt", npy(arrays()["fine_prompt"]), zipfile.ZIP_LZMA), "method 14"),
        (with_member("layout", npy(np.array(["a", "b"]))), "must hold one string"),
        (with_member("layout", npy_header("'<U1'", "()", body=b"\xff" * 4)), "isn't Unicode"),
        (with_member("layout", npy_header("'<U99999'", "()")), "needs 399,996 bytes"),
    ],
    ids=short,
)
def test_file_that_is_no_voice_is_refused(data: bytes, message: str) -> None:
    with pytest.raises(InvalidVoice, match=message):
        load(data)


SEEDS = (npz_bytes(arrays(8)), archive({f"{k}.npy": npy(a) for k, a in arrays(8).items()}))


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.sampled_from(SEEDS),
    st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), max_size=6),
    st.integers(0, 10**6),
)
def test_mutated_file_is_read_or_refused(
    seed: bytes, edits: list[tuple[int, int]], cut: int
) -> None:
    data = bytearray(seed)
    for place, value in edits:
        data[place % len(data)] = value
    if cut % 3 == 0:
        del data[cut % len(data) :]
    try:
        voice = load(bytes(data))
    except (InvalidVoice, LayoutMismatch):
        return
    assert voice.semantic.values.max() < 10_000 and voice.fine.values.max() < 1024


@settings(max_examples=80, deadline=None)
@given(st.binary(max_size=200), st.sampled_from([*KEYS, "layout", "metadata"]), st.booleans())
def test_garbage_member_is_read_or_refused(garbage: bytes, key: str, headed: bool) -> None:
    data = npy_header("'<i2'", "(4,)")[:70] + garbage if headed else garbage
    try:
        load(with_member(key, data))
    except (InvalidVoice, LayoutMismatch):
        return
    assert key == "metadata"


def test_checksum_is_checked() -> None:
    data = bytearray(SEEDS[1])
    data[200] ^= 1
    with pytest.raises(InvalidVoice, match="damaged"):
        load(bytes(data))


def test_npy_parts_are_as_strict(tmp_path: Path) -> None:
    paths = [tmp_path / f"{key}.npy" for key in KEYS]
    for path, array in zip(paths, arrays().values(), strict=True):
        np.save(path, array)
    voice = load_voice_npy(*paths, layout=BARK_LAYOUT, name="x")
    assert voice.sha256 == load(npz_bytes(arrays())).sha256
    with pytest.raises(LayoutMismatch):
        load_voice_npy(*paths, layout=TINY_LAYOUT)
    np.save(paths[0], np.array([Explosive()], dtype=object), allow_pickle=True)
    with pytest.raises(InvalidVoice, match=r"semantic_prompt\.npy: .* Python objects"):
        load_voice_npy(*paths, layout=BARK_LAYOUT)
    paths[0].unlink()
    with pytest.raises(UnknownVoice, match="no voice file"):
        load_voice_npy(*paths, layout=BARK_LAYOUT)


def test_a_path_that_is_no_file_is_named(tmp_path: Path) -> None:
    for path in (tmp_path / "none.npz", tmp_path / "a\0b", tmp_path / "x" / "y"):
        with pytest.raises(UnknownVoice, match="no voice file"):
            load_voice(path, layout=BARK_LAYOUT)
    with pytest.raises(InvalidVoice, match="isn't a file"):
        load_voice(tmp_path, layout=BARK_LAYOUT)
    with pytest.raises(InvalidVoice, match="binary mode"):
        load_voice(io.StringIO("x"), layout=BARK_LAYOUT)  # type: ignore[arg-type]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_a_pipe_is_refused_without_waiting(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.npz")
    with pytest.raises(InvalidVoice, match="isn't a file"):
        load_voice(tmp_path / "pipe.npz", layout=BARK_LAYOUT)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_full_disk_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_space(self: Path, data: bytes) -> int:
        with open("/dev/full", "wb", buffering=0) as full:  # noqa: PTH123
            return full.write(data)

    monkeypatch.setattr(Path, "write_bytes", no_space)
    with pytest.raises(StorageError, match="disk is full"):
        make_voice().save(tmp_path / "a.npz")
    assert list(tmp_path.iterdir()) == []


def test_notes_without_end_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidVoice, match="at most 2,000 characters"):
        make_voice(description="x" * 5000).save(tmp_path / "a.npz")
    notes: dict[str, Any] = dict.fromkeys(("name", "description", "source", "kind"), '"😀' * 1000)
    longest = make_voice(**notes)
    assert load_voice(longest.to_bytes(), layout=TINY_LAYOUT).source == '"😀' * 1000

"""All segments of a result in one `.npz`: what a voice file is for one, this is for several.

    semantic [S]   coarse [2, T]   fine [8, T]     all segments, one behind the other
    n_semantic [n]   n_frames [n]                  how much of them is each one's
    layout                                         name of the token layout

Words can be kept from it, and voices made. A voice file reads as the archive of one segment.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from bark_core.config import TokenLayout
from bark_core.errors import InvalidTokens, InvalidVoice, LayoutMismatch
from bark_core.files import write_bytes_atomically
from bark_core.npz import NpzReader, npz_bytes, read_source
from bark_core.tokens import CoarseCodes, FineCodes, SemanticTokens
from bark_core.voices import KEYS, Voice, load_voice

if TYPE_CHECKING:
    from bark_core.generation import SegmentResult

# the longest text that is taken, in the densest script, lasts some six hours: 26 MB of codes
MAX_ARCHIVE_BYTES = 64 * 2**20
MAX_CODES_BYTES = 32 * 2**20
MAX_SEGMENTS = 100_000  # as many as a text has characters
_ARRAYS = ("semantic", "coarse", "fine", "n_semantic", "n_frames")


def write_segments(path: str | Path, segments: Iterable[SegmentResult | Voice]) -> None:
    """Write the tokens of all segments to an `.npz` file, whole or not at all.

    Raises:
        InvalidTokens: there is no segment.
        LayoutMismatch: they are of different layouts.
        StorageError: full disk, no permission, no such folder.
    """
    write_bytes_atomically(Path(path), archive_bytes(segments))


def archive_bytes(segments: Iterable[SegmentResult | Voice]) -> bytes:
    """The `.npz` file in memory; the same tokens give the same bytes.

    Raises:
        InvalidTokens, LayoutMismatch: as `write_segments`.
    """
    parts = [(part.semantic, part.coarse, part.fine) for part in segments]
    names = {tokens.layout.name for part in parts for tokens in part}
    if not names:
        raise InvalidTokens("there is no segment to keep; generate something first")
    if len(names) > 1:
        raise LayoutMismatch(
            f"segments must share one layout, got {', '.join(sorted(names))}; keep those of one "
            "model only"
        )
    arrays: dict[str, NDArray[Any]] = {
        "semantic": np.concatenate([semantic.values for semantic, _, _ in parts]),
        "coarse": np.concatenate([coarse.values for _, coarse, _ in parts], axis=1),
        "fine": np.concatenate([fine.values for _, _, fine in parts], axis=1),
        "n_semantic": np.array([len(semantic) for semantic, _, _ in parts], dtype=np.int32),
        "n_frames": np.array([fine.n_frames for _, _, fine in parts], dtype=np.int32),
        "layout": np.array(names.pop()),
    }
    return npz_bytes(arrays)


def read_segments(
    source: str | Path | bytes | BinaryIO, *, layout: TokenLayout
) -> tuple[Voice, ...]:
    """Read an archive of segments, or a voice file, for a model of `layout`.

    Args:
        source: a path, the bytes of a file, or a binary file.

    Raises:
        UnknownVoice: there is no such file.
        InvalidVoice: it isn't an archive of segments, or is damaged or unsafe.
        LayoutMismatch: it was made for models of another layout.
        StorageError: the file can't be read.
    """
    data, label = read_source(source, MAX_ARCHIVE_BYTES, what="archive")
    try:
        return _segments(data, layout)
    except (InvalidVoice, LayoutMismatch) as error:
        raise type(error)(f"{label}: {error}") from error


def _segments(data: bytes, layout: TokenLayout) -> tuple[Voice, ...]:
    reader = NpzReader(data, max_file_bytes=MAX_ARCHIVE_BYTES, max_array_bytes=MAX_CODES_BYTES)
    if all(key in reader for key in KEYS):
        return (load_voice(data, layout=layout),)
    missing = [key for key in (*_ARRAYS, "layout") if key not in reader]
    if missing:
        raise InvalidVoice(
            f"an archive of segments has the arrays {', '.join(_ARRAYS)} and its layout; "
            f"missing: {', '.join(missing)}"
        )
    name = reader.string("layout")
    if name != layout.name:
        raise LayoutMismatch(
            f"it needs a model of the layout {name[:64]!r}, and this one's is {layout.name!r}; "
            f"choose the model that it was made with"
        )
    n_semantic, n_frames = (_lengths(reader, key) for key in ("n_semantic", "n_frames"))
    if len(n_semantic) != len(n_frames):
        raise InvalidVoice(
            f"n_semantic and n_frames must be of as many segments, "
            f"got {len(n_semantic)} and {len(n_frames)}"
        )
    return _voices(reader, n_semantic, n_frames, layout)


def _lengths(reader: NpzReader, key: str) -> list[int]:
    """Lengths of the segments: 1..MAX_SEGMENTS of them, each positive."""
    values = reader.integers(key)
    if values.ndim != 1 or not 1 <= len(values) <= MAX_SEGMENTS or int(values.min()) < 1:
        raise InvalidVoice(
            f"{key} must be 1..{MAX_SEGMENTS:,} positive lengths, got the shape {values.shape}"
        )
    return [int(value) for value in values]


def _voices(
    reader: NpzReader, n_semantic: list[int], n_frames: list[int], layout: TokenLayout
) -> tuple[Voice, ...]:
    """Cut the arrays at the segments' ends; nothing may be left over."""
    try:
        # checked as wholes, so that what is wrong is told of the array and not of a piece
        semantic = SemanticTokens(reader.integers("semantic"), layout)
        coarse = CoarseCodes(reader.integers("coarse"), layout)
        fine = FineCodes(reader.integers("fine"), layout)
    except InvalidTokens as error:
        raise InvalidVoice(str(error)) from error
    pieces = zip(
        _cut(semantic.values, n_semantic),
        _cut(coarse.values, n_frames),
        _cut(fine.values, n_frames),
        strict=True,
    )
    return tuple(
        Voice(SemanticTokens(s, layout), CoarseCodes(c, layout), FineCodes(f, layout))
        for s, c, f in pieces
    )


def _cut(values: NDArray[Any], lengths: list[int]) -> list[NDArray[Any]]:
    """Pieces of those lengths along the last axis."""
    if sum(lengths) != values.shape[-1]:
        raise InvalidVoice(
            f"the segments' lengths add up to {sum(lengths)}, but {values.shape[-1]} columns "
            "are there"
        )
    return np.split(values, np.cumsum(lengths)[:-1], axis=-1)

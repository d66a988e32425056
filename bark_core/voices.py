"""Voices: history prompts that the stages continue, and so speak like.

A voice is the tokens of something already said, in one `.npz` file:

    semantic_prompt [S]      coarse_prompt [2, T]      fine_prompt [8, T]

    S at 49.9 Hz, T at 75 Hz in Bark, both from the same moment on

It belongs to a token layout. A file saved here says which in `layout`, and more of itself as
JSON in `metadata`; a file without `layout` is a published Bark voice.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import unicodedata
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO, Self

import numpy as np
from numpy.typing import NDArray

from bark_core.config import BARK_LAYOUT, TokenLayout
from bark_core.errors import InvalidSetting, InvalidTokens, InvalidVoice, LayoutMismatch
from bark_core.files import write_bytes_atomically
from bark_core.npz import (
    MAX_ARRAY_BYTES,
    MAX_FILE_BYTES,
    NpzReader,
    npz_bytes,
    parse_integers,
    read_source,
)
from bark_core.tokens import CoarseCodes, FineCodes, SemanticTokens

KEYS = ("semantic_prompt", "coarse_prompt", "fine_prompt")
MAX_MISFIT_FRAMES = 8  # a tenth of a second in Bark: cloned voices are trimmed by as much
MIN_VOICE_S = 0.5  # what a cut leaves at least: less than a syllable is nobody
MAX_NOTE_CHARACTERS = 2_000  # of a name, a description, ...
_METADATA = ("name", "description", "language", "source", "kind")


@dataclass(frozen=True, slots=True, eq=False)
class Voice:
    """A history prompt. All three parts have one layout; coarse and fine have as many frames.

    Attributes:
        name: as in the library; empty for one that isn't in it.
        description: who is heard, for people.
        language: an ISO 639-1 code.
        source: where it comes from, for people.
        kind: how it came to be: "announcer", "v1", "v2", "generated", "cloned", ...

    Raises:
        LayoutMismatch: the parts are of different layouts.
        InvalidVoice: coarse and fine differ in length.
    """

    semantic: SemanticTokens
    coarse: CoarseCodes
    fine: FineCodes
    name: str = ""
    description: str | None = None
    language: str | None = None
    source: str | None = None
    kind: str | None = None

    def __post_init__(self) -> None:
        names = {part.layout.name for part in (self.semantic, self.coarse, self.fine)}
        if len(names) > 1:
            raise LayoutMismatch(
                f"the parts of a voice must share one layout, got {', '.join(sorted(names))}"
            )
        if self.coarse.n_frames != self.fine.n_frames:
            raise InvalidVoice(
                "coarse and fine codes must have as many frames, "
                f"got {self.coarse.n_frames} and {self.fine.n_frames}"
            )

    @property
    def layout(self) -> TokenLayout:
        """The layout of the models that can use it."""
        return self.semantic.layout

    @property
    def duration_s(self) -> float:
        """How long the sound is that it was taken from."""
        return self.fine.duration_s

    @property
    def sha256(self) -> str:
        """Hash of the layout's name and the arrays, the same whatever file they came from."""
        digest = hashlib.sha256(self.layout.name.encode())
        for values in self._values:
            digest.update(repr(values.shape).encode())
            digest.update(values.astype("<i2").tobytes())
        return digest.hexdigest()

    def cut(self, from_s: float, to_s: float) -> Self:
        """The part of the voice from one moment to another.

        Semantic tokens are cut where they begin, and the codes where those tokens sound.

        Args:
            from_s: 0 or later. to_s: at most `duration_s`, MIN_VOICE_S later or more.

        Raises:
            InvalidSetting: the moments aren't within the voice, or too little is left.
        """
        _check_cut(from_s, to_s, self.duration_s)
        rate_hz, ratio = self.layout.semantic_rate_hz, self.layout.frames_per_semantic
        first, last = round(from_s * rate_hz), min(round(to_s * rate_hz), len(self.semantic))
        frames = slice(round(first * ratio), round(last * ratio))
        fine = self.fine.values[:, frames]
        # codes may end a few frames before the semantic tokens, or after
        n_semantic, n_frames = _common_length(last - first, fine.shape[1], self.layout)
        semantic = self.semantic.values[first : first + n_semantic]
        return replace(
            self,
            semantic=SemanticTokens(semantic, self.layout),
            coarse=CoarseCodes(self.coarse.values[:, frames][:, :n_frames], self.layout),
            fine=FineCodes(fine[:, :n_frames], self.layout),
        )

    @property
    def _values(self) -> tuple[NDArray[Any], ...]:
        return self.semantic.values, self.coarse.values, self.fine.values

    def to_bytes(self) -> bytes:
        """The `.npz` file, as `save` writes it. The same voice gives the same bytes.

        Raises:
            InvalidVoice: the name or another note is longer than 2,000 characters.
        """
        metadata = {key: printable(value) for key in _METADATA if (value := getattr(self, key))}
        arrays: dict[str, NDArray[Any]] = dict(zip(KEYS, self._values, strict=True))
        arrays["layout"] = np.array(self.layout.name)
        arrays["metadata"] = np.array(json.dumps(metadata, ensure_ascii=False))
        return npz_bytes(arrays)

    def save(self, path: str | Path) -> None:
        """Write the voice to a `.npz` file, whole or not at all.

        Raises:
            StorageError: full disk, no permission, no such folder.
        """
        write_bytes_atomically(Path(path), self.to_bytes())


@dataclass(frozen=True, slots=True)
class VoiceNotes:
    """What a voice file says of itself."""

    layout: str  # name of the layout of the models that can use it
    notes: Mapping[str, str]  # "description", "language", ...: those that it has
    whole: bool  # all three arrays are in it


def read_notes(source: str | Path | bytes | BinaryIO) -> VoiceNotes:
    """Look into a voice file without reading its arrays.

    Raises:
        UnknownVoice, InvalidVoice, StorageError: as `load_voice`.
    """
    data, label = read_source(source, MAX_FILE_BYTES, what="voice file")
    with _naming(label):
        reader = NpzReader(data)
        return VoiceNotes(
            _layout_name(reader), _metadata(reader), all(key in reader for key in KEYS)
        )


def load_voice(
    source: str | Path | bytes | BinaryIO, *, layout: TokenLayout, name: str | None = None
) -> Voice:
    """Read a voice for a model of `layout` from an untrusted `.npz`.

    Coarse and fine codes, or codes and semantic tokens, that don't cover the same time are
    trimmed at their end if they are up to MAX_MISFIT_FRAMES apart.

    Args:
        source: a path, the bytes of a file, or a binary file.
        name: given to the voice; None takes the file's own.

    Raises:
        UnknownVoice: there is no such file.
        InvalidVoice: it isn't a voice, or is damaged or unsafe.
        LayoutMismatch: it was made for models of another layout.
        StorageError: the file can't be read.
    """
    data, label = read_source(source, MAX_FILE_BYTES, what="voice file")
    with _naming(label):
        reader = NpzReader(data)
        _check_layout(_layout_name(reader), layout)
        missing = [key for key in KEYS if key not in reader]
        if missing:
            raise InvalidVoice(
                f"{', '.join(missing)} {'is' if len(missing) == 1 else 'are'} missing, it has "
                f"{', '.join(reader.keys)[:200] or 'none'}; "
                f"a voice has the arrays {', '.join(KEYS)}"
            )
        semantic, coarse, fine = (reader.integers(key) for key in KEYS)
        voice = _with_notes(_fitted(semantic, coarse, fine, layout), _metadata(reader))
        return replace(voice, name=(voice.name or _stem(source)) if name is None else name)


def load_voice_npy(
    semantic_path: str | Path,
    coarse_path: str | Path,
    fine_path: str | Path,
    *,
    layout: TokenLayout,
    name: str = "",
) -> Voice:
    """Read a published voice from three `.npy` files, as the transformers layout has them.

    Raises:
        UnknownVoice, InvalidVoice, LayoutMismatch, StorageError: as `load_voice`.
    """
    arrays = []
    for path in (semantic_path, coarse_path, fine_path):
        data, label = read_source(path, MAX_ARRAY_BYTES, what="voice file")
        with _naming(label):
            arrays.append(parse_integers(data))
    semantic, coarse, fine = arrays
    with _naming(name or str(semantic_path)):
        _check_layout(BARK_LAYOUT.name, layout)
        return replace(_fitted(semantic, coarse, fine, layout), name=name)


@contextlib.contextmanager
def _naming(label: str) -> Iterator[None]:
    """Put the file's name in front of what is wrong with it."""
    try:
        yield
    except (InvalidVoice, LayoutMismatch) as error:
        raise type(error)(f"{label}: {error}") from error


def _stem(source: object) -> str:
    return Path(source).stem if isinstance(source, (str, Path)) else ""


def _layout_name(reader: NpzReader) -> str:
    return reader.string("layout") if "layout" in reader else BARK_LAYOUT.name


def _check_layout(found: str, layout: TokenLayout) -> None:
    if found != layout.name:
        is_bark = found == BARK_LAYOUT.name
        needed = "'small' or 'large'" if is_bark else "the model that it was made with"
        raise LayoutMismatch(
            f"it needs a model of the layout {found[:64]!r}, and this one's is {layout.name!r}; "
            f"load {needed}, or choose a voice of the layout {layout.name!r}"
        )


def _metadata(reader: NpzReader) -> dict[str, str]:
    """What the file says of itself. It is decoration: what can't be read is left out."""
    if "metadata" not in reader:
        return {}
    try:
        values = json.loads(reader.string("metadata"))
    except (InvalidVoice, ValueError, RecursionError):
        return {}
    if not isinstance(values, dict):
        return {}
    texts = {key: value for key in _METADATA if isinstance(value := values.get(key), str)}
    with contextlib.suppress(InvalidVoice):
        return {key: printable(value) for key, value in texts.items()}
    return {}


def _with_notes(voice: Voice, notes: Mapping[str, str]) -> Voice:
    return replace(
        voice,
        name=notes.get("name", ""),
        description=notes.get("description"),
        language=notes.get("language"),
        source=notes.get("source"),
        kind=notes.get("kind"),
    )


def printable(text: str) -> str:
    """A note on one line, without characters that can't be seen.

    Raises:
        InvalidVoice: it is longer than MAX_NOTE_CHARACTERS.
    """
    if len(text) > MAX_NOTE_CHARACTERS:
        raise InvalidVoice(
            f"a voice's notes have at most {MAX_NOTE_CHARACTERS:,} characters each, "
            f"got {len(text):,}; shorten {text[:40]!r}"
        )
    visible = "".join(c if c.isprintable() else " " for c in text)
    return " ".join(unicodedata.normalize("NFC", visible).split())


def _fitted(
    semantic: NDArray[Any], coarse: NDArray[Any], fine: NDArray[Any], layout: TokenLayout
) -> Voice:
    """A voice of these arrays, checked, trimmed to the same time where they nearly agree."""
    try:
        tokens = SemanticTokens(semantic, layout)
        coarse_codes, fine_codes = CoarseCodes(coarse, layout), FineCodes(fine, layout)
    except InvalidTokens as error:
        raise InvalidVoice(f"{error}; this isn't a voice of the layout {layout.name!r}") from error
    lengths = coarse_codes.n_frames, fine_codes.n_frames
    if abs(lengths[0] - lengths[1]) > MAX_MISFIT_FRAMES:
        raise InvalidVoice(
            f"coarse and fine codes must have as many frames, got {lengths[0]} and {lengths[1]}; "
            f"up to {MAX_MISFIT_FRAMES} are trimmed"
        )
    n_semantic, n_frames = _common_length(len(tokens), min(lengths), layout)
    return Voice(
        semantic=SemanticTokens(tokens.values[:n_semantic], layout),
        coarse=CoarseCodes(coarse_codes.values[:, :n_frames], layout),
        fine=FineCodes(fine_codes.values[:, :n_frames], layout),
    )


def _common_length(n_semantic: int, n_frames: int, layout: TokenLayout) -> tuple[int, int]:
    """(semantic tokens, frames) to keep, so that both end at the same time."""
    ratio = layout.frames_per_semantic
    if round(n_frames / n_semantic, 1) == round(ratio, 1):
        return n_semantic, n_frames
    expected = n_semantic * ratio
    if abs(n_frames - expected) > MAX_MISFIT_FRAMES:
        raise InvalidVoice(
            f"{n_semantic} semantic tokens go with about {expected:.0f} frames of codes, got "
            f"{n_frames}; up to {MAX_MISFIT_FRAMES} are trimmed. Make the voice again from one "
            "recording"
        )
    if n_frames > expected:
        return n_semantic, max(1, round(expected))
    return max(1, round(n_frames / ratio)), n_frames


def _check_cut(from_s: float, to_s: float, duration_s: float) -> None:
    for moment in (from_s, to_s):
        if isinstance(moment, bool) or not isinstance(moment, int | float):
            raise InvalidSetting(f"a moment of a voice must be seconds, got {moment!r}")
        # half a step of two decimals: a page shows rounded seconds
        if not math.isfinite(moment) or not -0.005 <= moment <= duration_s + 0.005:
            raise InvalidSetting(
                f"this voice lasts from 0 to {duration_s:.2f} s, got {moment}; "
                "choose moments within it"
            )
    if to_s - from_s < MIN_VOICE_S:
        raise InvalidSetting(
            f"a voice must keep at least {MIN_VOICE_S} s, got {from_s:.2f} to {to_s:.2f} s; "
            "choose an earlier beginning or a later end"
        )

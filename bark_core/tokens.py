"""The hops of the cascade: what one stage hands to the next, validated, numpy only.

    TextTokens [L] -> SemanticTokens [S] -> CoarseCodes [2, T] -> FineCodes [8, T] -> Audio [N]

Each is checked when it is made, so that a stage can rely on what it is given. The arrays are
read-only, contiguous and of one dtype, whatever came in.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bark_core.config import TokenLayout
from bark_core.errors import InvalidTokens


def _integers(
    what: str, values: Any, dtype: type[np.integer[Any]], *, rows: int | None, top: int
) -> NDArray[Any]:
    """Check and canonicalise integers: [n] where rows is None, else [rows, n]; 0..top - 1."""
    array = np.asarray(values)
    if array.dtype.kind not in "iu":
        raise InvalidTokens(f"{what} must be integers, got {array.dtype}")
    expected = "[n]" if rows is None else f"[{rows}, n]"
    shape_fits = array.ndim == 1 if rows is None else array.ndim == 2 and array.shape[0] == rows
    if not shape_fits or array.shape[-1] == 0:
        raise InvalidTokens(f"{what} must have shape {expected} with n > 0, got {array.shape}")
    low, high = int(array.min()), int(array.max())
    if low < 0 or high >= top:
        raise InvalidTokens(f"{what} must be within 0..{top - 1}, got {low}..{high}")
    canonical = np.ascontiguousarray(array, dtype=dtype)
    if canonical is array:
        canonical = canonical.copy()
    canonical.flags.writeable = False
    return canonical


@dataclass(frozen=True, slots=True, eq=False)
class TextTokens:
    """The tokenizer's ids of one segment, int32 [L], 1 <= L <= layout.text_window, no offset."""

    values: NDArray[Any]
    layout: TokenLayout

    def __post_init__(self) -> None:
        top = self.layout.text_pad - self.layout.text_offset
        values = _integers("text tokens", self.values, np.int32, rows=None, top=top)
        if len(values) > self.layout.text_window:
            raise InvalidTokens(
                f"a segment holds at most {self.layout.text_window} text tokens, "
                f"got {len(values)}; split the text first (bark_core.text.plan_segments)"
            )
        object.__setattr__(self, "values", values)

    def __len__(self) -> int:
        return len(self.values)


@dataclass(frozen=True, slots=True, eq=False)
class SemanticTokens:
    """What is said and how, int16 [S], layout.semantic_rate_hz a second."""

    values: NDArray[Any]
    layout: TokenLayout

    def __post_init__(self) -> None:
        top = self.layout.semantic_vocab
        values = _integers("semantic tokens", self.values, np.int16, rows=None, top=top)
        object.__setattr__(self, "values", values)

    def __len__(self) -> int:
        return len(self.values)

    @property
    def duration_s(self) -> float:
        return len(self.values) / self.layout.semantic_rate_hz


@dataclass(frozen=True, slots=True, eq=False)
class CoarseCodes:
    """The first codebooks of the codec, int16 [n_coarse_codebooks, T]."""

    values: NDArray[Any]
    layout: TokenLayout

    def __post_init__(self) -> None:
        rows, top = self.layout.n_coarse_codebooks, self.layout.codebook_size
        values = _integers("coarse codes", self.values, np.int16, rows=rows, top=top)
        object.__setattr__(self, "values", values)

    @property
    def n_frames(self) -> int:
        return int(self.values.shape[1])


@dataclass(frozen=True, slots=True, eq=False)
class FineCodes:
    """All codebooks of the codec, int16 [n_codebooks, T]."""

    values: NDArray[Any]
    layout: TokenLayout

    def __post_init__(self) -> None:
        rows, top = self.layout.n_codebooks, self.layout.codebook_size
        values = _integers("fine codes", self.values, np.int16, rows=rows, top=top)
        object.__setattr__(self, "values", values)

    @property
    def n_frames(self) -> int:
        return int(self.values.shape[1])

    @property
    def duration_s(self) -> float:
        return self.n_frames / self.layout.frame_rate_hz

    @property
    def coarse(self) -> CoarseCodes:
        """The first codebooks alone."""
        return CoarseCodes(self.values[: self.layout.n_coarse_codebooks], self.layout)


@dataclass(frozen=True, slots=True, eq=False)
class Audio:
    """Mono sound, float32 [N], about -1..1 but not clipped, sample_rate_hz a second."""

    samples: NDArray[np.float32]
    sample_rate_hz: int = 24_000

    def __post_init__(self) -> None:
        samples = np.asarray(self.samples)
        if samples.ndim != 1 or samples.dtype.kind != "f":
            raise InvalidTokens(
                f"audio must be floating point of shape [n], got {samples.dtype} {samples.shape}"
            )
        if not np.isfinite(samples).all():
            raise InvalidTokens("audio must be finite, got NaN or infinity")
        canonical = np.ascontiguousarray(samples, dtype=np.float32)
        if canonical is samples:
            canonical = canonical.copy()
        canonical.flags.writeable = False
        object.__setattr__(self, "samples", canonical)

    def __len__(self) -> int:
        return len(self.samples)

    @property
    def duration_s(self) -> float:
        return len(self.samples) / self.sample_rate_hz

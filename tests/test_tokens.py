"""Laws of the hop types."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from bark_core.config import BARK_LAYOUT
from bark_core.errors import InvalidRequest, InvalidTokens
from bark_core.tokens import (
    Audio,
    CoarseCodes,
    FineCodes,
    SemanticTokens,
    TextTokens,
)
from tests.tiny import TINY_LAYOUT

HOPS: list[tuple[Callable[..., Any], tuple[int, ...], int]] = [
    (TextTokens, (7,), 200),
    (SemanticTokens, (7,), 20),
    (CoarseCodes, (2, 7), 16),
    (FineCodes, (8, 7), 16),
]
each_hop = pytest.mark.parametrize(("hop", "shape", "top"), HOPS)


@each_hop
@pytest.mark.parametrize("dtype", ["int64", "int32", "int16", "uint16", "uint8", ">i4"])
def test_any_integers_become_one_read_only_form(
    hop: Callable[..., Any], shape: tuple[int, ...], top: int, dtype: str
) -> None:
    given = (np.arange(np.prod(shape)) % min(top, 16)).reshape(shape).astype(dtype)
    values = hop(given, TINY_LAYOUT).values
    assert values.dtype == (np.int32 if hop is TextTokens else np.int16)
    assert values.dtype.isnative
    assert values.flags.c_contiguous
    assert not values.flags.writeable
    assert (values == given).all()


@each_hop
def test_later_changes_of_the_source_are_not_seen(
    hop: Callable[..., Any], shape: tuple[int, ...], top: int
) -> None:
    given = np.zeros(shape, dtype=np.int32 if hop is TextTokens else np.int16)
    values = hop(given, TINY_LAYOUT).values
    given[...] = 5
    assert not values.any()


@each_hop
def test_a_view_with_strides_keeps_its_order(
    hop: Callable[..., Any], shape: tuple[int, ...], top: int
) -> None:
    given = (np.arange(np.prod(shape)) % 16).reshape(shape)
    assert (hop(given[..., ::-1], TINY_LAYOUT).values == given[..., ::-1]).all()


@each_hop
@pytest.mark.parametrize("beyond", [-1, "top", 2**40])
def test_values_out_of_range_are_refused(
    hop: Callable[..., Any], shape: tuple[int, ...], top: int, beyond: int | str
) -> None:
    given = np.zeros(shape, dtype=np.int64)
    given[..., -1] = top if beyond == "top" else beyond
    with pytest.raises(InvalidTokens, match=rf"0\.\.{top - 1}"):
        hop(given, TINY_LAYOUT)
    given[..., -1] = top - 1
    hop(given, TINY_LAYOUT)


@each_hop
@pytest.mark.parametrize("dtype", ["float32", "bool", "complex64", "U3", "object"])
def test_other_dtypes_are_refused(
    hop: Callable[..., Any], shape: tuple[int, ...], top: int, dtype: str
) -> None:
    with pytest.raises(InvalidTokens, match="integers"):
        hop(np.zeros(shape).astype(dtype), TINY_LAYOUT)


@each_hop
def test_other_shapes_are_refused(
    hop: Callable[..., Any], shape: tuple[int, ...], top: int
) -> None:
    for wrong in [(), (0,), (*shape, 1), (*shape[:-1], 0), (3, 7), (1, *shape)]:
        with pytest.raises(InvalidTokens):
            hop(np.zeros(wrong, dtype=np.int64), TINY_LAYOUT)


def test_text_longer_than_the_window_is_refused_not_cut() -> None:
    TextTokens(np.zeros(TINY_LAYOUT.text_window, dtype=int), TINY_LAYOUT)
    with pytest.raises(InvalidTokens, match="split the text"):
        TextTokens(np.zeros(TINY_LAYOUT.text_window + 1, dtype=int), TINY_LAYOUT)


def test_durations_follow_the_rates() -> None:
    assert SemanticTokens(np.zeros(499, dtype=int), BARK_LAYOUT).duration_s == pytest.approx(10)
    fine = FineCodes(np.zeros((8, 150), dtype=int), BARK_LAYOUT)
    assert fine.duration_s == pytest.approx(2)
    assert fine.n_frames == fine.coarse.n_frames == 150


def test_coarse_is_the_first_rows_of_fine() -> None:
    fine = FineCodes((np.arange(40) % 16).reshape(8, 5).astype(np.int16), TINY_LAYOUT)
    assert (fine.coarse.values == fine.values[:2]).all()


def test_audio_is_one_finite_float32_row() -> None:
    audio = Audio(np.linspace(-2, 2, 24_000, dtype=np.float32), 24_000)
    assert audio.samples.dtype == np.float32
    assert audio.samples.max() == 2  # not clipped
    assert audio.duration_s == 1
    assert not audio.samples.flags.writeable


@pytest.mark.parametrize(
    "samples",
    [
        np.zeros((2, 10), dtype=np.float32),
        np.zeros(10, dtype=np.int16),
        np.array([0.0, np.nan]),
        np.array([0.0, -np.inf]),
    ],
)
def test_other_audio_is_refused(samples: Any) -> None:
    with pytest.raises(InvalidTokens):
        Audio(samples)


def test_an_invalid_hop_is_an_invalid_request() -> None:
    assert issubclass(InvalidTokens, InvalidRequest)

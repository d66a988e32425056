"""Laws of the third stage."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from bark_core.config import BARK_LAYOUT
from bark_core.fine import Piece, generate_fine, piece_at, plan_fine
from bark_core.request import FineParams
from bark_core.tokens import CoarseCodes, FineCodes
from bark_core.transformer import FineGPT
from tests.stages import result_of, seeded
from tests.tiny import TINY_LAYOUT, tiny_parts

LAYOUT = TINY_LAYOUT
WINDOW, HOP = LAYOUT.fine_window, LAYOUT.fine_history


@pytest.fixture(scope="module")
def model() -> FineGPT:
    _, _, fine, _ = tiny_parts(5)
    return fine


def coarse_of(n_frames: int) -> CoarseCodes:
    values = np.random.default_rng(n_frames).integers(0, LAYOUT.codebook_size, (2, n_frames))
    return CoarseCodes(values, LAYOUT)


def fine_of(n_frames: int) -> FineCodes:
    values = np.random.default_rng(n_frames).integers(0, LAYOUT.codebook_size, (8, n_frames))
    return FineCodes(values, LAYOUT)


@pytest.mark.parametrize("n_history", [0, 3, HOP, 50])
@pytest.mark.parametrize("n_frames", [1, 15, 16, 17, 32, 33, 47, 48, 49, 100])
def test_windows_fill_every_frame_and_nothing_of_the_history(n_frames: int, n_history: int) -> None:
    plan = plan_fine(coarse_of(n_frames), fine_of(n_history) if n_history else None)
    filled = np.zeros(len(plan.codes), dtype=bool)
    for start, fill in plan.windows():
        assert 0 <= start <= len(plan.codes) - WINDOW
        filled[start + fill : start + WINDOW] = True
    assert filled[plan.n_history : plan.n_history + n_frames].all()
    assert not filled[: plan.n_history].any()


def test_bark_needs_one_window_up_to_1024_frames() -> None:
    for n_frames, n_windows in ((1, 1), (1024, 1), (1025, 2), (1536, 2), (1537, 3)):
        codes = CoarseCodes(np.zeros((2, n_frames), int), BARK_LAYOUT)
        assert len(list(plan_fine(codes, None).windows())) == n_windows


@pytest.mark.parametrize("n_frames", [1, 20, 70])
@pytest.mark.parametrize("n_history", [0, 40])
def test_coarse_rows_stay_and_length_too(model: FineGPT, n_frames: int, n_history: int) -> None:
    coarse = coarse_of(n_frames)
    history = fine_of(n_history) if n_history else None
    fine = result_of(generate_fine(model, coarse, history=history, generator=seeded(1)))
    assert fine.values.shape == (8, n_frames)
    assert (fine.values[:2] == coarse.values).all()


def test_later_codebooks_see_earlier_ones(model: FineGPT) -> None:
    """One window, greedily, written down codebook by codebook."""
    coarse = coarse_of(10)
    codes = torch.full((1, WINDOW, 8), LAYOUT.codebook_size)
    codes[0, :10, :2] = torch.from_numpy(coarse.values.T.astype(np.int64))
    for codebook in range(2, 8):
        codes[0, :, codebook] = model(codebook, codes)[0, :, : LAYOUT.codebook_size].argmax(-1)
    run = generate_fine(model, coarse, params=FineParams(temperature=0), generator=seeded(0))
    assert (result_of(run).values == codes[0, :10].T.numpy()).all()


def test_temperature_zero_ignores_the_seed(model: FineGPT) -> None:
    params = FineParams(temperature=0)
    runs = [
        result_of(generate_fine(model, coarse_of(40), params=params, generator=seeded(seed)))
        for seed in (1, 2)
    ]
    assert (runs[0].values == runs[1].values).all()


def test_same_seed_same_codes_and_another_seed_others(model: FineGPT) -> None:
    one, same, other = (
        result_of(generate_fine(model, coarse_of(40), generator=seeded(seed))).values
        for seed in (1, 1, 2)
    )
    assert (one == same).all()
    assert (one != other).any()


def test_voice_changes_what_is_filled(model: FineGPT) -> None:
    params = FineParams(temperature=0)
    without, with_voice = (
        result_of(
            generate_fine(model, coarse_of(20), history=past, params=params, generator=seeded(1))
        ).values
        for past in (None, fine_of(20))
    )
    assert (without != with_voice).any()


def pieces_of(n_frames: int, n_at_once: int) -> list[Piece]:
    """The pieces of a segment whose frames become known so many at a time."""
    found: list[Piece] = []
    for n_known in [*range(0, n_frames, n_at_once), n_frames]:
        while True:
            start = found[-1].stop if found else 0
            piece = piece_at(start, n_known, complete=n_known == n_frames, layout=BARK_LAYOUT)
            if piece is None:
                break
            found.append(piece)
    return found


@pytest.mark.parametrize("n_frames", [1, 29, 30, 31, 39, 40, 500, 1100])
def test_pieces_are_the_same_however_the_frames_come(n_frames: int) -> None:
    pieces = pieces_of(n_frames, n_frames)
    assert pieces == pieces_of(n_frames, 1) == pieces_of(n_frames, 37)
    assert [piece.start for piece in pieces] == [0, *(piece.stop for piece in pieces[:-1])]
    assert pieces[-1].stop == n_frames
    assert all(0 < p.stop - p.start <= p.seen - p.start <= 1024 for p in pieces)
    assert pieces[0].stop == (30 if n_frames >= 39 else n_frames)  # 0.4 s, 0.12 s behind it


@pytest.mark.parametrize("n_history", [0, 5, 40])
@pytest.mark.parametrize("n_frames", [1, 20, 70])
def test_codes_made_in_pieces_are_whole_and_are_other_ones(
    model: FineGPT, n_frames: int, n_history: int
) -> None:
    coarse = coarse_of(n_frames)
    history = fine_of(n_history) if n_history else None
    whole, streamed = (
        result_of(
            generate_fine(model, coarse, history=history, generator=seeded(1), streaming=streaming)
        ).values
        for streaming in (False, True)
    )
    assert streamed.shape == whole.shape == (8, n_frames)
    assert (streamed[:2] == coarse.values).all()
    if n_frames > WINDOW:
        assert (streamed != whole).any()


def test_a_piece_sees_no_further_than_its_look_ahead(model: FineGPT) -> None:
    params = FineParams(temperature=0)
    coarse = coarse_of(70)
    (first, *_) = (piece_at(0, 70, complete=True, layout=LAYOUT),)
    assert first is not None
    later = coarse.values.copy()
    later[:, first.seen :] = (later[:, first.seen :] + 1) % LAYOUT.codebook_size
    made = [
        result_of(
            generate_fine(model, codes, params=params, generator=seeded(1), streaming=True)
        ).values
        for codes in (coarse, CoarseCodes(later, LAYOUT))
    ]
    assert (made[0][:, : first.stop] == made[1][:, : first.stop]).all()
    assert (made[0] != made[1]).any()

"""Stage 3: coarse codes to fine codes.

A window of fine_window frames sees both ways; each codebook is predicted for all its frames at
once, from the codebooks above it. The window moves by half its length; what it filled before
stays as context (Bark: 1,024 frames, history of up to 512, step 512):

    │ history of the voice │ frames to fill ............................... │ pad │
    ├────────── window 0 ──────────┤
                     ├────────── window 1 ──────────┤
                               fill from here ──────►

Where sound is wanted before all frames are there, pieces of growing length have a window each:

    │ history, and the pieces before │ piece │ look-ahead │ pad │
"""

from __future__ import annotations

import math
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bark_core.config import TokenLayout
from bark_core.events import Stage, StageProgress
from bark_core.request import FineParams
from bark_core.sampling import not_finite, pick, soften, uniforms
from bark_core.tokens import CoarseCodes, FineCodes
from bark_core.transformer import FineGPT

FIRST_PIECE_S = 0.4  # of sound, where a segment is heard before it is finished
LOOK_AHEAD_S = 0.12  # what a piece sees of what follows it


@dataclass(frozen=True, slots=True)
class FinePlan:
    """The padded code matrix and where its windows lie."""

    layout: TokenLayout
    codes: NDArray[np.int64]  # [frames, n_codebooks], frames >= fine_window
    n_history: int
    n_frames: int  # frames that were asked for

    def windows(self) -> Iterator[tuple[int, int]]:
        """(start, fill): first frame of each window, and the first of its own to be predicted."""
        size, hop = self.layout.fine_window, self.layout.fine_history
        frames = len(self.codes)
        n_windows = max(0, math.ceil((self.n_frames - (size - self.n_history)) / hop)) + 1
        for n in range(n_windows):
            start = min(n * hop, frames - size)
            yield start, min(self.n_history + n * hop, frames - hop) - start


def plan_fine(coarse: CoarseCodes, history: FineCodes | None) -> FinePlan:
    """Lay history, coarse codes and padding side by side."""
    layout = coarse.layout
    pad = layout.codebook_size
    body = np.full((layout.n_codebooks, coarse.n_frames), pad, dtype=np.int64)
    body[: layout.n_coarse_codebooks] = coarse.values
    parts = [body]
    n_history = 0
    if history is not None:
        recent = history.values[:, -layout.fine_history :].astype(np.int64)
        n_history = recent.shape[1]
        parts.insert(0, recent)
    missing = layout.fine_window - n_history - coarse.n_frames
    if missing > 0:
        parts.append(np.full((layout.n_codebooks, missing), pad, dtype=np.int64))
    codes = np.ascontiguousarray(np.concatenate(parts, axis=1).T)
    return FinePlan(layout, codes, n_history, coarse.n_frames)


def frame_draws(generator: torch.Generator, n_frames: int, layout: TokenLayout) -> Tensor:
    """The number that each predicted code is drawn with, float32 [n_frames, n predicted].

    They belong to a frame: it is drawn with the same ones in each window that it lies in, and
    however many frames follow it.
    """
    n_predicted = layout.n_codebooks - layout.n_coarse_codebooks
    return uniforms(generator, n_frames * n_predicted).view(n_frames, n_predicted)


def draw_codes(logits: Tensor, params: FineParams, draws: Tensor) -> Tensor:
    """One code a frame: [T, codebook_size] and float32 [T] to int64 [T].

    Raises:
        GenerationError: the logits aren't finite.
    """
    codes = pick(soften(logits, params.temperature), draws)
    if int(codes.min()) < 0:
        raise not_finite()
    return codes


class FineWork:
    """Windows on their way: one codebook of one window is a step.

    Args:
        codes: [columns, n_codebooks], filled in place; not shared with anybody.
        windows: (start, fill) of each, as `FinePlan.windows` gives them.
        draws: [columns, n predicted], the numbers of each column.
    """

    def __init__(
        self,
        layout: TokenLayout,
        codes: Tensor,
        windows: Sequence[tuple[int, int]],
        draws: Tensor,
        params: FineParams,
    ) -> None:
        self._layout = layout
        self._codes, self._draws, self._params = codes, draws, params
        predicted = range(layout.n_coarse_codebooks, layout.n_codebooks)
        self._steps = [(*window, codebook) for window in windows for codebook in predicted]
        self.done = 0

    @property
    def total(self) -> int:
        return len(self._steps)

    @property
    def over(self) -> bool:
        return self.done == self.total

    @property
    def codebook(self) -> int:
        """The one whose turn it is."""
        return self._steps[self.done][2]

    def window(self) -> Tensor:
        """What the model looks at in this step, [fine_window, n_codebooks]."""
        start = self._steps[self.done][0]
        return self._codes[start : start + self._layout.fine_window]

    @property
    def n_wanted(self) -> int:
        """How many of the window's last frames this step fills."""
        return self._layout.fine_window - self._steps[self.done][1]

    def fill(self, logits: Tensor) -> None:
        """Do this step: draw the codes of its frames.

        Args:
            logits: of the window's last frames, [n, V], at least of those that it fills.
        Raises:
            GenerationError: they aren't finite.
        """
        start, fill, codebook = self._steps[self.done]
        # a view: what is filled here is seen by the later codebooks and windows
        own = slice(start + fill, start + self._layout.fine_window)
        drawn = self._draws[own, codebook - self._layout.n_coarse_codebooks]
        live = logits[len(logits) - self.n_wanted :, : self._layout.codebook_size]
        self._codes[own, codebook] = draw_codes(live, self._params, drawn)
        self.done += 1

    def columns(self, start: int, stop: int) -> FineCodes:
        """Codes of some columns."""
        return FineCodes(self._codes[start:stop].T.cpu().numpy(), self._layout)


@dataclass(frozen=True, slots=True)
class Piece:
    """Frames that become sound before the rest of their segment is known."""

    start: int
    stop: int
    seen: int  # frames that are known when it is made: those behind `stop` are looked at only


def piece_at(start: int, n_known: int, *, complete: bool, layout: TokenLayout) -> Piece | None:
    """The piece that begins at a frame; None: not yet, or there is nothing left.

    It depends on what there will be, not on when: each piece ends at a frame that is given
    beforehand, and looks at LOOK_AHEAD_S behind it, or else at the end of the segment.
    """
    stop = _piece_end(start, layout)
    ahead = stop + math.ceil(LOOK_AHEAD_S * layout.frame_rate_hz)
    if ahead <= n_known:
        return Piece(start, stop, ahead)
    if not complete or start >= n_known:
        return None
    return Piece(start, n_known, n_known)


def _piece_end(start: int, layout: TokenLayout) -> int:
    """The first piece is short, the others as long as all before them, up to half a window."""
    first = math.ceil(FIRST_PIECE_S * layout.frame_rate_hz)
    longest = layout.fine_window // 4
    return start + max(1, min(max(first, start), longest))


class FineRun:
    """The fine stage of one segment: its draws, and what is known of its codes.

    Args:
        history: a voice's fine codes; the last fine_history frames count.
        generator: on the CPU.
    """

    def __init__(
        self,
        layout: TokenLayout,
        *,
        history: FineCodes | None,
        params: FineParams,
        generator: torch.Generator,
    ) -> None:
        self._layout = layout
        self._history, self._params = history, params
        self._generator = generator
        self._numbers = torch.zeros(0, layout.n_codebooks - layout.n_coarse_codebooks)

    def whole(self, coarse: CoarseCodes, device: torch.device) -> tuple[FineWork, slice]:
        """All of a segment: the work, and which of its columns are the segment's."""
        plan = plan_fine(coarse, self._history)
        own = slice(plan.n_history, plan.n_history + plan.n_frames)
        return self._work(plan.codes, list(plan.windows()), plan.n_history, 0, device), own

    def piece(
        self, piece: Piece, coarse: CoarseCodes, before: FineCodes | None, device: torch.device
    ) -> tuple[FineWork, slice]:
        """One piece in a window of its own, behind what was made before.

        Args:
            coarse: at least the frames that the piece sees.
            before: the fine codes of all frames up to it; None for the first.
        """
        layout = self._layout
        seen = coarse.values[:, piece.start : piece.seen]
        body = np.full((layout.n_codebooks, seen.shape[1]), layout.codebook_size, dtype=np.int64)
        body[: layout.n_coarse_codebooks] = seen
        past = [] if before is None else [before.values]
        if self._history is not None:
            past.insert(0, self._history.values[:, -layout.fine_history :])
        context = np.concatenate([body[:, :0], *past], axis=1).astype(np.int64)
        context = context[:, max(0, context.shape[1] + body.shape[1] - layout.fine_window) :]
        n_past, n_seen = context.shape[1], body.shape[1]
        missing = layout.fine_window - n_past - n_seen
        pad = np.full((layout.n_codebooks, missing), layout.codebook_size, dtype=np.int64)
        codes = np.ascontiguousarray(np.concatenate([context, body, pad], axis=1).T)
        own = slice(n_past, n_past + piece.stop - piece.start)
        return self._work(codes, [(0, n_past)], n_past, piece.start, device), own

    def _work(
        self,
        codes: NDArray[np.int64],
        windows: list[tuple[int, int]],
        first: int,
        frame: int,
        device: torch.device,
    ) -> FineWork:
        """Work on a matrix whose column `first` is the segment's frame `frame`."""
        numbers = self._draws(frame + len(codes) - first)[frame:]
        draws = torch.cat([torch.zeros(first, numbers.shape[1]), numbers]).to(device)
        matrix = torch.from_numpy(codes).to(device, copy=True)
        return FineWork(self._layout, matrix, windows, draws, self._params)

    def _draws(self, n_frames: int) -> Tensor:
        """The numbers of the first frames, [n_frames, n predicted]."""
        missing = n_frames - len(self._numbers)
        if missing > 0:
            more = frame_draws(self._generator, missing, self._layout)
            self._numbers = torch.cat([self._numbers, more])
        return self._numbers[:n_frames]


def generate_fine(
    model: FineGPT,
    coarse: CoarseCodes,
    *,
    history: FineCodes | None = None,
    params: FineParams | None = None,
    generator: torch.Generator,
    streaming: bool = False,
) -> Generator[StageProgress, None, FineCodes]:
    """Predict the remaining codebooks; one event a codebook and window, or a piece.

    Args:
        coarse: [n_coarse_codebooks, T].
        history: a voice's fine codes; the last fine_history frames count.
        generator: on the CPU.
        streaming: piece by piece, as sound is made before all frames are known; the codes are
            others.
    Returns:
        [n_codebooks, T]; the first rows are those of `coarse`.
    Raises:
        GenerationError: the model made NaN or infinity.
    Source: suno-ai/bark, generate_fine; streaming is our own.
    """
    layout = coarse.layout
    run = FineRun(layout, history=history, params=params or FineParams(), generator=generator)
    if not streaming:
        work, own = run.whole(coarse, model.device)
        while not work.over:
            _step(model, work)
            yield StageProgress(Stage.FINE, work.done, work.total)
        return work.columns(own.start, own.stop)
    before: FineCodes | None = None
    piece = piece_at(0, coarse.n_frames, complete=True, layout=layout)
    while piece is not None:
        work, own = run.piece(piece, coarse, before, model.device)
        while not work.over:
            _step(model, work)
        before = joined(before, work.columns(own.start, own.stop))
        yield StageProgress(Stage.FINE, piece.stop, coarse.n_frames)
        piece = piece_at(piece.stop, coarse.n_frames, complete=True, layout=layout)
    assert before is not None  # there is at least one frame
    return before


def _step(model: FineGPT, work: FineWork) -> None:
    with torch.inference_mode():
        work.fill(model(work.codebook, work.window()[None], work.n_wanted)[0])


def joined(before: FineCodes | None, more: FineCodes) -> FineCodes:
    """Codes one behind the other."""
    if before is None:
        return more
    return FineCodes(np.concatenate([before.values, more.values], axis=1), more.layout)

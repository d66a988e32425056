"""Stage 3: coarse codes to fine codes.

A window of fine_window frames sees both ways; each codebook is predicted for all its frames at
once, from the codebooks above it. The window moves by half its length; what it filled before
stays as context (Bark: 1,024 frames, history of up to 512, step 512):

    │ history of the voice │ frames to fill ............................... │ pad │
    ├────────── window 0 ──────────┤
                     ├────────── window 1 ──────────┤
                               fill from here ──────►
"""

from __future__ import annotations

import math
from collections.abc import Generator, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bark_core.config import TokenLayout
from bark_core.events import Stage, StageProgress
from bark_core.request import FineParams
from bark_core.sampling import soften
from bark_core.tokens import CoarseCodes, FineCodes
from bark_core.transformer import FineGPT


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


def draw_codes(logits: Tensor, params: FineParams, generator: torch.Generator) -> Tensor:
    """One code a frame: [T, codebook_size] to int64 [T]."""
    if params.temperature == 0:
        return logits.argmax(dim=-1)
    probs = soften(logits, params.temperature)
    return torch.multinomial(probs, 1, generator=generator)[:, 0]


def generate_fine(
    model: FineGPT,
    coarse: CoarseCodes,
    *,
    history: FineCodes | None = None,
    params: FineParams | None = None,
    generator: torch.Generator,
) -> Generator[StageProgress, None, FineCodes]:
    """Predict the remaining codebooks; one event a codebook and window.

    Args:
        coarse: [n_coarse_codebooks, T].
        history: a voice's fine codes; the last fine_history frames count.
        generator: on the model's device.
    Returns:
        [n_codebooks, T]; the first rows are those of `coarse`.
    Source: suno-ai/bark, generate_fine.
    """
    params = params or FineParams()
    layout = coarse.layout
    plan = plan_fine(coarse, history)
    codes = torch.from_numpy(plan.codes).to(model.device)  # (T, codebook)
    windows = list(plan.windows())
    predicted = range(layout.n_coarse_codebooks, layout.n_codebooks)
    done, total = 0, len(windows) * len(predicted)
    for start, fill in windows:
        # a view: what is filled here is seen by the later codebooks and windows
        window = codes[start : start + layout.fine_window]
        for codebook in predicted:
            with torch.inference_mode():
                logits = model(codebook, window[None])[0, fill:, : layout.codebook_size]
                window[fill:, codebook] = draw_codes(logits, params, generator)
            done += 1
            yield StageProgress(Stage.FINE, done, total)
    body = codes[plan.n_history : plan.n_history + plan.n_frames]
    return FineCodes(body.T.cpu().numpy(), layout)

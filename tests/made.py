"""Generations that nobody had to generate: for the tests of what is done with them."""

from __future__ import annotations

import numpy as np

from bark_core import Audio, Generation, GenerationRequest, ModelIdentity, SegmentResult, Voice
from bark_core.tokens import CoarseCodes, FineCodes, SemanticTokens
from tests.tiny import TINY_LAYOUT


def made(
    text: str = "Good evening.",
    *,
    seed: int = 7,
    voice_name: str | None = None,
    seconds: float = 0.2,
    n_segments: int = 1,
    n_planned: int | None = None,
) -> Generation:
    """A result of `n_segments` segments of noise, `seconds` long each."""
    draw = np.random.default_rng(seed)
    n_frames = round(seconds * TINY_LAYOUT.frame_rate_hz)
    codes = draw.integers(0, TINY_LAYOUT.codebook_size, (TINY_LAYOUT.n_codebooks, n_frames))
    semantic = draw.integers(0, TINY_LAYOUT.semantic_vocab, round(n_frames / 1.5))
    fine = FineCodes(codes, TINY_LAYOUT)
    voice = None
    if voice_name is not None:
        tokens = SemanticTokens(semantic, TINY_LAYOUT)
        voice = Voice(semantic=tokens, coarse=fine.coarse, fine=fine, name=voice_name)
    segment = SegmentResult(
        text=text,
        semantic=SemanticTokens(semantic, TINY_LAYOUT),
        coarse=CoarseCodes(codes[: TINY_LAYOUT.n_coarse_codebooks], TINY_LAYOUT),
        fine=fine,
        audio=Audio(draw.normal(0, 0.1, n_frames * 320).astype(np.float32)),
        pause_s=0.0,
        seconds={"semantic": 0.1, "coarse": 0.2, "fine": 0.1, "codec": 0.05},
        ended=True,
    )
    return Generation(
        request=GenerationRequest(text, voice=voice, seed=seed),
        model=ModelIdentity("tiny", "tests", "0", "float32", TINY_LAYOUT.name),
        segments=(segment,) * n_segments,
        n_planned=n_planned or n_segments,
    )

"""A random model for the page's tests: it makes some seconds of noise, slowly enough to watch."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from bark_core.config import CascadeConfig, CodecConfig, FineConfig, GPTConfig
from tests.tiny import TINY_LAYOUT, save_tiny_model

N_TEXT, N_SEMANTIC, N_CODES = 200, 120, 64
LAYOUT = replace(
    TINY_LAYOUT,
    name="page",
    text_offset=N_SEMANTIC + 4,
    text_pad=N_SEMANTIC + 4 + N_TEXT,
    semantic_infer=N_SEMANTIC + 5 + N_TEXT,
    semantic_vocab=N_SEMANTIC,
    text_window=96,
    max_semantic_tokens=200,
    coarse_semantic_pad=N_SEMANTIC + 2 * N_CODES,
    coarse_infer=N_SEMANTIC + 2 * N_CODES + 1,
    coarse_semantic_window=64,
    max_coarse_history=120,
    coarse_window=30,
    codebook_size=N_CODES,
    fine_window=128,
    fine_history=64,
)


def page_config() -> CascadeConfig:
    """The structure of Bark with narrow networks: a segment lasts up to four seconds."""
    shape: dict[str, Any] = {"n_layer": 2, "n_head": 2, "n_embd": 48}
    n_coarse = LAYOUT.coarse_infer + 2
    return CascadeConfig(
        name="page",
        layout=LAYOUT,
        text=GPTConfig(
            input_vocab_size=LAYOUT.semantic_infer + 1,
            output_vocab_size=N_SEMANTIC + 2,
            block_size=LAYOUT.text_window + 1 + LAYOUT.max_semantic_tokens,
            **shape,
        ),
        coarse=GPTConfig(
            input_vocab_size=n_coarse,
            output_vocab_size=n_coarse,
            block_size=LAYOUT.coarse_semantic_window + 1 + LAYOUT.max_coarse_history + 30,
            **shape,
        ),
        fine=FineConfig(
            input_vocab_size=N_CODES + 2,
            output_vocab_size=N_CODES + 2,
            block_size=LAYOUT.fine_window,
            **shape,
        ),
        codec=CodecConfig(n_filters=4, dimension=8, lstm=1, n_q=8, bins=N_CODES),
        cues=("[laughs]",),
        demonstration=True,
    )


def save_page_model(folder: Path) -> Path:
    """Write it in our own layout, for `load(folder)`."""
    return save_tiny_model(folder, config=page_config())

"""The shape of pup: a Bark whose rates, vocabularies and windows suit two CPU cores.

Semantic tokens come at 33.3 Hz and codes at 50 Hz, two thirds of Bark's rates, so a second of
sound costs a third less and the frames still stand at 1.5 a token. Windows are about half as
long as Bark's, which halves the prefill of the coarse stage. Why each: docs/log.md.
"""

from __future__ import annotations

from bark_core.config import (
    AnalysisConfig,
    CascadeConfig,
    CodecConfig,
    FineConfig,
    GPTConfig,
    RecogniserConfig,
    TokenLayout,
    VocoderConfig,
)
from training.prompts import CUES

N_TEXT_TOKENS = 160
CODEBOOK_SIZE = 512
SEMANTIC_VOCAB = 720  # training.units has 711
TEXT_OFFSET = 728
N_COARSE = 3  # codebooks
N_COARSE_IDS = SEMANTIC_VOCAB + N_COARSE * CODEBOOK_SIZE

LAYOUT = TokenLayout(
    name="pup-2",  # the second kind of codebooks; voices belong to one
    text_offset=TEXT_OFFSET,
    text_pad=TEXT_OFFSET + N_TEXT_TOKENS,
    semantic_infer=TEXT_OFFSET + N_TEXT_TOKENS + 1,
    semantic_vocab=SEMANTIC_VOCAB,
    semantic_rate_hz=100 / 3,
    text_window=192,
    max_semantic_tokens=512,
    coarse_semantic_pad=N_COARSE_IDS,
    coarse_infer=N_COARSE_IDS + 1,
    n_coarse_codebooks=N_COARSE,
    coarse_semantic_window=128,
    max_coarse_history=120 * N_COARSE,
    coarse_window=30 * N_COARSE,
    n_codebooks=4,
    codebook_size=CODEBOOK_SIZE,
    fine_window=256,
    fine_history=128,
    frame_rate_hz=50.0,
    sample_rate_hz=24_000,
)

CONFIG = CascadeConfig(
    name="pup",
    layout=LAYOUT,
    text=GPTConfig(
        n_layer=4,
        n_head=4,
        n_embd=256,
        input_vocab_size=896,
        output_vocab_size=728,
        block_size=LAYOUT.text_window + LAYOUT.max_semantic_tokens,
    ),
    coarse=GPTConfig(
        n_layer=3,  # a step costs time by layers, hardly by width
        n_head=5,
        n_embd=320,
        input_vocab_size=2264,
        output_vocab_size=2264,
        block_size=584,
    ),
    fine=FineConfig(
        n_layer=3,
        n_head=3,
        n_embd=192,
        input_vocab_size=520,
        output_vocab_size=520,
        block_size=LAYOUT.fine_window,
        n_codes_total=4,
        n_codes_given=2,
    ),
    codec=CodecConfig(
        ratios=(6, 5, 4, 4),
        dimension=64,
        n_q=4,
        bins=CODEBOOK_SIZE,
        analysis=AnalysisConfig(),
        vocoder=VocoderConfig(),
    ),
    languages=("en",),
    spell_numbers=True,
    demonstration=True,
    recogniser=RecogniserConfig(),
    cues=(*CUES, "♪", "...", "CAPITALS"),
    segment_s=12.0,  # as long as its longest prompts
)

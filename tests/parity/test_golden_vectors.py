"""Published results of the published weights: needs them, so it is run by hand.

    BARK_STUDIO_WEIGHTS=large python -m pytest -m weights tests/parity/test_golden_vectors.py

The variable names a model for `load` (or a folder) with the weights of the large Bark. The
figures are those of the transformers test suite: float32, the likeliest token at each step, the
voice en_speaker_6.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from bark_core import (
    CoarseParams,
    FineParams,
    Generation,
    GenerationRequest,
    SemanticParams,
    Settings,
    VoiceLibrary,
    load,
    load_voice,
    voice_fetcher,
)
from bark_core.config import BARK_LAYOUT
from bark_core.voices import Voice

WEIGHTS = os.environ.get("BARK_STUDIO_WEIGHTS", "")
VOICE = os.environ.get("BARK_STUDIO_VOICE", "")  # a local en_speaker_6.npz, or from the hub
TEXT = "In the light of the moon, a little egg lay on a leaf"
SEMANTIC = [7363, 321, 41, 1461, 6915, 952, 326, 41, 41, 927]
COARSE = [
    *(11018, 11391, 10651, 11418, 10857, 11620, 10642, 11366),
    *(10312, 11528, 10531, 11516, 10474, 11051, 10524, 11051),
]
FINE_ROWS = {
    2: [961, 955, 221, 955, 955, 686, 939, 939, 479, 176],
    7: [806, 685, 905, 848, 803, 810, 921, 208, 625, 203],
}

pytestmark = [
    pytest.mark.weights,
    pytest.mark.skipif(not WEIGHTS, reason="BARK_STUDIO_WEIGHTS names no model"),
]


@pytest.fixture(scope="module")
def voice() -> Voice:
    if VOICE:
        return load_voice(VOICE, layout=BARK_LAYOUT)
    return VoiceLibrary.default(fetch=voice_fetcher())["en_speaker_6"]


@pytest.fixture(scope="module")
def result(voice: Voice) -> Generation:
    greedy = Settings(
        semantic=SemanticParams(temperature=0.0, min_eos_p=None),
        coarse=CoarseParams(temperature=0.0),
        fine=FineParams(temperature=0.0),
    )
    weights: str | Path = Path(WEIGHTS) if Path(WEIGHTS).is_dir() else WEIGHTS
    cascade = load(weights, precision="float32")
    return cascade.generate(GenerationRequest(TEXT, voice=voice, seed=0, settings=greedy))


def test_semantic_tokens_are_the_published(result: Generation) -> None:
    assert result.segments[0].semantic.values[: len(SEMANTIC)].tolist() == SEMANTIC


def test_coarse_codes_are_the_published(result: Generation) -> None:
    codes = result.segments[0].coarse.values.astype(int)
    flat = (codes + np.array([[10_000], [11_024]])).ravel(order="F")
    assert flat[: len(COARSE)].tolist() == COARSE


@pytest.mark.parametrize("row", FINE_ROWS)
def test_fine_codes_are_the_published(result: Generation, row: int) -> None:
    codes = result.segments[0].fine.values[row]
    assert codes[: len(FINE_ROWS[row])].tolist() == FINE_ROWS[row]

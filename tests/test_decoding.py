"""The law of the quick way: not one token differs from the plain one's."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from torch import Tensor

from bark_core import Cascade, Generation, GenerationRequest, VoiceLibrary, load
from bark_core.request import CoarseParams, SemanticParams, Settings
from bark_core.transformer import CausalGPT, KVCache
from tests import tiny

PUP = Path(__file__).resolve().parent.parent / "models" / "pup"


class Plain:
    """Goes on one position at a time through the modules, as nothing quicker was there."""

    def __init__(self, model: CausalGPT) -> None:
        self.model = model
        self.logits = model.logits

    def step(self, tokens: Tensor, caches: Sequence[KVCache]) -> Tensor:
        (cache,) = caches
        hidden: Tensor = self.model(self.model.embed(tokens[:, None]), cache)
        return hidden[:, 0]


def both_ways(
    cascade: Cascade, request: GenerationRequest, monkeypatch: pytest.MonkeyPatch
) -> tuple[Generation, Generation]:
    quick = cascade.generate(request)
    with monkeypatch.context() as patch:
        patch.setattr(CausalGPT, "decoder", lambda model: Plain(model))
        return quick, cascade.generate(request)


def check_same(quick: Generation, plain: Generation) -> None:
    for ours, expected in zip(quick.segments, plain.segments, strict=True):
        assert np.array_equal(ours.semantic.values, expected.semantic.values)
        assert np.array_equal(ours.coarse.values, expected.coarse.values)
        assert np.array_equal(ours.fine.values, expected.fine.values)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("temperature", [0.0, 0.7, 1.5])
def test_a_random_model_gives_the_same_tokens(
    seed: int, temperature: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = Settings(
        semantic=SemanticParams(temperature=temperature, allow_early_stop=False),
        coarse=CoarseParams(temperature=temperature, top_k=9, top_p=0.95),
    )
    cascade = tiny.tiny_cascade(seed)
    check_same(
        *both_ways(
            cascade,
            GenerationRequest("Hello the cat. The dog ran.", seed=seed, settings=settings),
            monkeypatch,
        )
    )


@pytest.mark.slow
@pytest.mark.skipif(not (PUP / "config.json").is_file(), reason="models/pup isn't here")
def test_pup_gives_the_same_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    cascade, library = load("pup", device="cpu", precision="float32"), VoiceLibrary.default()
    voice = library[library.names(cascade.config.layout.name)[0]]
    for seed, who in enumerate((voice, None)):
        request = GenerationRequest("The phone rang twice and then stopped.", who, seed)
        check_same(*both_ways(cascade, request, monkeypatch))

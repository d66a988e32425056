"""The same weights and draws give the same logits and tokens as suno-ai/bark itself.

The original draws with torch.multinomial; here it is made to draw by the same uniform numbers as
ours, in the same way.

Set BARK_ORIGINAL to a checkout of https://github.com/suno-ai/bark (commit f4f32d4; it needs
`funcy`, `scipy` and `transformers`); without it these tests are skipped. Weights are random, of
the true vocabularies and windows, with narrow networks; outputs are sharpened so that ends,
thresholds and repeated winners occur.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Generator, Iterable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from bark_core.coarse import generate_coarse
from bark_core.config import BARK_LAYOUT, bark_config
from bark_core.fine import frame_draws, generate_fine, plan_fine
from bark_core.request import CoarseParams, FineParams, SemanticParams
from bark_core.sampling import pick, uniforms
from bark_core.semantic import generate_semantic
from bark_core.tokens import CoarseCodes, FineCodes, SemanticTokens, TextTokens
from bark_core.transformer import CausalGPT, FineGPT
from tests import tiny

ORIGINAL = os.environ.get("BARK_ORIGINAL")
pytestmark = pytest.mark.skipif(
    not ORIGINAL, reason="BARK_ORIGINAL names no checkout of suno-ai/bark"
)
CONFIG = bark_config("narrow", n_layer=2, n_head=2, n_embd=16)


@pytest.fixture(scope="module")
def original() -> Iterator[Any]:
    """The original's `generation` module."""
    tiny.import_transformers()
    tiny.import_encodec()
    sys.path.insert(0, str(ORIGINAL))
    try:
        yield importlib.import_module("bark.generation")
    finally:
        sys.path.remove(str(ORIGINAL))


@pytest.fixture(scope="module")
def models(original: Any) -> dict[str, Any]:
    """Ours, and the original's with the same weights in its global table."""
    torch.manual_seed(0)
    ours: dict[str, Any] = {
        "text": CausalGPT(CONFIG.text),
        "coarse": CausalGPT(CONFIG.coarse),
        "fine": FineGPT(CONFIG.fine),
    }
    for stage, model in ours.items():
        for name, weight in model.named_parameters():
            weight.requires_grad_(False)
            if weight.ndim == 2:
                # fine's heads are its embeddings too: sharpen those less
                weight.normal_(std=1.0 if "lm_head." in name else 0.5)
        args = {"bias": False, "dropout": 0.0, "block_size": 1024}
        shape = {
            key: getattr(model.config, key)
            for key in ("n_layer", "n_head", "n_embd", "input_vocab_size", "output_vocab_size")
        }
        if stage == "fine":
            extra = {"n_codes_total": 8, "n_codes_given": 1}
            theirs = original.FineGPT(original.FineGPTConfig(**shape, **args, **extra))
        else:
            theirs = original.GPT(original.GPTConfig(**shape, **args))
        theirs.load_state_dict(model.state_dict())
        theirs.eval()
        original.models[stage] = {"model": theirs, "tokenizer": None} if stage == "text" else theirs
    return ours


def end_of(run: Generator[Any, None, Any]) -> Any:
    while True:
        try:
            next(run)
        except StopIteration as end:
            return end.value


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def draw_by(monkeypatch: pytest.MonkeyPatch, numbers: Iterable[torch.Tensor]) -> None:
    """Have torch.multinomial draw by uniform numbers: as many a call as it gets rows."""
    coming = iter(numbers)

    def multinomial(probs: torch.Tensor, num_samples: int) -> torch.Tensor:
        assert num_samples == 1
        return pick(probs, next(coming))[..., None]

    monkeypatch.setattr(torch, "multinomial", multinomial)


def one_by_one(seed: int) -> Iterable[torch.Tensor]:
    return uniforms(seeded(seed), 10_000)


def voice(seed: int, n_semantic: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    n_frames = int(n_semantic * BARK_LAYOUT.frames_per_semantic)
    fine = rng.integers(0, 1024, (8, n_frames))
    return {
        "semantic_prompt": rng.integers(0, 10_000, n_semantic),
        "coarse_prompt": fine[:2].copy(),
        "fine_prompt": fine,
    }


def say(original: Any, monkeypatch: pytest.MonkeyPatch, ids: list[int], **settings: Any) -> Any:
    """The original's first stage on given text tokens."""
    tokenizer = SimpleNamespace(encode=lambda text, add_special_tokens: ids)
    monkeypatch.setitem(original.models["text"], "tokenizer", tokenizer)
    return original.generate_text_semantic("text", silent=True, use_kv_caching=True, **settings)


def test_logits_of_causal_models_equal(original: Any, models: dict[str, Any]) -> None:
    ids = torch.randint(0, 10_000, (1, 300), generator=seeded(1))
    for stage in ("text", "coarse"):
        theirs = original.models[stage]
        theirs = theirs["model"] if stage == "text" else theirs
        model = models[stage]
        expected = theirs(ids)[0][0, -1]
        got = model.logits(model(model.embed(ids)))[0, -1]
        torch.testing.assert_close(got, expected, atol=1e-4, rtol=0)


def test_logits_of_fine_model_equal(original: Any, models: dict[str, Any]) -> None:
    codes = torch.randint(0, 1024, (1, 1024, 8), generator=seeded(2))
    for codebook in range(1, 8):
        expected = original.models["fine"](codebook, codes)
        got = models["fine"](codebook, codes)
        torch.testing.assert_close(got, expected, atol=1e-4, rtol=0)


SEMANTIC_CASES: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({}, {}),
    ({"temp": 1.0, "top_k": 50}, {"temperature": 1.0, "top_k": 50}),
    ({"top_p": 0.9}, {"top_p": 0.9}),
    ({"top_p": 0.95, "top_k": 20}, {"top_p": 0.95, "top_k": 20}),
    ({"min_eos_p": None}, {"min_eos_p": None}),
    ({"min_eos_p": 1e-4}, {"min_eos_p": 1e-4}),
    ({"max_gen_duration_s": 1.5}, {"max_duration_s": 1.5}),
    ({"allow_early_stop": False, "max_gen_duration_s": 2.0},
     {"allow_early_stop": False, "max_duration_s": 2.0}),
]  # fmt: skip


@pytest.mark.parametrize("with_voice", [False, True])
@pytest.mark.parametrize(("theirs", "ours"), SEMANTIC_CASES)
def test_semantic_tokens_equal(
    original: Any,
    models: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
    theirs: dict[str, Any],
    ours: dict[str, Any],
    with_voice: bool,
) -> None:
    ids = np.random.default_rng(3).integers(0, 100_000, 40).tolist()
    past = voice(4, 300) if with_voice else None
    draw_by(monkeypatch, one_by_one(11))
    expected = say(original, monkeypatch, ids, history_prompt=past, **theirs)
    got = end_of(
        generate_semantic(
            models["text"],
            TextTokens(np.array(ids), BARK_LAYOUT),
            history=SemanticTokens(past["semantic_prompt"], BARK_LAYOUT) if past else None,
            params=SemanticParams(**ours),
            generator=seeded(11),
        )
    )
    np.testing.assert_array_equal(got.values, expected)


@pytest.mark.parametrize("n_text", [1, 7, 255, 256])
def test_semantic_tokens_equal_for_all_lengths(
    original: Any, models: dict[str, Any], monkeypatch: pytest.MonkeyPatch, n_text: int
) -> None:
    ids = np.random.default_rng(n_text).integers(0, 100_000, n_text).tolist()
    draw_by(monkeypatch, one_by_one(n_text))
    expected = say(original, monkeypatch, ids, allow_early_stop=False)
    assert len(expected) == 768
    got = end_of(
        generate_semantic(
            models["text"],
            TextTokens(np.array(ids), BARK_LAYOUT),
            params=SemanticParams(allow_early_stop=False),
            generator=seeded(n_text),
        )
    )
    np.testing.assert_array_equal(got.values, expected)


COARSE_CASES: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({}, {}),
    ({"temp": 1.2, "top_k": 30}, {"temperature": 1.2, "top_k": 30}),
    ({"top_p": 0.8}, {"top_p": 0.8}),
    ({"max_coarse_history": 60}, {"max_history": 60}),
]


@pytest.mark.parametrize("n_history", [0, 1, 2, 11, 208, 400])
@pytest.mark.parametrize(("theirs", "ours"), COARSE_CASES)
def test_coarse_codes_equal(
    original: Any,
    models: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
    theirs: dict[str, Any],
    ours: dict[str, Any],
    n_history: int,
) -> None:
    semantic = np.random.default_rng(5).integers(0, 10_000, 90)
    # of one token the original would keep all instead of nothing ([-0:]): not compared
    past = voice(6, n_history) if n_history > 1 else None
    draw_by(monkeypatch, one_by_one(12))
    expected = original.generate_coarse(
        semantic, history_prompt=past, silent=True, use_kv_caching=True, **theirs
    )
    history = None
    if past:
        history = (
            SemanticTokens(past["semantic_prompt"], BARK_LAYOUT),
            CoarseCodes(past["coarse_prompt"], BARK_LAYOUT),
        )
    got = end_of(
        generate_coarse(
            models["coarse"],
            SemanticTokens(semantic, BARK_LAYOUT),
            history=history,
            params=CoarseParams(**ours),
            generator=seeded(12),
        )
    )
    np.testing.assert_array_equal(got.values, expected)


def test_coarse_codes_equal_once_the_window_slides(
    original: Any, models: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    semantic = np.random.default_rng(7).integers(0, 10_000, 330)  # 992 coarse tokens
    draw_by(monkeypatch, one_by_one(13))
    expected = original.generate_coarse(semantic, silent=True, use_kv_caching=True)
    got = end_of(
        generate_coarse(
            models["coarse"], SemanticTokens(semantic, BARK_LAYOUT), generator=seeded(13)
        )
    )
    np.testing.assert_array_equal(got.values, expected)


def frame_by_frame(
    coarse: CoarseCodes, history: FineCodes | None, seed: int
) -> Iterator[torch.Tensor]:
    """The numbers of each window and codebook, in the original's order."""
    plan = plan_fine(coarse, history)
    draws = frame_draws(seeded(seed), len(plan.codes) - plan.n_history, BARK_LAYOUT)
    for start, fill in plan.windows():
        first = start + fill - plan.n_history
        yield from draws[first : first + BARK_LAYOUT.fine_window - fill].T


@pytest.mark.parametrize("temperature", [0.5, None])
@pytest.mark.parametrize("n_history", [0, 100, 400])
@pytest.mark.parametrize("n_frames", [1, 300, 700, 1100, 1600])
def test_fine_codes_equal(
    original: Any,
    models: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
    n_frames: int,
    n_history: int,
    temperature: float | None,
) -> None:
    coarse = np.random.default_rng(8).integers(0, 1024, (2, n_frames))
    past = voice(9, n_history) if n_history else None
    codes = CoarseCodes(coarse, BARK_LAYOUT)
    history = FineCodes(past["fine_prompt"], BARK_LAYOUT) if past else None
    draw_by(monkeypatch, frame_by_frame(codes, history, 14))
    expected = original.generate_fine(coarse, history_prompt=past, temp=temperature)
    got = end_of(
        generate_fine(
            models["fine"],
            codes,
            history=history,
            params=FineParams(temperature=temperature or 0.0),
            generator=seeded(14),
        )
    )
    np.testing.assert_array_equal(got.values, expected)


def test_checkout_is_where_the_variable_says() -> None:
    assert (Path(str(ORIGINAL)) / "bark" / "generation.py").is_file()

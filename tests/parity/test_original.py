"""The same weights and draws give the same logits and tokens as suno-ai/bark itself.

The original draws with torch.multinomial; here it is made to draw by the same uniform numbers as
ours, in the same way. Logits agree within `AGREE`, no nearer: processors add up in another order.
A number may lie so near to the border between two tokens that the last digits decide. Then ours
and the original's are both right, and the original goes on from ours; everywhere else it goes on
from its own, and all that it makes must be what ours made.

Set BARK_ORIGINAL to a checkout of https://github.com/suno-ai/bark (commit f4f32d4; it needs
`funcy`, `scipy` and `transformers`); without it these tests are skipped. Weights are random, of
the true vocabularies and windows, with narrow networks; outputs are sharpened so that ends,
thresholds and repeated winners occur.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from bark_core import coarse, fine, semantic
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
ABSENT = "BARK_ORIGINAL names no checkout of suno-ai/bark"
AGREE = 1e-4  # how far logits may be apart
LOWEST = 0.5  # temperature that is drawn with here
# A sum of probabilities C is A / (A + B). Logits that are off by AGREE change A / B by a factor of
# exp(2 * AGREE / temperature) at most, so C by C * (1 - C) * 2 * AGREE / temperature.
BORDER = AGREE / (2 * LOWEST)
CONFIG = bark_config("narrow", n_layer=2, n_head=2, n_embd=16)


@pytest.fixture(scope="module")
def original() -> Iterator[Any]:
    """The original's `generation` module."""
    if not ORIGINAL:
        pytest.skip(ABSENT)
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


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[torch.Tensor]:
    """The tokens that ours draws, call by call."""
    tokens: list[torch.Tensor] = []

    def note(probs: torch.Tensor, uniform: torch.Tensor) -> torch.Tensor:
        tokens.append(pick(probs, uniform))
        return tokens[-1]

    for stage in (semantic, coarse, fine):
        monkeypatch.setattr(stage, "pick", note)
    return tokens


def on_border(probs: torch.Tensor, number: torch.Tensor, token: torch.Tensor) -> torch.Tensor:
    """Whether a number that lies within BORDER of a token's own part could have drawn it.

    Args:
        probs: [..., V]. number, token: [...].
    """
    share = probs.gather(-1, token[..., None])[..., 0]
    upper = probs.cumsum(-1).gather(-1, token[..., None])[..., 0]
    near = (number >= upper - share - BORDER) & (number <= upper + BORDER)
    return near & (share > 0)


def nearly_best(logits: torch.Tensor, token: torch.Tensor) -> torch.Tensor:
    """Whether a token's logit could be the largest one. [..., V], [...] to [...]."""
    return logits.gather(-1, token[..., None])[..., 0] >= logits.amax(-1) - 2 * AGREE


def draw_by(
    monkeypatch: pytest.MonkeyPatch, numbers: Iterable[torch.Tensor], drawn: Sequence[torch.Tensor]
) -> None:
    """Have the original draw by uniform numbers: as many a call as it gets rows.

    Args:
        drawn: what ours drew, call by call: taken where a number is on the border.
    """
    coming, ours = iter(numbers), iter(drawn)

    def draw(own: torch.Tensor, could_be: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor:
        token = next(ours, own).view_as(own)
        return torch.where(could_be(token), token, own)

    def multinomial(probs: torch.Tensor, num_samples: int) -> torch.Tensor:
        assert num_samples == 1
        number = next(coming)
        return draw(pick(probs, number), partial(on_border, probs, number))[..., None]

    def argmax(logits: torch.Tensor, dim: int) -> torch.Tensor:
        assert dim == -1
        return draw(logits.argmax(-1), partial(nearly_best, logits))

    monkeypatch.setattr(torch, "multinomial", multinomial)
    monkeypatch.setattr(torch, "argmax", argmax)


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
        torch.testing.assert_close(got, expected, atol=AGREE, rtol=0)


def test_logits_of_fine_model_equal(original: Any, models: dict[str, Any]) -> None:
    codes = torch.randint(0, 1024, (1, 1024, 8), generator=seeded(2))
    for codebook in range(1, 8):
        expected = original.models["fine"](codebook, codes)
        got = models["fine"](codebook, codes)
        torch.testing.assert_close(got, expected, atol=AGREE, rtol=0)


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
    drawn: list[torch.Tensor],
) -> None:
    ids = np.random.default_rng(3).integers(0, 100_000, 40).tolist()
    past = voice(4, 300) if with_voice else None
    got = end_of(
        generate_semantic(
            models["text"],
            TextTokens(np.array(ids), BARK_LAYOUT),
            history=SemanticTokens(past["semantic_prompt"], BARK_LAYOUT) if past else None,
            params=SemanticParams(**ours),
            generator=seeded(11),
        )
    )
    draw_by(monkeypatch, one_by_one(11), drawn)
    expected = say(original, monkeypatch, ids, history_prompt=past, **theirs)
    np.testing.assert_array_equal(got.values, expected)


@pytest.mark.parametrize("n_text", [1, 7, 255, 256])
def test_semantic_tokens_equal_for_all_lengths(
    original: Any,
    models: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
    n_text: int,
    drawn: list[torch.Tensor],
) -> None:
    ids = np.random.default_rng(n_text).integers(0, 100_000, n_text).tolist()
    got = end_of(
        generate_semantic(
            models["text"],
            TextTokens(np.array(ids), BARK_LAYOUT),
            params=SemanticParams(allow_early_stop=False),
            generator=seeded(n_text),
        )
    )
    draw_by(monkeypatch, one_by_one(n_text), drawn)
    expected = say(original, monkeypatch, ids, allow_early_stop=False)
    assert len(expected) == 768
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
    drawn: list[torch.Tensor],
) -> None:
    tokens = np.random.default_rng(5).integers(0, 10_000, 90)
    # of one token the original would keep all instead of nothing ([-0:]): not compared
    past = voice(6, n_history) if n_history > 1 else None
    history = None
    if past:
        history = (
            SemanticTokens(past["semantic_prompt"], BARK_LAYOUT),
            CoarseCodes(past["coarse_prompt"], BARK_LAYOUT),
        )
    got = end_of(
        generate_coarse(
            models["coarse"],
            SemanticTokens(tokens, BARK_LAYOUT),
            history=history,
            params=CoarseParams(**ours),
            generator=seeded(12),
        )
    )
    draw_by(monkeypatch, one_by_one(12), drawn)
    expected = original.generate_coarse(
        tokens, history_prompt=past, silent=True, use_kv_caching=True, **theirs
    )
    np.testing.assert_array_equal(got.values, expected)


def test_coarse_codes_equal_once_the_window_slides(
    original: Any,
    models: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
    drawn: list[torch.Tensor],
) -> None:
    tokens = np.random.default_rng(7).integers(0, 10_000, 330)  # 992 coarse tokens
    got = end_of(
        generate_coarse(models["coarse"], SemanticTokens(tokens, BARK_LAYOUT), generator=seeded(13))
    )
    draw_by(monkeypatch, one_by_one(13), drawn)
    expected = original.generate_coarse(tokens, silent=True, use_kv_caching=True)
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


@pytest.mark.parametrize("temperature", [LOWEST, None])
@pytest.mark.parametrize("n_history", [0, 100, 400])
@pytest.mark.parametrize("n_frames", [1, 300, 700, 1100, 1600])
def test_fine_codes_equal(
    original: Any,
    models: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
    n_frames: int,
    n_history: int,
    temperature: float | None,
    drawn: list[torch.Tensor],
) -> None:
    known = np.random.default_rng(8).integers(0, 1024, (2, n_frames))
    past = voice(9, n_history) if n_history else None
    codes = CoarseCodes(known, BARK_LAYOUT)
    history = FineCodes(past["fine_prompt"], BARK_LAYOUT) if past else None
    got = end_of(
        generate_fine(
            models["fine"],
            codes,
            history=history,
            params=FineParams(temperature=temperature or 0.0),
            generator=seeded(14),
        )
    )
    draw_by(monkeypatch, frame_by_frame(codes, history, 14), drawn)
    expected = original.generate_fine(known, history_prompt=past, temp=temperature)
    np.testing.assert_array_equal(got.values, expected)


def test_only_a_number_on_the_border_makes_two_tokens_equal(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    probs = torch.tensor([[0.25, 0.0, 0.5, 0.25]])
    cases = [
        (0.25 - BORDER / 2, 2, 2), (0.25 + BORDER / 2, 0, 0),  # both are right: ours
        (0.25 - 2 * BORDER, 2, 0), (0.25 + 2 * BORDER, 0, 2),  # really another one: its own
        (0.25 + BORDER / 2, 3, 2),  # not the one beside it
        (0.25 + BORDER / 2, 1, 2),  # beside it, and impossible
    ]  # fmt: skip
    numbers = [torch.tensor([number]) for number, _, _ in cases]
    draw_by(monkeypatch, numbers, [torch.tensor([ours]) for _, ours, _ in cases])
    made = [int(torch.multinomial(probs, num_samples=1)) for _ in cases]
    assert made == [expected for _, _, expected in cases]

    logits = torch.tensor([[1.0, 2.0, 2.0 - AGREE, 2.0 - 4 * AGREE]])
    draw_by(monkeypatch, [], [torch.tensor([ours]) for ours in (2, 3)])
    assert [int(torch.argmax(logits, -1)) for _ in range(2)] == [2, 1]


@pytest.mark.skipif(not ORIGINAL, reason=ABSENT)
def test_checkout_is_where_the_variable_says() -> None:
    assert (Path(str(ORIGINAL)) / "bark" / "generation.py").is_file()

"""Laws of the transformers: a cache changes nothing, the past doesn't see the future."""

from __future__ import annotations

import dataclasses
import itertools
from typing import TypeVar

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bark_core import native
from bark_core.config import FineConfig, GPTConfig
from bark_core.errors import InvalidCheckpoint, InvalidTokens
from bark_core.transformer import CausalGPT, CompiledDecoder, FineGPT, KVCache, PlainDecoder
from tests.tiny import tiny_config

CONFIG = tiny_config().text
Model = TypeVar("Model", bound=nn.Module)


@pytest.fixture(scope="module")
def model() -> CausalGPT:
    torch.manual_seed(0)
    return lively(CausalGPT(CONFIG))


@pytest.fixture(scope="module")
def fine() -> FineGPT:
    torch.manual_seed(1)
    return lively(FineGPT(tiny_config().fine))


def lively(model: Model) -> Model:
    """Weights so large that whatever is left out is seen in the logits."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
    return model.eval().requires_grad_(False)


def tokens(batch: int, length: int, vocab: int = CONFIG.input_vocab_size) -> Tensor:
    return torch.randint(0, vocab, (batch, length), generator=torch.Generator().manual_seed(length))


def assert_the_same_but_for_rounding(got: Tensor, expected: Tensor) -> None:
    """Within four float32 roundings of the largest number.

    Sums of differently signed numbers round at the size of what is added, however near to zero
    they end; in which order they are added is each processor's own.
    """
    rounding = torch.finfo(torch.float32).eps * float(expected.abs().max())
    torch.testing.assert_close(got, expected, rtol=1e-5, atol=4 * rounding)


def run(model: CausalGPT, ids: Tensor) -> Tensor:
    """Logits of all positions, without a cache."""
    return model.logits(model(model.embed(ids)))


@pytest.mark.parametrize("parts", [[10], [1] * 10, [9, 1], [1, 9], [4, 3, 3], [2, 1, 6, 1]])
def test_cached_equals_uncached(model: CausalGPT, parts: list[int]) -> None:
    ids = tokens(2, 10)
    cache = model.new_cache(batch=2, length=10)
    ends = [0, *itertools.accumulate(parts)]
    pieces = [
        model.logits(model(model.embed(ids[:, a:b]), cache)) for a, b in itertools.pairwise(ends)
    ]
    assert cache.n_positions == 10
    torch.testing.assert_close(torch.cat(pieces, dim=1), run(model, ids), rtol=1e-4, atol=1e-5)


def test_a_cache_longer_than_needed_changes_nothing(model: CausalGPT) -> None:
    ids = tokens(1, 6)
    long, short = (model(model.embed(ids), model.new_cache(1, n)) for n in (60, 6))
    torch.testing.assert_close(long, short)


def test_a_row_does_not_depend_on_its_neighbours(model: CausalGPT) -> None:
    ids = tokens(3, 8)
    alone = torch.cat([run(model, ids[row : row + 1]) for row in range(3)])
    torch.testing.assert_close(run(model, ids), alone, rtol=1e-4, atol=1e-5)


def test_the_past_does_not_see_the_future(model: CausalGPT) -> None:
    ids = tokens(1, 8)
    changed = ids.clone()
    changed[0, 5] = (changed[0, 5] + 1) % CONFIG.input_vocab_size
    before, after = run(model, ids), run(model, changed)
    torch.testing.assert_close(before[:, :5], after[:, :5])
    assert (before[:, 5:] - after[:, 5:]).abs().amax(-1).min() > 1e-4


def test_order_matters(model: CausalGPT) -> None:
    ids = tokens(1, 8)
    assert not torch.allclose(run(model, ids)[:, -1], run(model, ids.flip(1))[:, -1], atol=1e-3)


def test_positions_count_on_unless_given(model: CausalGPT) -> None:
    embedded = model.embed(tokens(1, 5))
    torch.testing.assert_close(model(embedded), model(embedded, positions=torch.arange(5)))
    assert not torch.allclose(model(embedded), model(embedded, positions=torch.arange(5) + 3))


def test_a_slice_of_the_head_is_a_slice_of_the_logits(model: CausalGPT) -> None:
    hidden = model(model.embed(tokens(1, 4)))
    torch.testing.assert_close(model.logits(hidden, 3, 9), model.logits(hidden)[..., 3:9])


def test_the_block_size_is_a_limit_not_a_crash(model: CausalGPT) -> None:
    size = CONFIG.block_size
    run(model, tokens(1, size))
    with pytest.raises(InvalidTokens, match=str(size)):
        run(model, tokens(1, size + 1))
    cache = model.new_cache(1, 10_000)
    assert cache.capacity == size
    model(model.embed(tokens(1, size)), cache)
    with pytest.raises(InvalidTokens):
        model(model.embed(tokens(1, 1)), cache)


def test_a_full_cache_is_a_limit(model: CausalGPT) -> None:
    cache = model.new_cache(1, 4)
    with pytest.raises(InvalidTokens):
        model(model.embed(tokens(1, 5)), cache)
    assert cache.n_positions == 0


def test_equals_a_plain_reference(model: CausalGPT) -> None:
    """The same network written out: fused projections split by hand, one head at a time."""
    ids = tokens(1, 7)
    state = {name: value.double() for name, value in model.state_dict().items()}
    width, heads = CONFIG.n_embd, CONFIG.n_head
    size = width // heads

    def norm(x: Tensor, name: str) -> Tensor:
        return F.layer_norm(x, (width,), state[f"{name}.weight"], None, 1e-5)

    x = state["transformer.wte.weight"][ids[0]] + state["transformer.wpe.weight"][:7]
    future = torch.ones(7, 7, dtype=torch.bool).triu(1)
    for layer in range(CONFIG.n_layer):
        name = f"transformer.h.{layer}"
        q, k, v = (norm(x, f"{name}.ln_1") @ state[f"{name}.attn.c_attn.weight"].T).split(width, 1)
        out = []
        for head in range(heads):
            part = slice(head * size, (head + 1) * size)
            scores = (q[:, part] @ k[:, part].T / size**0.5).masked_fill(future, -torch.inf)
            out.append(scores.softmax(-1) @ v[:, part])
        x = x + torch.cat(out, 1) @ state[f"{name}.attn.c_proj.weight"].T
        inner = norm(x, f"{name}.ln_2") @ state[f"{name}.mlp.c_fc.weight"].T
        inner = 0.5 * inner * (1 + torch.erf(inner / 2**0.5))
        x = x + inner @ state[f"{name}.mlp.c_proj.weight"].T
    expected = norm(x, "transformer.ln_f") @ state["lm_head.weight"].T
    torch.testing.assert_close(run(model, ids)[0], expected.float(), rtol=1e-4, atol=1e-4)


def test_names_are_those_of_the_published_checkpoints() -> None:
    names = set(CausalGPT(CONFIG).state_dict())
    assert names == {
        "transformer.wte.weight",
        "transformer.wpe.weight",
        "transformer.ln_f.weight",
        "lm_head.weight",
        *(
            f"transformer.h.{layer}.{part}.weight"
            for layer in range(CONFIG.n_layer)
            for part in ["ln_1", "attn.c_attn", "attn.c_proj", "ln_2", "mlp.c_fc", "mlp.c_proj"]
        ),
    }


def test_only_the_norms_of_fine_have_biases() -> None:
    biases = {name for name in FineGPT(tiny_config().fine).state_dict() if name.endswith(".bias")}
    assert biases
    assert all(".ln_" in name for name in biases)


def test_fine_heads_are_the_next_codebooks_embeddings(fine: FineGPT) -> None:
    state = fine.state_dict()
    for head in range(7):
        table = state[f"transformer.wtes.{head + 1}.weight"]
        assert table.data_ptr() == state[f"lm_heads.{head}.weight"].data_ptr()


def test_fine_sees_both_ways_but_no_later_codebook(fine: FineGPT) -> None:
    codes = torch.randint(0, 16, (1, 20, 8), generator=torch.Generator().manual_seed(0))
    before = fine(3, codes)
    for codebook, seen in [(0, True), (2, True), (3, True), (4, False), (7, False)]:
        changed = codes.clone()
        changed[0, 10, codebook] = (changed[0, 10, codebook] + 1) % 16
        difference = (fine(3, changed) - before).abs().amax(-1)[0]
        # the first and the last frame notice a change in the middle, or nobody does
        assert bool(difference[0] > 1e-5) is seen
        assert bool(difference[-1] > 1e-5) is seen


@pytest.mark.parametrize("n_out", [1, 7, 20])
def test_fewer_frames_out_are_the_last_of_all(fine: FineGPT, n_out: int) -> None:
    codes = torch.randint(0, 16, (2, 20, 8), generator=torch.Generator().manual_seed(0))
    assert_the_same_but_for_rounding(fine(3, codes, n_out), fine(3, codes)[:, 20 - n_out :])


@pytest.mark.parametrize("codebook", [-1, 0, 8])
def test_fine_predicts_only_what_it_has_heads_for(fine: FineGPT, codebook: int) -> None:
    with pytest.raises(InvalidTokens, match=r"1\.\.7"):
        fine(codebook, torch.zeros(1, 4, 8, dtype=torch.long))


def test_fine_refuses_a_window_beyond_its_block(fine: FineGPT) -> None:
    size = fine.config.block_size
    fine(1, torch.zeros(1, size, 8, dtype=torch.long))
    with pytest.raises(InvalidTokens, match=str(size)):
        fine(1, torch.zeros(1, size + 1, 8, dtype=torch.long))


def test_width_must_divide_into_heads() -> None:
    with pytest.raises(InvalidCheckpoint, match="multiple of n_head"):
        GPTConfig(n_layer=1, n_head=3, n_embd=16, input_vocab_size=4, output_vocab_size=4)


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ((12, 12, 768, 129_600, 10_048), 192_989_952),
        ((24, 16, 1024, 129_600, 10_048), 446_088_192),
        ((12, 12, 768, 12_096, 12_096), 104_319_744),
        ((24, 16, 1024, 12_096, 12_096), 327_861_248),
    ],
)
def test_published_shapes_have_the_published_number_of_parameters(
    config: tuple[int, int, int, int, int], expected: int
) -> None:
    layers, heads, width, n_in, n_out = config
    shape = GPTConfig(
        n_layer=layers, n_head=heads, n_embd=width, input_vocab_size=n_in, output_vocab_size=n_out
    )
    with torch.device("meta"):
        model = CausalGPT(shape)
    assert sum(parameter.numel() for parameter in model.parameters()) == expected


@pytest.mark.parametrize(
    ("layers", "heads", "width", "expected"),
    [(12, 12, 768, 92_247_552), (24, 16, 1024, 311_789_568)],
)
def test_published_fine_shapes_have_the_published_number_of_parameters(
    layers: int, heads: int, width: int, expected: int
) -> None:
    shape = FineConfig(
        n_layer=layers, n_head=heads, n_embd=width, input_vocab_size=1056, output_vocab_size=1056
    )
    with torch.device("meta"):
        model = FineGPT(shape)
    model.tie_weights()
    assert sum(parameter.numel() for parameter in model.parameters()) == expected


@pytest.mark.parametrize("n_past", [0, 5])
@pytest.mark.parametrize("n_out", [1, 3, 9])
def test_fewer_positions_out_are_the_last_of_all(model: CausalGPT, n_past: int, n_out: int) -> None:
    ids = tokens(2, n_past + 9)
    whole, part = model.new_cache(2, 20), model.new_cache(2, 20)
    for cache in (whole, part):
        model(model.embed(ids[:, :n_past]), cache) if n_past else None
    expected = model(model.embed(ids[:, n_past:]), whole)[:, -n_out:]
    got = model(model.embed(ids[:, n_past:]), part, n_out=n_out)
    assert_the_same_but_for_rounding(got, expected)
    assert_the_same_but_for_rounding(part.both, whole.both)


@pytest.fixture(params=["compiled", "plain"])
def decoder_kind(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> type:
    """Both kinds of decoder: the compiled one, and the one without a compiler."""
    if request.param == "plain":
        monkeypatch.setattr(native, "library", lambda: None)
        return PlainDecoder
    if native.library() is None:
        pytest.skip("there is no compiler here")
    return CompiledDecoder


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("n_prompt", [1, 7])
def test_the_decoder_goes_on_as_the_model_does(
    decoder_kind: type, batch: int, bias: bool, n_prompt: int
) -> None:
    torch.manual_seed(2)
    model = lively(CausalGPT(dataclasses.replace(CONFIG, bias=bias)))
    ids = tokens(batch, 12)
    plain, quick = model.new_cache(batch, 12), [model.new_cache(1, 12) for _ in range(batch)]
    model(model.embed(ids[:, :n_prompt]), plain)
    for row, cache in zip(ids, quick, strict=True):
        model(model.embed(row[None, :n_prompt]), cache)
    decoder = model.decoder()
    assert isinstance(decoder, decoder_kind)
    for place in range(n_prompt, 12):
        expected = model(model.embed(ids[:, place : place + 1]), plain)[:, 0]
        got = decoder.step(ids[:, place], quick)
        assert_the_same_but_for_rounding(got, expected)
        torch.testing.assert_close(decoder.logits(got, 3, 9), model.logits(expected, 3, 9))
    assert {cache.n_positions for cache in (plain, *quick)} == {12}
    keys = torch.cat([cache.keys for cache in quick], dim=1)
    assert_the_same_but_for_rounding(keys, plain.keys)
    with pytest.raises(InvalidTokens, match="full"):
        decoder.step(ids[:, 0], quick)


@pytest.mark.parametrize("n_rows", [1, 2, 3, 5, 8, 11])
def test_a_row_of_the_decoder_has_the_same_numbers_whatever_is_beside_it(
    decoder_kind: type, model: CausalGPT, n_rows: int
) -> None:
    """Bit for bit, though the rows stand at different positions."""
    ids, decoder = tokens(n_rows, 20), model.decoder()
    assert isinstance(decoder, decoder_kind)

    def caches() -> list[KVCache]:
        made = [model.new_cache(1, 20) for _ in range(n_rows)]
        for row, cache in enumerate(made):
            model(model.embed(ids[row : row + 1, : row + 1]), cache)
        return made

    beside, alone = caches(), caches()
    for step in range(4):
        together = decoder.step(ids[:, step], beside)
        apart = [decoder.step(ids[n, step][None], [alone[n]]) for n in range(n_rows)]
        assert torch.equal(together, torch.cat(apart))
        logits = [decoder.logits(row, 0, 21) for row in apart]
        assert torch.equal(decoder.logits(together, 0, 21), torch.cat(logits))

"""Rows in slots: the tokens of the plain decoder, whoever joins, leaves or breaks beside them.

On a CPU nothing is captured; what a graph would replay runs operation by operation. Where there
is a CUDA device, the same tests run there, with graphs and kernels.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pytest
import torch

from bark_core.config import FineConfig, GPTConfig
from bark_core.cuda_rows import CudaOptions, CudaRows
from bark_core.decoders import fine_forward
from bark_core.errors import InvalidTokens
from bark_core.placement import Placement
from bark_core.request import SamplingParams
from bark_core.rows import PlainRows, RowDecoder, RowStart, RowState
from bark_core.static_step import CacheBits, quantised
from bark_core.transformer import CausalGPT, FineGPT

CONFIG = GPTConfig(
    n_layer=2, n_head=2, n_embd=32, input_vocab_size=64, output_vocab_size=64, block_size=96
)
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
ONE = ((0, 33),)  # as a semantic stage has it, the end as the last id
TWO = ((10, 26), (26, 42))  # as a coarse stage has it


@pytest.fixture(autouse=True)
def inference() -> Iterator[None]:
    with torch.inference_mode():
        yield


def new_model(*, bias: bool = False, seed: int = 0) -> CausalGPT:
    torch.manual_seed(seed)
    config = GPTConfig(**{**{k: getattr(CONFIG, k) for k in CONFIG.__slots__}, "bias": bias})
    model = CausalGPT(config).eval().requires_grad_(False)
    for parameter in model.parameters():
        if parameter.dim() == 1:
            parameter.add_(torch.randn_like(parameter) * 0.2)
        else:
            parameter.normal_(0, 0.3)
    return model.to(DEVICE)


def row_start(
    model: CausalGPT,
    n_prompt: int,
    n_steps: int,
    *,
    seed: int,
    ranges: tuple[tuple[int, int], ...] = TWO,
    sampling: SamplingParams | None = None,
    end: int | None = None,
    min_end_p: float | None = None,
) -> RowStart:
    draws = torch.Generator().manual_seed(seed)
    tokens = torch.randint(0, 64, (n_prompt,), generator=draws)
    prompt = model.embed(tokens.to(DEVICE))
    uniforms = torch.rand(n_steps, generator=draws)
    sampling = sampling or SamplingParams(temperature=0.8)
    return RowStart(prompt, ranges, n_steps, uniforms, sampling, end, min_end_p)


def finish(
    decoder: RowDecoder, starts: Sequence[RowStart], *, stride: int = 1
) -> list[tuple[tuple[int, ...], RowState]]:
    """All rows together, to their ends: their tokens and how they ended."""
    numbers = [decoder.start(start) for start in starts]
    tokens: dict[int, tuple[int, ...]] = dict.fromkeys(numbers, ())
    ends: dict[int, RowState] = {}
    while len(ends) < len(numbers):
        decoder.prefill(1_000)
        decoder.run(stride)
        for number, news in decoder.collect().items():
            tokens[number] += news.tokens
            if news.state is not RowState.RUNNING:
                ends[number] = news.state
    return [(tokens[number], ends[number]) for number in numbers]


def alone(model: CausalGPT, start: RowStart) -> tuple[tuple[int, ...], RowState]:
    return finish(PlainRows(model), [start])[0]


SETTINGS = [
    SamplingParams(temperature=0.8),
    SamplingParams(temperature=0.0),
    SamplingParams(temperature=0.7, top_k=5),
    SamplingParams(temperature=1.3, top_p=0.6),
    SamplingParams(temperature=0.9, top_p=0.8, top_k=3),
    SamplingParams(temperature=0.5, top_k=1_000),
    SamplingParams(temperature=1.0, top_p=0.0),
    SamplingParams(temperature=1.0, top_p=1.0),
]


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("stride", [1, 7])
def test_rows_of_all_settings_draw_what_the_plain_ones_draw(bias: bool, stride: int) -> None:
    model = new_model(bias=bias)
    starts = [
        row_start(model, 3 + 7 * n, 12, seed=n, sampling=sampling)
        for n, sampling in enumerate(SETTINGS)
    ]
    expected = [alone(model, start) for start in starts]
    assert {len(tokens) for tokens, _ in expected} == {12}
    assert finish(CudaRows(model, len(starts)), starts, stride=stride) == expected


def test_an_end_is_no_token_and_neither_is_a_likely_one() -> None:
    model = new_model()
    hot = SamplingParams(temperature=4.0)
    starts = [
        row_start(model, 5, 60, seed=seed, ranges=ONE, sampling=hot, end=32, min_end_p=min_end_p)
        for seed in range(6)
        for min_end_p in (None, 0.06)
    ]
    expected = [alone(model, start) for start in starts]
    assert RowState.ENDED in {state for _, state in expected}
    assert len({len(tokens) for tokens, _ in expected}) > 2
    assert all(32 not in tokens for tokens, _ in expected)
    assert finish(CudaRows(model, len(starts)), starts, stride=5) == expected


def test_rows_of_two_kinds_beside_each_other() -> None:
    model = new_model()
    starts = [
        row_start(model, 4, 9, seed=1, ranges=ONE, end=32),
        row_start(model, 8, 9, seed=2, ranges=TWO),
        row_start(model, 2, 9, seed=3, ranges=TWO[::-1]),
    ]
    assert finish(CudaRows(model, 3), starts, stride=4) == [alone(model, s) for s in starts]


def test_slots_are_used_again_and_rows_join_at_any_step() -> None:
    model = new_model()
    starts = [row_start(model, 3 + n, 5 + 3 * n, seed=n) for n in range(7)]
    expected = [alone(model, start) for start in starts]
    decoder = CudaRows(model, 2)
    waiting = list(enumerate(starts))
    numbers: dict[int, int] = {}
    tokens: dict[int, tuple[int, ...]] = {}
    while waiting or numbers:
        while waiting and len(numbers) < 2:
            place, start = waiting.pop(0)
            numbers[decoder.start(start)] = place
        decoder.prefill(1)
        decoder.run(2)
        for number, news in decoder.collect().items():
            tokens[numbers[number]] = tokens.get(numbers[number], ()) + news.tokens
            if news.state is not RowState.RUNNING:
                del numbers[number]
    assert [tokens[place] for place in range(7)] == [made for made, _ in expected]


@pytest.mark.parametrize("cache", ["model", "int8"])
def test_caches_grow_while_rows_are_on_their_way(cache: CacheBits) -> None:
    model = new_model()
    starts = [row_start(model, 4 + n, 12, seed=n) for n in range(9)]
    options = CudaOptions(cache=cache)
    expected = [finish(CudaRows(model, 1, options=options), [start])[0][0] for start in starts]
    decoder = CudaRows(model, 9, options=options)
    tokens: dict[int, tuple[int, ...]] = {}
    for start in starts:  # one more in each turn, while the others are in the middle
        tokens[decoder.start(start)] = ()
        decoder.prefill(1)
        decoder.run(1)
        for number, news in decoder.collect().items():
            tokens[number] += news.tokens
    while any(len(made) < 12 for made in tokens.values()):
        decoder.run(5)
        for number, news in decoder.collect().items():
            tokens[number] += news.tokens
    assert list(tokens.values()) == expected


def test_a_dropped_row_is_silent_and_its_slot_is_free() -> None:
    model = new_model()
    start = row_start(model, 6, 20, seed=4)
    decoder = CudaRows(model, 2)
    dropped, kept = decoder.start(row_start(model, 4, 20, seed=5)), decoder.start(start)
    decoder.prefill(1_000)
    decoder.run(3)
    decoder.drop(dropped)
    decoder.drop(dropped)  # harmless
    waiting = decoder.start(row_start(model, 4, 20, seed=6))
    decoder.drop(waiting)  # before its prompt was read
    another = decoder.start(start)
    tokens: dict[int, tuple[int, ...]] = {}
    for _ in range(20):
        decoder.prefill(1_000)
        decoder.run(3)
        for number, news in decoder.collect().items():
            tokens[number] = tokens.get(number, ()) + news.tokens
    assert set(tokens) == {kept, another}
    assert tokens[kept] == tokens[another] == alone(model, start)[0]


def test_a_broken_row_says_so_and_its_neighbour_goes_on() -> None:
    model = new_model()
    good, bad = row_start(model, 5, 10, seed=7), row_start(model, 5, 10, seed=8)
    bad.prompt[3] = torch.nan
    made = finish(CudaRows(model, 2), [bad, good], stride=4)
    assert made[0] == ((), RowState.BROKEN)
    assert made[1] == alone(model, good)


def test_a_row_reports_no_more_than_its_steps_and_what_is_new() -> None:
    model = new_model()
    decoder = CudaRows(model, 1)
    number = decoder.start(row_start(model, 5, 8, seed=9))
    assert decoder.collect() == {}
    decoder.prefill(1)
    first = decoder.collect()
    decoder.run(5)
    second = decoder.collect()
    assert decoder.collect() == {}
    decoder.run(50)
    third = decoder.collect()
    counts = [len(news[number].tokens) for news in (first, second, third)]
    assert counts == [1, 5, 2]
    assert third[number].state is RowState.FULL
    decoder.close()


def agreement(model: CausalGPT, options: CudaOptions) -> float:
    """Share of equal tokens, of rows that take the likeliest."""
    greedy = SamplingParams(temperature=0.0)
    starts = [row_start(model, 5 + n, 2, seed=n, sampling=greedy) for n in range(40)]
    exact = [tokens for tokens, _ in finish(CudaRows(model, 40), starts)]
    close = [tokens for tokens, _ in finish(CudaRows(model, 40, options=options), starts)]
    return sum(a == b for a, b in zip(exact, close, strict=True)) / len(starts)


@pytest.mark.parametrize(
    "options",
    [CudaOptions(cache="int8"), CudaOptions(weights="int8"), CudaOptions(weights="float8")],
)
def test_8_bits_are_close(options: CudaOptions) -> None:
    model = new_model()
    assert agreement(model, options) > 0.7
    tokens = torch.randint(0, 64, (3, 30), generator=torch.Generator().manual_seed(4)).to(DEVICE)
    exact = CudaRows(model, 3).logits_behind(tokens, (0, 64))
    close = CudaRows(model, 3, options=options).logits_behind(tokens, (0, 64))
    distance = float((exact - close).norm() / exact.norm())
    assert 0 < distance < 0.1


def test_quantised_numbers_come_back_within_half_a_step() -> None:
    x = torch.randn(5, 3, 16, generator=torch.Generator().manual_seed(1))
    whole, scale = quantised(x)
    assert whole.dtype == torch.int8 and int(whole.abs().max()) == 127
    assert (whole * scale[..., None] - x).abs().amax() <= scale.max() * 0.501


def test_zeros_are_quantised_to_zeros() -> None:
    whole, scale = quantised(torch.zeros(2, 4))
    assert not whole.any() and scale.isfinite().all()


def test_logits_behind_tokens_are_the_models() -> None:
    model = new_model(bias=True)
    tokens = torch.randint(0, 64, (3, 9), generator=torch.Generator().manual_seed(2)).to(DEVICE)
    decoder = CudaRows(model, 3)
    found = decoder.logits_behind(tokens, (10, 42))
    expected = model.logits(model(model.embed(tokens))[:, -1], 10, 42)
    torch.testing.assert_close(found, expected)


def test_a_row_that_does_not_fit_is_refused_at_once() -> None:
    model = new_model()
    with pytest.raises(InvalidTokens, match="97 positions"):
        CudaRows(model, 1).start(row_start(model, 90, 8, seed=1))


def test_the_fine_stage_in_graphs_gives_the_same_logits() -> None:
    config = FineConfig(
        n_layer=2, n_head=2, n_embd=32, input_vocab_size=20, output_vocab_size=20, block_size=16
    )
    torch.manual_seed(5)
    model = FineGPT(config).eval().requires_grad_(False).to(DEVICE)
    forward = fine_forward(model, Placement(DEVICE, "float32", False, "cpu"))
    for n_windows in (1, 3, 1, 2):  # of more windows than graphs are made for, too
        for codebook in (2, 7):
            codes = torch.randint(0, 20, (n_windows, 16, 8), device=DEVICE)
            torch.testing.assert_close(forward(codebook, codes, 16), model(codebook, codes))

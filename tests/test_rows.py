"""Laws of rows: each is drawn as if it were alone, whoever comes and goes beside it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch

from bark_core.decoders import new_decoder
from bark_core.placement import Placement
from bark_core.request import SamplingParams
from bark_core.rows import PlainRows, RowDecoder, RowStart, RowState
from bark_core.sampling import pick, probabilities, uniforms
from bark_core.transformer import PREFILL_CHUNK, CausalGPT
from tests.stages import seeded
from tests.tiny import TINY_LAYOUT, tiny_config, tiny_parts

PLACEMENT = Placement("cpu", "float32", offload=False, codec_device="cpu")
END = TINY_LAYOUT.semantic_pad


@pytest.fixture(scope="module")
def model() -> CausalGPT:
    text, *_ = tiny_parts(6)
    return text


@pytest.fixture
def rows(model: CausalGPT) -> Iterator[RowDecoder]:
    """Whatever decodes here."""
    decoder = new_decoder(model, PLACEMENT, 16)
    with torch.inference_mode():
        yield decoder
    decoder.close()


def row(model: CausalGPT, seed: int, *, n_prompt: int = 9, n_steps: int = 12) -> RowStart:
    """Every seed draws in another way."""
    ids = torch.randint(0, END, (n_prompt,), generator=seeded(seed))
    how = (
        SamplingParams(),
        SamplingParams(temperature=0),
        SamplingParams(temperature=1.4, top_k=5),
        SamplingParams(top_p=0.8),
    )
    ranges = (((0, END),), ((0, 8), (8, 20)), ((2, END + 1),))[seed % 3]
    return RowStart(
        prompt=model.embed(ids),
        ranges=ranges,
        n_steps=n_steps,
        uniforms=uniforms(seeded(seed), n_steps),
        sampling=how[seed % 4],
        end=END if ranges[0][1] > END else None,
        min_end_p=0.4,
    )


def written_out(model: CausalGPT, start: RowStart) -> tuple[list[int], RowState]:
    """The description of a row, written down without a cache."""
    tokens: list[int] = []
    assert start.min_end_p is not None
    while len(tokens) < start.n_steps:
        tail = model.embed(torch.tensor(tokens, dtype=torch.long))
        hidden = model(torch.cat([start.prompt, tail])[None])[:, -1]
        first, stop = start.ranges[len(tokens) % len(start.ranges)]
        probs = probabilities(model.logits(hidden, first, stop), start.sampling)
        token = int(pick(probs, start.uniforms[len(tokens)][None])) + first
        if start.end is not None and (token == start.end or probs[0, -1] >= start.min_end_p):
            return tokens, RowState.ENDED
        tokens.append(token)
    return tokens, RowState.FULL


def to_the_end(rows: RowDecoder, numbers: list[int]) -> dict[int, tuple[list[int], RowState]]:
    made: dict[int, list[int]] = {number: [] for number in numbers}
    states = dict.fromkeys(numbers, RowState.RUNNING)
    while RowState.RUNNING in states.values():
        rows.prefill(PREFILL_CHUNK)
        rows.run(rows.stride)
        for number, news in rows.collect().items():
            made[number] += news.tokens
            states[number] = news.state
    return {number: (made[number], states[number]) for number in numbers}


def test_rows_are_what_their_description_says(model: CausalGPT, rows: RowDecoder) -> None:
    starts = [row(model, seed, n_prompt=3 + seed, n_steps=5 + seed) for seed in range(12)]
    ends = to_the_end(rows, [rows.start(start) for start in starts])
    expected = [written_out(model, start) for start in starts]
    assert list(ends.values()) == expected
    assert {state for _, state in expected} == {RowState.FULL, RowState.ENDED}


def test_a_row_is_the_same_whoever_comes_and_goes(model: CausalGPT, rows: RowDecoder) -> None:
    (alone,) = to_the_end(rows, [rows.start(row(model, 0, n_steps=40))]).values()
    watched = rows.start(row(model, 0, n_steps=40))
    made: list[int] = []
    others: list[int] = []
    for turn in range(200):
        if turn % 3 == 0:
            others.append(rows.start(row(model, turn, n_prompt=1 + turn % 20)))
        if turn % 5 == 4:
            rows.drop(others.pop(0))
        rows.prefill(1)
        rows.run(1)
        news = rows.collect()
        if watched in news:
            made += news[watched].tokens
            if news[watched].state is not RowState.RUNNING:
                break
    assert (made, news[watched].state) == alone


def test_a_dropped_row_is_never_heard_of_again(model: CausalGPT, rows: RowDecoder) -> None:
    waits, runs = rows.start(row(model, 0)), rows.start(row(model, 3))
    rows.prefill(PREFILL_CHUNK)
    rows.run(1)
    rows.drop(waits)
    rows.drop(waits)  # harmless
    rows.run(3)
    assert set(rows.collect()) == {runs}


def test_tokens_are_told_once(model: CausalGPT, rows: RowDecoder) -> None:
    number = rows.start(row(model, 0, n_steps=6))
    assert not rows.collect()
    rows.prefill(PREFILL_CHUNK)
    rows.run(2)
    first = rows.collect()[number]
    assert (len(first.tokens), first.state) == (2, RowState.RUNNING)
    assert not rows.collect()
    rows.run(10)
    last = rows.collect()[number]
    assert (len(last.tokens), last.state) == (4, RowState.FULL)
    rows.run(1)
    assert not rows.collect()


def test_a_row_whose_numbers_break_ends_alone(model: CausalGPT, rows: RowDecoder) -> None:
    good = row(model, 0)
    bad = replace(good, prompt=torch.full_like(good.prompt, torch.nan))
    numbers = [rows.start(start) for start in (good, bad, good)]
    ends = to_the_end(rows, numbers)
    assert ends[numbers[1]] == ([], RowState.BROKEN)
    assert ends[numbers[0]] == ends[numbers[2]] == written_out(model, good)


def test_a_long_prompt_is_worked_on_in_portions(model: CausalGPT) -> None:
    """A turn takes no longer than a chunk, and rows that go on aren't held up for the whole."""
    config = replace(tiny_config().text, block_size=4 * PREFILL_CHUNK + 64)
    torch.manual_seed(0)
    wide = CausalGPT(config).eval().requires_grad_(False)
    rows = PlainRows(wide)
    with torch.inference_mode():
        short = rows.start(row(wide, 0))
        long = rows.start(row(wide, 0, n_prompt=4 * PREFILL_CHUNK + 1))
        told = []
        for _ in range(6):
            rows.prefill(PREFILL_CHUNK)
            rows.run(1)
            told.append(set(rows.collect()))
    assert told == [{short}] * 4 + [{short, long}] * 2


def test_the_chunks_of_a_prompt_are_its_own(model: CausalGPT) -> None:
    """Bit for bit the same, whatever portions it is asked to work in."""
    config = replace(tiny_config().text, block_size=4 * PREFILL_CHUNK + 64)
    torch.manual_seed(0)
    wide = CausalGPT(config).eval().requires_grad_(False)
    start = row(wide, 0, n_prompt=2 * PREFILL_CHUNK + 5, n_steps=2)
    seen = []
    for portion in (1, PREFILL_CHUNK, 10_000):
        rows = PlainRows(wide)
        with torch.inference_mode():
            rows.start(start)
            for _ in range(3):
                rows.prefill(portion)
            (made,) = rows._rows.values()
            assert made.hidden is not None
            seen.append(made.hidden.numpy().copy())
    assert all(np.array_equal(seen[0], other) for other in seen[1:])

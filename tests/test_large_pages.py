"""Laws of weights in large pages: they are the same, they lie there, they are given back."""

from __future__ import annotations

import mmap
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from bark_core.config import GPTConfig
from bark_core.int8_linear import Int8Linear, make_int8
from bark_core.large_pages import settle
from bark_core.transformer import CausalGPT, Linear

WIDE = GPTConfig(
    n_layer=1, n_head=8, n_embd=512, input_vocab_size=50, output_vocab_size=41, block_size=40
)
needs_linux = pytest.mark.skipif(
    not hasattr(mmap, "MADV_HUGEPAGE"), reason="this system has no large pages"
)


def model_of(config: GPTConfig = WIDE) -> CausalGPT:
    torch.manual_seed(0)
    return CausalGPT(config).eval().requires_grad_(False)


def logits_of(model: CausalGPT) -> torch.Tensor:
    cache = model.new_cache(1, 20)
    with torch.inference_mode():
        hidden = model.prefill(model.embed(torch.arange(9)[None]), cache)
        decoder = model.decoder()
        stepped = decoder.step(torch.tensor([3]), [cache])
        return torch.cat([model.logits(hidden), decoder.logits(stepped, 0, 41)])


def weights_of(model: nn.Module) -> list[torch.Tensor]:
    layers = (m for m in model.modules() if isinstance(m, nn.Linear | Int8Linear))
    return [layer.weight for layer in layers]


@needs_linux
@pytest.mark.parametrize("int8", [False, True])
def test_a_model_says_the_same_from_there(int8: bool) -> None:
    model = model_of()
    if int8:
        make_int8(model)
    before, weights = logits_of(model), [weight.clone() for weight in weights_of(model)]
    embedding = model.get_parameter("transformer.wte.weight").data_ptr()
    places = [weight.data_ptr() for weight in weights_of(model)]
    moved = settle(model)
    assert not set(places).intersection(weight.data_ptr() for weight in weights_of(model))
    assert all(torch.equal(*pair) for pair in zip(weights_of(model), weights, strict=True))
    assert torch.equal(logits_of(model), before)
    # int8 weights are no parameters
    assert ("transformer.h.0.mlp.c_fc.weight" in moved) == (not int8)
    assert not moved.intersection(("transformer.wte.weight", "transformer.h.0.ln_1.weight"))
    assert model.get_parameter("transformer.wte.weight").data_ptr() == embedding


@needs_linux
def test_all_lie_one_behind_the_other() -> None:
    model = model_of()
    settle(model)
    starts = sorted(weight.data_ptr() for weight in weights_of(model))
    total = sum(weight.nbytes for weight in weights_of(model))
    assert starts[-1] - starts[0] < total + 64 * len(starts)
    assert all(start % 64 == 0 for start in starts)


@needs_linux
def test_the_system_is_asked_for_large_pages() -> None:
    model = model_of()
    settle(model)
    first = min(weight.data_ptr() for weight in weights_of(model))
    lines = Path("/proc/self/smaps").read_text().splitlines()
    flags = ""
    inside = False
    for line in lines:
        span = line.split()[0]
        if "-" in span and ":" not in span:
            start, stop = (int(end, 16) for end in span.split("-"))
            inside = start <= first < stop
        elif inside and line.startswith("VmFlags"):
            flags = line
    if not flags:
        pytest.skip("this system doesn't tell")
    assert " hg" in flags  # "huge page advise flag"


@needs_linux
def test_it_is_given_back_with_the_model() -> None:
    """And where weights lay before, at once: in a program of its own, whose heap has no holes."""
    program = """
import mmap
from bark_core.large_pages import settle
from bark_core.transformer import Linear
def resident():
    return int(open("/proc/self/statm").read().split()[1]) * mmap.PAGESIZE >> 20
layer = Linear(4096, 4096, bias=False).requires_grad_(False)  # 64 MB
before = resident()
moved = settle(layer)
after = resident()
del layer
print(sorted(moved), after - before, resident() - before)
"""
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr[-2_000:]
    moved, grown, left = run.stdout.rsplit(maxsplit=2)
    assert moved == "['weight']"
    assert abs(int(grown)) < 32
    assert int(left) < -32


def test_what_fills_no_page_stays_where_it_is() -> None:
    layer = Linear(8, 8)
    place = layer.weight.data_ptr()
    assert settle(layer) == frozenset()
    assert layer.weight.data_ptr() == place


@pytest.mark.parametrize("how", ["no such pages", "no memory"])
def test_without_large_pages_nothing_moves(how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if how == "no such pages":
        monkeypatch.delattr(mmap, "MADV_HUGEPAGE", raising=False)
    else:

        def refuse(*_: object, **__: object) -> None:
            raise OSError(12, "Cannot allocate memory")

        monkeypatch.setattr(mmap, "mmap", refuse)
    model = model_of()
    before = [weight.data_ptr() for weight in weights_of(model)]
    assert settle(model) == frozenset()
    assert [weight.data_ptr() for weight in weights_of(model)] == before

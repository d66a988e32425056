"""Laws of linear layers with int8 weights, whoever multiplies them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from bark_core import int8_linear, processor
from bark_core.int8_linear import Int8Linear, make_int8
from bark_core.transformer import CausalGPT
from tests.tiny import tiny_config

ENGINES = [
    name for name in ("fbgemm", "onednn") if name in torch.backends.quantized.supported_engines
]


def _layer() -> nn.Linear:
    torch.manual_seed(3)
    return nn.Linear(96, 80)


def _packed_for(monkeypatch: pytest.MonkeyPatch, *, amx: bool) -> Int8Linear:
    """A layer as a processor with or without AMX has it, which sums pairs without overflow."""
    there = processor.abilities() - {"amx_int8"} | {"avx512_vnni"}
    monkeypatch.setattr(processor, "abilities", lambda: there | {"amx_int8"} if amx else there)
    return Int8Linear(_layer())


@pytest.mark.skipif(len(ENGINES) < 2, reason="torch has one engine only here")
def test_with_amx_onednn_multiplies(monkeypatch: pytest.MonkeyPatch) -> None:
    chosen, packed_by = torch.backends.quantized.engine, []
    prepack = torch.ops.quantized.linear_prepack

    def watched(*arguments: Any) -> Any:
        packed_by.append(torch.backends.quantized.engine)
        return prepack(*arguments)

    monkeypatch.setattr(torch.ops.quantized, "linear_prepack", watched)
    for amx in (False, True):
        _packed_for(monkeypatch, amx=amx)
    assert packed_by == [chosen, "onednn"]
    # the rest of the process keeps its own
    assert torch.backends.quantized.engine == chosen


@pytest.mark.skipif("avx512_vnni" not in processor.abilities(), reason="sums of pairs overflow")
@pytest.mark.parametrize("rows", [1, 16, 257])
def test_engines_agree(monkeypatch: pytest.MonkeyPatch, rows: int) -> None:
    x = torch.randn(rows, 96, generator=torch.Generator().manual_seed(4))
    with_amx, without = (_packed_for(monkeypatch, amx=amx) for amx in (True, False))
    wanted = _layer()(x)
    assert (with_amx(x) - without(x)).abs().max() < 1e-5
    assert (with_amx(x) - wanted).abs().max() < 0.05
    assert int8_linear.available()


@pytest.mark.parametrize("amx", [False, True])
def test_attention_beside_int8_is_as_near_with_amx(
    monkeypatch: pytest.MonkeyPatch, amx: bool
) -> None:
    """In bfloat16 there, which only its products see."""
    there = processor.abilities() - {"amx_bf16"}
    monkeypatch.setattr(processor, "abilities", lambda: there | {"amx_bf16"} if amx else there)
    torch.manual_seed(5)
    model = CausalGPT(tiny_config().text).eval().requires_grad_(False)
    embeddings = model.embed(torch.arange(30)[None])
    wanted = model.prefill(embeddings, model.new_cache(1, 30))
    make_int8(model)
    layer = model.get_submodule("transformer.h.0.attn.c_attn")
    assert layer.attention_dtype == (torch.bfloat16 if amx else torch.float32)
    got = model.prefill(embeddings, model.new_cache(1, 30))
    assert got.dtype == torch.float32
    assert (got - wanted).abs().max() < 0.05 * wanted.abs().max()

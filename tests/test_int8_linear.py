"""Laws of linear layers with int8 weights, whoever multiplies them."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
import torch
from torch import nn

from bark_core import int8_linear, processor, products
from bark_core.int8_linear import Int8Linear, make_int8
from bark_core.transformer import CausalGPT
from tests.tiny import tiny_config

ENGINES = [
    name for name in ("fbgemm", "onednn") if name in torch.backends.quantized.supported_engines
]


def _layer() -> nn.Linear:
    torch.manual_seed(3)
    return nn.Linear(96, 80)


@pytest.mark.skipif(len(ENGINES) < 2, reason="torch has one engine only here")
def test_with_vnni_onednn_multiplies(monkeypatch: pytest.MonkeyPatch) -> None:
    chosen, packed_by = torch.backends.quantized.engine, []
    prepack = torch.ops.quantized.linear_prepack

    def watched(*arguments: Any) -> Any:
        packed_by.append(torch.backends.quantized.engine)
        return prepack(*arguments)

    monkeypatch.setattr(torch.ops.quantized, "linear_prepack", watched)
    monkeypatch.setattr(products, "library", lambda **_: None)
    there = processor.abilities() - {"avx512_vnni", "avx_vnni"}
    for vnni in (set[str](), {"avx512_vnni"}, {"avx_vnni"}):
        monkeypatch.setattr(processor, "abilities", lambda vnni=vnni: there | vnni)
        Int8Linear(_layer())
    assert packed_by == [chosen, "onednn", "onednn"]
    # the rest of the process keeps its own
    assert torch.backends.quantized.engine == chosen


@pytest.mark.skipif("avx512_vnni" not in processor.abilities(), reason="sums of pairs overflow")
@pytest.mark.parametrize("rows", [1, 16, 257])
def test_engines_agree(monkeypatch: pytest.MonkeyPatch, rows: int) -> None:
    x = torch.randn(rows, 96, generator=torch.Generator().manual_seed(4))
    by_onednn = Int8Linear(_layer())
    monkeypatch.setattr(int8_linear, "_best_engine", contextlib.nullcontext)
    by_the_usual = Int8Linear(_layer())
    wanted = _layer()(x)
    assert (by_onednn(x) - by_the_usual(x)).abs().max() < 1e-5
    assert (by_onednn(x) - wanted).abs().max() < 0.05
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

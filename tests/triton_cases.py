"""`python -m tests.triton_cases cuda rows ...`: the kernels beside torch's operations, as JSON.

Two sets of slots with the same contents go the same steps: one by `TritonStep`, one by
`StaticStep`. Tokens may differ only where the logits do.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass, field, replace

import torch

from bark_core.config import GPTConfig
from bark_core.static_step import SlotCache, Slots, Span, StaticStep, WeightBits
from bark_core.transformer import CausalGPT
from bark_core.triton_step import Cuts, PackedWeights, TritonStep

SPAN = Span(10, 42, 16)
CAPACITY = 48


@dataclass(frozen=True, slots=True)
class Case:
    """What differs between the cases; `allowed`: of the norm of the difference of the logits."""

    n_rows: int = 1
    dtype: torch.dtype = torch.float32
    bias: bool = False
    n_head: int = 3
    weights: WeightBits = "model"
    quantised: bool = False
    cuts: Cuts = field(default_factory=lambda: Cuts(overlap=0, split=16, many_tile=8, programs=4))
    allowed: float = 1e-5
    settings: bool = False
    spare: bool = False


CASES = {
    "rows": Case(bias=True),
    "shared": Case(n_rows=4, n_head=2),
    "settings": Case(n_rows=4, settings=True),
    "weights": Case(weights="int8", allowed=3e-2),
    "cache": Case(quantised=True),
    "half": Case(n_rows=2, dtype=torch.float16, bias=True, allowed=1e-2),
    "matrix": Case(n_rows=8, dtype=torch.float16, bias=True, allowed=1e-2),
    "parts": Case(
        n_rows=8,
        dtype=torch.float16,
        allowed=1e-2,
        cuts=Cuts(overlap=0, split=16, many_programs=48, many_tile=8, programs=4),
    ),
    "spare": Case(n_rows=4, spare=True),
}


def new_model(case: Case, device: str) -> CausalGPT:
    torch.manual_seed(0)
    config = GPTConfig(
        n_layer=2, n_head=case.n_head, n_embd=16 * case.n_head, input_vocab_size=64,
        output_vocab_size=64, block_size=64, bias=case.bias,
    )  # fmt: skip
    model = CausalGPT(config).eval().requires_grad_(False)
    for parameter in model.parameters():
        if parameter.dim() == 1:
            parameter.add_(torch.randn_like(parameter) * 0.2)
        else:
            parameter.normal_(0, 0.15)
    return model.to(device, case.dtype)


def filled(model: CausalGPT, case: Case) -> tuple[SlotCache, Slots]:
    """Slots whose rows stand at several places, and caches that hold something everywhere."""
    draws = torch.Generator().manual_seed(1)
    n_slots = case.n_rows + 4
    cache = SlotCache(model, n_slots, CAPACITY, "int8" if case.quantised else "model")
    shape = (n_slots, *cache.keys.shape[2:])
    for layer in range(2):
        keys, values = (torch.randn(shape, generator=draws).to(model.device) for _ in range(2))
        slots_of_all = torch.arange(n_slots, device=model.device)
        cache.write(layer, slots_of_all, keys.to(model.dtype), values.to(model.dtype))
    slots = Slots(n_slots, 8, model.device)
    slots.draws.copy_(torch.rand(slots.draws.shape, generator=draws))
    slots.length.copy_(torch.randint(0, CAPACITY - 4, (n_slots,), generator=draws))
    slots.token.copy_(torch.randint(0, 64, (n_slots,), generator=draws))
    slots.starts[0], slots.starts[1] = 10, 26
    slots.counts[:2] = 16
    slots.offset.fill_(10)
    slots.n_turns.fill_(2)
    slots.limit.fill_(8)
    slots.end.fill_(-1)
    slots.min_end.fill_(2)
    slots.top_p.fill_(-1)
    slots.temperature.fill_(0.8)
    slots.state.zero_()
    if case.settings:
        slots.temperature[1] = 0
        slots.top_k[2], slots.top_p[3] = 4, 0.7
        slots.top_k[3] = 3
    if case.spare:
        slots.state[2] = 1
    return cache, slots


def compare(case: Case, device: str) -> dict[str, float]:
    model = new_model(case, device)
    mine, theirs = filled(model, case), filled(model, case)
    ours = TritonStep(PackedWeights(model, case.weights), *mine, case.n_rows, SPAN, case.cuts)
    plain = StaticStep(model, *theirs, case.n_rows, SPAN)
    rows = torch.arange(case.n_rows).flip(0).int() + 1
    ours.rows.copy_(rows)
    plain.rows.copy_(rows)
    for buffer in (ours.x, ours.qkv, ours.logits, ours.parts, ours.part_weights):
        buffer.fill_(torch.nan)
    worst, n_same, n_tokens = 0.0, 0, 0
    alive = [int(row) for row in rows if int(mine[1].state[row]) == 0]
    for step in range(3):
        ours.launch()
        expected = plain.launch()
        for place, row in enumerate(rows.tolist()):
            if row not in alive:
                continue
            start = 16 * (step % 2)
            wanted = expected[place, start : start + 16].float()
            got = ours.logits[place]
            got = got[start : start + 16] if ours.whole_head else got
            worst = max(worst, float((got - wanted).norm() / wanted.norm()))
            n_tokens += 1
            n_same += int(mine[1].token[row]) == int(theirs[1].token[row])
            # from here on the same way, so that one flip doesn't count three times
            mine[1].token[row] = theirs[1].token[row]
    counts_agree = torch.equal(mine[1].made, theirs[1].made)
    places_agree = torch.equal(mine[1].length, theirs[1].length)
    assert counts_agree and places_agree, (mine[1].lines, theirs[1].lines)
    if case.weights == "model" and case.dtype == torch.float32 and not case.quantised:
        torch.testing.assert_close(mine[0].keys[:, :-1], theirs[0].keys[:, :-1])
    close = case.weights != "model" or case.dtype != torch.float32
    return {
        "error": worst,
        "allowed": case.allowed,
        "same_tokens": n_tokens if close else n_same,
        "tokens": n_tokens,
    }


def main() -> None:
    device, *names = sys.argv[1:]
    torch.set_num_threads(1)
    with torch.inference_mode():
        found = {name: compare(CASES[name], device) for name in names}
        if device == "cuda":
            for name in names:
                for overlap in (1, 2):
                    cuts = replace(CASES[name].cuts, overlap=overlap)
                    again = compare(replace(CASES[name], cuts=cuts), device)
                    if again["error"] > found[name]["error"]:
                        found[name] = again
    print(json.dumps(found))


if __name__ == "__main__":
    main()

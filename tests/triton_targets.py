"""`python -m tests.triton_targets 90`: the kernels compiled for a GPU that isn't here, as JSON.

Each launch of a decode step with large's width is compiled for a device of that compute capability
(90: 9.0), by Triton's own compiler and assembler, which need no GPU; nothing is launched. Said of
each kernel: bytes of memory that its registers ran over into, and of its stack.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.runtime import driver
from triton.runtime.jit import JITFunction

from bark_core.config import GPTConfig
from bark_core.static_step import CacheBits, SlotCache, Slots, Span, WeightBits
from bark_core.transformer import CausalGPT
from bark_core.triton_step import Cuts, PackedWeights, TritonStep

WIDE = GPTConfig(
    n_layer=1, n_head=16, n_embd=1024, input_vocab_size=12_096, output_vocab_size=12_096,
    block_size=1024,
)  # fmt: skip
SPAN = Span(10_000, 12_048, 1024)
STEPS: list[tuple[int, CacheBits, WeightBits]] = [
    (1, "model", "model"),
    (1, "model", "int8"),
    (4, "model", "model"),
    (8, "model", "model"),
    (32, "model", "model"),
    (32, "int8", "model"),
]
TOOLS = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"


class Absent:
    """What Triton asks of a device, answered for one that isn't here."""

    def __init__(self, capability: int) -> None:
        self._target = GPUTarget("cuda", capability, 32)

    def get_current_target(self) -> GPUTarget:
        return self._target

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int = 0) -> int:
        return 0


def compiled(capability: int) -> list[tuple[str, bytes]]:
    """Names and programs of all kernels of the steps."""
    driver.set_active(Absent(capability))
    found: dict[bytes, str] = {}
    run = JITFunction.run

    def only_compile(self: Any, *args: Any, grid: Any, warmup: bool, **how: Any) -> Any:
        kernel = run(self, *args, grid=grid, warmup=True, **how)
        found[kernel.asm["cubin"]] = self.fn.__name__
        return kernel

    JITFunction.run = only_compile
    model = CausalGPT(WIDE).eval().requires_grad_(False).to(torch.bfloat16)
    cuts = Cuts(overlap=Cuts().overlap if capability >= 90 else 0)
    for n_rows, cache_bits, weight_bits in STEPS:
        cache = SlotCache(model, n_rows + 1, WIDE.block_size, cache_bits)
        slots = Slots(n_rows + 1, 64, model.device)
        weights = PackedWeights(model, weight_bits)
        with torch.inference_mode():
            TritonStep(weights, cache, slots, n_rows, SPAN, cuts).launch()
    return [(name, program) for program, name in found.items()]


def resources(program: bytes) -> dict[str, int]:
    """What a kernel takes, by the names that NVIDIA's tool has for it: REG, STACK, LOCAL, ..."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(program)
        file.flush()
        command = [str(TOOLS / "cuobjdump"), "--dump-resource-usage", file.name]
        told = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return {name: int(number) for name, number in re.findall(r"([A-Z]+):(\d+)", told)}


def main() -> None:
    capability = int(sys.argv[1])
    found = [{"kernel": name} | resources(program) for name, program in compiled(capability)]
    print(json.dumps(found))


if __name__ == "__main__":
    main()

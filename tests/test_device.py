"""What devices there are; offloading; running out of memory."""

from __future__ import annotations

import gc
import weakref

import pytest
import torch
from torch import nn

from bark_core.cascade import Cascade
from bark_core.device import (
    describe_devices,
    dtype_of,
    out_of_memory_as_error,
    release_memory,
    resident,
)
from bark_core.errors import OutOfMemory
from bark_core.placement import STORED, Placement


def test_this_machine_has_a_cpu() -> None:
    info = describe_devices()[-1]
    assert info.device == "cpu"
    assert info.total_bytes is None or info.total_bytes > 2**28
    assert info.free_bytes is None or info.total_bytes is None or info.free_bytes < info.total_bytes


@pytest.mark.parametrize(("name", "n_bytes"), STORED.items())
def test_names_are_torchs(name: str, n_bytes: int) -> None:
    assert dtype_of(name).itemsize == n_bytes


def placement(offload: bool) -> Placement:
    return Placement("cpu", "float32", offload, "cpu")


@pytest.mark.parametrize("offload", [False, True])
def test_a_module_comes_back_with_its_own_tensors(offload: bool) -> None:
    module = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    module[1].weight = module[0].bias  # tied weights stay tied
    before = {name: value.data_ptr() for name, value in module.state_dict().items()}
    with pytest.raises(KeyError), resident(module, placement(offload)):
        raise KeyError
    assert {name: value.data_ptr() for name, value in module.state_dict().items()} == before
    assert module[1].weight is module[0].bias


def test_offloaded_codec_sounds_the_same(tiny_cascade: Cascade) -> None:
    codec = tiny_cascade.codec
    codes = torch.randint(0, 16, (1, 8, 20), generator=torch.Generator().manual_seed(0))
    before = codec.decode_batch(codes)
    with resident(codec, placement(offload=True)):
        assert torch.equal(codec.decode_batch(codes), before)
    assert torch.equal(codec.decode_batch(codes), before)


def test_offloaded_module_computes_on_copies(monkeypatch: pytest.MonkeyPatch) -> None:
    module = nn.Linear(3, 3)
    home = module.weight.data_ptr()
    original = torch.Tensor.to
    monkeypatch.setattr(torch.Tensor, "to", lambda self, device: original(self, device).clone())
    with resident(module, placement(offload=True)):
        assert module.weight.data_ptr() != home
        module(torch.ones(1, 3))
    assert module.weight.data_ptr() == home


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried"),
        RuntimeError("could not create a primitive"),  # oneDNN
        RuntimeError("MPS backend out of memory (MPS allocated: 9 GB)"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate`"),
    ],
)
def test_all_ways_to_run_out_of_memory_are_one_error(error: Exception) -> None:
    with pytest.raises(OutOfMemory, match="offload"), out_of_memory_as_error():
        raise error


def test_real_allocation_failure_is_caught_and_frees_what_was_held() -> None:
    held: list[weakref.ref[torch.Tensor]] = []

    def work() -> None:
        block = torch.zeros(1000)
        held.append(weakref.ref(block))
        torch.empty(10**16)

    with pytest.raises(OutOfMemory, match="while loading"), out_of_memory_as_error("loading"):
        work()
    gc.collect()
    assert held[0]() is None


def test_other_errors_pass() -> None:
    with pytest.raises(RuntimeError, match="shape"), out_of_memory_as_error():
        raise RuntimeError("shape mismatch")
    release_memory()

"""Placement, memory and offloading, decided for machines that aren't here."""

from __future__ import annotations

import gc
import weakref
from typing import Any

import pytest
import torch
from torch import nn

from bark_core.cascade import Cascade
from bark_core.codec import Codec
from bark_core.config import (
    LARGE,
    SMALL,
    AnalysisConfig,
    CascadeConfig,
    CodecConfig,
    GPTConfig,
    VocoderConfig,
)
from bark_core.cuda_rows import CudaOptions
from bark_core.decoders import cuda_options
from bark_core.device import (
    CPU,
    PRECISIONS,
    USABLE,
    DeviceInfo,
    Numbers,
    Placement,
    choose_placement,
    describe_devices,
    memory_needed,
    n_codec_parameters,
    n_parameters,
    out_of_memory_as_error,
    release_memory,
    resident,
)
from bark_core.errors import InvalidSetting, OutOfMemory
from bark_core.transformer import CausalGPT, FineGPT

GB = 10**9
HOST = DeviceInfo("cpu", "cpu", "a CPU", 16 * GB, 8 * GB, native_bfloat16=True)
T4 = DeviceInfo("cuda:0", "cuda", "Tesla T4", 15 * GB, 14 * GB, native_bfloat16=False)
A100 = DeviceInfo("cuda:1", "cuda", "A100", 40 * GB, 39 * GB, native_bfloat16=True)
SMALL_GPU = DeviceInfo("cuda:0", "cuda", "GTX 1650", 3 * GB, 5 * GB // 2)
HALF = Numbers(torch.float16)
APPLE = DeviceInfo("mps", "mps", "Apple GPU", 12 * GB, 10 * GB)


@pytest.mark.parametrize(
    ("devices", "device", "expected", "precision", "codec"),
    [
        ([HOST], "auto", "cpu", "float32", "cpu"),
        ([T4, HOST], "auto", "cuda:0", "float16", "cuda:0"),
        ([T4, A100, HOST], "auto", "cuda:1", "bfloat16", "cuda:1"),
        ([T4, A100, HOST], "cuda", "cuda:0", "float16", "cuda:0"),
        ([T4, A100, HOST], "cpu", "cpu", "float32", "cpu"),
        ([APPLE, HOST], "auto", "mps", "float32", "cpu"),
    ],
)
def test_auto_takes_the_best_there_is(
    devices: list[DeviceInfo], device: str, expected: str, precision: str, codec: str
) -> None:
    placement = choose_placement(device, devices=devices)
    assert str(placement.device) == expected
    assert placement.precision == precision
    assert str(placement.codec_device) == codec
    assert not placement.offload


@pytest.mark.parametrize(
    ("settings", "devices", "message"),
    [
        ({"device": "cuda:7"}, [T4, HOST], "'cuda:0', 'cpu'"),
        ({"device": "cuda"}, [HOST], "there is 'cpu'"),
        ({"device": "banana"}, [HOST], "banana"),
        ({"device": ""}, [HOST], "there is 'cpu'"),
        ({"precision": "int8"}, [APPLE, HOST], "a CPU or a CUDA device"),
        ({"precision": "int4"}, [HOST], "'bfloat16-kv8', got 'int4'"),
        ({"precision": "bfloat16-kv8"}, [HOST], "only CUDA devices .* 'int8': use 'auto'"),
        ({"precision": "bfloat16-kv8"}, [APPLE, HOST], "can have 'auto', 'float32'"),
        ({"precision": "bfloat16-kv8"}, [T4, HOST], "'float16' or 'float32'"),
        ({"precision": "bfloat16"}, [T4, HOST], "float16"),
        ({"precision": "bfloat16"}, [APPLE, HOST], "float16"),
        ({"offload": "yes"}, [T4, HOST], "offload"),
        ({"offload": True}, [HOST], "auto"),
        ({"offload": True}, [APPLE, HOST], "auto"),
    ],
)
def test_nonsense_is_refused_and_says_what_there_is(
    settings: dict[str, Any], devices: list[DeviceInfo], message: str
) -> None:
    with pytest.raises(InvalidSetting, match=message):
        choose_placement(**settings, devices=devices)


@pytest.mark.parametrize(
    ("name", "devices", "numbers", "files"),
    [
        ("int8", [HOST], Numbers(torch.float32, weights="int8"), "float32"),
        ("int8", [A100, HOST], Numbers(torch.bfloat16, weights="int8"), "bfloat16"),
        ("int8", [T4, HOST], Numbers(torch.float16, weights="int8"), "float16"),
        ("bfloat16-kv8", [A100, HOST], Numbers(torch.bfloat16, cache="int8"), "bfloat16"),
        ("float16", [T4, HOST], Numbers(torch.float16), "float16"),
    ],
)
def test_what_a_precision_means_where_it_is_computed(
    name: str, devices: list[DeviceInfo], numbers: Numbers, files: str
) -> None:
    placement = choose_placement(precision=name, devices=devices)
    assert placement.numbers == numbers
    assert placement.precision == name
    assert placement.stored_precision == files


def test_a_precision_is_what_decode_steps_on_a_gpu_are_made_with() -> None:
    def options(precision: str) -> CudaOptions:
        return cuda_options(choose_placement(precision=precision, devices=[A100, HOST]))

    assert options("auto") == CudaOptions()
    assert options("int8") == CudaOptions(weights="int8")
    assert options("bfloat16-kv8") == CudaOptions(cache="int8")


def test_8_bits_are_counted_as_what_they_take() -> None:
    def needed(placement: Placement, batch: int = 1) -> int:
        return memory_needed(LARGE, placement.numbers, False, batch=batch)

    gpu = {
        name: choose_placement(precision=name, devices=[A100, HOST])
        for name in ("bfloat16", "int8", "bfloat16-kv8")
    }
    # beside the weights that prompts are read with there are those of the steps
    assert needed(gpu["bfloat16"]) < needed(gpu["int8"]) < 1.4 * needed(gpu["bfloat16"])
    rows = {name: needed(place, 65) - needed(place) for name, place in gpu.items()}
    assert rows["int8"] == rows["bfloat16"]
    assert rows["bfloat16-kv8"] <= rows["bfloat16"]
    cpu = [choose_placement("cpu", name, devices=[HOST]) for name in ("int8", "float32")]
    assert needed(cpu[0]) < 0.8 * needed(cpu[1])


def test_offload_only_where_it_has_to_be() -> None:
    needed = memory_needed(LARGE, HALF, offload=False)
    assert choose_placement(needed_bytes=needed, devices=[SMALL_GPU, HOST]).offload
    assert not choose_placement(needed_bytes=needed, devices=[T4, HOST]).offload
    assert choose_placement(offload=True, devices=[T4, HOST]).offload
    assert not choose_placement(offload=False, needed_bytes=10**15, devices=[T4]).offload


def test_large_fits_a_small_gpu_when_offloaded() -> None:
    free = USABLE * (SMALL_GPU.free_bytes or 0)
    assert memory_needed(LARGE, HALF, offload=True) < 2.25 * GB <= free
    assert memory_needed(LARGE, HALF, offload=False) > free
    assert memory_needed(LARGE, HALF, offload=True, batch=64) > free


@pytest.mark.parametrize(
    ("config", "text", "coarse", "fine"),
    [
        (SMALL, 192_989_952, 104_319_744, 92_247_552),
        (LARGE, 446_088_192, 327_861_248, 311_789_568),
    ],
)
def test_weights_are_counted_as_published(
    config: CascadeConfig, text: int, coarse: int, fine: int
) -> None:
    counted = (n_parameters(config.text), n_parameters(config.coarse), n_parameters(config.fine))
    assert counted == (text, coarse, fine)


@pytest.mark.parametrize("bias", [False, True])
def test_counted_weights_are_those_of_the_modules(bias: bool) -> None:
    shape = GPTConfig(
        n_layer=3, n_head=2, n_embd=8, input_vocab_size=20, output_vocab_size=11, bias=bias
    )
    with torch.device("meta"):
        built: list[nn.Module] = [CausalGPT(shape), FineGPT(SMALL.fine)]
        codecs = [
            Codec(config, SMALL.layout)
            for config in (
                CodecConfig(encoder=False),
                CodecConfig(true_skip=True, lstm=0, n_residual_layers=2, n_filters=8),
                CodecConfig(analysis=AnalysisConfig(), vocoder=VocoderConfig(steps=5)),
            )
        ]
    for module, config in zip(built, (shape, SMALL.fine), strict=True):
        assert n_parameters(config) == sum(p.numel() for p in module.parameters())
    for codec in codecs:
        counted = n_codec_parameters(codec.config, SMALL.layout)
        assert counted == sum(tensor.numel() for tensor in codec.state_dict().values())


def test_precision_halves_the_weights() -> None:
    full = memory_needed(SMALL, PRECISIONS["float32"], offload=False)
    half = memory_needed(SMALL, PRECISIONS["bfloat16"], offload=False)
    assert 0.5 < half / full < 0.65


def test_this_machine_has_a_cpu() -> None:
    info = describe_devices()[-1]
    assert info.device == "cpu"
    assert info.total_bytes is None or info.total_bytes > 2**28
    assert info.free_bytes is None or info.total_bytes is None or info.free_bytes < info.total_bytes


def placement(offload: bool) -> Placement:
    return Placement(CPU, torch.float32, offload, CPU)


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

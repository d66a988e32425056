"""Placement and the memory that models need, decided for machines that aren't here."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

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
from bark_core.errors import InvalidSetting
from bark_core.placement import (
    PRECISIONS,
    USABLE,
    DeviceInfo,
    Numbers,
    Placement,
    choose_placement,
)
from bark_core.sizes import memory_needed, n_codec_parameters, n_parameters
from bark_core.transformer import CausalGPT, FineGPT

GB = 10**9
HOST = DeviceInfo("cpu", "cpu", "a CPU", 16 * GB, 8 * GB, native_bfloat16=True)
T4 = DeviceInfo("cuda:0", "cuda", "Tesla T4", 15 * GB, 14 * GB, native_bfloat16=False)
A100 = DeviceInfo("cuda:1", "cuda", "A100", 40 * GB, 39 * GB, native_bfloat16=True)
SMALL_GPU = DeviceInfo("cuda:0", "cuda", "GTX 1650", 3 * GB, 5 * GB // 2)
HALF = Numbers("float16")
APPLE = DeviceInfo("mps", "mps", "Apple GPU", 12 * GB, 10 * GB, int8=False)


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
    assert placement.device == expected
    assert placement.precision == precision
    assert placement.codec_device == codec
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
        ("int8", [HOST], Numbers("float32", weights="int8"), "float32"),
        ("int8", [A100, HOST], Numbers("bfloat16", weights="int8"), "bfloat16"),
        ("int8", [T4, HOST], Numbers("float16", weights="int8"), "float16"),
        ("bfloat16-kv8", [A100, HOST], Numbers("bfloat16", cache="int8"), "bfloat16"),
        ("float16", [T4, HOST], Numbers("float16"), "float16"),
    ],
)
def test_what_a_precision_means_where_it_is_computed(
    name: str, devices: list[DeviceInfo], numbers: Numbers, files: str
) -> None:
    placement = choose_placement(precision=name, devices=devices)
    assert placement.numbers == numbers
    assert placement.precision == name
    assert placement.dtype == files


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

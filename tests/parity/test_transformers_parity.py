"""The same weights give the same logits and sound as transformers and encodec themselves.

The models are random and narrow, but have Bark's true vocabularies, windows and special tokens.
Every layout that `load` reads ends in equal weights.
"""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from bark_core.cascade import Cascade
from bark_core.checkpoint import convert, load
from bark_core.config import BARK_LAYOUT
from bark_core.configurations import STAGES, with_codec_shape
from bark_core.errors import InvalidCheckpoint
from bark_core.formats import open_checkpoint
from bark_core.layouts import fill_module, from_encodec, new_module
from bark_core.tokens import Audio, FineCodes
from bark_core.transformer import CausalGPT
from tests import tiny

pytestmark = pytest.mark.filterwarnings("ignore:.*April 2023")
TOLERANCE = 1e-4  # promised; measured: 3e-5 on logits of up to 8


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Path]:
    """A transformers model, and the folder it was saved in as a pickle."""
    folder = tmp_path_factory.mktemp("transformers") / "bin"
    return tiny.save_tiny_transformers_model(folder), folder


@pytest.fixture(scope="module")
def theirs(saved: tuple[Any, Path]) -> Any:
    return saved[0]


@pytest.fixture(scope="module")
def ours(saved: tuple[Any, Path], tmp_path_factory: pytest.TempPathFactory) -> Cascade:
    return load(saved[1], device="cpu", cache_dir=tmp_path_factory.mktemp("cache"))


def random_ids(vocabulary: int, *shape: int) -> Tensor:
    return torch.randint(0, vocabulary, shape, generator=torch.Generator().manual_seed(1))


def logits_of(model: CausalGPT, ids: Tensor) -> Tensor:
    with torch.inference_mode():
        return model.logits(model(model.embed(ids)))


@pytest.mark.parametrize("length", [1, 2, 257, 1024])
def test_text_logits_equal(theirs: Any, ours: Cascade, length: int) -> None:
    ids = random_ids(129_600, 2, length)
    with torch.inference_mode():
        expected = theirs.semantic(ids).logits
    assert (logits_of(ours.text, ids) - expected).abs().max() < TOLERANCE


@pytest.mark.parametrize("length", [1, 257, 947])
def test_coarse_logits_equal(theirs: Any, ours: Cascade, length: int) -> None:
    ids = random_ids(12_096, 1, length)
    with torch.inference_mode():
        expected = theirs.coarse_acoustics(ids).logits
    assert (logits_of(ours.coarse, ids) - expected).abs().max() < TOLERANCE


def test_cached_steps_equal_the_whole_at_once(theirs: Any, ours: Cascade) -> None:
    ids = random_ids(12_096, 1, 12)
    with torch.inference_mode():
        expected = theirs.coarse_acoustics(ids).logits
        cache = ours.coarse.new_cache(1, 12)
        parts = [
            ours.coarse.logits(ours.coarse(ours.coarse.embed(part), cache))
            for part in torch.split(ids, [5, 1, 3, 1, 1, 1], dim=1)
        ]
    assert (torch.cat(parts, dim=1) - expected).abs().max() < TOLERANCE


@pytest.mark.parametrize("codebook", range(1, 8))
def test_fine_logits_equal(theirs: Any, ours: Cascade, codebook: int) -> None:
    codes = random_ids(1_056, 1, 300, 8)
    with torch.inference_mode():
        expected = theirs.fine_acoustics(codebook, codes).logits
        actual = ours.fine(codebook, codes)
    assert (actual - expected).abs().max() < TOLERANCE


def test_codec_decodes_as_transformers(theirs: Any, ours: Cascade) -> None:
    values = random_ids(1024, 8, 60).numpy().astype(np.int16)
    with torch.inference_mode():
        codes = torch.from_numpy(values.astype(np.int64))[:, None]
        latents = theirs.codec_model.quantizer.decode(codes)
        expected = theirs.codec_model.decoder(latents)[0, 0].numpy()
    actual = ours.codec.decode(FineCodes(values, BARK_LAYOUT)).samples
    assert np.abs(actual - expected).max() < 1e-6


def test_codec_encodes_as_transformers(theirs: Any, ours: Cascade) -> None:
    sound = np.random.default_rng(2).normal(0, 0.3, 24_000).astype(np.float32)
    with torch.inference_mode():
        expected = theirs.codec_model.encode(
            torch.from_numpy(sound)[None, None], bandwidth=6.0
        ).audio_codes
    assert np.array_equal(ours.codec.encode(Audio(sound)).values, expected[0, 0].numpy())


def state_of(cascade: Cascade) -> dict[str, Tensor]:
    modules = (cascade.text, cascade.coarse, cascade.fine, cascade.codec)
    return {
        f"{stage}.{name}": tensor
        for stage, module in zip(STAGES, modules, strict=True)
        for name, tensor in module.state_dict().items()
    }


def assert_equal(one: Cascade, other: Cascade) -> None:
    first, second = state_of(one), state_of(other)
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)


def as_safetensors(folder: Path) -> None:
    tiny.save_tiny_transformers_model(folder, safetensors=True)


def as_shards(folder: Path) -> None:
    tiny.save_tiny_transformers_model(folder, shards=True)


def as_safetensors_shards(folder: Path) -> None:
    tiny.save_tiny_transformers_model(folder, safetensors=True, shards=True)


def by_transformers_itself(folder: Path) -> None:
    model = tiny.tiny_bark_model()
    model.save_pretrained(folder)
    tiny.save_tiny_tokenizer(folder)


def as_in_2023(folder: Path) -> None:
    """Weight norm under its old names, masks, no tied heads: as in the published files."""
    model = tiny.save_tiny_transformers_model(folder)
    weights: dict[str, Tensor] = {}
    for name, tensor in model.state_dict().items():
        name = name.replace(".parametrizations.weight.original0", ".weight_g")
        weights[name.replace(".parametrizations.weight.original1", ".weight_v")] = tensor
    torch.save(weights, folder / "pytorch_model.bin")


def as_suno(folder: Path) -> None:
    """The same weights as Suno's files would hold them."""
    source = folder.with_name("for_suno")
    tiny.save_tiny_transformers_model(source)
    opened = open_checkpoint(source)
    for stage, name in zip(("semantic", "coarse", "fine"), tiny.SUNO_FILES, strict=True):
        module: Any = new_module(stage, opened.config)  # type: ignore[arg-type]
        fill_module(module, opened.read_stage(stage))  # type: ignore[arg-type]
        folder.mkdir(exist_ok=True)
        torch.save(tiny.suno_checkpoint(module, name), folder / tiny.SUNO_FILES[name])
    weights = torch.load(source / "pytorch_model.bin")
    codec = {
        name.removeprefix("codec_model."): tensor.clone()
        for name, tensor in weights.items()
        if name.startswith("codec_model.")
    }
    save_file(codec, folder / "model.safetensors")  # as facebook/encodec_24khz has it
    tiny.save_tiny_tokenizer(folder)


@pytest.mark.parametrize(
    "write",
    [
        as_safetensors,
        as_shards,
        as_safetensors_shards,
        by_transformers_itself,
        as_in_2023,
        as_suno,
    ],
)
def test_every_layout_ends_in_equal_weights(
    write: Callable[[Path], None], ours: Cascade, tmp_path: Path
) -> None:
    write(tmp_path / "model")
    loaded = load(tmp_path / "model", device="cpu", cache_dir=tmp_path / "cache")
    assert_equal(loaded, ours)
    assert loaded.config.layout == BARK_LAYOUT


def test_converted_by_hand_is_equal(saved: tuple[Any, Path], ours: Cascade, tmp_path: Path) -> None:
    folder = convert(saved[1], tmp_path / "out", "float32")
    assert_equal(load(folder, device="cpu"), ours)


def test_pickle_is_not_opened_again(
    saved: tuple[Any, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    load(saved[1], cache_dir=tmp_path, device="cpu")

    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("a pickle was opened")

    monkeypatch.setattr(torch, "load", refuse)
    load(saved[1], cache_dir=tmp_path, device="cpu")


def test_tied_heads_that_differ_are_refused(saved: tuple[Any, Path], tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(saved[1], folder)
    weights = torch.load(folder / "pytorch_model.bin")
    weights["fine_acoustics.lm_heads.2.weight"] = torch.zeros(1_056, tiny.WIDTH)
    torch.save(weights, folder / "pytorch_model.bin")
    with pytest.raises(InvalidCheckpoint, match=r"lm_heads\.2"):
        load(folder, cache_dir=tmp_path / "cache")


def test_layout_with_other_tokens_has_another_name(saved: tuple[Any, Path], tmp_path: Path) -> None:
    folder = tmp_path / "other"
    shutil.copytree(saved[1], folder)
    (folder / "generation_config.json").write_text(
        '{"semantic_config": {"semantic_infer_token": 129598}}'
    )
    layout = open_checkpoint(folder).config.layout
    assert layout.name == "other"
    assert layout.semantic_infer == 129_598
    assert dataclasses.replace(layout, name="bark", semantic_infer=129_599) == BARK_LAYOUT


def test_encodec_own_file_decodes_as_encodec(tmp_path: Path) -> None:
    torch.manual_seed(4)
    model = tiny.save_tiny_encodec(tmp_path / "encodec.th")
    state = torch.load(tmp_path / "encodec.th")
    config = with_codec_shape(tiny.true_config(), state)
    codec: Any = new_module("codec", config)
    fill_module(codec, from_encodec(state, config))
    values = random_ids(1024, 8, 40).numpy().astype(np.int16)
    sound = np.random.default_rng(2).normal(0, 0.3, 9_999).astype(np.float32)
    model.set_target_bandwidth(6.0)
    with torch.no_grad():
        codes = torch.from_numpy(values.astype(np.int64))
        expected = model.decode([(codes[None], None)])[0, 0].numpy()
        expected_codes = model.encode(torch.from_numpy(sound)[None, None])[0][0][0].numpy()
    assert np.array_equal(codec.decode(FineCodes(values, BARK_LAYOUT)).samples, expected)
    assert np.array_equal(codec.encode(Audio(sound)).values, expected_codes)

"""load() and convert(): every layout, once converted and then mapped; names and folders."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError
from torch import Tensor

from bark_core import checkpoint, formats, models, native
from bark_core.cascade import Cascade
from bark_core.checkpoint import convert, load
from bark_core.config import BARK_LAYOUT, CascadeConfig
from bark_core.configurations import STAGES, StageName
from bark_core.errors import (
    Cancelled,
    InvalidSetting,
    MissingFiles,
    OutOfMemory,
    StorageError,
    UnknownModel,
)
from bark_core.formats import open_checkpoint, write_model
from bark_core.hub import DownloadProgress
from bark_core.int8_linear import Int8Linear
from bark_core.models import installed, known_models, remove
from bark_core.request import GenerationRequest
from tests import tiny


@pytest.fixture(scope="module")
def suno_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("suno") / "bark"
    tiny.save_tiny_suno_checkpoints(folder)
    return folder


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


def weights(cascade: Cascade) -> dict[str, Tensor]:
    modules = {
        "text": cascade.text,
        "coarse": cascade.coarse,
        "fine": cascade.fine,
        "codec": cascade.codec,
    }
    return {
        f"{stage}.{name}": tensor
        for stage, module in modules.items()
        for name, tensor in module.state_dict().items()
    }


def assert_same_weights(one: Cascade, other: Cascade) -> None:
    first, second = weights(one), weights(other)
    assert first.keys() == second.keys()
    for name, tensor in first.items():
        assert torch.equal(tensor, second[name]), name


def test_own_layout_loads_as_it_was_saved(tiny_folder: Path, tiny_cascade: Cascade) -> None:
    loaded = load(tiny_folder, device="cpu")
    assert_same_weights(loaded, tiny_cascade)
    assert loaded.config == tiny_cascade.config
    assert loaded.tokenizer.encode("Hello") == tiny_cascade.tokenizer.encode("Hello")
    for module in (loaded.text, loaded.coarse, loaded.fine, loaded.codec):
        assert not module.training
        assert not any(parameter.requires_grad for parameter in module.parameters())


def test_loaded_model_speaks_like_the_one_that_was_saved(
    tiny_folder: Path, tiny_cascade: Cascade
) -> None:
    request = GenerationRequest("Hello there!", seed=5)
    ours = load(str(tiny_folder), device="cpu").generate(request).audio.samples
    assert (ours == tiny_cascade.generate(request).audio.samples).all()


def test_loading_own_layout_writes_nothing(tiny_folder: Path, tmp_path: Path) -> None:
    before = sorted(tiny_folder.iterdir())
    load(tiny_folder, cache_dir=tmp_path / "cache", local_files_only=True)
    assert sorted(tiny_folder.iterdir()) == before
    assert not (tmp_path / "cache").exists()


def test_fine_heads_and_embeddings_stay_one_tensor(tiny_folder: Path) -> None:
    fine = load(tiny_folder, device="cpu").fine
    table = fine.transformer["wtes"][1].weight  # type: ignore[index]
    assert table is fine.lm_heads[0].weight


@pytest.mark.filterwarnings("ignore:.*April 2023")
def test_second_load_reads_only_the_converted_files(suno_folder: Path, cache: Path) -> None:
    first = load(suno_folder, cache_dir=cache, device="cpu")
    assert first.config.layout == BARK_LAYOUT
    steps: list[DownloadProgress] = []
    second = load(suno_folder, cache_dir=cache, device="cpu", progress=steps.append)
    assert not steps
    assert_same_weights(first, second)
    assert first.identity == second.identity


def test_changed_suno_files_are_a_warning(suno_folder: Path, tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="April 2023"):
        convert(suno_folder, tmp_path / "out", "float32")


@pytest.mark.filterwarnings("ignore:.*April 2023")
def test_changed_folder_is_converted_again(tmp_path: Path) -> None:
    folder, cache = tmp_path / "model", tmp_path / "cache"
    tiny.save_tiny_suno_checkpoints(folder, seed=1)
    first = load(folder, cache_dir=cache)
    tiny.save_tiny_suno_checkpoints(folder, seed=2)
    second = load(folder, cache_dir=cache)
    assert first.identity.revision != second.identity.revision
    assert not torch.equal(first.text.lm_head.weight, second.text.lm_head.weight)


@pytest.mark.filterwarnings("ignore:.*April 2023")
def test_large_files_of_suno_are_preferred(tmp_path: Path) -> None:
    tiny.save_tiny_suno_checkpoints(tmp_path / "model", seed=1)
    tiny.save_tiny_suno_checkpoints(tmp_path / "model", seed=2, large=True)
    tiny.save_tiny_suno_checkpoints(tmp_path / "large", seed=2, large=True)
    both = load(tmp_path / "model", cache_dir=tmp_path / "cache")
    assert_same_weights(both, load(tmp_path / "large", cache_dir=tmp_path / "cache"))


@pytest.mark.parametrize("precision", ["float16", "bfloat16", "float32"])
def test_converted_precision_is_what_was_asked(
    tiny_folder: Path, tmp_path: Path, precision: str
) -> None:
    folder = convert(tiny_folder, tmp_path / "out", precision)
    opened = open_checkpoint(folder)
    dtypes = {tensor.dtype for tensor in opened.read_stage("semantic").values()}
    assert dtypes == {getattr(torch, precision)}
    assert {tensor.dtype for tensor in opened.read_stage("codec").values()} == {torch.float32}
    loaded = load(folder, device="cpu")
    assert loaded.text.dtype == torch.float32
    assert loaded.codec.quantizer.codebooks.dtype == torch.float32


def test_precision_in_memory_is_what_was_asked(tiny_folder: Path) -> None:
    loaded = load(tiny_folder, device="cpu", precision="bfloat16")
    assert loaded.coarse.dtype == loaded.fine.dtype == torch.bfloat16
    assert loaded.identity.precision == "bfloat16"


def test_int8_in_memory_is_close_to_float32(tiny_folder: Path) -> None:
    exact = load(tiny_folder, device="cpu")
    close = load(tiny_folder, device="cpu", precision="int8")
    assert close.identity.precision == close.placement.precision == "int8"
    assert close.text.dtype == close.fine.dtype == torch.float32
    for stage in ("text", "coarse"):
        logits = []
        for cascade in (exact, close):
            model = getattr(cascade, stage)
            ids = torch.arange(30) % 20
            cache = model.new_cache(1, 31)
            hidden = [model.prefill(model.embed(ids[None]), cache)]
            decoder = model.decoder()
            hidden.append(decoder.step(ids[:1], [cache]))
            logits.append(decoder.logits(torch.cat(hidden), 0, 24))
            # a step may round what comes into the head, too
            torch.testing.assert_close(
                logits[-1], model.logits(torch.cat(hidden), 0, 24), rtol=1e-3, atol=3e-4
            )
        left = (logits[0] - logits[1]).abs().max()
        assert 0 < left < 0.05 * logits[0].abs().max()
    codes = torch.arange(32 * 8).view(1, 32, 8) % 16
    expected, got = exact.fine(3, codes), close.fine(3, codes)
    assert 0 < (got - expected).abs().max() < 0.05 * expected.abs().max()


def test_int8_speaks_with_and_without_a_compiler(
    tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    request = GenerationRequest("hello the hello", seed=4)
    compiled = load(tiny_folder, device="cpu", precision="int8").generate(request)
    monkeypatch.setattr(native, "library", lambda: None)
    plain = load(tiny_folder, device="cpu", precision="int8").generate(request)
    assert compiled.audio.duration_s > 0
    assert plain.audio.duration_s > 0


def test_what_was_read_to_make_int8_is_let_go(
    tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What stays as it was stored is mapped anew, so nothing holds the first mapping."""
    readings: dict[str, list[set[int]]] = {}
    read_own_stage = formats.read_own_stage

    def recorded(folder: Path, stage: StageName, config: CascadeConfig) -> dict[str, Tensor]:
        state = read_own_stage(folder, stage, config)
        places = {tensor.untyped_storage().data_ptr() for tensor in state.values()}
        readings.setdefault(stage, []).append(places)
        return state

    monkeypatch.setattr(checkpoint, "read_own_stage", recorded)
    cascade = load(tiny_folder, device="cpu", precision="int8")
    modules = {"semantic": cascade.text, "coarse": cascade.coarse, "fine": cascade.fine}
    for stage, module in modules.items():
        first, second = readings[stage]
        held = {p.untyped_storage().data_ptr() for p in module.parameters()}
        assert held <= second and not held & first
    tied = cascade.fine.get_submodule("transformer.wtes.1")
    assert tied.weight is cascade.fine.lm_heads[0].weight


def test_memory_of_an_unloaded_int8_model_is_given_back(tiny_folder: Path) -> None:
    cascade = load(tiny_folder, device="cpu", precision="int8")
    cascade.unload()
    for module in (*cascade.text.modules(), *cascade.fine.modules()):
        if isinstance(module, Int8Linear):
            assert module.weight.is_meta
            assert module.packed is None


def test_loading_does_not_import_torchs_compiler(tiny_folder: Path) -> None:
    """Which takes longer than everything else together."""
    code = (
        "import sys; from bark_core import load; "
        f"load({str(tiny_folder)!r}, device='cpu'); print('torch._dynamo' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_codec_can_be_written_small(tiny_folder: Path, tmp_path: Path) -> None:
    opened = open_checkpoint(tiny_folder)
    write_model(
        tmp_path / "small",
        config=opened.config,
        tokenizer=opened.tokenizer,
        read_stage=opened.read_stage,
        precision="float16",
        codec_precision="float16",
    )
    sizes = [
        sum((folder / f"{stage}.safetensors").stat().st_size for stage in STAGES)
        for folder in (tiny_folder, tmp_path / "small")
    ]
    assert sizes[1] < 0.6 * sizes[0]
    load(tmp_path / "small", device="cpu").generate(GenerationRequest("Hi", seed=2))


def test_converted_files_can_be_read_by_whoever_may_read_the_folder(
    tiny_folder: Path, tmp_path: Path
) -> None:
    modes = {file.stat().st_mode for file in convert(tiny_folder, tmp_path / "out").iterdir()}
    (tmp_path / "plain").touch()
    assert modes == {(tmp_path / "plain").stat().st_mode}


def test_convert_keeps_what_is_there_already(tiny_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("precious")
    with pytest.raises(StorageError, match="choose a new folder"):
        convert(tiny_folder, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]
    with pytest.raises(InvalidSetting, match="int8"):
        convert(tiny_folder, tmp_path / "out", "int8")


def test_stop_while_converting_leaves_nothing(tiny_folder: Path, tmp_path: Path) -> None:
    def stop(progress: DownloadProgress) -> None:
        if progress.step == "convert" and progress.done_bytes > 0:
            raise Cancelled("stop")

    with pytest.raises(Cancelled):
        convert(tiny_folder, tmp_path / "out", progress=stop)
    assert not list(tmp_path.iterdir())


def test_progress_of_a_conversion_rises_to_its_total(tiny_folder: Path, tmp_path: Path) -> None:
    seen: list[DownloadProgress] = []
    convert(tiny_folder, tmp_path / "out", progress=seen.append)
    done = [step.done_bytes for step in seen]
    assert done == sorted(done)
    assert done[-1] == seen[-1].total_bytes


@pytest.mark.filterwarnings("ignore:.*April 2023")
def test_partial_conversion_is_never_taken_for_a_whole(suno_folder: Path, tmp_path: Path) -> None:
    load(suno_folder, cache_dir=tmp_path)
    (converted,) = (tmp_path / "models").iterdir()
    with (converted / "fine.safetensors").open("r+b") as file:
        file.truncate(100)
    leftover = converted.with_name(f".{converted.name}.abcd.partial")
    leftover.mkdir()
    again = load(suno_folder, cache_dir=tmp_path)
    assert again.fine.dtype == torch.float32
    assert not leftover.exists()


@pytest.mark.parametrize(
    ("name", "closest"), [("smal", "small"), ("larg", "large"), ("pupp", "pup"), ("", "pup")]
)
def test_unknown_name_says_the_closest(name: str, closest: str) -> None:
    with pytest.raises(UnknownModel, match=closest):
        load(name)


@pytest.mark.parametrize("name", ["./nowhere", "~/no/such/folder", "a/b/c", Path("nowhere")])
def test_missing_folder_is_said(name: str | Path) -> None:
    with pytest.raises(MissingFiles, match="no folder"):
        load(name)


def test_bad_settings_show_before_anything_else(tmp_path: Path) -> None:
    with pytest.raises(InvalidSetting):
        load("small", device="banana", cache_dir=tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("missing", ["fine.safetensors", "tokenizer.json"])
def test_missing_files_are_named(tiny_folder: Path, tmp_path: Path, missing: str) -> None:
    for file in tiny_folder.iterdir():
        if file.name != missing:
            os.link(file, tmp_path / file.name)
    with pytest.raises(MissingFiles, match=missing):
        load(tmp_path)
    assert not installed(tmp_path)


def test_every_missing_file_of_suno_is_named(suno_folder: Path, tmp_path: Path) -> None:
    os.link(suno_folder / "text.pt", tmp_path / "text.pt")
    with pytest.raises(MissingFiles, match=r"coarse\.pt.*fine\.pt.*encodec_24khz.*vocab\.txt"):
        load(tmp_path)


def test_folder_without_a_model(tmp_path: Path) -> None:
    with pytest.raises(MissingFiles, match="no model"):
        load(tmp_path)


def test_known_models_say_what_they_need() -> None:
    models = {info.name: info for info in known_models()}
    assert {"small", "large"} <= models.keys()
    for info in models.values():
        assert info.title
        assert info.description
        assert 0 < info.memory_bytes("bfloat16") < info.memory_bytes("float32")
    large = models["large"]
    assert large.memory_bytes("float16", offload=True) < 2.5e9 < large.memory_bytes("float32")


@pytest.fixture
def pup(tiny_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(models, "PUP_FOLDER", tiny_folder)
    return tiny_folder


def test_pup_is_bundled(pup: Path, tmp_path: Path) -> None:
    assert known_models()[0].name == "pup"
    assert installed("pup", tmp_path)
    assert load(cache_dir=tmp_path, local_files_only=True).identity.source == "bundled"
    with pytest.raises(InvalidSetting):
        remove("pup", tmp_path)


def test_pup_that_is_not_there(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(models, "PUP_FOLDER", tmp_path / "pup")
    assert [info.name for info in known_models()] == ["small", "large"]
    with pytest.raises(MissingFiles):
        load("pup")


def test_nothing_of_the_machine_is_in_the_identity(tiny_folder: Path) -> None:
    identity = load(tiny_folder).identity
    assert str(tiny_folder.parent) not in json.dumps(
        [identity.source, identity.name, identity.revision]
    )


@pytest.mark.parametrize(
    "error",
    [
        SafetensorError("Error while opening: Cannot allocate memory (os error 12)"),
        OSError(errno.ENOMEM, "Cannot allocate memory"),
        RuntimeError("unable to mmap 7490784 bytes from file: Cannot allocate memory (12)"),
    ],
)
def test_a_file_that_can_t_be_mapped_for_lack_of_memory_isn_t_called_damaged(
    tiny_folder: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def refuse(*_file: object, **_options: object) -> None:
        raise error

    monkeypatch.setattr("bark_core.weights.safe_open", refuse)
    with pytest.raises(OutOfMemory, match="semantic"):
        load(tiny_folder, device="cpu")

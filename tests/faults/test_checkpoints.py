"""Damaged, foreign and malicious checkpoints: one typed error each, nothing executed or left."""

from __future__ import annotations

import contextlib
import json
import os
import pickle
import shutil
import struct
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from bark_core.checkpoint import convert, load
from bark_core.configurations import STAGES
from bark_core.errors import InvalidCheckpoint, MissingFiles, StorageError
from bark_core.formats import open_checkpoint
from bark_core.reading import read_json
from bark_core.weights import read_pickle, read_safetensors
from tests import tiny

pytestmark = pytest.mark.filterwarnings("ignore:.*(April 2023|pickle protocol)")


@pytest.fixture(scope="module")
def suno_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("suno") / "bark"
    tiny.save_tiny_suno_checkpoints(folder)
    return folder


@pytest.fixture
def own(tiny_folder: Path, tmp_path: Path) -> Path:
    """A copy of the tiny model that may be damaged."""
    return Path(shutil.copytree(tiny_folder, tmp_path / "own"))


@pytest.fixture
def suno(suno_folder: Path, tmp_path: Path) -> Path:
    """A copy of Suno's files that may be damaged."""
    return Path(shutil.copytree(suno_folder, tmp_path / "suno"))


@pytest.fixture
def cache(tmp_path: Path) -> Iterator[Path]:
    """A cache in which nothing may be left after a failure."""
    yield tmp_path / "cache"
    models = tmp_path / "cache" / "models"
    assert not models.exists() or not list(models.iterdir())


def refused(folder: Path, cache: Path, match: str = ".") -> None:
    with pytest.raises(InvalidCheckpoint, match=match):
        load(folder, cache_dir=cache, device="cpu")


def change_config(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    config = json.loads((folder / "config.json").read_text())
    change(config)
    (folder / "config.json").write_text(json.dumps(config))


def change_weights(folder: Path, stage: str, change: Callable[[dict[str, Any]], object]) -> None:
    file = folder / f"{stage}.safetensors"
    weights = {name: tensor.clone() for name, tensor in load_file(file).items()}
    change(weights)
    save_file(weights, file)


def change_pickle(file: Path, change: Callable[[dict[str, Any]], object]) -> None:
    data = torch.load(file, weights_only=False)
    change(data)
    torch.save(data, file)


def truncate(file: Path, share: float) -> None:
    with file.open("r+b") as content:
        content.truncate(int(file.stat().st_size * share))


# --- truncated and scrambled files ---------------------------------------------------------


@pytest.mark.parametrize("share", [0.0, 0.0001, 0.01, 0.5, 0.9, 0.9999])
@pytest.mark.parametrize("stage", ["semantic", "codec"])
def test_truncated_safetensors(own: Path, cache: Path, stage: str, share: float) -> None:
    truncate(own / f"{stage}.safetensors", share)
    refused(own, cache, f"{stage}.safetensors")


@pytest.mark.parametrize("share", [0.0, 0.0001, 0.01, 0.5, 0.9, 0.9999])
@pytest.mark.parametrize("name", ["text.pt", "encodec_24khz-d7cc33bc.th"])
def test_truncated_pickles(suno: Path, cache: Path, name: str, share: float) -> None:
    truncate(suno / name, share)
    refused(suno, cache, name)


@pytest.mark.parametrize("content", [b"\0" * 4096, b"<html>404</html>", b"version https://git-lfs"])
@pytest.mark.parametrize("name", ["coarse.pt", "encodec_24khz-d7cc33bc.th"])
def test_something_else_instead_of_a_pickle(
    suno: Path, cache: Path, name: str, content: bytes
) -> None:
    (suno / name).write_bytes(content)
    refused(suno, cache, name)


@pytest.mark.parametrize("content", [b"\0" * 4096, b"<html>404</html>", b"version https://git-lfs"])
def test_something_else_instead_of_safetensors(own: Path, cache: Path, content: bytes) -> None:
    (own / "fine.safetensors").write_bytes(content)
    refused(own, cache, "fine.safetensors")


@pytest.mark.parametrize("header", [b"{", b"[]", b'{"a":1}', b'{"a":{"dtype":"F32"}}', b"\xff"])
def test_safetensors_header_that_says_nothing(own: Path, cache: Path, header: bytes) -> None:
    data = struct.pack("<Q", len(header)) + header + b"\0" * 100
    (own / "coarse.safetensors").write_bytes(data)
    refused(own, cache, "coarse.safetensors")


def test_safetensors_header_that_promises_too_much(own: Path, cache: Path) -> None:
    (own / "coarse.safetensors").write_bytes(struct.pack("<Q", 2**62) + b"{}")
    refused(own, cache)
    header = json.dumps(
        {"x": {"dtype": "F32", "shape": [2**40], "data_offsets": [0, 2**42]}}
    ).encode()
    (own / "coarse.safetensors").write_bytes(struct.pack("<Q", len(header)) + header)
    refused(own, cache)


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(position=st.integers(0, 600), flip=st.integers(1, 255))
def test_flipped_byte_in_a_header(own: Path, position: int, flip: int) -> None:
    file = own / "codec.safetensors"
    original = file.read_bytes()
    damaged = bytearray(original)
    damaged[position] ^= flip
    file.write_bytes(damaged)
    with contextlib.suppress(InvalidCheckpoint):
        open_checkpoint(own).read_stage("codec")
    file.write_bytes(original)


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(position=st.integers(0, 4000), flip=st.integers(1, 255))
def test_flipped_byte_in_a_pickle(suno: Path, position: int, flip: int) -> None:
    file = suno / "fine.pt"
    original = file.read_bytes()
    damaged = bytearray(original)
    damaged[position] ^= flip
    file.write_bytes(damaged)
    with contextlib.suppress(InvalidCheckpoint):
        open_checkpoint(suno).read_stage("fine")
    file.write_bytes(original)


@settings(max_examples=60, deadline=None)
@given(content=st.binary(max_size=300))
def test_random_bytes_are_one_error(
    tmp_path_factory: pytest.TempPathFactory, content: bytes
) -> None:
    file = tmp_path_factory.getbasetemp() / "random.bin"
    file.write_bytes(content)
    for read in (read_safetensors, read_pickle):
        with pytest.raises(InvalidCheckpoint):
            read(file)
    with contextlib.suppress(InvalidCheckpoint):  # a few bytes may be JSON by chance
        assert isinstance(read_json(file), dict)


# --- weights of another model --------------------------------------------------------------


@pytest.mark.parametrize("stage", STAGES)
def test_missing_extra_and_misshapen_weights_are_named(own: Path, cache: Path, stage: str) -> None:
    def spoil(weights: dict[str, Any]) -> None:
        gone, bent = sorted(weights)[:2]
        del weights[gone]
        weights[bent] = weights[bent].flatten()[:1]
        weights["banana"] = torch.zeros(2)

    change_weights(own, stage, spoil)
    refused(own, cache, "missing: .*not part of this model: banana.*of another shape: ")


def test_weights_of_whole_numbers(own: Path, cache: Path) -> None:
    def spoil(weights: dict[str, Any]) -> None:
        weights["lm_head.weight"] = weights["lm_head.weight"].to(torch.int64)

    change_weights(own, "semantic", spoil)
    refused(own, cache, "not floating point: lm_head.weight")


def test_stages_that_were_mixed_up(own: Path, cache: Path) -> None:
    shutil.copy(own / "semantic.safetensors", own / "coarse.safetensors")
    refused(own, cache, "of another shape")


def test_suno_files_that_were_mixed_up(suno: Path, cache: Path) -> None:
    shutil.copy(suno / "coarse.pt", suno / "text.pt")
    refused(suno, cache, "vocabulary must be at least 129600")


def test_codec_of_another_kind(suno: Path, cache: Path) -> None:
    torch.save({"encoder.weight": torch.zeros(3)}, suno / "encodec_24khz-d7cc33bc.th")
    refused(suno, cache, "EnCodec")


@pytest.mark.parametrize(
    ("spoil", "match"),
    [
        (lambda d: d.pop("model_args"), "model_args"),
        (lambda d: d.pop("model"), "no named weights"),
        (lambda d: d.update(model=[1, 2]), "no named weights"),
        (lambda d: d["model"].update(x="text"), "str as 'x'"),
        (lambda d: d["model_args"].update(n_layer=3), "missing: transformer.h.2"),
        (lambda d: d["model_args"].update(n_layer=10**9), "n_layer"),
        (lambda d: d["model_args"].update(n_layer=-1), "n_layer"),
        (lambda d: d["model_args"].update(n_head=3), "multiple"),
        (lambda d: d["model_args"].update(n_embd="wide"), "n_embd"),
        (lambda d: d["model_args"].update(n_embd=True), "n_embd"),
        (lambda d: d["model_args"].pop("n_embd"), "n_embd"),
        (lambda d: d["model_args"].update(block_size=100), "block size"),
        (lambda d: d["model"].pop("_orig_mod.lm_head.weight"), "missing: lm_head.weight"),
        (lambda d: d["model"].update({"lm_head.bias": torch.zeros(1)}), "lm_head.bias"),
    ],
)
def test_suno_file_with_wrong_contents(
    suno: Path, cache: Path, spoil: Callable[[dict[str, Any]], object], match: str
) -> None:
    change_pickle(suno / "text.pt", spoil)
    refused(suno, cache, match)


def test_pickle_of_a_list(suno: Path, cache: Path) -> None:
    torch.save([torch.zeros(2)], suno / "text.pt")
    refused(suno, cache, "list")


def test_weights_that_are_not_finite_are_not_converted(suno: Path, cache: Path) -> None:
    def spoil(data: dict[str, Any]) -> None:
        data["model"]["_orig_mod.lm_head.weight"][3, 3] = float("nan")

    change_pickle(suno / "text.pt", spoil)
    refused(suno, cache, "lm_head.weight of the semantic stage isn't finite")


def test_weights_too_large_for_half_precision(own: Path, tmp_path: Path) -> None:
    def spoil(weights: dict[str, Any]) -> None:
        weights["lm_head.weight"][0, 0] = 1e6

    change_weights(own, "coarse", spoil)
    with pytest.raises(InvalidCheckpoint, match="float16"):
        convert(own, tmp_path / "half", "float16")
    assert not (tmp_path / "half").exists()
    convert(own, tmp_path / "whole", "float32")


# --- configurations ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("spoil", "match"),
    [
        (lambda c: c.pop("text"), "text"),
        (lambda c: c.update(banana=1), "banana"),
        (lambda c: c["text"].update(banana=1), "banana"),
        (lambda c: c["layout"].pop("text_pad"), "text_pad"),
        (lambda c: c.update(layout=3), "configuration"),
        (lambda c: c["text"].update(n_layer=10**9), "n_layer"),
        (lambda c: c["text"].update(n_layer="2"), "n_layer"),
        (lambda c: c["coarse"].update(n_embd=0), "n_embd"),
        (lambda c: c["coarse"].update(n_head=0), "configuration|n_head"),
        (lambda c: c["text"].update(input_vocab_size=100), "text input vocabulary"),
        (lambda c: c["text"].update(block_size=20), "text block size"),
        (lambda c: c["coarse"].update(output_vocab_size=10), "coarse output vocabulary"),
        (lambda c: c["fine"].update(n_codes_total=4), "codebooks"),
        (lambda c: c["fine"].update(block_size=8), "fine block size"),
        (lambda c: c["fine"].update(output_vocab_size=20), "shares weights"),
        (lambda c: c["codec"].update(ratios=[2, 2]), "samples per frame"),
        (lambda c: c["codec"].update(ratios="8542"), "ratios"),
        (lambda c: c["codec"].update(n_filters=10**9), "n_filters"),
        (lambda c: c["codec"].update(bins=8), "bins"),
        (lambda c: c["codec"].update(pad_mode="x"), "pad_mode"),
    ],
)
def test_configuration_that_makes_no_sense(
    own: Path, cache: Path, spoil: Callable[[dict[str, Any]], object], match: str
) -> None:
    change_config(own, spoil)
    refused(own, cache, match)


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[]", b"null", b"\xff\xfe", b"[" * 100_000, b'{"layout": NaN}'],
    ids=["empty", "cut", "list", "null", "bytes", "nested", "nan"],
)
def test_configuration_that_is_not_json(own: Path, cache: Path, content: bytes) -> None:
    (own / "config.json").write_bytes(content)
    refused(own, cache)


def test_configuration_of_another_model(own: Path, cache: Path) -> None:
    (own / "config.json").write_text('{"model_type": "llama"}')
    refused(own, cache, "llama")


def test_tokenizer_of_another_kind(own: Path, cache: Path) -> None:
    (own / "tokenizer.json").write_text("{}")
    refused(own, cache, "tokenizer")


@pytest.mark.parametrize(
    ("index", "match"),
    [
        ('{"weight_map": {"a": "../../etc/passwd"}}', "outside"),
        ('{"weight_map": {"a": "..\\\\x.bin"}}', "outside"),
        ('{"weight_map": 3}', "weight_map"),
        ('{"weight_map": {"a": 3}}', "weight_map"),
        ("{}", "weight_map"),
    ],
)
def test_index_that_leads_elsewhere(tmp_path: Path, cache: Path, index: str, match: str) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text('{"model_type": "bark", "codec_config": {}}')
    (folder / "generation_config.json").write_text("{}")
    (folder / "pytorch_model.bin.index.json").write_text(index)
    shapes = {"bias": False, "input_vocab_size": 129_600, "output_vocab_size": 12_096}
    config = {
        "model_type": "bark",
        **{f"{s}_config": shapes for s in ("semantic", "coarse_acoustics", "fine_acoustics")},
    }
    config["fine_acoustics_config"] = {**shapes, "input_vocab_size": 12_096}
    (folder / "config.json").write_text(json.dumps(config))
    tiny.save_tiny_tokenizer(folder)
    refused(folder, cache, match)


@pytest.mark.parametrize(
    ("part", "key", "value", "match"),
    [
        ("codec_config", "norm_type", "time_group_norm", "norm_type"),
        ("codec_config", "audio_channels", 2, "audio_channels"),
        ("codec_config", "sampling_rate", 48_000, "sampling_rate"),
        ("codec_config", "target_bandwidths", [], "target_bandwidths"),
        ("codec_config", "upsampling_ratios", "x", "upsampling_ratios"),
        ("semantic_config", "num_layers", "two", "num_layers"),
        ("semantic_config", "hidden_size", 7, "multiple"),
    ],
)
def test_transformers_configuration_that_cannot_be_used(
    tmp_path: Path, cache: Path, part: str, key: str, value: object, match: str
) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    config: dict[str, Any] = {"model_type": "bark", part: {key: value}}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "pytorch_model.bin").write_bytes(b"x")
    tiny.save_tiny_tokenizer(folder)
    refused(folder, cache, match)


# --- malice --------------------------------------------------------------------------------


class Payload:
    """Unpickled by anything careless, writes a file."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.target}",)


def in_the_weights(file: Path, payload: Payload) -> None:
    change_pickle(file, lambda data: data["model"].update(x=payload))


def instead_of_the_loss(file: Path, payload: Payload) -> None:
    change_pickle(file, lambda data: data.update(best_val_loss=payload))


def as_a_plain_pickle(file: Path, payload: Payload) -> None:
    file.write_bytes(pickle.dumps({"model": payload, "model_args": {}}, protocol=2))


def as_an_old_torch_file(file: Path, payload: Payload) -> None:
    torch.save({"model": payload}, file, _use_new_zipfile_serialization=False)


def through_eval(file: Path, payload: Payload) -> None:
    code = f"__import__('os').system('touch {payload.target}')"
    program = b"\x80\x02c__builtin__\neval\nq\x00X" + struct.pack("<I", len(code)) + code.encode()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("archive/data.pkl", program + b"q\x01\x85q\x02Rq\x03.")
        archive.writestr("archive/version", "3\n")


@pytest.mark.parametrize("name", ["text.pt", "fine.pt"])
@pytest.mark.parametrize(
    "plant",
    [in_the_weights, instead_of_the_loss, as_a_plain_pickle, as_an_old_torch_file, through_eval],
)
def test_malicious_pickle_is_never_run(
    suno: Path, cache: Path, plant: Callable[[Path, Payload], None], name: str
) -> None:
    target = suno.parent / "executed"
    plant(suno / name, Payload(target))
    refused(suno, cache, name)
    assert not target.exists()


def test_what_a_pickle_asked_for_is_named(suno: Path, cache: Path) -> None:
    in_the_weights(suno / "text.pt", Payload(suno.parent / "executed"))
    refused(suno, cache, r"(posix|nt)\.system.*was not run")


def test_malicious_codec_is_never_run(suno: Path, cache: Path) -> None:
    target = suno.parent / "executed"
    torch.save({"x": Payload(target)}, suno / "encodec_24khz-d7cc33bc.th")
    refused(suno, cache, r"system")
    assert not target.exists()


def test_safe_globals_are_not_left_behind(suno: Path) -> None:
    before = list(torch.serialization.get_safe_globals())
    open_checkpoint(suno)
    assert torch.serialization.get_safe_globals() == before


# --- disks ---------------------------------------------------------------------------------


FULL_DISK = """
import resource, signal, sys
from pathlib import Path
from bark_core.checkpoint import convert
from bark_core.errors import StorageError
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
target = Path(sys.argv[2])
for limit in (0, 1_000, 130_000):
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
    try:
        convert(Path(sys.argv[1]), target, "float32")
    except StorageError as error:
        assert str(target) in str(error), error
        assert not list(target.parent.iterdir())
    else:
        sys.exit("no error")
"""


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no limit on file sizes")
def test_full_disk_while_converting(tiny_folder: Path, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", FULL_DISK, str(tiny_folder), str(tmp_path / "out")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_too_little_space_is_said_before(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bark_core.hub.MARGIN_BYTES", 10**16)
    with pytest.raises(StorageError, match="free some space"):
        convert(tiny_folder, tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_folder_that_is_a_file(tiny_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(StorageError):
        convert(tiny_folder, tmp_path / "file")
    with pytest.raises(StorageError):
        convert(tiny_folder, tmp_path / "file" / "out")
    with pytest.raises(MissingFiles):
        load(tmp_path / "file")


def test_weights_that_are_a_folder(own: Path, cache: Path) -> None:
    (own / "fine.safetensors").unlink()
    (own / "fine.safetensors").mkdir()
    with pytest.raises(MissingFiles, match="fine"):
        load(own, cache_dir=cache)

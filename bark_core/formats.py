"""Opening a folder that holds a model (see `folders`), and writing one of our own layout."""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import secrets
import shutil
import warnings
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bark_core.config import CascadeConfig
from bark_core.configurations import (
    STAGES,
    StageName,
    check_config,
    config_from_suno,
    with_codec_shape,
)
from bark_core.device import dtype_of
from bark_core.errors import (
    BarkError,
    InvalidCheckpoint,
    InvalidSetting,
    MissingFiles,
    StorageError,
)
from bark_core.files import storage_error
from bark_core.folders import (
    ENCODEC_FILES,
    INDEX,
    ORIGIN_FILE,
    SUNO_FILES,
    TOKENIZER_FILES,
    WEIGHT_FILES,
    LayoutName,
    Origin,
    complete_layout,
    first_of,
    read_own_config,
    read_transformers_config,
    stage_file,
)
from bark_core.hub import DownloadProgress, ProgressCallback, check_space
from bark_core.layouts import (
    State,
    check_state,
    expected_shapes,
    foreign_names,
    from_encodec,
    from_suno,
    from_transformers,
)
from bark_core.placement import STORED
from bark_core.reading import read_json
from bark_core.tokenizer import Tokenizer
from bark_core.weights import (
    read_pickle,
    read_safetensors,
    read_state,
    tensors_of,
    write_safetensors,
)

# as suno-ai/bark's source stated them in April 2023
SUNO_MD5 = {
    "text.pt": "b3e42bcbab23b688355cd44128c4cdd3",
    "coarse.pt": "5fe964825e3b0321f9d5f3857b89194d",
    "fine.pt": "5428d1befe05be2ba32195496e58dc90",
    "text_2.pt": "54afa89d65e318d4f5f80e8e8799026a",
    "coarse_2.pt": "8a98094e5e3a255a5c9c0ab7efe8fd28",
    "fine_2.pt": "59d184ed44e3650774a2f0503a48a97b",
}


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A folder of weights in any layout, opened but not read yet."""

    folder: Path
    layout: LayoutName
    config: CascadeConfig
    tokenizer: Tokenizer
    read_stage: Callable[[StageName], State]  # under our names and shapes, in the file's dtype


def open_checkpoint(folder: Path, name: str | None = None) -> Checkpoint:
    """Find out what a folder holds.

    Args:
        name: of the model, where the folder doesn't say it; the folder's own by default.
    Raises:
        MissingFiles: nothing that looks like a model, or only a part of it.
        InvalidCheckpoint: damaged, or another kind of model.
    """
    match complete_layout(folder):
        case "own":
            return _open_own(folder)
        case "transformers":
            return _open_transformers(folder, name or folder.name)
        case "suno":
            return _open_suno(folder, name or folder.name)


def read_own_stage(folder: Path, stage: StageName, config: CascadeConfig) -> State:
    """Weights of one stage of our own layout, mapped, checked.

    Raises:
        MissingFiles, InvalidCheckpoint, StorageError
    """
    file = folder / stage_file(stage)
    state = read_safetensors(file)
    check_state(state, expected_shapes(stage, config), str(file))
    return state


def write_model(
    target: Path,
    *,
    config: CascadeConfig,
    tokenizer: Tokenizer,
    read_stage: Callable[[StageName], Mapping[str, Tensor]],
    precision: str,
    codec_precision: str | None = None,
    origin: Origin | None = None,
    progress: ProgressCallback | None = None,
) -> None:
    """Write a model in our own layout: a new folder that is whole, or not there at all.

    Args:
        read_stage: gives each stage's weights under our names (see `layouts`).
        precision: of the transformers.
        codec_precision: None keeps the codec's weights as they are.
        origin: what to record as the weights' origin.
    Raises:
        InvalidSetting: no such precision.
        InvalidCheckpoint: weights are missing, misshapen or not finite.
        StorageError: the disk is full, can't be written, or the folder is in use.
        Cancelled: `progress` raised it.
    """
    for name in (precision, codec_precision or precision):
        if name not in STORED:
            raise InvalidSetting(f"precision must be one of {', '.join(STORED)}, got {name!r}")
    check_config(config)
    shapes = {stage: expected_shapes(stage, config) for stage in STAGES}
    n_weights = sum(math.prod(shape) for stage in STAGES for shape in shapes[stage].values())
    total = n_weights * STORED[precision]
    check_space(target.parent, total, f"the converted model {config.name!r}")
    temporary = target.with_name(f".{target.name}.{secrets.token_hex(4)}.partial")
    try:
        temporary.mkdir(parents=True)
        done = 0
        for stage in STAGES:
            _tell(progress, stage, done, total)
            state = read_stage(stage)
            check_state(state, shapes[stage], f"the {stage} stage")
            chosen = precision if stage != "codec" else codec_precision
            file = temporary / stage_file(stage)
            write_safetensors(file, _cast(state, chosen, stage))
            done += sum(tensor.numel() for tensor in state.values()) * STORED[precision]
        _tell(progress, "codec", total, total)
        tokenizer.save(temporary / TOKENIZER_FILES[0])
        _write_json(temporary / "config.json", config.to_dict())
        sizes = {path.name: path.stat().st_size for path in sorted(temporary.iterdir())}
        if origin:
            _write_json(temporary / ORIGIN_FILE, {**asdict(origin), "files": sizes})
        _publish(temporary, target)
    except OSError as error:
        if isinstance(error, BarkError):
            raise
        raise storage_error("write", target, error) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def warn_of_changed_files(checkpoint: Checkpoint, progress: ProgressCallback | None = None) -> None:
    """Warn where one of Suno's own files isn't the one of April 2023."""
    if checkpoint.layout != "suno":
        return
    for names in SUNO_FILES.values():
        file = first_of(checkpoint.folder, names)
        digest, done, size = hashlib.md5(usedforsecurity=False), 0, file.stat().st_size
        with file.open("rb") as content:
            while chunk := content.read(2**22):
                digest.update(chunk)
                done += len(chunk)
                if progress:
                    progress(DownloadProgress("check", file.name, done, size))
        if digest.hexdigest() != SUNO_MD5[file.name]:
            warnings.warn(
                f"{file} isn't the file that Suno published in April 2023 (MD5 "
                f"{digest.hexdigest()} instead of {SUNO_MD5[file.name]}); it is used all the same",
                stacklevel=2,
            )


def _open_own(folder: Path) -> Checkpoint:
    config = read_own_config(folder)
    tokenizer = Tokenizer.from_file(first_of(folder, TOKENIZER_FILES))
    return Checkpoint(
        folder, "own", config, tokenizer, lambda stage: read_own_stage(folder, stage, config)
    )


def _open_transformers(folder: Path, name: str) -> Checkpoint:
    config = read_transformers_config(folder, name)
    tokenizer = Tokenizer.from_file(first_of(folder, TOKENIZER_FILES))
    state = _read_transformers(folder)
    foreign = foreign_names(state)
    if foreign:
        raise InvalidCheckpoint(
            f"{folder} holds weights that no Bark model has, such as {sorted(foreign)[0]}"
        )
    return Checkpoint(
        folder,
        "transformers",
        config,
        tokenizer,
        lambda stage: from_transformers(state, stage, config),
    )


def _read_transformers(folder: Path) -> State:
    """All weights, from one file or from the shards that an index names."""
    for name in WEIGHT_FILES:
        if (folder / name).is_file():
            return read_state(folder / name)
        index = folder / f"{name}{INDEX}"
        if not index.is_file():
            continue
        shards = read_json(index).get("weight_map")
        if not isinstance(shards, dict) or not all(isinstance(s, str) for s in shards.values()):
            raise InvalidCheckpoint(f"{index} has no weight_map; get it again")
        state: State = {}
        for shard in sorted(set(shards.values())):
            if Path(shard).name != shard or "\\" in shard:
                raise InvalidCheckpoint(f"{index} names a file outside of its folder: {shard!r}")
            state.update(read_state(folder / shard))
        return state
    raise MissingFiles(f"there is no {' or '.join(WEIGHT_FILES)} in {folder}; put it there")


def _open_suno(folder: Path, name: str) -> Checkpoint:
    loaded: dict[StageName, Mapping[str, Any]] = {}
    arguments: dict[StageName, Mapping[str, Any]] = {}
    for stage, names in SUNO_FILES.items():
        file = first_of(folder, names)
        data = read_pickle(file)
        shape = data.get("model_args")
        if not isinstance(shape, Mapping):
            raise InvalidCheckpoint(f"{file} has no model_args; choose one of Suno's files")
        # only the weights: the rest is what training needed
        arguments[stage], loaded[stage] = shape, tensors_of(data.get("model"), file)
    codec = read_state(first_of(folder, ENCODEC_FILES))
    config = with_codec_shape(config_from_suno(arguments, name), codec)
    tokenizer = Tokenizer.from_file(first_of(folder, TOKENIZER_FILES))

    def read_stage(stage: StageName) -> State:
        if stage == "codec":
            return from_encodec(codec, config)
        return from_suno(loaded[stage], stage, config)

    return Checkpoint(folder, "suno", config, tokenizer, read_stage)


def _cast(state: Mapping[str, Tensor], precision: str | None, stage: StageName) -> State:
    cast = {}
    for name, tensor in state.items():
        result = tensor if precision is None else tensor.to(dtype_of(precision))
        if not bool(torch.isfinite(result).all()):
            kept = "" if precision is None else f" in {precision}"
            raise InvalidCheckpoint(
                f"{name} of the {stage} stage isn't finite{kept}; the file may be damaged: "
                "get it again"
            )
        cast[name] = result
    return cast


def _publish(temporary: Path, target: Path) -> None:
    """Have all files on the disk, then give the folder its name in one step."""
    for path in [*temporary.iterdir()]:
        with path.open("r+b") as file:
            os.fsync(file.fileno())
    if target.exists():
        try:
            target.rmdir()
        except OSError as error:
            raise StorageError(f"{target} is there already; choose a new folder") from error
    os.replace(temporary, target)
    with contextlib.suppress(OSError):  # Windows can't, and needn't
        descriptor = os.open(target.parent, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _write_json(file: Path, data: Mapping[str, Any]) -> None:
    file.write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")


def _tell(progress: ProgressCallback | None, stage: str, done: int, total: int) -> None:
    if progress:
        progress(DownloadProgress("convert", stage, done, total))

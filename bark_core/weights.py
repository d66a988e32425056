"""Reading and writing files of weights, safely.

Nothing in a file is ever executed: pickles are read with torch's restricted unpickler and four
harmless numpy types, never otherwise. Whatever is wrong with a file is one InvalidCheckpoint; a
lack of memory to read it is OutOfMemory.
Tensors are mapped from the file where the format allows it, so that nothing is read before it
is used.
"""

from __future__ import annotations

import importlib
import os
import re
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from bark_core.errors import InvalidCheckpoint
from bark_core.reading import reading


def read_safetensors(file: Path) -> dict[str, Tensor]:
    """All tensors of a safetensors file, mapped.

    Raises:
        MissingFiles, InvalidCheckpoint, StorageError
    """
    with reading(file), safe_open(file, framework="pt", device="cpu") as opened:
        return {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118


def read_pickle(file: Path, *, also: Sequence[Any] = ()) -> Mapping[str, Any]:
    """What `torch.save` wrote, restricted to tensors and plain values, mapped where possible.

    Args:
        also: further types that may be in it, each of which only holds data.

    Raises:
        MissingFiles, StorageError
        InvalidCheckpoint: damaged, not a dictionary, or it asks for anything but plain data.
    """
    with reading(file):
        # files of torch before 1.6 can't be mapped; they are read by the same restricted unpickler
        mapped = zipfile.is_zipfile(file)
        with torch.serialization.safe_globals([*_safe_globals(), *also]):
            data = torch.load(file, map_location="cpu", mmap=mapped, weights_only=True)
        if not isinstance(data, Mapping) or not all(isinstance(key, str) for key in data):
            raise InvalidCheckpoint(
                f"{file} holds {type(data).__name__} instead of named weights; "
                "choose a file of a Bark model"
            )
        return data


def read_state(file: Path) -> dict[str, Tensor]:
    """Named tensors from a safetensors file or a pickle of nothing else.

    Raises:
        MissingFiles, InvalidCheckpoint, StorageError
    """
    if file.suffix == ".safetensors":
        return read_safetensors(file)
    return tensors_of(read_pickle(file), file)


def tensors_of(data: object, file: Path) -> dict[str, Tensor]:
    """Check that something from a pickle is named tensors.

    Raises:
        InvalidCheckpoint: it isn't.
    """
    if not isinstance(data, Mapping):
        raise InvalidCheckpoint(f"{file} has no named weights, got {type(data).__name__}")
    for name, tensor in data.items():
        if not isinstance(name, str) or not isinstance(tensor, Tensor) or tensor.is_sparse:
            raise InvalidCheckpoint(
                f"{file} holds {type(tensor).__name__} as {name!r} where a tensor should be; "
                "choose a file of a Bark model"
            )
    return dict(data)


def write_safetensors(file: Path, state: Mapping[str, Tensor]) -> None:
    """Write named tensors. The caller sees to it that a half-written file is never read.

    Raises:
        OSError: the disk is full, or can't be written.
    """
    tensors = {name: tensor.contiguous() for name, tensor in state.items()}
    try:
        # the library writes a file that only its owner can read; a cache may be shared
        file.touch()
        mode = file.stat().st_mode
        save_file(tensors, file, metadata={"format": "pt"})
        file.chmod(mode)
    except SafetensorError as error:  # the library's own name for an I/O error
        code = re.search(r"os error (\d+)", str(error))
        number = int(code[1]) if code else 0
        raise OSError(number, os.strerror(number) if code else str(error)) from error


def _safe_globals() -> list[Any]:
    """The types of the one numpy number that Suno's files hold, under its old and new name."""
    scalar = importlib.import_module("numpy._core.multiarray").scalar
    return [
        scalar,
        (scalar, "numpy.core.multiarray.scalar"),
        np.dtype,
        type(np.dtype("f4")),
        type(np.dtype("f8")),
    ]

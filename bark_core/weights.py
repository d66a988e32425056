"""Reading and writing files of weights, safely.

Nothing in a file is ever executed: pickles are read with torch's restricted unpickler and four
harmless numpy types, never otherwise. Whatever is wrong with a file is one InvalidCheckpoint; a
lack of memory to read it is OutOfMemory.
Tensors are mapped from the file where the format allows it, so that nothing is read before it
is used.
"""

from __future__ import annotations

import contextlib
import errno
import importlib
import json
import os
import re
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from bark_core.errors import BarkError, InvalidCheckpoint, MissingFiles, OutOfMemory
from bark_core.files import storage_error

MAX_JSON_BYTES = 32 * 2**20


def read_json(file: Path) -> dict[str, Any]:
    """A JSON object.

    Raises:
        MissingFiles, InvalidCheckpoint, StorageError
    """
    with _reading(file):
        n_bytes = file.stat().st_size
        if n_bytes > MAX_JSON_BYTES:
            raise InvalidCheckpoint(f"{file} has {n_bytes} bytes, too many for a configuration")
        data = json.loads(file.read_bytes())
        if not isinstance(data, dict):
            raise InvalidCheckpoint(f"{file} must hold a JSON object, got {type(data).__name__}")
        return data


def read_safetensors(file: Path) -> dict[str, Tensor]:
    """All tensors of a safetensors file, mapped.

    Raises:
        MissingFiles, InvalidCheckpoint, StorageError
    """
    with _reading(file), safe_open(file, framework="pt", device="cpu") as opened:
        return {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118


def read_pickle(file: Path, *, also: Sequence[Any] = ()) -> Mapping[str, Any]:
    """What `torch.save` wrote, restricted to tensors and plain values, mapped where possible.

    Args:
        also: further types that may be in it, each of which only holds data.

    Raises:
        MissingFiles, StorageError
        InvalidCheckpoint: damaged, not a dictionary, or it asks for anything but plain data.
    """
    with _reading(file):
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


@contextlib.contextmanager
def _reading(file: Path) -> Iterator[None]:
    """Make one of three errors out of the many that damaged and foreign files cause."""
    try:
        if file.is_file() and file.stat().st_size == 0:
            raise InvalidCheckpoint(f"{file} is empty; get it again")
        yield
    except BarkError:
        raise
    except FileNotFoundError as error:
        raise MissingFiles(f"there is no file {file}; put it there") from error
    except Exception as error:  # unpicklers fail in every way there is
        if _is_lack_of_memory(error):
            raise OutOfMemory(
                f"there wasn't enough memory to read {file} ({_detail(error)}); close other "
                "programs, or choose a smaller model"
            ) from error
        if isinstance(error, OSError) and error.errno not in (None, 0, errno.EINVAL):
            raise storage_error("read", file, error) from error
        refused = _refused(str(error))
        if refused:
            raise InvalidCheckpoint(
                f"{file} asks to run code that no weights need ({', '.join(refused)}); "
                "it was not run. Don't use this file"
            ) from error
        raise InvalidCheckpoint(
            f"{file} is damaged or not a file of weights ({_detail(error)}); get it again"
        ) from error


def _is_lack_of_memory(error: Exception) -> bool:
    """A file that can't be mapped isn't damaged."""
    if isinstance(error, MemoryError) or getattr(error, "errno", None) == errno.ENOMEM:
        return True
    text = str(error)
    return os.strerror(errno.ENOMEM) in text or "DefaultCPUAllocator" in text


def _detail(error: Exception) -> str:
    """One line of the reason, without torch's advice to switch its protection off."""
    text = str(error).strip() or type(error).__name__
    if "weights_only" in text:
        found = re.search(r"WeightsUnpickler error:\s*(.+)", text)
        text = found[1] if found else "not what torch writes"
    return text.splitlines()[0][:200]


def _refused(message: str) -> list[str]:
    """Names of the functions that torch's restricted unpickler refused."""
    names = re.findall(r"GLOBAL ([\w.]+)", message)
    names += re.findall(r"Trying to (?:call|instantiate|set) .*?([\w.]+\.[\w.]+)", message)
    return list(dict.fromkeys(names))

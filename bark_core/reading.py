"""Reading a model's small files, and what is said when any file of it can't be read."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bark_core.errors import BarkError, InvalidCheckpoint, MissingFiles, OutOfMemory
from bark_core.files import storage_error

MAX_JSON_BYTES = 32 * 2**20


def read_json(file: Path) -> dict[str, Any]:
    """A JSON object.

    Raises:
        MissingFiles, InvalidCheckpoint, StorageError
    """
    with reading(file):
        n_bytes = file.stat().st_size
        if n_bytes > MAX_JSON_BYTES:
            raise InvalidCheckpoint(f"{file} has {n_bytes} bytes, too many for a configuration")
        data = json.loads(file.read_bytes())
        if not isinstance(data, dict):
            raise InvalidCheckpoint(f"{file} must hold a JSON object, got {type(data).__name__}")
        return data


@contextlib.contextmanager
def reading(file: Path) -> Iterator[None]:
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

"""Writing a file so that it is there whole or not at all.

Everything that lasts is written under a temporary name in the same folder, flushed to the disk
and renamed: a kill or a full disk leaves the old file as it was.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
from collections.abc import Iterator
from pathlib import Path

from bark_core.errors import StorageError

_WHAT_TO_DO = {
    errno.ENOSPC: "the disk is full; free some space and try again",
    errno.EDQUOT: "your disk quota is used up; free some space and try again",
    errno.EACCES: "no permission to write there; choose another folder",
    errno.EPERM: "no permission to write there; choose another folder",
    errno.EROFS: "that disk can only be read; choose another folder",
    errno.ENAMETOOLONG: "the name is too long; choose a shorter one",
    errno.ENOENT: "the folder doesn't exist; make it or choose another",
    errno.EISDIR: "a folder of that name is in the way; choose another name",
    errno.ENOTDIR: "a file is where a folder should be; choose another folder",
}


def storage_error(action: str, path: Path, error: OSError) -> StorageError:
    """The StorageError that says what to do about an OSError, for `raise ... from error`."""
    advice = _WHAT_TO_DO.get(error.errno or 0, "check the disk")
    return StorageError(f"can't {action} {path}: {error.strerror or error}; {advice}")


@contextlib.contextmanager
def atomic_path(path: Path, *, make_folder: bool = False) -> Iterator[Path]:
    """Yield a temporary path of the same suffix and folder; on success it becomes `path`.

    Whatever goes wrong inside the block, the temporary file is removed and `path` keeps what it
    held. The block writes and closes the file.

    Raises:
        StorageError: an OSError inside the block or while publishing the file.
    """
    temporary = path.with_name(f".{path.stem[:32]}.{secrets.token_hex(6)}.partial{path.suffix}")
    try:
        if make_folder:
            path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        _flush(temporary)
        os.replace(temporary, path)
    except StorageError:
        raise
    except OSError as error:
        raise storage_error("write", path, error) from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
    _flush_folder(path.parent)


def write_bytes_atomically(path: Path, data: bytes, *, make_folder: bool = False) -> None:
    """Write a whole file. Raises StorageError where it can't."""
    with atomic_path(path, make_folder=make_folder) as temporary:
        temporary.write_bytes(data)


def _flush(path: Path) -> None:
    # r+b: Windows flushes only what is open for writing
    with path.open("r+b") as file:
        os.fsync(file.fileno())


def _flush_folder(folder: Path) -> None:
    """Make the rename itself last; Windows and some network disks can't, and needn't."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

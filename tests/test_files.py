"""Laws of writing files: whole or not at all."""

from __future__ import annotations

import errno
import os
import sys
from pathlib import Path

import pytest

from bark_core.errors import StorageError
from bark_core.files import atomic_path, write_bytes_atomically


def test_file_appears_whole_and_alone(tmp_path: Path) -> None:
    target = tmp_path / "new" / "a.bin"
    write_bytes_atomically(target, b"whole", make_folder=True)
    assert target.read_bytes() == b"whole"
    assert [path.name for path in target.parent.iterdir()] == ["a.bin"]


@pytest.mark.parametrize("failure", [RuntimeError("stop"), KeyboardInterrupt()])
def test_failure_keeps_the_old_file(tmp_path: Path, failure: BaseException) -> None:
    target = tmp_path / "a.bin"
    target.write_bytes(b"old")
    with pytest.raises(type(failure)), atomic_path(target) as temporary:
        temporary.write_bytes(b"half")
        raise failure
    assert target.read_bytes() == b"old"
    assert [path.name for path in tmp_path.iterdir()] == ["a.bin"]


def test_temporary_name_keeps_suffix_and_folder(tmp_path: Path) -> None:
    with atomic_path(tmp_path / "a.flac") as temporary:
        temporary.write_bytes(b"")
        assert temporary.suffix == ".flac"
        assert temporary.parent == tmp_path


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_full_disk_says_so(tmp_path: Path) -> None:
    with (
        pytest.raises(StorageError, match="disk is full"),
        atomic_path(tmp_path / "a.bin") as temporary,
    ):
        temporary.symlink_to("/dev/full")
        temporary.write_bytes(b"x" * 100_000)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(
    sys.platform == "win32" or os.geteuid() == 0, reason="the superuser may write anywhere"
)
def test_no_permission_says_so(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(StorageError, match="no permission"):
            write_bytes_atomically(tmp_path / "a.bin", b"x")
    finally:
        tmp_path.chmod(0o700)


def test_missing_folder_says_so(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="doesn't exist"):
        write_bytes_atomically(tmp_path / "none" / "a.bin", b"x")


def test_unknown_cause_keeps_its_words(tmp_path: Path) -> None:
    with (
        pytest.raises(StorageError, match="odd failure") as caught,
        atomic_path(tmp_path / "a.bin"),
    ):
        raise OSError(errno.EIO, "odd failure")
    assert isinstance(caught.value.__cause__, OSError)

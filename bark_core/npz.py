"""Reading and writing small .npz and .npy files, with nothing taken on trust.

numpy's own reader allocates what a header claims and unpickles where it is allowed to. This one
knows two kinds of array only, integers and a single string, looks at sizes before it allocates,
and has no code path to pickle at all. Everything wrong with a file's content is an InvalidVoice.
"""

from __future__ import annotations

import io
import re
import stat
import struct
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from bark_core.errors import InvalidVoice, StorageError, UnknownVoice
from bark_core.files import storage_error

MAX_FILE_BYTES = 2 * 2**20  # the largest voice that Suno published has 59 KB
MAX_MEMBERS = 32
MAX_ARRAY_BYTES = 2**20  # three and a half minutes of fine codes in the widest integers
MAX_STRING_BYTES = 128 * 2**10
_MAX_HEADER_BYTES = 1024  # of integers, it has about 70

_MAGIC = b"\x93NUMPY"
_DESCR = re.compile(
    r"""['"]descr['"]\s*:\s*['"](?P<order>[<>|=]?)(?P<kind>[a-zA-Z])(?P<size>[0-9]*)['"]"""
)
_FORTRAN = re.compile(r"""['"]fortran_order['"]\s*:\s*(True|False)\b""")
_SHAPE = re.compile(r"""['"]shape['"]\s*:\s*\(([0-9L,\s]*)\)""")
_KINDS = {
    "O": "Python objects (a pickle)", "f": "floating point", "c": "complex", "b": "booleans",
    "U": "text", "S": "bytes", "V": "records", "m": "durations", "M": "dates",
}  # fmt: skip

# what zipfile raises on damaged or hostile files
_ZIP_ERRORS = (
    zipfile.BadZipFile, zlib.error, struct.error, EOFError, NotImplementedError,
    RuntimeError, ValueError, OverflowError, LookupError, OSError,
)  # fmt: skip


def read_source(
    source: str | Path | bytes | BinaryIO, most_bytes: int, *, what: str
) -> tuple[bytes, str]:
    """Content and a name for messages, reading at most `most_bytes` + 1 bytes.

    That one byte more says to whoever takes the content that it is too large.

    Args:
        source: a path, the bytes of a file, or a binary file.
        what: what it should be, for people: "voice file", "archive".

    Raises:
        UnknownVoice: there is no such file.
        InvalidVoice: the path is of something else than a file, or the file is one of text.
        StorageError: it can't be read.
    """
    if isinstance(source, bytes):
        return source, f"this {what}"
    if not isinstance(source, (str, Path)):
        label = str(getattr(source, "name", f"this {what}"))
        try:
            data = source.read(most_bytes + 1)
        except (OSError, ValueError) as error:
            raise StorageError(f"can't read {label}: {error}; give it again") from error
        if not isinstance(data, bytes):
            raise InvalidVoice(f"{label} must be opened in binary mode; open it with 'rb'")
        return data, label
    path = Path(source)
    try:
        # before it is opened: opening a pipe waits for its other end
        if stat.S_ISREG(path.stat().st_mode):
            with path.open("rb") as file:
                return file.read(most_bytes + 1), str(path)
    except (FileNotFoundError, NotADirectoryError, ValueError) as error:
        raise UnknownVoice(f"there is no {what} {str(path)!r}; check the path") from error
    except OSError as error:
        raise storage_error("read", path, error) from error
    raise InvalidVoice(f"{path} isn't a file; give the path of an .npz file")


class NpzReader:
    """The members of an .npz that is already in memory, read one by one, each checked."""

    def __init__(
        self,
        data: bytes,
        *,
        max_file_bytes: int = MAX_FILE_BYTES,
        max_array_bytes: int = MAX_ARRAY_BYTES,
    ) -> None:
        """List the members.

        Raises:
            InvalidVoice: too large, not a zip file, damaged, or of too many members.
        """
        self._max_array_bytes = max_array_bytes
        if len(data) > max_file_bytes:
            raise InvalidVoice(f"it has more than {max_file_bytes} bytes; a voice has some 20,000")
        if not data.startswith(b"PK\x03\x04"):
            raise InvalidVoice(f"it is {_what(data)}, not an .npz file")
        # counted by hand, before zipfile makes an object of each
        if data.count(b"PK\x01\x02") > MAX_MEMBERS:
            raise InvalidVoice(f"it has more than {MAX_MEMBERS} members; a voice has some five")
        try:
            self._zip = zipfile.ZipFile(io.BytesIO(data))
        except _ZIP_ERRORS as error:
            raise InvalidVoice(f"the .npz file is truncated or damaged ({error})") from error
        names = [info.filename for info in self._zip.infolist()]
        if len(set(names)) != len(names):
            raise InvalidVoice("it has two members of the same name")
        self._members = {info.filename: info for info in self._zip.infolist()}

    def __contains__(self, key: str) -> bool:
        return f"{key}.npy" in self._members

    @property
    def keys(self) -> list[str]:
        """Names of the arrays."""
        return [name.removesuffix(".npy") for name in self._members]

    def integers(self, key: str) -> NDArray[np.integer[Any]]:
        """The integer array of that name. Raises InvalidVoice."""
        try:
            return parse_integers(self._read(key, self._max_array_bytes))
        except InvalidVoice as error:
            raise InvalidVoice(f"{key}: {error}") from error

    def string(self, key: str) -> str:
        """The single string of that name. Raises InvalidVoice."""
        try:
            return _parse_string(self._read(key, MAX_STRING_BYTES))
        except InvalidVoice as error:
            raise InvalidVoice(f"{key}: {error}") from error

    def _read(self, key: str, most: int) -> bytes:
        info = self._members[f"{key}.npy"]
        if info.flag_bits & 0x1:
            raise InvalidVoice("it is encrypted")
        if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise InvalidVoice(f"compression method {info.compress_type} isn't used by .npz files")
        if info.file_size > most:
            raise InvalidVoice(f"it claims {info.file_size:,} bytes; at most {most:,} are read")
        try:
            with self._zip.open(info) as member:
                data = member.read(most + 1)  # reads no more than it claims, and checks the CRC
        except _ZIP_ERRORS as error:
            raise InvalidVoice(f"truncated or damaged ({error})") from error
        if len(data) != info.file_size:
            raise InvalidVoice(f"it claims {info.file_size} bytes and has {len(data)}")
        return data


def parse_integers(data: bytes) -> NDArray[np.integer[Any]]:
    """An integer array from the bytes of an .npy file, in native byte order, read-only.

    Raises:
        InvalidVoice: not an .npy file, of another type, or its size isn't what it claims.
    """
    order, kind, size, fortran, shape, body = _split(data)
    if kind not in "iu" or size not in (1, 2, 4, 8):
        raise InvalidVoice(f"it must hold integers, got {_KINDS.get(kind, kind)} ({kind}{size})")
    _check_size(shape, size, body)
    dtype = np.dtype(f"{order}{kind}{size}")
    array = np.frombuffer(body, dtype=dtype).reshape(shape, order="F" if fortran else "C")
    native = array.astype(dtype.newbyteorder("="), order="C")
    native.flags.writeable = False
    return native


def _parse_string(data: bytes) -> str:
    order, kind, size, _, shape, body = _split(data)
    if kind != "U" or shape != ():
        raise InvalidVoice(
            f"it must hold one string, got {_KINDS.get(kind, kind)} of shape {shape}"
        )
    _check_size(shape, 4 * size, body)
    try:
        text = bytes(body).decode("utf-32-be" if order == ">" else "utf-32-le")
    except UnicodeDecodeError as error:
        raise InvalidVoice(f"it isn't Unicode text ({error.reason})") from error
    return text.rstrip("\0")


def _split(data: bytes) -> tuple[str, str, int, bool, tuple[int, ...], memoryview]:
    """Byte order, kind, item size, Fortran order, shape and payload of an .npy file."""
    if not data.startswith(_MAGIC) or len(data) < 12:
        raise InvalidVoice(f"it is {_what(data)}, not an .npy array")
    if data[6] not in (1, 2, 3):
        raise InvalidVoice(f"version {data[6]} of the .npy format isn't known")
    start = 10 if data[6] == 1 else 12
    length = int.from_bytes(data[8:start], "little")
    if length > _MAX_HEADER_BYTES or start + length > len(data):
        raise InvalidVoice(f"its header claims {length:,} bytes")
    header = data[start : start + length].decode("latin-1")
    descr, fortran, shape = _DESCR.search(header), _FORTRAN.search(header), _SHAPE.search(header)
    if not descr or not fortran or not shape:
        raise InvalidVoice(f"its header can't be read: {header.strip()[:80]!r}")
    if len(descr["size"]) > 6:
        raise InvalidVoice(f"its items claim {descr['size'][:20]} bytes each")
    size = int(descr["size"] or 0)
    body = memoryview(data)[start + length :]
    return descr["order"], descr["kind"], size, fortran[1] == "True", _dimensions(shape[1]), body


def _dimensions(text: str) -> tuple[int, ...]:
    parts = [part.strip().removesuffix("L") for part in text.split(",") if part.strip()]
    if len(parts) > 4 or not all(re.fullmatch(r"[0-9]{1,18}", part) for part in parts):
        raise InvalidVoice(f"its shape can't be: ({text.strip()[:80]})")
    return tuple(int(part) for part in parts)


def _check_size(shape: tuple[int, ...], item_bytes: int, body: memoryview) -> None:
    claimed = item_bytes
    for dimension in shape:
        claimed *= dimension
    if claimed != len(body):
        raise InvalidVoice(
            f"its shape {shape} needs {claimed:,} bytes, but {len(body):,} are there"
        )


def _what(data: bytes) -> str:
    if not data:
        return "empty"
    if data.startswith(_MAGIC):
        return "a single array (.npy)"
    if data[:1] == b"\x80" or data[:2] in (b"(l", b"(d", b"(i", b"c_"):
        return "a pickle, which is never opened here"
    return "something else"


def npz_bytes(arrays: Mapping[str, NDArray[Any]]) -> bytes:
    """An .npz file in memory; the same arrays give the same bytes."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for key, array in arrays.items():
            member = io.BytesIO()
            np.lib.format.write_array(member, array, version=(1, 0), allow_pickle=False)
            info = zipfile.ZipInfo(f"{key}.npy", date_time=(1980, 1, 1, 0, 0, 0))
            info.compress_type = zipfile.ZIP_DEFLATED
            info.external_attr = 0o600 << 16
            archive.writestr(info, member.getvalue())
    return buffer.getvalue()

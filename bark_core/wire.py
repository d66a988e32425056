"""Messages between a page and its worker: pickled, whole frames, over a pair of pipes.

    8 bytes, big-endian: how many follow    a pickle of one of the classes below

Both ends are this package. Still, what comes is unpickled with a list of what it may name: a
worker reads strangers' checkpoints, and is not to get further than itself.
"""

from __future__ import annotations

import contextlib
import enum
import importlib
import io
import pickle
import struct
import threading
from dataclasses import dataclass, replace
from typing import Any, BinaryIO, cast

from bark_core.events import AudioChunk, Event, Failed, Finished, Stopped
from bark_core.generation import Generation, ModelIdentity, SegmentResult
from bark_core.hub import DownloadProgress
from bark_core.placement import DeviceInfo
from bark_core.request import GenerationRequest

_LENGTH = struct.Struct(">Q")
MAX_FRAME_BYTES = 2**31
DEVICE_LOST = 70  # exit status of a worker whose device can't be used by it any more
UNTOLD = 71  # of one that can't speak any more: without memory even that fails
_ALLOWED = {
    "builtins": {"complex", "frozenset", "list", "dict", "range", "set", "slice", "tuple"},
    "collections": {"OrderedDict", "deque"},
    "numpy": {"dtype", "ndarray"},
    "pathlib": {"Path", "PosixPath", "PurePosixPath", "PureWindowsPath", "WindowsPath"},
}
_ARRAYS = {"_frombuffer", "_reconstruct", "scalar"}  # of numpy's own modules, whatever their names


# --- from the page to the worker


@dataclass(frozen=True, slots=True)
class Call:
    """Do something that takes a while; an `Answer` follows."""

    id: int
    method: str  # of the backend
    args: tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class CancelCall:
    """Stop doing it at its next progress."""

    id: int


@dataclass(frozen=True, slots=True)
class Start:
    """Run a job; `Told`s follow."""

    id: int
    model: str
    request: GenerationRequest


@dataclass(frozen=True, slots=True)
class CancelRun:
    """End a job at its next step."""

    id: int


# --- from the worker to the page


@dataclass(frozen=True, slots=True)
class Answer:
    """What came of a call."""

    id: int
    value: Any
    error: Exception | None


@dataclass(frozen=True, slots=True)
class CallProgress:
    """How far a call has come."""

    id: int
    progress: DownloadProgress


@dataclass(frozen=True, slots=True)
class Told:
    """An event of a job, see `Packer`."""

    id: int
    event: Event
    identity: ModelIdentity | None
    segments: tuple[SegmentResult, ...]  # those that are new
    n_planned: int


@dataclass(frozen=True, slots=True)
class Beat:
    """A sign of life. The first one says that the worker is there."""

    memory_bytes: int | None
    device_bytes: int | None
    devices: tuple[DeviceInfo, ...]


@dataclass(frozen=True, slots=True)
class LogLine:
    """Something for the page's log."""

    name: str
    level: int
    message: str
    trace: str


class Wire:
    """One end. Any thread may send, one receives."""

    def __init__(self, reader: BinaryIO, writer: BinaryIO) -> None:
        self._reader, self._writer = reader, writer
        self._lock = threading.Lock()

    def send(self, message: object) -> None:
        """Raises OSError or ValueError: the other end is gone, or this one was closed."""
        data = pickle.dumps(message, protocol=5)
        with self._lock:
            self._writer.write(_LENGTH.pack(len(data)))
            self._writer.write(data)
            self._writer.flush()

    def receive(self) -> Any:
        """The next message.

        Raises:
            EOFError: the other end is gone. pickle.UnpicklingError: it isn't one of ours.
        """
        (length,) = _LENGTH.unpack(self._read(_LENGTH.size))
        if length > MAX_FRAME_BYTES:
            raise pickle.UnpicklingError(f"a frame of {length:,} bytes")
        return _Unpickler(io.BytesIO(self._read(length))).load()

    def close(self) -> None:
        """Let the other end see that this one is gone."""
        with self._lock, contextlib.suppress(OSError):  # the other end was gone first
            self._writer.close()

    def _read(self, n_bytes: int) -> bytes:
        data = self._reader.read(n_bytes)
        if data is None or len(data) < n_bytes:
            raise EOFError
        return data


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if name in _ALLOWED.get(module, ()):
            return super().find_class(module, name)
        if module.split(".")[0] == "numpy" and name in _ARRAYS:
            return super().find_class(module, name)
        if module.split(".")[0] == "bark_core" and "." not in name:
            found = getattr(importlib.import_module(module), name, None)
            # classes check what they are given; of functions only those that restore one
            if isinstance(found, type) or name.startswith("_restored"):
                return found
        if (module, name) == ("builtins", "getattr"):
            return _member
        raise pickle.UnpicklingError(f"a message may not name {module}.{name}")


def _member(kind: Any, name: Any) -> enum.Enum:
    """A member of an enumeration, which Python 3.11.0 to 3.11.3 write by getattr; nothing else."""
    if isinstance(kind, enum.EnumMeta) and isinstance(name, str) and name in kind.__members__:
        member: enum.Enum = kind.__members__[name]
        return member
    raise pickle.UnpicklingError("a message may name members of enumerations alone")


class Packer:
    """Takes out of a job's events what was sent before: each one holds the result so far."""

    def __init__(self) -> None:
        self._n_sent = 0

    def pack(self, run: int, event: Event) -> Told:
        result = _result_of(event)
        if result is None:
            return Told(run, event, None, (), 0)
        new = result.segments[self._n_sent :]
        self._n_sent = len(result.segments)
        return Told(run, _with_result(event, None), result.model, new, result.n_planned)


class Unpacker:
    """Puts it back."""

    def __init__(self, request: GenerationRequest) -> None:
        self._request = request
        self._segments: tuple[SegmentResult, ...] = ()

    def unpack(self, told: Told) -> Event:
        if told.identity is None:
            return told.event
        self._segments += told.segments
        result = Generation(self._request, told.identity, self._segments, told.n_planned)
        return _with_result(told.event, result)


def _result_of(event: Event) -> Generation | None:
    match event:
        case AudioChunk(so_far=result) | Finished(generation=result):
            return result
        case Failed(partial=partial) | Stopped(partial=partial):
            return partial
    return None


def _with_result(event: Event, result: Generation | None) -> Event:
    match event:
        case AudioChunk():
            return replace(event, so_far=cast(Generation, result))
        case Finished():
            return replace(event, generation=cast(Generation, result))
        case Failed() | Stopped():
            return replace(event, partial=result)
    return event

"""A worker: the process that owns a device, loads models there and runs their jobs.

`python -m bark_core.worker` speaks `wire` over its standard input and output. It ends when its
input does, so it never outlives the page that started it, however that ended.
"""

from __future__ import annotations

import contextlib
import faulthandler
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch

from bark_core import wire
from bark_core.backend import Running
from bark_core.device import (
    describe_devices,
    out_of_memory_as_error,
    trim_heap,
)
from bark_core.errors import BarkError, Cancelled, GenerationError, OutOfMemory
from bark_core.events import Event, Failed, Finished, Stopped
from bark_core.hub import DownloadProgress
from bark_core.in_process import InProcessBackend
from bark_core.logs import trace_of
from bark_core.machine import process_memory_bytes
from bark_core.wire import DEVICE_LOST, UNTOLD, Packer, Wire

_log = logging.getLogger(__name__)

BEAT_S = 1.0
TRIM_EVERY_S = 5.0  # takes some 30 ms
_CALLS = ("load", "download", "unload", "decode")


class Worker:
    """Serves one page. Every method runs on the thread that reads, unless it says otherwise."""

    def __init__(
        self,
        ours: Wire,
        backend: InProcessBackend,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._wire, self._backend, self._clock = ours, backend, clock
        self._lock = threading.Lock()
        self._calls: dict[int, threading.Event] = {}  # to stop each
        self._runs: dict[int, Running] = {}
        self._trimmed_at = -TRIM_EVERY_S

    def live(self) -> None:
        """Do what the page says until it is gone."""
        threading.Thread(target=self._beat, name="beat", daemon=True).start()
        while True:
            try:
                message = self._wire.receive()
            except EOFError:
                return
            match message:
                case wire.Call():
                    self._begin(message)
                case wire.CancelCall(id=call_id):
                    if call_id in self._calls:
                        self._calls[call_id].set()
                case wire.Start():
                    self._start(message)
                case wire.CancelRun(id=run_id):
                    with self._lock:
                        running = self._runs.get(run_id)
                    if running is not None:
                        running.cancel()

    # --- jobs

    def _start(self, start: wire.Start) -> None:
        packer, ended = Packer(), threading.Event()

        def told(event: Event) -> None:  # on a thread of the job's own
            over = isinstance(event, Finished | Failed | Stopped)
            if isinstance(event, Failed) and not _is_ours(event.error):
                self._leave_if_lost(start.model)
            with _or_end():
                self._wire.send(packer.pack(start.id, event))
            if over:
                with self._lock:
                    ended.set()
                    self._runs.pop(start.id, None)
                self._trim()

        running = self._backend.submit(start.model, start.request, told)
        with self._lock:
            if not ended.is_set():
                self._runs[start.id] = running

    def _trim(self) -> None:
        """A job is over: what its sound took is given back, at most every few seconds."""
        now = self._clock()
        with self._lock:
            if now - self._trimmed_at < TRIM_EVERY_S:
                return
            self._trimmed_at = now
        trim_heap()

    def _leave_if_lost(self, model: str) -> None:
        """End the process where its device fails at everything, as after a device-side assert."""
        device = self._backend.device_of(model)
        if device is not None and not device_answers(device):
            _log.error("the device %s is lost", device)
            os._exit(DEVICE_LOST)

    # --- what takes a while

    def _begin(self, call: wire.Call) -> None:
        self._calls[call.id] = threading.Event()
        name = f"call-{call.method}"
        thread = threading.Thread(target=self._call, args=(call,), name=name, daemon=True)
        try:
            with out_of_memory_as_error(f"beginning to {call.method}"):
                thread.start()
        except OutOfMemory as error:
            self._answer(call, None, error)

    def _call(self, call: wire.Call) -> None:
        """On a thread of its own."""
        value: Any = None
        failed: Exception | None = None
        try:
            if call.method not in _CALLS:
                raise GenerationError(f"a worker can't {call.method}")
            options = {}
            if call.method in ("load", "download"):
                options["progress"] = self._progress(call.id)
            value = getattr(self._backend, call.method)(*call.args, **options)
        except BarkError as error:
            failed = error
        except Exception as error:
            _log.exception("%s failed", call.method)
            failed = GenerationError(
                f"something unexpected went wrong ({type(error).__name__}); "
                "the log has the details; try again"
            )
        self._answer(call, value, failed)

    def _answer(self, call: wire.Call, value: Any, failed: Exception | None) -> None:
        self._calls.pop(call.id, None)
        self._wire.send(wire.Answer(call.id, value, failed))

    def _progress(self, call_id: int) -> Any:
        stopped = self._calls[call_id]

        def follow(progress: DownloadProgress) -> None:
            if stopped.is_set():
                raise Cancelled("stopped; what came so far is kept")
            self._wire.send(wire.CallProgress(call_id, progress))

        return follow

    # --- signs of life

    def _beat(self) -> None:
        while True:
            with _or_end():
                devices = describe_devices()
                held = 0
                if torch.cuda.is_available():
                    indices = range(torch.cuda.device_count())
                    held = sum(torch.cuda.memory_reserved(index) for index in indices)
                self._wire.send(wire.Beat(process_memory_bytes(), held, devices))
            threading.Event().wait(BEAT_S)


@contextlib.contextmanager
def _or_end() -> Iterator[None]:
    """End the process where it can't speak, or the page would wait for what never comes."""
    try:
        yield
    except (OSError, ValueError):  # the page is gone
        raise
    except Exception:
        os._exit(UNTOLD)


def device_answers(device: str) -> bool:
    """Whether the smallest of all computations still works."""
    try:
        return bool(torch.zeros(1, device=device).add_(1).cpu() == 1)
    except RuntimeError:
        return False


def _is_ours(error: BarkError) -> bool:
    """Whether it was raised on purpose; a surprise is a plain GenerationError."""
    return type(error) is not GenerationError


class _ToPage(logging.Handler):
    """Sends what is logged to the page, which writes it as it does its own."""

    def __init__(self, ours: Wire) -> None:
        super().__init__()
        self._wire = ours

    def emit(self, record: logging.LogRecord) -> None:
        error = record.exc_info[1] if record.exc_info else None
        trace = "" if error is None else trace_of(error)
        try:
            self._wire.send(wire.LogLine(record.name, record.levelno, record.getMessage(), trace))
        except (OSError, ValueError):
            self.handleError(record)


def main(backend: InProcessBackend | None = None) -> None:
    """Serve whoever started this process.

    Args:
        backend: another one in tests.
    """
    # what is printed by anybody goes to the log, not between the messages
    ours = Wire(os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb"))
    os.dup2(2, 1)
    faulthandler.enable()
    # Ctrl+C and a service manager's SIGTERM reach the whole group: the page says when to end
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    logging.basicConfig(level=logging.INFO, handlers=[_ToPage(ours)])
    Worker(ours, backend or InProcessBackend()).live()
    sys.stderr.flush()
    os._exit(0)  # whatever still runs isn't wanted


if __name__ == "__main__":
    main()

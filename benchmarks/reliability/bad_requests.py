"""Bad requests over every endpoint, through raw HTTP: no traceback, no dead worker.

Each of the page's functions, each endpoint for programs, each route of ours and each of Gradio's
that is open gets bodies, values, headers and paths that are wrong in some way. No answer may be
a 5xx but a full queue's, none may hold a traceback, none may be written to standard error, and
afterwards the studio still says a sentence.
"""

from __future__ import annotations

import functools
import io
import json
import logging
import random
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

from benchmarks.reliability.result import Result
from tests.page_model import save_page_model
from tests.people import JSON, Person, people

N = 5_000
PATIENCE_S = 120.0

VALUES: tuple[Any, ...] = (
    None,
    [],
    {},
    "",
    "x",
    "\ud800",
    "a" * 5000,
    -1,
    0,
    1e308,
    10**30,
    True,
    [[1]],
    {"a": 1},
    {"path": "/etc/passwd", "meta": {"_type": "gradio.FileData"}},
    {"url": "https://example.org/x", "path": None},
    {"action": "stop", "target": "../../x"},
    "take:" + "0" * 32,
)
BODIES = (
    b"",
    b"{",
    b"[]",
    b"null",
    b"\xff\xfe\x00",
    b'{"data": NaN}',
    b"[" * 5000,
    b'{"data":' + b"[" * 300 + b"]" * 300 + b"}",
    b'{"data": [], "fn_index": 99999999999999999999, "session_hash": "bad"}',
    b"--x\r\nContent-Disposition: form-data\r\n\r\n",
)
TYPES = ("application/json", "text/plain", "multipart/form-data; boundary=x", "multipart/form-data")
ROUTES = (
    "login",
    "logout",
    "config",
    "theme.css",
    "gradio_api/info",
    "gradio_api/queue/join",
    "gradio_api/cancel",
    "gradio_api/reset",
    "gradio_api/upload",
    "gradio_api/call/generate",
    "gradio_api/call/nothing",
    "gradio_api/file=x",
    "studio/export",
    "studio/open",
    "studio/me",
    "studio/here/x",
    "studio/sound/x.flac",
    "studio/live/x/0.flac",
    "studio/voice/x.npz",
    "studio/voice/x.flac?model=x",
    "studio/take-voice/x/0.flac",
    "studio/script/x/export.json",
    "studio/script/x/background",
    "studio/export/x.zip",
)
METHODS = ("GET", "POST", "PUT", "HEAD", "DELETE", "OPTIONS")


def measure(n: int = N) -> Result:
    """Send n bad requests."""
    broken: list[str] = []
    with tempfile.TemporaryDirectory() as folder:
        model = save_page_model(Path(folder) / "page")
        output, log = io.StringIO(), io.StringIO()
        handler = logging.StreamHandler(log)
        handler.setLevel(logging.ERROR)
        logging.getLogger().addHandler(handler)
        try:
            with (
                redirect_stdout(output),
                redirect_stderr(output),
                people(model, Path(folder) / "data", "ann") as (_served, (ann,)),
            ):
                seen = Counter(_send(ann, request, broken) for request in _requests(ann, n))
                _settle(ann)
                file, _how = ann.call("generate", "Hello.", "", 5, None, None, None, "bark", 0, "")
                if ann.ask("GET", f"gradio_api/file={file['path']}").body[:4] != b"fLaC":
                    broken.append("afterwards nothing is said any more")
        finally:
            logging.getLogger().removeHandler(handler)
    told = output.getvalue() + log.getvalue()
    n_traces = told.count("Traceback")
    if n_traces:
        where = told.index("Traceback")
        broken.append(f"{n_traces} tracebacks, the first: {told[where : where + 2000]}")
    figures = {"answers": {str(k): v for k, v in sorted(seen.items())}, "tracebacks": n_traces}
    return Result(figures, tuple(broken))


Send = Callable[[], Any]


def _requests(ann: Person, n: int) -> Iterator[tuple[str, Send]]:
    """Calls of every function first, in turn with everything else."""
    draw = random.Random(0)
    functions = list(ann.served.demo.fns.items())
    for number in range(n):
        if number % 2:
            index, function = functions[(number // 2) % len(functions)]
            values = [draw.choice(VALUES)] * len(function.inputs)
            event = draw.choice((None, draw.choice(VALUES), {"action": "x", "target": "y"}))
            body = {
                "data": values,
                "fn_index": index,
                "session_hash": f"bad{number % 20}",
                "event_data": event,
                "trigger_id": draw.choice((None, 0, 10**9)),
            }
            data = json.dumps(body).encode()
            yield (
                f"function {index} with {str(values[:1])[:60]}",
                functools.partial(ann.ask, "POST", "gradio_api/queue/join", data, JSON),
            )
        else:
            method, route = draw.choice(METHODS), draw.choice(ROUTES)
            if route == "logout" and method == "POST":
                continue  # that one works
            headers = {"Content-Type": draw.choice(TYPES)}
            body_sent = None if method in ("GET", "HEAD") else draw.choice(BODIES)
            yield (
                f"{method} {route} {str(body_sent)[:40]}",
                functools.partial(ann.ask, method, route, body_sent, headers),
            )


def _send(ann: Person, request: tuple[str, Send], broken: list[str]) -> int:
    name, send = request
    try:
        answer = send()
    except OSError as error:
        broken.append(f"{name}: {error!r}")
        return 0
    full = answer.status == 503 and b"queue is full" in answer.body
    if answer.status >= 500 and not full:
        broken.append(f"{name}: {answer.status}")
    if b"Traceback" in answer.body:
        broken.append(f"{name}: a traceback in the answer")
    if _n_waiting(ann) > 100:
        _settle(ann)
    return int(answer.status)


def _n_waiting(ann: Person) -> int:
    """Events that aren't a page's watchers, which last."""
    events = list(ann.served.demo._queue.event_ids_to_events.values())
    return sum(getattr(event.fn.fn, "__name__", "") != "watch" for event in events)


def _settle(ann: Person) -> None:
    until = time.monotonic() + PATIENCE_S
    while _n_waiting(ann) > 10 and time.monotonic() < until:
        time.sleep(0.1)
    desk = ann.served.studio.desk
    for view in desk.queue(owner="ann")[0]:
        desk.stop(view.id, owner="ann")

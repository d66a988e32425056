"""Laws of probes, figures and logs: they tell how it goes, and never what was said."""

from __future__ import annotations

import io
import json
import logging
import os
import re
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families
from starlette.requests import Request
from starlette.types import Receive, Scope, Send

from bark_core import (
    DiscreetFormatter,
    GenerationRequest,
    InvalidSetting,
    WorkerLost,
    WorkerState,
)
from tests.page_model import save_page_model
from tests.served import Served, serving
from tests.test_jobs import SETTINGS
from webui import logs, system_view
from webui.health import Health, readiness
from webui.hosting import Hosting
from webui.scheduler import Happening, Note
from webui.settings import StudioSettings, parse_arguments
from webui.system_tab import _machine

TOKEN = "a-token-that-nobody-guesses"
SECRET = "Wombat zeppelin marmalade."


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("health")
    model = save_page_model(folder / "page")
    hosting = Hosting(worker=False, metrics_token=TOKEN)
    settings = StudioSettings(model=str(model), data=folder / "data", hosting=hosting)
    with serving(settings) as served:
        yield served


def figures(served: Served) -> dict[str, float]:
    text = served.get("metrics")[1].decode()
    return {
        f"{sample.name}{''.join(f' {value}' for value in sample.labels.values())}": sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def until(what: Callable[[], object]) -> None:
    deadline = time.monotonic() + 60
    while not what():
        assert time.monotonic() < deadline, "it never happened"
        time.sleep(0.01)


def test_probes_answer_and_say_no_more(served: Served) -> None:
    assert served.get("healthz")[:2] == (200, b"ok")
    status, body, headers = served.get("readyz")
    workers = [{"device": "", "state": "ready"}]
    assert (status, json.loads(body)) == (200, {"ready": True, "why": "ready", "workers": workers})
    assert headers["cache-control"] == "no-store"


def test_readiness_tells_why_not(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    studio = served.studio
    with monkeypatch.context() as patched:
        patched.setattr(studio.desk.scheduler, "_draining", True)
        assert served.get("readyz")[0] == 503
        assert readiness(studio).why == "draining"
        assert served.get("healthz")[0] == 200  # it lives
    with monkeypatch.context() as patched:
        patched.setattr(studio.models.backend, "capacity", lambda _name: 0)
        assert readiness(studio).why == "worker restarting"
    with monkeypatch.context() as patched:
        model = studio.models._model("")
        patched.setattr(model, "loaded", None)
        patched.setattr(model, "error", WorkerLost("gone"))
        assert readiness(studio).why == "model failed"


def test_figures_count_what_happens(served: Served) -> None:
    before = figures(served)
    request = GenerationRequest(SECRET, seed=1, settings=SETTINGS, retries=5)
    ticket = served.studio.desk.submit(request, owner="ann")
    assert ticket.finished.wait(60)
    after = figures(served)
    for name in ("bark_jobs_total queued", "bark_jobs_total started", "bark_jobs_total finished"):
        assert after[name] == before[name] + 1
    assert after["bark_audio_seconds_total"] > before["bark_audio_seconds_total"]
    assert after["bark_job_run_seconds_count"] == before["bark_job_run_seconds_count"] + 1
    assert (after["bark_jobs_waiting"], after["bark_jobs_running"]) == (0, 0)
    assert after["bark_workers ready"] == 1
    assert after["bark_models_loaded"] == 1
    text = served.get("metrics")[1].decode()
    assert "Wombat" not in text
    assert "ann" not in re.findall(r"\w+", text)


@pytest.mark.parametrize(
    ("client", "headers", "code"),
    [
        ("127.0.0.1", {"host": "127.0.0.1:7860"}, 200),
        ("::1", {"host": "[::1]:7860"}, 200),
        ("127.0.0.1", {"host": "evil.example"}, 404),  # a name that was bent to lead here
        ("127.0.0.1", {"host": "localhost", "x_forwarded_for": "127.0.0.1"}, 404),
        ("10.0.0.7", {"host": "localhost"}, 404),
        ("10.0.0.7", {"host": "studio", "authorization": f"Bearer {TOKEN}"}, 200),
        ("10.0.0.7", {"host": "studio", "authorization": "Bearer wrong"}, 404),
        ("127.0.0.1", {"host": "localhost", "authorization": "Bearer wrong"}, 404),
        ("testclient", {"host": "localhost"}, 404),
    ],
)
def test_figures_are_for_this_computer_or_who_has_the_token(
    served: Served, client: str, headers: dict[str, str], code: int
) -> None:
    async def nowhere(scope: Scope, receive: Receive, send: Send) -> None:
        raise AssertionError("not for the page")

    scope: Any = {
        "type": "http",
        "method": "GET",
        "path": "/metrics",
        "query_string": b"",
        "headers": [(k.replace("_", "-").encode(), v.encode()) for k, v in headers.items()],
        "client": (client, 1),
        "server": ("studio", 80),
        "scheme": "http",
    }
    health = Health(nowhere, studio=served.studio)
    assert health._answer(Request(scope)).status_code == code


def test_probes_need_no_account(tmp_path: Path) -> None:
    model = save_page_model(tmp_path / "page")
    settings = StudioSettings(
        model=str(model),
        data=tmp_path / "data",
        password="long enough",
        hosting=Hosting(worker=False),
    )
    with serving(settings) as served:
        assert served.get("healthz")[0] == 200
        assert served.get("readyz")[0] == 200


def test_each_device_is_told_of(tmp_path: Path) -> None:
    settings = StudioSettings(
        model=str(save_page_model(tmp_path / "page")),
        data=tmp_path / "data",
        devices=("cpu", "cpu"),
    )
    with serving(settings) as served:
        ready = {"device": "cpu", "state": "ready"}
        told = json.loads(served.get("readyz")[1])
        assert told == {"ready": True, "why": "ready", "workers": [ready, ready]}
        now = figures(served)
        for number in "01":
            assert now[f"bark_worker_ready cpu {number}"] == 1
            assert now[f"bark_worker_memory_bytes cpu {number}"] > 0
        assert now["bark_device_free_bytes cpu"] > 0
        page = system_view.machine(_machine(served.studio, "", managed=True))
        assert page.count("Worker on CPU") == 2
        assert page.count("is ready") == 2
        backend = served.studio.models.backend
        os.kill(int(backend.workers()[0].name), signal.SIGKILL)
        until(lambda: backend.workers()[0].state is WorkerState.RESTARTING)
        assert readiness(served.studio).ready
        until(lambda: backend.workers()[0].state is WorkerState.READY)
        assert figures(served)["bark_worker_restarts_total cpu 0"] == 1


# --- logs


def logged(record: logging.LogRecord) -> dict[str, Any]:
    told: dict[str, Any] = json.loads(logs.JsonFormatter().format(record))
    return told


def test_a_job_is_a_line_of_ids_and_lengths(caplog: pytest.LogCaptureFixture) -> None:
    note = Note(Happening.FAILED, "id7", "ann", "pup", 26, 1.5, 2.25, 3.125, "OutOfMemory")
    with caplog.at_level(logging.INFO, logger="webui"):
        logs.log_note(note)
    told = logged(caplog.records[-1])
    assert told["message"] == "job id7 failed (OutOfMemory)"
    assert (told["level"], told["logger"]) == ("warning", "webui.logs")
    assert (told["job"], told["owner"], told["n_characters"]) == ("id7", "ann", 26)
    assert (told["waited_s"], told["ran_s"], told["audio_s"]) == (1.5, 2.25, 3.125)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", told["time"])


@pytest.mark.parametrize("formatter", [logs.JsonFormatter(), DiscreetFormatter("%(message)s")])
def test_a_traceback_doesn_t_quote(formatter: logging.Formatter) -> None:
    def fail() -> None:
        try:
            raise InvalidSetting(f"can't say {SECRET!r}")
        except InvalidSetting as error:
            raise ValueError(SECRET) from error

    try:
        fail()
    except ValueError:
        record = logging.LogRecord("x", logging.ERROR, "", 0, "went wrong", (), sys.exc_info())
    text = formatter.format(record)
    assert "Wombat" not in text
    assert "ValueError" in text
    assert "InvalidSetting" in text
    assert "in fail" in text
    try:
        raise OSError(28, "No space left on device")
    except OSError:
        record = logging.LogRecord("x", logging.ERROR, "", 0, "went wrong", (), sys.exc_info())
    assert "No space left" in formatter.format(record)


def test_the_log_is_set_up_as_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    out = io.StringIO()
    monkeypatch.setattr(sys, "stderr", out)
    root = logging.getLogger()
    before = (list(root.handlers), root.level)
    try:
        logs.set_up("json")
        logs.log_note(Note(Happening.STARTED, "id7", "", "pup", 3))
        assert json.loads(out.getvalue())["message"] == "job id7 started"
        out.truncate(0)
        out.seek(0)
        logs.set_up("plain")
        logs.log_note(Note(Happening.STARTED, "id7", "", "pup", 3))
        assert out.getvalue() == ""
    finally:
        root.handlers, root.level = before
        for name in ("webui", "bark_core"):
            logging.getLogger(name).setLevel(logging.NOTSET)


# --- settings


def test_hosting_comes_from_a_file_and_the_command_line(tmp_path: Path) -> None:
    file = tmp_path / "hosting.toml"
    file.write_text('max_queued = 7\nlog_format = "json"\nidle_unload_s = 60\n')
    arguments = ["--data", str(tmp_path), "--hosting", str(file), "--max-queued", "9"]
    hosting = parse_arguments([*arguments, "--no-worker"]).hosting
    assert (hosting.max_queued, hosting.log_format, hosting.idle_unload_s) == (9, "json", 60)
    assert not hosting.worker
    assert parse_arguments(["--data", str(tmp_path)]).hosting == Hosting()


@pytest.mark.parametrize("text", ["max_queud = 7", "max_queued = ", "max_queued = 0"])
def test_a_file_that_can_t_be_is_refused(
    tmp_path: Path, text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "hosting.toml").write_text(text)
    with pytest.raises(SystemExit):
        parse_arguments(["--data", str(tmp_path), "--hosting", str(tmp_path / "hosting.toml")])
    told = capsys.readouterr().err
    assert "max_queu" in told or "TOML" in told

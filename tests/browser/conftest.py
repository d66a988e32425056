"""A studio with a random model, and Chromium to drive it with."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from tests.page_model import save_page_model
from tests.served import Served, serving
from webui.settings import StudioSettings

pytest.importorskip("playwright")
from playwright.sync_api import ConsoleMessage, Frame, Page, Request, expect

CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")

PATIENCE_MS = 30_000  # a busy machine is no bug


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "/browser/" in item.path.as_posix():
            item.add_marker(pytest.mark.browser)
            # a browser on a crowded machine may miss a beat; not two
            item.add_marker(pytest.mark.flaky(reruns=1))
            if CHROMIUM is None:
                item.add_marker(pytest.mark.skip("no Chromium here"))


@pytest.fixture(scope="session")
def browser_type_launch_args(browser_type_launch_args: dict[str, Any]) -> dict[str, Any]:
    arguments = ["--no-sandbox", "--disable-dev-shm-usage"]
    return {**browser_type_launch_args, "executable_path": CHROMIUM, "args": arguments}


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_page_model(tmp_path_factory.mktemp("models") / "page")


@pytest.fixture(scope="session")
def settings(model: Path, tmp_path_factory: pytest.TempPathFactory) -> StudioSettings:
    return StudioSettings(model=str(model), data=tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="session")
def shared_studio(settings: StudioSettings) -> Iterator[Served]:
    with serving(settings) as served:
        yield served


@pytest.fixture
def served(shared_studio: Served) -> Iterator[Served]:
    """A studio whose history is empty and in which nothing runs."""
    yield shared_studio
    desk, history = shared_studio.studio.desk, shared_studio.studio.history
    for ticket in list(desk._tickets.values()):
        desk.stop(ticket.id)
        ticket.finished.wait(10)
        desk.dismiss(ticket.id)
    for entry in history.search(limit=1000):
        history.delete(entry.id)
    history.empty_bin()


@pytest.fixture
def page(page: Page) -> Iterator[Page]:
    """A page that may neither speak to strangers nor complain in its console."""
    strangers: list[str] = []
    complaints: list[str] = []
    leaving = False  # its streams were cut, as by a reload

    def note_request(request: Request) -> None:
        parts = urlsplit(request.url)
        if parts.scheme not in ("data", "blob") and parts.hostname not in ("127.0.0.1", None):
            strangers.append(request.url)

    def note_message(message: ConsoleMessage) -> None:
        nonlocal leaving
        if message.type != "error":
            return
        # a reload cuts the streams of the page that goes, and Gradio says so
        cut = "Abort" in message.text or "Connection errored out" in message.text
        leaving = leaving or cut
        # and asks once more for the stream of a call that was taken at the same moment
        late = leaving and message.text == "Unexpected error 404: Not Found"
        # what the studio refuses, the browser notes as well as the page
        refused = "status of 422" in message.text
        # the icon of a page that was left for an empty one is asked for in nobody's name
        icon = "favicon.ico" in message.text + message.location.get("url", "")
        if not (cut or late or refused or icon):
            complaints.append(message.text)

    def note_page(frame: Frame) -> None:
        nonlocal leaving
        if frame == page.main_frame:
            leaving = False

    page.on("request", note_request)
    page.on("console", note_message)
    page.on("framenavigated", note_page)
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.set_default_timeout(PATIENCE_MS)
    expect.set_options(timeout=PATIENCE_MS)
    yield page
    assert strangers == []
    assert complaints == []

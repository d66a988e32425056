"""Who can reach the page, and how it is opened."""

from __future__ import annotations

import contextlib
import hmac
import os
import signal
import tempfile
import threading
import time
import webbrowser
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gradio as gr
from starlette.requests import Request
from starlette.responses import FileResponse, PlainTextResponse, Response
from starlette.routing import Route

from bark_core import StorageError
from webui.history import is_id
from webui.settings import StudioSettings
from webui.studio import Studio
from webui.theme import ICON, page_css, page_head, studio_theme

MAX_TRIES_A_MINUTE = 10


class PasswordGate:
    """Asks for the studio's password; at most ten wrong tries a minute, by all together.

    Any name is let in with it: the name says whose history is shown, and protects nothing.
    """

    def __init__(self, password: str) -> None:
        self._password = password.encode()
        self._failures: deque[float] = deque()
        self._lock = threading.Lock()

    def __call__(self, name: str, password: str) -> bool:
        with self._lock:
            now = time.monotonic()
            while self._failures and now - self._failures[0] > 60:
                self._failures.popleft()
            if len(self._failures) >= MAX_TRIES_A_MINUTE:
                return False
            right = hmac.compare_digest(password.encode(), self._password)
            if not right:
                self._failures.append(now)
            return right and 0 < len(name) <= 100


def sound_routes(studio: Studio) -> list[Route]:
    """Sounds, to those who made them: kept ones, and those of jobs that still run."""

    def kept(request: Request) -> Response:
        entry_id, owner = request.path_params["entry_id"], _signed_in(request)
        if owner is None or not is_id(entry_id):
            return _nothing()
        if studio.history.get(entry_id, owner=owner) is None:
            return _nothing()
        return _sound(studio.history.sound_path(entry_id))

    def live(request: Request) -> Response:
        ticket_id, owner = request.path_params["ticket_id"], _signed_in(request)
        if owner is None or studio.desk.ticket(ticket_id, owner=owner) is None:
            return _nothing()
        return _sound(studio.history.live / f"{ticket_id}-{request.path_params['n']}.flac")

    return [
        Route("/studio/sound/{entry_id:str}.flac", kept, methods=["GET", "HEAD"]),
        Route("/studio/live/{ticket_id:str}/{n:int}.flac", live, methods=["GET", "HEAD"]),
    ]


def _sound(path: Path) -> Response:
    if not path.is_file():
        return _nothing()
    headers = {"cache-control": "private, max-age=3600", "x-content-type-options": "nosniff"}
    return FileResponse(path, media_type="audio/flac", headers=headers)


def _nothing() -> Response:
    return PlainTextResponse("There is no such sound.", status_code=404)


def _signed_in(request: Request) -> str | None:
    """The name of who asks, "" where nobody has to sign in, None for a stranger."""
    app = request.app
    if app.auth is None:
        return ""
    for kind in ("access-token", "access-token-unsecure"):
        name = app.tokens.get(request.cookies.get(f"{kind}-{app.cookie_id}"))
        if name is not None:
            return str(name)
    return None


@contextlib.contextmanager
def prepared_environment() -> Iterator[None]:
    """What Gradio reads from the environment: no analytics, no proxy for itself, own temporaries.

    Uploads and copies for programs lie in a folder that only this user can read and that goes
    with the process.
    """
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    for name in ("NO_PROXY", "no_proxy"):
        hosts = [host for host in os.environ.get(name, "").split(",") if host]
        own = [host for host in ("localhost", "127.0.0.1", "::1") if host not in hosts]
        os.environ[name] = ",".join([*hosts, *own])
    os.umask(0o077)
    with tempfile.TemporaryDirectory(prefix="bark-studio-", ignore_cleanup_errors=True) as folder:
        os.environ["GRADIO_TEMP_DIR"] = folder
        yield


def launch_arguments(studio: Studio) -> dict[str, Any]:
    """For `Blocks.launch`."""
    settings = studio.settings
    return {
        "server_name": settings.host,
        "server_port": settings.port,
        "share": settings.share,
        "auth": PasswordGate(settings.password) if settings.password else None,
        "auth_message": "Any name, and the password of this studio.",
        "prevent_thread_lock": True,
        "quiet": True,
        "show_error": False,
        "theme": studio_theme(),
        "css": page_css(),
        "head": page_head(),
        "favicon_path": ICON,
        "footer_links": [],
        "run_history": False,
        "enable_monitoring": False,
        "ssr_mode": False,
        "pwa": False,
        "mcp_server": False,
        "blocked_paths": [str(settings.data_folder)],
        "max_file_size": "10mb",
        "app_kwargs": {"routes": sound_routes(studio)},
    }


def open_page(demo: gr.Blocks, studio: Studio) -> str:
    """Begin to serve the page; returns its address.

    Raises:
        StorageError: the port is taken.
    """
    demo.queue(api_open=False, default_concurrency_limit=8)
    try:
        _, address, public = demo.launch(**launch_arguments(studio))
    except OSError as error:
        port = studio.settings.port
        where = f"port {port}" if port else "any port from 7860 to 7959"
        raise StorageError(
            f"the page can't be opened on {where} of {studio.settings.host}: it is taken, or not "
            "allowed; close what uses it, or choose another with --port"
        ) from error
    if studio.settings.share and not public:
        print("There is no public link: gradio.live can't be reached from here.", flush=True)
    return public or address


def serve(demo: gr.Blocks, studio: Studio) -> None:
    """Serve the page until somebody ends the program."""
    address = open_page(demo, studio)
    print(f"Bark Studio is at {address}  (Ctrl+C ends it)", flush=True)
    if _wants_browser(studio.settings):
        threading.Thread(target=webbrowser.open, args=(address,), daemon=True).start()
    ended = threading.Event()
    previous = signal.signal(signal.SIGTERM, lambda *_: ended.set())
    try:
        while not ended.wait(timeout=1.0):
            pass
    except KeyboardInterrupt:
        pass
    finally:
        signal.signal(signal.SIGTERM, previous)
        print("Closing; what is running is stopped and kept.", flush=True)
        studio.close()
        demo.close(verbose=False)


def _wants_browser(settings: StudioSettings) -> bool:
    if settings.open_page is not None:
        return settings.open_page
    if os.name == "nt" or os.uname().sysname == "Darwin":
        return "SSH_CONNECTION" not in os.environ
    return bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))

"""Who can reach the page, and how it is opened."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import webbrowser
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import gradio as gr
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from bark_core import StorageError
from webui.answers import nothing, signed_in, sound
from webui.audience import audience_routes
from webui.calls import OwnThingsOnly, file_route
from webui.environment import prepared_environment
from webui.headers import SafeHeaders
from webui.health import Health
from webui.languages import InLanguage
from webui.limits import BodyLimits, KnownRoutesOnly
from webui.reach import OwnSitesOnly, Reach
from webui.routes_history import history_routes
from webui.routes_script import script_routes
from webui.routes_voices import voices_routes
from webui.sessions import Sessions
from webui.settings import StudioSettings
from webui.signin import SignedInOnly, sign_in_routes
from webui.studio import Studio
from webui.theme import ICON, page_css, page_head, page_heads, studio_theme

__all__ = ["open_page", "prepared_environment", "serve"]

# in Gradio's queue: a page holds two for as long as it is open, and nothing runs without one
PLACES = 1000


def sound_routes(studio: Studio) -> list[Route]:
    """The sounds of jobs that still run, to those who asked for them."""

    def live(request: Request) -> Response:
        ticket_id, owner = request.path_params["ticket_id"], signed_in(request)
        if owner is None or studio.desk.ticket(ticket_id, owner=owner) is None:
            return nothing()
        return sound(studio.history.live / f"{ticket_id}-{request.path_params['n']}.flac")

    return [Route("/studio/live/{ticket_id:str}/{n:int}.flac", live, methods=["GET", "HEAD"])]


def middleware(demo: gr.Blocks, studio: Studio, reach: Reach) -> list[Middleware]:
    """What every request passes on its way in, the first one first."""
    return [
        Middleware(Health, studio=studio),
        Middleware(SafeHeaders, heads=page_heads()),
        Middleware(OwnSitesOnly, reach=reach, proxied=studio.settings.proxied),
        Middleware(KnownRoutesOnly),
        Middleware(BodyLimits),
        Middleware(SignedInOnly, studio=studio),
        Middleware(OwnThingsOnly, demo=demo, belongings=studio.belongings, callers=studio.callers),
        Middleware(InLanguage),
    ]


def launch_arguments(demo: gr.Blocks, studio: Studio, reach: Reach) -> dict[str, Any]:
    """For `Blocks.launch`."""
    settings = studio.settings
    return {
        "server_name": settings.host,
        "server_port": settings.port,
        "share": settings.share,
        "root_path": settings.public_url,
        "auth_dependency": signed_in,
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
        "state_session_capacity": 2_000,
        "max_threads": PLACES,
        "blocked_paths": [str(settings.data_folder)],
        "max_file_size": "10mb",
        "app_kwargs": {
            "routes": [
                *sign_in_routes(studio),
                file_route(studio.belongings),
                *audience_routes(studio.audience),
                *sound_routes(studio),
                *history_routes(studio),
                *script_routes(studio),
                *voices_routes(studio),
            ],
            "middleware": middleware(demo, studio, reach),
        },
    }


def open_page(demo: gr.Blocks, studio: Studio) -> str:
    """Begin to serve the page; returns its address.

    Raises:
        StorageError: the port is taken.
    """
    demo.queue(api_open=False, default_concurrency_limit=8)
    settings, reach = studio.settings, studio.settings.reach
    # whose word on a caller's address the server takes
    os.environ["FORWARDED_ALLOW_IPS"] = ",".join(settings.proxies) if settings.proxied else ""
    try:
        _, address, public = demo.launch(**launch_arguments(demo, studio, reach))
    except OSError as error:
        port = settings.port
        where = f"port {port}" if port else "any port from 7860 to 7959"
        raise StorageError(
            f"the page can't be opened on {where} of {settings.host}: it is taken, or not "
            "allowed; close what uses it, or choose another with --port"
        ) from error
    demo.app.state_holder = Sessions(demo)
    if public:
        reach.add(urlsplit(public).hostname or "")
    elif settings.share:
        print("There is no public link: gradio.live can't be reached from here.", flush=True)
    return settings.public_url or public or address


def serve(demo: gr.Blocks, studio: Studio) -> None:
    """Serve the page until somebody ends the program."""
    with _told_to_end() as ended:
        try:
            address = open_page(demo, studio)
        except BaseException:
            studio.close()  # or what loads meanwhile would end with a crash
            raise
        print(f"Bark Studio is at {address}  (Ctrl+C ends it)", flush=True)
        if _wants_browser(studio.settings):
            threading.Thread(target=webbrowser.open, args=(address,), daemon=True).start()
        drain_s = 0.0  # somebody at the keyboard wants the end now
        with contextlib.suppress(KeyboardInterrupt):
            while not ended.wait(timeout=1.0):
                pass
            drain_s = studio.settings.hosting.drain_s
    # told once more, it ends at once
    running = f"gets {drain_s:.0f} s" if drain_s else "is stopped and kept"
    print(
        f"Closing: nothing new is begun, what runs {running}, what waits runs after the next "
        "start.",
        flush=True,
    )
    studio.close(drain_s=drain_s)
    demo.close(verbose=False)


@contextlib.contextmanager
def _told_to_end() -> Iterator[threading.Event]:
    """Set once a service manager (SIGTERM) wants the program to end."""
    ended = threading.Event()
    previous = signal.signal(signal.SIGTERM, lambda *_: ended.set())
    try:
        yield ended
    finally:
        signal.signal(signal.SIGTERM, previous)


def _wants_browser(settings: StudioSettings) -> bool:
    if settings.open_page is not None:
        return settings.open_page
    if os.name == "nt" or os.uname().sysname == "Darwin":
        return "SSH_CONNECTION" not in os.environ
    return bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))

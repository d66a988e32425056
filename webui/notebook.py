"""The studio inside of a notebook: on Colab, and anywhere else that runs one.

What Colab has and others don't (Drive, a way to its ports) is asked for where it is used, and
what isn't there is said. notebooks/bark_studio_colab.ipynb is the notebook.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import secrets
import socket
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit

from bark_core import describe_devices

FOLDER = "Bark Studio"  # on the drive


@dataclass(frozen=True, slots=True)
class Running:
    """A studio that runs behind a notebook."""

    studio: Any
    demo: Any
    environment: contextlib.ExitStack
    address: str  # where it listens on this machine
    public: str  # a link that leads here from everywhere; "": there is none
    password: str

    def close(self) -> None:
        """Stop what runs, keep what is finished, copy the last of it to the mirror."""
        self.studio.close()
        self.demo.close(verbose=False)
        self.environment.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


def in_colab() -> bool:
    """Whether this is a notebook of Google Colab."""
    with contextlib.suppress(ModuleNotFoundError):
        return importlib.util.find_spec("google.colab") is not None
    return False


def devices_in_words() -> str:
    """What there is to run on, and how it will be used."""
    found = describe_devices()
    gpus = [info for info in found if info.kind == "cuda"]
    if not gpus:
        where = " (Runtime > Change runtime type > T4 GPU)" if in_colab() else ""
        return f"There is no GPU: pup is quick here, small and large take minutes{where}."
    info = gpus[0]
    precision = "bfloat16" if info.native_bfloat16 else "float16"
    free = "" if info.free_bytes is None else f", {info.free_bytes / 1e9:.1f} GB free"
    return f"{info.name}{free}: models run in {precision}."


def drive_folder(wanted: bool) -> Path | None:
    """The folder on Drive, mounted if need be; None where it isn't wanted or isn't Colab."""
    if not wanted:
        print("Drive is not used: what is made here goes with this machine.")
        return None
    if not in_colab():
        print("This isn't Colab, so there is no Drive to mount: results stay on this machine.")
        return None
    place = Path.cwd() / "drive"  # /content/drive, where everybody's is
    importlib.import_module("google.colab.drive").mount(str(place))
    return place / "MyDrive" / FOLDER


def open_in_notebook(
    *,
    model: str = "small",
    mirror: Path | None = None,
    data: Path | None = None,
    cache: Path | None = None,
    password: str = "",
    share: bool = True,
    device: str = "auto",
) -> Running:
    """Open a studio and say how it is reached.

    Args:
        mirror: where results are copied as they finish; a studio that begins on this machine
            begins with what is there.
        data, cache: of this machine; None: Colab's own disk, or the user's folders elsewhere.
        password: "" makes one up; shown below the cell.
        share: ask for a public link.

    Raises:
        BarkError: as `open_studio` and `open_page`.
    """
    from webui.environment import prepared_environment
    from webui.settings import StudioSettings

    password = password or secrets.token_urlsafe(12)
    port, colab = _free_port(), in_colab()
    proxied = colab_address(port) if colab else ""
    settings = StudioSettings(
        model=model,
        port=port,
        data=data or (Path.cwd() / "bark-studio" if colab else None),
        cache=cache or (Path.cwd() / "bark-models" if colab else None),
        mirror=mirror,
        password=password,
        share=share,
        allowed_hosts=tuple(filter(None, [urlsplit(proxied).hostname])),
        devices=(device,),
        open_page=False,
    )
    with contextlib.ExitStack() as opening:
        environment = contextlib.ExitStack()
        opening.callback(environment.close)
        environment.enter_context(prepared_environment())
        # only now: Gradio looks for its temporary folder when it is imported
        from webui.blocks import build_page
        from webui.serving import open_page
        from webui.studio import open_studio

        studio = open_studio(settings)
        opening.callback(studio.close)
        demo = build_page(studio)
        link = open_page(demo, studio)
        opening.pop_all()  # all went well: it stays open
    address = f"http://127.0.0.1:{port}/"
    public = "" if urlsplit(link).hostname in ("127.0.0.1", "localhost") else link
    running = Running(studio, demo, environment, address, public, password)
    _say(running, port)
    return running


def colab_address(port: int) -> str:
    """Where Colab's own proxy shows a port of this machine to its user alone."""
    output = importlib.import_module("google.colab.output")
    return str(output.eval_js(f"google.colab.kernel.proxyPort({port})"))


def _say(running: Running, port: int) -> None:
    print(f"Sign in with any name and the password {running.password}")
    if running.public:
        print(f"For everybody who has the password: {running.public}")
    if in_colab():
        # for the one whose notebook this is; works where no public link can be had
        print("For you alone:")
        output = importlib.import_module("google.colab.output")
        output.serve_kernel_port_as_window(port, anchor_text="Bark Studio")
    elif not running.public:
        print(f"On this machine: {running.address}")


def _free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port: int = one.getsockname()[1]
        return port

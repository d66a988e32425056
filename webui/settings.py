"""What can be chosen when the studio is started."""

from __future__ import annotations

import argparse
import ipaddress
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import platformdirs

from bark_core import InvalidSetting

PASSWORD_VARIABLE = "BARK_STUDIO_PASSWORD"
MIN_PASSWORD_CHARACTERS = 8
PRECISIONS = ("auto", "float32", "bfloat16", "float16")


@dataclass(frozen=True, slots=True, kw_only=True)
class StudioSettings:
    """How a studio runs.

    Raises:
        InvalidSetting: the settings would let strangers in, or make no sense.
    """

    model: str = "pup"  # "pup", "small", "large", a hub repository or a folder
    host: str = "127.0.0.1"
    port: int | None = None  # None: the first free one from 7860 on
    data: Path | None = None  # None: the user's own data folder
    password: str | None = None
    share: bool = False  # ask for a public link that leads here
    device: str = "auto"
    precision: str = "auto"
    open_page: bool | None = None  # None: where there is a screen

    def __post_init__(self) -> None:
        if self.port is not None and not 1 <= self.port <= 65_535:
            raise InvalidSetting(f"--port must be within 1..65535, got {self.port}")
        if self.password is not None and len(self.password) < MIN_PASSWORD_CHARACTERS:
            raise InvalidSetting(
                f"the password has {len(self.password)} characters; give at least "
                f"{MIN_PASSWORD_CHARACTERS}, for it is all that keeps others out"
            )
        if self.password is None and (self.share or not is_loopback(self.host)):
            option, what = "--share", "--share"
            if not self.share:
                option, what = "--host", f"--host {self.host}"
            raise InvalidSetting(
                f"{what} lets other people reach this studio, so it needs a password; "
                f"add --password, or set {PASSWORD_VARIABLE}, or leave {option} away "
                "to stay on this computer alone"
            )

    @property
    def data_folder(self) -> Path:
        """Where history and sounds are kept."""
        if self.data is not None:
            return self.data.expanduser().resolve()
        return platformdirs.user_data_path("bark-studio", appauthor=False)


def is_loopback(host: str) -> bool:
    """Whether only this computer itself can reach that address."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def parse_arguments(
    arguments: Sequence[str], environment: Mapping[str, str] | None = None
) -> StudioSettings:
    """Read the command line; ends the program with a message where it can't be used."""
    parser = _parser()
    given = parser.parse_args(arguments)
    password = given.password or (environment or {}).get(PASSWORD_VARIABLE) or None
    try:
        return StudioSettings(
            model=given.model,
            host=given.host,
            port=given.port,
            data=given.data,
            password=password,
            share=given.share,
            device=given.device,
            precision=given.precision,
            open_page=given.open,
        )
    except InvalidSetting as error:
        parser.error(str(error))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="app.py",
        description="Bark Studio: type a sentence in your browser, choose a voice, hear it.",
    )
    parser.add_argument(
        "--model",
        default="pup",
        help="pup (the bundled demonstration model), small or large (real Bark, downloaded once), "
        "or a folder (default: pup)",
    )
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on")
    parser.add_argument("--port", type=int, help="default: the first free one from 7860 on")
    parser.add_argument("--data", type=Path, metavar="DIR", help="where history is kept")
    parser.add_argument(
        "--password",
        help=f"asked of everyone who opens the page; {PASSWORD_VARIABLE} does the same unseen by "
        "other users of this computer",
    )
    parser.add_argument(
        "--share", action="store_true", help="ask gradio.live for a public link; needs a password"
    )
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1 or mps")
    parser.add_argument("--precision", default="auto", choices=PRECISIONS)
    parser.add_argument(
        "--open",
        action=argparse.BooleanOptionalAction,
        help="open the page in a browser (default: where there is a screen)",
    )
    return parser

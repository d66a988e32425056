"""What can be chosen when the studio is started."""

from __future__ import annotations

import argparse
import contextlib
import ipaddress
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import platformdirs

from bark_core import BarkError, InvalidSetting
from webui.accounts import Accounts
from webui.hosting import Hosting, add_hosting_options
from webui.quotas import Limits
from webui.reach import Reach, checked_host_name

PASSWORD_VARIABLE = "BARK_STUDIO_PASSWORD"
MIN_PASSWORD_CHARACTERS = 8
MADE_UP = "auto"  # as a password: make one up, and print it
LOCAL_PROXIES = ("127.0.0.1", "::1")
PRECISIONS = ("auto", "float32", "bfloat16", "float16", "int8", "bfloat16-kv8")
CUDA_ONLY = ("bfloat16-kv8",)


@dataclass(frozen=True, slots=True, kw_only=True)
class StudioSettings:
    """How a studio runs.

    Raises:
        InvalidSetting: the settings would let strangers in, or make no sense.
    """

    # "pup", "small", "large", a hub repository or a folder; "": what was chosen in System, or pup
    model: str = ""
    host: str = "127.0.0.1"
    port: int | None = None  # None: the first free one from 7860 on
    data: Path | None = None  # None: the user's own data folder
    cache: Path | None = None  # of models; None: the user's own cache folder
    endpoint: str | None = None  # another hub server
    mirror: Path | None = None  # where the data folder is copied to while the studio runs
    password: str | None = None
    share: bool = False  # ask for a public link that leads here
    # where people open the page, when that is another address: a reverse proxy stands in front
    public_url: str | None = None
    proxies: tuple[str, ...] = LOCAL_PROXIES  # addresses of such proxies
    allowed_hosts: tuple[str, ...] = ()  # further names under which the page is reached
    quota_gb: float | None = None  # what each person may keep; None: as much as there is
    keep_free_gb: float = 1.0  # what stays free on the disk
    keep_days: float | None = None  # after which all but favourites go; None: never
    # one: "auto", "cpu", "cuda:1", "mps"; several: a worker process for each; "all": every GPU
    devices: tuple[str, ...] = ("auto",)
    precision: str = "auto"
    sign: bool = False  # files get Content Credentials by this host's key
    watermark: bool = False  # sounds get AudioSeal's mark
    open_page: bool | None = None  # None: where there is a screen
    hosting: Hosting = field(default_factory=Hosting)

    def __post_init__(self) -> None:
        if self.port is not None and not 1 <= self.port <= 65_535:
            raise InvalidSetting(f"--port must be within 1..65535, got {self.port}")
        if self.password is not None and len(self.password) < MIN_PASSWORD_CHARACTERS:
            raise InvalidSetting(
                f"the password has {len(self.password)} characters; give at least "
                f"{MIN_PASSWORD_CHARACTERS}, for it is all that keeps others out"
            )
        for option, value in (
            ("--quota-gb", self.quota_gb),
            ("--keep-free-gb", self.keep_free_gb),
            ("--keep-days", self.keep_days),
        ):
            if value is not None and not 0 <= value < 1e6:
                raise InvalidSetting(f"{option} must be within 0..1,000,000, got {value:g}")
        for name in self.allowed_hosts:
            checked_host_name(name)
        self._check_devices()
        if self.public_url is not None:
            _check_url(self.public_url)

    def _check_devices(self) -> None:
        if not self.devices or not all(self.devices):
            raise InvalidSetting("--device needs the name of a device, got none; leave it away")
        several = len(self.devices) > 1 or self.devices == ("all",)
        if several and self.hosting.ray is not None:
            raise InvalidSetting(
                "on a cluster each replica takes a GPU by itself; leave --device away, or --ray"
            )
        if several and not self.hosting.worker:
            raise InvalidSetting(
                f"{' and '.join(self.devices)} need a worker process each; leave --no-worker away"
            )

    @property
    def wide(self) -> bool:
        """Whether others than this computer itself may be able to reach the studio."""
        return bool(self.wide_option)

    @property
    def wide_option(self) -> str:
        """What on the command line lets others reach it; "" where nothing does."""
        if self.share:
            return "--share"
        if not is_loopback(self.host):
            return f"--host {self.host}"
        return "--public-url" if self.public_url else ""

    @property
    def proxied(self) -> bool:
        """Whether a program in front tells where requests come from."""
        return self.share or self.public_url is not None

    @property
    def reach(self) -> Reach:
        """The names under which the studio answers."""
        names = [*self.allowed_hosts]
        if not is_loopback(self.host) and not self.host[-1:].isdigit() and ":" not in self.host:
            names.append(self.host)
        if self.public_url is not None:
            names.append(urlsplit(self.public_url).hostname or "")
        return Reach(names, wide=self.wide)

    @property
    def limits(self) -> Limits:
        """How much may be kept, and for how long."""
        quota = None if self.quota_gb is None else round(self.quota_gb * 1e9)
        return Limits(quota, round(self.keep_free_gb * 1e9), self.keep_days)

    @property
    def data_folder(self) -> Path:
        """Where history and sounds are kept."""
        if self.data is not None:
            return self.data.expanduser().resolve()
        return default_data_folder()


def signing_folder(data_folder: Path) -> Path:
    """Where the host's key is."""
    return data_folder / "signing"


def default_data_folder() -> Path:
    """The user's own."""
    return platformdirs.user_data_path("bark-studio", appauthor=False)


def check_reach(settings: StudioSettings, *, has_accounts: bool) -> None:
    """Raises InvalidSetting where strangers would be let in, or two ways to sign in are given."""
    if has_accounts and settings.password is not None:
        raise InvalidSetting(
            "this studio has accounts, so everybody signs in with a password of their own; leave "
            f"--password and {PASSWORD_VARIABLE} away, or remove the accounts"
        )
    if settings.wide and not has_accounts and settings.password is None:
        option = settings.wide_option
        raise InvalidSetting(
            f"{option} lets other people reach this studio, so they have to sign in; add "
            f"--password {MADE_UP} to have a password made up, or --password with one of your own "
            f"({PASSWORD_VARIABLE} does the same unseen), or accounts with 'python app.py accounts "
            f"add NAME'; or leave {option.split()[0]} away to stay on this computer alone"
        )


def is_loopback(host: str) -> bool:
    """Whether only this computer itself can reach that address."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _check_url(url: str) -> None:
    try:
        parts = urlsplit(url)
        fine = parts.scheme in ("http", "https") and bool(parts.hostname) and not parts.query
        parts.port  # noqa: B018 - a wrong one raises
    except ValueError:
        fine = False
    if not fine:
        raise InvalidSetting(
            f"--public-url must be such as https://studio.example.org, got {url[:200]!r}"
        )


def parse_arguments(
    arguments: Sequence[str], environment: Mapping[str, str] | None = None
) -> StudioSettings:
    """Read the command line; ends the program with a message where it can't be used."""
    parser = _parser()
    given = parser.parse_args(arguments)
    password = given.password or (environment or {}).get(PASSWORD_VARIABLE) or None
    if password == MADE_UP:
        password = secrets.token_urlsafe(12)
        print(f"The password of this studio: {password}", flush=True)
    try:
        settings = StudioSettings(
            model=given.model,
            host=given.host,
            port=given.port,
            data=given.data,
            cache=given.cache_dir,
            mirror=given.mirror,
            password=password,
            share=given.share,
            public_url=given.public_url,
            proxies=tuple(given.proxy or LOCAL_PROXIES),
            allowed_hosts=tuple(given.allow_host),
            quota_gb=given.quota_gb,
            keep_free_gb=given.keep_free_gb,
            keep_days=given.keep_days,
            devices=tuple(given.device or ("auto",)),
            precision=given.precision,
            sign=given.sign,
            watermark=given.watermark,
            open_page=given.open,
            hosting=Hosting.from_arguments(given),
        )
        with contextlib.closing(Accounts.open(settings.data_folder)) as accounts:
            check_reach(settings, has_accounts=accounts.any())
    except BarkError as error:
        parser.error(str(error))
    return settings


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="app.py",
        description="Bark Studio: type a sentence in your browser, choose a voice, hear it.",
    )
    parser.add_argument(
        "--model",
        default="",
        help="pup (the bundled demonstration model), small or large (real Bark, downloaded once), "
        "or a folder (default: the one chosen in System, at first pup)",
    )
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on")
    parser.add_argument("--port", type=int, help="default: the first free one from 7860 on")
    parser.add_argument("--data", type=Path, metavar="DIR", help="where history is kept")
    parser.add_argument("--cache-dir", type=Path, metavar="DIR", help="where models are kept")
    parser.add_argument(
        "--mirror",
        type=Path,
        metavar="DIR",
        help="copy what is made to another disk within seconds; an empty studio begins with it",
    )
    parser.add_argument(
        "--password",
        metavar="WORD",
        help=f"asked of everyone who opens the page; {MADE_UP!r} makes one up and prints it; "
        f"{PASSWORD_VARIABLE} does the same unseen by other users of this computer",
    )
    parser.add_argument(
        "--share", action="store_true", help="ask gradio.live for a public link; needs a password"
    )
    parser.add_argument(
        "--public-url",
        metavar="URL",
        help="where people open the page when a reverse proxy stands in front of it",
    )
    parser.add_argument(
        "--proxy",
        action="append",
        metavar="ADDRESS",
        help="of that proxy (default: this computer); may be given several times",
    )
    parser.add_argument(
        "--allow-host",
        action="append",
        default=[],
        metavar="NAME",
        help="a further name under which the page is reached; may be given several times",
    )
    parser.add_argument(
        "--sign",
        action="store_true",
        help="sign files with this host's own key (Content Credentials); made at the first time",
    )
    parser.add_argument(
        "--watermark",
        action="store_true",
        help="put an inaudible mark into sounds; needs AudioSeal and its weights",
    )
    parser.add_argument(
        "--quota-gb",
        type=float,
        metavar="GB",
        help="what each person may keep (default: as much as there is)",
    )
    parser.add_argument(
        "--keep-free-gb",
        type=float,
        default=1.0,
        metavar="GB",
        help="what stays free on the disk (default: 1)",
    )
    parser.add_argument(
        "--keep-days",
        type=float,
        metavar="DAYS",
        help="after which everything but favourites goes for good (default: never)",
    )
    parser.add_argument(
        "--device",
        action="append",
        metavar="NAME",
        help="auto, cpu, cuda, cuda:1 or mps; given several times, or 'all' for every GPU: a "
        "worker process for each, which share the jobs",
    )
    parser.add_argument(
        "--precision",
        default="auto",
        choices=PRECISIONS,
        help="int8: on a CPU or a GPU; bfloat16-kv8: on a GPU (docs/performance.md says how close)",
    )
    parser.add_argument(
        "--open",
        action=argparse.BooleanOptionalAction,
        help="open the page in a browser (default: where there is a screen)",
    )
    add_hosting_options(parser)
    return parser

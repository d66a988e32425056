"""What a host may limit and switch: the queue, the worker, logs and metrics.

On the command line (`--max-queued 100`) or in a TOML file (`--hosting FILE`, `max_queued = 100`);
what is on the command line counts more.
"""

from __future__ import annotations

import argparse
import tomllib
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Self

from bark_core import InvalidSetting

LOG_FORMATS = ("plain", "json")
DAY_S = 86_400.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Hosting:
    """How a studio is hosted.

    Raises:
        InvalidSetting: a value is out of its range or of the wrong type.
    """

    max_queued: int = 500  # jobs that wait or run, of everybody
    max_queued_each: int = 50  # of one user
    max_running_each: int | None = None  # of one user at the same time; None: as many as there fit
    audio_s_each_day: float | None = None  # sound of one user a day (UTC); None: no limit
    patience_s: float = DAY_S  # a job that waits and that nobody looks at is given up after that
    idle_unload_s: float = 1800.0  # a model that nobody uses is unloaded after that; 0: never
    drain_s: float = 20.0  # what the running jobs get to end when the studio ends, 0..25
    worker: bool = True  # models run in a process of their own, which may die without the page
    ray: str | None = None  # a Ray cluster's address: models run there instead; "local" starts one
    replicas: int = 1  # of each model, on the cluster
    gpus_each: float | None = None  # of one replica; None: one where the cluster has any
    max_batch: int | None = None  # jobs that run together on one model; None: as the device allows
    log_format: str = "plain"  # or "json": a line is an object
    metrics_token: str | None = None  # lets others than this computer read /metrics

    def __post_init__(self) -> None:
        for name, low, high in _RANGES:
            _check_number(name, getattr(self, name), low, high)
        if self.log_format not in LOG_FORMATS:
            raise InvalidSetting(
                f"log_format must be one of {', '.join(LOG_FORMATS)}, got {self.log_format!r}"
            )
        if not isinstance(self.worker, bool):
            raise InvalidSetting(f"worker must be true or false, got {self.worker!r}")
        if self.ray is not None and not (isinstance(self.ray, str) and self.ray):
            raise InvalidSetting(f"ray must be an address, 'auto' or 'local', got {self.ray!r}")
        token = self.metrics_token
        if token is not None and (not isinstance(token, str) or len(token) < 16):
            raise InvalidSetting(
                "metrics_token must be a text of at least 16 characters; make a random one"
            )

    @classmethod
    def from_arguments(cls, given: argparse.Namespace) -> Self:
        """Read the file that was named, then what else was given.

        Raises:
            InvalidSetting: as above, or the file can't be read.
        """
        values = _read(given.hosting) if given.hosting is not None else {}
        for field in fields(cls):
            value = getattr(given, field.name, None)
            if value is not None:
                values[field.name] = value
        return cls(**values)


# None is allowed where it is the default
_RANGES = (
    ("max_queued", 1, 100_000),
    ("max_queued_each", 1, 100_000),
    ("max_running_each", 1, 1000),
    ("audio_s_each_day", 1, 1e9),
    ("patience_s", 10, 1e9),
    ("idle_unload_s", 0, 1e9),
    ("drain_s", 0, 25),
    ("max_batch", 1, 1024),
    ("replicas", 1, 1000),
    ("gpus_each", 0, 64),
)
_OPTIONAL = ("max_running_each", "audio_s_each_day", "max_batch", "gpus_each")


def _check_number(name: str, value: object, low: float, high: float) -> None:
    if value is None and name in _OPTIONAL:
        return
    whole = name.startswith("max_") or name == "replicas"
    kinds: tuple[type, ...] = (int,) if whole else (int, float)
    if isinstance(value, bool) or not isinstance(value, kinds):
        kind = "a whole number" if whole else "a number"
        raise InvalidSetting(f"{name} must be {kind}, got {value!r}")
    if not low <= value <= high:  # type: ignore[operator]
        raise InvalidSetting(f"{name} must be within {low:g}..{high:g}, got {value}")


def _read(path: Path) -> dict[str, Any]:
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InvalidSetting(f"{path} can't be read as TOML: {error}; mend it") from error
    known = {field.name for field in fields(Hosting)}
    unknown = sorted(set(values) - known)
    if unknown:
        raise InvalidSetting(
            f"{path} sets {unknown[0]!r}, which there isn't; there is {', '.join(sorted(known))}"
        )
    return values


def add_hosting_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of `Hosting`; those that weren't given are None."""
    group = parser.add_argument_group("hosting", "limits and switches for a shared studio")
    add = group.add_argument
    add("--hosting", type=Path, metavar="FILE", help="a TOML file with any of the following")
    add("--max-queued", type=int, metavar="N", help="jobs that wait or run (default: 500)")
    add("--max-queued-each", type=int, metavar="N", help="of one user (default: 50)")
    add("--max-running-each", type=int, metavar="N", help="of one user at the same time")
    add("--audio-s-each-day", type=float, metavar="S", help="seconds of sound of one user a day")
    add("--patience-s", type=float, metavar="S", help="how long a job waits unwatched (a day)")
    add("--idle-unload-s", type=float, metavar="S", help="unload idle models (1800; 0: never)")
    add("--drain-s", type=float, metavar="S", help="time for running jobs at the end (20)")
    add(
        "--worker",
        action=argparse.BooleanOptionalAction,
        help="models run in a process of their own (default), or in this one",
    )
    add("--ray", metavar="ADDRESS", help="run models on a Ray cluster: HOST:PORT, auto or local")
    add("--replicas", type=int, metavar="N", help="of each model, on the cluster (default: 1)")
    add("--gpus-each", type=float, metavar="X", help="GPUs of one replica (default: 1 if any)")
    add("--max-batch", type=int, metavar="N", help="jobs that run together on one model")
    add("--log-format", choices=LOG_FORMATS, help="plain (default), or a JSON object a line")
    add("--metrics-token", metavar="T", help="lets others than this computer read /metrics")

"""`python -m bark_core models`: which models there are, which fits, getting and removing them."""

from __future__ import annotations

import argparse
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bark_core.console import Console, add_command, add_place, table
from bark_core.models import (
    cache_folder,
    known_models,
    model_config,
    models_in_cache,
    remove,
    stored,
)
from bark_core.placement import STORED, DeviceInfo
from bark_core.preflight import Candidate, Fit, disk_needed, preflight, recommend

if TYPE_CHECKING:
    from bark_core.cascade import Cascade

_OFFLOAD: dict[str, bool | str] = {"auto": "auto", "on": True, "off": False}


# --- what there is


def _list(args: argparse.Namespace, console: Console) -> None:
    told = [_known(info.name, args.cache_dir) for info in known_models()]
    told += [_found(name, source, args.cache_dir) for name, source in _others(args).items()]
    rows = [(model["name"], _here(model), model["description"]) for model in told]
    console.result(told, table(rows))


def _known(name: str, cache_dir: str | None) -> dict[str, Any]:
    info = next(info for info in known_models() if info.name == name)
    here = stored(name, cache_dir)
    return {
        "name": info.name,
        "title": info.title,
        "source": info.source,
        "layout": info.config.layout.name,
        "installed": here.installed,
        "download_bytes": info.download_bytes,
        "done_bytes": here.done_bytes,
        "disk_bytes": here.disk_bytes,
        "memory_bytes": info.memory_bytes("float32"),
        "demonstration": info.demonstration,
        "description": info.description,
    }


def _others(args: argparse.Namespace) -> dict[str, str]:
    return models_in_cache(args.cache_dir)


def _found(name: str, source: str, cache_dir: str | None) -> dict[str, Any]:
    """One that was downloaded or converted before and has no name of its own."""
    here, config = stored(source, cache_dir), model_config(source, cache_dir)
    return {
        "name": name,
        "title": name,
        "source": source,
        "layout": config.layout.name if config else None,
        "installed": here.installed,
        "download_bytes": here.total_bytes,
        "done_bytes": here.done_bytes,
        "disk_bytes": here.disk_bytes,
        "memory_bytes": None,
        "demonstration": bool(config and config.demonstration),
        "description": f"use it as {source}",
    }


def _here(model: dict[str, Any]) -> str:
    if model["installed"]:
        return "here"
    total, done = model["download_bytes"] / 1e9, model["done_bytes"] / 1e9
    if done:
        return f"{done:.1f} of {total:.1f} GB here"
    return f"{total:.1f} GB to download"


def _preflight(args: argparse.Namespace, console: Console) -> None:
    from bark_core.device import describe_devices

    devices, free = describe_devices(), _disk_free(cache_folder(args.cache_dir))
    names = [args.name] if args.name else [info.name for info in known_models()]
    candidates = [_candidate(name, args.cache_dir) for name in names]
    fits = [
        preflight(
            candidate,
            devices,
            device=args.device,
            precision=args.precision,
            offload=_OFFLOAD[args.offload],
            disk_free_bytes=free,
        )
        for candidate in candidates
    ]
    advice = recommend(candidates, devices, device=args.device, disk_free_bytes=free)
    told = {
        "devices": [asdict(info) for info in devices],
        "fits": [_told(fit) for fit in fits],
        "recommended": advice.fit.model,
        "reason": advice.reason.value,
    }
    rows = [(fit.model, fit.device.device, fit.precision, fit.in_words()) for fit in fits]
    lines = [*map(_device_line, devices), "", *table(rows)]
    if not args.name:
        lines += ["", f"recommended: {advice.fit.model}; {advice.reason}"]
    console.result(told, lines)


def _candidate(name: str, cache_dir: str | None) -> Candidate:
    config, here = model_config(name, cache_dir), stored(name, cache_dir)
    if config is None:
        # nothing is known of a repository before it was downloaded: as large as the largest
        config = max(known_models(), key=lambda info: info.download_bytes).config
    disk = 0 if here.installed else disk_needed(here.total_bytes, here.done_bytes)
    return Candidate(name, config, disk)


def _told(fit: Fit) -> dict[str, Any]:
    return {
        "model": fit.model,
        "device": fit.device.device,
        "precision": fit.precision,
        "offload": fit.offload,
        "verdict": fit.verdict.value,
        "needed_bytes": fit.needed_bytes,
        "available_bytes": fit.available_bytes,
        "disk_needed_bytes": fit.disk_needed_bytes,
        "disk_free_bytes": fit.disk_free_bytes,
    }


def _device_line(info: DeviceInfo) -> str:
    if info.free_bytes is None or info.total_bytes is None:
        return f"{info.device}: {info.name}"
    free, total = info.free_bytes / 1e9, info.total_bytes / 1e9
    return f"{info.device}: {info.name}, {free:.1f} of {total:.1f} GB free"


def _disk_free(folder: Path) -> int | None:
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    try:
        return shutil.disk_usage(folder).free
    except OSError:
        return None


# --- what can be done


def _download(args: argparse.Namespace, console: Console) -> None:
    from bark_core.checkpoint import download

    identity = download(
        args.name,
        device=args.device,
        precision=args.precision,
        cache_dir=args.cache_dir,
        progress=console.download,
        local_files_only=args.offline,
        update=args.update,
    )
    where = f"{identity.source} at {identity.revision[:12]} in {identity.precision}"
    console.result(asdict(identity), [f"{args.name} is ready: {where}"])


def _remove(args: argparse.Namespace, console: Console) -> None:
    freed = remove(args.name, args.cache_dir)
    told = {"removed": args.name, "freed_bytes": freed}
    console.result(told, [f"removed {args.name}: {freed / 1e6:,.0f} MB freed"])


def _convert(args: argparse.Namespace, console: Console) -> None:
    from bark_core.checkpoint import convert

    target = convert(
        args.source,
        Path(args.target).expanduser(),
        args.precision,
        cache_dir=args.cache_dir,
        progress=console.download,
        local_files_only=args.offline,
    )
    told = {"folder": str(target), "precision": args.precision}
    console.result(told, [f"{target}: the model in {args.precision}"])


# --- arguments


def add_model(command: Any) -> None:
    """Add the options that choose a model, and where it runs, to a command or a group of these."""
    command.add_argument("--model", default="pup", help="pup, small, large, OWNER/NAME or a folder")
    _add_place_and_offload(command)


def load_chosen(args: argparse.Namespace, console: Console) -> Cascade:
    """Load the model that the options of `add_model` choose. Raises as `load`."""
    from bark_core.checkpoint import load

    return load(
        args.model,
        device=args.device,
        precision=args.precision,
        offload=_OFFLOAD[args.offload],
        cache_dir=args.cache_dir,
        progress=console.download,
        local_files_only=args.offline,
    )


def _add_place_and_offload(command: Any) -> None:
    add_place(command)
    command.add_argument(
        "--offload",
        choices=tuple(_OFFLOAD),
        default="auto",
        help="keep only one stage at a time on the device",
    )


def add_models(commands: Any) -> None:
    """Add `models` and what it can do to the parser's commands."""
    group = commands.add_parser("models", help="list, check, download, convert or remove models")
    models = group.add_subparsers(metavar="COMMAND", required=True)
    add_command(models, "list", _list, "list the models that there are")
    command = add_command(models, "preflight", _preflight, "say which model fits this computer")
    command.add_argument("name", metavar="MODEL", nargs="?", help="only this one")
    _add_place_and_offload(command)
    command = add_command(models, "download", _download, "download and convert a model")
    command.add_argument("name", metavar="MODEL", help="small, large or OWNER/NAME")
    command.add_argument("--update", action="store_true", help="to its newest version")
    add_place(command)
    command = add_command(models, "remove", _remove, "delete a model's downloaded files")
    command.add_argument("name", metavar="MODEL")
    command = add_command(models, "convert", _convert, "write a model as safetensors")
    command.add_argument("source", metavar="SOURCE", help="a model's name, repository or folder")
    command.add_argument("target", metavar="TARGET", help="a new folder")
    command.add_argument("--precision", choices=tuple(STORED), default="float16")

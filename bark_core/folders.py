"""A folder that holds a model, in any of three layouts: what is there, before weights are read.

own           config.json of CascadeConfig, STAGE.safetensors, tokenizer.json or vocab.txt
transformers  config.json of a "bark", model.safetensors or pytorch_model.bin (also in
              shards), generation_config.json, tokenizer.json or vocab.txt
suno          text.pt, coarse.pt, fine.pt (or text_2.pt, ...), encodec_24khz-d7cc33bc.th,
              tokenizer.json or vocab.txt
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from bark_core.config import CascadeConfig
from bark_core.configurations import STAGES, StageName, check_config, config_from_transformers
from bark_core.errors import BarkError, InvalidCheckpoint, MissingFiles
from bark_core.reading import read_json

LayoutName = Literal["own", "transformers", "suno"]
TOKENIZER_FILES = ("tokenizer.json", "vocab.txt")
TOKENIZER = " or ".join(TOKENIZER_FILES)
WEIGHT_FILES = ("model.safetensors", "pytorch_model.bin")
SUNO_FILES: dict[StageName, tuple[str, str]] = {  # large first: the better of the two
    "semantic": ("text_2.pt", "text.pt"),
    "coarse": ("coarse_2.pt", "coarse.pt"),
    "fine": ("fine_2.pt", "fine.pt"),
}
ENCODEC_FILES = (
    "encodec_24khz-d7cc33bc.th",
    "encodec_24khz.safetensors",
    "model.safetensors",  # as facebook/encodec_24khz on the hub calls it
)
INDEX = ".index.json"  # behind the name of weights that come in shards
ORIGIN_FILE = "origin.json"


@dataclass(frozen=True, slots=True)
class Origin:
    """Where weights come from; kept beside converted ones."""

    source: str  # hub repository, or a folder's name
    revision: str  # commit, or a hash of local files


def complete_layout(folder: Path) -> LayoutName:
    """Which layout a folder is of.

    Raises:
        MissingFiles: nothing that looks like a model, or only a part of it.
        InvalidCheckpoint: its config.json is damaged or of another kind of model.
    """
    layout = guess_layout(folder)
    missing = missing_files(folder, layout)
    if missing:
        raise MissingFiles(
            f"{folder} looks like a model, but these files are missing: {', '.join(missing)}; "
            "put them there"
        )
    return layout


def guess_layout(folder: Path) -> LayoutName:
    """What a folder is meant to be, complete or not.

    Raises:
        MissingFiles: it has nothing of a model.
        InvalidCheckpoint: its config.json is damaged or of another kind of model.
    """
    if (folder / "config.json").is_file():
        config = read_json(folder / "config.json")
        if "layout" in config:
            return "own"
        if config.get("model_type") == "bark":
            return "transformers"
    if any((folder / name).is_file() for names in SUNO_FILES.values() for name in names):
        return "suno"
    if (folder / "config.json").is_file():
        raise InvalidCheckpoint(
            f"{folder} holds a model of the type {config.get('model_type')!r}, not a Bark model"
        )
    raise MissingFiles(
        f"there is no model in {folder}: neither a config.json nor Suno's text.pt, coarse.pt and "
        "fine.pt; choose the folder that holds them"
    )


def missing_files(folder: Path, layout: LayoutName) -> list[str]:
    """What a folder of this layout lacks, in words."""
    there = {path.name for path in folder.iterdir() if path.is_file()}
    missing = []
    if layout == "own":
        missing = [name for name in map(stage_file, STAGES) if name not in there]
    elif layout == "transformers":
        if not any(f"{name}{index}" in there for name in WEIGHT_FILES for index in ("", INDEX)):
            missing.append(" or ".join(WEIGHT_FILES))
    else:
        missing = [
            f"{big} or {small}" for big, small in SUNO_FILES.values() if not {big, small} & there
        ]
        if not there.intersection(ENCODEC_FILES):
            missing.append(f"{ENCODEC_FILES[0]} (or facebook/encodec_24khz's model.safetensors)")
    if not there.intersection(TOKENIZER_FILES):
        missing.append(TOKENIZER)
    return missing


def is_complete(folder: Path) -> bool:
    """Whether a folder has all files of a model, of whatever layout."""
    if not folder.is_dir():
        return False
    try:
        return not missing_files(folder, guess_layout(folder))
    except BarkError:
        return False


def wanted_files(names: Collection[str]) -> list[str]:
    """Which of a repository's files make a model, in the layout that takes the least.

    Raises:
        MissingFiles: they don't.
    """
    tokenizer = [name for name in TOKENIZER_FILES if name in names][:1]
    own = [stage_file(stage) for stage in STAGES]
    if not tokenizer:
        raise MissingFiles(f"this isn't a Bark model: there is no {TOKENIZER}")
    if {"config.json", *own} <= set(names):
        return ["config.json", *own, *tokenizer]
    small = [name for name in ("config.json", "generation_config.json") if name in names]
    if "config.json" in names:
        for weights in WEIGHT_FILES:
            if weights in names:
                return [*small, weights, *tokenizer]
            if f"{weights}{INDEX}" in names:
                stem, suffix = weights.split(".")
                shards = [n for n in names if n.startswith(f"{stem}-") and n.endswith(suffix)]
                return [*small, f"{weights}{INDEX}", *sorted(shards), *tokenizer]
    suno = [next((name for name in pair if name in names), "") for pair in SUNO_FILES.values()]
    codec = [name for name in ENCODEC_FILES if name in names][:1]
    if all(suno) and codec:
        return [*suno, *codec, *tokenizer]
    raise MissingFiles(
        "this isn't a Bark model: there are neither a config.json with "
        f"{' or '.join(WEIGHT_FILES)} nor text.pt, coarse.pt, fine.pt and {ENCODEC_FILES[0]}"
    )


def stage_file(stage: StageName) -> str:
    """Name of a stage's file in our own layout."""
    return f"{stage}.safetensors"


def read_own_config(folder: Path) -> CascadeConfig:
    """The checked configuration of our own layout.

    Raises:
        MissingFiles, InvalidCheckpoint, StorageError
    """
    config = CascadeConfig.from_dict(read_json(folder / "config.json"))
    check_config(config)
    return config


def read_transformers_config(folder: Path, name: str) -> CascadeConfig:
    """The configuration of a folder of transformers' layout.

    Raises:
        MissingFiles, InvalidCheckpoint, StorageError
    """
    generation_file = folder / "generation_config.json"
    generation = read_json(generation_file) if generation_file.is_file() else {}
    return config_from_transformers(read_json(folder / "config.json"), generation, name)


def recorded_origin(folder: Path) -> Origin | None:
    """The origin that was written with a converted model, if its files are whole."""
    try:
        record = read_json(folder / ORIGIN_FILE)
        sizes = record["files"]
        if all((folder / name).stat().st_size == size for name, size in sizes.items()):
            return Origin(str(record["source"]), str(record["revision"]))
    except (BarkError, OSError, KeyError, AttributeError, TypeError):
        pass
    return None


def fingerprint(folder: Path) -> str:
    """A hash of a model's files in a folder: names, sizes, and both ends of each, 40 hex digits."""
    digest = hashlib.sha256()
    endings = (".safetensors", ".bin", ".pt", ".th", ".json", ".txt")
    for path in sorted(folder.iterdir()):
        if not path.is_file() or not path.name.endswith(endings):
            continue
        with contextlib.suppress(OSError), path.open("rb") as file:
            size = path.stat().st_size
            digest.update(f"{path.name} {size}\n".encode())
            digest.update(file.read(2**16))
            file.seek(max(0, size - 2**16))
            digest.update(file.read())
    return digest.hexdigest()[:40]


def first_of(folder: Path, names: Collection[str]) -> Path:
    """The first of some files that is there.

    Raises:
        MissingFiles: none is.
    """
    for name in names:
        if (folder / name).is_file():
            return folder / name
    raise MissingFiles(f"there is no {' or '.join(names)} in {folder}; put it there")

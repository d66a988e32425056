"""Which models there are, and what of them is on the disk.

A model is a name, a hub repository "owner/name" or a folder. What was downloaded lies where `hub`
says; what was converted from it (see `checkpoint`) beside it:

    cache/models/OWNER--NAME-COMMIT-PRECISION/   of a hub repository
    cache/models/local-NAME-HASH-PRECISION/      of a folder
"""

from __future__ import annotations

import contextlib
import difflib
import os
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import platformdirs

from bark_core.config import LARGE, SMALL, CascadeConfig
from bark_core.errors import DownloadError, InvalidSetting, MissingFiles, UnknownModel
from bark_core.files import storage_error
from bark_core.folders import (
    LayoutName,
    complete_layout,
    is_complete,
    read_own_config,
    read_transformers_config,
    recorded_origin,
    wanted_files,
)
from bark_core.hub import Hub, Pin, ProgressCallback, RemoteFile, slug
from bark_core.placement import PRECISIONS
from bark_core.sizes import memory_needed

VOICES_REPOSITORY = "suno/bark-small"
VOICES_FOLDER = "speaker_embeddings"  # in that repository


PUP_FOLDER = Path(__file__).resolve().parent.parent / "models" / "pup"


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """What a page says of a model before it is loaded."""

    name: str  # for load()
    title: str
    source: str  # hub repository, or "bundled"
    layout: LayoutName
    download_bytes: int  # 0: nothing to download
    description: str
    demonstration: bool
    config: CascadeConfig

    def memory_bytes(self, precision: str, *, offload: bool = False, batch: int = 1) -> int:
        """Device memory that it takes, see `sizes.memory_needed`."""
        return memory_needed(self.config, PRECISIONS[precision], offload, batch=batch)


PUBLISHED = (
    ModelInfo(
        name="small",
        title="Bark small",
        source="suno/bark-small",
        layout="transformers",
        download_bytes=1_680_000_000,
        description="Suno's smaller Bark: 13 languages, laughter, music; runs on most machines.",
        demonstration=False,
        config=SMALL,
    ),
    ModelInfo(
        name="large",
        title="Bark large",
        source="suno/bark",
        layout="transformers",
        download_bytes=4_490_000_000,
        description="Suno's full Bark: the best sound, and slow without a GPU.",
        demonstration=False,
        config=LARGE,
    ),
)


PUBLISHED_SOURCES = tuple(info.source for info in PUBLISHED)


@dataclass(frozen=True, slots=True)
class Stored:
    """What of a model is on the disk."""

    installed: bool  # `load` needs no network
    total_bytes: int  # of the download; 0 where there is nothing to download, or nobody knows
    done_bytes: int  # of it that are here
    disk_bytes: int  # that `remove` would free


def known_models() -> tuple[ModelInfo, ...]:
    """The models that have a name: pup (where it is bundled), small and large.

    Raises:
        InvalidCheckpoint: the bundled model's configuration is damaged.
    """
    if not (PUP_FOLDER / "config.json").is_file():
        return PUBLISHED
    pup = ModelInfo(
        name="pup",
        title="pup",
        source="bundled",
        layout="own",
        download_bytes=0,
        description="A miniature to try everything with, made for this studio.",
        demonstration=True,
        config=read_own_config(PUP_FOLDER),
    )
    return (pup, *PUBLISHED)


def default_cache() -> Path:
    """Where downloads and converted models are kept if nobody says otherwise."""
    return Path(platformdirs.user_cache_dir("bark-studio", appauthor=False))


def installed(name: str | Path, cache_dir: str | Path | None = None) -> bool:
    """Whether `load(name)` needs no network.

    Raises:
        UnknownModel, MissingFiles: no model or folder of that name.
    """
    source = resolve(name)
    if isinstance(source, Path):
        return is_complete(source)
    hub = Hub(cache_folder(cache_dir), offline=True)
    pin = hub.pinned(source)
    if pin and any(recorded_origin(folder) for folder in conversions(hub, source, pin.commit)):
        return True
    return downloaded(hub, pin) or is_complete(hub.manual_folder(source))


def stored(name: str | Path, cache_dir: str | Path | None = None) -> Stored:
    """What of a model is on the disk, and how much of its download.

    Raises:
        UnknownModel, MissingFiles: no model or folder of that name.
    """
    source = resolve(name)
    if isinstance(source, Path):
        return Stored(is_complete(source), 0, 0, 0)
    hub = Hub(cache_folder(cache_dir), offline=True)
    pin = hub.pinned(source)
    files: list[RemoteFile] = []
    with contextlib.suppress(MissingFiles):
        files = files_of_model(pin) if pin else []
    known = next((info.download_bytes for info in PUBLISHED if info.source == source), 0)
    return Stored(
        installed=installed(name, cache_dir),
        total_bytes=sum(file.size for file in files) or known,
        done_bytes=sum(hub.bytes_here(pin, file) for file in files) if pin else 0,
        disk_bytes=sum(file.stat().st_size for file in _files_to_remove(hub, source)),
    )


def model_config(name: str | Path, cache_dir: str | Path | None = None) -> CascadeConfig | None:
    """The configuration of a model without loading it; None if it isn't known before.

    Raises:
        UnknownModel, MissingFiles, InvalidCheckpoint: no usable model.
    """
    source = resolve(name)
    if isinstance(source, Path):
        return config_in(source)
    hub = Hub(cache_folder(cache_dir), offline=True)
    pin = hub.pinned(source)
    whole = (f for f in conversions(hub, source, pin.commit if pin else "") if recorded_origin(f))
    folders = [
        *whole,
        *([hub.folder(source) / pin.commit] if downloaded(hub, pin) and pin else []),
    ]
    if folders:
        return config_in(folders[0])
    return next((info.config for info in PUBLISHED if info.source == source), None)


def config_in(folder: Path) -> CascadeConfig:
    """The configuration of the model in a folder.

    Raises:
        MissingFiles, InvalidCheckpoint, StorageError
    """
    match complete_layout(folder):
        case "own":
            return read_own_config(folder)
        case "transformers":
            return read_transformers_config(folder, folder.name)
        case "suno":  # only beside its weights: without torch there is no asking
            from bark_core.formats import open_checkpoint

            return open_checkpoint(folder).config


def models_in_cache(cache_dir: str | Path | None = None) -> dict[str, str]:
    """Models that were downloaded or converted before and aren't among `known_models`.

    Returns:
        what to call it -> what to give to `load`.
    """
    hub = Hub(cache_folder(cache_dir), offline=True)
    found = {name: name for name in hub.repositories() if name not in PUBLISHED_SOURCES}
    with contextlib.suppress(OSError):
        for folder in sorted((hub.cache / "models").iterdir()):
            local = re.fullmatch(r"local-(.+)-[0-9a-f]{1,12}-[a-z]+[0-9]+", folder.name)
            if local and recorded_origin(folder):
                found[local[1]] = str(folder)
    return found


def remove(name: str | Path, cache_dir: str | Path | None = None) -> int:
    """Delete what was downloaded and converted of a model; returns the bytes that it took.

    Published voices that were fetched stay.

    Raises:
        InvalidSetting: the model is bundled, or a folder of the user's own.
        StorageError: files can't be deleted.
    """
    source = resolve(name)
    if isinstance(source, Path):
        raise InvalidSetting(f"{name!s} wasn't downloaded; delete the folder {source} yourself")
    hub = Hub(cache_folder(cache_dir), offline=True)
    freed = 0
    for file in _files_to_remove(hub, source):
        try:
            freed += file.stat().st_size
            file.unlink()
        except OSError as error:
            raise storage_error("delete", file, error) from error
    for folder in (*conversions(hub, source), hub.folder(source)):
        _delete_empty_folders(folder)
    if not hub.folder(source).exists():
        hub.forget(source)
    return freed


def voice_fetcher(
    cache_dir: str | Path | None = None,
    *,
    progress: ProgressCallback | None = None,
    local_files_only: bool = False,
    endpoint: str | None = None,
) -> Callable[[str], Path]:
    """What a VoiceLibrary needs to get published voices from the hub.

    Returns:
        A function from a path in the repository of published voices, such as
        "speaker_embeddings/v2/en_speaker_6_fine_prompt.npy", to a local file: downloaded once,
        at the recorded commit, checked and kept. It raises MissingFiles where the repository
        has no such file, and DownloadError where the network is needed but not there.
    """
    hub = Hub(cache_folder(cache_dir), endpoint=endpoint, offline=local_files_only)

    def fetch(path: str) -> Path:
        manual = hub.manual_folder(VOICES_REPOSITORY) / path
        if manual.is_file():
            return manual
        try:
            pin = hub.pin(VOICES_REPOSITORY)
            file = pin.file(path)
            if file is None:
                raise MissingFiles(f"the hub's {VOICES_REPOSITORY} has no file {path!r}")
            return hub.fetch(pin, [file], progress)[0]
        except DownloadError as error:
            raise DownloadError(
                f"{error}. Without a network, put {path} of "
                f"https://huggingface.co/{VOICES_REPOSITORY} at {manual}"
            ) from error

    return fetch


def cache_folder(cache_dir: str | Path | None) -> Path:
    """The cache that was asked for, or the default one."""
    return Path(cache_dir).expanduser() if cache_dir is not None else default_cache()


def resolve(model: str | Path) -> Path | str:
    """A folder, or a repository on the hub."""
    if isinstance(model, Path):
        return _existing(model)
    if model == "pup":
        if not PUP_FOLDER.is_dir():
            raise MissingFiles(f"the bundled model isn't at {PUP_FOLDER}; install the studio again")
        return PUP_FOLDER
    for info in PUBLISHED:
        if model in (info.name, info.source):
            return info.source
    if model and Path(model).expanduser().is_dir():
        return _existing(Path(model))
    if re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", model):
        return model
    if "/" in model or os.sep in model or model.startswith(("~", ".")):
        return _existing(Path(model))
    names = ["pup", *(info.name for info in PUBLISHED)]
    raise UnknownModel(
        f"no model {model!r}; {closest(model, names)}there is {', '.join(map(repr, names))}, any "
        "hub repository 'owner/name' of a Bark model, or a folder"
    )


def _existing(folder: Path) -> Path:
    folder = folder.expanduser()
    if not folder.is_dir():
        raise MissingFiles(f"there is no folder {folder}; give the folder that holds the model")
    return folder.resolve()


def closest(name: str, names: list[str]) -> str:
    """For a message: the name that was perhaps meant; "" if none is like it."""
    found = difflib.get_close_matches(name, names, n=1, cutoff=0.4)
    return f"closest: {found[0]!r}; " if found else ""


def files_of_model(pin: Pin) -> list[RemoteFile]:
    """The files of a repository that make a model.

    Raises:
        MissingFiles: it isn't a Bark model.
    """
    files = {file.path: file for file in pin.files}
    try:
        return [files[name] for name in wanted_files(files.keys())]
    except MissingFiles as error:
        raise MissingFiles(f"{pin.repository} on the hub: {error}") from error


def downloaded(hub: Hub, pin: Pin | None) -> bool:
    """Whether all files of the model are here."""
    try:
        return pin is not None and all(hub.has(pin, file) for file in files_of_model(pin))
    except MissingFiles:
        return False


def by_hand(repository: str, hub: Hub) -> str:
    """What to put where if there is no network."""
    pin = hub.pinned(repository)
    names = [
        "config.json",
        "generation_config.json",
        "pytorch_model.bin (or model.safetensors)",
        "tokenizer.json (or vocab.txt)",
    ]
    if pin:
        with contextlib.suppress(MissingFiles):
            names = [file.path for file in files_of_model(pin)]
    return (
        f"Without a network, put these files of https://huggingface.co/{repository} into "
        f"{hub.manual_folder(repository)}: {', '.join(names)}"
    )


def conversions(hub: Hub, repository: str, commit: str = "") -> list[Path]:
    """Folders of converted models of a repository, whole or not."""
    pattern = re.compile(re.escape(slug(repository)) + r"-([0-9a-f]{1,12})-[a-z]+[0-9]+")
    try:
        folders = [path for path in (hub.cache / "models").iterdir() if path.is_dir()]
    except OSError:
        return []
    found = ((folder, pattern.fullmatch(folder.name)) for folder in folders)
    return [
        folder for folder, match in found if match and commit.startswith(match[1] if commit else "")
    ]


def is_bundled(folder: Path) -> bool:
    """Whether a folder is that of the model that comes with the studio."""
    return folder == PUP_FOLDER


def delete(folder: Path) -> None:
    """Delete a folder, if it is there.

    Raises:
        StorageError: it can't be deleted.
    """
    try:
        shutil.rmtree(folder)
    except FileNotFoundError:
        pass
    except OSError as error:
        raise storage_error("delete", folder, error) from error


def _files_to_remove(hub: Hub, repository: str) -> list[Path]:
    """What `remove` deletes: everything but the published voices, which other models use."""
    folders = [*conversions(hub, repository), hub.folder(repository)]
    return [
        path
        for folder in folders
        for path in folder.rglob("*")
        if path.is_file() and VOICES_FOLDER not in path.parts
    ]


def _delete_empty_folders(folder: Path) -> None:
    folders = sorted((path for path in folder.rglob("*") if path.is_dir()), reverse=True)
    for empty in [*folders, folder]:
        with contextlib.suppress(OSError):  # it isn't empty
            empty.rmdir()

"""`load()`: a name, a hub repository or a folder becomes a Cascade that can speak.

What isn't in our own layout (see `formats`) is converted into it once, in the cache folder, and
later starts map those files from the disk:

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
import torch

from bark_core.cascade import Cascade
from bark_core.codec import Codec
from bark_core.config import LARGE, SMALL, CascadeConfig
from bark_core.device import (
    PRECISIONS,
    Placement,
    choose_placement,
    memory_needed,
    out_of_memory_as_error,
)
from bark_core.errors import (
    DownloadError,
    InvalidSetting,
    MissingFiles,
    StorageError,
    UnknownModel,
)
from bark_core.files import storage_error
from bark_core.formats import (
    TOKENIZER_FILES,
    LayoutName,
    Origin,
    complete_layout,
    fingerprint,
    is_complete,
    open_checkpoint,
    read_own_config,
    read_own_stage,
    recorded_origin,
    wanted_files,
    warn_of_changed_files,
    write_model,
)
from bark_core.generation import ModelIdentity
from bark_core.hub import Hub, Pin, ProgressCallback, RemoteFile, slug
from bark_core.layouts import StageName, fill_module, new_module
from bark_core.tokenizer import Tokenizer
from bark_core.transformer import CausalGPT, FineGPT

VOICES_REPOSITORY = "suno/bark-small"
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
        """Device memory that it takes, see `device.memory_needed`."""
        return memory_needed(self.config, PRECISIONS[precision], offload, batch=batch)


_PUBLISHED = (
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


@dataclass(frozen=True, slots=True)
class _Ready:
    """A folder in our own layout, ready to be mapped."""

    folder: Path
    origin: Origin


def known_models() -> tuple[ModelInfo, ...]:
    """The models that have a name: pup (where it is bundled), small and large.

    Raises:
        InvalidCheckpoint: the bundled model's configuration is damaged.
    """
    if not (PUP_FOLDER / "config.json").is_file():
        return _PUBLISHED
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
    return (pup, *_PUBLISHED)


def default_cache() -> Path:
    """Where downloads and converted models are kept if nobody says otherwise."""
    return Path(platformdirs.user_cache_dir("bark-studio", appauthor=False))


def load(
    model: str | Path = "pup",
    *,
    device: str = "auto",
    precision: str = "auto",
    offload: bool | str = "auto",
    cache_dir: str | Path | None = None,
    progress: ProgressCallback | None = None,
    local_files_only: bool = False,
    update: bool = False,
    endpoint: str | None = None,
) -> Cascade:
    """Load a model, downloading and converting it if this is the first time.

    Args:
        model: "pup", "small", "large", a hub repository "owner/name", or a folder.
        device, precision, offload: see `device.choose_placement`.
        cache_dir: for downloads and converted models; the user's cache folder by default.
        progress: called during the download and the conversion; raising Cancelled stops them.
        local_files_only: never use the network.
        update: look for a newer commit of the repository than the recorded one.
        endpoint: another hub server.
    Raises:
        UnknownModel, MissingFiles, DownloadError, InvalidCheckpoint: no usable model.
        InvalidSetting: no such device or precision.
        StorageError: the disk is full or can't be written.
        OutOfMemory: it doesn't fit.
        Cancelled: `progress` raised it.
    """
    # a wrong setting shows before anything is downloaded
    wanted = choose_placement(device, precision, offload)
    hub = Hub(_cache(cache_dir), endpoint=endpoint, offline=local_files_only)
    ready = _prepare(_resolve(model), hub, wanted.precision, progress, update=update)
    config = read_own_config(ready.folder)
    needed = memory_needed(config, wanted.dtype, offload=False)
    placement = choose_placement(device, precision, offload, needed_bytes=needed)
    return _assemble(ready, config, placement)


def convert(
    source: str | Path,
    target_dir: str | Path,
    precision: str = "float16",
    *,
    cache_dir: str | Path | None = None,
    progress: ProgressCallback | None = None,
    local_files_only: bool = False,
    endpoint: str | None = None,
) -> Path:
    """Write a model in our own layout into a new folder, whole or not at all.

    Args:
        source: as for `load`.
        target_dir: must not exist yet, or be empty.
        precision: of the transformers; the codec's weights stay as they are.
    Returns:
        target_dir.
    Raises:
        InvalidSetting: no such precision.
        StorageError: the folder is in use, the disk is full or can't be written.
        UnknownModel, MissingFiles, DownloadError, InvalidCheckpoint, Cancelled: as `load`.
    """
    target = Path(target_dir).expanduser()
    if target.exists() and not (target.is_dir() and not any(target.iterdir())):
        raise StorageError(f"{target} is there already; choose a new folder")
    if precision not in PRECISIONS:
        raise InvalidSetting(f"precision must be one of {', '.join(PRECISIONS)}, got {precision!r}")
    hub = Hub(_cache(cache_dir), endpoint=endpoint, offline=local_files_only)
    name, folder, origin = _original(_resolve(source), hub, progress, update=False)
    _convert(folder, name, target, precision, recorded_origin(folder) or origin, progress)
    return target


def installed(name: str | Path, cache_dir: str | Path | None = None) -> bool:
    """Whether `load(name)` needs no network.

    Raises:
        UnknownModel, MissingFiles: no model or folder of that name.
    """
    source = _resolve(name)
    if isinstance(source, Path):
        return is_complete(source)
    hub = Hub(_cache(cache_dir), offline=True)
    pin = hub.pinned(source)
    if pin and any(recorded_origin(folder) for folder in _conversions(hub, source, pin.commit)):
        return True
    return _downloaded(hub, pin) or is_complete(hub.manual_folder(source))


def remove(name: str | Path, cache_dir: str | Path | None = None) -> int:
    """Delete what was downloaded and converted of a model; returns the bytes that it took.

    Raises:
        InvalidSetting: the model is bundled, or a folder of the user's own.
        StorageError: files can't be deleted.
    """
    source = _resolve(name)
    if isinstance(source, Path):
        raise InvalidSetting(f"{name!s} wasn't downloaded; delete the folder {source} yourself")
    hub = Hub(_cache(cache_dir), offline=True)
    folders = [*_conversions(hub, source), hub.folder(source)]
    freed = sum(_bytes_in(folder) for folder in folders)
    hub.forget(source)
    for folder in folders:
        _delete(folder)
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
    hub = Hub(_cache(cache_dir), endpoint=endpoint, offline=local_files_only)

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


def _cache(cache_dir: str | Path | None) -> Path:
    return Path(cache_dir).expanduser() if cache_dir is not None else default_cache()


def _resolve(model: str | Path) -> Path | str:
    """A folder, or a repository on the hub."""
    if isinstance(model, Path):
        return _existing(model)
    if model == "pup":
        if not PUP_FOLDER.is_dir():
            raise MissingFiles(f"the bundled model isn't at {PUP_FOLDER}; install the studio again")
        return PUP_FOLDER
    for info in _PUBLISHED:
        if model in (info.name, info.source):
            return info.source
    if model and Path(model).expanduser().is_dir():
        return _existing(Path(model))
    if re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", model):
        return model
    if "/" in model or os.sep in model or model.startswith(("~", ".")):
        return _existing(Path(model))
    names = ["pup", *(info.name for info in _PUBLISHED)]
    raise UnknownModel(
        f"no model {model!r}; {_closest(model, names)}there is {', '.join(map(repr, names))}, any "
        "hub repository 'owner/name' of a Bark model, or a folder"
    )


def _existing(folder: Path) -> Path:
    folder = folder.expanduser()
    if not folder.is_dir():
        raise MissingFiles(f"there is no folder {folder}; give the folder that holds the model")
    return folder.resolve()


def _closest(name: str, names: list[str]) -> str:
    found = difflib.get_close_matches(name, names, n=1, cutoff=0.4)
    return f"closest: {found[0]!r}; " if found else ""


def _prepare(
    source: Path | str,
    hub: Hub,
    precision: str,
    progress: ProgressCallback | None,
    *,
    update: bool,
) -> _Ready:
    """Have the model in our own layout: bundled, converted before, or converted now."""
    if isinstance(source, str) and not update:
        ready = _converted_before(source, hub, precision)
        if ready:
            return ready
    name, folder, origin = _original(source, hub, progress, update=update)
    if complete_layout(folder) == "own":
        return _Ready(folder, recorded_origin(folder) or origin)
    key = slug(source) if isinstance(source, str) else f"local-{_safe(folder.name)}"
    target = hub.cache / "models" / f"{key}-{origin.revision[:12]}-{precision}"
    with hub.lock(f"convert-{target.name}", progress):
        if recorded_origin(target) is None:
            _delete(target)
            for leftover in target.parent.glob(f".{target.name}.*.partial"):
                _delete(leftover)
            _convert(folder, name, target, precision, origin, progress)
    if update and isinstance(source, str):
        _delete_older(hub, source, origin.revision)
    return _Ready(target, origin)


def _converted_before(repository: str, hub: Hub, precision: str) -> _Ready | None:
    pin = hub.pinned(repository)
    if pin is None:
        return None
    there = {
        folder.name.rsplit("-", 1)[1]: folder
        for folder in _conversions(hub, repository, pin.commit)
        if recorded_origin(folder)
    }
    # from float32 files any precision comes out the same as from the original
    folder = there.get(precision) or there.get("float32")
    return _Ready(folder, Origin(repository, pin.commit)) if folder else None


def _original(
    source: Path | str, hub: Hub, progress: ProgressCallback | None, *, update: bool
) -> tuple[str, Path, Origin]:
    """Name, folder and origin of a model as it was published, downloaded if need be."""
    if isinstance(source, Path):
        # the folder's name only: origins go into files that people pass on
        shown = "bundled" if source == PUP_FOLDER else source.name
        return source.name, source, Origin(shown, fingerprint(source))
    name = next((info.name for info in _PUBLISHED if info.source == source), source)
    manual = hub.manual_folder(source)
    if not update and not _downloaded(hub, hub.pinned(source)) and is_complete(manual):
        return name, manual, Origin(source, fingerprint(manual))
    try:
        pin = hub.pin(source, update=update)
        files = _wanted(pin)
        # the conversion takes as much again
        hub.fetch(pin, files, progress, reserve_bytes=sum(file.size for file in files))
    except UnknownModel as error:
        hint = _closest(source, [info.source for info in _PUBLISHED])
        raise UnknownModel(f"{error}; {hint}there is no folder of that name either") from error
    except DownloadError as error:
        kind = MissingFiles if hub.offline else DownloadError
        raise kind(f"{error}. {_by_hand(source, hub)}") from error
    return name, hub.folder(source) / pin.commit, Origin(source, pin.commit)


def _wanted(pin: Pin) -> list[RemoteFile]:
    """The files of a repository that make a model.

    Raises:
        MissingFiles: it isn't a Bark model.
    """
    files = {file.path: file for file in pin.files}
    try:
        return [files[name] for name in wanted_files(files.keys())]
    except MissingFiles as error:
        raise MissingFiles(f"{pin.repository} on the hub: {error}") from error


def _downloaded(hub: Hub, pin: Pin | None) -> bool:
    try:
        return pin is not None and all(hub.has(pin, file) for file in _wanted(pin))
    except MissingFiles:
        return False


def _by_hand(repository: str, hub: Hub) -> str:
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
            names = [file.path for file in _wanted(pin)]
    return (
        f"Without a network, put these files of https://huggingface.co/{repository} into "
        f"{hub.manual_folder(repository)}: {', '.join(names)}"
    )


def _convert(
    folder: Path,
    name: str,
    target: Path,
    precision: str,
    origin: Origin,
    progress: ProgressCallback | None,
) -> None:
    checkpoint = open_checkpoint(folder, name)
    warn_of_changed_files(checkpoint, progress)
    with out_of_memory_as_error("converting the model"):
        write_model(
            target,
            config=checkpoint.config,
            tokenizer=checkpoint.tokenizer,
            read_stage=checkpoint.read_stage,
            precision=precision,
            origin=origin,
            progress=progress,
        )


def _assemble(ready: _Ready, config: CascadeConfig, placement: Placement) -> Cascade:
    """Map the weights and put them where they are to run."""
    text, coarse, fine = (
        _module(ready.folder, stage, config, placement) for stage in ("semantic", "coarse", "fine")
    )
    codec = _module(ready.folder, "codec", config, placement)
    assert isinstance(text, CausalGPT)
    assert isinstance(coarse, CausalGPT)
    assert isinstance(fine, FineGPT)
    assert isinstance(codec, Codec)
    return Cascade(
        config,
        text=text,
        coarse=coarse,
        fine=fine,
        codec=codec,
        tokenizer=_tokenizer(ready.folder),
        placement=placement,
        identity=ModelIdentity(
            name=config.name,
            source=ready.origin.source,
            revision=ready.origin.revision,
            precision=placement.precision,
            layout_name=config.layout.name,
        ),
    )


def _module(
    folder: Path, stage: StageName, config: CascadeConfig, placement: Placement
) -> CausalGPT | FineGPT | Codec:
    dtype = torch.float32 if stage == "codec" else placement.dtype
    device = placement.codec_device if stage == "codec" else placement.device
    with out_of_memory_as_error("loading the model"):
        state = read_own_stage(folder, stage, config)
        module = new_module(stage, config)
        fill_module(module, {name: tensor.to(dtype) for name, tensor in state.items()})
        if not placement.offload:
            module.to(device)
        if isinstance(module, FineGPT):
            module.tie_weights()  # some devices' tensors are replaced one by one
    return module.eval().requires_grad_(False)


def _tokenizer(folder: Path) -> Tokenizer:
    for name in TOKENIZER_FILES:
        if (folder / name).is_file():
            return Tokenizer.from_file(folder / name)
    raise MissingFiles(f"there is no {' or '.join(TOKENIZER_FILES)} in {folder}; put it there")


def _conversions(hub: Hub, repository: str, commit: str = "") -> list[Path]:
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


def _delete_older(hub: Hub, repository: str, commit: str) -> None:
    """After an update: what other commits left. What is in use elsewhere stays."""
    kept = {folder.name for folder in _conversions(hub, repository, commit)}
    for folder in _conversions(hub, repository):
        if folder.name not in kept:
            shutil.rmtree(folder, ignore_errors=True)
    with contextlib.suppress(OSError):
        for folder in hub.folder(repository).iterdir():
            if folder.name not in (commit, "manual"):
                shutil.rmtree(folder, ignore_errors=True)


def _delete(folder: Path) -> None:
    try:
        shutil.rmtree(folder)
    except FileNotFoundError:
        pass
    except OSError as error:
        raise storage_error("delete", folder, error) from error


def _bytes_in(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _safe(name: str) -> str:
    return re.sub(r"[^\w.-]+", "_", name)[:60] or "model"

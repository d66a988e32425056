"""`load()`: a name, a hub repository or a folder becomes a Cascade that can speak.

What isn't in our own layout (see `formats`) is converted into it once, in the cache folder (see
`models`), and later starts map those files from the disk.
"""

from __future__ import annotations

import contextlib
import re
import shutil
from dataclasses import dataclass
from pathlib import Path

from bark_core.cascade import Cascade
from bark_core.codec import Codec
from bark_core.config import CascadeConfig
from bark_core.configurations import StageName
from bark_core.device import describe_devices, dtype_of, out_of_memory_as_error
from bark_core.errors import (
    DownloadError,
    InvalidSetting,
    MissingFiles,
    StorageError,
    UnknownModel,
)
from bark_core.folders import (
    TOKENIZER_FILES,
    Origin,
    complete_layout,
    fingerprint,
    is_complete,
    read_own_config,
    recorded_origin,
)
from bark_core.formats import open_checkpoint, read_own_stage, warn_of_changed_files, write_model
from bark_core.generation import ModelIdentity
from bark_core.hub import Hub, ProgressCallback, slug
from bark_core.int8_linear import make_int8
from bark_core.large_pages import settle
from bark_core.layouts import fill_module, new_module, refill_parameters
from bark_core.models import (
    PUBLISHED,
    by_hand,
    cache_folder,
    closest,
    conversions,
    delete,
    downloaded,
    files_of_model,
    is_bundled,
    resolve,
)
from bark_core.placement import STORED, Placement, choose_placement
from bark_core.sizes import memory_needed
from bark_core.tokenizer import Tokenizer
from bark_core.transformer import CausalGPT, FineGPT


@dataclass(frozen=True, slots=True)
class _Ready:
    """A folder in our own layout, ready to be mapped."""

    folder: Path
    origin: Origin


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
        device, precision, offload: see `placement.choose_placement`.
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
    wanted = choose_placement(device, precision, offload, devices=describe_devices())
    hub = Hub(cache_folder(cache_dir), endpoint=endpoint, offline=local_files_only)
    ready = _prepare(resolve(model), hub, wanted.dtype, progress, update=update)
    config = read_own_config(ready.folder)
    needed = memory_needed(config, wanted.numbers, offload=False)
    # a download may have taken an hour: what is free is asked again
    placement = choose_placement(device, precision, offload, needed, devices=describe_devices())
    return _assemble(ready, config, placement)


def download(
    model: str,
    *,
    device: str = "auto",
    precision: str = "auto",
    cache_dir: str | Path | None = None,
    progress: ProgressCallback | None = None,
    local_files_only: bool = False,
    update: bool = False,
    endpoint: str | None = None,
) -> ModelIdentity:
    """Have a model here, ready for `load`, without loading it: downloaded and converted.

    Args:
        device, precision: what it is converted for, see `placement.choose_placement`.
        cache_dir, progress, local_files_only, update, endpoint: as for `load`.
    Returns:
        what a load will be of.
    Raises:
        UnknownModel, MissingFiles, DownloadError, InvalidCheckpoint: no usable model.
        InvalidSetting: no such device or precision.
        StorageError: the disk is full or can't be written.
        Cancelled: `progress` raised it; what came is kept for the next time.
    """
    wanted = choose_placement(device, precision, devices=describe_devices())
    hub = Hub(cache_folder(cache_dir), endpoint=endpoint, offline=local_files_only)
    ready = _prepare(resolve(model), hub, wanted.dtype, progress, update=update)
    return _identity(ready, read_own_config(ready.folder), wanted)


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
    if precision not in STORED:
        raise InvalidSetting(f"precision must be one of {', '.join(STORED)}, got {precision!r}")
    hub = Hub(cache_folder(cache_dir), endpoint=endpoint, offline=local_files_only)
    name, folder, origin = _original(resolve(source), hub, progress, update=False)
    _convert(folder, name, target, precision, recorded_origin(folder) or origin, progress)
    return target


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
            delete(target)
            for leftover in target.parent.glob(f".{target.name}.*.partial"):
                delete(leftover)
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
        for folder in conversions(hub, repository, pin.commit)
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
        shown = "bundled" if is_bundled(source) else source.name
        return source.name, source, Origin(shown, fingerprint(source))
    name = next((info.name for info in PUBLISHED if info.source == source), source)
    manual = hub.manual_folder(source)
    if not update and not downloaded(hub, hub.pinned(source)) and is_complete(manual):
        return name, manual, Origin(source, fingerprint(manual))
    try:
        pin = hub.pin(source, update=update)
        files = files_of_model(pin)
        # the conversion takes as much again
        hub.fetch(pin, files, progress, reserve_bytes=sum(file.size for file in files))
    except UnknownModel as error:
        hint = closest(source, [info.source for info in PUBLISHED])
        raise UnknownModel(f"{error}; {hint}there is no folder of that name either") from error
    except DownloadError as error:
        kind = MissingFiles if hub.offline else DownloadError
        raise kind(f"{error}. {by_hand(source, hub)}") from error
    return name, hub.folder(source) / pin.commit, Origin(source, pin.commit)


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
        identity=_identity(ready, config, placement),
    )


def _identity(ready: _Ready, config: CascadeConfig, placement: Placement) -> ModelIdentity:
    return ModelIdentity(
        name=config.name,
        source=ready.origin.source,
        revision=ready.origin.revision,
        precision=placement.precision,
        layout_name=config.layout.name,
    )


def _module(
    folder: Path, stage: StageName, config: CascadeConfig, placement: Placement
) -> CausalGPT | FineGPT | Codec:
    dtype = dtype_of("float32" if stage == "codec" else placement.dtype)
    device = placement.codec_device if stage == "codec" else placement.device
    with out_of_memory_as_error("loading the model"):
        state = read_own_stage(folder, stage, config)
        module = new_module(stage, config)
        fill_module(module, {name: tensor.to(dtype) for name, tensor in state.items()})
        if not placement.offload:
            module.to(device)
        if isinstance(module, FineGPT):
            module.tie_weights()  # some devices' tensors are replaced one by one
        if stage != "codec" and placement.kind == "cpu":
            if placement.weights == "int8":
                make_int8(module)
            # the fine stage reads its weights once for a thousand frames
            moved = settle(module) if isinstance(module, CausalGPT) else frozenset()
            if moved or placement.weights == "int8":
                refill_parameters(module, read_own_stage(folder, stage, config), but=moved)
    return module.eval().requires_grad_(False)


def _tokenizer(folder: Path) -> Tokenizer:
    for name in TOKENIZER_FILES:
        if (folder / name).is_file():
            return Tokenizer.from_file(folder / name)
    raise MissingFiles(f"there is no {' or '.join(TOKENIZER_FILES)} in {folder}; put it there")


def _delete_older(hub: Hub, repository: str, commit: str) -> None:
    """After an update: what other commits left. What is in use elsewhere stays."""
    kept = {folder.name for folder in conversions(hub, repository, commit)}
    for folder in conversions(hub, repository):
        if folder.name not in kept:
            shutil.rmtree(folder, ignore_errors=True)
    with contextlib.suppress(OSError):
        for folder in hub.folder(repository).iterdir():
            if folder.name not in (commit, "manual"):
                shutil.rmtree(folder, ignore_errors=True)


def _safe(name: str) -> str:
    return re.sub(r"[^\w.-]+", "_", name)[:60] or "model"

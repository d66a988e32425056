"""What a voice sounds like: its own fine codes through the codec alone.

    DATA/previews/HASH.flac     made when a voice is first listened to

The hash is that of the voice and of the model that the codec is of, so a voice that changes is
heard anew. Nothing here is precious: the folder may be emptied at any time.
"""

from __future__ import annotations

import contextlib
import hashlib
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote as quoted

from bark_core import (
    BarkError,
    LayoutMismatch,
    LoadedModel,
    StorageError,
    Voice,
    read_audio,
    read_tags,
    write_audio,
)
from webui.history import peaks_of
from webui.studio import Studio

MAX_KEPT = 400  # there are 261 published voices; one has some 200 KB


@dataclass(frozen=True, slots=True)
class Preview:
    """A voice as a sound file."""

    path: Path
    duration_s: float
    peaks: tuple[int, ...]


def preview_url(name: str, model: str = "") -> str:
    """Where a page hears a voice with the codec of a model; "" is the default one."""
    return f"studio/voice/{quoted(name)}.flac?model={quoted(model, safe='')}"


def preview_path(studio: Studio, name: str, model: str, owner: str) -> Path:
    """The sound file of a voice, made where it isn't there yet.

    Args:
        model: the model whose codec decodes it; "" is the default one. Where the voice is of
            another layout, any loaded model of that layout does.
        owner: whose voice it is, where it didn't come with a model.

    Raises:
        VoiceError, DownloadError, MissingFiles: there is no such voice, or it can't be had.
        LayoutMismatch: no model that could decode it is loaded.
        StorageError: the file can't be written.
    """
    return preview(studio, studio.voices_of(owner)[name], model).path


def preview(studio: Studio, voice: Voice, model: str = "") -> Preview:
    """The same of a voice that is loaded, with its length and its picture."""
    loaded = _model(studio, voice, model)
    path = _path(studio, voice, loaded)
    kept = _kept(path)
    if kept is None:
        audio = studio.models.decode(loaded.name, voice.fine)
        with contextlib.suppress(OSError):
            path.parent.mkdir(parents=True, exist_ok=True)
        _make_room(path.parent)
        write_audio(path, audio, {"voice": voice.sha256, "peaks": list(peaks_of(audio))})
        kept = Preview(path, audio.duration_s, peaks_of(audio))
    return kept


def kept_preview(studio: Studio, voice: Voice, model: str = "") -> Preview | None:
    """The same if it was made before; None: it has to be decoded, or can't be."""
    try:
        return _kept(_path(studio, voice, _model(studio, voice, model)))
    except LayoutMismatch:
        return None


def _path(studio: Studio, voice: Voice, loaded: LoadedModel) -> Path:
    identity = loaded.identity
    whole = f"{voice.sha256} {identity.source} {identity.revision}"
    name = hashlib.sha256(whole.encode()).hexdigest()[:32]
    return studio.settings.data_folder / "previews" / f"{name}.flac"


def _kept(path: Path) -> Preview | None:
    if not path.is_file():
        return None
    try:
        peaks = (read_tags(path) or {})["peaks"]
        return Preview(path, read_audio(path).duration_s, tuple(int(peak) for peak in peaks))
    except (BarkError, OSError, LookupError, TypeError, ValueError):
        return None  # damaged: made again


def _make_room(folder: Path) -> None:
    """Let the oldest go where there are too many: of voices that were changed or deleted."""
    try:
        kept = sorted(folder.glob("*.flac"), key=lambda path: path.stat().st_mtime)
    except OSError as error:
        raise StorageError(f"can't read {folder}: {error}; check the disk") from error
    for path in kept[: max(0, len(kept) - MAX_KEPT + 1)]:
        with contextlib.suppress(OSError):
            path.unlink()


def _model(studio: Studio, voice: Voice, model: str) -> LoadedModel:
    """The loaded model that speaks with a voice: the page's, or another of the same layout."""
    layout = voice.layout.name
    for loaded in loaded_models(studio, model):
        if loaded.front.config.layout.name == layout:
            return loaded
    needed = "'small' or 'large'" if layout == "bark" else repr(layout)
    raise LayoutMismatch(
        f"the voice {voice.name or 'given'!r} is heard with a model of the layout {layout!r}, "
        f"and none is loaded; load {needed} in System"
    )


def loaded_models(studio: Studio, model: str) -> list[LoadedModel]:
    """The models that are loaded, or asleep, the page's own first."""
    names = studio.models.names()
    if model in names:
        names = [model, *(name for name in names if name != model)]
    return [known for name in names if (known := studio.models.usable_now(name)) is not None]

"""A project on the disk: its state, and the sound and tokens of each take.

    FOLDER/project.json         the project; replaced as a whole by every change
    FOLDER/takes/ID.flac        the sound of a take, 16 bit
    FOLDER/takes/ID.npz         its tokens, so that its voice can be kept

A take's files are there before project.json names them, and are removed after it doesn't any
more: whatever moment a kill comes at, what is left opens.
"""

from __future__ import annotations

import contextlib
import io
import shutil
import threading
import zipfile
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from bark_core.archive import read_segments, write_segments
from bark_core.audio import Stamp, encode_audio, read_audio, read_tags, write_audio
from bark_core.config import TokenLayout
from bark_core.errors import InvalidAudio, InvalidText, StorageError, UnknownVoice
from bark_core.files import storage_error, write_bytes_atomically
from bark_core.generation import Generation
from bark_core.mix import Mix, Spoken, mix
from bark_core.project import Project
from bark_core.project_parts import Order, Take, is_take_name, new_name
from bark_core.script import Background
from bark_core.tokens import Audio
from bark_core.voices import Voice

MAX_UNDO = 50
MAX_BACKGROUND_S = 1200.0
RATE_HZ = 24_000

Change = Callable[[Project], Project]


class ProjectFolder:
    """A project and its folder. All methods may be called from any thread.

    Made by `create` or `open`. Only one process may have a project open.
    """

    def __init__(self, folder: Path, project: Project) -> None:
        self.folder = folder
        self.takes = folder / "takes"
        self.version = 0  # grows with every change
        self._project = project
        self._before: deque[Project] = deque(maxlen=MAX_UNDO)
        self._lock = threading.RLock()

    @classmethod
    def create(cls, folder: Path, project: Project) -> Self:
        """Keep a new project in a folder, which is made.

        Raises:
            StorageError: there is a project already, or it can't be written.
        """
        if (folder / "project.json").exists():
            raise StorageError(f"there is a project in {folder} already; open it instead")
        new = cls(folder, project)
        try:
            new.takes.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise storage_error("make", new.takes, error) from error
        new._save(project)
        return new

    @classmethod
    def open(cls, folder: Path) -> Self:
        """Open what `create` made, whatever interrupted its last change.

        Raises:
            InvalidText: it isn't a project, or is damaged.
            StorageError: it can't be read.
        """
        path = folder / "project.json"
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError as error:
            raise InvalidText(f"{path} isn't text; get it again from a copy") from error
        except OSError as error:
            raise storage_error("read", path, error) from error
        opened = cls(folder, Project.from_json(text))
        opened.takes.mkdir(exist_ok=True)
        opened.sweep()
        return opened

    @property
    def project(self) -> Project:
        """How it stands now."""
        return self._project

    @property
    def can_undo(self) -> bool:
        return bool(self._before)

    def edit(self, change: Change) -> Project:
        """Change the project, on the disk first; `undo` takes it back.

        Raises:
            StorageError: it can't be written; nothing is changed then.
        """
        with self._lock:
            before, after = self._project, change(self._project)
            if after != before:
                self._save(after)
                self._before.append(before)
            return after

    def undo(self) -> bool:
        """Take the last change back, but no sound that was made since; False: there is none."""
        with self._lock:
            if not self._before:
                return False
            self._save(self._before[-1].with_takes_of(self._project))
            self._before.pop()
            return True

    def add(self, order: Order, made: Generation, *, n_takes: int = 1) -> Take:
        """Keep what an order became, files first.

        Args:
            n_takes: how many were tried.

        Raises:
            InvalidRequest: the segment was deleted meanwhile.
            StorageError: it can't be written; nothing of it is left behind.
        """
        take, next_take = order.fulfil(made, n_takes=n_takes)
        try:
            write_audio(self.sound_path(take.id), made.audio, made.metadata())
            write_segments(self.tokens_path(take.id), made.segments)
            with self._lock:
                self._save(self._project.with_take(order.segment_id, take, next_take))
        except BaseException:
            self._remove(take.id)
            raise
        return take

    def set_background(self, background: Background | None, sound: Path | None = None) -> None:
        """Put a layer under the speech, made from its prompt or read from a sound file.

        Raises:
            InvalidAudio: the file isn't sound that can be read, or lasts over twenty minutes.
            StorageError: it can't be kept.
        """
        bed = None
        if background is not None and background.file is not None:
            bed = self._project.layer
            if sound is not None:
                audio = read_audio(sound, RATE_HZ, max_s=MAX_BACKGROUND_S)
                bed = Take(new_name(), background.file, "", round(audio.duration_s, 6))
                write_audio(self.sound_path(bed.id), audio)
            if bed is None:
                raise InvalidAudio(
                    f"the background's file {background.file!r} isn't here; give it again"
                )
        self.edit(lambda project: project.with_background(background, bed))

    # --- sound

    def sound_path(self, take_id: str) -> Path:
        """Where the sound of a take is. Raises InvalidAudio: that can't be the id of one."""
        return self._file(take_id, ".flac")

    def tokens_path(self, take_id: str) -> Path:
        return self._file(take_id, ".npz")

    def audio(self, take_id: str) -> Audio:
        """The sound of a take. Raises InvalidAudio, StorageError: it can't be read."""
        return read_audio(self.sound_path(take_id), RATE_HZ)

    def voice(self, take_id: str, layout: TokenLayout) -> Voice:
        """The voice of a take: its longest part.

        Raises:
            VoiceError: its tokens are missing, damaged, or of another model.
        """
        path = self.tokens_path(take_id)
        if not path.is_file():
            raise UnknownVoice("the take whose voice is kept is missing; roll a new voice")
        parts = read_segments(path, layout=layout)
        return max(parts, key=lambda voice: len(voice.semantic))

    def mix(self) -> Mix:
        """All segments that have sound, as one.

        Raises:
            InvalidAudio: none has, or a file can't be read.
        """
        project = self._project
        spoken = [
            Spoken(s.line.speaker, s.line.text, self.audio(s.take.id), project.pause_after_s(index))
            for index, s in enumerate(project.segments)
            if s.take is not None
        ]
        layer = project.layer
        return mix(
            spoken,
            lead_in_s=project.lead_in_s,
            background=project.background if layer is not None else None,
            bed=self.audio(layer.id) if layer is not None else None,
        )

    def mix_metadata(self, made: Mix) -> dict[str, Any]:
        """What a mixed file says it was made from, in plain JSON types; goes into its tags.

        Model, settings and computing are those that its takes' own files tell of.

        Raises:
            InvalidAudio, StorageError: a take's file can't be read.
        """
        project = self._project
        heard = [segment for segment in project.segments if segment.take is not None]
        told = [read_tags(self.sound_path(s.take.id)) for s in heard if s.take is not None]
        return {
            "generator": "Bark Studio",
            "kind": "script",
            "title": project.title,
            "text": "\n".join(_said(segment.line.speaker, segment.line.text) for segment in heard),
            "segments": [segment.line.text for segment in heard],
            "speakers": {name: project.voices.get(name) for name in project.speakers},
            "complete": len(heard) == len(project.segments),
            "seed": project.options.seed,
            "voice": None,
            "voices": sorted({project.voice_of(segment) or "" for segment in heard} - {""}),
            "settings": _common([_mapping(tags.get("settings")) for tags in told]),
            "model": {
                **_common([_mapping(tags.get("model")) for tags in told]),
                "name": project.model,
                "layout_name": project.layout_name,
            },
            "duration_s": round(made.audio.duration_s, 3),
            "seconds": _summed([_mapping(tags.get("seconds")) for tags in told]),
        }

    # --- tidying up

    def sweep(self) -> None:
        """Remove files that nothing needs, and forget takes whose sound is gone."""
        with self._lock:
            self._before.clear()
            present = {path.stem for path in self.takes.glob("*.flac")}
            project = self._project
            for segment in project.segments:
                for take in segment.takes:
                    if take.id not in present:
                        project = project.without_take(segment.id, take.id)
            if project != self._project:
                self._save(project)
            needed = project.files
            for path in [*self.takes.iterdir(), *self.folder.glob(".*.partial*")]:
                if path.stem not in needed:
                    with contextlib.suppress(OSError):
                        path.unlink()

    def delete(self) -> None:
        """Remove the project and all its sound for good. Raises StorageError where it can't."""
        with self._lock:
            try:
                # without it nothing opens what a kill may leave
                (self.folder / "project.json").unlink(missing_ok=True)
                shutil.rmtree(self.folder)
            except OSError as error:
                raise storage_error("delete", self.folder, error) from error

    def _save(self, project: Project) -> None:
        write_bytes_atomically(self.folder / "project.json", project.to_json().encode())
        self._project = project
        self.version += 1

    def _file(self, take_id: str, suffix: str) -> Path:
        if not is_take_name(take_id):
            raise InvalidAudio(f"there is no take {take_id!r:.40}; choose one of the list")
        return self.takes / f"{take_id}{suffix}"

    def _remove(self, take_id: str) -> None:
        for path in (self.sound_path(take_id), self.tokens_path(take_id)):
            with contextlib.suppress(OSError):
                path.unlink(missing_ok=True)


def _common(parts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What all of them say alike; what some say otherwise is left out."""
    if not parts:
        return {}
    first, *others = parts
    return {key: value for key, value in first.items() if all(o.get(key) == value for o in others)}


def _summed(parts: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Seconds of each stage, of all takes."""
    total: dict[str, float] = {}
    for part in parts:
        for stage, value in part.items():
            if isinstance(value, int | float):
                total[stage] = round(total.get(stage, 0.0) + value, 3)
    return total


def _mapping(value: object) -> Mapping[str, Any]:
    """Tags of a file that somebody may have changed."""
    return value if isinstance(value, Mapping) else {}


def _said(speaker: str, text: str) -> str:
    return f"{speaker}: {text}" if speaker else text


def stem_names(made: Mix) -> dict[str, str]:
    """Speaker to the name of the file of its stem, without a suffix; all of them differ."""
    names: dict[str, str] = {}
    for number, speaker in enumerate(made.stems, 1):
        kept = "".join(c if c.isalnum() else "-" for c in speaker).strip("-")[:40]
        names[speaker] = f"{number:02}-{kept or 'speaker'}"
    return names


def stems(made: Mix, metadata: Mapping[str, Any]) -> Iterator[tuple[str, Audio, dict[str, Any]]]:
    """Name, sound and tags of each speaker's stem, and of the background.

    Args:
        metadata: of the whole, as `mix_metadata` gives it.
    """
    for speaker, name in stem_names(made).items():
        yield name, made.stems[speaker], {**metadata, "kind": "script", "stem": speaker}
    if made.background is not None:
        yield "background", made.background, {**metadata, "kind": "script", "stem": "background"}


def stems_zip(
    made: Mix,
    suffix: str = ".flac",
    *,
    metadata: Mapping[str, Any] | None = None,
    stamp: Stamp | None = None,
) -> bytes:
    """The stems of all speakers, and the background, as a .zip of sound files.

    Args:
        metadata: of the whole, for the tags of each. stamp: as `write_audio`.
    """
    buffer = io.BytesIO()
    # sound is compressed already
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for name, sound, tags in stems(made, metadata or {}):
            archive.writestr(f"{name}{suffix}", encode_audio(sound, suffix, tags, stamp=stamp))
    return buffer.getvalue()

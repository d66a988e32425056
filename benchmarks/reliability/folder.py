"""What must be true of a data folder at every moment, and after it was opened again."""

from __future__ import annotations

import json
import os
from pathlib import Path

import soundfile

from bark_core import BarkError, read_segments, read_tags
from bark_core.config import TokenLayout
from webui.history import Entry, History


def memory_folder() -> str | None:
    """A folder in memory, for what needn't wait for a disk; None: there is none."""
    return "/dev/shm" if os.access("/dev/shm", os.W_OK) else None


def torn_files(folder: Path, layout: TokenLayout) -> list[str]:
    """Published files that aren't whole: sounds, tokens, sidecars, whatever their state."""
    torn = []
    for path in sorted(folder.rglob("*")):
        if path.name.startswith(".") or not path.is_file():
            continue  # a temporary
        try:
            _read_whole(path, layout)
        except (BarkError, OSError, ValueError, KeyError, soundfile.SoundFileError) as error:
            torn.append(f"{path.relative_to(folder)} is torn: {error!r}")
    return torn


def _read_whole(path: Path, layout: TokenLayout) -> None:
    match path.suffix:
        case ".flac" | ".mp3" | ".opus" | ".wav":
            samples, rate_hz = soundfile.read(path)
            tags = read_tags(path)
            # a lossy format may add a block at its end
            missing_s = float(tags["duration_s"]) - len(samples) / rate_hz
            if missing_s > 0.001:
                raise ValueError(f"{missing_s:.3f} s of its sound are missing")
        case ".npz":
            read_segments(path, layout=layout)
        case ".json":
            json.loads(path.read_bytes())


def unmatched(history: History) -> list[str]:
    """Rows without their files, files without their row, temporaries that stayed."""
    entries = {entry.id: entry for entry in [*history.search(limit=10**6), *history.trashed()]}
    found = [line for entry in entries.values() for line in _lacks(history, entry)]
    for path in history.sounds.iterdir():
        if path.name.startswith("."):
            found.append(f"{path.name} stayed")
        elif path.stem not in entries:
            found.append(f"{path.name} has no row")
    return found


def _lacks(history: History, entry: Entry) -> list[str]:
    """What an entry that is there lacks."""
    paths = history.sound_path(entry.id), history.voice_path(entry.id)
    lacking = [f"the row {entry.id} lacks {path.name}" for path in paths if not path.is_file()]
    sidecar = history.sidecar_path(entry.id)
    if not sidecar.is_file() or Entry.from_json(json.loads(sidecar.read_bytes())) != entry:
        lacking.append(f"the sidecar of {entry.id} says something else than its row")
    return lacking

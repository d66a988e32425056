"""Where a sound comes from: what is put into files, and what is found in them again.

    tags          what it was made from; gone with the tags
    credentials   the same, signed by the host; broken by any change (credentials.py)
    watermark     in the sound itself; survives other formats and cuts (watermark.py)
    hashes        of the file and of its samples, kept by the host; nothing in the file

docs/provenance.md says what each survives.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bark_core.audio import read_audio, read_tags
from bark_core.credentials import Credentials, SigningKey, can_sign, read_credentials, sign
from bark_core.errors import InvalidAudio
from bark_core.files import storage_error
from bark_core.tokens import Audio

if TYPE_CHECKING:
    from bark_core.watermark import Detected, Watermark

_SIGNED_SETTINGS = ("text", "seed", "voice", "model", "duration_s", "created_at", "id")


@dataclass(frozen=True, slots=True)
class Provenance:
    """What a host puts into its files beside their tags. A `Stamp` of audio.py."""

    key: SigningKey | None = None
    watermark: Watermark | None = None

    def mark(self, audio: Audio) -> Audio:
        """The sound with the watermark, where there is one."""
        return audio if self.watermark is None else self.watermark.embed(audio)

    def sign(self, data: bytes, suffix: str, metadata: Mapping[str, Any]) -> bytes:
        """A file with credentials, where there is a key and the format can have them."""
        if self.key is None:
            return data
        settings = {key: metadata[key] for key in _SIGNED_SETTINGS if key in metadata}
        return sign(data, suffix, self.key, settings=settings)

    def signing_only(self) -> Provenance:
        """For a copy in another format of what was marked already."""
        return Provenance(self.key)


@dataclass(frozen=True, slots=True)
class Hashes:
    """Two hashes of a sound file, 64 hex digits each."""

    file: str  # of its bytes: the very same file
    sound: str  # of its samples as they are decoded, 16 bit: whatever tags it has


@dataclass(frozen=True, slots=True)
class Found:
    """What a file says of itself.

    Attributes:
        tags: its settings; empty: none.
        credentials: None: none, or nobody looked (`credentials_read`).
        watermark: None: nobody looked.
    """

    hashes: Hashes
    tags: Mapping[str, Any]
    credentials: Credentials | None
    credentials_read: bool
    watermark: Detected | None


def hashes_of(path: Path) -> Hashes:
    """Both hashes of a sound file.

    Raises:
        InvalidAudio: it isn't one. StorageError: it can't be read.
    """
    return Hashes(file=_file_hash(path), sound=sound_hash(read_audio(path)))


def sound_hash(audio: Audio) -> str:
    """A hash of samples as a 16-bit file holds them, and of their rate."""
    samples = np.clip(np.rint(audio.samples.astype(np.float64) * 32_768), -32_768, 32_767)
    digest = hashlib.sha256(f"{audio.sample_rate_hz} ".encode())
    digest.update(samples.astype("<i2").tobytes())
    return digest.hexdigest()


def examine(
    path: Path, *, own: SigningKey | None = None, watermark: Watermark | None = None
) -> Found:
    """Look for everything that tells where a sound file comes from.

    Args:
        own: this host's key, to tell its own credentials from others'.
        watermark: a detector, where there is one.

    Raises:
        InvalidAudio: it isn't a sound file. StorageError: it can't be read.
    """
    audio = read_audio(path)
    readable = can_sign()
    try:
        tags = read_tags(path)
    except InvalidAudio:
        tags = {}  # sound without tags that can be read has none
    return Found(
        hashes=Hashes(_file_hash(path), sound_hash(audio)),
        tags=tags,
        credentials=read_credentials(path.read_bytes(), own) if readable else None,
        credentials_read=readable,
        watermark=None if watermark is None else watermark.detect(audio),
    )


def _file_hash(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise storage_error("read", path, error) from error

"""Sound to a pipe while it is being made: a WAV file whose length nobody knows yet.

Players (ffplay, aplay, mpv, sox) read such a file to the end of the pipe.
"""

from __future__ import annotations

import io
import struct
from typing import IO

import soundfile

from bark_core.audio import GENERATED_BY, SOFTWARE
from bark_core.tokens import Audio

_UNKNOWN = 0xFFFF_FFFF  # a size that ffmpeg and sox take as "until the end"
_PCM, _MONO, _BYTES = 1, 1, 2


class WavStream:
    """Writes sound, piece by piece, 16 bits a sample; what is above 1 is clipped.

    Args:
        file: open for bytes; flushed after each piece.
        sample_rate_hz: of all pieces.
    """

    def __init__(self, file: IO[bytes], sample_rate_hz: int) -> None:
        self._file = file
        self._header = _header(sample_rate_hz)  # comes with the first piece

    def write(self, audio: Audio) -> None:
        """Append a piece.

        Raises:
            BrokenPipeError: nobody reads any more.
        """
        piece = io.BytesIO()
        samples, rate = audio.samples.clip(-1, 1), audio.sample_rate_hz
        soundfile.write(piece, samples, rate, "PCM_16", "LITTLE", format="RAW")
        self._file.write(self._header + piece.getvalue())
        self._header = b""
        self._file.flush()


def _header(rate_hz: int) -> bytes:
    notes = b"INFO" + b"".join(
        _chunk(key, text.encode() + (b"\0" if len(text) % 2 else b"\0\0"))
        for key, text in ((b"ICMT", GENERATED_BY), (b"ISFT", SOFTWARE))
    )
    format_ = struct.pack("<HHIIHH", _PCM, _MONO, rate_hz, rate_hz * _BYTES, _BYTES, 8 * _BYTES)
    start = b"RIFF" + struct.pack("<I", _UNKNOWN) + b"WAVE"
    chunks = _chunk(b"fmt ", format_) + _chunk(b"LIST", notes)
    return start + chunks + b"data" + struct.pack("<I", _UNKNOWN)


def _chunk(key: bytes, data: bytes) -> bytes:
    return key + struct.pack("<I", len(data)) + data

"""What a request becomes: sound, the tokens behind it, and how it was made."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from bark_core.audio import write_audio
from bark_core.errors import InvalidSetting
from bark_core.quality import Problem
from bark_core.request import (
    CoarseParams,
    FineParams,
    GenerationRequest,
    SemanticParams,
    Settings,
)
from bark_core.tokens import Audio, CoarseCodes, FineCodes, SemanticTokens
from bark_core.voices import Voice


@dataclass(frozen=True, slots=True)
class ModelIdentity:
    """Which weights made it, exactly enough to find them again."""

    name: str  # "pup", "small", "large", or what the folder or repository is called
    source: str  # hub repository or folder
    revision: str  # commit of the hub repository, or a hash of local files
    precision: str  # one of device.PRECISIONS
    layout_name: str


@dataclass(frozen=True, slots=True)
class SegmentResult:
    """One segment, with every hop of the cascade."""

    text: str
    semantic: SemanticTokens
    coarse: CoarseCodes
    fine: FineCodes
    audio: Audio
    pause_s: float  # silence after it
    seconds: Mapping[str, float]  # computing time of each stage
    ended: bool  # False: it ran into the limit without an end
    take: int = 0  # which of the takes of its seed it is
    problems: tuple[Problem, ...] = ()  # what seems to be wrong with it

    @property
    def voice(self) -> Voice:
        """The segment as a history prompt."""
        return Voice(semantic=self.semantic, coarse=self.coarse, fine=self.fine)


@dataclass(frozen=True, slots=True)
class Generation:
    """The result of a request, whole or (after a stop) as far as it came."""

    request: GenerationRequest
    model: ModelIdentity
    segments: tuple[SegmentResult, ...]
    n_planned: int

    @property
    def complete(self) -> bool:
        return len(self.segments) == self.n_planned

    @property
    def audio(self) -> Audio:
        """All segments and their pauses, float32 [N]."""
        rate = self.segments[0].audio.sample_rate_hz
        parts = []
        for segment in self.segments:
            parts += [segment.audio.samples, np.zeros(round(segment.pause_s * rate), np.float32)]
        return Audio(np.concatenate(parts), rate)

    @property
    def voice(self) -> Voice:
        """The longest segment as a voice that can be used again."""
        return max(self.segments, key=lambda segment: len(segment.semantic)).voice

    @property
    def voices(self) -> tuple[Voice, ...]:
        """Each segment as a history prompt, in their order."""
        return tuple(segment.voice for segment in self.segments)

    @property
    def seconds(self) -> dict[str, float]:
        """Computing time of each stage over all segments."""
        total: dict[str, float] = {}
        for segment in self.segments:
            for stage, seconds in segment.seconds.items():
                total[stage] = total.get(stage, 0.0) + seconds
        return total

    def save(self, path: str | Path) -> None:
        """Write the sound with its `metadata` in its tags; the suffix says which format.

        Raises:
            StorageError: full disk, no permission. InvalidAudio: no format of that suffix.
        """
        write_audio(path, self.audio, self.metadata())

    def metadata(self) -> dict[str, Any]:
        """All that is needed to make it again, in plain JSON types; goes into the file's tags."""
        request = self.request
        voice = request.voice
        return {
            "generator": "Bark Studio",
            "text": request.text,
            "segments": [segment.text for segment in self.segments],
            "takes": [segment.take for segment in self.segments],
            "problems": [list(map(str, segment.problems)) for segment in self.segments],
            "complete": self.complete,
            "seed": request.seed,
            "take": request.take,
            "retries": request.retries,
            "streaming": request.streaming,
            "words": None if request.words is None else {"sha256": words_sha256(request.words)},
            "voice": None if voice is None else {"name": voice.name, "sha256": voice.sha256},
            "settings": asdict(request.settings),
            "segment_pause_s": request.segment_pause_s,
            "model": asdict(self.model),
            "duration_s": round(sum(s.audio.duration_s + s.pause_s for s in self.segments), 3),
            "seconds": {stage: round(value, 3) for stage, value in self.seconds.items()},
        }


def settings_from_metadata(details: Mapping[str, Any]) -> Settings:
    """The settings that `Generation.metadata` told of; what it doesn't name is as by default.

    Raises:
        InvalidSetting: a value can't be a setting; the details may come from any file.
    """
    told = details.get("settings", {})
    kinds = {"semantic": SemanticParams, "coarse": CoarseParams, "fine": FineParams}
    if not isinstance(told, Mapping):
        raise InvalidSetting(f"the settings must be a table, got {type(told).__name__}")
    stages: dict[str, Any] = {}
    for stage, kind in kinds.items():
        values = told.get(stage, {})
        if not isinstance(values, Mapping):
            raise InvalidSetting(f"the settings of {stage} must be a table, got {values!r:.80}")
        known = {field.name for field in fields(kind)}
        stages[stage] = kind(**{key: value for key, value in values.items() if key in known})
    return Settings(**stages)


def words_sha256(words: Sequence[SemanticTokens]) -> str:
    """Hash of the semantic tokens of all segments."""
    digest = hashlib.sha256()
    for tokens in words:
        digest.update(f"{tokens.layout.name} {len(tokens)} ".encode())
        digest.update(tokens.values.astype("<i2").tobytes())
    return digest.hexdigest()

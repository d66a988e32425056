"""Bark Studio's core: Suno's Bark, text to audio, as a cascade of three transformers.

    from bark_core import GenerationRequest, load

    result = load("pup").generate(GenerationRequest("Hello!", seed=7))

What is in `__all__` can be relied on.
"""

from __future__ import annotations

from bark_core.audio import read_audio, read_tags, write_audio
from bark_core.cascade import Cascade
from bark_core.checkpoint import ModelInfo, convert, known_models, load, voice_fetcher
from bark_core.engine import Engine, Job, JobState
from bark_core.errors import (
    BarkError,
    Cancelled,
    DownloadError,
    EmptyGeneration,
    GenerationError,
    InvalidCheckpoint,
    InvalidRequest,
    InvalidSetting,
    InvalidText,
    InvalidTokens,
    InvalidVoice,
    LayoutMismatch,
    MissingFiles,
    ModelError,
    OutOfMemory,
    StorageError,
    UnknownModel,
    UnknownVoice,
    VoiceError,
)
from bark_core.events import AudioChunk, Event, Failed, Finished, Stage, StageProgress, Stopped
from bark_core.files import write_bytes_atomically
from bark_core.generation import Generation, ModelIdentity, SegmentResult
from bark_core.hub import DownloadProgress, ProgressCallback
from bark_core.request import (
    CoarseParams,
    FineParams,
    GenerationRequest,
    SamplingParams,
    SemanticParams,
    Settings,
    random_seed,
)
from bark_core.text import Segment, estimate_duration_s
from bark_core.tokens import Audio
from bark_core.voices import Voice, VoiceEntry, VoiceLibrary, load_voice

__all__ = [
    "Audio",
    "AudioChunk",
    "BarkError",
    "Cancelled",
    "Cascade",
    "CoarseParams",
    "DownloadError",
    "DownloadProgress",
    "EmptyGeneration",
    "Engine",
    "Event",
    "Failed",
    "FineParams",
    "Finished",
    "Generation",
    "GenerationError",
    "GenerationRequest",
    "InvalidCheckpoint",
    "InvalidRequest",
    "InvalidSetting",
    "InvalidText",
    "InvalidTokens",
    "InvalidVoice",
    "Job",
    "JobState",
    "LayoutMismatch",
    "MissingFiles",
    "ModelError",
    "ModelIdentity",
    "ModelInfo",
    "OutOfMemory",
    "ProgressCallback",
    "SamplingParams",
    "Segment",
    "SegmentResult",
    "SemanticParams",
    "Settings",
    "Stage",
    "StageProgress",
    "Stopped",
    "StorageError",
    "UnknownModel",
    "UnknownVoice",
    "Voice",
    "VoiceEntry",
    "VoiceError",
    "VoiceLibrary",
    "convert",
    "estimate_duration_s",
    "known_models",
    "load",
    "load_voice",
    "random_seed",
    "read_audio",
    "read_tags",
    "voice_fetcher",
    "write_audio",
    "write_bytes_atomically",
]

__version__ = "0.1.0"

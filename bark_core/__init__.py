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
from bark_core.script import Background, Line, LineSettings, Script
from bark_core.script import from_json as script_from_json
from bark_core.script import to_json as script_to_json
from bark_core.script_import import parse_any, parse_srt, parse_ssml
from bark_core.script_text import parse_plain
from bark_core.script_text import to_text as script_to_text
from bark_core.subtitles import Cue, plan_cues, to_srt, to_vtt
from bark_core.text import Segment, estimate_duration_s
from bark_core.tokens import Audio
from bark_core.voices import Voice, VoiceEntry, VoiceLibrary, load_voice

__all__ = [
    "Audio",
    "AudioChunk",
    "Background",
    "BarkError",
    "Cancelled",
    "Cascade",
    "CoarseParams",
    "Cue",
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
    "Line",
    "LineSettings",
    "MissingFiles",
    "ModelError",
    "ModelIdentity",
    "ModelInfo",
    "OutOfMemory",
    "ProgressCallback",
    "SamplingParams",
    "Script",
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
    "parse_any",
    "parse_plain",
    "parse_srt",
    "parse_ssml",
    "plan_cues",
    "random_seed",
    "read_audio",
    "read_tags",
    "script_from_json",
    "script_to_json",
    "script_to_text",
    "to_srt",
    "to_vtt",
    "voice_fetcher",
    "write_audio",
    "write_bytes_atomically",
]

__version__ = "0.1.0"

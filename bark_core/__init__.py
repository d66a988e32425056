"""Bark Studio's core: Suno's Bark, text to audio, as a cascade of three transformers.

    from bark_core import GenerationRequest, load

    result = load("pup").generate(GenerationRequest("Hello!", seed=7))

What is in `__all__` can be relied on.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from bark_core.archive import read_segments, write_segments
from bark_core.audio import encode_audio, read_audio, read_tags, write_audio
from bark_core.backend import Backend, LoadedModel, ModelSpec, Running, WorkerState, WorkerStatus
from bark_core.cluster import Cluster, open_cluster
from bark_core.config import CascadeConfig, TokenLayout
from bark_core.credentials import (
    Credentials,
    SigningKey,
    can_sign,
    load_signing_key,
    make_signing_key,
    own_signing_key,
    read_credentials,
)
from bark_core.errors import (
    BarkError,
    Cancelled,
    DownloadError,
    EmptyGeneration,
    GenerationError,
    InvalidAudio,
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
    WorkerLost,
)
from bark_core.events import (
    AudioChunk,
    Event,
    Failed,
    Finished,
    Retry,
    Stage,
    StageProgress,
    Stopped,
)
from bark_core.files import atomic_path, write_bytes_atomically
from bark_core.frontend import FrontEnd
from bark_core.generation import (
    Generation,
    ModelIdentity,
    SegmentResult,
    settings_from_metadata,
)
from bark_core.hub import DownloadProgress, ProgressCallback
from bark_core.jobs import Job, JobState
from bark_core.logs import DiscreetFormatter
from bark_core.machine import process_memory_bytes
from bark_core.mix import Mix
from bark_core.models import (
    ModelInfo,
    Stored,
    default_cache,
    known_models,
    model_config,
    models_in_cache,
    stored,
    voice_fetcher,
)
from bark_core.models import remove as remove_model
from bark_core.placement import DeviceInfo
from bark_core.preflight import (
    Candidate,
    Fit,
    Reason,
    Recommendation,
    Verdict,
    disk_needed,
    preflight,
    recommend,
)
from bark_core.presets import Mood, SoundCue, examples, moods, sound_cues
from bark_core.process_backend import Patience, ProcessBackend
from bark_core.project import Project
from bark_core.project_folder import ProjectFolder, stems, stems_zip
from bark_core.project_parts import Order, ProjectOptions, ProjectSegment, SegmentState, Take
from bark_core.project_plan import Planner
from bark_core.provenance import Found, Hashes, Provenance, examine, hashes_of, sound_hash
from bark_core.quality import Problem, find_problems
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
from bark_core.tokens import Audio, CoarseCodes, FineCodes, SemanticTokens
from bark_core.voice_catalogue import VoiceEntry
from bark_core.voice_library import VoiceLibrary
from bark_core.voice_names import valid_name
from bark_core.voices import Voice, load_voice

if TYPE_CHECKING:
    from bark_core.computing import (
        Cascade,
        Detected,
        DevicePool,
        Engine,
        InProcessBackend,
        JobLine,
        Recogniser,
        Watermark,
        convert,
        describe_devices,
        download_model,
        load,
        load_recogniser,
        named_devices,
        voice_from_audio,
    )

__all__ = [
    "Audio",
    "AudioChunk",
    "Backend",
    "Background",
    "BarkError",
    "Cancelled",
    "Candidate",
    "Cascade",
    "CascadeConfig",
    "Cluster",
    "CoarseCodes",
    "CoarseParams",
    "Credentials",
    "Cue",
    "Detected",
    "DeviceInfo",
    "DevicePool",
    "DiscreetFormatter",
    "DownloadError",
    "DownloadProgress",
    "EmptyGeneration",
    "Engine",
    "Event",
    "Failed",
    "FineCodes",
    "FineParams",
    "Finished",
    "Fit",
    "Found",
    "FrontEnd",
    "Generation",
    "GenerationError",
    "GenerationRequest",
    "Hashes",
    "InProcessBackend",
    "InvalidAudio",
    "InvalidCheckpoint",
    "InvalidRequest",
    "InvalidSetting",
    "InvalidText",
    "InvalidTokens",
    "InvalidVoice",
    "Job",
    "JobLine",
    "JobState",
    "LayoutMismatch",
    "Line",
    "LineSettings",
    "LoadedModel",
    "MissingFiles",
    "Mix",
    "ModelError",
    "ModelIdentity",
    "ModelInfo",
    "ModelSpec",
    "Mood",
    "Order",
    "OutOfMemory",
    "Patience",
    "Planner",
    "Problem",
    "ProcessBackend",
    "ProgressCallback",
    "Project",
    "ProjectFolder",
    "ProjectOptions",
    "ProjectSegment",
    "Provenance",
    "Reason",
    "Recogniser",
    "Recommendation",
    "Retry",
    "Running",
    "SamplingParams",
    "Script",
    "Segment",
    "SegmentResult",
    "SegmentState",
    "SemanticParams",
    "SemanticTokens",
    "Settings",
    "SigningKey",
    "SoundCue",
    "Stage",
    "StageProgress",
    "Stopped",
    "StorageError",
    "Stored",
    "Take",
    "TokenLayout",
    "UnknownModel",
    "UnknownVoice",
    "Verdict",
    "Voice",
    "VoiceEntry",
    "VoiceError",
    "VoiceLibrary",
    "Watermark",
    "WorkerLost",
    "WorkerState",
    "WorkerStatus",
    "__version__",
    "atomic_path",
    "can_sign",
    "convert",
    "default_cache",
    "describe_devices",
    "disk_needed",
    "download_model",
    "encode_audio",
    "estimate_duration_s",
    "examine",
    "examples",
    "find_problems",
    "hashes_of",
    "known_models",
    "load",
    "load_recogniser",
    "load_signing_key",
    "load_voice",
    "make_signing_key",
    "model_config",
    "models_in_cache",
    "moods",
    "named_devices",
    "open_cluster",
    "own_signing_key",
    "parse_any",
    "parse_plain",
    "parse_srt",
    "parse_ssml",
    "plan_cues",
    "preflight",
    "process_memory_bytes",
    "random_seed",
    "read_audio",
    "read_credentials",
    "read_segments",
    "read_tags",
    "recommend",
    "remove_model",
    "script_from_json",
    "script_to_json",
    "script_to_text",
    "settings_from_metadata",
    "sound_cues",
    "sound_hash",
    "stems",
    "stems_zip",
    "stored",
    "to_srt",
    "to_vtt",
    "valid_name",
    "voice_fetcher",
    "voice_from_audio",
    "write_audio",
    "write_bytes_atomically",
    "write_segments",
]

__version__ = "0.1.0"

if not TYPE_CHECKING:  # a checker would take every name for one that is there

    def __getattr__(name: str) -> Any:
        """What needs torch is imported when it is first asked for.

        A page whose models run in other processes never asks: it starts a second earlier and
        takes 0.2 GB less.
        """
        if name not in __all__:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        value = globals()[name] = getattr(importlib.import_module("bark_core.computing"), name)
        return value

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__})

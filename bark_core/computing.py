"""The part of the public face that computes, and needs torch: see `bark_core.__getattr__`."""

from __future__ import annotations

from bark_core.cascade import Cascade
from bark_core.checkpoint import convert, load
from bark_core.checkpoint import download as download_model
from bark_core.device import describe_devices, named_devices
from bark_core.device_pool import DevicePool
from bark_core.engine import Engine
from bark_core.engine import Line as JobLine
from bark_core.in_process import InProcessBackend
from bark_core.recogniser import Recogniser, load_recogniser, voice_from_audio
from bark_core.watermark import Detected, Watermark

__all__ = [
    "Cascade",
    "Detected",
    "DevicePool",
    "Engine",
    "InProcessBackend",
    "JobLine",
    "Recogniser",
    "Watermark",
    "convert",
    "describe_devices",
    "download_model",
    "load",
    "load_recogniser",
    "named_devices",
    "voice_from_audio",
]

"""Every error that Bark Studio raises on purpose.

BarkError
├── InvalidRequest          what a person asked for can't be done as asked
│   ├── InvalidText         empty, too long, not text
│   ├── InvalidSetting      a number out of range, not finite, of the wrong type
│   ├── InvalidTokens       token or code arrays of the wrong shape, dtype or range
│   └── InvalidAudio        a sound file that can't be read, or a format that can't be written
├── VoiceError
│   ├── UnknownVoice        no voice of that name
│   ├── InvalidVoice        a voice file that can't be read safely or isn't a voice
│   └── LayoutMismatch      a voice (or tokens) made for another model's token layout
├── ModelError
│   ├── UnknownModel        no model of that name
│   ├── InvalidCheckpoint   truncated, foreign, unsafe or damaged weights
│   ├── MissingFiles        files that aren't there, and where to put them
│   └── DownloadError       the hub can't be reached, or sent something else
├── GenerationError         the cascade couldn't finish
│   ├── EmptyGeneration     the model ended before it made a sound
│   ├── OutOfMemory         the device has too little memory for this
│   ├── WorkerLost          the process that made it ended; it can be made again
│   └── Cancelled           somebody pressed Stop
└── StorageError            a file can't be written: full disk, no permission

Each message says what happened, what was given, what is allowed and what to do next.
"""

from __future__ import annotations


class BarkError(Exception):
    """Base of all errors that are meant to be read by a person."""


class InvalidRequest(BarkError, ValueError):
    """What was asked for can't be done as asked."""


class InvalidText(InvalidRequest):
    """The text is empty, endless or not text."""


class InvalidSetting(InvalidRequest):
    """A setting is out of its range, not finite or of the wrong type."""


class InvalidTokens(InvalidRequest):
    """An array of tokens or codes has the wrong shape, dtype or range."""


class InvalidAudio(InvalidRequest):
    """A sound file isn't one, is damaged or too long, or its format isn't known."""


class VoiceError(BarkError):
    """Something is wrong with a voice."""


class UnknownVoice(VoiceError, LookupError):
    """No voice has that name."""


class InvalidVoice(VoiceError, ValueError):
    """The file isn't a voice, or can't be read safely."""


class LayoutMismatch(VoiceError, ValueError):
    """The voice was made for a model with another token layout."""


class ModelError(BarkError):
    """Something is wrong with a model."""


class UnknownModel(ModelError, LookupError):
    """No model has that name."""


class InvalidCheckpoint(ModelError, ValueError):
    """The weights are truncated, damaged, unsafe or those of another model."""


class MissingFiles(ModelError, FileNotFoundError):
    """Files of a model aren't there; the message says which and where to put them."""


class DownloadError(ModelError):
    """The hub can't be reached, or what it sent isn't what it promised."""


class GenerationError(BarkError):
    """The cascade couldn't finish."""


class EmptyGeneration(GenerationError):
    """The model ended before it made a sound."""


class OutOfMemory(GenerationError):
    """The device has too little memory."""


class WorkerLost(GenerationError):
    """The process or machine that worked on it is gone. What was asked for may be sound.

    Attributes:
        stepped_down: the next attempt runs with less memory, so this one needn't count.
    """

    def __init__(self, message: str, *, stepped_down: bool = False) -> None:
        super().__init__(message)
        self.stepped_down = stepped_down

    def __reduce__(self) -> tuple[object, ...]:
        return _restored_worker_lost, (str(self), self.stepped_down)


def _restored_worker_lost(message: str, stepped_down: bool) -> WorkerLost:
    """For pickle, which knows no keyword arguments."""
    return WorkerLost(message, stepped_down=stepped_down)


class Cancelled(GenerationError):
    """The job was stopped before it was finished."""


class StorageError(BarkError, OSError):
    """A file can't be written or read: full disk, no permission, an I/O error."""

"""What the page says: the words that more than one place needs, and how errors are told."""

from __future__ import annotations

import functools
import inspect
import logging
import math
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import gradio as gr

from bark_core import (
    BarkError,
    DownloadError,
    EmptyGeneration,
    InvalidSetting,
    InvalidText,
    LayoutMismatch,
    MissingFiles,
    ModelError,
    OutOfMemory,
    StorageError,
    UnknownVoice,
    VoiceError,
)

_log = logging.getLogger(__name__)

NEW_VOICE = "Roll a new voice"

DEMONSTRATION = (
    "A demonstration model: synthetic voice, made to try everything with. "
    "Real Bark is one step away: {command} (1.7 GB, downloaded once)."
)

EXAMPLES = (
    "Good evening, and welcome to the studio.",
    "The rain has stopped. Shall we walk home along the river?",
    "I have not seen the sea for seven years, and tonight I can hear it.",
)

# the most particular first
_TITLES: tuple[tuple[type[BarkError], str, str], ...] = (
    (InvalidText, "These words can't be said", "Change the text and generate again."),
    (InvalidSetting, "A setting is out of its range", "Change it and generate again."),
    (LayoutMismatch, "That voice belongs to another model", "Choose another voice."),
    (UnknownVoice, "That voice isn't here", "Choose another voice."),
    (VoiceError, "That voice can't be used", "Choose another voice."),
    (OutOfMemory, "There is too little memory for this", "Close other programs, or shorten it."),
    (EmptyGeneration, "The model fell silent", "Try again with another seed."),
    (MissingFiles, "Some files of the model are missing", "Put them there and start again."),
    (DownloadError, "The model couldn't be downloaded", "Check the connection and start again."),
    (ModelError, "The model can't be loaded", "Choose another one with --model."),
    (StorageError, "It couldn't be kept", "Free some space and try again."),
)


@dataclass(frozen=True, slots=True)
class Notice:
    """An error as a person reads it: what happened, why as far as known, what to do."""

    what: str
    why: str
    do: str


def explain(error: BaseException) -> Notice:
    """Tell an error in three parts. What isn't ours gets a calm sentence and no details."""
    if not isinstance(error, BarkError):
        return Notice(
            "Something went wrong here",
            "It wasn't you; the details are in the log of the program.",
            "Try again.",
        )
    what, do = "It couldn't be made", "Try again."
    for kind, title, advice in _TITLES:
        if isinstance(error, kind):
            what, do = title, advice
            break
    # bark_core's messages say what to do after the last semicolon
    why, found, advice = str(error).rpartition("; ")
    if not found:
        why, advice = str(error), do
    return Notice(what, _sentence(why), _sentence(advice))


def guarded(handler: Callable[..., Any]) -> Callable[..., Any]:
    """Turn a handler's errors into messages of the page; log what nobody expected."""
    if inspect.isasyncgenfunction(handler):

        @functools.wraps(handler)
        async def streaming(*args: Any, **kwargs: Any) -> AsyncIterator[Any]:
            try:
                async for value in handler(*args, **kwargs):
                    yield value
            except Exception as error:
                raise _as_message(error, handler) from error

        return streaming
    if inspect.iscoroutinefunction(handler):
        waiting: Callable[..., Awaitable[Any]] = handler

        @functools.wraps(handler)
        async def awaited(*args: Any, **kwargs: Any) -> Any:
            try:
                return await waiting(*args, **kwargs)
            except Exception as error:
                raise _as_message(error, handler) from error

        return awaited

    @functools.wraps(handler)
    def plain(*args: Any, **kwargs: Any) -> Any:
        try:
            return handler(*args, **kwargs)
        except Exception as error:
            raise _as_message(error, handler) from error

    return plain


def _as_message(error: Exception, handler: Callable[..., Any]) -> gr.Error:
    if isinstance(error, gr.Error):
        return error
    if not isinstance(error, BarkError):
        _log.error("%s failed", handler.__qualname__, exc_info=error)
    notice = explain(error)
    return gr.Error(f"{notice.why} {notice.do}", title=notice.what, print_exception=False)


def _sentence(text: str) -> str:
    text = text.strip()
    if text and text[-1] not in ".!?":
        text += "."
    return text[:1].upper() + text[1:]


def quote(text: str, length: int = 80) -> str:
    """The beginning of a text, for a title."""
    line = " ".join(text.split())
    if len(line) <= length:
        return line
    cut = line[: length - 1]
    whole_words, space, _ = cut.rpartition(" ")
    # scripts without spaces, and endless words, are cut anywhere
    return (whole_words if space and len(whole_words) > length // 2 else cut).rstrip() + "…"


def seconds(value: float) -> str:
    """ "7.3 s", "2 min 10 s"."""
    if value < 59.95:
        return f"{value:.1f} s"
    minutes, rest = divmod(round(value), 60)
    return f"{minutes} min {rest} s" if rest else f"{minutes} min"


def about(value: float) -> str:
    """An estimate, no finer than it can be: "about 4 s", "less than a second"."""
    if value < 1:
        return "less than a second"
    step = next(
        step for limit, step in ((10, 1), (60, 5), (300, 30), (math.inf, 60)) if value < limit
    )
    return f"about {seconds(step * round(value / step)).replace('.0 s', ' s')}"


def count(number: int, one: str, many: str) -> str:
    """ "1 segment", "1,200 segments"."""
    return f"{number:,} {one if number == 1 else many}"

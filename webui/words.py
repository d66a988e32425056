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
    WorkerLost,
)
from webui.access import NotAllowed
from webui.languages import N_, _

_log = logging.getLogger(__name__)

# the most particular first
_TITLES: tuple[tuple[type[BarkError], str, str], ...] = (
    (
        InvalidText,
        N_("These words can’t be said"),
        N_("Change the text and generate again."),
    ),
    (
        InvalidSetting,
        N_("A setting is out of its range"),
        N_("Change it and generate again."),
    ),
    (
        LayoutMismatch,
        N_("That voice belongs to another model"),
        N_("Choose another voice."),
    ),
    (UnknownVoice, N_("That voice isn’t here"), N_("Choose another voice.")),
    (VoiceError, N_("That voice can’t be used"), N_("Choose another voice.")),
    (
        OutOfMemory,
        N_("There is too little memory for this"),
        N_("Close other programs, or shorten it."),
    ),
    (
        WorkerLost,
        N_("The model’s worker stopped while it made this"),
        N_("Try again; if it comes back, choose another text or model."),
    ),
    (EmptyGeneration, N_("The model fell silent"), N_("Try again with another seed.")),
    (
        MissingFiles,
        N_("Some files of the model are missing"),
        N_("Put them there and start again."),
    ),
    (
        DownloadError,
        N_("The model couldn’t be downloaded"),
        N_("Check the connection and start again."),
    ),
    (
        ModelError,
        N_("The model can’t be loaded"),
        N_("Choose another one under System."),
    ),
    (
        NotAllowed,
        N_("That isn’t yours to change"),
        N_("Ask whoever runs this studio."),
    ),
    (StorageError, N_("It couldn’t be kept"), N_("Free some space and try again.")),
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
            _("Something went wrong here"),
            _("It wasn’t you; the details are in the log of the program."),
            _("Try again."),
        )
    what, do = _("It couldn’t be made"), _("Try again.")
    if isinstance(title := getattr(error, "title", None), str):
        what = _(title)  # the page's own errors carry theirs
    for kind, title, advice in _TITLES:
        if isinstance(error, kind):
            what, do = _(title), _(advice)
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
        error.print_exception = False  # it was meant for a person
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
    whole_words, space, _rest = cut.rpartition(" ")
    # scripts without spaces, and endless words, are cut anywhere
    return (whole_words if space and len(whole_words) > length // 2 else cut).rstrip() + "…"


def seconds(value: float) -> str:
    """ "7.3 s", "2 min 10 s"."""
    if value < 59.95:
        return _("{s} s", s=f"{value:.1f}")
    return _minutes(round(value))


def about(value: float) -> str:
    """An estimate, no finer than it can be: "about 4 s", "less than a second"."""
    if value < 1:
        return _("less than a second")
    step = next(
        step for limit, step in ((10, 1), (60, 5), (300, 30), (math.inf, 60)) if value < limit
    )
    rounded = step * round(value / step)
    time = _("{s} s", s=rounded) if rounded < 60 else _minutes(rounded)
    return _("about {time}", time=time)


def _minutes(value: int) -> str:
    minutes, rest = divmod(value, 60)
    return _("{m} min {s} s", m=minutes, s=rest) if rest else _("{m} min", m=minutes)

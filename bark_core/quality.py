"""What seems to be wrong with a segment that was said: told from its sound and its text.

It looks for what a listener notices at once, and would rather miss something than find fault
with a good take: each bound leaves room to the fastest and the slowest speech that there is.
Of 228 good takes of pup (60 sentences, rosa, ralf and new voices, two moods) it doubts none.
"""

from __future__ import annotations

import re
from enum import StrEnum

import numpy as np

from bark_core.text import estimate_duration_s
from bark_core.tokens import Audio


class Problem(StrEnum):
    """What is wrong with a take."""

    NO_END = "no_end"  # it ran into the limit without an end
    SILENT = "silent"  # next to nothing can be heard
    TOO_SHORT = "too_short"  # shorter than the words can be said
    TOO_LONG = "too_long"  # longer than the words can take
    EMPTY = "empty"  # the model ended before it made a sound


# Speech is some 20 dB below full scale, a whisper 40; the codec's own noise lies beneath 50.
AUDIBLE_DB = -45.0  # root mean square of a window
WINDOW_S = 0.05  # about a vowel
LEAST_AUDIBLE_S = 0.1  # "Oh!"
# pup's sentences are audible for 0.4 of their estimated length and more, pauses left out
LEAST_AUDIBLE_SHARE = 0.2

# Twice the average pace is 30 letters a second: nobody can say or follow that. Good takes of pup
# take 0.7 to 1.3 of the estimate, half a second more where there is one word only.
FASTEST = 0.5
SLOWEST = 2.0  # 7.5 letters a second: a dictation
SLOWEST_SUNG = 4.0
SLACK_S = 1.5  # a breath before, a breath after
HESITATION_S = 1.5
CUE_S = 4.0  # a long laugh

_CUE = re.compile(r"\[[^\[\]]{1,60}\]")
_MUSIC = re.compile(r"\[[^\[\]]*music[^\[\]]*\]", re.IGNORECASE)
_HESITATION = re.compile(r"\.{3,}|[…—–]")
_UNSPOKEN = re.compile(r"[^\w\s]|_")
_NUMBER = re.compile(r"\d[\d.,:]*")


def find_problems(text: str, audio: Audio, *, ended: bool) -> tuple[Problem, ...]:
    """What seems to be wrong with a take, nothing for a good one.

    Args:
        text: what was to be said.
        audio: what came of it.
        ended: False if it ran into the limit without an end token.
    """
    silent = (Problem.SILENT,) if is_silent(text, audio) else ()
    return (*find_length_problems(text, audio.duration_s, ended=ended), *silent)


def find_length_problems(text: str, duration_s: float, *, ended: bool) -> tuple[Problem, ...]:
    """What its length alone tells: known as soon as the words are there, before their sound."""
    shortest, longest = plausible_s(text)
    found = {
        Problem.NO_END: not ended,
        # what ran into a limit was cut there, however long its words would have taken
        Problem.TOO_SHORT: ended and duration_s < shortest,
        Problem.TOO_LONG: duration_s > longest,
    }
    return tuple(problem for problem, is_there in found.items() if is_there)


def is_silent(text: str, audio: Audio) -> bool:
    """Whether less can be heard than the words need at the least."""
    shortest, _ = plausible_s(text)
    expected_s = min(shortest / FASTEST, audio.duration_s)  # it may have been cut on purpose
    return audible_s(audio) < max(LEAST_AUDIBLE_S, LEAST_AUDIBLE_SHARE * expected_s)


def audible_s(audio: Audio) -> float:
    """How much of it can be heard: windows above AUDIBLE_DB, in seconds."""
    size = round(WINDOW_S * audio.sample_rate_hz)
    n_windows = len(audio) // size
    windows = audio.samples[: n_windows * size].reshape(n_windows, size).astype(np.float64)
    loud = (windows**2).mean(axis=1) > 10 ** (AUDIBLE_DB / 10)
    return float(np.count_nonzero(loud)) * WINDOW_S


def plausible_s(text: str) -> tuple[float, float]:
    """(shortest, longest) that saying a text can take, generously; cues considered.

    Nothing is too long for music, or for a text of cues alone.
    """
    words, n_cues = _CUE.subn(" ", text)
    # "2,000,000" is short when it is said: for the shortest, a number is a letter
    spoken = " ".join(_UNSPOKEN.sub(" ", _NUMBER.sub("o", words)).split())
    shortest = FASTEST * estimate_duration_s(spoken)
    if not spoken or _MUSIC.search(text):
        return shortest, float("inf")
    slowest = SLOWEST_SUNG if "♪" in words else SLOWEST
    extra = SLACK_S + CUE_S * n_cues + HESITATION_S * len(_HESITATION.findall(words))
    return shortest, slowest * estimate_duration_s(words) + extra

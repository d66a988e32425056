"""pup's semantic tokens: which phone is being said, which third of it, and on what tone.

    base            (phone * 3 + third), for every phone and every cue's sounds: the middle tone
    then, for each further tone, the phones that carry pitch * 3 + third

The tone is the phone's pitch beside the voice's own middle, so that questions, stress and songs
are in the semantic tokens and the coarse stage only has to follow them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

THIRDS = 3

# flite's American English phones, sorted; the index is part of the semantic vocabulary.
SPOKEN: tuple[str, ...] = (
    "aa", "ae", "ah", "ao", "aw", "ax", "ay", "b", "ch", "d", "dh", "eh", "er", "ey",
    "f", "g", "hh", "ih", "iy", "jh", "k", "l", "m", "n", "ng", "ow", "oy", "p", "pau",
    "r", "s", "sh", "t", "th", "uh", "uw", "v", "w", "y", "z", "zh",
)  # fmt: skip
# sounds of the cues: laugh (voiced, breath), breath in and out, gasp, throat, its hum, five notes
CUE_SOUNDS: tuple[str, ...] = (
    "ha", "hx", "bi", "bo", "gs", "tc", "tm", "n1", "n2", "n3", "n4", "n5",
)  # fmt: skip
PHONES = SPOKEN + CUE_SOUNDS
PHONE_INDEX = {name: index for index, name in enumerate(PHONES)}

# phones that carry pitch: vowels and sonorants
PITCHED: tuple[str, ...] = (
    "aa", "ae", "ah", "ao", "aw", "ax", "ay", "eh", "er", "ey", "ih", "iy", "l", "m", "n", "ng",
    "ow", "oy", "r", "uh", "uw", "w", "y",
)  # fmt: skip
PITCHED_INDEX = {name: index for index, name in enumerate(PITCHED)}

# the order is part of the vocabulary; the first one needs no tokens of its own
TONES: tuple[str, ...] = (
    "middle", "low", "high", "top", "stressed", "sung 1", "sung 2", "sung 3", "sung 4",
)  # fmt: skip
MIDDLE, LOW, HIGH, TOP, STRESSED, SUNG = 0, 1, 2, 3, 4, 5
N_SUNG = 4
# semitones from the voice's middle at which low ends, high begins and top begins
LOW_BELOW, HIGH_FROM, TOP_FROM = -2.2, 1.3, 4.2

N_UNITS = len(PHONES) * THIRDS + (len(TONES) - 1) * len(PITCHED) * THIRDS


@dataclass(frozen=True, slots=True)
class Phone:
    """A phone, the time at which it ends in seconds from the start, and its tone."""

    name: str
    end_s: float
    tone: int = MIDDLE


def unit(phone: str, third: int, tone: int) -> int:
    """The semantic token; phones without pitch have the middle tone only."""
    if tone == MIDDLE or phone not in PITCHED_INDEX:
        return PHONE_INDEX[phone] * THIRDS + third
    start = len(PHONES) * THIRDS + (tone - 1) * len(PITCHED) * THIRDS
    return start + PITCHED_INDEX[phone] * THIRDS + third


def parts(token: int) -> tuple[str, int, int]:
    """Phone, third and tone of a semantic token; the inverse of `unit`."""
    base = len(PHONES) * THIRDS
    if token < base:
        return PHONES[token // THIRDS], token % THIRDS, MIDDLE
    tone, rest = divmod(token - base, len(PITCHED) * THIRDS)
    return PITCHED[rest // THIRDS], rest % THIRDS, tone + 1


def tone_of(semitones: float) -> int:
    """The tone of a pitch, in semitones from the voice's middle."""
    if semitones < LOW_BELOW:
        return LOW
    if semitones < HIGH_FROM:
        return MIDDLE
    return HIGH if semitones < TOP_FROM else TOP


def semantic_tokens(phones: tuple[Phone, ...], token_s: float) -> NDArray[np.int16]:
    """Cut phones into tokens of equal length, each of the third its centre is in.

    A phone too short to hold a token's centre takes the token nearest to its middle,
    if the phone that token belonged to has another one left.

    Args:
        phones: in order, at least one.
    Returns:
        int16 [S], S = round(duration / token_s), at least 1.
    """
    ends = np.array([phone.end_s for phone in phones])
    starts = np.concatenate([[0.0], ends[:-1]])
    n_tokens = max(1, round(float(ends[-1]) / token_s))
    centres = (np.arange(n_tokens) + 0.5) * token_s
    owner = np.minimum(np.searchsorted(ends, centres, side="right"), len(phones) - 1)
    span = np.maximum(ends - starts, 1e-6)
    third = ((centres - starts[owner]) / span[owner] * THIRDS).astype(np.int64).clip(0, THIRDS - 1)
    counts = np.bincount(owner, minlength=len(phones))
    for index in np.flatnonzero(counts == 0):
        nearest = int(np.argmin(np.abs(centres - (starts[index] + ends[index]) / 2)))
        if counts[owner[nearest]] > 1:
            counts[owner[nearest]] -= 1
            counts[index] += 1
            owner[nearest], third[nearest] = index, THIRDS // 2
    first = np.array([unit(phone.name, 0, phone.tone) for phone in phones])
    tokens: NDArray[np.int16] = (first[owner] + third).astype(np.int16)
    return tokens

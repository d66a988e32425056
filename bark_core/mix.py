"""One sound of many segments: joined without clicks, at one loudness, over a background.

Each segment is trimmed, brought to the same loudness and faded at its ends; between two of them
lies a pause of exact length. Stems are as long as the whole, and add up to its speech.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bark_core.audio import fade, loudness_lufs, normalize_loudness, resample, trim_silence
from bark_core.errors import InvalidAudio
from bark_core.script import Background
from bark_core.subtitles import Cue
from bark_core.tokens import Audio

LOUDNESS_LUFS = -18.0
PEAK_DB = -1.0
KEEP_S = 0.04  # of the silence at a segment's ends
FADE_S = 0.012  # at a segment's ends, within what was kept
LOOP_FADE_S = 0.5  # of a background that begins again
DUCK_S = 0.25  # how fast it gives way
MAX_TAIL_S = 10.0  # of a background after the last word
MAX_MIX_S = 4 * 3600.0


@dataclass(frozen=True, slots=True)
class Spoken:
    """A segment to be mixed."""

    speaker: str
    text: str
    audio: Audio
    pause_s: float = 0.0  # silence after it


@dataclass(frozen=True, slots=True)
class Mix:
    """What becomes of the segments; all sounds are of the same length and rate.

    Attributes:
        audio: everything; its peak is 1 at most.
        stems: the speech of each speaker, in the order of their first words.
        background: what lies under it, as loud as in the whole.
        cues: who says what, from when to when.
    """

    audio: Audio
    stems: dict[str, Audio]
    background: Audio | None
    cues: tuple[Cue, ...]


def mix(
    spoken: Sequence[Spoken],
    *,
    lead_in_s: float = 0.0,
    background: Background | None = None,
    bed: Audio | None = None,
) -> Mix:
    """Join segments, and put a background under them.

    Args:
        spoken: one at least; of different rates they take that of the first.
        lead_in_s: silence before the first.
        background, bed: how, and the sound itself; both or none of them.

    Raises:
        InvalidAudio: nothing to mix, or more than four hours of it.
    """
    if not spoken:
        raise InvalidAudio("there is no sound to mix; make a segment first")
    rate = spoken[0].audio.sample_rate_hz
    parts = [_prepared(segment.audio, rate) for segment in spoken]
    tail_s = min(background.fade_out_s, MAX_TAIL_S) if background and bed else 0.0
    starts, length = _places(parts, spoken, lead_in_s, tail_s, rate)
    stems = {segment.speaker: np.zeros(length, np.float32) for segment in spoken}
    for segment, part, start in zip(spoken, parts, starts, strict=True):
        stems[segment.speaker][start : start + len(part)] = part
    gain = _gain(np.sum(list(stems.values()), axis=0, dtype=np.float32), rate)
    stems = {name: samples * gain for name, samples in stems.items()}
    layer = None
    if background is not None and bed is not None and len(bed):
        spans = [(start, start + len(part)) for start, part in zip(starts, parts, strict=True)]
        layer = _layer(bed, background, spans, length, rate)
    return _mixed(spoken, stems, layer, starts, parts, rate)


def _prepared(audio: Audio, rate: int) -> NDArray[np.float32]:
    """A segment, trimmed, at the loudness of all, with ends that are silent."""
    trimmed = trim_silence(resample(audio, rate), keep_s=KEEP_S)
    even = normalize_loudness(trimmed, target_lufs=LOUDNESS_LUFS, peak_db=PEAK_DB)
    fade_s = min(FADE_S, even.duration_s / 2)
    return fade(even, in_s=fade_s, out_s=fade_s).samples


def _places(
    parts: Sequence[NDArray[np.float32]],
    spoken: Sequence[Spoken],
    lead_in_s: float,
    tail_s: float,
    rate: int,
) -> tuple[list[int], int]:
    """(first sample of each part, samples of the whole)."""
    place, starts = round(lead_in_s * rate), []
    for part, segment in zip(parts, spoken, strict=True):
        starts.append(place)
        place += len(part) + round(segment.pause_s * rate)
    length = place + round(tail_s * rate)
    if length > MAX_MIX_S * rate:
        raise InvalidAudio(
            f"the whole would last {length / rate / 3600:.1f} hours; at most "
            f"{MAX_MIX_S / 3600:g} are mixed: split the script"
        )
    return starts, max(length, 1)


def _gain(speech: NDArray[np.float32], rate: int) -> np.float32:
    """What brings all speech together to the loudness, as far as its peak allows."""
    peak = float(np.abs(speech).max(initial=0.0))
    loudness = loudness_lufs(Audio(speech, rate))
    if not math.isfinite(loudness) or peak == 0:
        return np.float32(1)
    wanted: float = 10 ** ((LOUDNESS_LUFS - loudness) / 20)
    return np.float32(min(wanted, 10 ** (PEAK_DB / 20) / peak))


def _layer(
    bed: Audio,
    background: Background,
    spans: Sequence[tuple[int, int]],
    length: int,
    rate: int,
) -> NDArray[np.float32]:
    """The background, as long as the whole: looped or cut, faded, out of the speech's way."""
    looped = Audio(_looped(resample(bed, rate).samples, length, rate), rate)
    level = LOUDNESS_LUFS + background.level_db
    even = normalize_loudness(looped, target_lufs=max(level, -70.0), peak_db=PEAK_DB)
    faded = fade(even, in_s=background.fade_in_s, out_s=background.fade_out_s).samples
    if background.duck_db:
        return faded * _ducked(spans, length, rate, background.duck_db)
    return faded


def _looped(samples: NDArray[np.float32], length: int, rate: int) -> NDArray[np.float32]:
    """Repeated until it is long enough, each end faded into the next beginning; then cut."""
    if len(samples) >= length:
        return samples[:length].copy()
    overlap = min(round(LOOP_FADE_S * rate), len(samples) // 4)
    step = len(samples) - overlap
    rise = (0.5 - 0.5 * np.cos(np.pi * np.arange(overlap) / max(overlap, 1))).astype(np.float32)
    out = np.zeros(length + len(samples), np.float32)
    for start in range(0, length, step):
        piece = samples.copy()
        if start and overlap:
            piece[:overlap] *= rise
        if overlap:
            piece[-overlap:] *= 1 - rise
        out[start : start + len(piece)] += piece
    return out[:length]


def _ducked(
    spans: Sequence[tuple[int, int]], length: int, rate: int, duck_db: float
) -> NDArray[np.float32]:
    """Gain of the background at each sample: 1 where nobody speaks."""
    speaking = np.zeros(length, np.float64)
    for start, end in spans:
        speaking[start:end] = 1
    width = max(1, round(DUCK_S * rate))
    # the mean over a window about each sample: straight ramps at both ends of each span
    total = np.concatenate([[0.0], np.cumsum(np.pad(speaking, (width, width), mode="edge"))])
    share = (total[2 * width : 2 * width + length] - total[:length]) / (2 * width)
    gain: NDArray[np.float64] = 10 ** (-duck_db * share / 20)
    return gain.astype(np.float32)


def _mixed(
    spoken: Sequence[Spoken],
    stems: dict[str, NDArray[np.float32]],
    layer: NDArray[np.float32] | None,
    starts: Sequence[int],
    parts: Sequence[NDArray[np.float32]],
    rate: int,
) -> Mix:
    """Add everything up; where that is too loud, all of it is turned down alike."""
    whole: NDArray[np.float32] = np.sum(list(stems.values()), axis=0, dtype=np.float32)
    if layer is not None:
        whole = whole + layer
    peak = float(np.abs(whole).max(initial=0.0))
    scale = np.float32(min(1.0, 10 ** (PEAK_DB / 20) / peak) if peak > 1 else 1.0)
    cues = tuple(
        Cue(segment.text, segment.speaker, start / rate, (start + len(part)) / rate)
        for segment, part, start in zip(spoken, parts, starts, strict=True)
    )
    return Mix(
        Audio(whole * scale, rate),
        {name: Audio(samples * scale, rate) for name, samples in stems.items()},
        None if layer is None else Audio(layer * scale, rate),
        cues,
    )

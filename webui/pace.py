"""How long it will take: learnt from what was made here, never promised."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from bark_core import SegmentResult, Stage, StageProgress, estimate_duration_s

_NEWEST = 0.4  # weight of the newest segment against all before it
_ORDER = tuple(Stage)


@dataclass(frozen=True, slots=True)
class Bars:
    """The three bars of a segment, each 0..1."""

    words: float
    sound: float
    detail: float


class Pace:
    """Computing time per second of sound, for each stage of one loaded model."""

    def __init__(self, semantic_rate_hz: float) -> None:
        self.semantic_rate_hz = semantic_rate_hz
        self._lock = threading.Lock()
        self._seconds: dict[str, float] = {}  # computing per second of sound
        self._stretch = 1.0  # how much longer than estimated it speaks
        self._learnt = 0  # segments

    def learn(self, segment: SegmentResult) -> None:
        duration_s = segment.audio.duration_s
        if duration_s <= 0:
            return
        with self._lock:
            for stage, seconds in segment.seconds.items():
                new = seconds / duration_s
                # the first one had everything to warm up: the second tells more than both
                old = self._seconds.get(stage, new) if self._learnt > 1 else new
                self._seconds[stage] = _blend(old, new)
            self._learnt += 1
            expected = estimate_duration_s(segment.text)
            if segment.ended and expected > 0:
                self._stretch = _blend(self._stretch, duration_s / expected)

    def duration_s(self, text: str) -> float:
        """About how long the sound of a text is."""
        with self._lock:
            return estimate_duration_s(text) * self._stretch

    def computing_s(self, texts: Sequence[str]) -> float | None:
        """About how long it takes to make some segments; None before the first is made."""
        with self._lock:
            per_second = sum(self._seconds.values())
        if not per_second:
            return None
        return per_second * sum(self.duration_s(text) for text in texts)

    def computing_per_s(self) -> float | None:
        """Seconds of computing for a second of sound; None before the first is made."""
        with self._lock:
            return sum(self._seconds.values()) or None

    def bars(self, progress: StageProgress, text: str) -> Bars:
        """Where a segment stands."""
        place, part = _ORDER.index(progress.stage), self._part(progress, text)
        reached = [1.0 if place > index else part if place == index else 0.0 for index in range(3)]
        return Bars(*reached)

    def left_s(self, progress: StageProgress, texts: Sequence[str]) -> float | None:
        """About how long it still takes; None before the first segment is made."""
        with self._lock:
            seconds: Mapping[str, float] = dict(self._seconds)
        if not seconds:
            return None
        place = _ORDER.index(progress.stage)
        here = self.duration_s(texts[progress.segment])
        left = here * (1 - self._part(progress, texts[progress.segment]))
        total = left * seconds.get(progress.stage.value, 0.0)
        total += here * sum(seconds.get(stage.value, 0.0) for stage in _ORDER[place + 1 :])
        return total + (self.computing_s(texts[progress.segment + 1 :]) or 0.0)

    def _part(self, progress: StageProgress, text: str) -> float:
        total = float(progress.total)
        if progress.stage is Stage.SEMANTIC:
            # its total is the most there can be; nobody knows before when it will end
            total = min(total, max(1.0, self.duration_s(text) * self.semantic_rate_hz))
            return min(progress.done / total, 0.95)
        return min(progress.done / max(total, 1.0), 1.0)


def _blend(old: float, new: float) -> float:
    return old + _NEWEST * (new - old)

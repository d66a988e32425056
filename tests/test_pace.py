"""What is expected of the next segment, from those made before."""

from __future__ import annotations

from dataclasses import replace

import pytest

from bark_core import SegmentResult
from tests.made import made
from webui.pace import Pace


def segment(computing_per_s: float) -> SegmentResult:
    """A segment whose stages took that much computing per second of its sound, in all."""
    [one] = made().segments
    total = computing_per_s * one.audio.duration_s
    return replace(one, seconds={"semantic": 0.25 * total, "coarse": 0.75 * total})


def paces(*computing_per_s: float) -> float | None:
    pace = Pace(50.0)
    for value in computing_per_s:
        pace.learn(segment(value))
    return pace.computing_per_s()


def test_nothing_is_expected_before_anything_was_made() -> None:
    assert paces() is None
    assert Pace(50.0).computing_s(["Hello."]) is None


def test_the_first_segment_counts_only_until_there_is_another() -> None:
    assert paces(2.7) == pytest.approx(2.7)
    assert paces(2.7, 0.3) == pytest.approx(0.3)


def test_newer_segments_weigh_more_but_not_all() -> None:
    assert paces(9.0, 1.0, 2.0) == pytest.approx(1.4)

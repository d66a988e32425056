"""Laws of subtitles: every word in its time, none over another, read back the same."""

from __future__ import annotations

import itertools
import math
import unicodedata

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from bark_core.errors import InvalidSetting, InvalidText
from bark_core.script_import import parse_srt
from bark_core.subtitles import Cue, plan_cues, to_srt, to_vtt
from bark_core.text import normalize

SENTENCES = (
    "The quick fox, they say, jumped over Dr. Smith's dog at 3.5 p.m. Really?",
    "速い狐は、怠け者の犬を飛び越えました。「本当ですか？」と彼は言った。",
    "빠른 여우가 게으른 개를 뛰어넘었습니다. 정말인가요? 네, 그렇습니다.",
    "a" * 100,
    "नमस्ते, आप कैसे हैं?",
    "Salt & pepper [laughs] ♪ la ♪",
    "Hm.",
)
TEXTS = st.lists(st.sampled_from(SENTENCES), min_size=1, max_size=4).map(" ".join)
SPEAKERS = st.sampled_from(["Anna", "Bob", "小明"])


@st.composite
def cues(draw: st.DrawFn, *, apart: bool = False) -> list[Cue]:
    """Spoken words, in order; without `apart` they may overlap."""
    result: list[Cue] = []
    place = 0.0
    for _ in range(draw(st.integers(1, 5))):
        start = place + draw(st.floats(0, 5)) if apart else draw(st.floats(0, 10))
        place = start + draw(st.floats(0.5 if apart else 0, 9))
        result.append(Cue(draw(TEXTS), draw(SPEAKERS), start, place))
    return result


def words(text: str) -> str:
    return "".join(text.split())


def width(line: str) -> int:
    wide = sum(unicodedata.east_asian_width(c) in "WF" for c in line)
    marks = sum(unicodedata.category(c) in ("Mn", "Mc", "Me", "Cf") for c in line)
    return len(line) + wide - marks


@given(cues())
def test_cues_never_overlap_and_lose_no_word(spoken: list[Cue]) -> None:
    planned = plan_cues(spoken)
    ordered = sorted(spoken, key=lambda cue: cue.start_s)
    assert words("".join(cue.text for cue in planned)) == words(
        "".join(cue.text for cue in ordered)
    )
    for cue in planned:
        assert cue.start_s < cue.end_s
        assert round(cue.start_s * 1000) / 1000 == cue.start_s
        assert cue.text.count("\n") <= 1
    for cue, following in itertools.pairwise(planned):
        assert cue.end_s <= following.start_s


@given(TEXTS, st.integers(8, 60))
def test_lines_are_no_wider_than_asked(text: str, line_width: int) -> None:
    (first, *_) = planned = plan_cues([Cue(text, "", 0, 60)], line_width=line_width)
    lines = [line for cue in planned for line in cue.text.split("\n")]
    assert max(map(width, lines)) <= line_width + 4  # closing marks may hang over
    assert not any(line != line.strip() for line in lines)
    assert first.start_s == 0 and planned[-1].end_s == 60


@given(cues(apart=True))
def test_times_are_exact_where_nothing_overlaps(spoken: list[Cue]) -> None:
    planned = list(plan_cues(spoken))
    for cue in spoken:
        parts: list[Cue] = []
        while words("".join(part.text for part in parts)) != words(cue.text):
            parts.append(planned.pop(0))
        assert parts[0].start_s == math.floor(cue.start_s * 1000 + 0.5) / 1000
        assert parts[-1].end_s == math.floor(cue.end_s * 1000 + 0.5) / 1000
        assert {part.speaker for part in parts} == {cue.speaker}
    assert not planned


def test_a_long_text_is_shared_in_proportion() -> None:
    first, second = plan_cues([Cue("word " * 30, "", 0, 10)])
    assert first.end_s == second.start_s
    assert first.end_s == pytest.approx(10 * len(first.text) / 150, abs=0.3)


@given(cues(apart=True))
def test_subtitles_are_read_back(spoken: list[Cue]) -> None:
    planned = plan_cues(spoken)
    for script in (parse_srt(to_srt(spoken)), parse_srt(to_vtt(spoken))):
        assert words("".join(line.text for line in script.lines)) == words(
            "".join(cue.text for cue in spoken)
        )
        read = [speaker for speaker, _ in itertools.groupby(x.speaker for x in script.lines)]
        assert read == [speaker for speaker, _ in itertools.groupby(x.speaker for x in spoken)]
        assert script.lines[0].start_s == planned[0].start_s
        assert script.lines[-1].end_s == planned[-1].end_s
    assert [(x.start_s, x.end_s) for x in script.lines] == [(x.start_s, x.end_s) for x in planned]


def test_how_the_files_look() -> None:
    spoken = [Cue("Salt <and> \n pepper --> x", "A & B", 1, 2.0005), Cue("Yes.", "", 3661.5, 3662)]
    assert to_srt(spoken) == (
        "1\n00:00:01,000 --> 00:00:02,001\nA & B: Salt <and> pepper → x\n\n"
        "2\n01:01:01,500 --> 01:01:02,000\nYes.\n"
    )
    assert to_vtt(spoken) == (
        "WEBVTT\n\n00:00:01.000 --> 00:00:02.001\n"
        "<v A &amp; B>Salt &lt;and&gt; pepper --&gt; x\n\n"
        "01:01:01.500 --> 01:01:02.000\nYes.\n"
    )
    assert "A & B" not in to_srt(spoken, speakers=False) + to_vtt(spoken, speakers=False)
    assert to_srt([]) == "" and to_vtt([]) == "WEBVTT\n"


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=80))
@example("--")
def test_any_text_makes_subtitles(text: str) -> None:
    if normalize(text):
        spoken = [Cue(text, text, 0, 1)]
        blocks = to_srt(spoken).removesuffix("\n").split("\n\n")
        assert all(len(block.split("\n")) in (3, 4) for block in blocks)
        assert to_vtt(spoken).count("-->") == len(plan_cues(spoken))


@pytest.mark.parametrize(
    ("start_s", "end_s"),
    [(2.0, 1.0), (-1.0, 1.0), (math.nan, 1.0), (0.0, math.nan), (0.0, math.inf), (0.0, 1e7)],
)
def test_times_that_cannot_be_are_refused(start_s: float, end_s: float) -> None:
    with pytest.raises(InvalidSetting, match="in order"):
        Cue("a", "", start_s, end_s)


def test_no_words_and_no_room_are_refused() -> None:
    with pytest.raises(InvalidText, match="no words"):
        Cue(" ", "", 0, 1)
    with pytest.raises(InvalidSetting, match="at least 8, got 7"):
        plan_cues([Cue("a", "", 0, 1)], line_width=7)

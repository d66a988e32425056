"""Laws of scripts: no word is lost, everything ends, everything refused says why."""

from __future__ import annotations

import itertools
import json
import re
import time
from collections.abc import Callable
from pathlib import Path
from xml.sax.saxutils import escape

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bark_core.errors import BarkError, InvalidRequest, InvalidSetting, InvalidText
from bark_core.request import Settings
from bark_core.script import Background, Line, LineSettings, Script, from_json, to_json
from bark_core.script_import import parse_any, parse_srt, parse_ssml
from bark_core.script_text import is_name, parse_plain, to_text
from bark_core.text import Segment, estimate_duration_s, join_segments, normalize, plan_segments

DOCS = (Path(__file__).resolve().parent.parent / "docs" / "scripts.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(r"^```(\w+)\n(.*?)^```", DOCS, re.MULTILINE | re.DOTALL)

ANY_TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=60)
PIECES = st.sampled_from(
    (
        "Anna:",
        "Anna: Hello",
        "小明：你好",
        ": ",
        "12:30",
        "http://a.b",
        "There is one thing left:",
        "left: run",
        " ",
        "\n",
        "\n\n",
        "\r\n",
        "\f",
        "(pause 0.5)",
        "(pause 500ms)",
        "(pause)",
        "(pause for thought)",
        "{temperature=0.5 seed=7}",
        '{voice="a b"}',
        '{speaker="v2/en"}',
        "{hm}",
        "\\(pause 1)",
        "\\{seed=1}",
        "\\\\",
        "\\",
        "[laughs]",
        "♪ la ♪",
        "e\u0301",
        "\u0301",
        "\u200b",
        "\x07",
        "word",
        "{",
        "}",
        "(",
        ")",
        "-->",
        "1",
        "00:00:01,000 --> 00:00:02,000",
        "<i>",
        "<v Bob>",
        "- ",
        "&amp;",
    )
)
MESSES = st.one_of(ANY_TEXT, st.lists(st.one_of(PIECES, ANY_TEXT), max_size=14).map("".join))


def spoken(script: Script) -> str:
    return " ".join(line.text for line in script.lines)


def words(text: str) -> str:
    """A text without its white space."""
    return "".join(text.split())


def attempt(call: Callable[[], Script]) -> tuple[Script | None, BarkError | None]:
    """The script, or why there is none."""
    try:
        return call(), None
    except BarkError as error:
        return None, error


def plan(text: str, voice: str | None) -> tuple[Segment, ...]:
    return plan_segments(text, count=lambda part: len(words(part)), max_tokens=40, max_duration_s=4)


# -- plain text ------------------------------------------------------------------------------


def test_lines_speakers_pauses_and_settings() -> None:
    script = parse_plain(
        "It was late at\nnight.\n\n"
        "Anna: Have you heard? [laughs]\nBob: {temperature=0.5 seed=7} What? (pause 500ms) Tell!\n"
        "Me! (pause 1)\n\n(pause 2) And now. {fine=0.2, voice='x'}\n: Nobody.\n"
    )
    own = LineSettings(semantic_temperature=0.5, coarse_temperature=0.5, seed=7)
    assert script.lines == (
        Line("", "It was late at night."),
        Line("Anna", "Have you heard? [laughs]"),
        Line("Bob", "What?", None, 0.5, own),
        Line("Bob", "Tell! Me!", None, 1.0, own),
        Line("Bob", "And now.", 2.0, settings=LineSettings(fine_temperature=0.2), voice="'x'"),
        Line("", "Nobody."),
    )
    assert script.speakers == ("", "Anna", "Bob")
    assert dict(script.voices) == {"": None, "Anna": None, "Bob": None}


@pytest.mark.parametrize(
    "text",
    [
        "12:30 is the time.",
        "12: nothing.",
        "http://example.org is a place.",
        "http: that is a scheme.",
        "There was only one thing left to do: run.",
        "We need three things: a, b, c.",
        "Nothing (at all): nothing.",
        "(pause for thought) (Pausen) (pause-less)",
        "{hello} {} [laughs] {a: b}",
        "C:\\temp\\new",
        "# not a comment // nor this",
        "a\tb",
        "a small beginning\nleft: run",
    ],
)
def test_what_only_looks_like_markup_is_spoken(text: str) -> None:
    script = parse_plain(text)
    assert spoken(script) == normalize(text)
    assert script.speakers == ("",)


@pytest.mark.parametrize("name", ["Anna", "Speaker 1", "O'Neil-Smith", "Dr. No", "1st Man", "小明"])
def test_names_begin_a_speakers_words(name: str) -> None:
    for between in (": ", " : ", "：", ":\n", " {seed=1}: ", ": {seed=1} "):
        (line,) = parse_plain(f"{name}{between}Hello").lines
        assert (line.speaker, line.text) == (name, "Hello")


def test_a_backslash_makes_words_of_markup() -> None:
    script = parse_plain("\\(pause 3) \\{seed=7} a \\\\ b \\n\nWarning\\: hot")
    assert [line.text for line in script.lines] == ["(pause 3) {seed=7} a \\ b \\n Warning: hot"]


REFERENCE = re.compile(  # the markup once more, one kind after the other, spans of equal length
    r"\( ?pause:? ?(?:[-+]?[.,]?\d[^()]{0,40})?\)|\{ ?[a-z_]{1,40} ?=[^{}]{0,300}\}",
    re.IGNORECASE | re.ASCII,
)


@given(MESSES.filter(lambda text: not set(text) & set(":：\\")))
def test_plain_text_without_its_markup_is_spoken(text: str) -> None:
    expected = normalize(
        "\n".join(
            REFERENCE.sub(" ", normalize(line)) for line in re.split("[\n\r\x85\u2028]", text)
        )
    )
    script, error = attempt(lambda: parse_plain(text))
    if script is not None:
        assert spoken(script) == expected
    elif isinstance(error, InvalidSetting):
        assert re.search(r"line \d+: ", str(error))
    else:
        assert not expected


LABELS = st.one_of(
    st.sampled_from(["", "Anna", "小明", "the old grey man", "v2/en_speaker_3", "12", "http", "a"]),
    st.text(st.characters(exclude_categories=["Cs"], exclude_characters='"{}'), max_size=20),
)
PAUSES = st.one_of(st.none(), st.integers(0, 30_000).map(lambda ms: ms / 1000))
TEMPERATURES = st.one_of(st.none(), st.floats(0, 5))
LINES = st.builds(
    Line,
    LABELS,
    MESSES.filter(lambda text: normalize(text) != ""),
    PAUSES,
    PAUSES,
    st.builds(
        LineSettings,
        semantic_temperature=TEMPERATURES,
        coarse_temperature=TEMPERATURES,
        fine_temperature=TEMPERATURES,
        seed=st.one_of(st.none(), st.integers(0, 2**63 - 1)),
    ),
    LABELS.filter(lambda name: normalize(name) != ""),
)


@settings(max_examples=30)
@given(st.lists(LINES, min_size=1, max_size=5))
def test_written_text_reads_the_same(lines: list[Line]) -> None:
    script = Script(tuple(lines))
    assert parse_plain(to_text(script)) == script


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("a\n(pause 61) b", "line 2.*61.*0..60"),
        ("(pause -1) b", "line 1.*-1.*0..60"),
        ("a (pause 3 times) b", "line 1.*3 times.*500ms"),
        ("a (pause 40) (pause 40) b", "line 1.*80.*60"),
        ("a\n\nb\n(pause 50)\n(pause 50)", "line 5.*100.*60"),
        ("{temperature=9} a", "line 1.*temperature.*0..5.*'9'"),
        ("{temperature=nan} a", "line 1.*'nan'"),
        ("{fine=-0.1} a", "line 1.*fine.*0..5"),
        ("Bob: a\nAnna: {seed=1.5} b", "line 2.*seed.*'1.5'"),
        (f"{{seed={2**63}}} a", "line 1.*seed"),
        (f"{{seed={'9' * 200}}} a", "line 1.*seed"),
        ("{temprature=0.5} a", "line 1.*'temprature'.*temperature=..., semantic"),
        ("{seed=1 7} a", "line 1.*'7'"),
        ("{seed=1} a {seed=2}", "line 1.*seed.*twice"),
        ("a {seed=1} b", "line 1.*between words"),
        ('{voice=""} a', "line 1.*voice"),
        ("a\n\n{seed=1}", "line 3.*without words"),
    ],
)
def test_bad_settings_name_line_value_and_range(text: str, what: str) -> None:
    with pytest.raises(InvalidSetting, match=what):
        parse_plain(text)


# -- subtitles -------------------------------------------------------------------------------

SRT = """\ufeff1\r
00:00:01,000 --> 00:00:02,500\r
ANNA: Have you\r
<i>heard</i> a < b?\r
\r
2\r
0:04.5 --> 00:00:05.000 X1:1\r
- Heard what?\r
- Bob: {\\an8}42\r
"""


def test_subtitles_become_lines_with_times_and_pauses() -> None:
    script = parse_srt(SRT)
    assert script.lines == (
        Line("ANNA", "Have you heard a < b?", None, 2.0, start_s=1.0, end_s=2.5),
        Line("", "Heard what?", start_s=4.5),
        Line("Bob", "42", end_s=5.0),
    )


def test_webvtt_is_read_too() -> None:
    script = parse_srt(
        "WEBVTT - a title\nKind: captions\n\nNOTE not\nspoken\n\nSTYLE\n::cue {}\n\n"
        "first\n00:01.000 --> 00:02.000 align:start\n<v.loud Anna>Salt &amp; <b>pepper</b></v>\n\n"
        "00:03.000 --> 00:04.000\nNOTE the end\n"
    )
    assert [(line.speaker, line.text) for line in script.lines] == [
        ("Anna", "Salt & pepper"),
        ("Anna", "NOTE the end"),
    ]


def test_missing_numbers_blank_lines_and_early_words_lose_nothing() -> None:
    script = parse_srt(
        "Hello\n\n00:00:01,000 --> 00:00:02,000\n42\n\nmore\n"
        "00:00:03,000 --> 00:00:03,500\n1\n00:00:09,000 --> 00:00:08,000\nback\n\n"
        "00:00:01,000 --> 00:00:01,000\nagain\n"
    )
    assert [line.text for line in script.lines] == ["Hello", "42 more", "1", "back", "again"]
    assert len(script.notes) == 2
    assert script.lines[3].end_s == 9.0


@given(
    st.lists(
        st.text(st.characters(categories=["L", "Nd", "Mn", "Zs"], include_characters=".,!?\n<>&"))
        .filter(lambda text: normalize(text) != "")
        .filter(lambda text: not re.fullmatch(r"\s*\d+\s*", text) and "<" not in text),
        min_size=1,
        max_size=6,
    ),
    st.sampled_from(["\n", "\r\n"]),
    st.booleans(),
)
def test_subtitles_without_numbers_and_times_are_spoken(
    texts: list[str], line_end: str, numbered: bool
) -> None:
    blocks = [
        (f"{number}\n" if numbered else "")
        + f"00:00:{number:02},000 --> 00:00:{number:02},900\n{text}\n"
        for number, text in enumerate(texts, 1)
    ]
    script = parse_srt("\n".join(blocks).replace("\n", line_end))
    assert words(spoken(script)) == words(normalize(" ".join(map(normalize, texts))))
    assert len(script.lines) == len(texts)


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("1\n00:00:01,000 --> soon\na", "line 2.*soon"),
        ("00:00:01,000 --> 00:00:02,000\na\n\n00:01:0x --> 00:02:00\nb", None),
        ("00:00:01,000 --> 00:00:02,000\na\n\n00:00:00:01 --> 00:02:00\nb", "line 4.*00:00:01,500"),
        ("00:00:01,000 --> 00:00:02,000\n\n", "no text to say"),
        ("no times here", "no times"),
        ("", "no times"),
    ],
)
def test_bad_subtitles_say_what_is_wrong(text: str, what: str | None) -> None:
    if what is None:  # not a time at all: words
        assert "0x" in spoken(parse_srt(text))
        return
    with pytest.raises(InvalidText, match=what):
        parse_srt(text)


# -- SSML ------------------------------------------------------------------------------------


def test_the_subset_of_ssml() -> None:
    script = parse_ssml(
        '\n<?xml version="1.0"?><speak version="1.1" xml:lang="en"><!-- not spoken -->'
        "<p>Un<emphasis>believ [laughs]</emphasis>able<break time='1.5s'/>news</p>"
        '<voice name="v2/en_speaker_3"><s>One</s><break strength="weak"/><s>Two</s></voice>'
        '<sub alias="Doctor">Dr <b>x</b></sub> <say-as interpret-as="date">1 May</say-as>'
        '<break strength="none"/> &amp; <mstts:express-as>more</mstts:express-as></speak>'
    )
    assert script.lines == (
        Line("", "UnBELIEV [laughs]able", None, 1.5),
        Line("", "news"),
        Line("v2/en_speaker_3", "One", None, 0.25),
        Line("v2/en_speaker_3", "Two"),
        Line("", "Doctor 1 May & more"),
    )
    assert dict(script.voices) == {"": None, "v2/en_speaker_3": "v2/en_speaker_3"}
    assert [note.split(":")[0] for note in script.notes] == ["Line 2", "Line 2"]


TAGS = (
    "p",
    "s",
    "emphasis level='none'",
    "voice name='x'",
    "say-as",
    "unknown",
    "prosody rate='2'",
)


@st.composite
def ssml(draw: st.DrawFn) -> tuple[str, str]:
    """(markup, its words): tags and text, nested as they may be."""
    valid = st.characters(exclude_categories=["Cs", "Cc"], exclude_characters="\ufffe\uffff")
    tree = st.recursive(
        st.text(valid, max_size=12).map(lambda text: (escape(text), text)),
        lambda inner: st.tuples(st.sampled_from(TAGS), st.lists(inner, max_size=3)).map(
            lambda node: (
                f"<{node[0]}>{''.join(m for m, _ in node[1])}</{node[0].split()[0]}>",
                "".join(w for _, w in node[1]),
            )
        ),
        max_leaves=8,
    )
    markup, text = draw(tree)
    return f"<speak>{markup}<break/>end</speak>", text + "end"


@given(ssml())
def test_ssml_without_its_tags_is_spoken(example: tuple[str, str]) -> None:
    markup, text = example
    script = parse_ssml(markup)
    # composed characters may come apart where a line ends between their parts
    assert words(normalize(words(spoken(script)))) == words(normalize(words(text)))


@pytest.mark.parametrize(
    ("text", "error", "what"),
    [
        ("<speak>a\n<p>b</speak>", InvalidText, "line 2.*mismatched"),
        ("a", InvalidText, "line 1"),
        ("", InvalidText, "line 1"),
        ("<speak> \n</speak>", InvalidText, "no text to say"),
        ("<speak>a &nbsp; b</speak>", InvalidText, "undefined entity"),
        ("<speak>a & b</speak>", InvalidText, "&amp;"),
        ("<speak>\x00</speak>", InvalidText, "line 1"),
        ('<!DOCTYPE a [<!ENTITY b "c">]>\n<speak>&b;</speak>', InvalidText, "line 1.*DOCTYPE"),
        ('\n\n<!doctype a SYSTEM "file:///etc/passwd"><speak/>', InvalidText, "line 3"),
        ("<speak>" + "<b>" * 100 + "a", InvalidText, "line 1.*64"),
        ("<speak>a\n<break time='x'/></speak>", InvalidSetting, "line 2.*'x'.*500ms"),
        ("<speak>a<break time='99s'/></speak>", InvalidSetting, "line 1.*0..60"),
        ("<speak>a<break strength='huge'/></speak>", InvalidSetting, "'huge'.*x-weak"),
        ("<speak><voice name='&quot;'>a</voice></speak>", InvalidText, "line 1.*voice"),
    ],
)
def test_bad_ssml_says_where_and_what(text: str, error: type[BarkError], what: str) -> None:
    with pytest.raises(error, match=what):
        parse_ssml(text)


# -- all of them -----------------------------------------------------------------------------

PARSERS = (parse_plain, parse_srt, parse_ssml, parse_any, from_json)


@given(MESSES, st.sampled_from([None, "a.txt", "a.srt", "a.vtt", "a.ssml", "a.json", "", "\x00"]))
def test_any_text_is_read_or_refused(text: str, filename: str | None) -> None:
    for parse in PARSERS[:3]:
        with_errors(lambda parse=parse: parse(text))  # type: ignore[misc]
    with_errors(lambda: parse_any(text, filename))
    with_errors(lambda: parse_any(f"<speak>{text}</speak>"))
    with_errors(lambda: parse_srt(f"00:01,0 --> 00:02,0\n{text}"))


def with_errors(call: Callable[[], Script]) -> None:
    script, error = attempt(call)
    if script is None:
        assert str(error)
    else:
        assert script.lines
        assert from_json(to_json(script)) == script


@pytest.mark.parametrize("parse", PARSERS)
@pytest.mark.parametrize("text", ["a\ud800", b"a", None, 5, "a" * 30_000_000])
def test_what_is_no_text_is_refused(parse: Callable[[object], Script], text: object) -> None:
    with pytest.raises(InvalidRequest):
        parse(text)


NASTY = (
    "(", "{", "[", "\\", "a:", "a: ", "<", "&", "-", "(pause ", "(pause 1", "(pause 1) ", "{a=",
    "{seed=1}\n", "a {seed=1}\n", "<v ", "<i ", "{\\", " ", "\n", "1\n", "\u0301", "a ", "0:0 -->",
    "00:00:01,000 --> 00:00:02,000\nab\n", "0", "00:", "<b>", "\f", "♪",
)  # fmt: skip


@pytest.mark.parametrize("piece", NASTY)
def test_time_grows_with_the_text_only(piece: str) -> None:
    text = piece * (50_000 // len(piece))
    timed = f"00:00:01,000 --> 00:00:02,000\n{text}"
    started = time.process_time()
    attempt(lambda: parse_plain(text))
    attempt(lambda: parse_srt(timed))
    attempt(lambda: parse_ssml(f"<speak>{text}</speak>"))
    assert time.process_time() - started < 4


def test_too_many_words_are_refused() -> None:
    for parse in (parse_plain, parse_any):
        with pytest.raises(InvalidText, match=r"100,001.*100,000"):
            parse("a" * 100_001)


@pytest.mark.parametrize(
    ("text", "filename", "speaker"),
    [
        ("Anna: Hi", "a.txt", "Anna"),
        ("Anna: Hi", None, "Anna"),
        (SRT, None, "ANNA"),
        (SRT, "A.SRT", "ANNA"),
        ("WEBVTT\n\n00:01.000 --> 00:02.000\n<v Anna>Hi", None, "Anna"),
        ("<speak><voice name='Anna'>Hi</voice></speak>", "a.txt", "Anna"),
        ("{hm} Hi", "a.txt", ""),
        (to_json(Script((Line("Anna", "Hi"),))), None, "Anna"),
    ],
)
def test_any_kind_is_told_apart(text: str, filename: str | None, speaker: str) -> None:
    assert parse_any(text, filename).speakers[0] == speaker


@pytest.mark.parametrize(("kind", "example"), EXAMPLES, ids=[kind for kind, _ in EXAMPLES])
def test_the_examples_in_the_docs_run(kind: str, example: str) -> None:
    if kind == "python":
        exec(compile(example, "docs/scripts.md", "exec"), {})
        return
    speakers = {"text": ("", "Anna", "Bob"), "srt": ("ANNA", ""), "xml": ("v2/en_speaker_6", "")}
    assert parse_any(example).speakers == speakers[kind]


# -- the script itself -----------------------------------------------------------------------


@settings(max_examples=30)
@given(st.lists(LINES, max_size=5), st.floats(0, 3))
def test_segments_lose_nothing_and_keep_every_pause(lines: list[Line], line_pause_s: float) -> None:
    script = Script(tuple(lines))
    planned = script.segments(plan=plan, line_pause_s=line_pause_s)
    by_line = itertools.groupby(planned, key=lambda item: item[0])
    groups = [(index, [part for _, part in parts]) for index, parts in by_line]
    assert [index for index, _ in groups] == list(range(len(lines)))
    for (index, parts), line in zip(groups, lines, strict=True):
        assert join_segments(parts) == line.text
        for part in parts:
            assert len(words(part.text)) <= 40
            assert estimate_duration_s(part.text) <= 4.0001 or len(part.text) == 1
        following = lines[index + 1].pause_before_s if index + 1 < len(lines) else 0.0
        given_s = [pause for pause in (line.pause_after_s, following) if pause is not None]
        assert parts[-1].pause_s == (sum(given_s) if given_s else line_pause_s)


def test_each_line_is_planned_with_its_voice() -> None:
    script = Script(
        (Line("A", "One.", 1.5), Line("B", "Two."), Line("A", "Three.", voice="own")),
        {"A": "first"},
    )
    asked: list[tuple[str, str | None]] = []

    def remember(text: str, voice: str | None) -> tuple[Segment, ...]:
        asked.append((text, voice))
        return plan(text, voice)

    script.segments(plan=remember)
    assert asked == [("One.", "first"), ("Two.", None), ("Three.", "own")]
    assert script.lead_in_s == 1.5
    assert Script(()).segments(plan=plan) == []


def test_own_settings_replace_only_what_they_name() -> None:
    own = LineSettings(coarse_temperature=0.1)
    changed = own.apply(Settings())
    assert changed.coarse.temperature == 0.1
    assert changed.semantic == Settings().semantic
    assert changed.fine == Settings().fine


SCRIPTS = st.builds(
    Script,
    st.lists(LINES, max_size=4).map(tuple),
    st.dictionaries(LABELS, st.one_of(st.none(), LABELS), max_size=3),
    ANY_TEXT,
    st.one_of(
        st.none(),
        st.builds(Background, prompt=st.just("[music]"), level_db=st.floats(-60, 0)),
        st.builds(Background, file=st.just("rain.flac"), fade_in_s=st.floats(0, 60)),
    ),
    st.lists(ANY_TEXT, max_size=2).map(tuple),
)


@settings(max_examples=30)
@given(SCRIPTS)
def test_json_keeps_everything(script: Script) -> None:
    assert from_json(to_json(script)) == script
    assert parse_any(to_json(script)) == script


def test_json_keeps_locks_and_times() -> None:
    script = Script((Line("A", "Hi", start_s=1.25, end_s=2, locked=True),))
    assert from_json(to_json(script)) == script


HEAD = '{"format": "bark-studio-script", "version": 1'
LINE = '"speaker": "A", "text": "b"'


@pytest.mark.parametrize(
    ("text", "error", "what"),
    [
        ("", InvalidText, "JSON"),
        ("{", InvalidText, "JSON"),
        ("[" * 100_000, InvalidText, "JSON"),
        ("[]", InvalidText, "object"),
        ("{}", InvalidText, "format"),
        ('{"format": "other"}', InvalidText, "format"),
        ('{"format": "bark-studio-script", "version": 2}', InvalidText, "version 2.*version 1"),
        ('{"format": "bark-studio-script", "version": true}', InvalidText, "version True"),
        (HEAD + "}", InvalidText, "lines"),
        (HEAD + ', "lines": {}}', InvalidText, "list.*dict"),
        (HEAD + ', "lines": [], "lines": []}', InvalidText, "twice"),
        (HEAD + ', "lines": [], "x": 1}', InvalidText, "'x'.*known are format"),
        (HEAD + ', "lines": [], "title": 1}', InvalidText, "title"),
        (HEAD + ', "lines": [], "notes": [1]}', InvalidText, "note"),
        (HEAD + ', "lines": [], "voices": []}', InvalidText, "voices"),
        (HEAD + ', "lines": [], "voices": {"a": 1}}', InvalidText, "voice"),
        (HEAD + ', "lines": [], "background": {}}', InvalidSetting, "prompt or a file"),
        (HEAD + ', "lines": [], "background": {"prompt": 5}}', InvalidText, "string"),
        (HEAD + ', "lines": [], "background": {"prompt": " "}}', InvalidText, "empty"),
        (HEAD + ', "lines": [5]}', InvalidText, "line 1.*object"),
        (HEAD + ', "lines": [{"text": "a"}]}', InvalidText, "line 1.*speaker"),
        (HEAD + ', "lines": [{"speaker": "", "text": " "}]}', InvalidText, "line 1.*no words"),
        (HEAD + f', "lines": [{{{LINE}, "x": 1}}]}}', InvalidText, "line 1.*'x'"),
        (HEAD + f', "lines": [{{{LINE}, "locked": 1}}]}}', InvalidSetting, "line 1.*locked.*1"),
        (HEAD + f', "lines": [{{{LINE}, "voice": 1}}]}}', InvalidText, "line 1.*string"),
        (HEAD + f', "lines": [{{{LINE}, "start_s": -1}}]}}', InvalidSetting, "line 1.*start_s"),
        (HEAD + f', "lines": [{{{LINE}, "start_s": NaN}}]}}', InvalidSetting, "NaN"),
        (HEAD + f', "lines": [{{{LINE}, "start_s": 1e999}}]}}', InvalidSetting, "inf"),
        (HEAD + f', "lines": [{{{LINE}, "start_s": {"9" * 4000}}}]}}', InvalidSetting, "start_s"),
        (HEAD + f', "lines": [{{{LINE}, "start_s": {"9" * 9000}}}]}}', InvalidText, "JSON"),
        (HEAD + f', "lines": [{{{LINE}, "start_s": [[]]}}]}}', InvalidSetting, "got list"),
        (HEAD + f', "lines": [{{{LINE}, "settings": {{"seed": 0.5}}}}]}}', InvalidSetting, "seed"),
        (HEAD + f', "lines": [{{{LINE}, "settings": {{"top": 5}}}}]}}', InvalidText, "'top'"),
        (HEAD + f', "lines": [{{{LINE}, "settings": null}}]}}', InvalidText, "settings"),
        (HEAD + ', "lines": [{"speaker": "\\ud800", "text": "a"}]}', InvalidText, "half"),
        (HEAD + ', "lines": [{"speaker": "\\"", "text": "a"}]}', InvalidText, "speaker"),
    ],
)
def test_json_is_strict(text: str, error: type[BarkError], what: str) -> None:
    with pytest.raises(error, match=what):
        from_json(text)


FIELDS = st.sampled_from(["speaker", "text", "settings", "seed", "lines", "prompt"])
JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.floats(), st.text(max_size=5)),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(FIELDS, inner)),
    max_leaves=6,
)


@given(JSON, st.sampled_from(["lines", "voices", "background", "title", "notes"]))
def test_any_json_is_a_script_or_refused(value: object, where: str) -> None:
    content = json.loads(HEAD + ', "lines": [{"speaker": "", "text": "a"}]}')
    for changed in (value, [value]):
        text = json.dumps(content | {where: changed})
        script, error = attempt(lambda text=text: from_json(text))  # type: ignore[misc]
        assert str(error) if script is None else from_json(to_json(script)) == script


@pytest.mark.parametrize(
    ("name", "is_one"),
    [
        ("", False),
        ("a" * 40, True),
        ("a" * 41, False),
        ("12", False),
        ("1a", True),
        ("HTTPS", False),
        ("मोहन", True),
        ("The Man in Black", True),
        ("what the old man said", False),
        ("-a", False),
        ("a/b", False),
    ],
)
def test_what_a_name_is(name: str, is_one: bool) -> None:
    assert is_name(name) == is_one

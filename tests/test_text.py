"""Laws of text: nothing visible is lost, nothing is too long, it always ends."""

from __future__ import annotations

import itertools
import time
import unicodedata
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bark_core.errors import InvalidSetting, InvalidText
from bark_core.text import (
    Segment,
    estimate_duration_s,
    join_segments,
    normalize,
    plan_segments,
    spell_numbers,
)
from bark_core.tokenizer import Tokenizer

SENTENCES = {
    "en": "The quick fox, they say, jumped over Dr. Smith's dog at 3.5 p.m. Really?",
    "de": "Der schnelle Fuchs springt über den müden Hund; das ist schön! Nicht wahr?",
    "es": "¿Qué tal? El zorro rápido salta, según dicen, sobre el perro perezoso.",
    "fr": "L'été dernier, le renard a sauté par-dessus le chien… n'est-ce pas ?",
    "hi": "नमस्ते, आप कैसे हैं? तेज़ लोमड़ी आलसी कुत्ते के ऊपर से कूद गई।",
    "it": "La volpe veloce è saltata sopra il cane pigro, perché no? Così è la vita.",
    "ja": "速い狐は、怠け者の犬を飛び越えました。「本当ですか？」と彼は言った。",
    "ko": "빠른 여우가 게으른 개를 뛰어넘었습니다. 정말인가요? 네, 그렇습니다.",
    "pl": "Szybki lis przeskoczył, jak mówią, nad leniwym psem. Żółć i gęś, prawda?",
    "pt": "A raposa rápida saltou, dizem, sobre o cão preguiçoso. Não é verdade?",
    "ru": "Быстрая лиса перепрыгнула, говорят, через ленивую собаку. Не правда ли?",
    "tr": "Hızlı tilki, derler ki, tembel köpeğin üzerinden atladı. Değil mi?",
    "zh": "敏捷的狐狸跳过了懒狗，真的吗？是的；他说：「没错！」然后走了。",
    "th": "สุนัขจิ้งจอกกระโดดข้ามสุนัขขี้เกียจ",
}
EXTRAS = (
    " ",
    " ",
    "\n",
    "\n\n",
    "\t",
    "[laughs]",
    "♪ la la ♪",
    "e\u0301",
    "\u200b",
    "1,200",
    "👩‍👩‍👧",
    "🇩🇪",
)


def letters(text: str) -> int:
    """A stand-in for a tokenizer: a token a visible character."""
    return len(text.replace(" ", ""))


@st.composite
def prose(draw: st.DrawFn) -> tuple[str, str]:
    """(text, language): pieces of one language's sentences, mixed with cues and marks."""
    language = draw(st.sampled_from(sorted(SENTENCES)))
    sentence = SENTENCES[language]
    start = st.integers(0, len(sentence) - 1)
    piece = st.one_of(
        st.just(sentence),
        st.builds(lambda a, b: sentence[min(a, b) : max(a, b) + 1], start, start),
        st.sampled_from(EXTRAS),
    )
    return "".join(draw(st.lists(piece, min_size=1, max_size=14))), language


def check_plan(
    text: str, plan: tuple[Segment, ...], max_tokens: int, max_duration_s: float
) -> None:
    assert join_segments(plan) == normalize(text)
    for segment in plan:
        assert segment.text == normalize(segment.text) != ""
        assert letters(segment.text) <= max_tokens
        seconds = estimate_duration_s(segment.text)
        assert seconds <= max_duration_s + 1e-6 or len(segment.text) == 1
        assert segment.pause_s >= 0
    assert plan[-1].pause_s == 0


@settings(max_examples=80, deadline=None)
@given(prose(), st.integers(1, 300), st.floats(0.05, 20.0))
def test_no_character_lost_and_no_segment_too_long(
    text_in: tuple[str, str], max_tokens: int, max_duration_s: float
) -> None:
    text, language = text_in
    if not normalize(text):
        return
    options = {"max_tokens": max_tokens, "max_duration_s": max_duration_s, "language": language}
    plan = plan_segments(text, count=letters, **options)  # type: ignore[arg-type]
    check_plan(text, plan, max_tokens, max_duration_s)
    assert plan == plan_segments(text, count=letters, **options)  # type: ignore[arg-type]


@settings(max_examples=100, deadline=None)
@given(
    st.text(st.characters(exclude_categories=["Cs"]), max_size=60), st.sampled_from(["en", "ja"])
)
def test_any_unicode_is_planned_or_is_blank(text: str, language: str) -> None:
    try:
        plan = plan_segments(
            text, count=letters, max_tokens=9, max_duration_s=3.0, language=language
        )
    except InvalidText:
        assert normalize(text) == ""
    else:
        check_plan(text, plan, 9, 3.0)


@settings(max_examples=60, deadline=None)
@given(prose(), st.integers(2, 60))
def test_no_segment_is_without_tokens(text_in: tuple[str, str], max_tokens: int) -> None:
    tokenizer = Tokenizer.from_vocabulary(["[UNK]", *"abcdefgh", *(f"##{c}" for c in "abcdefgh")])
    text, language = text_in
    if tokenizer.count(text) == 0:
        return
    plan = plan_segments(
        text, count=tokenizer.count, max_tokens=max_tokens, max_duration_s=5.0, language=language
    )
    assert join_segments(plan) == normalize(text)
    assert all(1 <= tokenizer.count(segment.text) <= max_tokens for segment in plan)


@settings(max_examples=80, deadline=None)
@given(prose())
def test_letters_keep_their_marks(text_in: tuple[str, str]) -> None:
    text, language = text_in
    if not normalize(text):
        return
    plan = plan_segments(text, count=letters, max_tokens=25, max_duration_s=15.0, language=language)
    for before, after in itertools.pairwise(plan):
        if not before.space_after:
            assert unicodedata.category(after.text[0])[0] != "M"
            assert before.text[-1] != "\u200d" != after.text[0]


@settings(max_examples=100, deadline=None)
@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=40))
def test_normalize_is_stable_and_keeps_what_is_seen(text: str) -> None:
    once = normalize(text)
    assert normalize(once) == once
    seen = [c for c in unicodedata.normalize("NFC", text) if c.isprintable() and c != " "]
    # dropping a control character may bring a letter and its mark together
    assert unicodedata.normalize("NFD", "".join(seen)) == unicodedata.normalize(
        "NFD", "".join(c for c in once if c.isprintable() and c != " ")
    )


def test_normalize_by_example() -> None:
    assert normalize("  a\u00a0\tb\r\n\u3000c \x00d\x07 ") == "a b c d"
    assert normalize("e\u0301") == "é"
    assert normalize("") == normalize(" \n ") == ""
    assert normalize("नमस्\u200dते") == "नमस्\u200dते"


@pytest.mark.parametrize("text", ["a \ud83d b", "\udc00", "\ud800\ud800"])
def test_half_a_character_is_refused(text: str) -> None:
    with pytest.raises(InvalidText, match=r"half a character \(U\+D"):
        normalize(text)
    with pytest.raises(InvalidText, match="half a character"):
        plan_segments(text, count=letters, max_tokens=9, max_duration_s=9.0)


def plan(text: str, **options: object) -> list[str]:
    defaults: dict[str, object] = {"max_tokens": 256, "max_duration_s": 13.1, "count": letters}
    return [s.text for s in plan_segments(text, **{**defaults, **options})]  # type: ignore[arg-type]


def test_short_sentences_are_joined() -> None:
    assert plan("One. Two! Three?") == ["One. Two! Three?"]


def test_sentences_stay_whole_where_they_fit() -> None:
    sentence = "This sentence takes about four seconds to say aloud, as it is."
    assert plan(" ".join([sentence] * 6)) == [" ".join([sentence] * 3)] * 2


def test_long_sentence_ends_at_clauses() -> None:
    text = ", ".join(["this clause goes on for quite a while and then some"] * 9) + "."
    pieces = plan(text)
    assert len(pieces) > 2
    assert all(piece.endswith((",", ".")) for piece in pieces)
    lengths = [len(piece) for piece in pieces]
    assert max(lengths) < 2 * min(lengths)


def test_without_marks_it_ends_at_spaces() -> None:
    words = ["word"] * 200
    assert [word for piece in plan(" ".join(words)) for word in piece.split()] == words


def test_without_spaces_it_ends_between_characters() -> None:
    pieces = plan("a" * 1000)
    assert "".join(pieces) == "a" * 1000
    assert all(len(piece) <= 197 for piece in pieces)


def test_chinese_and_japanese_end_at_their_own_marks() -> None:
    for language, mark in (("zh", "，"), ("ja", "、")):
        pieces = plan(("很好很好很好很好" + mark) * 12 + "很。", language=language)
        assert len(pieces) > 1
        assert all(piece.endswith((mark, "。")) for piece in pieces)


def test_paragraph_always_ends_a_segment_and_pauses_longer() -> None:
    segments = plan_segments(
        "One. \r\n \t\r\n Two.\nThree.\u2029Four.",
        count=letters, max_tokens=256, max_duration_s=15.0, pause_s=0.25,
    )  # fmt: skip
    assert [s.text for s in segments] == ["One.", "Two. Three.", "Four."]
    assert [s.pause_s for s in segments] == [0.5, 0.5, 0.0]


def test_pause_is_shorter_within_a_sentence() -> None:
    clause = "a clause that goes on for quite a while and then some more of it"
    text = f"{clause}, {clause}, {clause} {clause} {clause} {clause} {clause}. {clause}."
    segments = plan_segments(text, count=letters, max_tokens=256, max_duration_s=10.0, pause_s=0.4)
    for segment in segments[:-1]:
        expected = {",": 0.2, ".": 0.4}.get(segment.text[-1], 0.0)
        assert segment.pause_s == pytest.approx(expected)


@pytest.mark.parametrize("cue", ["[clears throat]", "[laughs]", "♪ a short song, just so ♪"])
def test_cue_is_not_split(cue: str) -> None:
    for before in range(170, 200):
        text = "word " * (before // 5) + "x" * (before % 5) + f"{cue} and so on and on. " * 3
        assert sum(piece.count(cue) for piece in plan(text)) == 3


def test_emoji_and_flags_stay_whole() -> None:
    family, flag, thumb = "👩‍👩‍👧", "🇩🇪", "👍🏽"
    pieces = plan((family + " " + flag + " " + thumb + " ") * 20, max_tokens=7)
    assert {word for piece in pieces for word in piece.split()} == {family, flag, thumb}


@pytest.mark.parametrize("text", ["", " ", "\n\n\t", "\x00\x07", "\u3000"])
def test_nothing_to_say_is_refused(text: str) -> None:
    with pytest.raises(InvalidText, match="no text to say"):
        plan(text)


def test_silent_text_is_refused() -> None:
    tokenizer = Tokenizer.from_vocabulary(["[UNK]", "a"])
    with pytest.raises(InvalidText, match="no text to say"):
        plan("\u200b \n\n\u200b", count=tokenizer.count)


def test_silent_paragraph_joins_its_neighbour() -> None:
    tokenizer = Tokenizer.from_vocabulary(["[UNK]", "a"])
    assert plan("\u200b\n\na\n\n\u200b\n\na", count=tokenizer.count) == ["\u200b a", "\u200b a"]


def test_limits_must_be_positive() -> None:
    with pytest.raises(InvalidSetting, match="positive"):
        plan("a", max_tokens=0)
    with pytest.raises(InvalidSetting, match="positive"):
        plan("a", max_duration_s=float("nan"))


def test_character_of_too_many_tokens_is_named() -> None:
    with pytest.raises(InvalidText, match="'é' alone has 2 tokens"):
        plan("é", count=lambda text: len(text.encode()), max_tokens=1)


def test_voice_goes_to_every_segment() -> None:
    marker: Any = object()
    segments = plan_segments(
        "a\n\nb", count=letters, max_tokens=9, max_duration_s=9.0,
        voice=marker,
    )  # fmt: skip
    assert all(segment.voice is marker for segment in segments)


@pytest.mark.parametrize(
    "unit",
    ["a", "Hello. ", "a b ", "hi\n\n", "\u0301", "♪ la ", "[x", "., ", "[laughs]", "好", "1."],
)
def test_huge_text_is_planned_in_reasonable_time(unit: str) -> None:
    text = unit * (30_000 // len(unit))
    started = time.process_time()
    check_plan(
        text, plan_segments(text, count=letters, max_tokens=256, max_duration_s=15.0), 256, 15
    )
    assert time.process_time() - started < 10


def test_dense_scripts_take_longer_a_character() -> None:
    english = estimate_duration_s("a" * 150)
    assert english == pytest.approx(10.0)
    for character in "好あ한ก5":
        assert estimate_duration_s(character * 150) > english


@pytest.mark.parametrize(
    ("text", "spoken"),
    [
        ("the 1st, 2nd and 23rd", "the first, second and twenty-third"),
        ("3.5 and 3.14", "three point five and three point one four"),
        ("1,200 eggs", "one thousand two hundred eggs"),
        ("at 12:30 or 5:00 pm", "at twelve thirty or five pm"),
        ("12:00, 9:05", "twelve o'clock, nine oh five"),
        ("$5, $1 and $2.50", "five dollars, one dollar and two dollars and fifty cents"),
        ("€3 million", "three million euros"),
        ("50% off", "fifty percent off"),
        ("in 1905 and 2024", "in nineteen oh-five and twenty twenty-four"),
        ("the 1990s and '80s", "the nineteen nineties and 'eighties"),
        ("1999–2004, 10-20", "nineteen ninety-nine to two thousand and four, ten to twenty"),
        ("mp3, B52, 3D", "mp three, B fifty-two, three D"),
        ("-5 or +5", "minus five or plus five"),
        ("agent 007.", "agent zero zero seven."),
        ("1/2 a cup", "one half a cup"),
        ("no numbers", "no numbers"),
    ],
)  # fmt: skip
def test_english_numbers_are_spelled(text: str, spoken: str) -> None:
    assert spell_numbers(text, "en") == spoken
    assert spell_numbers(text, "en-GB") == spoken


def test_other_languages_are_spelled_where_known() -> None:
    assert spell_numbers("1.200 für 3,5", "de") == "eintausendzweihundert für drei Komma fünf"
    assert spell_numbers("21 ans", "fr") == "vingt et un ans"
    assert spell_numbers("3", "tlh") == "3"


@settings(max_examples=150, deadline=None)
@given(
    st.text(st.sampled_from("0123456789٣१   .,:/-–$€£%°#+'stndrhpam𝟘"), max_size=30),
    st.sampled_from([*SENTENCES, "", "xx", "ar", "cs", "fa"]),
)
def test_spelling_never_raises_and_leaves_no_digit_in_english(text: str, language: str) -> None:
    spoken = spell_numbers(text, language)
    if language == "en":
        assert not any(c.isdecimal() for c in spoken)


@pytest.mark.parametrize("unit", ["1", "1,", "123,", "1-", "1:", "1.", "$1 ", "1/", "1st"])
def test_spelling_takes_reasonable_time(unit: str) -> None:
    started = time.process_time()
    spell_numbers(unit * (30_000 // len(unit)), "en")
    assert time.process_time() - started < 10

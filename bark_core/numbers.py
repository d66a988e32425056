"""Numbers as words, for models that have not learned digits.

English gets ordinals, decimals, thousands, clock times, money, shares, ranges, fractions and
years; the other languages that num2words knows get whole numbers and decimals. What can't be
said stays as it is: this never raises and never drops anything.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable

import num2words

_MAX_DIGITS = 15  # longer ones are codes and card numbers, said digit by digit
_YEARS = range(1100, 2100)  # 1984 is a year; 1000 and 2100 are amounts

# what num2words and the tables here raise; what can't be said stays as it was typed
_CANNOT_SAY = (
    ArithmeticError,
    AttributeError,
    LookupError,
    NotImplementedError,
    TypeError,
    ValueError,
)

# words of the decimal mark; in the second table it is a comma, and points group digits
_POINT_WORDS = {"ja": "点", "ko": "점", "th": "จุด"}
_COMMA_WORDS = {
    "de": "Komma", "es": "coma", "fr": "virgule", "it": "virgola", "nl": "komma",
    "pl": "przecinek", "pt": "vírgula", "ru": "запятая", "tr": "virgül", "uk": "кома",
}  # fmt: skip
_POINT_NUMBER = re.compile(r"(\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.(\d+))?")
_COMMA_NUMBER = re.compile(r"(\d{1,3}(?:\.\d{3})+(?!\d)|\d+)(?:,(\d+))?")

_WHOLE = r"(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)"
_MONEY = {"$": ("dollar", "cent"), "€": ("euro", "cent"), "£": ("pound", "penny")}
_MONEY_AMOUNT = (
    rf"(?P<unit>[$€£]) ?(?P<amount>{_WHOLE})"
    r"(?:\.(?P<cents>\d\d)(?!\d)|(?P<share>\.\d+))?"
    r"(?: (?P<scale>thousand|million|billion|trillion)\b)?"
)
_CLOCK_TIME = (
    r"(?<![\d:])(?P<hour>[01]?\d|2[0-3]):(?P<minute>[0-5]\d)(?![\d:])"
    r"(?P<half> ?[ap](?:m\b|\.m\.))?"
)
_SHARES = {"%": "percent", "°": "degrees", "‰": "per mille"}
_FRACTIONS = {
    "1/2": "one half", "1/3": "one third", "2/3": "two thirds",
    "1/4": "one quarter", "3/4": "three quarters",
}  # fmt: skip


def spell_numbers(text: str, language: str = "en") -> str:
    """Write the numbers of `text` as words of `language`.

    Args:
        language: an ISO 639-1 code; a region ("en-GB") is ignored. In a language that
            num2words doesn't know, digits stay digits.
    """
    base = re.split(r"[-_]", language, maxsplit=1)[0].lower()
    if not any(character.isdecimal() for character in text):
        return text
    if base == "en":
        for pattern, say in _ENGLISH:
            text = _replace(pattern, say, text)
        return text
    if base not in num2words.CONVERTER_CLASSES:
        return text
    pattern = _COMMA_NUMBER if base in _COMMA_WORDS else _POINT_NUMBER
    return _replace(pattern, lambda match: _plain(match, base), text)


def _replace(pattern: re.Pattern[str], say: Callable[[re.Match[str]], str], text: str) -> str:
    """Put what `say` returns in the place of each match, set apart from what is beside it."""

    def put(match: re.Match[str]) -> str:
        try:
            said = say(match)
        except _CANNOT_SAY:
            return match[0]
        if not said:
            return " "
        start, end = match.span()
        before = " " if start and text[start - 1].isalnum() else ""
        after = " " if end < len(text) and (text[end].isalnum() or text[end] in _MONEY) else ""
        return before + said + after

    return pattern.sub(put, text)


@functools.cache
def _digit_words(language: str) -> tuple[str, ...]:
    return tuple(str(num2words.num2words(digit, lang=language)) for digit in range(10))


def _digits(digits: str, language: str) -> str:
    words = _digit_words(language)
    return " ".join(words[int(digit)] for digit in digits)


def _cardinal(number: str, language: str = "en", to: str = "cardinal") -> str:
    digits = "".join(character for character in number if character.isdecimal())
    if len(digits) > _MAX_DIGITS or (len(digits) > 1 and int(digits[0]) == 0):
        return _digits(digits, language)
    return str(num2words.num2words(int(digits), lang=language, to=to)).replace(",", "")


def _plain(match: re.Match[str], language: str) -> str:
    whole, decimals = _cardinal(match[1], language), match[2]
    if not decimals:
        return whole
    word = _POINT_WORDS.get(language) or _COMMA_WORDS.get(language)
    if word is None:
        return match[0]
    return f"{whole} {word} {_digits(decimals, language)}"


def _english_number(match: re.Match[str]) -> str:
    whole, decimals = match["whole"], match["decimals"]
    if not decimals and len(whole) == 4 and int(whole) in _YEARS:
        return _cardinal(whole, to="year")
    # 1.2.3 is a version, and said the same way
    parts = [_digits(part, "en") for part in decimals.split(".")[1:]]
    return " point ".join([_cardinal(whole), *parts])


def _english_money(match: re.Match[str]) -> str:
    name, small_name = _MONEY[match["unit"]]
    amount, cents, scale = match["amount"], match["cents"], match["scale"]
    if match["share"] or scale:
        share = match["share"] or (f".{cents}" if cents else "")
        said = _cardinal(amount) + (f" point {_digits(share[1:], 'en')}" if share else "")
        return f"{said} {scale} {name}s" if scale else f"{said} {name}s"
    said = f"{_cardinal(amount)} {name}" + ("" if _is_one(amount) else "s")
    if not cents or int(cents) == 0:
        return said
    plural = "pence" if small_name == "penny" else f"{small_name}s"
    return f"{said} and {_cardinal(str(int(cents)))} {small_name if int(cents) == 1 else plural}"


def _is_one(amount: str) -> bool:
    return amount.isdecimal() and len(amount) <= _MAX_DIGITS and int(amount) == 1


def _english_time(match: re.Match[str]) -> str:
    hour, minute = int(match["hour"]), int(match["minute"])
    half = f" {match['half'].strip()}" if match["half"] else ""
    said = _cardinal(str(hour))
    if minute == 0:
        return said + half if half else f"{said} o'clock" if 1 <= hour <= 12 else f"{said} hundred"
    return f"{said} {'oh ' if minute < 10 else ''}{_cardinal(str(minute))}{half}"


def _english_hyphen(match: re.Match[str]) -> str:
    low, high = match[1], match[2]
    telephone = len(low) == 3 and len(high) == 4
    is_range = len(high) <= len(low) + 1 <= 8 and int(low) < int(high) and not telephone
    return f"{low} to" if is_range else low


def _english_decade(match: re.Match[str]) -> str:
    said = _cardinal(match[1], to="year" if len(match[1]) == 4 else "cardinal")
    return said.removesuffix("y") + "ies" if said.endswith("y") else f"{said}s"


# in this order: each leaves digits for the next
_ENGLISH: tuple[tuple[re.Pattern[str], Callable[[re.Match[str]], str]], ...] = tuple(
    (re.compile(pattern, re.IGNORECASE), say)
    for pattern, say in (
        (r"(?<!\w)#(?=\d)", lambda match: "number"),
        (r"(?<!\w)\+(?=\d)", lambda match: "plus"),
        (r"(?<![\w)\]])[-−](?=[$€£]?\d)", lambda match: "minus"),
        (r"(?<=\d) ?– ?(?=\d)", lambda match: "to"),
        (r"(?<![\d-])(\d+)-(?=(\d+)(?![\d-]))", _english_hyphen),
        (r"(?<=\d)-(?=\d)", lambda match: ""),
        (r"(?<=\d) ?[%°‰]", lambda match: _SHARES[match[0].strip()]),
        (_MONEY_AMOUNT, _english_money),
        (_CLOCK_TIME, _english_time),
        (r"(?<![\d/.])\d/\d(?![\d/])", lambda match: _FRACTIONS[match[0]]),
        (r"(?<=\d) ?/ ?(?=\d)", lambda match: "slash"),
        (
            rf"(?<!\d)(?<!\d,)({_WHOLE})(?:st|nd|rd|th)\b",
            lambda match: _cardinal(match[1], to="ordinal"),
        ),
        (r"(?<!\d)(\d0|[12]\d\d0)'?s\b", _english_decade),
        (rf"(?P<whole>{_WHOLE})(?P<decimals>(?:\.\d+)*)", _english_number),
    )
)

"""Training text: an endless, seeded supply of varied English sentences.

Five sources are mixed: a phrase grammar over a lexicon, hand-written prose (also recombined),
short lists of words from a wider dictionary, figures, and one- or two-word prompts. Words of the
dictionary, and names that nobody bears, also stand in the grammar's places, so that letters are
learnt to be read and not only words. Sentences consist of
ASCII letters, spaces and the marks ``.,?!'-;:`` only; numbers are spelled as words.
"""

from __future__ import annotations

import random
import re
import tomllib
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from functools import cache
from itertools import accumulate
from pathlib import Path
from typing import Literal

import num2words

MAX_CHARS = 150
"""Longest sentence, in characters."""

SHARES = {"grammar": 0.42, "prose": 0.18, "wide": 0.30, "figures": 0.06, "brief": 0.04}
"""Share of each source among the sentences drawn."""

KINDS = {
    "plain": 0.66,
    "question": 0.14,
    "command": 0.07,
    "shout": 0.05,
    "quote": 0.05,
    "pause": 0.03,
}
"""Share of each kind of pattern among the grammar's sentences."""

LONGEST = {"grammar": 120, "prose": MAX_CHARS, "wide": 110, "figures": 120, "brief": 30}
"""Longest sentence of each source, in characters; longer draws are thrown away."""

SHORT = {"grammar": 46, "prose": 30, "wide": 52, "figures": 40, "brief": 0}
"""Below this many characters a draw is thrown away more often than not."""

SHORT_KEPT = 0.25
"""Share of the short draws that are kept all the same, 0 to 1."""

UNIFORM_SHARE = 0.85
"""Share of lexicon draws that ignore rank and prefer words seldom heard so far."""

RIVALS = 6
"""How many words compete in such a draw; the one heard least wins."""

SCARCE_SHARE = 0.25
"""Share of the words in word lists that are the least heard lexicon words so far."""

WIDE_SHARE = 0.15
"""Share of the grammar's content words without an ending that any dictionary word replaces."""

WIDE_NAME_SHARE = 0.5
"""Share of the grammar's names of people and places that a rare or invented name replaces."""

INVENTED_SHARE = 0.4
"""Of those, and of the capitalised words in word lists, how many are invented."""

SWAP_SHARE = 0.45
"""Share of the swappable words of a recombined prose sentence that are replaced."""

SCARCE_POOL = 300
"""How many of the least heard words a scarce word is drawn from, once they are refreshed."""

_TEXT = Path(__file__).parent / "text"
_DICTIONARIES = (Path("/usr/share/dict/american-english-large"), Path("/usr/share/dict/words"))
_ALLOWED = re.compile(r"[A-Za-z .,?!'\-;:]+")
_SLOT = re.compile(r"\{(\w+)(?:\+(\w+))?\}")
_WORD = re.compile(r"[A-Za-z]+(?:'[a-z]+)?")
_ARTICLE = re.compile(r"\b([Aa])n? (?=([A-Za-z]+))")
_VOWEL_SOUND = re.compile(
    r"(?!uni(?!n|m)|us[eu]|eu|ewe|one\b|once\b|uten|utop|ur[aio]n)[aeiou]|hour|honest|heir|honor",
    re.IGNORECASE,
)
_CARRIERS = (
    "{0}, {1}.", "{0}, {1}, {2}.", "{0} {1}, {2} {3}, {4} {5}.", "{0} and {1}, {2} and {3}.",
    "{0}, {1}, {2}, {3}.", "{0}, {1}, {2}, {3}, {4}.",
    "{0}, {1} and {2}.", "{0}, {1}, and {2}.", "{0} and {1}.", "{0} or {1}?", "{0}, or {1}?",
    "{0} {1}.", "{0} {1} {2}.", "{0} {1} {2} {3}.", "{0} {1}, {2} {3}.", "{0}; {1}; {2}.",
    "The word is {0}.", "Say {0}.", "Say {0} again.", "Say {0}, then say {1}.", "Now say {0}.",
    "Please read {0} and {1}.", "She wrote {0}, {1} and {2}.", "He spelled {0} twice.",
    "The next words are {0}, {1}, {2}, and {3}.", "Is it {0} or {1}?", "I said {0}, not {1}.",
    "Did you say {0}?", "What does {0} mean?", "We found {0} and {1} on the list.",
    "They asked about {0}, {1}, and {2}.", "First {0}, then {1}, and last {2}.",
    "The {0} of the {1}.", "The {0} was {1}.", "A {0} and a {1}.", "No {0}, no {1}!",
    "It was {0}, {1}, {2} and {3}.", "Some {0}, some {1}, and a {2}.", "He thought of {0}...",
    "{0}, {1}, {2}; {3}, {4}, {5}.", "{0}: {1}, {2}, {3}.", "{0} - {1}.",
    "The {0} {1} {2} the {3}.", "Not {0}, but {1}.",
    "{0} {1}, {2} {3}, {4} {5}, {6} {7}.", "{0}, {1}, {2}, {3}, {4}, {5}, and {6}.",
    "You can put {0} after {1}.", "{0}, {1}, {2}, {3}, {4}, {5}.", "Her {0} and his {1}.",
    "{0} is before {1}, and {2} is after it.", "Write {0}!", "{0}!", "{0}?", "{0}.",
    "The list has {0}, {1}, {2}, {3}, and {4}.", "Is {0} longer than {1}, {2} or {3}?",
    "{0}, {1} {2}, {3}, and {4} {5}.", "On the page were {0}, {1}, {2}, {3} and {4}.",
    "The {0} {1} was {2}, but the {3} was not.", "{0} or {1}, {2} or {3}, {4} or {5}?",
)  # fmt: skip
_FIGURES = (
    "{She} paid {0} dollars for the {noun}.", "There were {0} {nouns} in {city}.",
    "In {1}, {clause}.", "{It} cost {0} dollars and {2} cents.", "{It} was built in {1}.",
    "{She} was born on {3}, {1}.", "On {3}, {they} {did}.", "The number is {4}.",
    "Call me at {4}, please.", "{It} is {5} miles from {city} to {city}.",
    "Only {5} percent of {ones} were {quality}.", "Page {0}, line {2}.",
    "The train to {city} leaves at {6}.", "{They} met at {6} on {3}.",
    "Please meet {him} at {6}.", "Chapter {2}, verse {2}.", "{She} has {0} {nouns} and {2} more.",
    "Add {2} to {0}.", "{0}, {2}, {0}.", "{She} counted {2}, {2}, {2}, {2}.",
    "Flight {4} to {city} is late.", "{She} came in {7} of {2} {person+s}.",
    "It was the {7} of the {nouns}.", "{She} ran {5} miles in {2} minutes.",
    "{She} lives at {0} {family} Street, {city}.", "From {1} to {1}, {they} {did}.",
)  # fmt: skip
_MINUTES = ("", " thirty", " fifteen", " forty five", " ten", " oh five")
_JOINTS = (", and ", ", but ", " while ", " because ", ", so ", " and then ", "; ", " when ", " - ")


def sentences(seed: int, count: int) -> Iterator[str]:
    """Yield ``count`` distinct sentences of 1 to 150 characters, the same for the same seed.

    No held-out sentence is among them, whatever its case and punctuation.
    """
    return Composer(seed).compose(count)


def held_out(name: Literal["prose", "open"]) -> list[str]:
    """Read a held-out list: everyday ``prose`` or the rarer words and names of ``open``."""
    return _lines("held_out.txt" if name == "prose" else "held_out_open.txt")


def normalised(sentence: str) -> str:
    """Reduce a sentence to its lower-case letters, by which sentences are compared."""
    return "".join(re.findall("[a-z]", sentence.lower()))


class Composer:
    """Draws sentences and keeps count of the words heard, so that none stays rare."""

    def __init__(self, seed: int) -> None:
        """Start from ``seed``, any integer."""
        self._random = random.Random(seed)
        self._lexicon = _lexicon()
        self._phrases = _phrases()
        self._patterns = _patterns()
        self._prose = _lines("prose.txt")
        self._wide, self._names = _wide_words(), _wide_names()
        self._heard: Counter[str] = Counter()
        self._scarce: list[str] = []
        self._unused_wide: list[str] = []
        self._banned = {normalised(line) for line in (*held_out("prose"), *held_out("open"))}
        self._unseen = unseen_words()

    def compose(self, count: int) -> Iterator[str]:
        """Yield ``count`` distinct sentences."""
        seen: set[str] = set()
        while len(seen) < count:
            sentence = self._draw()
            if sentence not in seen and normalised(sentence) not in self._banned:
                seen.add(sentence)
                self._heard.update(word.lower() for word in _WORD.findall(sentence))
                yield sentence

    def _draw(self) -> str:
        source = self._pick_share(SHARES)
        while True:
            sentence = _finished(self._from(source))
            if self._accepts(sentence, source):
                return sentence

    def _accepts(self, sentence: str, source: str) -> bool:
        if len(sentence) > LONGEST[source] or not _ALLOWED.fullmatch(sentence):
            return False
        if any(word.lower() in self._unseen for word in _WORD.findall(sentence)):
            return False
        return len(sentence) >= SHORT[source] or self._random.random() < SHORT_KEPT

    def _from(self, source: str) -> str:
        if source == "grammar":
            return self._expand(self._random.choice(self._patterns[self._pick_share(KINDS)]))
        if source == "prose":
            return self._from_prose()
        if source == "wide":
            return self._from_wide()
        if source == "figures":
            return self._from_figures()
        return self._expand(self._random.choice(self._patterns["brief"]))

    def _pick_share(self, shares: dict[str, float]) -> str:
        return self._random.choices(list(shares), list(shares.values()))[0]

    def _expand(self, pattern: str) -> str:
        return _SLOT.sub(lambda slot: self._fill(slot[1], slot[2] or ""), pattern)

    def _fill(self, name: str, form: str) -> str:
        if name in self._phrases:
            return _in_form(self._expand(self._random.choice(self._phrases[name])), form)
        if not form and name in _rare_places() and self._random.random() < WIDE_SHARE:
            return self._rare_word()
        if name in _NAME_PLACES and self._random.random() < WIDE_NAME_SHARE:
            return self._rare_name()
        return _inflected(self._lexicon_word(name), form).replace("_", " ")

    def _lexicon_word(self, name: str) -> str:
        words = self._lexicon[name]
        if self._random.random() < UNIFORM_SHARE:
            return min(self._random.choices(words, k=RIVALS), key=self._times_heard)
        return self._random.choices(words, cum_weights=_zipf(len(words)))[0]

    def _times_heard(self, entry: str) -> int:
        return self._heard[entry.partition("/")[0].lower()]

    def _from_prose(self) -> str:
        way = self._random.random()
        sentence = self._random.choice(self._prose)
        if way < 0.2:
            return sentence
        if way < 0.4:
            return self._joined(sentence, self._random.choice(self._prose))
        return self._swapped(sentence)

    def _joined(self, first: str, second: str) -> str:
        joint = self._random.choice(_JOINTS if _is_main_clause(second) else _JOINTS[:2])
        return self._swapped(first.rstrip(".?!") + joint + _lowered(second))

    def _swapped(self, sentence: str) -> str:
        return _WORD.sub(lambda word: self._swap(word[0]), sentence)

    def _swap(self, word: str) -> str:
        places = _places().get(word)
        if places is None or self._random.random() > SWAP_SHARE:
            return word
        name, form = places
        return _inflected(self._lexicon_word(name), form).replace("_", " ")

    def _from_wide(self) -> str:
        carrier = self._random.choice(_CARRIERS)
        return re.sub(r"\{\d\}", lambda _: self._wide_word(), carrier)

    def _wide_word(self) -> str:
        way = self._random.random()
        if way < SCARCE_SHARE:
            return self._scarce_word()
        return self._rare_name() if way > 0.85 else self._rare_word()

    def _rare_word(self) -> str:
        """Any word of the dictionary, each once before any comes again."""
        if not self._unused_wide:
            self._unused_wide = self._random.sample(self._wide, len(self._wide))
        return self._unused_wide.pop()

    def _rare_name(self) -> str:
        if self._random.random() < INVENTED_SHARE:
            return self._invented_name()
        return self._random.choice(self._names)

    def _invented_name(self) -> str:
        """A name that follows the dictionary's three letters at a time."""
        following = _following()
        while True:
            name = "^^"
            while not name.endswith("$") and len(name) < 16:
                name += self._random.choice(following[name[-2:]])
            letters = name.strip("^$")
            if name.endswith("$") and 4 <= len(letters) <= 12:
                return letters.capitalize()

    def _from_figures(self) -> str:
        """A sentence with numbers of all kinds, written as words."""
        pattern = self._random.choice(_FIGURES)
        pattern = re.sub(r"\{(\d)\}", lambda slot: self._figure(int(slot[1])), pattern)
        return self._expand(re.sub(r"\{([A-Z]\w+)\}", lambda m: f"{{{m[1].lower()}}}", pattern))

    def _figure(self, kind: int) -> str:
        """Number, year, small number, date, row of digits, decimal, time, ordinal: 0 to 7."""
        pick = self._random.randint
        if kind == 0:
            return self._in_words(pick(10, 10 ** pick(2, 6)))
        if kind == 1:
            year = pick(1, 99)
            tail = self._in_words(year) if year > 9 else f"oh {self._in_words(year)}"
            return f"{self._in_words(pick(11, 20))} {tail}"
        if kind == 2:
            return self._in_words(pick(1, 99))
        if kind == 3:
            return self._expand(
                self._random.choice(("{month} the {ordinals}", "the {ordinals} of {month}"))
            )
        if kind == 4:
            return " ".join(self._in_words(pick(0, 9)) for _ in range(pick(3, 7)))
        if kind == 5:
            digits = " ".join(self._in_words(pick(0, 9)) for _ in range(pick(1, 2)))
            return f"{self._in_words(pick(0, 99))} point {digits}"
        if kind == 6:
            return self._in_words(pick(1, 23)) + self._random.choice(_MINUTES)
        return self._in_words(pick(1, 99), "ordinal")

    def _in_words(self, number: int, kind: str = "cardinal") -> str:
        """A whole number in words without commas, half of the time with hyphens."""
        words = str(num2words.num2words(number, to=kind)).replace(",", "")
        return words if self._random.random() < 0.5 else words.replace("-", " ")

    def _scarce_word(self) -> str:
        if not self._scarce:
            rarest = sorted(_vocabulary(), key=lambda word: (self._heard[word.lower()], word))
            self._scarce = self._random.sample(rarest[:SCARCE_POOL], min(SCARCE_POOL, len(rarest)))
        return self._scarce.pop()


def _finished(sentence: str) -> str:
    """Mend articles and set the capital and the spacing."""
    sentence = _ARTICLE.sub(_article, sentence.strip())
    sentence = re.sub(r"(^'?|(?<!\.)[.?!] '?|, ')([a-z])", lambda m: m[1] + m[2].upper(), sentence)
    return re.sub(r" {2,}", " ", sentence)


def _article(match: re.Match[str]) -> str:
    return f"{match[1]}n " if _VOWEL_SOUND.match(match[2]) else f"{match[1]} "


def _lowered(sentence: str) -> str:
    """Lower the first letter unless it begins a name or ``I``."""
    first = _WORD.match(sentence)
    if first is None or first[0] in _proper() or re.match(r"I\b", sentence):
        return sentence
    return sentence[0].lower() + sentence[1:]


def _is_main_clause(sentence: str) -> bool:
    opening = sentence.partition(" ")[0].lower()
    return sentence.endswith(".") and opening not in _table("function")["conjunctions"].split()


def _in_form(phrase: str, form: str) -> str:
    return phrase if not form else _inflected(phrase, form)


def _inflected(entry: str, form: str) -> str:
    """Give the ``form`` of a lexicon entry such as ``take/took/taken``, ``bus`` or ``happy``."""
    base, _, rest = entry.partition("/")
    past, _, participle = rest.partition("/")
    if form == "ed":
        return past or _with_ed(base)
    if form == "en":
        return participle or _with_ed(base)
    if form == "ing":
        return _with_ing(base)
    if form == "s":
        return _with_s(base)
    if form in ("er", "est"):
        return _compared(base, form)
    return base


def _with_s(word: str) -> str:
    irregular = {**_table("plurals"), "have": "has", "be": "is", "go": "goes", "do": "does"}
    if word in irregular:
        return irregular[word]
    if re.search(r"[^aeiou]y$", word):
        return word[:-1] + "ies"
    return word + ("es" if re.search(r"(s|x|z|ch|sh)$", word) and word != "stomach" else "s")


def _with_ed(word: str) -> str:
    if word.endswith("e"):
        return word + "d"
    if re.search(r"[^aeiou]y$", word):
        return word[:-1] + "ied"
    return _stem(word) + "ed"


def _with_ing(word: str) -> str:
    if word == "panic":
        return "panicking"
    if word.endswith("ie"):
        return word[:-2] + "ying"
    if word.endswith("e") and not word.endswith(("ee", "ye", "oe")) and word != "be":
        return word[:-1] + "ing"
    return _stem(word) + "ing"


def _compared(word: str, ending: str) -> str:
    irregular = _table("comparatives")
    if word in irregular:
        return irregular[word].split()[ending == "est"]
    if _is_long(word):
        return f"{'more' if ending == 'er' else 'most'} {word}"
    if word.endswith("e"):
        return word + ending[1:]
    if word.endswith("y"):
        return word[:-1] + "i" + ending
    return _stem(word) + ending


def _is_long(word: str) -> bool:
    syllables = len(re.findall(r"[aeiouy]+", word.removesuffix("e")))
    return syllables > 2 or (syllables == 2 and not word.endswith("y"))


def _stem(word: str) -> str:
    """Double the last letter where spelling asks for it, as in ``stopped``."""
    short = re.fullmatch(r"[^aeiou]*(?:qu)?[aeiou][^aeiouwxy]", word)
    return word + word[-1] if short or word in _table("double")["words"].split() else word


def _lines(name: str) -> list[str]:
    lines = (_TEXT / name).read_text(encoding="ascii").splitlines()
    return [line.strip() for line in lines if line.strip()]


@cache
def _tables() -> dict[str, dict[str, str]]:
    return tomllib.loads((_TEXT / "lexicon.toml").read_text(encoding="ascii"))


def _table(name: str) -> dict[str, str]:
    return _tables()[name]


@cache
def _lexicon() -> dict[str, list[str]]:
    """Lexicon entries by class, commonest first."""
    tables = (_table(t) for t in _tables() if t not in ("plurals", "comparatives", "double"))
    return {name: list(dict.fromkeys(words.split())) for t in tables for name, words in t.items()}


@cache
def _grammar() -> dict[str, dict[str, list[str]]]:
    return tomllib.loads((_TEXT / "patterns.toml").read_text(encoding="ascii"))


def _phrases() -> dict[str, list[str]]:
    return _grammar()["phrases"] | _grammar()["helpers"]


def _patterns() -> dict[str, list[str]]:
    return _grammar()["patterns"]


@cache
def _vocabulary() -> tuple[str, ...]:
    """Every base form of the lexicon, once."""
    entries = (entry for words in _lexicon().values() for entry in words)
    return tuple(dict.fromkeys(e.partition("/")[0] for e in entries if "_" not in e))


@cache
def _proper() -> frozenset[str]:
    return frozenset(word for name in _table("names") for word in _lexicon()[name])


@cache
def _zipf(size: int) -> Sequence[float]:
    return list(accumulate(1.0 / (rank + 3) for rank in range(size)))


@cache
def _places() -> dict[str, tuple[str, str]]:
    """Class and form of the words that stand in one class only, and so may be swapped."""
    found: dict[str, set[tuple[str, str]]] = defaultdict(set)
    for table, forms in _SWAPPABLE.items():
        for name in _table(table):
            for entry in _lexicon()[name]:
                for form in forms:
                    found[_inflected(entry, form)].add((name, form))
    blocked = {w for words in _table("function").values() for w in words.split()} | _UNSWAPPED
    return {w: next(iter(p)) for w, p in found.items() if len(p) == 1 and w not in blocked}


_UNSWAPPED = {
    "next", "last", "back", "right", "real", "single", "top", "side", "end", "kind", "sort",
    "rest", "way", "times", "lot",
}  # fmt: skip
_SWAPPABLE = {
    "nouns": ("", "s"), "adjectives": ("",), "names": ("",),
}  # fmt: skip


@cache
def _rare_places() -> frozenset[str]:
    """Classes of the lexicon in which any word will do."""
    return _places_of("nouns", "adjectives", "verbs")


@cache
def _places_of(*tables: str) -> frozenset[str]:
    return frozenset(name for table in tables for name in _table(table))


_NAME_PLACES = frozenset({"girl", "boy", "family", "city"})


def unseen_words() -> frozenset[str]:
    """Words of the open held-out list that no training text holds, in lower case."""
    known = {form.lower() for form in _all_forms()}
    for line in (*_lines("prose.txt"), *held_out("prose")):
        known |= {word.lower() for word in _WORD.findall(line)}
    found = {word.lower() for line in held_out("open") for word in _WORD.findall(line)}
    return frozenset(found - known)


@cache
def _all_forms() -> frozenset[str]:
    """Every form of every word of the lexicon and of the grammar's patterns."""
    forms = ("", "s", "ed", "en", "ing", "er", "est")
    entries = (entry for words in _lexicon().values() for entry in words)
    found = {part for e in entries for f in forms for part in _inflected(e, f).split("_")}
    groups = (*_phrases().values(), *_patterns().values(), _FIGURES, _CARRIERS)
    plain = (_SLOT.sub(" ", text) for texts in groups for text in texts)
    return frozenset(found.union(*(_WORD.findall(text) for text in plain)))


@cache
def _dictionary() -> tuple[str, ...]:
    """Every line of the word list, or the lexicon where there is none."""
    for path in _DICTIONARIES:
        if path.exists():
            return tuple(path.read_text(encoding="utf-8").split())
    return _vocabulary()


@cache
def _wide_words() -> list[str]:
    """Lower-case dictionary words of 2 to 14 letters; not the words that stay unseen."""
    unseen = unseen_words()
    return [w for w in _dictionary() if re.fullmatch(r"[a-z]{2,14}", w) and w not in unseen]


@cache
def _wide_names() -> list[str]:
    """The dictionary's names of 3 to 13 letters; not the words that stay unseen."""
    unseen = unseen_words()
    names = (w for w in _dictionary() if re.fullmatch(r"[A-Z][a-z]{2,12}", w))
    return [name for name in names if name.lower() not in unseen] or sorted(_proper())


@cache
def _following() -> dict[str, str]:
    """The letters that follow each two in the names, as often as they do; ^ begins, $ ends."""
    found: dict[str, list[str]] = defaultdict(list)
    for name in _wide_names():
        letters = f"^^{name.lower()}$"
        for index in range(2, len(letters)):
            found[letters[index - 2 : index]].append(letters[index])
    return {pair: "".join(letters) for pair, letters in found.items()}

"""What people type: single sentences and short ones, paragraphs, capitals, dots, cues, songs."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterator

from training.sentences import held_out, normalised, sentences

MAX_CHARS = 195
"""Longest prompt: what takes about 13 seconds."""

CUES = ("[laughs]", "[laughter]", "[sighs]", "[gasps]", "[clears throat]", "[music]")
"""Cues in brackets; words between ♪ are sung."""

_CUE_ODDS = (0.24, 0.06, 0.2, 0.17, 0.17, 0.16)
_SHARES = {
    "plain": 0.39,
    "paragraph": 0.22,
    "typed": 0.05,  # without capital and final mark
    "word": 0.04,
    "capitals": 0.09,
    "dots": 0.06,
    "cue": 0.10,
    "song": 0.05,
}
_WORD = re.compile(r"[A-Za-z]+(?:'[a-z]+)?")


def prompts(seed: int, count: int) -> Iterator[str]:
    """Yield `count` prompts, the same for the same seed; no held-out sentence is in any."""
    return _Typist(seed).type(count)


class _Typist:
    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)
        self._sentences = sentences(seed, 10_000_000)
        self._banned = [normalised(line) for line in (*held_out("prose"), *held_out("open"))]

    def type(self, count: int) -> Iterator[str]:
        done = 0
        while done < count:
            kind = self._random.choices(list(_SHARES), list(_SHARES.values()))[0]
            prompt = self._made(kind)
            letters = normalised(prompt)
            if len(prompt) <= MAX_CHARS and not any(line in letters for line in self._banned):
                done += 1
                yield prompt

    def _made(self, kind: str) -> str:
        sentence = next(self._sentences)
        if kind == "paragraph":
            return self._paragraph(sentence)
        if kind == "typed":
            return sentence.rstrip(".").lower() if sentence.endswith(".") else sentence.lower()
        if kind == "word":
            return self._word(sentence)
        if kind == "capitals":
            return self._in_capitals(sentence)
        if kind == "dots":
            return self._with_dots(sentence)
        if kind == "cue":
            return self._with_cues(sentence)
        if kind == "song":
            return self._with_song(sentence)
        return sentence

    def _paragraph(self, first: str) -> str:
        """Sentences up to a length, now and then with one of the other ways among them."""
        longest = self._random.randint(70, MAX_CHARS - 5)
        text = first
        while True:
            following = next(self._sentences)
            if self._random.random() < 0.25:
                ways = (self._in_capitals, self._with_dots, self._with_cues, self._with_song)
                change: Callable[[str], str] = self._random.choices(ways, (4, 3, 5, 2))[0]
                following = change(following)
            if len(text) + 1 + len(following) > longest:
                return text
            text = f"{text} {following}"

    def _word(self, sentence: str) -> str:
        word: str = self._random.choice(_WORD.findall(sentence))
        mark = self._random.choice(["", "", ".", ".", "!", "?"])
        return (word if self._random.random() < 0.4 else word.capitalize()) + mark

    def _in_capitals(self, sentence: str) -> str:
        words = [m for m in _WORD.finditer(sentence) if len(m[0]) > 1]
        n_words = min(len(words), self._random.choice([1, 1, 1, 1, 2, 2, 3, len(words)]))
        for match in self._random.sample(words, n_words):
            sentence = sentence[: match.start()] + match[0].upper() + sentence[match.end() :]
        return sentence

    def _with_dots(self, sentence: str) -> str:
        dots = "…" if self._random.random() < 0.2 else "..."
        places = [m.start() for m in re.finditer(r"(?<=[A-Za-z]) ", sentence)]
        if not places or self._random.random() < 0.25:
            return sentence.rstrip(".?!'") + dots
        place = self._random.choice(places)
        return sentence[:place] + dots + sentence[place:]

    def _with_cues(self, sentence: str) -> str:
        for _ in range(self._random.choice([1, 1, 1, 2])):
            cue = self._random.choices(CUES, _CUE_ODDS)[0]
            way = self._random.random()
            spaces = [m.start() for m in re.finditer(r" (?=[A-Za-z])", sentence)]
            if way < 0.08:
                sentence = cue
            elif way < 0.35:
                sentence = f"{cue} {sentence}"
            elif way < 0.65 or not spaces:
                sentence = f"{sentence} {cue}"
            else:
                place = self._random.choice(spaces)
                sentence = f"{sentence[:place]} {cue}{sentence[place:]}"
        return sentence

    def _with_song(self, sentence: str) -> str:
        words = " ".join(_WORD.findall(sentence)[:8])
        song = f"♪ {words} ♪"
        way = self._random.random()
        if way < 0.6:
            return song
        other = next(self._sentences)
        return f"{song} {other}" if way < 0.8 else f"{other} {song}"

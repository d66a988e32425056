"""How a sentence is delivered: pauses by mark, questions that rise, stress, songs, and cues.

Works on flite's phones before its vocoder: rows of 5 ms of which the pitch and the level are
changed and which are repeated or left out. Times are in seconds, pitches in semitones.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from training.flite import FRAME_S, LEVEL, PITCH, Flite, Said, TeacherError
from training.units import N_SUNG, PITCHED_INDEX, STRESSED, SUNG

Rows = NDArray[np.float32]

# pause after a word by the mark at its end
PAUSES = {",": 0.16, ";": 0.26, ":": 0.26, "-": 0.26, ".": 0.40, "!": 0.40, "?": 0.44, "…": 0.80}
CUE_PAUSE_S = 0.10
STRESS_STRETCH, STRESS_LEVEL, STRESS_PITCH = 1.4, 0.55, 6.0
NOTE_S = 0.36  # a sung syllable
NOTES = (-1.0, 2.0, 5.0, 8.0)  # semitones from the voice's middle
SEMITONES = 12.0
N_ANALYSES = 64  # kept for the next character

# how much prompts differ in pace and in melody, when nothing asks for it
PACE_SPREAD = 0.04  # standard deviation of the logarithm
LIVELINESS = (0.85, 1.2)  # factors, from and to

_PART = re.compile(r"\[[a-z ]+\]|♪[^♪]*♪?|[^\[♪]+|.")
_SENTENCE = re.compile(r".+?(?:(?:\.{3}|…|[.?!])+['\"]?(?=\s|$)|$)", re.DOTALL)
_CAPITALS = re.compile(r"[A-Z][A-Z']*[A-Z]")


@dataclass(frozen=True, slots=True)
class Piece:
    """A phone as it will be said: `Said`, with its tone if something decided it."""

    name: str
    parameters: Rows
    strengths: Rows
    token: int = -1
    syllable: int = -1
    stress: bool = False
    tone: int | None = None

    @property
    def n_frames(self) -> int:
        return len(self.parameters)


@dataclass(frozen=True, slots=True)
class Character:
    """What makes a voice of one of flite's.

    Attributes:
        library: flite's voice.
        middle_hz: the pitch it has when nothing changes it.
        pitch: factor on the pitch.
        liveliness: factor on the pitch's distance from its middle, in semitones.
        stretch: factor on durations.
        alpha: warp of the spectrum (see Flite.vocode).
        level: added to the log level.
    """

    library: str
    middle_hz: float
    pitch: float = 1.0
    liveliness: float = 1.5
    stretch: float = 1.0
    alpha: float = 0.42
    level: float = 0.0


@dataclass(frozen=True, slots=True)
class Melody:
    """Notes that no voice sings: (start in s, length in s, degree 0..4)."""

    notes: tuple[tuple[float, float, int], ...]


@dataclass(slots=True)
class Performance:
    """All pieces of a text in order; melodies at their places in time."""

    pieces: list[Piece] = field(default_factory=list)
    melodies: list[Melody] = field(default_factory=list)

    @property
    def seconds(self) -> float:
        return sum(piece.n_frames for piece in self.pieces) * FRAME_S


def parts(text: str) -> Iterator[str]:
    """Cues in brackets, songs between notes, and the text around them, in order."""
    for match in _PART.finditer(text):
        part = match[0].strip()
        if part:
            yield part


class Director:
    """Turns text into a performance, in any character's voice."""

    def __init__(self, flite: Flite) -> None:
        self._flite = flite
        self._templates: dict[tuple[str, str], tuple[Rows, Rows]] = {}
        self._analyses: dict[tuple[str, str], list[Said]] = {}

    def perform(self, text: str, character: Character, rng: np.random.Generator) -> Performance:
        """The whole text.

        Raises:
            TeacherError: flite can't say some of it.
        """
        done = Performance()
        character = replace(
            character,
            stretch=character.stretch * float(np.exp(rng.normal(0, PACE_SPREAD))),
            liveliness=character.liveliness * float(rng.uniform(*LIVELINESS)),
        )
        for part in parts(text):
            if part.startswith("[") and part.endswith("]"):
                self._cue(part.strip("[]"), character, done, rng)
            elif part.startswith("♪"):
                words = part.strip("♪ ")
                if words:
                    self._join(done, self._sung(words, character, rng), character, CUE_PAUSE_S)
                elif not done.melodies:
                    self._cue("music", character, done, rng)
            elif re.search("[A-Za-z]", part):
                for sentence in _SENTENCE.findall(part):
                    if re.search("[A-Za-z]", sentence):
                        self._say(sentence.strip(), character, done)
        return done

    def _say(self, sentence: str, character: Character, done: Performance) -> None:
        pieces = self._spoken(sentence, character)
        if done.pieces and done.pieces[-1].name != "pau":
            self._join(done, [], character, CUE_PAUSE_S)
        done.pieces += pieces
        done.pieces.append(self.silence(character, PAUSES.get(last_mark(sentence), CUE_PAUSE_S)))

    def _join(
        self, done: Performance, pieces: list[Piece], character: Character, pause_s: float
    ) -> None:
        if done.pieces and done.pieces[-1].name != "pau":
            done.pieces.append(self.silence(character, pause_s))
        done.pieces += pieces

    # speech

    def _spoken(self, sentence: str, character: Character) -> list[Piece]:
        words = sentence.split()
        marks = [last_mark(word) for word in words]
        loud = [bool(_CAPITALS.search(word)) for word in words]
        spelled = " ".join(w.lower() if up else w for w, up in zip(words, loud, strict=True))
        pieces = self._analysed(spelled, character)
        pieces = self._paused(pieces, marks, character)
        pieces = [_stressed(piece) if loud[piece.token] else piece for piece in pieces]
        return _shaped(pieces, marks, character)

    def _analysed(self, text: str, character: Character) -> list[Piece]:
        """Flite's phones in the character's pitch, without silence at the ends."""
        pieces = [_piece(phone, character) for phone in self._said(text, character.library)]
        heard = [i for i, piece in enumerate(pieces) if piece.name != "pau"]
        return pieces[heard[0] : heard[-1] + 1]

    def _said(self, text: str, library: str) -> list[Said]:
        """Flite's analysis, which all characters of one of its voices share."""
        key = (text, library)
        if key not in self._analyses:
            if len(self._analyses) >= N_ANALYSES:
                self._analyses.clear()
            self._analyses[key] = self._flite.analyse(text, library)
        return self._analyses[key]

    def _paused(
        self, pieces: list[Piece], marks: Sequence[str], character: Character
    ) -> list[Piece]:
        """Pauses where there are marks, as long as these ask for, and nowhere else."""
        spoken = [piece for piece in pieces if piece.name != "pau"]
        out: list[Piece] = []
        for piece, following in zip(spoken, [*spoken[1:], None], strict=True):
            out.append(piece)
            if following is None or following.token == piece.token:
                continue
            pause_s = PAUSES.get(marks[piece.token], 0.0)
            if pause_s > 0:
                out.append(self.silence(character, pause_s))
        return [_drawn_out(piece) if marks[piece.token] == "…" else piece for piece in out]

    def silence(self, character: Character, seconds: float) -> Piece:
        """A pause."""
        parameters, strengths = self._template(character, "pau")
        n_frames = max(1, round(seconds / FRAME_S))
        return Piece("pau", parameters.repeat(n_frames, 0), strengths.repeat(n_frames, 0))

    # songs

    def _sung(self, words: str, character: Character, rng: np.random.Generator) -> list[Piece]:
        """Every syllable as long as a note, on one of four notes that go up and down by steps."""
        analysed = self._analysed(re.sub("[^A-Za-z' ]", "", words), character)
        pieces = [piece for piece in analysed if piece.name != "pau"]
        out: list[Piece] = []
        note, before, step = int(rng.integers(N_SUNG)), -1, 1
        lengths: dict[int, int] = {}
        for piece in pieces:
            lengths[piece.syllable] = lengths.get(piece.syllable, 0) + piece.n_frames
        for piece in pieces:
            if piece.syllable != before and before >= 0:
                step = -step if rng.random() < 0.3 else step
                if not 0 <= note + step < N_SUNG:
                    step = -step
                note += step
            before = piece.syllable
            if piece.name not in PITCHED_INDEX:
                out.append(piece)
                continue
            factor = max(1.0, NOTE_S / FRAME_S / lengths[piece.syllable])
            held = stretched(piece, factor * 1.15)
            pitch = character.middle_hz * character.pitch * 2 ** (NOTES[note] / SEMITONES)
            vibrato = 0.25 * np.sin(2 * np.pi * 5.5 * FRAME_S * np.arange(held.n_frames))
            rows = held.parameters.copy()
            rows[:, PITCH] = pitch * 2 ** (vibrato / SEMITONES)
            rows[:, LEVEL] = np.maximum(rows[:, LEVEL], rows[:, LEVEL].mean()) + 0.1
            out.append(replace(held, parameters=rows, tone=SUNG + note))
        return out

    # cues

    def _cue(
        self, name: str, character: Character, done: Performance, rng: np.random.Generator
    ) -> None:
        makers = {
            "laughs": self._laugh,
            "laughter": self._laugh,
            "sighs": self._sigh,
            "gasps": self._gasp,
            "clears throat": self._throat,
        }
        if name in makers:
            self._join(done, makers[name](character, rng), character, CUE_PAUSE_S)
        elif name == "music":
            self._music(character, done, rng)
        else:
            raise TeacherError(f"there is no cue [{name}]")
        done.pieces.append(self.silence(character, CUE_PAUSE_S))

    def _laugh(self, character: Character, rng: np.random.Generator) -> list[Piece]:
        """Ha ha ha ha: each burst falls, and all of them together."""
        n_bursts = int(rng.integers(3, 6))
        top = rng.uniform(7.0, 9.0)
        out: list[Piece] = []
        for burst in range(n_bursts):
            fade = -0.35 * burst / n_bursts
            out.append(self._sound("hx", character, "hh", 0.075, level=(0.3 + fade, 0.5 + fade)))
            begin = top * (1 - burst / n_bursts)
            pitch = (begin + 1.5, begin - 2.0)
            level = (0.45 + fade, -0.1 + fade)
            out.append(self._sound("ha", character, "aa", 0.10, level=level, pitch=pitch))
        return out

    def _sigh(self, character: Character, rng: np.random.Generator) -> list[Piece]:
        """A breath in, then a long one out, half voiced at first."""
        out_s = rng.uniform(0.6, 0.85)
        return [
            self._sound("bi", character, "ih", rng.uniform(0.28, 0.36), level=(-2.6, -0.9)),
            self._sound("bo", character, "ah", 0.4 * out_s, level=(-0.1, -0.7), pitch=(2, -4)),
            self._sound("bo", character, "hh", 0.6 * out_s, level=(0.6, -1.2)),
        ]

    def _gasp(self, character: Character, rng: np.random.Generator) -> list[Piece]:
        """A sharp breath in that stops."""
        length = rng.uniform(0.26, 0.34)
        return [
            self._sound("gs", character, "ih", length, level=(-2.0, 0.1)),
            self.silence(character, 0.12),
        ]

    def _throat(self, character: Character, rng: np.random.Generator) -> list[Piece]:
        """Two rough bursts, each with a hum behind it."""
        out: list[Piece] = []
        for burst in range(2):
            sound = self._sound("tc", character, "er", 0.15, level=(0.3, -0.2), pitch=(-7, -9))
            rows = sound.parameters.copy()
            rows[:, PITCH] *= np.where(np.arange(len(rows)) // 2 % 2, 0.82, 1.2)  # creaks
            out.append(replace(sound, parameters=rows))
            hum_s = rng.uniform(0.10, 0.14) + 0.08 * burst
            out.append(self._sound("tm", character, "m", hum_s, level=(0.0, -0.6), pitch=(-3, -4)))
        return out

    def _music(self, character: Character, done: Performance, rng: np.random.Generator) -> None:
        """Five to nine notes; the pieces are silent where they sound."""
        self._join(done, [], character, CUE_PAUSE_S)
        degree, notes = int(rng.integers(5)), []
        beat = float(rng.choice([0.18, 0.24, 0.30]))
        for _ in range(int(rng.integers(5, 10))):
            length = beat * int(rng.choice([1, 1, 2]))
            notes.append((done.seconds, length, degree))
            done.pieces.append(replace(self.silence(character, length), name=f"n{degree + 1}"))
            step = int(rng.choice([-2, -1, 1, 2]))
            degree = degree + step if 0 <= degree + step < 5 else degree - step
        done.melodies.append(Melody(tuple(notes)))

    def _sound(
        self,
        name: str,
        character: Character,
        phone: str,
        seconds: float,
        *,
        level: tuple[float, float],
        pitch: tuple[float, float] | None = None,
    ) -> Piece:
        """A cue's sound, from how the voice says a phone.

        Args:
            level: added to the log level, at its start and end.
            pitch: semitones from the voice's middle, at its start and end; None: unvoiced.
        """
        parameters, strengths = self._template(character, phone)
        n_frames = round(seconds / FRAME_S)
        rows, noise = parameters.repeat(n_frames, 0), strengths.repeat(n_frames, 0)
        rows[:, LEVEL] += np.linspace(*level, n_frames, dtype=np.float32)
        if pitch is None:
            rows[:, PITCH] = 0
        else:
            glide = np.linspace(*pitch, n_frames) / SEMITONES
            rows[:, PITCH] = character.middle_hz * character.pitch * 2**glide
        return Piece(name, rows, noise)

    def _template(self, character: Character, phone: str) -> tuple[Rows, Rows]:
        """The middle of a phone in the voice: [1, 26] and [1, 5]."""
        if (character.library, phone) not in self._templates:
            for said in self._flite.analyse("ha, hit, hum, her, hut.", character.library):
                centre = len(said.parameters) // 2
                middle = slice(centre, centre + 1)
                entry = (said.parameters[middle], said.strengths[middle])
                self._templates.setdefault((character.library, said.name), entry)
        parameters, strengths = self._templates[character.library, phone]
        rows = parameters.copy()
        rows[:, LEVEL] += character.level
        return rows, strengths


def last_mark(word: str) -> str:
    """The mark that a word ends with: "…" for dots, "" for none."""
    ending = word.rstrip("'\")")
    if ending.endswith(("...", "…")):
        return "…"
    if word in ("-", "—", "–"):
        return "-"
    return ending[-1:].replace("—", "-") if ending[-1:] in ",;:.!?—" else ""


def stretched(piece: Piece, factor: float) -> Piece:
    """The same piece, its duration multiplied."""
    n_frames = max(1, round(piece.n_frames * factor))
    index = np.minimum((np.arange(n_frames) / factor).astype(int), piece.n_frames - 1)
    return replace(piece, parameters=piece.parameters[index], strengths=piece.strengths[index])


def _piece(said: Said, character: Character) -> Piece:
    rows = said.parameters.copy()
    voiced = rows[:, PITCH] > 0
    semitones = SEMITONES * np.log2(rows[voiced, PITCH] / character.middle_hz)
    middle = character.middle_hz * character.pitch
    rows[voiced, PITCH] = middle * 2 ** (semitones * character.liveliness / SEMITONES)
    rows[:, LEVEL] += character.level
    piece = Piece(said.name, rows, said.strengths, said.token, said.syllable, said.stress)
    return stretched(piece, character.stretch)


def _bent(piece: Piece, semitones: NDArray[np.floating] | float, level: float = 0.0) -> Piece:
    rows = piece.parameters.copy()
    rows[:, PITCH] *= 2 ** (np.asarray(semitones) / SEMITONES)
    rows[:, LEVEL] += level
    return replace(piece, parameters=rows)


def _stressed(piece: Piece) -> Piece:
    """Louder, slower and higher."""
    if piece.name == "pau":
        return piece
    tone = STRESSED if piece.name in PITCHED_INDEX else None
    louder = _bent(stretched(piece, STRESS_STRETCH), STRESS_PITCH, STRESS_LEVEL)
    return replace(louder, tone=tone)


def _drawn_out(piece: Piece) -> Piece:
    return _bent(stretched(piece, 1.5), -1.5) if piece.name in PITCHED_INDEX else piece


def _shaped(pieces: list[Piece], marks: Sequence[str], character: Character) -> list[Piece]:
    """Bend the pitch before each mark: questions rise, statements fall, commas hang."""
    out = list(pieces)
    excited = marks[-1] == "!"
    if excited:
        out = [_bent(piece, 2.0, 0.15) for piece in out]
    last_of: dict[int, int] = {}
    for index, piece in enumerate(pieces):
        if piece.token >= 0:
            last_of[piece.token] = index
    for token, end in last_of.items():
        mark = marks[token]
        if mark == "?":
            out = _ramp(out, end, 0.60, 15.0)
        elif mark in (".", "!"):
            out = _ramp(out, end, 0.35, -4.0)
        elif mark in (",", ";", ":"):
            out = _ramp(out, end, 0.22, 2.5)
    return out


def _ramp(pieces: list[Piece], end: int, seconds: float, semitones: float) -> list[Piece]:
    """Let the pitch move by so much over the last seconds before the end of a piece."""
    out = list(pieces)
    n_frames = round(seconds / FRAME_S)
    left = n_frames
    for index in range(end, -1, -1):
        piece = out[index]
        if left <= 0 or piece.name == "pau":
            break
        places = np.arange(piece.n_frames) + left - piece.n_frames
        if piece.tone is None or piece.tone < STRESSED:
            bend = semitones * (np.clip(places / n_frames, 0, 1) ** 1.2)
            out[index] = _bent(piece, bend)
        left -= piece.n_frames
    return out

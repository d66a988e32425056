"""The teacher: flite's voices and what `delivery` makes of them, as sound and semantic tokens.

Flite keeps global state and is not thread-safe: use one `Teacher` a process.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from training.delivery import Character, Director, Melody, Performance, Piece
from training.flite import FRAME_S, LEVEL, PITCH, Excitation, Flite, TeacherError
from training.units import MIDDLE, PITCHED_INDEX, Phone, semantic_tokens, tone_of
from training.vocoder import OUT_FRAME, vocode

SAMPLE_RATE = 24_000
FRAME_SAMPLES = 480  # 50 codec frames a second
TOKEN_SAMPLES = 720  # 100/3 semantic tokens a second, 1.5 frames each
LEADING_PAUSE_S = 0.06
TRAILING_PAUSE_S = 0.15
GAP_FRAMES = 14  # between sounds that are made in one go; a filter rings for 54 ms
SILENT_LEVEL = -12.0
SCALE_HZ = (392.0, 440.0, 523.25, 587.33, 659.26)  # the notes of [music]: G A C D E


@dataclass(frozen=True, slots=True)
class TeacherVoice:
    """A voice that pup learns."""

    name: str  # the name pup gives it
    description: str
    character: Character


VOICES: tuple[TeacherVoice, ...] = (
    TeacherVoice(
        "rosa",
        "a woman, American English, even and clear",
        Character("cmu_us_slt", 166.0, liveliness=1.8, level=-0.45),
    ),
    TeacherVoice(
        "ralf",
        "a man, American English, low and calm",
        Character("cmu_us_rms", 99.0, liveliness=1.0, level=0.15),
    ),
    TeacherVoice(
        "angus",
        "a man with a Scottish voice, brisk",
        Character("cmu_us_awb", 120.0, liveliness=1.3, stretch=0.95, level=0.0),
    ),
    TeacherVoice(
        "greta",
        "an older woman, deep and unhurried",
        Character(
            "cmu_us_slt", 166.0, pitch=0.80, liveliness=1.8, stretch=1.15, alpha=0.45, level=-0.40
        ),
    ),
    TeacherVoice(
        "pia",
        "a young woman, bright and quick",
        Character(
            "cmu_us_rms", 99.0, pitch=2.0, liveliness=1.1, stretch=0.92, alpha=0.37, level=0.05
        ),
    ),
    TeacherVoice(
        "bruno",
        "a big man, very deep and slow",
        Character(
            "cmu_us_rms", 99.0, pitch=0.82, liveliness=1.0, stretch=1.12, alpha=0.445, level=0.10
        ),
    ),
    TeacherVoice(
        "tim",
        "a young man, light and fast",
        Character(
            "cmu_us_rms", 99.0, pitch=1.42, liveliness=1.1, stretch=0.95, alpha=0.375, level=0.15
        ),
    ),
)
VOICE_INDEX = {voice.name: index for index, voice in enumerate(VOICES)}


@dataclass(frozen=True, slots=True)
class Utterance:
    """What the teacher said: trimmed, and as long as its semantic tokens.

    Attributes:
        samples: float32 [FRAME_SAMPLES * floor(1.5 * S)] at 24 kHz, -1..1; empty if not asked for.
        phones: with times and tones.
        semantic: int16 [S], at 100/3 Hz.
    """

    samples: NDArray[np.float32]
    phones: tuple[Phone, ...]
    semantic: NDArray[np.int16]


@dataclass(frozen=True, slots=True)
class Score:
    """All that is needed to make an utterance's sound.

    Attributes:
        parameters, strengths: float32 [T, 26] and [T, 5], every 5 ms.
        melodies: what no voice sings, times from the start of the sound.
        n_samples: of the sound, at 24 kHz.
    """

    parameters: NDArray[np.float32]
    strengths: NDArray[np.float32]
    melodies: tuple[Melody, ...]
    n_samples: int


def frames_of(n_tokens: int) -> int:
    """Codec frames that go with so many semantic tokens: floor(1.5 * S)."""
    return n_tokens * 3 // 2


class Teacher:
    """Says any text of the training kind, cues and songs included."""

    def __init__(self) -> None:
        self._flite = Flite()
        self._director = Director(self._flite)

    def say(self, text: str, voice: TeacherVoice, *, with_sound: bool = True) -> Utterance:
        """Say a text; the same text and voice give the same sound.

        Args:
            text: English; cues in brackets, songs between notes, CAPITALS for stress.
            voice: one of VOICES.
            with_sound: without it only phones and tokens are made, several times as fast.
        Raises:
            TeacherError: flite can't say some of it, or there is nothing to say.
        """
        phones, semantic, score = self.perform(text, voice)
        samples = np.zeros(0, np.float32)
        if with_sound:
            generator = torch.Generator().manual_seed(_seed(text, voice))
            samples = sounds([score], voice, self.excitation(voice), generator)[0].numpy()
        return Utterance(samples=samples, phones=phones, semantic=semantic)

    def perform(
        self, text: str, voice: TeacherVoice
    ) -> tuple[tuple[Phone, ...], NDArray[np.int16], Score]:
        """Everything but the sound: phones, semantic tokens, and what the sound is made from.

        Raises:
            TeacherError: as in `say`.
        """
        rng = np.random.default_rng(_seed(text, voice))
        performance = self._director.perform(text, voice.character, rng)
        if not performance.pieces:
            raise TeacherError(f"there is nothing to say in {text!r}")
        performance, lead_s = self._trimmed(performance, voice.character)
        phones = _phones(performance.pieces, voice.character)
        semantic = semantic_tokens(phones, TOKEN_SAMPLES / SAMPLE_RATE)
        score = Score(
            np.concatenate([piece.parameters for piece in performance.pieces]),
            np.concatenate([piece.strengths for piece in performance.pieces]),
            tuple(_moved(melody, lead_s) for melody in performance.melodies),
            frames_of(len(semantic)) * FRAME_SAMPLES,
        )
        return phones, semantic, score

    def excitation(self, voice: TeacherVoice) -> Excitation:
        """What the vocoder needs of a voice that has said something."""
        return self._flite.excitation(voice.character.library)

    def _trimmed(self, performance: Performance, character: Character) -> tuple[Performance, float]:
        """60 ms of silence first, 150 ms last; and by how much everything moved, in s."""
        pieces = performance.pieces
        lead = self._director.silence(character, LEADING_PAUSE_S)
        trail = self._director.silence(character, TRAILING_PAUSE_S)
        body = pieces[:-1] if pieces[-1].name == "pau" else pieces
        cut_s = 0.0
        while body and body[0].name == "pau":
            cut_s += body[0].n_frames * FRAME_S
            body = body[1:]
        shift = lead.n_frames * FRAME_S - cut_s
        return Performance([lead, *body, trail], performance.melodies), shift


def _seed(text: str, voice: TeacherVoice) -> int:
    return zlib.crc32(f"{voice.name} {text}".encode())


def sounds(
    scores: list[Score],
    voice: TeacherVoice,
    excitation: Excitation,
    generator: torch.Generator,
) -> list[Tensor]:
    """The sounds of what one voice performed, made in one go on the generator's device.

    Returns:
        float32 [score.n_samples] each, at 24 kHz, -1..1.
    """
    device = generator.device
    lengths = [len(score.parameters) for score in scores]
    # what rings on at the end of one must be over before the next begins
    gap = np.repeat(scores[0].parameters[:1], GAP_FRAMES, axis=0)
    gap[:, PITCH], gap[:, LEVEL] = 0.0, SILENT_LEVEL
    rows = np.concatenate([part for score in scores for part in (score.parameters, gap)])
    noise = np.repeat(scores[0].strengths[:1], GAP_FRAMES, axis=0)
    bands = np.concatenate([part for score in scores for part in (score.strengths, noise)])
    flat = vocode(
        torch.from_numpy(rows).to(device),
        torch.from_numpy(bands).to(device),
        excitation,
        voice.character.alpha,
        generator,
    )
    made, start = [], 0
    for score, length in zip(scores, lengths, strict=True):
        piece = flat[start * OUT_FRAME : start * OUT_FRAME + score.n_samples]
        out = F.pad(piece - piece.mean(), (0, score.n_samples - len(piece)))
        if score.melodies:
            out = out + torch.from_numpy(_played(score)).to(device)
        made.append(out.clamp(-0.99, 0.99))
        start += length + GAP_FRAMES
    return made


def _moved(melody: Melody, by_s: float) -> Melody:
    return Melody(tuple((start + by_s, length, degree) for start, length, degree in melody.notes))


def _played(score: Score) -> NDArray[np.float32]:
    """All melodies of a score: plucked notes of five partials."""
    out = np.zeros(score.n_samples, np.float32)
    for start_s, length_s, degree in (note for m in score.melodies for note in m.notes):
        first = round(start_s * SAMPLE_RATE)
        n_samples = min(round(length_s * SAMPLE_RATE), len(out) - first)
        time = np.arange(n_samples) / SAMPLE_RATE
        swell = np.minimum(time / 0.008, 1.0) * np.minimum((time[::-1] + 1e-4) / 0.012, 1.0)
        for partial in range(1, 6):
            fade = np.exp(-time * (2.0 + 1.5 * partial))
            tone = np.sin(2 * np.pi * SCALE_HZ[degree] * partial * time)
            out[first : first + n_samples] += (0.22 / partial**1.5 * swell * fade * tone).astype(
                np.float32
            )
    return out


def _phones(pieces: list[Piece], character: Character) -> tuple[Phone, ...]:
    ends = np.cumsum([piece.n_frames for piece in pieces]) * FRAME_S
    middle_hz = character.middle_hz * character.pitch
    return tuple(
        Phone(piece.name, float(end), _tone(piece, middle_hz))
        for piece, end in zip(pieces, ends, strict=True)
    )


def _tone(piece: Piece, middle_hz: float) -> int:
    if piece.tone is not None:
        return piece.tone
    pitch = piece.parameters[:, PITCH]
    if piece.name not in PITCHED_INDEX or not (pitch > 0).any():
        return MIDDLE
    return tone_of(float(12 * np.log2(pitch[pitch > 0] / middle_hz).mean()))

"""The teacher: flite through ctypes, which gives sound and phone times for a sentence.

Flite keeps global state and is not thread-safe: use one `Teacher` a process.
"""

from __future__ import annotations

import ctypes
from ctypes import c_char_p, c_float, c_int, c_void_p
from dataclasses import dataclass

import numpy as np
import soxr
from numpy.typing import NDArray

SAMPLE_RATE = 24_000
TEACHER_RATE = 16_000
FRAME_SAMPLES = 480  # 50 codec frames a second
TOKEN_SAMPLES = 720  # 100/3 semantic tokens a second, 1.5 frames each
THIRDS = 3
LEADING_PAUSE_S = 0.06
TRAILING_PAUSE_S = 0.15

# flite's American English phones, sorted; the index is part of the semantic vocabulary.
PHONES: tuple[str, ...] = (
    "aa", "ae", "ah", "ao", "aw", "ax", "ay", "b", "ch", "d", "dh", "eh", "er", "ey",
    "f", "g", "hh", "ih", "iy", "jh", "k", "l", "m", "n", "ng", "ow", "oy", "p", "pau",
    "r", "s", "sh", "t", "th", "uh", "uw", "v", "w", "y", "z", "zh",
)  # fmt: skip
PHONE_INDEX = {name: index for index, name in enumerate(PHONES)}
SEMANTIC_VOCAB = 160  # 41 phones x 3 thirds = 123; the rest is reserved for cues


@dataclass(frozen=True, slots=True)
class TeacherVoice:
    """One of flite's voices, and how pup changes it."""

    name: str  # the name pup gives it
    library: str  # shared library and symbol, e.g. "cmu_us_slt"
    gain: float = 1.0  # brings the voices to about the same loudness
    stretch: float = 1.0  # duration factor; 1 leaves the voice as it is


VOICES: tuple[TeacherVoice, ...] = (
    TeacherVoice("slt", "cmu_us_slt", gain=0.7),
    TeacherVoice("rms", "cmu_us_rms", gain=1.3),
)
VOICE_INDEX = {voice.name: index for index, voice in enumerate(VOICES)}


@dataclass(frozen=True, slots=True)
class Phone:
    """A phone and the time at which it ends, in seconds from the start of the sound."""

    name: str
    end_s: float


@dataclass(frozen=True, slots=True)
class Utterance:
    """What the teacher said: trimmed, and as long as its semantic tokens.

    Attributes:
        samples: float32 [FRAME_SAMPLES * floor(1.5 * S)] at 24 kHz, -1..1; empty if not asked for.
        phones: after trimming; the last one ends with the sound, within a token.
        semantic: uint8 [S], 0..122, at 100/3 Hz.
    """

    samples: NDArray[np.float32]
    phones: tuple[Phone, ...]
    semantic: NDArray[np.uint8]


class TeacherError(RuntimeError):
    """Flite is missing, or could not say a sentence."""


def frames_of(n_tokens: int) -> int:
    """Codec frames that go with so many semantic tokens: floor(1.5 * S)."""
    return n_tokens * 3 // 2


def semantic_tokens(phones: tuple[Phone, ...]) -> NDArray[np.uint8]:
    """Cut phones into tokens of 30 ms: phone index * 3 + the third the token's centre is in.

    A phone too short to hold a token's centre takes the token nearest to its middle,
    if the phone that token belonged to has another one left.

    Args:
        phones: in order, at least one.
    Returns:
        uint8 [S], S = round(duration / 30 ms), at least 1.
    """
    token_s = TOKEN_SAMPLES / SAMPLE_RATE
    ends = np.array([phone.end_s for phone in phones])
    starts = np.concatenate([[0.0], ends[:-1]])
    n_tokens = max(1, round(float(ends[-1]) / token_s))
    centres = (np.arange(n_tokens) + 0.5) * token_s
    owner = np.minimum(np.searchsorted(ends, centres, side="right"), len(phones) - 1)
    span = np.maximum(ends - starts, 1e-6)
    third = ((centres - starts[owner]) / span[owner] * THIRDS).astype(np.int64).clip(0, THIRDS - 1)
    counts = np.bincount(owner, minlength=len(phones))
    for index in np.flatnonzero(counts == 0):
        nearest = int(np.argmin(np.abs(centres - (starts[index] + ends[index]) / 2)))
        if counts[owner[nearest]] > 1:
            counts[owner[nearest]] -= 1
            counts[index] += 1
            owner[nearest], third[nearest] = index, THIRDS // 2
    names = np.array([PHONE_INDEX[phone.name] for phone in phones])
    tokens: NDArray[np.uint8] = (names[owner] * THIRDS + third).astype(np.uint8)
    return tokens


def trim_pauses(phones: tuple[Phone, ...]) -> tuple[tuple[Phone, ...], float]:
    """Shorten the first and last pause to 60 and 150 ms.

    Returns:
        the phones with their new times, and the seconds cut from the start.
    """
    names = [phone.name for phone in phones]
    starts = [0.0, *(phone.end_s for phone in phones[:-1])]
    spans = [phone.end_s - start for phone, start in zip(phones, starts, strict=True)]
    first = next((i for i, name in enumerate(names) if name != "pau"), len(names) - 1)
    last = next((i for i in reversed(range(len(names))) if names[i] != "pau"), first)
    leading, trailing = sum(spans[:first]), sum(spans[last + 1 :])
    cut_s = max(0.0, leading - LEADING_PAUSE_S)
    middle = [Phone(phone.name, phone.end_s - cut_s) for phone in phones[first : last + 1]]
    if first > 0:
        middle.insert(0, Phone("pau", leading - cut_s))
    if trailing > 0:
        middle.append(Phone("pau", middle[-1].end_s + min(trailing, TRAILING_PAUSE_S)))
    return tuple(middle), cut_s


class _Wave(ctypes.Structure):
    _fields_ = (
        ("type", c_char_p),
        ("sample_rate", c_int),
        ("num_samples", c_int),
        ("num_channels", c_int),
        ("samples", ctypes.POINTER(ctypes.c_short)),
    )


_StreamCallback = ctypes.CFUNCTYPE(c_int, c_void_p, c_int, c_int, c_int, c_void_p)


class _StreamInfo(ctypes.Structure):
    _fields_ = (
        ("min_buffsize", c_int),
        ("callback", _StreamCallback),
        ("utterance", c_void_p),
        ("item", c_void_p),
        ("userdata", c_void_p),
    )


class _Voice(ctypes.Structure):
    _fields_ = (("name", c_char_p), ("features", c_void_p))


def _stop(_wave: int, _start: int, _size: int, _last: int, _info: int) -> int:
    return -1  # CST_AUDIO_STREAM_STOP


_stop_streaming = _StreamCallback(_stop)  # lives as long as flite may call it


# name -> (result, arguments) of the functions of libflite.so.1 used here
_SIGNATURES: dict[str, tuple[type | None, tuple[type, ...]]] = {
    "flite_init": (c_int, ()),
    "flite_synth_text": (c_void_p, (c_char_p, c_void_p)),
    "delete_utterance": (None, (c_void_p,)),
    "utt_relation": (c_void_p, (c_void_p, c_char_p)),
    "utt_wave": (ctypes.POINTER(_Wave), (c_void_p,)),
    "relation_head": (c_void_p, (c_void_p,)),
    "item_next": (c_void_p, (c_void_p,)),
    "item_feat_string": (c_char_p, (c_void_p, c_char_p)),
    "item_feat_float": (c_float, (c_void_p, c_char_p)),
    "new_audio_streaming_info": (ctypes.POINTER(_StreamInfo), ()),
    "audio_streaming_info_val": (c_void_p, (c_void_p,)),
    "flite_feat_set": (None, (c_void_p, c_char_p, c_void_p)),
    "flite_feat_set_float": (None, (c_void_p, c_char_p, c_float)),
    "flite_feat_remove": (c_int, (c_void_p, c_char_p)),
}


def _load(name: str) -> ctypes.CDLL:
    try:
        return ctypes.CDLL(name, mode=ctypes.RTLD_GLOBAL)
    except OSError as error:
        raise TeacherError(f"cannot load {name}: {error}; install libflite1") from error


class Teacher:
    """Flite's voices, loaded when first used. One a process: flite is not thread-safe."""

    def __init__(self) -> None:
        self._flite = _load("libflite.so.1")
        for name, (result, arguments) in _SIGNATURES.items():
            function = getattr(self._flite, name)
            function.restype, function.argtypes = result, arguments
        self._flite.flite_init()
        _load("libflite_cmulex.so.1")
        _load("libflite_usenglish.so.1")
        self._voices: dict[str, int] = {}
        # Stops the vocoder after its first chunk: phone times come before it, at little cost.
        info = self._flite.new_audio_streaming_info()
        info.contents.min_buffsize = 1
        info.contents.callback = _stop_streaming
        self._stop = self._flite.audio_streaming_info_val(info)

    def _voice(self, voice: TeacherVoice) -> int:
        if voice.name not in self._voices:
            library = _load(f"libflite_{voice.library}.so.1")
            register = getattr(library, f"register_{voice.library}")
            register.restype, register.argtypes = c_void_p, (c_char_p,)
            handle = register(None)
            # Holds a reference, or removing "streaming_info" would free it.
            self._flite.flite_feat_set(_features(handle), b"stop_holder", self._stop)
            self._voices[voice.name] = handle
        # The libraries hand out one object each, so variants of a voice share it: set every time.
        handle = self._voices[voice.name]
        self._flite.flite_feat_set_float(_features(handle), b"duration_stretch", voice.stretch)
        return handle

    def say(self, text: str, voice: TeacherVoice, *, with_sound: bool = True) -> Utterance:
        """Say one sentence.

        Args:
            text: English; flite spells out numbers and guesses unknown words.
            voice: one of VOICES.
            with_sound: without it only phones and tokens are made, several times as fast.
        Raises:
            TeacherError: flite gave nothing for this text.
        """
        handle = self._voice(voice)
        features = _features(handle)
        if not with_sound:
            self._flite.flite_feat_set(features, b"streaming_info", self._stop)
        utterance = self._flite.flite_synth_text(text.encode(), handle)
        if not with_sound:
            self._flite.flite_feat_remove(features, b"streaming_info")
        if not utterance:
            raise TeacherError(f"flite gave nothing for {text!r}")
        try:
            phones = self._phones(utterance)
            if not any(phone.name != "pau" for phone in phones):
                raise TeacherError(f"flite found nothing to say in {text!r}")
            trimmed, cut_s = trim_pauses(phones)
            semantic = semantic_tokens(trimmed)
            n_samples = frames_of(len(semantic)) * FRAME_SAMPLES
            samples = self._samples(utterance, cut_s, n_samples) if with_sound else _EMPTY
            samples = np.clip(samples * np.float32(voice.gain), -0.99, 0.99)
        finally:
            self._flite.delete_utterance(utterance)
        return Utterance(samples=samples, phones=trimmed, semantic=semantic)

    def _phones(self, utterance: int) -> tuple[Phone, ...]:
        phones = []
        item = self._flite.relation_head(self._flite.utt_relation(utterance, b"Segment"))
        while item:
            name = self._flite.item_feat_string(item, b"name").decode()
            phones.append(Phone(name, self._flite.item_feat_float(item, b"end")))
            item = self._flite.item_next(item)
        return tuple(phones)

    def _samples(self, utterance: int, cut_s: float, n_samples: int) -> NDArray[np.float32]:
        wave = self._flite.utt_wave(utterance).contents
        if wave.sample_rate != TEACHER_RATE:
            raise TeacherError(f"flite's rate is {wave.sample_rate}, expected {TEACHER_RATE}")
        pcm = np.ctypeslib.as_array(wave.samples, (wave.num_samples,)).astype(np.float32) / 32768
        pcm -= pcm.mean()  # rms has an offset of 1 % of full scale
        resampled = soxr.resample(pcm, TEACHER_RATE, SAMPLE_RATE, quality="HQ")
        start = round(cut_s * SAMPLE_RATE)
        out = np.zeros(n_samples, np.float32)
        piece = resampled[start : start + n_samples]
        out[: len(piece)] = piece
        return out


_EMPTY: NDArray[np.float32] = np.zeros(0, np.float32)


def _features(handle: int) -> int:
    features = ctypes.cast(handle, ctypes.POINTER(_Voice)).contents.features
    assert features is not None, "flite's voices always have features"
    return int(features)

"""Flite through ctypes: what it would say, as parameters.

Flite's voices of the kind "clustergen" predict, every 5 ms, a pitch, a spectrum and how noisy
it is, and a vocoder turns these into sound. Between the two steps delivery can be changed without
loss; the vocoder is `training.vocoder`. Flite keeps global state and is not thread-safe: use one
`Flite` a process.
"""

from __future__ import annotations

import ctypes
from ctypes import POINTER, c_char_p, c_double, c_float, c_int, c_void_p
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

RATE = 16_000
FRAME_S = 0.005
PITCH, LEVEL = 0, 1  # columns of the parameters: F0 in Hz, 0 unvoiced; log level
_WORD = b"R:SylStructure.parent.parent.R:Token.parent.file_pos"


class TeacherError(RuntimeError):
    """Flite is missing, or could not say a sentence."""


@dataclass(frozen=True, slots=True)
class Said:
    """A phone as flite says it.

    Attributes:
        name: of the phone; "pau" is silence.
        token: which of the text's words (as split at spaces) it belongs to; -1 in silence.
        syllable: the same number for all phones of one syllable; -1 in silence.
        stress: whether the syllable is stressed.
        parameters, strengths: float32 [frames, 26] and [frames, 5], for the vocoder.
    """

    name: str
    token: int
    syllable: int
    stress: bool
    parameters: NDArray[np.float32]
    strengths: NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Excitation:
    """What a voice's vocoder has beside the parameters.

    Attributes:
        bands: filters of the mixed excitation, float32 [5, order].
        beta: how far formants are raised above what lies between them.
        gain: factor on the sound.
    """

    bands: NDArray[np.float32]
    beta: float
    gain: float


class _Track(ctypes.Structure):
    _fields_ = (
        ("type", c_char_p),
        ("num_frames", c_int),
        ("num_channels", c_int),
        ("times", c_void_p),
        ("frames", c_void_p),
    )


class _Clustergen(ctypes.Structure):
    _fields_ = (
        ("name", c_char_p),
        ("types", c_void_p),
        ("num_types", c_int),
        ("sample_rate", c_int),
        ("f0_mean", c_float),
        ("f0_stddev", c_float),
        ("num_f0_models", c_int),
        ("f0_trees", c_void_p),
        ("num_param_models", c_int),
        ("param_trees", c_void_p),
        ("spamf0_trees", c_void_p * 2),
        ("vectors", c_void_p * 3),
        ("spamf0_sizes", c_int * 2),
        ("spamf0_vectors", c_void_p),
        ("model_range", c_void_p * 2),
        ("qtable", c_void_p),
        ("model_shape", c_int),
        ("frame_advance", c_float),
        ("num_dur_models", c_int),
        ("durations", c_void_p * 2),
        ("phone_states", c_void_p),
        ("do_mlpg", c_int),
        ("dynwin", c_void_p),
        ("dynwinsize", c_int),
        ("mlsa_alpha", c_float),  # how the spectrum's frequencies are warped: larger is lower
        ("mlsa_beta", c_float),
        ("multimodel", c_int),
        ("mixed_excitation", c_int),
        ("ME_num", c_int),
        ("ME_order", c_int),
        ("me_h", c_void_p),
        ("spamf0", c_int),
        ("gain", c_float),
        ("maps", c_void_p * 3),
        ("freeable", c_int),
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


class _Utterance(ctypes.Structure):
    _fields_ = (("features", c_void_p),)


def _stop(_wave: int, _start: int, _size: int, _last: int, _info: int) -> int:
    return -1  # CST_AUDIO_STREAM_STOP


_stop_streaming = _StreamCallback(_stop)  # lives as long as flite may call it

# name -> (result, arguments) of the functions of libflite.so.1 used here
_SIGNATURES: dict[str, tuple[Any, tuple[Any, ...]]] = {
    "flite_init": (c_int, ()),
    "flite_synth_text": (c_void_p, (c_char_p, c_void_p)),
    "delete_utterance": (None, (c_void_p,)),
    "utt_relation": (c_void_p, (c_void_p, c_char_p)),
    "relation_head": (c_void_p, (c_void_p,)),
    "item_next": (c_void_p, (c_void_p,)),
    "item_as": (c_void_p, (c_void_p, c_char_p)),
    "item_parent": (c_void_p, (c_void_p,)),
    "item_feat_string": (c_char_p, (c_void_p, c_char_p)),
    "item_feat_float": (c_float, (c_void_p, c_char_p)),
    "ffeature_float": (c_float, (c_void_p, c_char_p)),
    "ffeature_string": (c_char_p, (c_void_p, c_char_p)),
    "feat_val": (c_void_p, (c_void_p, c_char_p)),
    "val_track": (POINTER(_Track), (c_void_p,)),
    "val_cg_db": (c_void_p, (c_void_p,)),
    "mlpg": (POINTER(_Track), (c_void_p, c_void_p)),
    "delete_track": (None, (c_void_p,)),
    "new_audio_streaming_info": (POINTER(_StreamInfo), ()),
    "audio_streaming_info_val": (c_void_p, (c_void_p,)),
    "flite_feat_set": (None, (c_void_p, c_char_p, c_void_p)),
}


def _load(name: str) -> ctypes.CDLL:
    try:
        return ctypes.CDLL(name, mode=ctypes.RTLD_GLOBAL)
    except OSError as error:
        raise TeacherError(f"cannot load {name}: {error}; install libflite1") from error


class Flite:
    """Flite's voices, loaded when first used."""

    def __init__(self) -> None:
        self._flite = _load("libflite.so.1")
        for name, (result, arguments) in _SIGNATURES.items():
            function = getattr(self._flite, name)
            function.restype, function.argtypes = result, arguments
        self._flite.flite_init()
        _load("libflite_cmulex.so.1")
        _load("libflite_usenglish.so.1")
        self._voices: dict[str, int] = {}
        self._models: dict[str, _Clustergen] = {}
        # Stops flite's own run of the vocoder after its first chunk.
        info = self._flite.new_audio_streaming_info()
        info.contents.min_buffsize = 1
        info.contents.callback = _stop_streaming
        self._stop = self._flite.audio_streaming_info_val(info)

    def _voice(self, library: str) -> int:
        if library not in self._voices:
            loaded = _load(f"libflite_{library}.so.1")
            register = getattr(loaded, f"register_{library}")
            register.restype, register.argtypes = c_void_p, (c_char_p,)
            handle = register(None)
            self._flite.flite_feat_set(_features(handle), b"streaming_info", self._stop)
            self._voices[library] = handle
        return self._voices[library]

    def analyse(self, text: str, library: str) -> list[Said]:
        """What flite would say, phone by phone.

        Args:
            text: one sentence, single spaces.
            library: "cmu_us_slt" and so on; a voice of the kind clustergen.
        Raises:
            TeacherError: flite gave nothing for this text.
        """
        handle = self._voice(library)
        utterance = self._flite.flite_synth_text(text.encode(), handle)
        if not utterance:
            raise TeacherError(f"flite gave nothing for {text!r}")
        try:
            features = ctypes.cast(utterance, POINTER(_Utterance)).contents.features
            if library not in self._models:
                model = self._flite.val_cg_db(self._flite.feat_val(features, b"cg_db"))
                self._models[library] = _Clustergen.from_address(model)
            # what the trees predict has means and spreads; the smoothest path through them is said
            predicted = self._flite.val_track(self._flite.feat_val(features, b"param_track"))
            smooth = self._flite.mlpg(predicted, ctypes.addressof(self._models[library]))
            parameters = _rows_of(smooth.contents)
            self._flite.delete_track(smooth)
            noise = self._flite.val_track(self._flite.feat_val(features, b"str_track"))
            strengths = _rows_of(noise.contents)
            said = self._phones(utterance, text, parameters, strengths)
        finally:
            self._flite.delete_utterance(utterance)
        if all(phone.name == "pau" for phone in said):
            raise TeacherError(f"flite found nothing to say in {text!r}")
        return said

    def _phones(
        self,
        utterance: int,
        text: str,
        parameters: NDArray[np.float32],
        strengths: NDArray[np.float32],
    ) -> list[Said]:
        flite = self._flite
        # flite's place of a word is about where the next one starts
        ends = np.cumsum([len(word) + 1 for word in text.split(" ")])
        said: list[Said] = []
        syllables: dict[int, int] = {}
        start = 0
        item = flite.relation_head(flite.utt_relation(utterance, b"Segment"))
        while item:
            name = flite.item_feat_string(item, b"name").decode()
            end = min(round(flite.item_feat_float(item, b"end") / FRAME_S), len(parameters))
            token, syllable, stress = -1, -1, False
            if name != "pau":
                token = int(np.abs(ends - flite.ffeature_float(item, _WORD)).argmin())
                parent = flite.item_parent(flite.item_as(item, b"SylStructure"))
                syllable = syllables.setdefault(parent, len(syllables))
                stress = flite.ffeature_string(item, b"R:SylStructure.parent.stress") == b"1"
            rows = slice(start, max(start + 1, end))
            said.append(Said(name, token, syllable, stress, parameters[rows], strengths[rows]))
            start = end
            item = flite.item_next(item)
        return said

    def excitation(self, library: str) -> Excitation:
        """What the vocoder needs of a voice; needs `analyse` in that voice before."""
        model = self._models[library]
        rows = (POINTER(c_double) * model.ME_num).from_address(model.me_h)
        bands = np.array([row[: model.ME_order] for row in rows], np.float32)
        return Excitation(bands, float(model.mlsa_beta), float(model.gain))


def _rows_of(track: _Track) -> NDArray[np.float32]:
    n_frames, width = track.num_frames, track.num_channels
    rows = (c_void_p * n_frames).from_address(track.frames)
    packed = b"".join(ctypes.string_at(row, width * 4) for row in rows)
    return np.frombuffer(packed, np.float32).reshape(n_frames, width).copy()


def _features(handle: int) -> int:
    features = ctypes.cast(handle, POINTER(_Voice)).contents.features
    assert features is not None, "flite's voices always have features"
    return int(features)

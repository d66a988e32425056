"""Which teacher voice a sound is nearest to: mean and spread of its log-mel bands, and its pitch.

A crude measure, so it is checked on the teacher's own sound first (`evaluate` prints both).
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from training.data import Dataset
from training.features import log_mel
from training.pitch import pitch

SPEECH_FLOOR = 0.5  # frames whose mean band is among the quieter half are left out
PITCH_WEIGHT = 40.0  # of the pitch beside the 160 figures of the spectrum
N_REFERENCES = 60  # sentences of each voice that its print is averaged over


def voiceprint(samples: NDArray[np.float32]) -> NDArray[np.float64]:
    """Mean and standard deviation of each mel band over the louder frames, median pitch, [161]."""
    mel = log_mel(torch.tensor(samples, dtype=torch.float32)).numpy().astype(np.float64)
    frames = mel if mel.shape[1] == 80 else mel.T  # (frames, bands)
    loudness = frames.mean(axis=1)
    spoken = frames[loudness >= np.quantile(loudness, SPEECH_FLOOR)]
    # level says nothing about who speaks
    spoken = spoken - spoken.mean()
    track = pitch(samples)
    height = np.log2(np.median(track[track > 0])) if (track > 0).any() else 0.0
    return np.concatenate([spoken.mean(axis=0), spoken.std(axis=0), [height]])


class VoiceJudge:
    """Nearest voice, by distance to averaged prints, each dimension in units of its spread."""

    def __init__(self, sound: Dataset) -> None:
        prints = [
            [voiceprint(sound.audio_of(int(i))) for i in np.flatnonzero(sound.voices == voice)[:n]]
            for voice, n in enumerate([N_REFERENCES] * (int(sound.voices.max()) + 1))
        ]
        self.centres = np.stack([np.mean(rows, axis=0) for rows in prints])
        within = np.concatenate([np.array(rows) - np.mean(rows, axis=0) for rows in prints])
        self.spread = within.std(axis=0) + 1e-6

    def nearest(self, samples: NDArray[np.float32]) -> int:
        """Index into teacher.VOICES."""
        away = ((self.centres - voiceprint(samples)) / self.spread) ** 2
        away[:, -1] *= PITCH_WEIGHT
        return int(away.sum(axis=1).argmin())

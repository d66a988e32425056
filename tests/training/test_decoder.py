"""Laws of what the decoder learns from, and of its training: it goes on where it was stopped."""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from bark_core.transformer import FineGPT
from bark_core.vocoder import Between, Controls, Vocoder, go_on
from training import codec, data, decoder
from training.decoder import CROP_FRAMES, WARM_FRAMES, Batch, Crops, decoder_loss, first_values
from training.features import HOP, SAMPLE_RATE
from training.pup import CONFIG

CODEC = CONFIG.codec
assert CODEC.vocoder is not None
SHAPE = CODEC.vocoder
N_STEPS = CROP_FRAMES * SHAPE.steps


DIMENSIONS = {
    "dimension": CODEC.dimension,
    "samples_per_frame": HOP,
    "sample_rate_hz": SAMPLE_RATE,
}


class Knowing(Vocoder):
    """Reads the same controls from any latents."""

    def __init__(self, known: Controls) -> None:
        super().__init__(SHAPE, **DIMENSIONS)
        self.known = known

    def controls(self, latents: Tensor, between: Between = go_on) -> Controls:
        return self.known


def _known(factor: float = 1.0, pulses: float = 0.9) -> Controls:
    """A voice that glides from 110 to 180 Hz, brighter at one end than at the other."""
    pitch_hz = torch.linspace(110, 180, N_STEPS)[None]
    cepstrum = torch.zeros(1, N_STEPS, SHAPE.n_cepstra)
    cepstrum[..., 0] = -4.0
    cepstrum[..., 1] = torch.linspace(1.5, 0.5, N_STEPS)
    share = torch.full((1, N_STEPS, SHAPE.n_bands), pulses)
    return Controls(pitch_hz * factor, share, cepstrum)


def _losses(read: Controls) -> dict[str, float]:
    sound = Knowing(_known()).sound(_known())
    batch = Batch(torch.zeros(1, CODEC.dimension, CROP_FRAMES), sound)
    losses = decoder_loss(Knowing(read), batch, WARM_FRAMES)
    return {name: float(value) for name, value in losses.items()}


def test_who_knows_everything_is_right() -> None:
    losses = _losses(_known())
    assert (
        losses["pitch"] < 0.1
    )  # semitones; half a frame late it would be 0.11 for the glide alone
    assert losses["mel"] < 0.25  # of another sound 1 and more


@pytest.mark.parametrize("factor", [0.9, 1.2])
def test_a_wrong_pitch_is_told_and_spoils_nothing_else(factor: float) -> None:
    right, wrong = _losses(_known()), _losses(_known(factor))
    semitones = 12 * abs(torch.tensor(factor).log2().item())
    assert wrong["pitch"] == pytest.approx(semitones, abs=0.15)
    assert wrong["mel"] == pytest.approx(right["mel"], rel=0.1)


def test_noise_where_there_are_pulses_is_told() -> None:
    assert _losses(_known(pulses=0.2))["noise"] > 2 * _losses(_known())["noise"]


def test_a_new_vocoder_begins_quiet_and_in_a_voice_s_range() -> None:
    vocoder = Vocoder(
        SHAPE, dimension=CODEC.dimension, samples_per_frame=HOP, sample_rate_hz=24_000
    )
    first_values(vocoder)
    latents = 8 * torch.randn(2, CODEC.dimension, 40, generator=torch.Generator().manual_seed(0))
    pitch_hz = vocoder.controls(latents).pitch_hz.detach()
    assert 80 < float(pitch_hz.min()) < float(pitch_hz.max()) < 200
    assert 0 < float(vocoder(latents).detach().abs().max()) < 0.5


def _set(work: Path, n_shards: int = 2) -> None:
    """Prompts of a hum in noise, with codes of codebooks that mean nothing."""
    generator = torch.Generator().manual_seed(0)
    codec.save_codebooks(
        work,
        codec.Codebooks(
            torch.zeros(80),
            torch.linalg.qr(torch.randn(80, 64, generator=generator))[0].T.contiguous(),
            torch.randn(4, codec.CODEBOOK_SIZE, 64, generator=generator),
        ),
    )
    n_tokens = 40
    time = np.arange(n_tokens * 3 // 2 * HOP) / SAMPLE_RATE
    hum = sum(np.sin(2 * np.pi * 120 * k * time) / k for k in range(1, 9))
    noise = np.random.default_rng(0).normal(0, 0.05, len(time))
    (work / "sound").mkdir()
    for number in range(n_shards):
        np.savez(
            work / "sound" / f"{number:07d}.npz",
            texts=np.array([f"Hum {number}."]),
            voices=np.zeros(1, np.uint8),
            semantic=np.arange(n_tokens).astype(np.int16),
            lengths=np.array([n_tokens]),
            audio=(3_000 * (hum + noise)).astype(np.int16),
        )
    data.add_codes(work)


def _train(work: Path, steps: int) -> decoder.Trainer:
    parser = argparse.ArgumentParser()
    decoder.add_arguments(parser)
    trainer = decoder.Trainer(parser.parse_args(["--work", str(work), "--steps", str(steps)]))
    trainer.run()
    return trainer


def test_a_run_that_was_stopped_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoder, "BATCH", 2)
    _set(tmp_path)
    torch.save({"model": FineGPT(CONFIG.fine).state_dict()}, tmp_path / "fine.pt")
    assert _train(tmp_path, 2).step == 2
    first = codec.load_model(tmp_path).state_dict()

    def again(self: Crops, fine: FineGPT) -> None:
        raise AssertionError("the fine stage's codes were there already")

    monkeypatch.setattr(Crops, "make", again)
    on = _train(tmp_path, 3)
    assert on.step == 3
    assert on.training.made is not None
    second = codec.load_model(tmp_path).state_dict()
    changed = {name for name in first if not torch.equal(first[name], second[name])}
    assert changed == {name for name in first if name.startswith("decoder.")}

"""`python -m training decoder`: codes to sound, by a vocoder that learns to read them.

The decoder learns from codes of the kinds that it will be given: the true ones and, as soon as
there is a fine stage, true coarse codes with that stage's own fine ones, which are nearer to what
it will hear than to the truth; until then, the coarse ones alone.

Pitch and noisiness are learnt from an analysis of the sound (`training.pitch`), everything else by
making sound at that pitch and comparing spectra. A loss over spectra alone hardly sees a pitch.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from bark_core.codec import Codec
from bark_core.transformer import FineGPT
from bark_core.vocoder import Controls, Vocoder
from training import codec, options
from training.corpus import Corpus, randint
from training.features import HOP, WINDOW
from training.fine import Windows
from training.loop import Budget
from training.options import batch_scale, budget
from training.pitch import pulse_shares, track
from training.pup import CONFIG, LAYOUT
from training.spectra import spectral_loss

BATCH = 16
CROP_FRAMES = 48
WARM_FRAMES = 12  # context for the decoder at the start of a crop; left out of the loss
START_ODDS = 0.25  # of a batch of prompts' beginnings, where the decoder has no context yet
N_COARSE = LAYOUT.n_coarse_codebooks
MADE = codec.N_CODEBOOKS + 1
# of training on so many true codebooks, the last on those that the fine stage made
ODDS = (0.0, 0.0, 0.0, 0.3, 0.7, 0.0)
ODDS_WITH_MADE = (0.0, 0.0, 0.0, 0.0, 0.35, 0.65)
MADE_SHARPNESS = 3.0  # as the page's temperature, after export's sharpening
MADE_AT_ONCE = 512  # windows
LOOK_FOR_FINE_STEPS = 200
RATE, FINAL_RATE, WARM_UP_STEPS = 2e-3, 3e-5, 100
LARGEST_GRADIENT = 5.0
LATENT_SIZE = 8.0  # about
FIRST_PITCH, FIRST_LEVEL = -0.9, -4.0  # 110 Hz, before the sigmoid; log amplitude
TRACK_HOP = 240  # 10 ms: the analysis takes as long as everything else if it is finer
SEMITONES, WORST_SEMITONES = 12, 6.0  # farther off is an octave's mistake, the analysis's or ours
SILENT = 1e-3  # root mean square: there is nothing to be noisy
LOG_EVERY_STEPS, VALIDATE_EVERY_STEPS = 50, 250
STATE = "codec-training.pt"
MADE_CODES = "made.pt"  # the fine stage's, so that a run that goes on has them at once

# Frame t holds samples 480 t onwards, but its window, which ends with it, has its centre at
# 480 t - 32, and the decoder hears nothing of the frames that come. Its sound is late by so many
# samples (31 ms) that what a frame says lies between frames that are there.
DELAY = WINDOW // 2 - HOP // 2 + HOP


def rate_at(step: int, progress: float, highest: float = RATE) -> float:
    """Warm-up, then a cosine down to the final rate."""
    if step < WARM_UP_STEPS:
        return highest * (step + 1) / WARM_UP_STEPS
    return FINAL_RATE + (highest - FINAL_RATE) * (1 + math.cos(math.pi * min(1.0, progress))) / 2


def decoder_loss(vocoder: Vocoder, batch: Batch, skip: int) -> dict[str, Tensor]:
    """`spectral_loss` of the sound at its true pitch, and how wrong pitch and noisiness are.

    Args:
        skip: frames at the start that don't count.
    Returns:
        as spectral_loss, and "pitch" in semitones and "noise" in nats.
    """
    config, n_frames = vocoder.config, batch.latents.shape[2]
    repeats, first = HOP // TRACK_HOP, TRACK_HOP // 2 + HOP // config.steps // 2
    heard = track(
        batch.sound,
        n_frames * repeats,
        first=first,
        hop=TRACK_HOP,
        lowest_hz=config.lowest_hz,
        highest_hz=config.highest_hz,
    )
    shares = pulse_shares(
        batch.sound, heard, config.n_bands, config.edge_hz, first=first, hop=TRACK_HOP
    )
    hz, voiced, level, shares = (
        values.repeat_interleave(config.steps // repeats, dim=1)
        for values in (heard.hz, heard.voiced, heard.level, shares)
    )
    read = vocoder.controls(batch.latents)
    pitch_hz = torch.where(voiced, hz, read.pitch_hz.detach())
    made = vocoder.sound(Controls(pitch_hz, read.pulses.detach(), read.cepstrum))
    losses = spectral_loss(made[:, skip * HOP :], batch.sound[:, skip * HOP :])
    counted = slice(skip * config.steps, None)
    wrong = (SEMITONES * (read.pitch_hz / hz).log2()).abs().clamp(max=WORST_SEMITONES)
    losses["pitch"] = _mean_where(wrong[:, counted], voiced[:, counted])
    noise = F.binary_cross_entropy(read.pulses, shares, reduction="none").mean(-1)
    losses["noise"] = _mean_where(noise[:, counted], level[:, counted] > SILENT)
    losses["total"] = losses["total"] + 0.1 * losses["pitch"] + 0.3 * losses["noise"]
    return losses


def _mean_where(values: Tensor, there: Tensor) -> Tensor:
    return (values * there).sum() / there.sum().clamp_min(1)


@dataclass(frozen=True, slots=True)
class Batch:
    """Latents and the sound they stand for, which comes DELAY samples late."""

    latents: Tensor  # float32 [B, 64, CROP_FRAMES]
    sound: Tensor  # float32 [B, 480 * CROP_FRAMES]


class Crops:
    """Draws crops of codes, true ones or with the fine stage's own, and of their sound.

    Attributes:
        made: the fine stage's codes of all frames, int16 [n_fine, F]; None until there are some.
    """

    def __init__(self, corpus: Corpus, codebooks: codec.Codebooks) -> None:
        self.corpus = corpus
        self.entries = codebooks.entries.to(corpus.device)
        self.long = (corpus.frames.lengths > CROP_FRAMES).nonzero()[:, 0]
        self.made: Tensor | None = None

    def draw(self, count: int, generator: torch.Generator, *, at_start: bool = False) -> Batch:
        """Crops of random prompts: true codes, coarse ones alone, or with made fine ones."""
        odds = torch.tensor(ODDS if self.made is None else ODDS_WITH_MADE)
        device = self.corpus.device
        kinds = torch.multinomial(odds.to(device).expand(count, -1), 1, generator=generator)[:, 0]
        return self.crops(kinds, generator, at_start=at_start)

    def crops(self, kinds: Tensor, generator: torch.Generator, *, at_start: bool = False) -> Batch:
        """One crop for each kind: how many true codebooks, or MADE; int64 [B] of 0..4."""
        corpus, count, device = self.corpus, len(kinds), self.corpus.device
        rows = self.long[randint(0, len(self.long), count, generator, device)]
        spare = corpus.frames.lengths[rows] - CROP_FRAMES
        start = randint(0, spare, count, generator, device) * (not at_start)
        places = start[:, None] + torch.arange(CROP_FRAMES, device=device)
        latents = torch.zeros(count, CROP_FRAMES, codec.DIMENSION, device=device)
        for codebook in range(codec.N_CODEBOOKS):
            codes = corpus.code(codebook, rows, places)
            wanted = kinds > codebook
            if self.made is not None and codebook >= N_COARSE:
                where = corpus.frames.starts[rows][:, None] + places
                own = self.made[codebook - N_COARSE][where].long()
                codes = torch.where((kinds == MADE)[:, None], own, codes)
            latents += F.embedding(codes, self.entries[codebook]) * wanted[:, None, None]
        sound = corpus.audio.rows(rows, CROP_FRAMES * HOP, 0, first=start * HOP - DELAY)
        return Batch(latents.mT, sound / 32768)

    @torch.no_grad()
    def make(self, fine: FineGPT) -> None:
        """Let the fine stage fill every prompt's windows, each behind true codes."""
        corpus, windows = self.corpus, Windows(self.corpus)
        generator = torch.Generator(corpus.device).manual_seed(0)
        made = corpus.codes[N_COARSE:].clone()
        everything = torch.arange(len(corpus), device=corpus.device)
        others = corpus.others(everything, generator)
        counts = windows.count(everything, others, torch.ones_like(everything, dtype=torch.bool))
        for number in range(int(counts.max())):
            for rows in torch.split((counts > number).nonzero()[:, 0], MADE_AT_ONCE):
                always = torch.ones_like(rows, dtype=torch.bool)
                codes, fill, own = windows.windows(
                    rows, others[rows], always, torch.full_like(rows, number)
                )
                frames = (corpus.frames.starts[rows][:, None] + own)[fill]
                for codebook in range(N_COARSE, codec.N_CODEBOOKS):
                    codes[..., codebook][fill] = codec.CODEBOOK_SIZE
                    logits = fine(codebook, codes)[fill][:, : codec.CODEBOOK_SIZE].float()
                    drawn = torch.multinomial(
                        (logits * MADE_SHARPNESS).softmax(1), 1, generator=generator
                    )[:, 0]
                    codes[..., codebook][fill] = drawn
                    made[codebook - N_COARSE, frames] = drawn.to(made.dtype)
        self.made = made


def first_values(vocoder: Vocoder) -> None:
    """Begin quiet, at a man's pitch, from latents of their usual size."""
    with torch.no_grad():
        vocoder.first.weight /= LATENT_SIZE
        vocoder.last.weight *= 0.1
        config = vocoder.config
        assert vocoder.last.bias is not None
        bias = vocoder.last.bias.zero_().view(config.steps, -1)
        bias[:, 0] = FIRST_PITCH
        bias[:, 1 + config.n_bands] = FIRST_LEVEL


class Trainer:
    """Trains the decoder; its state is one file, so it can be stopped at any time."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.work, self.device, self.seed = args.work, args.device, args.seed
        self.budget: Budget = budget(args)
        self.batch, self.rate = BATCH * batch_scale(args), args.rate
        self.codebooks = codec.load_codebooks(self.work)
        self.training = self._crops(held_out=False)
        self.validation = self._crops(held_out=True)
        torch.manual_seed(self.seed)
        if codec.has_model(self.work):
            self.model = codec.load_model(self.work)
        else:
            self.model = codec.build(self.codebooks)
            first_values(_vocoder(self.model))
        self.model.to(self.device).train()
        self.decoder = _vocoder(self.model)
        self.optimiser = torch.optim.AdamW(
            self.decoder.parameters(), lr=RATE, betas=(0.8, 0.99), weight_decay=0.0
        )
        self.step, self.minutes = 0, 0.0
        self._made_at = 0.0
        self._resume()

    def _crops(self, *, held_out: bool) -> Crops:
        corpus = Corpus(self.work, "sound", kind="sound", device=self.device, held_out=held_out)
        return Crops(corpus, self.codebooks)

    def _resume(self) -> None:
        path = self.work / STATE
        if not path.exists():
            return
        state = torch.load(path, map_location=self.device, weights_only=True)
        self.model.load_state_dict(state["model"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.step, self.minutes = state["step"], state["minutes"]

    def save(self) -> None:
        """Write the training state and the weights, each atomically."""
        state: dict[str, Any] = {
            "model": self.model.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "step": self.step,
            "minutes": self.minutes,
        }
        codec.save_tensors(self.work / STATE, state)
        codec.save_tensors(self.work / codec.WEIGHTS, state["model"])

    def run(self) -> None:
        """Train to the end of the budget, saving and logging on the way."""
        started = saved = time.monotonic()
        before, minutes = self.minutes, self.budget.minutes_from(self.minutes)
        progress, recent = self.budget.progress(self.step, self.minutes, minutes), []
        self._look_for_fine()
        while progress < 1:
            if self.step % LOOK_FOR_FINE_STEPS == 0:
                self._look_for_fine()
            recent.append(self._train_step(progress))
            self.minutes = before + (time.monotonic() - started) / 60
            progress = self.budget.progress(self.step, self.minutes, minutes)
            if self.step % LOG_EVERY_STEPS == 0:
                self._log(recent)
                recent = []
            if time.monotonic() - saved > self.budget.checkpoint_minutes * 60:
                self.save()
                saved = time.monotonic()
        self.save()

    def _look_for_fine(self) -> None:
        """Have the fine stage's codes made anew if it has learnt something meanwhile."""
        path = self.work / "fine.pt"
        if not path.exists() or path.stat().st_mtime == self._made_at:
            return
        self._made_at = path.stat().st_mtime
        stored, both = self.work / MADE_CODES, (self.training, self.validation)
        if stored.exists() and stored.stat().st_mtime > self._made_at:
            made = torch.load(stored, map_location=self.device, weights_only=True)
            if [codes.shape[1] for codes in made] == [c.corpus.codes.shape[1] for c in both]:
                self.training.made, self.validation.made = made
                return
        fine = FineGPT(CONFIG.fine)
        fine.load_state_dict(torch.load(path, map_location="cpu", weights_only=True)["model"])
        fine.to(self.device).eval()
        for crops in both:
            crops.make(fine)
        codec.save_tensors(stored, [crops.made for crops in both])

    def _train_step(self, progress: float) -> dict[str, Tensor]:
        # Seeded by the step, so that a resumed run draws what an unbroken one would.
        generator = torch.Generator(self.device).manual_seed(self.seed * 1_000_003 + self.step)
        at_start = self.step % round(1 / START_ODDS) == 0
        batch = self.training.draw(self.batch, generator, at_start=at_start)
        for group in self.optimiser.param_groups:
            group["lr"] = rate_at(self.step, progress, self.rate)
        self.optimiser.zero_grad()
        losses = decoder_loss(self.decoder, batch, 0 if at_start else WARM_FRAMES)
        losses["total"].backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self.decoder.parameters(), LARGEST_GRADIENT)
        self.optimiser.step()
        self.step += 1
        return {name: value.detach() for name, value in losses.items()}

    def _log(self, recent: list[dict[str, Tensor]]) -> None:
        entry: dict[str, Any] = {"step": self.step, "minutes": round(self.minutes, 2)}
        for name in recent[0]:
            mean = torch.stack([losses[name] for losses in recent]).mean()
            entry[name] = round(float(mean), 4)
        if self.step % VALIDATE_EVERY_STEPS == 0:
            kinds = [N_COARSE, codec.N_CODEBOOKS] + [MADE] * (self.validation.made is not None)
            entry["validation"] = {
                "made" if kind == MADE else str(kind): self._validate(kind) for kind in kinds
            }
        with (self.work / codec.CURVE).open("a", encoding="utf-8") as curve:
            curve.write(json.dumps(entry) + "\n")

    @torch.no_grad()
    def _validate(self, kind: int) -> float:
        generator = torch.Generator(self.device).manual_seed(7)
        kinds = torch.full((3 * BATCH,), kind, device=self.device)
        batch = self.validation.crops(kinds, generator)
        return round(float(decoder_loss(self.decoder, batch, WARM_FRAMES)["mel"]), 4)


def _vocoder(model: Codec) -> Vocoder:
    assert isinstance(model.decoder, Vocoder)
    return model.decoder


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `python -m training decoder`."""
    options.add_training_arguments(parser)
    parser.add_argument("--rate", type=float, default=RATE, help="highest rate of learning")


def main(args: argparse.Namespace) -> None:
    """Train the decoder."""
    torch.set_num_threads(args.threads)
    Trainer(args).run()

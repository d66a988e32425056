"""`python -m training decoder`: codes to sound, as a vocoder.

The decoder learns from codes of all kinds that it will be given: the true ones, the first two or
three alone, and, as soon as there is a fine stage, true coarse codes with that stage's own fine
ones, which are nearer to what it will hear than to the truth.
"""

from __future__ import annotations

import argparse
import functools
import json
import math
import time
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bark_core.transformer import FineGPT
from training import codec, options
from training.corpus import Corpus, randint
from training.features import HOP, N_MELS, SAMPLE_RATE, WINDOW, cosines, mel_filters
from training.fine import Windows
from training.loop import Budget
from training.options import batch_scale, budget
from training.pup import CONFIG, LAYOUT

BATCH = 8
CROP_FRAMES = 44
WARM_FRAMES = 8  # context for the decoder at the start of a crop; left out of the loss
LOSS_FFTS = (256, 512, 1024, 2048)
EDGE_HZ = 8_000.0
RUMBLE_HZ = 40.0  # no voice has anything below
# The envelope as recognisers of speech look at it: 27 ms windows, 10 ms apart
ENVELOPE_FFT, ENVELOPE_HOP = 640, 240
ENVELOPE_HZ = (100.0, 7_000.0)
N_BANDS, N_CEPSTRA = 26, 13
START_ODDS = 0.25  # of a batch of prompts' beginnings, where the decoder has no context yet
N_COARSE = LAYOUT.n_coarse_codebooks
MADE = codec.N_CODEBOOKS + 1
# of training on so many true codebooks, the last on those that the fine stage made
ODDS = (0.0, 0.0, 0.15, 0.15, 0.7, 0.0)
ODDS_WITH_MADE = (0.0, 0.0, 0.1, 0.05, 0.3, 0.55)
MADE_SHARPNESS = 3.0  # as the page's temperature, after export's sharpening
MADE_AT_ONCE = 512  # windows
LOOK_FOR_FINE_STEPS = 200
RATE, FINAL_RATE, WARM_UP_STEPS = 1.5e-3, 3e-5, 100
WEIGHTS = {"linear": 0.5, "above": 1.0, "rumble": 0.3, "cepstra": 1.0}
LOG_EVERY_STEPS, VALIDATE_EVERY_STEPS = 50, 250
STATE = "codec-training.pt"

# Frame t holds samples 480 t onwards, but its window, which ends with it, has its centre at
# 480 t - 32. The decoder's sound is late by the difference (11 ms): it need not guess the frame's
# end, of which the tail of the Hann window tells it next to nothing.
DELAY = WINDOW // 2 - HOP // 2


def rate_at(step: int, progress: float, highest: float = RATE) -> float:
    """Warm-up, then a cosine down to the final rate."""
    if step < WARM_UP_STEPS:
        return highest * (step + 1) / WARM_UP_STEPS
    return FINAL_RATE + (highest - FINAL_RATE) * (1 + math.cos(math.pi * min(1.0, progress))) / 2


@functools.lru_cache(maxsize=16)
def _tools(n_fft: int, device: str) -> tuple[Tensor, Tensor]:
    """Window [n_fft] and mel filters [n_mels, n_fft // 2 + 1] up to the edge."""
    filters = mel_filters(n_fft, min(N_MELS, n_fft // 8), 0.0, EDGE_HZ)
    return torch.hann_window(n_fft, device=device), filters.to(device)


def magnitudes(sound: Tensor, n_fft: int) -> Tensor:
    """float32 [B, n] to [B, n_fft // 2 + 1, frames]; white noise gives about the same at any n_fft.

    The root has a floor, which keeps its gradient finite in silence.
    """
    window, _filters = _tools(n_fft, str(sound.device))
    spectrum = torch.stft(sound, n_fft, n_fft // 4, window=window, return_complex=True)
    return (torch.view_as_real(spectrum).square().sum(-1) + 1e-8).sqrt() / math.sqrt(n_fft / 4)


def cepstra(sound: Tensor) -> Tensor:
    """Mel cepstra of the power spectrum: float32 [B, n] to [B, N_CEPSTRA, frames].

    Sums over wide bands and cosines hardly mind where harmonics and noise put their peaks, so
    what is left of a difference is formants and loudness.
    """
    window, filters, rows = _envelope_tools(str(sound.device))
    spectrum = torch.stft(sound, ENVELOPE_FFT, ENVELOPE_HOP, window=window, return_complex=True)
    power = torch.view_as_real(spectrum).square().sum(-1) / (ENVELOPE_FFT / 4)
    return rows @ torch.log(filters @ power + 1e-8)


@functools.lru_cache(maxsize=4)
def _envelope_tools(device: str) -> tuple[Tensor, Tensor, Tensor]:
    """Window [ENVELOPE_FFT], mel filters [N_BANDS, ENVELOPE_FFT // 2 + 1], orthonormal cosines."""
    filters = mel_filters(ENVELOPE_FFT, N_BANDS, *ENVELOPE_HZ)
    rows = cosines(N_CEPSTRA, N_BANDS, device) * math.sqrt(2 / N_BANDS)
    rows[0] /= math.sqrt(2)
    return torch.hann_window(ENVELOPE_FFT, device=device), filters.to(device), rows


def spectral_loss(made: Tensor, wanted: Tensor) -> dict[str, Tensor]:
    """Multi-scale log-mel and magnitude L1, cepstral L1, what lies above 8 kHz or below 40 Hz.

    Args:
        made, wanted: float32 [B, n] at 24 kHz.
    Returns:
        scalars "mel", "linear", "above", "rumble", "cepstra" and their weighted "total".
    """
    parts: dict[str, list[Tensor]] = {"mel": [], "linear": [], "above": [], "rumble": []}
    for n_fft in LOSS_FFTS:
        edge = int(EDGE_HZ / SAMPLE_RATE * n_fft) + 1
        _window, filters = _tools(n_fft, str(made.device))
        size_made, size_wanted = magnitudes(made, n_fft), magnitudes(wanted, n_fft)
        mel_made, mel_wanted = (
            torch.log(filters @ size + 1e-3) for size in (size_made, size_wanted)
        )
        parts["mel"].append((mel_made - mel_wanted).abs().mean())
        parts["linear"].append((size_made - size_wanted)[:, :edge].abs().mean())
        parts["above"].append(size_made[:, edge:].mean())
    # Only the longest window tells 40 Hz from a man's pitch.
    rumble = int(RUMBLE_HZ / SAMPLE_RATE * LOSS_FFTS[-1])
    parts["rumble"].append(size_made[:, :rumble].mean())
    losses = {name: torch.stack(values).mean() for name, values in parts.items()}
    losses["cepstra"] = (cepstra(made) - cepstra(wanted)).abs().mean()
    total = losses["mel"]
    for name, weight in WEIGHTS.items():
        total = total + weight * losses[name]
    losses["total"] = total
    return losses


@dataclass(frozen=True, slots=True)
class Batch:
    """Latents and the sound they stand for, which comes DELAY samples late."""

    latents: Tensor  # float32 [B, 64, CROP_FRAMES]
    sound: Tensor  # float32 [B, 480 * CROP_FRAMES]


class Crops:
    """Draws crops of codes, true ones or with the fine stage's own, and of their sound.

    Attributes:
        made: the fine stage's codes of all frames, int16 [2, F]; None as long as there are none.
    """

    def __init__(self, corpus: Corpus, codebooks: codec.Codebooks) -> None:
        self.corpus = corpus
        self.entries = codebooks.entries.to(corpus.device)
        self.long = (corpus.frames.lengths > CROP_FRAMES).nonzero()[:, 0]
        self.made: Tensor | None = None

    def draw(self, count: int, generator: torch.Generator, *, at_start: bool = False) -> Batch:
        """Crops of random prompts, with 2, 3 or 4 true codebooks or two made ones."""
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


def is_kernel(parameter: nn.Parameter) -> bool:
    """Whether a weight is large enough for Muon: not a bias, nor the last layer's one channel."""
    return parameter.ndim == 3 and min(parameter.flatten(1).shape) >= 8


class ConvolutionMuon(torch.optim.Optimizer):
    """Muon over convolutions' weights, as matrices of outputs by everything else.

    After as many steps from the same weights the decoder's mel loss was 6 % lower than AdamW's
    (docs/log.md).
    """

    def __init__(self, parameters: list[nn.Parameter], rate: float, momentum: float = 0.9) -> None:
        super().__init__(parameters, {"lr": rate, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """One step, of about AdamW's size at the same rate."""
        for group in self.param_groups:
            keep, rate = group["momentum"], group["lr"]
            for parameter in group["params"]:
                state = self.state[parameter]
                if "mean" not in state:
                    state["mean"] = torch.zeros_like(parameter)
                state["mean"].lerp_(parameter.grad, 1 - keep)
                update = parameter.grad.lerp(state["mean"], keep).flatten(1)
                size = 0.2 * max(update.shape) ** 0.5
                parameter.add_(orthogonal(update).view_as(parameter), alpha=-rate * size)


def orthogonal(matrix: Tensor, rounds: int = 5) -> Tensor:
    """About the nearest matrix whose singular values are 1, by Newton-Schulz in bfloat16."""
    a, b, c = 3.4445, -4.7750, 2.0315
    tall = matrix.shape[0] > matrix.shape[1]
    x = (matrix.mT if tall else matrix).bfloat16()
    x = x / x.norm().clamp_min(1e-7)
    for _ in range(rounds):
        square = x @ x.mT
        x = torch.addmm(x, torch.addmm(square, square, square, beta=b, alpha=c), x, beta=a)
    return (x.mT if tall else x).to(matrix.dtype)


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
        self.model = codec.load_model(self.work) if codec.has_model(self.work) else codec.build()
        codec.install_codebooks(self.model, self.codebooks)
        self.model.to(self.device).train()
        self.decoder: nn.Module = self.model.decoder  # type: ignore[assignment]
        kernels = [p for p in self.decoder.parameters() if is_kernel(p)]
        others = [p for p in self.decoder.parameters() if not is_kernel(p)]
        self.optimisers: list[torch.optim.Optimizer] = [
            ConvolutionMuon(kernels, RATE),
            torch.optim.AdamW(others, lr=RATE, betas=(0.8, 0.99), weight_decay=0.0),
        ]
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
        for optimiser, saved in zip(self.optimisers, state["optimisers"], strict=True):
            optimiser.load_state_dict(saved)
        self.step, self.minutes = state["step"], state["minutes"]

    def save(self) -> None:
        """Write the training state and the weights, each atomically."""
        state: dict[str, Any] = {
            "model": self.model.state_dict(),
            "optimisers": [optimiser.state_dict() for optimiser in self.optimisers],
            "step": self.step,
            "minutes": self.minutes,
        }
        codec.save_tensors(self.work / STATE, state)
        codec.save_weights(self.work, codec.CodecArguments(), state["model"], self.step)

    def run(self) -> None:
        """Train to the end of the budget, saving and logging on the way."""
        started = saved = time.monotonic()
        before, minutes = self.minutes, self.budget.minutes_from(self.minutes)
        progress, recent = self.budget.progress(self.step, self.minutes, minutes), []
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
        fine = FineGPT(CONFIG.fine)
        fine.load_state_dict(torch.load(path, map_location="cpu", weights_only=True)["model"])
        for crops in (self.training, self.validation):
            crops.make(fine.to(self.device).eval())

    def _train_step(self, progress: float) -> dict[str, Tensor]:
        # Seeded by the step, so that a resumed run draws what an unbroken one would.
        generator = torch.Generator(self.device).manual_seed(self.seed * 1_000_003 + self.step)
        at_start = self.step % round(1 / START_ODDS) == 0
        batch = self.training.draw(self.batch, generator, at_start=at_start)
        rate = rate_at(self.step, progress, self.rate)
        for optimiser in self.optimisers:
            optimiser.zero_grad()
            for group in optimiser.param_groups:
                group["lr"] = rate
        losses = self._losses(batch, 0 if at_start else WARM_FRAMES * HOP)
        losses["total"].backward()  # type: ignore[no-untyped-call]
        for optimiser in self.optimisers:
            optimiser.step()
        self.step += 1
        return {name: value.detach() for name, value in losses.items()}

    def _losses(self, batch: Batch, skip: int) -> dict[str, Tensor]:
        # bfloat16 convolutions are 1.6 times as fast on processors with AVX-512 BF16.
        with torch.autocast(self.device.partition(":")[0], torch.bfloat16):
            made = self.decoder(batch.latents)
        return spectral_loss(made[:, 0].float()[:, skip:], batch.sound[:, skip:])

    def _log(self, recent: list[dict[str, Tensor]]) -> None:
        entry: dict[str, Any] = {"step": self.step, "minutes": round(self.minutes, 2)}
        for name in recent[0]:
            mean = torch.stack([losses[name] for losses in recent]).mean()
            entry[name] = round(float(mean), 4)
        if self.step % VALIDATE_EVERY_STEPS == 0:
            kinds = [2, 4] if self.validation.made is None else [2, 4, MADE]
            entry["validation"] = {
                "made" if kind == MADE else str(kind): self._validate(kind) for kind in kinds
            }
        with (self.work / codec.CURVE).open("a", encoding="utf-8") as curve:
            curve.write(json.dumps(entry) + "\n")

    @torch.no_grad()
    def _validate(self, kind: int) -> float:
        generator = torch.Generator(self.device).manual_seed(7)
        kinds = torch.full((4 * BATCH,), kind, device=self.device)
        batch = self.validation.crops(kinds, generator)
        return round(float(self._losses(batch, WARM_FRAMES * HOP)["mel"]), 4)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `python -m training decoder`."""
    options.add_arguments(parser)
    parser.add_argument("--rate", type=float, default=RATE, help="highest rate of learning")


def main(args: argparse.Namespace) -> None:
    """Train the decoder."""
    torch.set_num_threads(args.threads)
    Trainer(args).run()

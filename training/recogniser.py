"""`python -m training recogniser`: sound to semantic tokens, so that a recording can be a voice."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bark_core.recogniser import Recogniser, new_recogniser
from training import codec
from training.corpus import Corpus, randint
from training.features import HOP, log_mel
from training.loop import Rates, State, Trainer
from training.options import add_start, add_training_arguments, batch_scale, budget, generators
from training.pup import CONFIG, LAYOUT
from training.start import take_over_recogniser
from training.units import PHONE_INDEX, parts

BATCH = 16
CROP_TOKENS = 100  # 3 s
QUIETEST, LOUDEST = 0.3, 1.5
NOISE = 0.003  # most of it, full scale 1


@dataclass(frozen=True, slots=True)
class Batch:
    """Crops of equal length."""

    latents: Tensor  # [B, 64, T]
    tokens: Tensor  # [B, CROP_TOKENS]


class Crops:
    """Draws sound with its tokens, at any level and with a little noise."""

    def __init__(self, corpus: Corpus, codebooks: codec.Codebooks) -> None:
        self.corpus = corpus
        self.mean = codebooks.mean.to(corpus.device)
        self.components = codebooks.components.to(corpus.device)
        lengths = corpus.said.lengths[corpus.usable]
        self.long = corpus.usable[lengths >= CROP_TOKENS]

    def draw(self, rows: Tensor, generator: torch.Generator) -> Batch:
        """One crop of each of these prompts."""
        corpus, count, device = self.corpus, len(rows), self.corpus.device
        spare = (corpus.said.lengths[rows] - CROP_TOKENS) // 2 + 1
        # codes begin with whole tokens at even ones
        start = 2 * randint(0, spare, count, generator, device)
        n_samples = int(CROP_TOKENS * LAYOUT.frames_per_semantic) * HOP
        sound = corpus.audio.rows(rows, n_samples, 0, first=start * 3 // 2 * HOP) / 32768
        level, noisy = torch.rand(2, count, 1, generator=generator, device=device)
        noise = torch.randn(sound.shape, generator=generator, device=device)
        sound = sound * (QUIETEST + level * (LOUDEST - QUIETEST)) + noise * noisy * NOISE
        latents = (log_mel(sound) - self.mean) @ self.components.T
        tokens = corpus.said.rows(rows, CROP_TOKENS, 0, first=start)
        return Batch(latents.mT, tokens)

    def batches(self, state: State, args: argparse.Namespace) -> Iterator[Batch]:
        """Endless random batches."""
        count, device = BATCH * batch_scale(args), self.corpus.device
        for generator in generators(state, self.corpus, args):
            places = randint(0, len(self.long), count, generator, device)
            yield self.draw(self.long[places], generator)


def loss(model: nn.Module, batch: Batch) -> Tensor:
    """Mean cross-entropy, nats a token."""
    logits = model(batch.latents, CROP_TOKENS, LAYOUT.frames_per_semantic)
    return F.cross_entropy(logits.float().flatten(0, 1), batch.tokens.flatten())


def trainer(args: argparse.Namespace) -> Trainer:
    """Model, data and budget, ready to run."""
    torch.manual_seed(args.seed)
    books, device = codec.load_codebooks(args.work), args.device
    corpus = Corpus(args.work, "sound", kind="sound", device=device)
    crops = Crops(corpus, books)
    held = Crops(Corpus(args.work, "sound", kind="sound", device=device, held_out=True), books)
    phones = torch.tensor([PHONE_INDEX[parts(t)[0]] for t in range(LAYOUT.semantic_vocab)])
    phones = phones.to(device)

    def validate(model: nn.Module) -> dict[str, float]:
        assert isinstance(model, Recogniser)
        batch = held.draw(held.long, torch.Generator(device).manual_seed(0))
        logits = model(batch.latents, CROP_TOKENS, LAYOUT.frames_per_semantic)
        heard = logits.argmax(2)
        return {
            "validation_loss": float(F.cross_entropy(logits.flatten(0, 1), batch.tokens.flatten())),
            "units_right": float((heard == batch.tokens).float().mean()),
            "phones_right": float((phones[heard] == phones[batch.tokens]).float().mean()),
        }

    model = new_recogniser(CONFIG)
    take_over_recogniser(model, args)
    if args.fresh:
        (args.work / "recogniser.pt").unlink(missing_ok=True)
    return Trainer(
        "recogniser",
        model,
        batches=lambda state: crops.batches(state, args),
        loss=loss,
        validate=validate,
        folder=args.work,
        budget=budget(args),
        rates=Rates(vectors=2e-3).scaled(args.rates),
        device=args.device,
    )


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `python -m training recogniser`."""
    add_training_arguments(parser)
    add_start(parser)


def main(args: argparse.Namespace) -> None:
    """Train the recogniser."""
    torch.set_num_threads(args.threads)
    trainer(args).run()

"""`python -m training fine`: the first codebooks to the remaining ones.

Every row is a window that the cascade itself would cut (`bark_core.fine.plan_fine`), one
codebook of it masked from where the window is to be filled.

What is left for the fine codes is near to noise: of 512 entries the true one can't be told, but
which ones bring the sound nearer can. So the network doesn't learn to name the true code. It
learns a distribution over entries by how far each is from what is missing: from what the fine codes
add, less what those before it, as chosen by the network itself, have added.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bark_core.transformer import FineGPT
from training import codec, data
from training.corpus import Corpus, chance, randint
from training.initial import initialise
from training.loop import Rates, State, Trainer
from training.options import add_arguments as add_arguments
from training.options import batch_scale, budget, generators
from training.pup import CONFIG, LAYOUT
from training.start import take_over

BATCH_ROWS = 14
N_VALIDATION = 56  # prompts
HISTORY_SHARE = 0.6
OLD_VALUES_SHARE = 0.1  # the last window of a clip may overlap what is already filled
TRUE_CODES_SHARE = 0.3  # of rows that see true fine codes above, instead of the network's own
SPREAD = 0.15  # of the energy that fine codes have: how sharply nearer entries are preferred
FIRST = LAYOUT.n_coarse_codebooks


@dataclass(frozen=True, slots=True)
class Batch:
    """Windows with all their codes."""

    codes: Tensor  # [B, fine_window, n_codebooks], codebook_size where there is nothing
    fill: Tensor  # bool [B, fine_window]: frames to be predicted
    masked: Tensor  # bool [B]: whether these frames hold nothing yet, or old values
    own: Tensor  # bool [B]: whether later codebooks see the network's own choice


class Windows:
    """The windows that `plan_fine` would cut, a whole batch at once."""

    def __init__(self, corpus: Corpus) -> None:
        self.corpus = corpus

    def batch(self, index: Tensor, generator: torch.Generator) -> Batch:
        """A random window of each prompt, most with something else that the voice said before."""
        corpus, count = self.corpus, len(index)
        others = corpus.others(index, generator)
        with_history = chance(HISTORY_SHARE, count, generator, corpus.device)
        number = randint(
            0, self.count(index, others, with_history), count, generator, corpus.device
        )
        codes, fill, _frames = self.windows(index, others, with_history, number)
        return Batch(
            codes=codes,
            fill=fill,
            masked=~chance(OLD_VALUES_SHARE, count, generator, corpus.device),
            own=~chance(TRUE_CODES_SHARE, count, generator, corpus.device),
        )

    def windows(
        self, index: Tensor, others: Tensor, with_history: Tensor, number: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Windows of known codes, and what of them is to be filled.

        Args:
            index: prompts, int64 [B].
            others: what each has as its history if `with_history`, int64 and bool [B].
            number: which window, int64 [B].
        Returns:
            codes int64 [B, fine_window, n_codebooks]; bool [B, fine_window], what is to be filled;
            int64 [B, fine_window], which frame of the prompt each is, negative in the history.
        """
        size, hop = LAYOUT.fine_window, LAYOUT.fine_history
        n_history = self._n_history(others, with_history)
        n_frames = self.corpus.frames.lengths[index]
        n_all = (n_history + n_frames).clamp_min(size)
        start = torch.minimum(number * hop, n_all - size)
        first = torch.minimum(n_history + number * hop, n_all - hop)
        place = start[:, None] + torch.arange(size, device=index.device)
        end = n_history + n_frames
        past = self.corpus.frames.lengths[others][:, None] - n_history[:, None] + place
        columns = []
        for codebook in range(LAYOUT.n_codebooks):
            own = self.corpus.code(codebook, index, place - n_history[:, None])
            known = torch.where(
                place < n_history[:, None], self.corpus.code(codebook, others, past), own
            )
            columns.append(torch.where(place < end[:, None], known, LAYOUT.codebook_size))
        fill = (place >= first[:, None]) & (place < end[:, None])
        return torch.stack(columns, dim=2), fill, place - n_history[:, None]

    def _n_history(self, others: Tensor, with_history: Tensor) -> Tensor:
        longest = self.corpus.frames.lengths[others].clamp_max(LAYOUT.fine_history)
        return torch.where(with_history, longest, 0)

    def count(self, index: Tensor, others: Tensor, with_history: Tensor) -> Tensor:
        """How many windows each prompt has, int64 [B]."""
        room = LAYOUT.fine_window - self._n_history(others, with_history)
        beyond = self.corpus.frames.lengths[index] - room
        return (-(-beyond // LAYOUT.fine_history)).clamp_min(0) + 1

    def batches(self, state: State, args: argparse.Namespace) -> Iterator[Batch]:
        """Endless random batches."""
        count = BATCH_ROWS * batch_scale(args)
        for generator in generators(state, self.corpus, args):
            yield self.batch(self.corpus.draw(count, generator), generator)


class Nearness:
    """What the fine codes stand for, and how near an entry comes to it.

    Args:
        entries: float32 [4, 512, 64].
        energy: mean square of what the fine codes of real sound add up to.
    """

    def __init__(self, entries: Tensor, energy: float) -> None:
        self.entries = entries
        self.energy = energy

    @classmethod
    def of(cls, corpus: Corpus, codebooks: codec.Codebooks) -> Nearness:
        """Measured on some of a corpus's codes."""
        entries = codebooks.entries.to(corpus.device)
        some = corpus.codes[:, :: max(1, corpus.codes.shape[1] // 20_000)].long()
        added = sum(entries[k][some[k]] for k in range(FIRST, LAYOUT.n_codebooks))
        assert isinstance(added, Tensor)
        return cls(entries, float(added.square().sum(1).mean()))

    def added(self, codes: Tensor) -> Tensor:
        """What the fine codes add to the latents: [..., 4] to [..., 64]."""
        parts = [self.added_by(codes[..., k], k) for k in range(FIRST, LAYOUT.n_codebooks)]
        return torch.stack(parts).sum(0)

    def added_by(self, codes: Tensor, codebook: int) -> Tensor:
        """What one codebook adds: [...] to [..., 64]."""
        return F.embedding(codes.clamp_max(LAYOUT.codebook_size - 1), self.entries[codebook])

    def distances(self, missing: Tensor, codebook: int) -> Tensor:
        """Square distance of each entry from [..., 64], in units of the energy: [..., 512].

        Less the square of what is missing itself, which is the same for all entries.
        """
        entries = self.entries[codebook]
        return (entries.square().sum(1) - 2 * missing @ entries.T) / self.energy


def losses(model: nn.Module, batch: Batch, near: Nearness) -> dict[str, Tensor]:
    """One pass a codebook, each over what the one before has left.

    Returns:
        "loss" (see the module), nats a code; "left", the share of the energy that remains if each
        code is the likeliest; "codebook_4" and so on, cross-entropies of the true codes.
    """
    assert isinstance(model, FineGPT)
    codes, fill = batch.codes, batch.fill
    share = fill / fill.sum()  # of each frame in a mean over those to be filled
    missing = near.added(codes)
    fed = codes.clone()
    parts, figures = [], {}
    empty = fill & batch.masked[:, None]
    for codebook in range(FIRST, LAYOUT.n_codebooks):
        true = codes[..., codebook]
        fed[..., codebook] = torch.where(empty, LAYOUT.codebook_size, true)
        logits = model(codebook, fed.clone())[..., : LAYOUT.codebook_size].float()
        log_p = logits.log_softmax(2)
        cost = near.distances(missing, codebook) / SPREAD + log_p
        parts.append(((log_p.exp() * cost).sum(2) * share).sum())
        likely = log_p.detach().gather(2, true.clamp_max(LAYOUT.codebook_size - 1)[..., None])
        figures[f"codebook_{codebook + 1}"] = -(likely[..., 0] * share).sum()
        own = fill & batch.own[:, None]
        fed[..., codebook] = torch.where(own, log_p.detach().argmax(2), true)
        missing = missing - near.added_by(fed[..., codebook], codebook)
    left = (missing.square().sum(2) * share).sum() / near.energy
    return {"loss": torch.stack(parts).mean(), "left": left.detach(), **figures}


def loss_of(near: Nearness) -> Callable[[nn.Module, Batch], Tensor]:
    """The loss, for the trainer."""
    return lambda model, batch: losses(model, batch, near)["loss"]


def trainer(args: argparse.Namespace) -> Trainer:
    """Model, data and budget, ready to run."""
    sets = [name for name in ("codes", "sound") if data.shards(args.work, name)]
    corpus = Corpus(args.work, *sets, device=args.device, kind="codes")
    held = Windows(Corpus(args.work, *sets, device=args.device, kind="codes", held_out=True))
    near = Nearness.of(corpus, codec.load_codebooks(args.work))
    model = FineGPT(CONFIG.fine)
    initialise(model, torch.arange(CONFIG.fine.block_size), seed=args.seed)
    take_over(model, "fine", args)

    def validate(model: nn.Module) -> dict[str, float]:
        generator = torch.Generator(held.corpus.device).manual_seed(0)
        sums: dict[str, float] = {}
        batches = torch.split(held.corpus.usable[:N_VALIDATION], BATCH_ROWS)
        for rows in batches:
            batch = held.batch(rows, generator)
            everything = torch.ones_like(batch.own)
            batch = Batch(batch.codes, batch.fill, everything, everything)
            for name, value in losses(model, batch, near).items():
                sums[name] = sums.get(name, 0.0) + float(value) / len(batches)
        return {"validation_loss": sums.pop("loss"), **sums}

    if args.fresh:
        (args.work / "fine.pt").unlink(missing_ok=True)
    return Trainer(
        "fine",
        model,
        batches=lambda state: Windows(corpus).batches(state, args),
        loss=loss_of(near),
        validate=validate,
        folder=args.work,
        budget=budget(args),
        # no output head of its own width to speak of: embeddings are tied to the heads
        rates=Rates(vectors=1e-3).scaled(args.rates),
        device=args.device,
        dropout=args.dropout,
        compiled=args.compile,
    )


def main(args: argparse.Namespace) -> None:
    """Train the fine stage."""
    torch.set_num_threads(args.threads)
    trainer(args).run()

"""`python -m training coarse`: semantic tokens to coarse codes.

Every row is a prompt that the cascade itself would build (`bark_core.coarse.plan_coarse`): with
a voice, something else that the same voice said comes first, cut and shifted as there; then a
window somewhere in the sentence. All coarse tokens in sight are learnt from, not only the last.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bark_core.transformer import CausalGPT
from training import codec, data
from training.corpus import Corpus, chance, randint
from training.initial import initialise, share_units
from training.loop import Rates, State, Trainer
from training.options import add_arguments as add_arguments
from training.options import batch_scale, budget, generators
from training.pup import CONFIG, LAYOUT
from training.semantic import IGNORE
from training.start import take_over

BATCH_ROWS = 12
N_VALIDATION = 96  # prompts
HISTORY_SHARE = 0.6
MOST_MISTAKEN = 0.12  # of a row's codes; each row has a share of its own, from none to this
N_NEIGHBOURS = 6
WINDOW = LAYOUT.coarse_window
HOP = WINDOW // 2  # a window that starts so close to the longest history counts as having slid
PROMPT = LAYOUT.coarse_semantic_window + 1  # positions before the first coarse token


@dataclass(frozen=True, slots=True)
class Batch:
    """Prompts with what follows them."""

    tokens: Tensor  # [B, PROMPT + n]
    targets: Tensor  # [B, n + 1] the coarse token that follows, from the INFER position on


class Rows:
    """The rows that `plan_coarse` and its `prompt` would build, a whole batch at once."""

    def __init__(self, corpus: Corpus) -> None:
        self.corpus = corpus

    def batch(self, index: Tensor, generator: torch.Generator) -> Batch:
        """A random window of each prompt, most with something else that the voice said before."""
        corpus, count = self.corpus, len(index)
        others = corpus.others(index, generator)
        with_history = chance(HISTORY_SHARE, count, generator, corpus.device)
        n_windows = -(-self._n_flat(index) // WINDOW)
        # while nothing has slid out, a later window holds all earlier ones
        slides = -(-(LAYOUT.max_coarse_history - HOP) // WINDOW)
        least = torch.where(with_history, 0, (n_windows - 1).clamp_max(slides))
        window = least + randint(0, n_windows - least, count, generator, corpus.device)
        return self.rows(index, others, with_history, window * WINDOW)

    def rows(self, index: Tensor, others: Tensor, with_history: Tensor, start: Tensor) -> Batch:
        """Prompts and the windows after them.

        Args:
            index: prompts, int64 [B].
            others: what each has as its history if `with_history`, int64 and bool [B].
            start: coarse tokens made before the window, int64 [B].
        """
        n_past_semantic, n_past = self._history_sizes(others, with_history)
        made = (start / LAYOUT.coarse_per_semantic).round().long()
        semantic = self._semantic(index, others, n_past_semantic, made)
        n_steps = self._n_flat(index)
        stop = torch.minimum(start + WINDOW, n_steps)
        first = (n_past + start - LAYOUT.max_coarse_history).clamp_min(0)
        width = LAYOUT.max_coarse_history + WINDOW
        place = first[:, None] + torch.arange(width, device=index.device)
        # the history ends one frame before its own end
        end = self._n_flat(others)[:, None]
        past = self._flat(others, end - LAYOUT.n_coarse_codebooks - n_past[:, None] + place)
        own = self._flat(index, place - n_past[:, None])
        coarse = torch.where(place < n_past[:, None], past, own)
        inside = place < (n_past + stop)[:, None]
        infer = torch.full_like(index[:, None], LAYOUT.coarse_infer)
        fed = torch.where(inside, coarse, LAYOUT.coarse_semantic_pad)
        last = torch.full_like(infer, IGNORE)
        return Batch(
            tokens=torch.cat([semantic, infer, fed], dim=1),
            targets=torch.cat([torch.where(inside, coarse, IGNORE), last], dim=1),
        )

    def _n_flat(self, index: Tensor) -> Tensor:
        """Coarse tokens of each prompt."""
        return self.corpus.frames.lengths[index] * LAYOUT.n_coarse_codebooks

    def _history_sizes(self, others: Tensor, with_history: Tensor) -> tuple[Tensor, Tensor]:
        """Semantic and coarse tokens of each history, as `plan_coarse` trims it: int64 [B]."""
        ratio, n_said = LAYOUT.coarse_per_semantic, self.corpus.said.lengths[others]
        heard = (self._n_flat(others).double() / ratio).floor().long()
        n_semantic = torch.minimum(n_said - n_said % 2, heard)
        n_semantic = n_semantic.clamp_max(math.floor(LAYOUT.max_coarse_history / ratio))
        n_semantic = torch.where(with_history, n_semantic, 0)
        n_coarse = (n_semantic.double() * ratio).round().long() - LAYOUT.n_coarse_codebooks
        return n_semantic, n_coarse.clamp_min(0)

    def _semantic(self, index: Tensor, others: Tensor, n_past: Tensor, made: Tensor) -> Tensor:
        """The semantic half of the prompt, [B, coarse_semantic_window]."""
        said = self.corpus.said
        most = math.floor(LAYOUT.max_coarse_history / LAYOUT.coarse_per_semantic)
        first = (n_past + made - most).clamp_min(0)
        place = first[:, None] + torch.arange(LAYOUT.coarse_semantic_window, device=index.device)
        past = said.at(others, said.lengths[others][:, None] - n_past[:, None] + place)
        own = said.at(index, place - n_past[:, None])
        inside = place < (n_past + said.lengths[index])[:, None]
        seen = torch.where(place < n_past[:, None], past, own)
        return torch.where(inside, seen, LAYOUT.coarse_semantic_pad)

    def _flat(self, index: Tensor, places: Tensor) -> Tensor:
        """Coarse tokens at places of the flat sequence: as `bark_core.coarse.flatten`."""
        codebook = places % LAYOUT.n_coarse_codebooks
        codes = self.corpus.code(codebook, index, places // LAYOUT.n_coarse_codebooks)
        return codes + LAYOUT.semantic_vocab + codebook * LAYOUT.codebook_size

    def batches(self, state: State, args: argparse.Namespace) -> Iterator[Batch]:
        """Endless random batches, some of whose codes are mistaken for their neighbours."""
        count = BATCH_ROWS * batch_scale(args)
        neighbours = near_codes(codec.load_codebooks(args.work), N_NEIGHBOURS)
        neighbours = neighbours.to(self.corpus.device)
        for generator in generators(state, self.corpus, args):
            batch = self.batch(self.corpus.draw(count, generator), generator)
            yield replace(batch, tokens=mistaken(batch.tokens, neighbours, generator))


def near_codes(codebooks: codec.Codebooks, count: int) -> Tensor:
    """The nearest other entries of each coarse code, int64 [n_coarse * 512, count]."""
    rows = []
    for codebook in range(LAYOUT.n_coarse_codebooks):
        entries = codebooks.entries[codebook]
        nearest = torch.cdist(entries, entries).argsort(1)[:, 1 : count + 1]
        rows.append(nearest + codebook * LAYOUT.codebook_size)
    return torch.cat(rows)


def mistaken(tokens: Tensor, neighbours: Tensor, generator: torch.Generator) -> Tensor:
    """Replace some coarse tokens by neighbours of theirs, as sampling does.

    What is generated is not as clean as what is trained on; a model that has met mistakes doesn't
    follow them.

    Args:
        tokens: [B, PROMPT + n].
        neighbours: of `near_codes`.
    """
    count, device = len(tokens), tokens.device
    rate = torch.rand(count, 1, generator=generator, device=device) * MOST_MISTAKEN
    hit = torch.rand(tokens.shape, generator=generator, device=device) < rate
    code = tokens - LAYOUT.semantic_vocab
    coarse = (code >= 0) & (code < len(neighbours))
    coarse[:, :PROMPT] = False
    choice = torch.randint(neighbours.shape[1], tokens.shape, generator=generator, device=device)
    other = neighbours[code.clamp(0, len(neighbours) - 1), choice] + LAYOUT.semantic_vocab
    return torch.where(hit & coarse, other, tokens)


def loss(model: nn.Module, batch: Batch) -> Tensor:
    """Mean cross-entropy within the codebook whose turn it is, nats a token."""
    return losses(model, batch).mean()


def losses(model: nn.Module, batch: Batch) -> Tensor:
    """The loss of each coarse codebook, [n_coarse]."""
    assert isinstance(model, CausalGPT)
    tokens, targets = batch.tokens, batch.targets
    hidden = model(model.embed(tokens))[:, PROMPT - 1 :]
    parts = []
    for codebook in range(LAYOUT.n_coarse_codebooks):
        start = LAYOUT.semantic_vocab + codebook * LAYOUT.codebook_size
        # the window starts with codebook 1, and they take turns
        turn = slice(codebook, None, LAYOUT.n_coarse_codebooks)
        logits = model.logits(hidden[:, turn], start, start + LAYOUT.codebook_size).float()
        wanted = targets[:, turn]
        wanted = torch.where(wanted == IGNORE, IGNORE, wanted - start)
        parts.append(F.cross_entropy(logits.flatten(0, 1), wanted.flatten(), ignore_index=IGNORE))
    return torch.stack(parts)


def trainer(args: argparse.Namespace) -> Trainer:
    """Model, data and budget, ready to run."""
    sets = [name for name in ("codes", "sound") if data.shards(args.work, name)]
    corpus = Corpus(args.work, *sets, device=args.device, kind="codes")
    held = Rows(Corpus(args.work, *sets, device=args.device, kind="codes", held_out=True))
    model = CausalGPT(CONFIG.coarse)
    positions = torch.arange(CONFIG.coarse.block_size)
    moments = (positions - PROMPT) / LAYOUT.coarse_per_semantic
    initialise(model, torch.where(positions < PROMPT, positions, moments), seed=args.seed)
    share_units(model, head=False)
    take_over(model, "coarse", args)

    def validate(model: nn.Module) -> dict[str, float]:
        generator = torch.Generator(held.corpus.device).manual_seed(0)
        parts = [
            losses(model, held.batch(rows, generator))
            for rows in torch.split(held.corpus.usable[:N_VALIDATION], BATCH_ROWS)
        ]
        means = torch.stack(parts).mean(dim=0).tolist()
        figures = {f"codebook_{number}": mean for number, mean in enumerate(means, 1)}
        return {"validation_loss": sum(means) / len(means), **figures}

    if args.fresh:
        (args.work / "coarse.pt").unlink(missing_ok=True)
    return Trainer(
        "coarse",
        model,
        batches=lambda state: Rows(corpus).batches(state, args),
        loss=loss,
        validate=validate,
        folder=args.work,
        budget=budget(args),
        rates=Rates().scaled(args.rates),
        device=args.device,
        dropout=args.dropout,
        compiled=args.compile,
    )


def main(args: argparse.Namespace) -> None:
    """Train the coarse stage."""
    torch.set_num_threads(args.threads)
    trainer(args).run()

"""`python -m training semantic`: letters to semantic tokens.

Trained on exactly the prompt that the cascade feeds (text over history), with one saving: for
the first part of the budget the padding behind the text is left out of the sequence. The
positions stay those of the full prompt, so all that is left to learn at the end is to look past
the padding.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from bark_core.request import SemanticParams
from bark_core.semantic import generate_semantic
from bark_core.tokens import SemanticTokens, TextTokens
from bark_core.transformer import CausalGPT
from training import data
from training.corpus import Corpus, chance, randint
from training.initial import initialise, share_units
from training.loop import Rates, State, Trainer
from training.options import add_arguments as add_arguments
from training.options import batch_scale, budget, generators
from training.pup import CONFIG, LAYOUT
from training.start import take_over
from training.units import PHONE_INDEX, parts
from training.vocabulary import character_vocabulary

IGNORE = -100
SHORT_PROMPT_UNTIL = 0.9  # of the budget
SHORT_FIRST_UNTIL = 0.06
SHORT_FIRST_TOKENS = 90
HISTORY_SHARE = 0.5
BATCH_POSITIONS = 4096
POOL = 2048


@dataclass(frozen=True, slots=True)
class Batch:
    """Rows of about the same length."""

    text: Tensor  # [B, P] ids with offset; P <= text_window positions of the prompt are fed
    history: Tensor  # [B, P]
    said: Tensor  # [B, S] semantic tokens, fed
    targets: Tensor  # [B, S + 1] what follows each, the end token last, IGNORE behind it


class Pairs:
    """Batches of text and what is said, from any sets."""

    def __init__(self, corpus: Corpus) -> None:
        self.corpus = corpus

    def batch(self, rows: NDArray[np.int64], rng: np.random.Generator, *, full: bool) -> Batch:
        """Assemble a batch; `full` feeds the whole prompt, padding included."""
        corpus = self.corpus
        index = torch.from_numpy(rows).to(corpus.device)
        n_said = int(corpus.n_said[rows].max())
        n_prompt = LAYOUT.text_window
        if not full:
            n_prompt = min(n_prompt, int(corpus.n_text[rows].max() + rng.integers(12)))
        targets = corpus.said.rows(index, n_said + 1, IGNORE)
        places = torch.arange(n_said + 1, device=corpus.device)
        ends = places == corpus.said.lengths[index][:, None]
        generator = torch.Generator(corpus.device).manual_seed(int(rng.integers(2**31)))
        return Batch(
            text=corpus.text.rows(index, n_prompt, LAYOUT.text_pad),
            history=self._history(index, n_prompt, generator),
            said=targets[:, :-1].clamp_min(0),
            targets=torch.where(ends, LAYOUT.semantic_pad, targets),
        )

    def _history(self, rows: Tensor, width: int, generator: torch.Generator) -> Tensor:
        """The end of something else that the same voice said, or nothing: [B, width]."""
        corpus, count = self.corpus, len(rows)
        others = corpus.others(rows, generator)
        long = corpus.said.lengths[others]
        asked = randint(8, LAYOUT.text_window + 1, count, generator, corpus.device)
        kept = torch.minimum(long, asked.clamp_max(width))
        history = corpus.said.rows(others, width, LAYOUT.semantic_pad, first=long - kept)
        with_history = chance(HISTORY_SHARE, count, generator, corpus.device)
        return torch.where(with_history[:, None], history, LAYOUT.semantic_pad)

    def batches(self, state: State, args: argparse.Namespace) -> Iterator[Batch]:
        """Endless batches of rows of like length, short ones first."""
        corpus, scale = self.corpus, batch_scale(args)
        waiting: list[NDArray[np.int64]] = []
        for _generator in generators(state, corpus, args):
            rng = np.random.default_rng([args.seed, state.step])
            if not waiting:
                pool = rng.choice(corpus.usable_rows, POOL * scale)
                if state.progress < SHORT_FIRST_UNTIL:
                    pool = pool[corpus.n_said[pool] <= SHORT_FIRST_TOKENS]
                pool = pool[corpus.n_said[pool].argsort(kind="stable")]
                sizes = corpus.n_said[pool] + corpus.n_text[pool] + 8
                groups = group(sizes, BATCH_POSITIONS * scale)
                waiting = [pool[groups[place]] for place in rng.permutation(len(groups))]
            yield self.batch(waiting.pop(), rng, full=state.progress >= SHORT_PROMPT_UNTIL)


def group(sizes: NDArray[np.int64], positions: int) -> list[slice]:
    """Cut rows sorted by size into batches whose padded size is at most `positions`."""
    groups, start = [], 0
    for stop, size in enumerate(sizes.tolist()):
        if stop > start and (stop + 1 - start) * size > positions:
            groups.append(slice(start, stop))
            start = stop
    groups.append(slice(start, len(sizes)))
    return groups


def loss(model: nn.Module, batch: Batch) -> Tensor:
    """Mean cross-entropy of the next semantic token, nats."""
    assert isinstance(model, CausalGPT)
    device = model.device
    text, history, said = batch.text, batch.history, batch.said
    n_prompt, n_said = text.shape[1], said.shape[1]
    infer = torch.full_like(text[:, :1], LAYOUT.semantic_infer)
    fed = torch.cat(
        [model.embed(text) + model.embed(history), model.embed(torch.cat([infer, said], dim=1))],
        dim=1,
    )
    speech = torch.arange(n_said + 1, device=device) + LAYOUT.text_window
    positions = torch.cat([torch.arange(n_prompt, device=device), speech])
    hidden = model(fed, positions=positions)[:, n_prompt:]
    logits = model.logits(hidden, 0, LAYOUT.semantic_vocab + 1).float()
    return F.cross_entropy(logits.flatten(0, 1), batch.targets.flatten(), ignore_index=IGNORE)


def phones_of(tokens: NDArray[np.int16]) -> list[int]:
    """Phones that a run of semantic tokens says: a new one where phone or third starts again."""
    said: list[int] = []
    before = ("", 0)
    for token in tokens.tolist():
        phone, third, _tone = parts(token)
        if phone != before[0] or third < before[1]:
            said.append(PHONE_INDEX[phone])
        before = (phone, third)
    return said


def edit_distance(a: list[int], b: list[int]) -> int:
    """Insertions, deletions and substitutions that turn a into b."""
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        corner, row[0] = row[0], i
        for j, y in enumerate(b, 1):
            corner, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, corner + (x != y))
    return row[-1]


def validator(
    held: Pairs, n_greedy: int, n_loss: int = 128
) -> Callable[[nn.Module], dict[str, float]]:
    """Figures on prompts that are not trained on: loss, and the phone error of greedy runs."""
    corpus = held.corpus

    def validate(model: nn.Module) -> dict[str, float]:
        assert isinstance(model, CausalGPT)
        rng = np.random.default_rng(0)
        losses = [
            float(loss(model, held.batch(rows, rng, full=True)))
            for rows in np.array_split(corpus.usable_rows[:n_loss], max(1, n_loss // 16))
        ]
        figures = {"validation_loss": float(np.mean(losses))}
        wrong = total = ended = 0
        for index in corpus.usable[:n_greedy]:
            text = corpus.text.rows(index[None], int(corpus.text.lengths[index]), 0)[0]
            said = corpus.said.rows(index[None], int(corpus.said.lengths[index]), 0)[0]
            heard = phones_of(_greedy(model, text.cpu().numpy()))
            wanted = phones_of(said.cpu().numpy())
            wrong += edit_distance(heard, wanted)
            total += len(wanted)
            ended += len(heard) < 2 * len(wanted)
        if n_greedy:
            figures |= {"phone_error": wrong / total, "ended": ended / n_greedy}
        return figures

    return validate


def _greedy(model: CausalGPT, text: NDArray[np.int64]) -> NDArray[np.int16]:
    steps = generate_semantic(
        model,
        TextTokens(text - LAYOUT.text_offset, LAYOUT),
        params=SemanticParams(temperature=0.0, min_eos_p=None, max_duration_s=12.0),
        generator=torch.Generator(),
    )
    while True:
        try:
            next(steps)
        except StopIteration as end:
            tokens: SemanticTokens = end.value
            return tokens.values


def trainer(args: argparse.Namespace) -> Trainer:
    """Model, data and budget, ready to run."""
    sets = [name for name in data.SETS if data.shards(args.work, name)]
    corpus = Corpus(args.work, *sets, device=args.device, kind="text")
    held = Corpus(args.work, *sets, device=args.device, kind="text", held_out=True)
    model = CausalGPT(CONFIG.text)
    positions = torch.arange(CONFIG.text.block_size)
    spoken = (positions - LAYOUT.text_window) / corpus.tokens_per_letter
    initialise(
        model, torch.where(positions < LAYOUT.text_window, positions, spoken), seed=args.seed
    )
    share_letters(model, character_vocabulary())
    share_units(model, head=True)
    take_over(model, "semantic", args)
    if args.fresh:
        (args.work / "semantic.pt").unlink(missing_ok=True)
    return Trainer(
        "semantic",
        model,
        batches=lambda state: Pairs(corpus).batches(state, args),
        loss=loss,
        validate=validator(Pairs(held), args.greedy),
        folder=args.work,
        budget=budget(args),
        rates=Rates().scaled(args.rates),
        device=args.device,
        dropout=args.dropout,
        compiled=args.compile,
    )


def share_letters(model: CausalGPT, vocabulary: list[str]) -> None:
    """Start all forms of a letter alike: "T" is read as "t", "##t" as "t" within a word."""
    rows = {token: LAYOUT.text_offset + i for i, token in enumerate(vocabulary)}
    table = model.transformer["wte"].weight
    assert isinstance(table, Tensor)
    with torch.no_grad():
        inside, capital = torch.randn(2, table.shape[1]) * table.std() * 0.5
        for letter in "abcdefghijklmnopqrstuvwxyz":
            start = table[rows[letter]].clone()
            table[rows[f"##{letter}"]] = start + inside
            table[rows[letter.upper()]] = start + capital
            table[rows[f"##{letter.upper()}"]] = start + inside + capital


def main(args: argparse.Namespace) -> None:
    """Train the semantic stage."""
    torch.set_num_threads(args.threads)
    trainer(args).run()

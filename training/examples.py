"""Recordings with transcripts as examples to train on, for any model that the studio loads.

An example is a voice file and its text: `NAME.npz` (semantic tokens, coarse and fine codes, as the
page saves voices) beside `NAME.txt`. `python -m training recordings FOLDER` makes them of sound
files with transcripts; results that the page saved as voices are examples already.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from bark_core import (
    Cascade,
    CoarseParams,
    TokenLayout,
    Voice,
    load,
    load_recogniser,
    load_voice,
    read_audio,
    voice_from_audio,
)
from bark_core.coarse import flatten, plan_coarse
from bark_core.fine import plan_fine
from bark_core.semantic import embed_prompt, history_row, live_logits, text_row
from bark_core.tokens import SemanticTokens, TextTokens
from bark_core.transformer import CausalGPT, FineGPT

SOUND_ENDINGS = (".wav", ".flac", ".mp3", ".ogg", ".aiff")
IGNORE = -100
HISTORY_SHARE = 0.5  # of the rows that another example of the same folder precedes


@dataclass(frozen=True, slots=True)
class Example:
    """What one recording or result teaches."""

    text: str
    voice: Voice


def read_examples(folder: Path, layout: TokenLayout) -> list[Example]:
    """All NAME.npz with a NAME.txt beside it, in the order of their names.

    Raises:
        FileNotFoundError: there are none.
        VoiceError: a file is damaged, or of another layout.
    """
    examples = [
        Example(
            path.with_suffix(".txt").read_text(encoding="utf-8").strip(),
            load_voice(path, layout=layout),
        )
        for path in sorted(folder.glob("*.npz"))
        if path.with_suffix(".txt").exists()
    ]
    if not examples:
        raise FileNotFoundError(f"no NAME.npz with a NAME.txt in {folder}")
    return examples


def write_examples(sounds: Path, target: Path, model: str | Path) -> int:
    """Turn sound files with transcripts (NAME.wav, NAME.txt) into examples; returns how many.

    Raises:
        InvalidSetting: the model can't hear (only pup can).
    """
    cascade, recogniser = load(model, device="cpu"), load_recogniser(model)
    layout = cascade.config.layout
    target.mkdir(parents=True, exist_ok=True)
    n_written = 0
    for path in sorted(sounds.iterdir()):
        words = path.with_suffix(".txt")
        if path.suffix.lower() not in SOUND_ENDINGS or not words.exists():
            continue
        audio = read_audio(path, layout.sample_rate_hz)
        voice = voice_from_audio(audio, cascade.codec, recogniser, name=path.stem)
        voice.save(target / f"{path.stem}.npz")
        (target / words.name).write_text(words.read_text(encoding="utf-8"), encoding="utf-8")
        n_written += 1
    return n_written


class Rows:
    """Losses of single rows, as the cascade of any layout would feed them."""

    def __init__(self, cascade: Cascade, examples: list[Example], seed: int) -> None:
        self.cascade, self.examples = cascade, examples
        self.layout = cascade.config.layout
        self.rng = np.random.default_rng(seed)

    def loss(self, stage: str) -> Tensor:
        """Mean cross-entropy of a random row, nats a token."""
        example = self.examples[int(self.rng.integers(len(self.examples)))]
        history = None
        if self.rng.random() < HISTORY_SHARE and len(self.examples) > 1:
            history = self.examples[int(self.rng.integers(len(self.examples)))].voice
        makers = {"semantic": self._semantic, "coarse": self._coarse, "fine": self._fine}
        return makers[stage](example, history)

    def _semantic(self, example: Example, history: Voice | None) -> Tensor:
        model, layout = self.cascade.text, self.layout
        tokens = np.array(self.cascade.tokenizer.encode(example.text)[: layout.text_window])
        text = torch.from_numpy(text_row(TextTokens(tokens, layout)))[None].to(model.device)
        past = history_row(history.semantic if history else None, layout)
        prompt = embed_prompt(model, text, torch.from_numpy(past)[None].to(model.device), layout)
        said = example.voice.semantic.values[: layout.max_semantic_tokens - 1].astype(np.int64)
        fed = torch.from_numpy(said)[None].to(model.device)
        hidden = model(torch.cat([prompt, model.embed(fed)], dim=1))[:, layout.text_window :]
        logits = live_logits(model, hidden, layout, allow_end=True)
        wanted = torch.from_numpy(np.append(said, layout.semantic_pad)).to(model.device)
        return F.cross_entropy(logits[0].float(), wanted)

    def _coarse(self, example: Example, history: Voice | None) -> Tensor:
        model, layout = self.cascade.coarse, self.layout
        past = (history.semantic, history.coarse) if history else None
        n_frames = example.voice.coarse.n_frames
        said = example.voice.semantic.values[: round(n_frames / layout.frames_per_semantic)]
        plan = plan_coarse(SemanticTokens(said, layout), past, CoarseParams())
        made = flatten(example.voice.coarse)[: plan.n_steps]
        start = int(self.rng.choice(np.arange(0, len(made), layout.coarse_window)))
        prompt = plan.prompt(made[:start])
        row = np.concatenate([prompt, made[start : start + layout.coarse_window]])
        tokens = torch.from_numpy(row)[None].to(model.device)
        # the last window may end with the codes: nothing follows its last token
        hidden = model(model.embed(tokens[:, :-1]))[0, len(prompt) - 1 :]
        return self._of_each_codebook(model, hidden, tokens[0, len(prompt) :])

    def _of_each_codebook(self, model: CausalGPT, hidden: Tensor, wanted: Tensor) -> Tensor:
        layout, parts = self.layout, []
        for codebook in range(layout.n_coarse_codebooks):
            first = layout.semantic_vocab + codebook * layout.codebook_size
            turn = slice(codebook, None, layout.n_coarse_codebooks)
            logits = model.logits(hidden[turn], first, first + layout.codebook_size)
            parts.append(F.cross_entropy(logits.float(), wanted[turn] - first))
        return torch.stack(parts).mean()

    def _fine(self, example: Example, history: Voice | None) -> Tensor:
        model, layout = self.cascade.fine, self.layout
        plan = plan_fine(example.voice.coarse, history.fine if history else None)
        known = plan.codes.copy()
        end = plan.n_history + plan.n_frames
        known[plan.n_history : end] = example.voice.fine.values.T
        start, fill = next(plan.windows())
        codebook = int(self.rng.integers(layout.n_coarse_codebooks, layout.n_codebooks))
        codes, wanted = self._masked(known[start : start + layout.fine_window], fill, end, codebook)
        logits = model(codebook, torch.from_numpy(codes)[None].to(model.device))
        targets = torch.from_numpy(wanted).to(model.device)
        return F.cross_entropy(
            logits[0, :, : layout.codebook_size].float(), targets, ignore_index=IGNORE
        )

    def _masked(
        self, window: NDArray[np.int64], fill: int, end: int, codebook: int
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The window without one codebook from `fill` on, and what stood there."""
        codes, wanted = window.copy(), np.full(len(window), IGNORE)
        stop = min(end, len(window))
        wanted[fill:stop] = codes[fill:stop, codebook]
        codes[fill:, codebook] = self.layout.codebook_size
        return codes, wanted


def stage_module(cascade: Cascade, stage: str) -> CausalGPT | FineGPT:
    """The transformer of a stage."""
    modules: dict[str, CausalGPT | FineGPT] = {
        "semantic": cascade.text,
        "coarse": cascade.coarse,
        "fine": cascade.fine,
    }
    return modules[stage]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `python -m training recordings`."""
    parser.add_argument(
        "sounds", type=Path, help="folder of NAME.wav (or .flac, .mp3) with NAME.txt"
    )
    parser.add_argument("--out", type=Path, required=True, help="folder for the examples")
    parser.add_argument("--model", default="pup", help="whose tokens and codes; it must hear")


def main(args: argparse.Namespace) -> None:
    """Write the examples."""
    print(f"{write_examples(args.sounds, args.out, args.model)} examples in {args.out}")

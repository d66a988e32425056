"""`python -m training export`: checkpoints to models/pup and presets/voices.

Writes what `bark_core.load` reads: float16 safetensors, the configuration, the tokenizer, and
the teacher's voices as history prompts.
"""

from __future__ import annotations

import argparse
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bark_core.configurations import STAGES, StageName
from bark_core.folders import stage_file
from bark_core.formats import write_model
from bark_core.layouts import from_suno
from bark_core.recogniser import RECOGNISER_FILE
from bark_core.tokenizer import Tokenizer
from bark_core.tokens import FineCodes, SemanticTokens
from bark_core.voices import Voice
from bark_core.weights import read_safetensors, write_safetensors
from training import data
from training.pup import CONFIG, LAYOUT
from training.teacher import VOICES
from training.vocabulary import character_vocabulary

ROOT = data.ROOT
VOICE_SECONDS = 5.0  # longer than every window looks back, short enough to be read quickly

# A network this small puts too much on what is wrong. Its logits are multiplied so that the
# page's usual temperature (0.7, fine 0.5) is steady, as with the published models.
SHARPER = {"semantic": 1.4, "coarse": 4.0, "fine": 1.5}

_PLAIN = re.compile(r"[A-Z][a-z]+,?( [A-Za-z]?[a-z']+,?)+\.")  # one statement, no cues, no capitals


def export_model(work: Path, target: Path) -> None:
    """Write the model's files anew from the checkpoints in the work folder.

    What has no checkpoint there, stays as it is in `target`; so does the model card.
    """
    kept = {stage: _kept(target / stage_file(stage)) for stage in STAGES if not _made(work, stage)}
    recogniser = _recogniser(work, target)

    def weights_of(stage: StageName) -> dict[str, Tensor]:
        if stage in kept:
            return kept[stage]
        checkpoint = torch.load(work / f"{stage}.pt", map_location="cpu", weights_only=True)
        if stage == "codec":
            return dict(checkpoint)
        return _sharpened(from_suno(checkpoint["model"], stage, CONFIG), SHARPER[stage])

    card = target / "README.md"
    text = card.read_text(encoding="utf-8") if card.exists() else None
    if target.exists():
        shutil.rmtree(target)
    write_model(
        target,
        config=CONFIG,
        tokenizer=Tokenizer.from_vocabulary(character_vocabulary()),
        read_stage=weights_of,
        precision="float16",
        codec_precision="float16",
    )
    write_safetensors(target / RECOGNISER_FILE, recogniser)
    if text is not None:
        card.write_text(text, encoding="utf-8")


def _made(work: Path, part: str) -> bool:
    return (work / f"{part}.pt").exists()


def _kept(file: Path) -> dict[str, Tensor]:
    # copies: the files that they are mapped from are about to go
    return {name: value.clone() for name, value in read_safetensors(file).items()}


def _recogniser(work: Path, target: Path) -> dict[str, Tensor]:
    if not _made(work, "recogniser"):
        return _kept(target / RECOGNISER_FILE)
    heard = torch.load(work / "recogniser.pt", map_location="cpu", weights_only=True)["model"]
    return {name: value.half().contiguous() for name, value in heard.items()}


def _sharpened(weights: dict[str, Tensor], factor: float) -> dict[str, Tensor]:
    """Multiply all logits: the last norm is followed by the output heads only."""
    last = "transformer.ln_f."
    return {k: v * factor if k.startswith(last) else v for k, v in weights.items()}


def export_voices(work: Path, target: Path) -> None:
    """Write one plain sentence of each voice, not trained on, as a history prompt."""
    target.mkdir(parents=True, exist_ok=True)
    sound = data.load(work, "sound")
    lengths = np.diff(sound.offsets) / LAYOUT.semantic_rate_hz
    plain = np.array([bool(_PLAIN.fullmatch(text)) for text in sound.texts])
    for number, teacher in enumerate(VOICES):
        held = np.flatnonzero((sound.voices == number) & plain)
        held = held[held >= sound.n_training]
        index = int(held[np.abs(lengths[held] - VOICE_SECONDS).argmin()])
        fine = FineCodes(sound.codes_of(index), LAYOUT)
        extra: dict[str, Any] = {"description": teacher.description, "language": "en"}
        Voice(
            semantic=SemanticTokens(sound.semantic_of(index), LAYOUT),
            coarse=fine.coarse,
            fine=fine,
            name=teacher.name,
            source=f"flite, {teacher.character.library}",
            kind="synthetic",
            **extra,
        ).save(target / f"{teacher.name}.npz")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `python -m training export`."""
    parser.add_argument("--work", type=Path, default=data.DEFAULT_WORK)
    parser.add_argument("--model", type=Path, default=ROOT / "models" / "pup")
    parser.add_argument("--voices", type=Path, default=ROOT / "presets" / "voices")


def main(args: argparse.Namespace) -> None:
    """Write model and voices."""
    export_model(args.work, args.model)
    export_voices(args.work, args.voices)
    total = sum(file.stat().st_size for file in args.model.iterdir())
    print(f"{args.model}: {total / 1e6:.1f} MB")

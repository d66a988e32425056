"""`python -m training export`: checkpoints to models/pup and presets/voices.

Writes what `bark_core.load` reads: float16 safetensors, the configuration, the tokenizer, and
the teacher's voices as history prompts.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bark_core.formats import write_model
from bark_core.layouts import StageName, from_encodec, from_suno
from bark_core.tokenizer import Tokenizer
from bark_core.tokens import FineCodes, SemanticTokens
from bark_core.voices import Voice
from training import data
from training.pup import CONFIG, LAYOUT
from training.teacher import VOICES
from training.vocabulary import character_vocabulary

ROOT = Path(__file__).resolve().parent.parent
VOICE_SECONDS = 5.0  # longer than every window looks back, short enough to be read quickly

# the teacher's name -> (name, description)
NAMES = {
    "slt": ("rosa", "a woman, American English, even and clear"),
    "rms": ("ralf", "a man, American English, low and calm"),
}


def export_model(work: Path, target: Path) -> None:
    """Write the model's files anew from the checkpoints in the work folder.

    The model card, if there is one, stays.
    """

    def weights_of(stage: StageName) -> dict[str, Tensor]:
        checkpoint = torch.load(work / f"{stage}.pt", map_location="cpu", weights_only=True)
        if stage == "codec":
            return from_encodec(checkpoint, CONFIG)
        return from_suno(checkpoint["model"], stage, CONFIG)

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
    if text is not None:
        card.write_text(text, encoding="utf-8")


def export_voices(work: Path, target: Path) -> None:
    """Write one sentence of each teacher voice, not trained on, as a history prompt."""
    target.mkdir(parents=True, exist_ok=True)
    sound = data.load(work, "sound")
    lengths = np.diff(sound.offsets) / LAYOUT.semantic_rate_hz
    for number, teacher in enumerate(VOICES):
        name, description = NAMES[teacher.name]
        held = np.flatnonzero(sound.voices == number)
        held = held[held >= sound.n_training]
        index = int(held[np.abs(lengths[held] - VOICE_SECONDS).argmin()])
        fine = FineCodes(sound.codes_of(index), LAYOUT)
        extra: dict[str, Any] = {"description": description, "language": "en"}
        Voice(
            semantic=SemanticTokens(sound.semantic_of(index), LAYOUT),
            coarse=fine.coarse,
            fine=fine,
            name=name,
            source=f"flite, {teacher.name}",
            kind="synthetic",
            **extra,
        ).save(target / f"{name}.npz")


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

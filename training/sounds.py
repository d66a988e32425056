"""`python -m training sounds`: docs/pup.md with sound files and spectrograms, pup's and flite's."""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from bark_core import GenerationRequest, load, load_voice
from training import data
from training.features import SAMPLE_RATE
from training.teacher import VOICES, Teacher

TEMPLATE = Path(__file__).with_name("pup.md")
SEED = 11
SPAN_DB = 70.0  # from the loudest to black
HIGHEST_HZ = 10_000
FFT, HOP = 1_024, 240


@dataclass(frozen=True, slots=True)
class Prompt:
    """A fixed text in one voice."""

    name: str  # of its files
    voice: str
    text: str


PROMPTS = (
    Prompt("plain", "rosa", "The kettle is on, and there is fresh bread in the kitchen."),
    Prompt("question", "ralf", "Did you lock the back door? I think you left it open."),
    Prompt("capitals", "pia", "I said the GREEN boat, not the red one!"),
    Prompt("dots", "bruno", "I had a plan... but then it began to rain."),
    Prompt("laughs", "angus", "He sat on the cake. [laughs] Nobody told him!"),
    Prompt("sighs", "greta", "[sighs] Another long day. [clears throat] Let us begin."),
    Prompt("music", "tim", "And now a little tune. [music]"),
    Prompt("song", "rosa", "♪ over the hills and far away ♪"),
    Prompt(
        "long",
        "ralf",
        "My grandmother lived by the sea. Every morning she walked along the beach, and every "
        "evening she told us what she had found there.",
    ),
    Prompt("open", "angus", "Doctor Ramirez ordered forty two telescopes from Copenhagen."),
)


def spectrogram(samples: NDArray[np.float32]) -> Image.Image:
    """Grey-scale picture, 10 ms a column, 0 to 10 kHz from the bottom."""
    padded = np.pad(samples, (0, FFT))
    frames = np.lib.stride_tricks.sliding_window_view(padded, FFT)[::HOP] * np.hanning(FFT)
    n_bins = int(HIGHEST_HZ / SAMPLE_RATE * FFT)
    level = 20 * np.log10(np.abs(np.fft.rfft(frames, axis=1))[:, :n_bins] + 1e-5)
    shade = 255 * np.clip((level - level.max()) / SPAN_DB + 1, 0, 1)
    picture = Image.fromarray(255 - shade.T[::-1].astype(np.uint8))
    return picture.resize((picture.width, n_bins // 2))


def side_by_side(pictures: dict[str, Image.Image]) -> Image.Image:
    """One above the other, each with its name, as wide as the longest."""
    width = max(picture.width for picture in pictures.values())
    height = sum(picture.height + 16 for picture in pictures.values())
    sheet = Image.new("L", (width, height), 255)
    pen, top = ImageDraw.Draw(sheet), 0
    for name, picture in pictures.items():
        pen.text((2, top + 2), name, fill=0)
        sheet.paste(picture, (0, top + 16))
        top += picture.height + 16
    return sheet


def make(prompt: Prompt, model: Path, voices: Path, target: Path) -> str:
    """Write a prompt's files; returns its row of the table."""
    teacher = Teacher()
    voice = next(voice for voice in VOICES if voice.name == prompt.voice)
    cascade = load(model, device="cpu")
    history = load_voice(voices / f"{prompt.voice}.npz", layout=cascade.config.layout)
    said = cascade.generate(GenerationRequest(prompt.text, history, SEED)).audio.samples
    sounds = {"pup": said, "teacher": teacher.say(prompt.text, voice).samples}
    links = []
    for name, samples in sounds.items():
        file = target / "sounds" / f"{prompt.name}-{name}.ogg"
        file.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(file, samples, SAMPLE_RATE, format="OGG", subtype="OPUS")
        links.append(f"[{name}](sounds/{file.name})")
    picture = target / "images" / f"pup-{prompt.name}.png"
    side_by_side({name: spectrogram(samples) for name, samples in sounds.items()}).save(
        picture, optimize=True
    )
    heading = f"### {prompt.name.capitalize()}, {prompt.voice}\n\n> {prompt.text}\n\n"
    alt = f"Spectrograms of {prompt.name}: pup above, the teacher below"
    return f"{heading}{', '.join(links)}\n\n![{alt}](images/{picture.name})\n"


def figures(work: Path) -> str:
    """Markdown: what `behaviour` measured."""
    report: dict[str, Any] = json.loads((work / "behaviour.json").read_text(encoding="utf-8"))
    lines = ["| what | figure |", "|---|---|"]
    for name, entry in report.items():
        lines += [f"| {name}: {key} | {value} |" for key, value in _flat(entry)]
    return "\n".join(lines)


def _flat(entry: Any, before: str = "") -> list[tuple[str, str]]:
    """Names and printed figures of nested tables."""
    if isinstance(entry, dict):
        found: list[tuple[str, str]] = []
        for key, value in entry.items():
            found += _flat(value, f"{before}, {key}" if before else str(key))
        return found
    if isinstance(entry, list):
        entry = ", ".join(map(str, entry))
    shown = f"{entry:.3g}" if isinstance(entry, float) else str(entry)
    return [(before.replace("_", " "), shown)]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `python -m training sounds`."""
    parser.add_argument("--work", type=Path, default=data.DEFAULT_WORK)
    parser.add_argument("--model", type=Path, default=data.ROOT / "models" / "pup")
    parser.add_argument("--voices", type=Path, default=data.ROOT / "presets" / "voices")
    parser.add_argument("--target", type=Path, default=data.ROOT / "docs")


def main(args: argparse.Namespace) -> None:
    """Write the page, its sounds and its pictures."""
    torch.set_num_threads(1)
    (args.target / "images").mkdir(parents=True, exist_ok=True)
    rows = [make(prompt, args.model, args.voices, args.target) for prompt in PROMPTS]
    text = TEMPLATE.read_text(encoding="utf-8")
    text = text.replace("<!-- PROMPTS -->", "\n".join(rows))
    text = text.replace("<!-- FIGURES -->", figures(args.work))
    (args.target / "pup.md").write_text(text, encoding="utf-8")

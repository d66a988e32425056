"""`python -m training card`: the model card of pup, from what was measured.

Reads evaluation.json (figures and what the recogniser heard) and the training curves in the work
folder; the rest of the text stands in card.md beside this file. A stage that has no curve there
was not trained: the card keeps the rows that it had.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np

from training import data
from training.evaluate import Score, table
from training.teacher import VOICES

TEMPLATE = Path(__file__).with_name("card.md")
N_EXAMPLES = 24
STAGES = ("semantic", "coarse", "fine", "recogniser")
TRAINING_HEAD = "| stage | steps | minutes | held-out figures |"
CURVES_HEAD = "| stage | step: nats a token |"


def last(curve: Path, key: str) -> dict[str, Any]:
    """The last record of a curve that holds a key, {} if there is none."""
    if not curve.exists():
        return {}
    records = [json.loads(line) for line in curve.read_text(encoding="utf-8").splitlines()]
    return next((record for record in reversed(records) if key in record), {})


def training_table(work: Path, before: str = "") -> str:
    """Markdown: where each stage's training ended.

    Args:
        before: the card as it was.
    """
    lines = [TRAINING_HEAD, "|---|---|---|---|"]
    for stage in STAGES:
        record = last(work / f"{stage}.jsonl", "validation_loss")
        if not record:
            lines.append(row_before(before, TRAINING_HEAD, stage))
            continue
        figures = ", ".join(
            f"{key.replace('_', ' ')} {value:g}"
            for key, value in record.items()
            if key not in ("step", "minutes")
        )
        lines.append(f"| {stage} | {record['step']} | {record['minutes']} | {figures} |")
    record = last(work / "codec.jsonl", "validation")
    if not record:
        return "\n".join([*lines, row_before(before, TRAINING_HEAD, "decoder")])
    figures = ", ".join(
        f"mel {value:g} with {_codes(kind)}" for kind, value in record["validation"].items()
    )
    lines.append(f"| decoder | {record['step']} | {record['minutes']} | {figures} |")
    return "\n".join(lines)


def _codes(kind: str) -> str:
    return "the fine stage's codes" if kind == "made" else f"{kind} codebooks"


def curves(work: Path, before: str = "") -> str:
    """Markdown: up to eight validation losses of each stage, evenly spread over its steps."""
    lines = [CURVES_HEAD, "|---|---|"]
    for stage in STAGES:
        file = work / f"{stage}.jsonl"
        if not file.exists():
            lines.append(row_before(before, CURVES_HEAD, stage))
            continue
        records = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
        found = [record for record in records if "validation_loss" in record]
        places = np.unique(np.linspace(0, len(found) - 1, min(8, len(found))).round().astype(int))
        points = (f"{found[i]['step']}: {found[i]['validation_loss']:.2f}" for i in places)
        lines.append(f"| {stage} | {', '.join(points)} |")
    return "\n".join(lines)


def row_before(card: str, head: str, stage: str) -> str:
    """A stage's row in a table of an earlier card; question marks where there is none."""
    for line in card.partition(head)[2].partition("\n\n")[0].splitlines():
        if line.startswith(f"| {stage} |"):
            return line
    return f"| {stage} |" + " ? |" * (head.count("|") - 2)


def examples(heard: list[dict[str, Any]]) -> str:
    """Markdown: sentences, what was heard, mistakes."""
    lines = ["| voice | said | heard | wrong words |", "|---|---|---|---|"]
    for entry in heard[:: max(1, len(heard) // N_EXAMPLES)][:N_EXAMPLES]:
        wrong = f"{entry['errors']} of {entry['words']}"
        lines.append(f"| {entry['voice']} | {entry['said']} | {entry['heard']} | {wrong} |")
    return "\n".join(lines)


def card(work: Path, before: str = "") -> str:
    """The whole card; `before`: as it was."""
    report = json.loads((work / "evaluation.json").read_text(encoding="utf-8"))
    parts = {
        "SCORES": table([Score(**entry) for entry in report["scores"]]),
        "VOICES": ", ".join(f"{k} {v:.2f}" for k, v in report["voice_recognised"].items()),
        "UNENDED": str(len(report["ran_to_the_limit"])),
        "SETTINGS": json.dumps(report["settings"]),
        "NAMES": ", ".join(f"`{voice.name}` ({voice.description})" for voice in VOICES),
        "CURVES": curves(work, before),
        "TRAINING": training_table(work, before),
        "EXAMPLES": examples(report["heard"]["pup/prose"]),
    }
    text = TEMPLATE.read_text(encoding="utf-8")
    for key, value in parts.items():
        text = text.replace(f"<!-- {key} -->", value)
    return text


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `python -m training card`."""
    parser.add_argument("--work", type=Path, default=data.DEFAULT_WORK)
    parser.add_argument("--model", type=Path, default=data.ROOT / "models" / "pup")


def main(args: argparse.Namespace) -> None:
    """Write the card."""
    file: Path = args.model / "README.md"
    before = file.read_text(encoding="utf-8") if file.exists() else ""
    file.write_text(card(args.work, before), encoding="utf-8")

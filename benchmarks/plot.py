"""Draw what side_by_side measured: `python -m benchmarks.plot`; needs matplotlib."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

HERE = Path(__file__).resolve().parent
COLOURS = {"semantic": "#6b8f71", "coarse": "#c98b4b", "fine": "#8a6fae", "codec": "#4f7ca8"}


def main() -> None:
    """A bar for each of those compared, in the colours of the stages."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, default=HERE / "side_by_side.json")
    parser.add_argument("--to", type=Path, default=HERE.parent / "docs/images/performance.png")
    args = parser.parse_args()
    report = json.loads(args.json.read_text(encoding="utf-8"))
    rows = report["ten_seconds_with_a_voice"]
    figure, axes = plt.subplots(figsize=(8, 0.55 * len(rows) + 1.3), layout="constrained")
    names, left = list(rows), [0.0] * len(rows)
    others = ("suno-ai/bark", "transformers")
    shown = [name if name in others else f"Bark Studio, {name}" for name in names]
    for stage, colour in COLOURS.items():
        widths = [rows[name]["stages_s"][stage] for name in names]
        axes.barh(shown, widths, left=left, color=colour, label=stage)
        left = [before + width for before, width in zip(left, widths, strict=True)]
    for place, name in enumerate(names):
        faster = rows[name]["times_as_fast"]
        axes.text(left[place] + 0.6, place, f"{left[place]:.0f} s, {faster:.1f}x", va="center")
    axes.set_xlim(0, max(left) * 1.18)
    axes.invert_yaxis()
    axes.set_xlabel(
        f"seconds for 10 s of sound with a voice, small\n"
        f"{report['processor']}, {report['threads']} cores, {report['date']}"
    )
    axes.legend(loc="lower right", frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(args.to, dpi=110)


if __name__ == "__main__":
    main()

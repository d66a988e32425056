"""Draw what side_by_side measured: `python -m benchmarks.plot`; needs matplotlib."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes

HERE = Path(__file__).resolve().parent
COLOURS = {"semantic": "#6b8f71", "coarse": "#c98b4b", "fine": "#8a6fae", "codec": "#4f7ca8"}
MEASURED = ("side_by_side_avx2.json", "side_by_side.json", "side_by_side_amx.json")
OTHERS = ("suno-ai/bark", "transformers")
# what decides how quick a processor is here, the most of it first
ABILITIES = {"amx_tile": "AMX", "avx512_vnni": "AVX-512 and VNNI", "avx2": "AVX2"}


def main() -> None:
    """A picture of several machines, side by side."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, nargs="+", default=[HERE / name for name in MEASURED])
    parser.add_argument("--to", type=Path, default=HERE.parent / "docs/images/performance.png")
    args = parser.parse_args()
    reports = [json.loads(file.read_text(encoding="utf-8")) for file in args.json]
    names = [name for name in rows_of(reports[0]) if all(name in rows_of(one) for one in reports)]
    figure, panels = plt.subplots(
        ncols=len(reports),
        figsize=(3.4 * len(reports) + 2.2, 0.5 * len(names) + 1.4),
        layout="constrained",
        sharex=True,
        sharey=True,
        squeeze=False,
    )
    for axes, report in zip(panels[0], reports, strict=True):
        draw(axes, report, names)
    longest = max(sum(row["stages_s"].values()) for one in reports for row in rows_of(one).values())
    panels[0][0].set_xlim(0, longest * 1.3)
    panels[0][0].invert_yaxis()
    panels[0][-1].legend(loc="lower right", frameon=False)
    figure.supxlabel("seconds for 10 s of sound with a voice, small, two cores", fontsize="medium")
    figure.savefig(args.to, dpi=110)


def rows_of(report: dict[str, Any]) -> dict[str, Any]:
    """What was compared, by name."""
    rows: dict[str, Any] = report["ten_seconds_with_a_voice"]
    return rows


def draw(axes: Axes, report: dict[str, Any], names: list[str]) -> None:
    """A bar for each of those compared, in the colours of the stages."""
    rows, left = rows_of(report), [0.0] * len(names)
    shown = [name if name in OTHERS else f"Bark Studio, {name}" for name in names]
    for stage, colour in COLOURS.items():
        widths = [rows[name]["stages_s"][stage] for name in names]
        axes.barh(shown, widths, left=left, color=colour, label=stage)
        left = [before + width for before, width in zip(left, widths, strict=True)]
    for place, name in enumerate(names):
        text = f" {left[place]:.0f} s, {rows[name]['times_as_fast']:.1f}x"
        axes.text(left[place], place, text, va="center", fontsize="small")
    there = [name for sign, name in ABILITIES.items() if sign in report["abilities"]]
    axes.set_title(there[0] if there else report["processor"], fontsize="medium")
    axes.spines[["top", "right"]].set_visible(False)


if __name__ == "__main__":
    main()

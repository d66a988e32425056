"""The model card tells of every stage, also of those that were not trained again."""

from __future__ import annotations

import json
from pathlib import Path

from training.card import CURVES_HEAD, curves, row_before, training_table
from training.data import ROOT

CARD = (ROOT / "models" / "pup" / "README.md").read_text(encoding="utf-8")


def test_stages_without_a_curve_keep_their_rows(tmp_path: Path) -> None:
    assert training_table(tmp_path, CARD) in CARD
    assert curves(tmp_path, CARD) in CARD
    assert row_before("", CURVES_HEAD, "fine") == "| fine | ? |"


def test_a_stage_with_a_curve_has_a_row_of_its_own(tmp_path: Path) -> None:
    points = [{"step": n, "minutes": n / 10, "validation_loss": 5 - n / 10} for n in range(1, 21)]
    (tmp_path / "coarse.jsonl").write_text("\n".join(map(json.dumps, points)))
    (tmp_path / "codec.jsonl").write_text(
        json.dumps({"step": 7, "minutes": 0.5, "validation": {"2": 0.4, "made": 0.3}})
    )
    table = training_table(tmp_path, CARD)
    assert "| coarse | 20 | 2.0 | validation loss 3 |" in table
    assert "| decoder | 7 | 0.5 | mel 0.4 with 2 codebooks, mel 0.3 with the fine" in table
    assert row_before(CARD, "| stage | steps |", "fine") in table
    assert "| coarse | 1: 4.90, 4: 4.60," in curves(tmp_path, CARD)

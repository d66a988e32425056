"""The model that is exported is the checkpoints that there are, and otherwise what it was."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

from bark_core import MissingFiles, load
from bark_core.weights import read_safetensors
from training import codec
from training.data import ROOT
from training.export import export_model

PUP = ROOT / "models" / "pup"


@pytest.fixture
def work(tmp_path: Path) -> Path:
    """A work folder in which the decoder alone was trained."""
    codec.start_from(tmp_path / "work", PUP)
    state = codec.load_model(tmp_path / "work").state_dict()
    state["decoder.first.bias"] += 1.0
    codec.save_tensors(tmp_path / "work" / codec.WEIGHTS, state)
    return tmp_path / "work"


def test_what_was_not_trained_stays(work: Path, tmp_path: Path) -> None:
    target = tmp_path / "model"
    shutil.copytree(PUP, target)
    export_model(work, target)
    for file in PUP.iterdir():
        same = (target / file.name).read_bytes() == file.read_bytes()
        assert same == (file.name != "codec.safetensors"), file.name
    before, after = (read_safetensors(folder / "codec.safetensors") for folder in (PUP, target))
    assert before.keys() == after.keys()
    changed = [name for name in before if not torch.equal(before[name], after[name])]
    assert changed == ["decoder.first.bias"]
    assert load(target, device="cpu").config == load(PUP, device="cpu").config


def test_nothing_to_take_a_stage_from_is_said(work: Path, tmp_path: Path) -> None:
    with pytest.raises(MissingFiles):
        export_model(work, tmp_path / "model")
    assert not (tmp_path / "model").exists()

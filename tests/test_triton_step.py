"""The Triton kernels against torch's own operations: under Triton's interpreter, or on a GPU.

The interpreter runs in a process of its own: whether it is used is decided when Triton is
imported.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

pytest.importorskip("triton")

ROOT = Path(__file__).resolve().parent.parent
CASES = ["rows", "shared", "settings", "weights", "cache", "half", "matrix", "parts", "spare"]


@pytest.fixture(scope="module")
def answers() -> dict[str, dict[str, float]]:
    """What tests/triton_cases.py found, by the case."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    if device == "cpu":
        environment["TRITON_INTERPRET"] = "1"
    run = subprocess.run(
        [sys.executable, "-m", "tests.triton_cases", device, *CASES],
        capture_output=True,
        text=True,
        check=False,
        env=environment,
        cwd=ROOT,
    )
    if "only 0-dimensional arrays" in run.stderr:
        pytest.skip("this Triton's interpreter doesn't go with this NumPy")
    assert run.returncode == 0, run.stderr[-3_000:]
    found: dict[str, dict[str, float]] = json.loads(run.stdout.splitlines()[-1])
    return found


@pytest.mark.parametrize("case", CASES)
def test_kernels_compute_what_torch_does(answers: dict[str, dict[str, float]], case: str) -> None:
    found = answers[case]
    assert found["error"] < found["allowed"], found
    assert found["same_tokens"] == found["tokens"], found

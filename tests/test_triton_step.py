"""The Triton kernels against torch's own operations: under Triton's interpreter, or on a GPU.

The interpreter runs in a process of its own: whether it is used is decided when Triton is
imported. Torch's builds for the CPU bring no Triton: `pip install 'triton>=3.7,<3.9'`.
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

CAPABILITIES = [75, 80, 90, 120]  # Colab's free GPU, A100, H100 and H200, the newest for desks
ROOT = Path(__file__).resolve().parent.parent
KERNELS = {"embed", "product", "attend", "combine", "add_and_norm", "sample"}
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


@pytest.mark.parametrize("capability", CAPABILITIES)
def test_kernels_compile_for_gpus_that_are_not_here(capability: int, tmp_path: Path) -> None:
    """Within the registers that there are."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])}
    run = subprocess.run(
        [sys.executable, "-m", "tests.triton_targets", str(capability)],
        capture_output=True,
        text=True,
        check=False,
        env={**environment, "TRITON_CACHE_DIR": str(tmp_path)},
        cwd=ROOT,
    )
    assert run.returncode == 0, run.stderr[-3_000:]
    found = json.loads(run.stdout.splitlines()[-1])
    assert {one["kernel"] for one in found} == KERNELS
    assert not [one for one in found if one["LOCAL"] or one["STACK"]]

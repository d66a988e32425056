"""The short form of `python -m benchmarks.reliability`: the same laws, fewer times."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.reliability import bad_requests, checkpoints, disk, owners, signin, voices
from benchmarks.reliability.__main__ import main, subjects

ROOT = Path(__file__).resolve().parent.parent.parent
posix = pytest.mark.skipif(sys.platform == "win32", reason="kills are another matter on Windows")


@posix
def test_what_a_killed_process_leaves_is_whole(tmp_path: Path) -> None:
    # in a process of its own: it forks, and this one has threads
    file = tmp_path / "figures.json"
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.reliability", "kills", "--n", "10", "--json", str(file)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert json.loads(file.read_text())["kills"]["kills"] == 10


@pytest.mark.skipif(
    sys.platform != "linux" or shutil.which("cc") is None, reason="needs Linux and a C compiler"
)
def test_a_write_that_fails_leaves_what_was_or_what_should_be() -> None:
    result = disk.measure(30)
    assert not result.broken, "\n".join(result.broken)
    assert result.figures["failures"] >= 25
    assert result.figures["outcomes"]["StorageError"] >= 12


def test_damaged_checkpoints_leave_the_loaded_model_alone() -> None:
    n = 8
    result = checkpoints.measure(n)
    assert not result.broken, "\n".join(result.broken)
    assert sum(result.figures["outcomes"].values()) == n


def test_mutated_voice_files_are_one_error_quickly_and_in_little_memory() -> None:
    result = voices.measure(2_000)
    assert not result.broken, "\n".join(result.broken)
    # mutations that change nothing that counts must still read
    assert result.figures["outcomes"]["voice"] > 30


def test_bad_requests_leave_no_trace_and_a_studio_that_works() -> None:
    result = bad_requests.measure(500)
    assert not result.broken, "\n".join(result.broken)
    assert sum(result.figures["answers"].values()) >= 450


def test_nobody_gets_at_what_is_another_s_or_outside() -> None:
    result = owners.measure(200)
    assert not result.broken, "\n".join(result.broken)
    assert result.figures["things_of_ann"] >= 12


def test_guessing_passwords_is_slow() -> None:
    result = signin.measure(100)
    assert not result.broken, "\n".join(result.broken)
    assert 1 <= result.figures["most_in_a_minute"] <= 10


def test_the_list_names_every_subject(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == list(subjects())


def test_every_subject_is_told_of() -> None:
    told = (ROOT / "docs" / "reliability.md").read_text(encoding="utf-8")
    assert [name for name in subjects() if f"`{name}`" not in told] == []

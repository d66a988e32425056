"""Laws of `python -m training all`: its steps are commands that exist, in an order that works."""

from __future__ import annotations

import argparse
import importlib
import subprocess
from pathlib import Path

import pytest

from training import all as every
from training.__main__ import COMMANDS


def _arguments(
    tmp_path: Path, minutes: float = 100.0, device: str = "cpu", *more: str
) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    every.add_arguments(parser)
    options = ["--work", str(tmp_path), "--minutes", str(minutes), "--device", device, *more]
    return parser.parse_args(options)


@pytest.mark.parametrize("more", [(), ("--rehearse",)])
@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_every_step_is_a_command_and_takes_its_arguments(
    tmp_path: Path, device: str, more: tuple[str, ...]
) -> None:
    args = _arguments(tmp_path, 100.0, device, *more)
    for step in (s for group in every.steps(args) for s in group):
        module = importlib.import_module(COMMANDS[step.name][0])
        parser = argparse.ArgumentParser()
        module.add_arguments(parser)
        parser.parse_args(list(step.arguments))


def test_the_minutes_are_all_given_away(tmp_path: Path) -> None:
    given = [
        float(step.arguments[step.arguments.index("--minutes") + 1])
        for group in every.steps(_arguments(tmp_path))
        for step in group
        if "--minutes" in step.arguments
    ]
    assert sum(given) == pytest.approx(100.0, abs=0.5)


def test_a_rehearsal_writes_into_the_work_folder_only(tmp_path: Path) -> None:
    groups = every.steps(_arguments(tmp_path, 100.0, "cpu", "--rehearse"))
    places = [word for group in groups for step in group for word in step.arguments if "/" in word]
    assert places
    assert all(Path(place).is_relative_to(tmp_path) for place in places)


def test_a_gpu_trains_everything_at_once(tmp_path: Path) -> None:
    groups = list(every.steps(_arguments(tmp_path, device="cuda")))
    assert {step.name for step in max(groups, key=len)} == set(every.SHARES)


def test_what_is_finished_is_left_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[str] = []

    class FakeProcess:
        def __init__(self, command: list[str]) -> None:
            ran.append(command[3])
            self.returncode = int(len(ran) == 4)

        def wait(self) -> int:
            return self.returncode

    monkeypatch.setattr(subprocess, "Popen", FakeProcess)
    with pytest.raises(subprocess.CalledProcessError):
        every.main(_arguments(tmp_path))
    every.main(_arguments(tmp_path))
    names = [step.name for group in every.steps(_arguments(tmp_path)) for step in group]
    assert ran == [*names[:4], *names[3:]]

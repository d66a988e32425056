"""Laws of the scripts that install and start: they say what is missing, and do nothing twice.

Python and pip are stand-ins here that write down what they were asked to do: the real ones
take minutes and a network.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
TOOLS = ("bash", "cat", "cmp", "cp", "dirname", "env", "mkdir")

pytestmark = pytest.mark.skipif(
    sys.platform == "win32" or not all(map(shutil.which, TOOLS)), reason="needs a Unix shell"
)

# answers as a Python of the version FAKE_VERSION does; `-m venv` puts a copy of it into .venv
STAND_IN = """#!/usr/bin/env bash
echo "$*" >>"$FAKE_LOG"
case "$*" in
    --version) echo "Python $FAKE_VERSION" ;;
    *"version_info < (3, 11)"*) [ "$FAKE_VERSION" != 3.9.2 ] ;;
    *"version_info[:2]"*) echo "${FAKE_VERSION%.*}" ;;
    *"import ensurepip"*) [ -z "${FAKE_WITHOUT_VENV:-}" ] ;;
    "-m venv"*) mkdir -p .venv/bin && cp "$0" .venv/bin/python ;;
    "-m pip install"*) [ -z "${FAKE_WITHOUT_NETWORK:-}" ] ;;
esac
"""


class Checkout:
    """A copy of the scripts, and a machine that has a stand-in for Python and little else."""

    def __init__(self, folder: Path) -> None:
        self.root = folder / "check out"
        self.log = folder / "log"
        self.bin = folder / "bin"
        shutil.copytree(ROOT / "scripts", self.root / "scripts")
        for name in ("requirements.txt", "requirements-dev.txt"):
            shutil.copy(ROOT / name, self.root / name)
        self.bin.mkdir()
        for tool in (*TOOLS, "id"):
            found = shutil.which(tool)
            assert found
            (self.bin / tool).symlink_to(found)
        self._executable(self.bin / "python3", STAND_IN)
        for tool in ("chromium", "ffmpeg", "flite"):
            self._executable(self.bin / tool, "#!/bin/sh\n")

    @staticmethod
    def _executable(path: Path, text: str) -> None:
        path.write_text(text, encoding="utf-8")
        path.chmod(0o755)

    def run(
        self, script: str, *arguments: str, version: str = "3.12.1", **more: str
    ) -> subprocess.CompletedProcess[str]:
        environment = {
            "PATH": str(self.bin),
            "FAKE_LOG": str(self.log),
            "FAKE_VERSION": version,
            **more,
        }
        return subprocess.run(
            [str(self.root / "scripts" / script), *arguments],
            capture_output=True,
            text=True,
            check=False,
            env=environment,
            cwd=self.log.parent,  # the scripts work from any folder
            timeout=60,
        )

    def calls(self) -> list[str]:
        """What the stand-in was asked since the last time."""
        lines = self.log.read_text(encoding="utf-8").splitlines() if self.log.exists() else []
        self.log.unlink(missing_ok=True)
        return [line for line in lines if not line.startswith(("-c", "--version"))]


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    return Checkout(tmp_path)


def test_start_makes_the_environment_installs_and_opens_the_page(checkout: Checkout) -> None:
    run = checkout.run("start", "--port", "7870", "--data", "two words")
    assert run.returncode == 0, run.stderr
    venv, install, page = checkout.calls()
    assert venv == "-m venv --clear .venv"
    assert install.startswith("-m pip install")
    assert install.endswith("-r requirements.txt")
    assert page == "app.py --port 7870 --data two words"


def test_the_second_start_installs_nothing(checkout: Checkout) -> None:
    checkout.run("start")
    checkout.calls()
    assert checkout.run("start").returncode == 0
    assert checkout.calls() == ["-m pip --version", "app.py"]


def test_changed_requirements_are_installed(checkout: Checkout) -> None:
    checkout.run("start")
    with (checkout.root / "requirements.txt").open("a", encoding="utf-8") as file:
        file.write("another\n")
    checkout.calls()
    checkout.run("start")
    assert any("pip install" in call for call in checkout.calls())


def test_an_installation_that_failed_is_tried_again(checkout: Checkout) -> None:
    run = checkout.run("start", FAKE_WITHOUT_NETWORK="1")
    assert run.returncode == 1
    assert "is there a network" in run.stderr
    assert not any(call.startswith("app.py") for call in checkout.calls())
    assert checkout.run("start").returncode == 0
    assert any("pip install" in call for call in checkout.calls())


def test_an_old_python_is_named(checkout: Checkout) -> None:
    run = checkout.run("start", version="3.9.2")
    assert run.returncode == 1
    assert "Python 3.11 or newer is needed" in run.stderr
    assert "3.9.2" in run.stderr
    assert not (checkout.root / ".venv").exists()


def test_no_python_is_said(checkout: Checkout) -> None:
    (checkout.bin / "python3").unlink()
    run = checkout.run("start")
    assert run.returncode == 1
    assert "Python 3.11 or newer is needed, found: none" in run.stderr


def test_a_python_without_venv_says_what_to_install(checkout: Checkout) -> None:
    run = checkout.run("start", FAKE_WITHOUT_VENV="1")
    assert run.returncode == 1
    assert "sudo apt install python3.12-venv" in run.stderr


def test_test_hands_its_arguments_to_pytest(checkout: Checkout) -> None:
    run = checkout.run("test", "tests/test_cli.py", "-k", "two words")
    assert run.returncode == 0, run.stderr
    calls = checkout.calls()
    assert calls[-1] == "-m pytest tests/test_cli.py -k two words"
    assert any(call.endswith("-r requirements-dev.txt") for call in calls)


def test_test_says_what_is_not_there(checkout: Checkout) -> None:
    (checkout.bin / "chromium").unlink()
    run = checkout.run("test")
    assert run.returncode == 0
    assert "sudo apt install chromium" in run.stderr


def test_check_runs_every_step_and_fails_if_one_does(checkout: Checkout) -> None:
    failing = STAND_IN.replace("case", 'case "$*" in "-m mypy") exit 1 ;; esac\ncase', 1)
    checkout._executable(checkout.bin / "python3", failing)
    run = checkout.run("check")
    assert run.returncode == 1
    assert [call.split()[1] for call in checkout.calls()[-4:]] == ["ruff", "ruff", "mypy", "pytest"]


def test_a_given_python_is_used_as_it_is(checkout: Checkout) -> None:
    python = str(checkout.bin / "python3")
    assert checkout.run("start", BARK_STUDIO_PYTHON=python).returncode == 0
    assert checkout.calls() == ["app.py"]
    assert not (checkout.root / ".venv").exists()


@pytest.mark.parametrize("name", ["start", "test", "check", "../.ci/run"])
def test_scripts_can_be_run(name: str) -> None:
    path = ROOT / "scripts" / name
    assert os.access(path, os.X_OK)
    bash = shutil.which("bash")
    assert bash
    assert subprocess.run([bash, "-n", str(path)], check=False).returncode == 0

"""The documents are true: their code runs, their commands parse, no option is missing."""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from bark_core.audio import read_audio
from bark_core.cli import _parser as cli_parser
from bark_core.models import PUP_FOLDER
from webui.accounts_cli import parser as accounts_parser
from webui.audit_cli import parser as audit_parser
from webui.history_cli import parser as history_parser
from webui.origin_cli import parser as origin_parser
from webui.settings import _parser as app_parser

ROOT = Path(__file__).resolve().parent.parent
DOCS = sorted([ROOT / "README.md", ROOT / "CHANGELOG.md", *(ROOT / "docs").glob("*.md")])
TEXTS = {path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8") for path in DOCS}
README = TEXTS["README.md"]
EVERYTHING = "\n".join(TEXTS.values())

needs_pup = pytest.mark.skipif(
    not (PUP_FOLDER / "config.json").is_file(), reason="models/pup isn't here"
)


def blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


def commands() -> list[str]:
    lines = "\n".join(block for text in TEXTS.values() for block in blocks(text, "bash"))
    inline = re.findall(r"`((?:python -m|python app\.py|scripts/)[^`]*)`", EVERYTHING)
    return sorted({line.split("#")[0].strip() for line in [*lines.splitlines(), *inline]} - {""})


def option_strings(parser: argparse.ArgumentParser) -> set[str]:
    found: set[str] = set()
    for action in parser._actions:
        found |= {name for name in action.option_strings if name.startswith("--")}
        if isinstance(action, argparse._SubParsersAction):
            for inner in action.choices.values():
                found |= option_strings(inner)
    return found


def subcommands(parser: argparse.ArgumentParser, before: str = "") -> set[str]:
    found: set[str] = set()
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for name, inner in action.choices.items():
                found |= subcommands(inner, f"{before}{name} ") or {f"{before}{name}"}
    return found


@needs_pup
def test_the_python_of_the_readme_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    example = blocks(README, "python")[0]
    assert len([line for line in example.splitlines() if line and "import" not in line]) == 5
    exec(compile(example, "README.md", "exec"), {})
    assert read_audio("hello.flac").duration_s > 0.3
    assert (tmp_path / "mine.npz").is_file()


@pytest.mark.parametrize("command", commands())
def test_the_commands_of_the_documents_parse(command: str) -> None:
    words = shlex.split(command.split("|")[-1])
    while words and "=" in words[0]:
        words.pop(0)
    if words[:3] == ["python", "-m", "bark_core"]:
        if words[3:] not in ([], ["COMMAND"]):
            cli_parser().parse_args(words[3:])  # exits, and so fails, on a wrong one
    elif words[:2] == ["python", "app.py"] or words[:3] == ["python", "-m", "webui"]:
        given = words[2 if words[1] == "app.py" else 3 :]
        if len(given) == 1 and given[0] in ("history", "accounts", "origin"):
            return  # all its commands
        if given[:1] == ["accounts"]:
            accounts_parser().parse_args(given[1:])
        elif given[:1] == ["audit"]:
            audit_parser().parse_args(given[1:])
        elif given[:1] in (["origin"], ["signing-key"]):
            origin_parser().parse_args(given)
        else:
            (app_parser() if words[1] == "app.py" else history_parser()).parse_args(given)
    elif words[0].startswith("scripts/"):
        script = ROOT / words[0]
        assert os.access(script, os.X_OK), f"{words[0]} can't be run"
        if words[0] == "scripts/start":
            app_parser().parse_args(words[1:])


@pytest.mark.parametrize("command", sorted(subcommands(cli_parser())))
def test_every_command_is_documented(command: str) -> None:
    assert f"python -m bark_core {command}" in TEXTS["docs/command-line.md"]


@pytest.mark.parametrize("command", sorted(subcommands(history_parser())))
def test_every_command_of_the_history_is_documented(command: str) -> None:
    assert f"python -m webui {command}" in TEXTS["docs/command-line.md"]


@pytest.mark.parametrize("command", sorted(subcommands(origin_parser())))
def test_every_command_about_origins_is_documented(command: str) -> None:
    assert f"python -m webui {command}" in TEXTS["docs/command-line.md"]


@pytest.mark.parametrize("command", sorted(subcommands(accounts_parser())))
def test_every_command_of_the_accounts_is_documented(command: str) -> None:
    assert f"python app.py accounts {command}" in TEXTS["docs/command-line.md"]


def test_every_option_of_the_command_line_is_documented() -> None:
    text = TEXTS["docs/command-line.md"]
    parsers = (
        cli_parser(),
        history_parser(),
        accounts_parser(),
        audit_parser(),
        origin_parser(),
    )
    names = set().union(*map(option_strings, parsers))
    assert [name for name in sorted(names) if name not in text] == []


def test_every_option_of_the_page_is_documented() -> None:
    names = option_strings(app_parser()) - {"--help"}
    assert [name for name in sorted(names) if f"`{name}" not in README] == []


def test_no_option_is_documented_that_is_not_there() -> None:
    parsers = (
        cli_parser(),
        app_parser(),
        history_parser(),
        accounts_parser(),
        audit_parser(),
        origin_parser(),
    )
    known = set().union(*map(option_strings, parsers))
    for name in ("README.md", "docs/command-line.md"):
        told = set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", TEXTS[name]))
        others = {"--index-url"}  # pip's
        assert told - known - others == set()


@pytest.mark.parametrize("name", sorted(TEXTS))
def test_links_lead_somewhere(name: str) -> None:
    for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", TEXTS[name]):
        if "://" in target or ("docs/images/" in target and not (ROOT / "docs/images").is_dir()):
            continue
        assert ((ROOT / name).parent / target).exists(), f"{name} links to {target}"


def test_every_requirement_is_used_and_every_import_required() -> None:
    wanted = {
        re.split(r"[<>=\[]", line)[0].lower().replace("-", "_")
        for name in ("requirements.txt", "requirements-provenance.txt", "requirements-cluster.txt")
        for line in (ROOT / name).read_text(encoding="utf-8").splitlines()
        if line and line[0] not in "#-"
    }
    # c2pa-python is imported as c2pa; AudioSeal brings omegaconf, which its cards are read with
    wanted = wanted - {"c2pa_python"} | {"c2pa", "omegaconf"}
    found: set[str] = set()
    for path in [
        ROOT / "app.py",
        *(ROOT / "bark_core").glob("*.py"),
        *(ROOT / "webui").glob("*.py"),
    ]:
        text = path.read_text(encoding="utf-8")
        found |= set(re.findall(r"^\s*(?:import|from) (\w+)", text, re.MULTILINE))
        found |= set(re.findall(r'(?:find_spec|import_module)\("(\w+)', text))
    # torch brings triton where it can be used, Colab its own package
    brought = {"triton", "google"}
    others = found - set(sys.stdlib_module_names) - {"bark_core", "webui"} - brought
    assert others == wanted


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


@contextlib.contextmanager
def page(folder: Path) -> Iterator[tuple[str, int]]:
    """The page as `python app.py` opens it: its address and its process."""
    address = f"http://127.0.0.1:{(port := free_port())}"
    arguments = ["--port", str(port), "--data", str(folder), "--no-open"]
    process = subprocess.Popen(
        [sys.executable, "app.py", *arguments], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    try:
        deadline = time.monotonic() + 120
        while True:
            assert process.poll() is None, "app.py has ended"
            assert time.monotonic() < deadline, "app.py doesn't answer"
            with contextlib.suppress(OSError), urllib.request.urlopen(address, timeout=5):
                break
            time.sleep(0.3)
        yield address, process.pid
    finally:
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=60)
    assert process.returncode == 0


@needs_pup
@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="has no SIGTERM")
def test_the_endpoints_answer_as_the_readme_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (example,) = (block for block in blocks(README, "python") if "gradio_client" in block)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1,localhost")
    monkeypatch.chdir(tmp_path)
    with page(tmp_path / "data") as (address, pid):
        code = example.replace("http://127.0.0.1:7860", address)
        exec(compile(code, "README.md", "exec"), {})
        assert "rosa" in capsys.readouterr().out
        libraries = Path(f"/proc/{pid}/maps")
        if libraries.exists():  # its worker computed, and took torch's memory
            assert "libtorch" not in libraries.read_text()

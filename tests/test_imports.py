"""Imports point down only; the table in docs/architecture.md says where down is."""

from __future__ import annotations

import ast
import functools
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

import bark_core

ROOT = Path(__file__).resolve().parent.parent
ROW = re.compile(r"^\| (\d+) \| (\S+)\.py \|", re.MULTILINE)
ARCHITECTURE = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
LEVELS = {name.replace("\\", ""): int(level) for level, name in ROW.findall(ARCHITECTURE)}


@dataclass(frozen=True)
class Import:
    """One imported module or, of `from`, one name."""

    module: str
    name: str | None
    where: str


@functools.cache
def imports(path: Path) -> tuple[Import, ...]:
    """Everything a file imports when it runs, also inside functions; not what types need."""
    return tuple(_imports(path))


def _imports(path: Path) -> Iterator[Import]:
    todo: list[ast.AST] = [ast.parse(path.read_text(encoding="utf-8"))]
    while todo:
        node = todo.pop()
        where = f"{path.relative_to(ROOT)}:{getattr(node, 'lineno', 0)}"
        if isinstance(node, ast.Import):
            yield from (Import(alias.name, None, where) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{where}: a relative import"
            yield from (Import(node.module or "", alias.name, where) for alias in node.names)
        elif isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            todo += node.orelse
        else:
            todo += ast.iter_child_nodes(node)


def files(*where: str) -> list[Path]:
    found: list[Path] = []
    for name in where:
        path = ROOT / name
        found += [path] if path.is_file() else sorted(path.rglob("*.py"))
    return found


CORE = files("bark_core")
PAGE = files("webui", "app.py")


def label(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def test_every_module_has_its_row() -> None:
    assert {path.stem for path in CORE} == set(LEVELS)


@pytest.mark.parametrize("path", CORE, ids=label)
def test_core_imports_point_down(path: Path) -> None:
    for item in imports(path):
        if item.module.split(".")[0] != "bark_core":
            continue
        if item.module == "bark_core":
            is_module = (ROOT / "bark_core" / f"{item.name}.py").is_file()
            target = str(item.name) if is_module else "__init__"
        else:
            target = item.module.split(".")[1]
        assert LEVELS[target] < LEVELS[path.stem], f"{item.where} imports {target}"


@pytest.mark.parametrize("path", PAGE, ids=label)
def test_the_page_uses_the_public_face_only(path: Path) -> None:
    for item in imports(path):
        if item.module.split(".")[0] == "bark_core":
            assert item.module == "bark_core", f"{item.where} imports {item.module}"
            assert item.name in bark_core.__all__, f"{item.where} imports {item.name}"


@pytest.mark.parametrize(
    ("library", "allowed"),
    [
        ("gradio", {"webui", "app.py"}),
        ("ray", {"bark_core/ray_serve.py"}),
        ("webui", {"webui", "app.py"}),
        ("training", {"training"}),
        ("transformers", set()),
        ("torchaudio", set()),
        ("tests", set()),
    ],
)
def test_who_may_import(library: str, allowed: set[str]) -> None:
    for path in files("bark_core", "webui", "app.py", "training"):
        if {label(path), label(path).split("/")[0]} & allowed:
            continue
        found = [item.where for item in imports(path) if item.module.split(".")[0] == library]
        assert not found, f"{found} import {library}"


def test_the_public_face_is_sorted_and_there() -> None:
    assert sorted(bark_core.__all__) == list(bark_core.__all__)
    assert [name for name in bark_core.__all__ if not hasattr(bark_core, name)] == []


PROBE = """
import json, os, sys, threading

asked = []

class Watched(type(os.environ)):
    def __getitem__(self, key):
        asked.append(key)
        return super().__getitem__(key)

os.environ.__class__ = Watched
before = set(os.environ)
import {module}
os.environ.__class__ = Watched.__base__
print(json.dumps(dict(
    modules=sorted(set(sys.modules)),
    asked=sorted(set(map(str, asked))),
    changed=sorted(set(os.environ) ^ before),
    threads=threading.active_count(),
)))
"""


def test_the_page_needs_no_torch() -> None:
    code = """
import sys
from webui.environment import prepared_environment
with prepared_environment():
    import webui.blocks, webui.serving, webui.studio
assert "torch" not in sys.modules
from bark_core import load
assert "torch" in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


@pytest.mark.parametrize("module", ["bark_core.cli"])
def test_importing_the_core_does_nothing(module: str, tmp_path: Path) -> None:
    run = subprocess.run(
        [sys.executable, "-c", PROBE.format(module=module)],
        capture_output=True,
        text=True,
        check=True,
        cwd=tmp_path,
        env={"PYTHONPATH": str(ROOT), "HOME": str(tmp_path), "PATH": ""},
    )
    assert run.stderr == ""
    seen = json.loads(run.stdout)  # fails if anything else was printed
    heavy = {
        "torch",
        "gradio",
        "encodec",
        "transformers",
        "torchaudio",
        "ray",
        "scipy",
        "webui",
        "training",
    }
    assert not heavy & set(seen["modules"])
    assert not [name for name in seen["asked"] if name.startswith(("BARK", "SUNO"))]
    assert seen["changed"] == []
    assert seen["threads"] == 1
    assert list(tmp_path.iterdir()) == []

"""What the page says, and which language lacks what.

python scripts/texts.py                 how many texts each language has, lacks, has too many
python scripts/texts.py de              the texts that German lacks, as TOML to fill in
python scripts/texts.py --sort          write all language files in the order of the code
"""

from __future__ import annotations

import ast
import json
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
WEBUI = ROOT / "webui"
FOLDER = WEBUI / "languages"
# calls whose literal arguments are texts: name -> how many
CALLS = {"_": 1, "N_": 1, "count": 3}


def texts() -> tuple[str, ...]:
    """Every text of the page, in the order of the code; those of the presets last."""
    found: dict[str, None] = {}
    for path in sorted(WEBUI.glob("*.py")):
        for text in _literals(ast.parse(path.read_text(encoding="utf-8"))):
            found[text] = None
    for text in _preset_texts():
        found[text] = None
    return tuple(found)


def _literals(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Name):
            continue
        for argument in node.args[: CALLS.get(node.func.id, 0)]:
            if isinstance(argument, ast.Constant) and isinstance(argument.value, str):
                yield argument.value


def _preset_texts() -> Iterator[str]:
    """Titles and descriptions in presets/*.toml that the page shows."""
    for name in ("generation", "prompts"):
        path = ROOT / "presets" / f"{name}.toml"
        if path.exists():
            yield from _titles(tomllib.loads(path.read_text(encoding="utf-8")))


def _titles(value: object) -> Iterator[str]:
    if isinstance(value, dict):
        for key, part in value.items():
            if key in ("title", "about") and isinstance(part, str):
                yield part
            else:
                yield from _titles(part)
    elif isinstance(value, list):
        for part in value:
            yield from _titles(part)


def languages() -> dict[str, dict[str, str]]:
    """Code -> English -> translation, of every file there is."""
    return {
        path.stem: tomllib.loads(path.read_text(encoding="utf-8"))
        for path in sorted(FOLDER.glob("*.toml"))
    }


def as_toml(pairs: dict[str, str]) -> str:
    """Lines of `"English" = "translation"`; JSON's strings are TOML's too."""
    quoted = {json.dumps(a, ensure_ascii=False): b for a, b in pairs.items()}
    return "".join(f"{a} = {json.dumps(b, ensure_ascii=False)}\n" for a, b in quoted.items())


def main(arguments: list[str]) -> None:
    """Report, list what is missing, or sort."""
    wanted = texts()
    if arguments == ["--sort"]:
        for code, table in languages().items():
            kept = {text: table[text] for text in wanted if text in table}
            (FOLDER / f"{code}.toml").write_text(as_toml(kept), encoding="utf-8")
    elif arguments:
        table = languages().get(arguments[0], {})
        print(as_toml({text: "" for text in wanted if text not in table}), end="")
    else:
        print(f"{len(wanted)} texts")
        for code, table in languages().items():
            lacks = sum(text not in table for text in wanted)
            extra = len(table.keys() - set(wanted))
            print(f"{code}: {len(table)} there, {lacks} missing, {extra} no longer used")


if __name__ == "__main__":
    main(sys.argv[1:])

"""The Colab notebook runs: as it is outside of Colab, and with a stand-in for Colab's package."""

from __future__ import annotations

import json
import os
import shutil
import textwrap
from pathlib import Path
from typing import Any

import pytest

from bark_core.models import PUP_FOLDER
from webui.notebook import in_colab

nbclient = pytest.importorskip("nbclient")
nbformat = pytest.importorskip("nbformat")

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOK = ROOT / "notebooks" / "bark_studio_colab.ipynb"
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not (PUP_FOLDER / "config.json").is_file(), reason="models/pup isn't here"),
]

# says something on the studio as a person who signs in would, waits for the sound, tells the id
SAY = """
from gradio_client import Client

client = Client(running.address, auth=("anyone", running.password), verbose=False)
_file, made = client.predict("Good evening.", "rosa", 7, api_name="/generate")
print("MADE", made["id"], made["duration_s"])
"""
LIST = """
from gradio_client import Client

client = Client(running.address, auth=("anyone", running.password), verbose=False)
print("THERE", [entry["id"] for entry in client.predict(api_name="/history")])
"""
END = "running.close()"

COLAB = {
    "__init__.py": "",
    "drive.py": """
        from pathlib import Path
        def mount(path):
            (Path(path) / "MyDrive").mkdir(parents=True, exist_ok=True)
            print("MOUNTED", path)
    """,
    "output.py": """
        def eval_js(code):
            return "https://7860-colab.example.test/"
        def serve_kernel_port_as_window(port, anchor_text=""):
            print("WINDOW", port, anchor_text)
    """,
}


def run(
    folder: Path, *more: str, chosen: dict[str, Any], environment: dict[str, str] | None = None
) -> str:
    """Run all cells with some values chosen in the form, then more; everything printed."""
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    form = next(cell for cell in notebook.cells if cell.id == "settings")
    lines = form.source.splitlines()
    for name, value in chosen.items():
        (at,) = (n for n, line in enumerate(lines) if line.startswith(f"{name} = "))
        lines[at] = f"{name} = {value!r}"
    form.source = "\n".join(lines)
    notebook.cells += [nbformat.v4.new_code_cell(source) for source in more]
    before = dict(os.environ)
    os.environ.update(environment or {})
    try:
        nbclient.NotebookClient(
            notebook, timeout=600, resources={"metadata": {"path": str(folder)}}
        ).execute()
    finally:
        os.environ.clear()
        os.environ.update(before)
    return "".join(
        output.get("text", "")
        for cell in notebook.cells
        for output in cell.get("outputs", ())
        if output["output_type"] == "stream" and output["name"] == "stdout"
    )


def test_the_form_offers_what_the_code_reads() -> None:
    cells = json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]
    sources = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    names = [line.split(" = ")[0] for line in sources[0].splitlines() if " = " in line]
    assert names == [
        *("REPOSITORY", "MODEL", "USE_DRIVE", "MODELS_ON_DRIVE", "PASSWORD", "SHARE_LINK"),
    ]
    assert [name for name in names if name not in "".join(sources[1:])] == []
    assert all(not cell.get("outputs") for cell in cells)


def test_outside_of_colab_it_says_so_and_works(tmp_path: Path) -> None:
    assert not in_colab()
    home = {"XDG_DATA_HOME": str(tmp_path / "data"), "BARK_STUDIO_PASSWORD": ""}
    chosen = {"MODEL": "pup", "SHARE_LINK": False}
    printed = run(ROOT / "notebooks", SAY, END, chosen=chosen, environment=home)
    assert "Not on Colab" in printed and "there is no Drive to mount" in printed
    assert "There is no GPU" in printed or "models run in" in printed
    assert "MADE" in printed and "On this machine: http://127.0.0.1:" in printed


@pytest.fixture
def colab(tmp_path: Path) -> dict[str, str]:
    """What a kernel needs to take itself for Colab's."""
    package = tmp_path / "packages" / "google" / "colab"
    package.mkdir(parents=True)
    for name, source in COLAB.items():
        (package / name).write_text(textwrap.dedent(source))
    return {"PYTHONPATH": str(tmp_path / "packages")}


@pytest.mark.skipif(shutil.which("git") is None, reason="needs git")
def test_on_colab_it_installs_mounts_and_goes_on_after_a_disconnect(
    tmp_path: Path, colab: dict[str, str]
) -> None:
    """With a stand-in for Colab's package, its Drive a folder: the cells are the same."""
    chosen = {
        "REPOSITORY": f"file://{ROOT}",
        "MODEL": "pup",
        "PASSWORD": "as you like it",
        "SHARE_LINK": False,
    }

    (tmp_path / "first").mkdir()
    first = run(tmp_path / "first", SAY, END, chosen=chosen, environment=colab)
    assert "Installed; kept torch==" in first
    assert f"MOUNTED {tmp_path / 'first' / 'drive'}" in first
    assert "Sign in with any name and the password as you like it" in first
    assert "WINDOW" in first
    made = first[first.index("MADE") :].split()[1]
    # Drive is all that is left of the first machine
    (tmp_path / "second").mkdir()
    (tmp_path / "first" / "drive").rename(tmp_path / "second" / "drive")
    shutil.rmtree(tmp_path / "first")
    second = run(tmp_path / "second", LIST, END, chosen=chosen, environment=colab)
    assert f"THERE ['{made}']" in second

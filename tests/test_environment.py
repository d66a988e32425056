"""What is prepared before Gradio is imported."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from webui.environment import prepared_environment

ROOT = Path(__file__).resolve().parent.parent

PROBE = """
import sys
from webui.settings import parse_arguments
from webui.environment import prepared_environment
assert "gradio" not in sys.modules, "Gradio has looked for its folder already"
with prepared_environment():
    from webui.serving import serve
    from gradio.route_utils import DEFAULT_TEMP_DIR
    import os
    print(DEFAULT_TEMP_DIR == os.environ["GRADIO_TEMP_DIR"])
"""

STUBS = """
import ast
from webui.environment import prepared_environment
ast.get_source_segment = None  # what a stub is made with
with prepared_environment():
    import gradio
    print(len(gradio.Textbox.EVENTS) > 0)
"""


def printed(program: str) -> str:
    """What a program says in a process of its own, to which Gradio is new."""
    environment = {name: value for name, value in os.environ.items() if "GRADIO" not in name}
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stdout.strip() or done.stderr


def test_gradio_takes_the_studio_s_own_folder() -> None:
    """Its own, in /tmp, may be another user's."""
    assert printed(PROBE) == "True"


def test_gradio_makes_no_type_stubs() -> None:
    """They take nearly half of the time that it is imported in."""
    assert printed(STUBS) == "True"


def test_a_studio_that_ends_leaves_another_one_its_folder() -> None:
    with prepared_environment():
        own = os.environ["GRADIO_TEMP_DIR"]
        with prepared_environment():
            assert os.environ["GRADIO_TEMP_DIR"] != own
        assert os.environ["GRADIO_TEMP_DIR"] == own
        assert Path(own).is_dir()

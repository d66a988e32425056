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


def test_gradio_takes_the_studio_s_own_folder() -> None:
    """Its own, in /tmp, may be another user's."""
    environment = {name: value for name, value in os.environ.items() if "GRADIO" not in name}
    done = subprocess.run(
        [sys.executable, "-c", PROBE],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.strip() == "True", done.stderr


def test_a_studio_that_ends_leaves_another_one_its_folder() -> None:
    with prepared_environment():
        own = os.environ["GRADIO_TEMP_DIR"]
        with prepared_environment():
            assert os.environ["GRADIO_TEMP_DIR"] != own
        assert os.environ["GRADIO_TEMP_DIR"] == own
        assert Path(own).is_dir()

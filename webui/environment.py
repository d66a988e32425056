"""What Gradio reads from the environment. Entered before Gradio is imported: it reads it then."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator


@contextlib.contextmanager
def prepared_environment() -> Iterator[None]:
    """What Gradio reads from the environment: no analytics, no proxy for itself, own temporaries.

    Uploads and copies for programs lie in a folder that only this user can read and that goes
    with the process.
    """
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    for name in ("NO_PROXY", "no_proxy"):
        hosts = [host for host in os.environ.get(name, "").split(",") if host]
        own = [host for host in ("localhost", "127.0.0.1", "::1") if host not in hosts]
        os.environ[name] = ",".join([*hosts, *own])
    os.umask(0o077)
    with tempfile.TemporaryDirectory(prefix="bark-studio-", ignore_cleanup_errors=True) as folder:
        before = os.environ.get("GRADIO_TEMP_DIR")
        os.environ["GRADIO_TEMP_DIR"] = folder
        try:
            yield
        finally:
            # another studio of this process may go on with its own
            if before is None:
                os.environ.pop("GRADIO_TEMP_DIR", None)
            else:
                os.environ["GRADIO_TEMP_DIR"] = before

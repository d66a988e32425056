"""What Gradio reads from the environment. Entered before Gradio is imported: it reads it then."""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
from collections.abc import Iterator, Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from types import ModuleType

STUBS = "gradio.component_meta"


@contextlib.contextmanager
def prepared_environment() -> Iterator[None]:
    """What Gradio reads from the environment: no analytics, no proxy for itself, own temporaries.

    If it is imported in here, it is without the type stubs that it otherwise makes again.

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
    with (
        _without_stubs(),
        tempfile.TemporaryDirectory(prefix="bark-studio-", ignore_cleanup_errors=True) as folder,
    ):
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


@contextlib.contextmanager
def _without_stubs() -> Iterator[None]:
    """Keep Gradio from making type stubs of its components at each import.

    For each of 81 classes it parses the file and its stub, and compares them: nearly half of the
    time that Gradio takes to be imported. They are for editors.
    """
    finder = _StubFinder()
    sys.meta_path.insert(0, finder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)


class _StubFinder(MetaPathFinder):
    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != STUBS:
            return None
        spec = PathFinder.find_spec(fullname, path)
        if spec is not None and isinstance(spec.loader, SourceFileLoader):
            spec.loader = _StubLoader(spec.loader.name, spec.loader.path)
        return spec


class _StubLoader(SourceFileLoader):
    def exec_module(self, module: ModuleType) -> None:
        super().exec_module(module)
        # where another version of Gradio calls it otherwise, there are stubs again
        module.__dict__["create_or_modify_pyi"] = _make_no_stub


def _make_no_stub(*_component: object) -> None:
    pass

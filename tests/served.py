"""A whole studio, served in this process, for tests that speak to it over HTTP."""

from __future__ import annotations

import contextlib
import dataclasses
import urllib.error
import urllib.request
from collections.abc import Iterator
from typing import Any

from webui.settings import StudioSettings
from webui.studio import Studio


@dataclasses.dataclass
class Served:
    address: str
    studio: Studio
    demo: Any

    def get(self, path: str, **headers: str) -> tuple[int, bytes, Any]:
        request = urllib.request.Request(self.address + path, headers=headers)
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                return answer.status, answer.read(), answer.headers
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read(), error.headers


@contextlib.contextmanager
def serving(settings: StudioSettings) -> Iterator[Served]:
    from webui.blocks import build_page
    from webui.serving import open_page, prepared_environment
    from webui.studio import open_studio

    with prepared_environment():
        studio = open_studio(settings)
        demo = build_page(studio)
        address = open_page(demo, studio)
        assert studio.desk.loaded.wait(60)
        try:
            yield Served(address, studio, demo)
        finally:
            studio.close()
            demo.close(verbose=False)

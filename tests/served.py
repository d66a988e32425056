"""A whole studio, served in this process, for tests that speak to it over HTTP."""

from __future__ import annotations

import contextlib
import dataclasses
import http.client
import urllib.error
import urllib.request
from collections.abc import Iterable, Iterator, Mapping
from typing import Any
from urllib.parse import urlsplit

from webui.settings import StudioSettings
from webui.studio import Studio


@dataclasses.dataclass(frozen=True)
class Answer:
    """What came back."""

    status: int
    body: bytes
    headers: http.client.HTTPMessage


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

    def ask(
        self,
        method: str,
        path: str,
        body: bytes | Iterable[bytes] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        """Raw HTTP: any header, any path as it stands, any body; nothing is followed."""
        host = urlsplit(self.address).netloc
        connection = http.client.HTTPConnection(host, timeout=60)
        connection.putrequest(method, f"/{path}", skip_host=True, skip_accept_encoding=True)
        given = {"Host": host, **(headers or {})}
        if isinstance(body, bytes):
            given.setdefault("Content-Length", str(len(body)))
        elif body is not None:
            given["Transfer-Encoding"] = "chunked"
        for name, value in given.items():
            connection.putheader(name, value)
        with contextlib.closing(connection):
            # what is refused before all of it was sent
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                connection.endheaders(body, encode_chunked=not isinstance(body, bytes))
            answer = connection.getresponse()
            return Answer(answer.status, answer.read(), answer.headers)


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

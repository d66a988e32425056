"""A studio with accounts, and people who are signed in to it, for tests over raw HTTP."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from tests.served import Answer, Served, serving
from webui.accounts import Accounts
from webui.settings import StudioSettings

JSON = {"Content-Type": "application/json"}
FORM = {"Content-Type": "application/x-www-form-urlencoded"}


@dataclass(frozen=True)
class Person:
    """Somebody who is signed in."""

    name: str
    served: Served
    cookie: str

    def ask(
        self, method: str, path: str, body: Any = None, headers: Mapping[str, str] | None = None
    ) -> Answer:
        return self.served.ask(method, path, body, {"Cookie": self.cookie, **(headers or {})})

    def post(self, path: str, body: object) -> Answer:
        return self.ask("POST", path, json.dumps(body).encode(), JSON)

    def call(self, endpoint: str, *values: Any) -> list[Any]:
        """Call an endpoint as programs do; what it gave."""
        begun = self.post(f"gradio_api/call/{endpoint}", {"data": list(values)})
        assert begun.status == 200, begun
        event = json.loads(begun.body)["event_id"]
        told = self.ask("GET", f"gradio_api/call/{endpoint}/{event}").body.decode()
        name, data = told.strip().split("\n\n")[-1].split("\n", 1)
        assert name == "event: complete", told
        given: list[Any] = json.loads(data.removeprefix("data: "))
        return given

    def upload(self, name: str, content: bytes) -> str:
        """Send a file to Gradio; its path there."""
        body = (
            f'--frontier\r\nContent-Disposition: form-data; name="files"; filename="{name}"\r\n'
            "Content-Type: application/octet-stream\r\n\r\n"
        ).encode() + content
        form = {"Content-Type": "multipart/form-data; boundary=frontier"}
        sent = self.ask("POST", "gradio_api/upload", body + b"\r\n--frontier--\r\n", form)
        assert sent.status == 200, sent
        path: str = json.loads(sent.body)[0]
        return path


def sign_in(served: Served, name: str, password: str) -> Person:
    form = urlencode({"username": name, "password": password}).encode()
    answer = served.ask("POST", "login", form, FORM)
    assert answer.status == 200, answer
    return Person(name, served, str(answer.headers["set-cookie"]).split(";")[0])


@contextlib.contextmanager
def people(model: Path, data: Path, *names: str) -> Iterator[tuple[Served, list[Person]]]:
    """A studio and some who use it; the first one is its administrator."""
    accounts = Accounts.open(data)
    for name in names:
        accounts.add(name, f"the password of {name}")
    accounts.close()
    with serving(StudioSettings(model=str(model), data=data)) as served:
        yield served, [sign_in(served, name, f"the password of {name}") for name in names]

"""Laws of the page to sign in, of its cookie, and of what strangers see: nothing."""

from __future__ import annotations

import http.client
import importlib
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlencode, urlsplit

import pytest

from tests.page_model import save_page_model
from tests.served import Answer, Served, serving
from webui.accounts import Accounts
from webui.languages import LANGUAGES
from webui.settings import StudioSettings

ANN, BOB = "right horse", "other horse"
PERSON = {"Accept": "text/html,application/xhtml+xml"}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_page_model(tmp_path_factory.mktemp("models") / "page")


@pytest.fixture(scope="module")
def served(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    data = tmp_path_factory.mktemp("data")
    accounts = Accounts.open(data)
    accounts.add("ann", ANN)
    accounts.add("bob", BOB)
    accounts.close()
    with serving(StudioSettings(model=str(model), data=data)) as served:
        yield served


@pytest.fixture(autouse=True)
def rested(request: pytest.FixtureRequest) -> None:
    """Each test as if a minute had passed: they all come from one address."""
    if "served" in request.fixturenames:
        request.getfixturevalue("served").studio.access._tries._tries.clear()


def sign_in(served: Served, name: str, password: str, **headers: str) -> Answer:
    form = urlencode({"username": name, "password": password}).encode()
    kind = {"Content-Type": "application/x-www-form-urlencoded"}
    return served.ask("POST", "login", form, {**kind, **headers})


def cookie_of(answer: Answer) -> str:
    return str(answer.headers["set-cookie"]).split(";")[0]


@pytest.mark.parametrize(
    "path",
    [
        "config",
        "theme.css",
        "assets/index.js",
        "gradio_api/info",
        "gradio_api/openapi.json",
        "gradio_api/user",
        "gradio_api/queue/status",
        "gradio_api/queue/data?session_hash=a",
        "gradio_api/heartbeat/a",
        "gradio_api/file=/etc/passwd",
        "gradio_api/upload_progress?upload_id=a",
        "gradio_api/call/jobs/a",
        "studio/me",
        "studio/sound/0.flac",
        "studio/live/0/0.flac",
        "studio/voice/rosa.npz",
        "studio/script/0/export.json",
        "studio/export/0.zip",
    ],
)
def test_strangers_get_nothing(served: Served, path: str) -> None:
    for made_up in ("", "bark-studio-00000000=x", "access-token=x"):
        answer = served.ask("GET", path, headers={"Cookie": made_up})
        assert (answer.status, answer.body) == (401, b'{"detail":"Sign in first."}')
    for path_posted in ("gradio_api/queue/join", "gradio_api/upload", "studio/open"):
        assert served.ask("POST", path_posted, b"{}").status == 401


def test_strangers_are_led_to_the_page_to_sign_in(served: Served) -> None:
    answer = served.ask("GET", "", headers=PERSON)
    assert (answer.status, answer.headers["location"]) == (303, "login")
    page = served.ask("GET", "login", headers=PERSON)
    assert page.status == 200
    assert page.headers["cache-control"] == "no-store"
    assert b"<script" not in page.body


@pytest.mark.parametrize("code", LANGUAGES)
def test_the_page_to_sign_in_speaks_every_language(served: Served, code: str) -> None:
    text = served.ask("GET", "login", headers={"Accept-Language": code}).body.decode()
    assert f'<html lang="{code}">' in text
    assert ("Password" in text) is (code == "en")
    labels = set(re.findall(r'<label for="(\w+)">', text))
    assert labels == set(re.findall(r'<input id="(\w+)"', text)) == {"name", "password"}
    chosen = served.ask("GET", f"login?language={code}")
    assert chosen.status == 303
    assert f"bark-studio-language={code}" in chosen.headers["set-cookie"]


def test_a_cookie_lets_its_owner_in_until_they_leave(served: Served) -> None:
    answer = sign_in(served, "ann", ANN, **PERSON)
    assert (answer.status, answer.headers["location"]) == (303, "./")
    whole = answer.headers["set-cookie"]
    assert "HttpOnly" in whole
    assert "samesite=lax" in whole.lower()
    own = {"Cookie": cookie_of(answer)}
    assert served.ask("GET", "", headers=own).status == 200
    me = served.ask("GET", "studio/me", headers=own).body
    assert me == b'{"name":"ann","administrator":true,"signed_in":true}'
    assert served.ask("GET", "login", headers=own).status == 303
    assert served.ask("GET", "logout", headers=own).status == 405  # no link may sign somebody out
    assert served.ask("POST", "logout", b"", own).status == 303
    assert served.ask("GET", "config", headers=own).status == 401


def test_what_is_wrong_isn_t_told(served: Served) -> None:
    wrong = sign_in(served, "bob", "guess", **PERSON)
    nobody = sign_in(served, "<b>nobody", "guess", **PERSON)
    assert (wrong.status, nobody.status) == (401, 401)
    assert b'role="alert"' in wrong.body
    assert wrong.body.replace(b'"bob"', b"") == nobody.body.replace(b'"&lt;b&gt;nobody"', b"")
    assert (
        sign_in(served, "bob", "guess").body
        == b'{"detail":"the name or the password is wrong; try again"}'
    )
    for body in (b"", b"\xff\xfe", b"username=ann", b"&" * 100, b"{}"):
        assert served.ask("POST", "login", body).status in (401, 422, 429)


def test_programs_sign_in_with_name_and_password(served: Served) -> None:
    client: Any = importlib.import_module("gradio_client")
    error: Any = importlib.import_module("gradio_client.exceptions").AuthenticationError
    with pytest.raises(error):
        client.Client(served.address, verbose=False)
    with pytest.raises(error):
        client.Client(served.address, auth=("bob", "guess"), verbose=False)
    bob = client.Client(served.address, auth=("bob", BOB), verbose=False)
    assert bob.predict(api_name="/jobs") == []
    bob.close()


def test_what_somebody_still_watches_ends_with_the_session(served: Served) -> None:
    own = {"Cookie": cookie_of(sign_in(served, "bob", BOB))}
    address = urlsplit(served.address)
    connection = http.client.HTTPConnection(address.hostname or "", address.port, timeout=60)
    connection.request("GET", "/gradio_api/heartbeat/watching", headers=own)
    answer = connection.getresponse()
    assert b"ALIVE" in answer.readline()
    served.ask("POST", "logout", b"", own)
    assert answer.read() in (b"", b"\n")  # not a word more, and an end
    connection.close()


def test_changes_on_the_command_line_count_at_once(served: Served) -> None:
    accounts = Accounts.open(served.studio.settings.data_folder)
    accounts.add("eve", "third horse")
    own = {"Cookie": cookie_of(sign_in(served, "eve", "third horse"))}
    assert served.ask("GET", "config", headers=own).status == 200
    accounts.remove("eve")
    assert served.ask("GET", "config", headers=own).status == 401
    accounts.close()


def test_guessing_is_slow(served: Served) -> None:
    began = time.monotonic()
    seen = [sign_in(served, "bob", f"guess {n}").status for n in range(60)]
    minutes = (time.monotonic() - began) // 60 + 1
    assert seen.count(401) <= 10 * minutes
    assert set(seen) == {401, 429}
    late = sign_in(served, "bob", "guess", **PERSON)
    assert late.status == 429
    assert int(late.headers["retry-after"]) >= 1


def test_behind_tls_the_cookie_is_for_tls_alone(model: Path, tmp_path: Path) -> None:
    settings = StudioSettings(
        model=str(model),
        data=tmp_path,
        password="pass word",
        public_url="https://studio.example.org",
    )
    with serving(settings) as served:
        local = Served(f"http://127.0.0.1:{served.demo.server_port}/", served.studio, served.demo)
        named = {"Host": "studio.example.org", "X-Forwarded-For": "203.0.113.9"}
        answer = sign_in(local, "ann", "pass word", **named)
        assert answer.status == 200
        assert "secure" in answer.headers["set-cookie"].lower()
        assert "address 203.0.113.9" in served.studio.access._tries._tries

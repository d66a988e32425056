"""Laws of who reaches the page: names, other sites' pages."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from bark_core import InvalidSetting
from tests.page_model import save_page_model
from tests.served import Served, serving
from webui.reach import Reach, checked_host_name
from webui.settings import StudioSettings, parse_arguments


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    model = save_page_model(tmp_path_factory.mktemp("models") / "page")
    settings = StudioSettings(
        model=str(model),
        data=tmp_path_factory.mktemp("data"),
        allowed_hosts=("studio.example.org",),
    )
    with serving(settings) as served:
        yield served


@pytest.mark.parametrize(
    ("host", "fine"),
    [
        ("localhost:7860", True),
        ("LOCALHOST", True),
        ("127.0.0.1:7860", True),
        ("[::1]:7860", True),
        ("192.168.1.5", True),  # nobody's name leads to an address in digits
        ("studio.example.org", True),
        ("studio.example.org.", True),
        ("a.labs.example.org:8080", True),
        ("labs.example.org", False),
        ("evil.example", False),
        ("localhost.evil.example", False),
        ("studio.example.org.evil.example", False),
        ("evilstudio.example.org", False),
        ("user@localhost", False),
        ("localhost/path", False),
        ("localhost:99999", False),
        ("", False),
        ("127.0.0.1.evil.example", False),
        ("0x7f.1", False),
    ],
)
def test_only_its_own_names_lead_to_it(host: str, fine: bool) -> None:
    assert Reach(["studio.example.org", "*.labs.example.org"]).allows_host(host) is fine


@pytest.mark.parametrize(
    ("origin", "host", "fine"),
    [
        ("http://localhost:7860", "localhost:7860", True),
        ("https://localhost", "localhost:443", True),
        ("https://studio.example.org", "127.0.0.1:7860", True),  # a proxy in between
        ("http://localhost:3000", "localhost:7860", False),
        ("http://127.0.0.1:7860", "localhost:7860", False),
        ("http://evil.example", "localhost:7860", False),
        ("http://192.168.1.6:7860", "192.168.1.5:7860", False),
        ("null", "localhost:7860", False),
        ("file://", "localhost:7860", False),
        ("chrome-extension://abc", "abc", False),
        ("http://[", "localhost:7860", False),
        ("http://localhost:x", "localhost:7860", False),
    ],
)
def test_only_its_own_pages_speak_to_it(origin: str, host: str, fine: bool) -> None:
    assert Reach(["studio.example.org"]).allows_origin(origin, host) is fine


def test_a_name_can_be_added_later() -> None:
    reach = Reach(wide=True)
    assert not reach.allows_host("abc.gradio.live")
    reach.add("abc.gradio.live")
    assert reach.allows_host("abc.gradio.live")
    assert not reach.allows_origin("https://other.gradio.live", "abc.gradio.live")


@pytest.mark.parametrize("name", ["", "*", "*.org", "http://a.example", "a b", "a..b", "a/b"])
def test_what_is_no_host_name_is_refused(name: str) -> None:
    with pytest.raises(InvalidSetting):
        checked_host_name(name)
    with pytest.raises(InvalidSetting):
        StudioSettings(allowed_hosts=(name,))


@pytest.mark.parametrize(
    "url", ["studio.example.org", "ftp://a.example", "https://", "https://a:x"]
)
def test_a_public_address_is_a_web_address(url: str) -> None:
    with pytest.raises(InvalidSetting, match="public-url"):
        StudioSettings(public_url=url, password="long enough")


def test_behind_a_proxy_the_public_name_counts() -> None:
    arguments = ["--public-url", "https://studio.example.org/bark", "--password", "long enough"]
    settings = parse_arguments(arguments, {})
    assert settings.proxied
    assert settings.reach.allows_host("studio.example.org")
    assert settings.proxies == ("127.0.0.1", "::1")
    given = parse_arguments([*arguments, "--proxy", "10.0.0.2"], {})
    assert given.proxies == ("10.0.0.2",)


# --- as it is served


@pytest.mark.parametrize("path", ["", "config", "gradio_api/info", "theme.css", "studio/open"])
def test_under_another_name_nothing_is_there(served: Served, path: str) -> None:
    for method in ("GET", "POST", "HEAD"):
        answer = served.ask(method, path, headers={"Host": "evil.example"})
        assert answer.status == 421
        assert b"gradio" not in answer.body


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://127.0.0.1:1"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "iframe"},
    ],
)
@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "gradio_api/upload"),
        ("POST", "gradio_api/queue/join"),
        ("POST", "gradio_api/call/generate"),
        ("POST", "studio/open"),
        ("GET", "gradio_api/info"),
        ("GET", "config"),
    ],
)
def test_other_sites_can_t_use_it(
    served: Served, method: str, path: str, headers: dict[str, str]
) -> None:
    assert served.ask(method, path, b"", headers).status == 403


def test_a_link_on_another_site_may_lead_here(served: Served) -> None:
    followed = {
        "Sec-Fetch-Site": "cross-site",
        "Sec-Fetch-Mode": "navigate",
        "Sec-Fetch-Dest": "document",
    }
    assert served.ask("GET", "", headers=followed).status == 200
    assert served.ask("POST", "gradio_api/upload", b"", followed).status == 403


def test_its_own_page_and_programs_may_speak_to_it(served: Served) -> None:
    own = {"Origin": served.address.rstrip("/"), "Sec-Fetch-Site": "same-origin"}
    assert served.ask("GET", "config", headers=own).status == 200
    assert served.ask("GET", "config").status == 200
    named = {"Host": "studio.example.org", "Origin": "https://studio.example.org"}
    assert served.ask("GET", "config", headers=named).status == 200


def test_what_a_caller_says_of_proxies_isn_t_believed(served: Served) -> None:
    made_up = {"X-Forwarded-Host": "evil.example", "X-Forwarded-Proto": "https"}
    answer = served.ask("GET", "", headers=made_up)
    assert b"evil.example" not in answer.body


def test_each_answer_says_what_a_browser_may_do_with_it(served: Served, tmp_path: Path) -> None:
    for path in ("", "config", "studio/sound/x.flac", "nothing", "assets/nothing.js"):
        headers = served.ask("GET", path).headers
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["x-frame-options"] == "SAMEORIGIN"
        assert "object-src 'none'" in headers["content-security-policy"]
        assert headers["referrer-policy"] == "same-origin"
    policy = served.ask("GET", "").headers["content-security-policy"]
    scripts = next(part for part in policy.split("; ") if part.startswith("script-src"))
    assert "unsafe-inline" not in scripts
    assert "http" not in policy

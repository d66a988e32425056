"""Laws of the page: what it says, who gets in, what is served to whom, what programs can call."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import html.parser
import json
import re
import types
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import gradio as gr
import pytest

from bark_core import BarkError, InvalidSetting, MissingFiles, SoundCue, UnknownVoice
from tests.made import made
from tests.page_model import save_page_model
from tests.served import Served, serving
from webui import generate_view, head, history_view, takes, words
from webui.history import History, new_id
from webui.html import notice, remark
from webui.jobs import DeskStatus, Live, TicketState, View
from webui.pace import Bars
from webui.settings import PASSWORD_VARIABLE, StudioSettings, parse_arguments
from webui.watcher import N_WATCHED, Watcher

ENDPOINTS = {
    "generate",
    "history",
    "history_get",
    "jobs",
    "models",
    "origin",
    "plan",
    "script",
    "stop",
    "voices",
}
WILD = "<script>alert(\"x\")</script> & 'quotes' {{value}} ${1+1} </h3><img src=x onerror=alert(1)>"


# --- starting


@pytest.mark.parametrize(
    "arguments",
    [
        ["--host", "0.0.0.0"],
        ["--host", "192.168.1.5"],
        ["--host", "::"],
        ["--host", "studio.example"],
        ["--share"],
        ["--share", "--password", "short"],
    ],
)
def test_strangers_aren_t_let_in_without_a_password(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        parse_arguments(arguments, {})
    assert ended.value.code == 2
    assert "password" in capsys.readouterr().err


def test_a_password_opens_the_studio_to_others() -> None:
    assert parse_arguments(["--share", "--password", "long enough"], {}).share
    settings = parse_arguments(["--host", "0.0.0.0"], {PASSWORD_VARIABLE: "long enough"})
    assert (settings.host, settings.password) == ("0.0.0.0", "long enough")


@pytest.mark.parametrize("host", ["127.0.0.1", "127.1.2.3", "localhost", "::1"])
def test_this_computer_alone_needs_none(host: str) -> None:
    assert parse_arguments(["--host", host], {}).password is None


def test_defaults_are_safe_and_data_is_the_user_s() -> None:
    settings = parse_arguments([], {})
    assert (settings.model, settings.host, settings.share) == ("", "127.0.0.1", False)
    assert settings.data_folder.name == "bark-studio"


def test_ports_are_checked() -> None:
    with pytest.raises(InvalidSetting, match="65535"):
        StudioSettings(port=70_000)


# --- words


def all_errors() -> list[type[BarkError]]:
    found, todo = [], [BarkError]
    while todo:
        kind = todo.pop()
        found.append(kind)
        todo += kind.__subclasses__()
    return found


@pytest.mark.parametrize("kind", all_errors(), ids=lambda kind: kind.__name__)
def test_every_error_is_told_in_three_parts(kind: type[BarkError]) -> None:
    notice = words.explain(kind("the thing is broken; mend it"))
    assert notice.why == "The thing is broken."
    assert notice.do == "Mend it."
    assert notice.what
    assert words.explain(kind("the thing is broken")).do


def test_what_nobody_expected_is_told_calmly() -> None:
    notice = words.explain(ZeroDivisionError("secret path /home/ann"))
    assert "secret" not in f"{notice}"
    assert "log" in notice.why


@pytest.mark.parametrize(
    ("value", "said"),
    [(0.3, "less than a second"), (4.2, "about 4 s"), (47, "about 45 s"), (118, "about 2 min")],
)
def test_estimates_are_no_finer_than_they_are(value: float, said: str) -> None:
    assert words.about(value) == said


@pytest.mark.parametrize("text", ["", "short", "word " * 50, "x" * 500, "語" * 300])
def test_a_quote_is_never_longer_than_asked(text: str) -> None:
    assert len(words.quote(text, 80)) <= 80


# --- HTML


class Tags(html.parser.HTMLParser):
    """Collects tags, and complains of those that aren't closed."""

    void = ("input", "img", "br")

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.add(tag)
        assert not [name for name, _ in attrs if name.startswith("on")]
        if tag not in self.void:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    @classmethod
    def of(cls, text: str) -> set[str]:
        tags = cls()
        tags.feed(text)
        tags.close()
        assert tags.open == []
        return tags.seen


def view(state: TicketState, **changes: Any) -> View:
    base = View(
        id=new_id(),
        text=WILD,
        state=state,
        stopping=False,
        position=2,
        bars=Bars(0.5, 0.0, 0.0),
        segment=0,
        n_segments=2,
        left_s=3.0,
        live=None,
        error=None,
    )
    return dataclasses.replace(base, **changes)


def test_nothing_that_was_typed_becomes_markup(tmp_path: Path) -> None:
    history = History.open(tmp_path)
    entry = history.add(made(WILD, voice_name="rosa"))
    history.close()
    odd = dataclasses.replace(entry, details={**entry.details, "model": {"name": WILD}})

    def label(name: str | None) -> str:
        return WILD if name else "new"

    views = [
        view(TicketState.RUNNING, live=Live(tmp_path, 1, 1, 2.0, (50,))),
        view(TicketState.RUNNING, stopping=True),
        view(TicketState.WAITING),
        view(TicketState.LOADING),
        view(TicketState.STOPPED),
        view(TicketState.FAILED, error=UnknownVoice(WILD)),
    ]
    odd = dataclasses.replace(odd, group="one")
    settled: dict[str, Any] = {"running": False, "older": False}
    cue = SoundCue(WILD, WILD, WILD)
    segment = generate_view.PlannedSegment(WILD, 3, 1.0)
    row = generate_view.VoiceRow(WILD, WILD, "en", WILD, "yours", WILD, WILD, favourite=True)
    status = DeskStatus(WILD, "failed", WILD, True, 1, MissingFiles(WILD))
    pages = [
        takes.running(views),
        takes.results([odd], label, running=False, older=True),
        takes.results([], label, running=False, older=False, examples=[WILD]),
        takes.results([odd, dataclasses.replace(odd, id=new_id())], label, **settled),
        takes.running([dataclasses.replace(views[0], group="one"), views[1]]),
        generate_view.plan_line([segment, segment], window=9, computing_s=3.0),
        generate_view.cue_bar([(cue, True), (cue, False)], WILD),
        generate_view.voice_picker([row] * 10, row, others=WILD),
        history_view.history_list(history_view.Found([odd], 9, True, odd.id), label),
        history_view.history_list(history_view.Found([], 0, True, None), label),
        history_view.history_list(history_view.Found([], 0, False, None), label),
        history_view.history_details(odd, label),
        history_view.history_details(None, label),
        head.masthead(status),
        remark(WILD),
        notice(words.explain(UnknownVoice(WILD)), dismiss="x"),
    ]
    for page in pages:
        assert not {"script", "img"} & Tags.of(page), page


def test_details_say_of_a_model_what_is_known_of_it(tmp_path: Path) -> None:
    with contextlib.closing(History.open(tmp_path)) as history:
        entry = history.add(made())
    whole = history_view.history_details(entry, lambda name: name or "")
    assert "tiny, float32" in whole
    assert "Revision" in whole
    of_a_script = dataclasses.replace(entry, details={"model": {"name": "tiny"}})
    shown = history_view.history_details(of_a_script, lambda name: name or "")
    assert "<dd>tiny</dd>" in shown
    assert "Revision" not in shown


def test_the_pulse_holds_what_runs_and_nothing_else() -> None:
    running, over = view(TicketState.RUNNING), view(TicketState.STOPPED)
    state = json.loads(takes.pulse([running, over]))
    assert list(state["jobs"]) == [running.id]
    assert state["jobs"][running.id]["line"] == "segment 1 of 2, about 3 s left"
    without = dataclasses.replace(running, left_s=None)
    assert "no estimate" in json.loads(takes.pulse([without]))["jobs"][without.id]["line"]


def test_a_result_tells_what_went_wrong_with_it() -> None:
    details = {"takes": [0, 2], "take": 0, "problems": [[], ["no_end", "nonsense"]]}
    first, second = takes.remarks_on(details)
    assert "2 takes" in first
    assert second == "It seems that segment 2 ran on without an end."
    assert takes.remarks_on({"takes": [0], "problems": [[]]}) == []
    assert takes.remarks_on({"takes": None, "problems": "?"}) == []


# --- the page as it is served


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_page_model(tmp_path_factory.mktemp("models") / "page")


@pytest.fixture(scope="module")
def served(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    data = tmp_path_factory.mktemp("data")
    with serving(StudioSettings(model=str(model), data=data)) as served:
        yield served


def test_handlers_are_private_but_for_those_that_programs_call(served: Served) -> None:
    config = json.loads(served.get("config")[1])
    public = {
        dependency["api_name"]
        for dependency in config["dependencies"]
        if dependency["api_visibility"] != "private"
    }
    assert public == ENDPOINTS
    assert not [d for d in config["dependencies"] if "lambda" in str(d["api_name"])]


def test_analytics_monitoring_and_run_history_are_off(served: Served) -> None:
    config = json.loads(served.get("config")[1])
    assert config["analytics_enabled"] is False
    assert not served.demo.run_history
    assert served.get("monitoring/summary")[0] != 200


def test_nothing_of_ours_points_outside(served: Served) -> None:
    config = json.loads(served.get("config")[1])
    # Gradio's own description of what a program could hand to a component
    theirs = ("example_inputs", "api_info", "api_info_as_input", "api_info_as_output")
    components = [
        {key: value for key, value in component.items() if key not in theirs}
        for component in config["components"]
    ]
    ours = json.dumps([components, config.get("css"), config.get("head")])
    outside = set(re.findall(r"https?://[^\s\"'\\)]+", ours))
    assert not {url for url in outside if not url.startswith("http://www.w3.org/")}
    theme = served.get("theme.css")[1].decode()
    assert "http" not in theme.replace("http://www.w3.org/", "")


def test_sounds_are_served_by_their_id_alone(served: Served) -> None:
    kept = served.studio.history.add(made())
    status, body, headers = served.get(f"studio/sound/{kept.id}.flac")
    assert (status, body[:4]) == (200, b"fLaC")
    assert headers["content-type"] == "audio/flac"
    status, body, _ = served.get(f"studio/sound/{kept.id}.flac", Range="bytes=0-3")
    assert (status, body) == (206, b"fLaC")
    assert served.studio.history.delete(kept.id)
    assert served.get(f"studio/sound/{kept.id}.flac")[0] == 404


@pytest.mark.parametrize(
    "path",
    [
        "studio/sound/{other}.flac",
        "studio/sound/..%2Fhistory.sqlite3.flac",
        "studio/sound/%2e%2e%2f%2e%2e%2fetc%2fpasswd.flac",
        "studio/sound/.flac",
        "studio/live/{kept}/0.flac",
        "studio/live/..%2F..%2Fx/0.flac",
        "studio/live/{kept}/-1.flac",
        "gradio_api/file={data}/history.sqlite3",
        "gradio_api/file={data}/sounds/{kept}.flac",
        "gradio_api/file=../../etc/passwd",
    ],
)
def test_nothing_else_of_the_data_folder_is_served(served: Served, path: str) -> None:
    history = served.studio.history
    kept = history.add(made())
    path = path.format(kept=kept.id, other=new_id(), data=history.folder)
    assert served.get(path)[0] in (403, 404)


def test_a_watcher_that_is_taken_over_ends_without_a_word(served: Served) -> None:
    """Gradio repeats a generator's last values when it ends: they must not be old ones."""
    watcher = Watcher(served.studio)
    request: Any = types.SimpleNamespace(session_hash="one", username=None)
    elsewhere: Any = types.SimpleNamespace(session_hash="two", username=None)

    async def live() -> list[Any]:
        first, other = watcher.watch("b", "", request), watcher.watch("b", "", elsewhere)
        seen = await anext(first)
        # each page hears its own name
        assert (await anext(other))[:3] == seen[:3]
        second = watcher.watch("b", "", request)
        again = await anext(second)
        assert again[:3] == seen[:3]
        assert again[4:] == seen[4:]
        first_pulse, second_pulse = json.loads(seen[3]), json.loads(again[3])
        # the same but for the place that each took, and the time
        assert first_pulse.pop("seat") != second_pulse.pop("seat")
        first_pulse.pop("tick")
        second_pulse.pop("tick")
        assert first_pulse == second_pulse
        last = [update async for update in first]
        for rest in (second, other):
            await rest.aclose()
        return last

    # on a thread: the browser tests keep a loop in this one
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(asyncio.run, live()).result() == [(gr.skip(),) * N_WATCHED]


def test_behind_a_password_strangers_get_nothing(
    model: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    data = tmp_path_factory.mktemp("data")
    settings = StudioSettings(model=str(model), data=data, password="right horse")
    with serving(settings) as served:
        kept = served.studio.history.add(made("secret words"), owner="ann")
        assert served.get(f"studio/sound/{kept.id}.flac")[0] == 401
        assert b"secret words" not in served.get("")[1]
        assert served.get("config")[0] == 401

        def sign_in(name: str, password: str) -> str | None:
            form = f"username={name}&password={password}".encode()
            request = urllib.request.Request(served.address + "login", data=form)
            try:
                with urllib.request.urlopen(request, timeout=30) as answer:
                    cookies = answer.headers.get_all("set-cookie")
                    return "; ".join(cookie.split(";")[0] for cookie in cookies)
            except urllib.error.HTTPError as error:
                error.close()
                return None

        assert sign_in("ann", "wrong") is None
        ann, bob = sign_in("ann", "right+horse"), sign_in("bob", "right+horse")
        assert ann is not None
        assert bob is not None
        assert served.get(f"studio/sound/{kept.id}.flac", Cookie=ann)[0] == 200
        assert served.get(f"studio/sound/{kept.id}.flac", Cookie=bob)[0] == 404

"""Laws of what reaches Gradio: whole calls, of one's own pages, events and files."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.page_model import save_page_model
from tests.people import JSON, Person, people
from tests.served import Served
from webui.belongings import MAX_FILES_BYTES, MAX_KEPT, Belongings, Kind

GENERATE = ["Hello.", "", 5, None, None, None, "bark", 0, ""]


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Served, list[Person]]]:
    model = save_page_model(tmp_path_factory.mktemp("models") / "page")
    with people(model, tmp_path_factory.mktemp("data"), "ann", "bob") as house:
        yield house


@pytest.fixture(scope="module")
def served(house: tuple[Served, list[Person]]) -> Served:
    return house[0]


@pytest.fixture(scope="module")
def ann(house: tuple[Served, list[Person]]) -> Person:
    return house[1][0]


@pytest.fixture(scope="module")
def bob(house: tuple[Served, list[Person]]) -> Person:
    return house[1][1]


def index_of(served: Served, api_name: str) -> int:
    return next(int(n) for n, fn in served.demo.fns.items() if fn.api_name == api_name)


def join(person: Person, session: str, api_name: str = "jobs", **more: Any) -> Any:
    index = index_of(person.served, api_name)
    body = {"data": [], "fn_index": index, "session_hash": session, **more}
    return person.post("gradio_api/queue/join", body)


def test_a_page_s_session_is_its_owner_s(ann: Person, bob: Person) -> None:
    assert join(ann, "annpage").status == 200
    assert join(bob, "annpage").status == 404
    heard = bob.ask("GET", "gradio_api/queue/data?session_hash=annpage")
    assert b"session_not_found" in heard.body
    assert bob.ask("GET", "gradio_api/heartbeat/annpage").status == 404
    own = ann.ask("GET", "gradio_api/queue/data?session_hash=annpage")
    assert b"process_completed" in own.body


def test_an_event_s_result_is_its_owner_s(ann: Person, bob: Person, served: Served) -> None:
    begun = ann.post("gradio_api/call/history", {"data": ["", 50, 0]})
    event = json.loads(begun.body)["event_id"]
    assert bob.ask("GET", f"gradio_api/call/history/{event}").status == 404
    stolen = bob.ask("GET", f"gradio_api/queue/data?session_hash={event}")
    assert b"session_not_found" in stolen.body
    body = {"session_hash": "bobpage", "fn_index": 0, "event_id": event}
    assert bob.post("gradio_api/cancel", body).status == 404
    assert b"event: complete" in ann.ask("GET", f"gradio_api/call/history/{event}").body


def test_a_file_that_was_handed_out_is_its_owner_s(ann: Person, bob: Person) -> None:
    file, _how = ann.call("generate", *GENERATE)
    path = f"gradio_api/file={file['path']}"
    own = ann.ask("GET", path)
    assert own.body[:4] == b"fLaC"
    assert own.headers["content-disposition"].startswith("attachment")
    assert bob.ask("GET", path).status == 404
    # nor under another spelling, not even for its owner
    for spelling in (f"//{file['path']}", file["path"].replace("/", "/./"), f"{file['path']}/"):
        assert ann.ask("GET", f"gradio_api/file={spelling}").status == 404


def test_an_upload_is_its_owner_s(ann: Person, bob: Person, served: Served) -> None:
    path = ann.upload("mine.npz", b"of ann")
    assert ann.ask("GET", f"gradio_api/file={path}").body == b"of ann"
    assert bob.ask("GET", f"gradio_api/file={path}").status == 404
    file = {"path": path, "meta": {"_type": "gradio.FileData"}}
    upload = next(
        index
        for index, fn in served.demo.fns.items()
        if any(target[1] == "upload" for target in fn.targets)
    )
    n_inputs = len(served.demo.fns[upload].inputs)
    for person, status in ((bob, 422), (ann, 200)):
        body = {
            "data": [[file]] + [None] * (n_inputs - 1),
            "fn_index": upload,
            "session_hash": f"{person.name}page",
        }
        assert person.post("gradio_api/queue/join", body).status == status


@pytest.mark.parametrize(
    "file",
    [
        {"path": "/etc/passwd"},
        {"path": "https://example.org/x.npz"},
        {"path": None, "url": "https://example.org/x.npz"},
        {"url": "http://127.0.0.1:22/"},
        {"url": "file:///etc/passwd"},
        {"path": ["/etc/passwd"]},
        {"path": "/etc/passwd", "url": None, "meta": {"_type": "gradio.FileData"}},
    ],
)
def test_nothing_else_is_read_or_fetched(ann: Person, file: dict[str, Any]) -> None:
    for value in (file, [file], {"deep": [file]}):
        answer = ann.post("gradio_api/call/stop", {"data": [value]})
        assert (answer.status, answer.body) == (
            422,
            b'{"detail":"there is no such file; upload it first"}',
        )
        assert join(ann, "annpage", event_data=value).status == 422


def test_a_program_may_leave_the_last_values_out(ann: Person) -> None:
    file, how = ann.call("generate", "Left out.", "", 5)
    assert file["path"].endswith(".flac")
    assert (how["text"], how["seed"]) == ("Left out.", 5)
    assert ann.call("history")[0][0]["text"] == "Left out."
    too_many = ann.post("gradio_api/call/generate", {"data": ["Hello."] * 50})
    assert too_many.status == 422
    begun = ann.post("gradio_api/call/generate", {"data": []})  # but not the text
    event = json.loads(begun.body)["event_id"]
    told = ann.ask("GET", f"gradio_api/call/generate/{event}").body
    assert b"event: error" in told
    assert b"must be a string" in told


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b'"text"',
        b"\xff\xfe",
        b'{"data": NaN}',
        b"[" * 100_000,
        b'{"data":' + b"[" * 100 + b"]" * 100 + b"}",
    ],
)
@pytest.mark.parametrize("path", ["queue/join", "call/stop", "cancel", "reset"])
def test_what_isn_t_whole_isn_t_handed_on(ann: Person, path: str, body: bytes) -> None:
    answer = ann.ask("POST", f"gradio_api/{path}", body, JSON)
    assert answer.status in (400, 422) or (path == "reset" and answer.status == 200)


@pytest.mark.parametrize(
    "change",
    [
        {"fn_index": None},
        {"fn_index": -1},
        {"fn_index": 10**6},
        {"fn_index": True},
        {"fn_index": "0"},
        {"session_hash": None},
        {"session_hash": "../x"},
        {"session_hash": "x" * 65},
        {"data": None},
        {"data": {}},
        {"data": [1] * 50},
        {"trigger_id": "x"},
    ],
)
def test_a_call_names_what_there_is(ann: Person, change: dict[str, Any]) -> None:
    assert join(ann, "annpage", **change).status in (404, 422)


def test_values_that_don_t_fit_leave_no_trace(
    ann: Person,
    served: Served,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.ERROR)
    odd: list[Any] = [None, [], {}, "x", -1, 1e308, True, [[1]], {"a": 1}]
    for index, fn in list(served.demo.fns.items())[::5]:
        for value in odd[:: 1 + index % 3]:
            body = {"data": [value] * len(fn.inputs), "fn_index": index, "session_hash": "odd"}
            assert ann.post("gradio_api/queue/join", body).status == 200
            told = ann.ask("POST", "gradio_api/reset", b"{}", JSON)
            assert told.status == 200
    out, err = capfd.readouterr()
    assert "Traceback" not in out + err
    assert ann.call("jobs")


# --- the register


def test_a_name_has_one_owner_and_the_oldest_are_forgotten() -> None:
    mine = Belongings()
    assert mine.claim(Kind.PAGE, "a", "ann")
    assert not mine.claim(Kind.PAGE, "a", "bob")
    assert mine.claim(Kind.EVENT, "a", "bob")  # another kind
    for n in range(MAX_KEPT["page"]):
        assert mine.claim(Kind.PAGE, f"page{n}", "ann")
    assert not mine.belongs(Kind.PAGE, "a", "ann")
    assert mine.belongs(Kind.EVENT, "a", "bob")  # others' flood takes nothing away


def test_files_go_after_an_hour_or_when_there_are_too_many(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 0.0
    mine = Belongings(lambda: now)

    def file(name: str) -> Path:
        (tmp_path / name).mkdir()
        path = tmp_path / name / "x"
        path.write_bytes(b"x" * 10)
        return path

    first, shared = file("first"), file("shared")
    for path, owner in ((first, "ann"), (shared, "ann"), (shared, "bob")):
        mine.give(path, owner)
    now = 3000.0
    mine.give(shared, "bob")
    now = 4000.0
    assert mine.sweep() == 1
    assert not first.parent.exists()
    assert not mine.holds(str(shared), "ann")
    assert mine.holds(str(shared), "bob")
    monkeypatch.setattr("webui.belongings.MAX_FILES_BYTES", 25)
    assert MAX_FILES_BYTES > 25
    more = [file(f"more{n}") for n in range(3)]
    for path in more:
        now += 1
        mine.give(path, "bob")
    assert [path.exists() for path in (shared, *more)] == [False, False, True, True]
    mine.give(tmp_path / "nothing", "bob")
    assert not mine.holds(str(tmp_path / "nothing"), "bob")

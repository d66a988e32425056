"""Laws of what a request may bring, and of the routes that there are."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.page_model import save_page_model
from tests.served import Served, serving
from webui.limits import MAX_BODY_BYTES, MAX_PARTS
from webui.settings import StudioSettings


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    model = save_page_model(tmp_path_factory.mktemp("models") / "page")
    data = tmp_path_factory.mktemp("data")
    with serving(StudioSettings(model=str(model), data=data)) as served:
        yield served


@pytest.mark.parametrize(
    "path",
    [
        "gradio_api/run/generate",
        "gradio_api/run/predict",
        "gradio_api/api/generate",
        "gradio_api/component_server",
        "gradio_api/component_server/",
        "gradio_api/proxy=https://example.hf.space/x",
        "gradio_api/process_recording",
        "gradio_api/deep_link?session_hash=a",
        "gradio_api/dev/reload",
        "gradio_api/vibe-edit",
        "gradio_api/vibe-code",
        "gradio_api/undo-vibe-edit",
        "gradio_api/vibe-starter-queries",
        "gradio_api/runs",
        "gradio_api/run-history/records",
        "gradio_api/profiling/traces",
        "gradio_api/token",
        "gradio_api/stream/a/b/1/playlist.m3u8",
        "gradio_api/file/etc/passwd",
        "gradio_api/custom_component/a/client/b/c",
        "gradio_api/mcp/",
        "monitoring",
        "monitoring/summary",
        "docs",
        "openapi.json",
        "svelte/x.js",
        "pwa_icon",
    ],
)
def test_what_isn_t_needed_isn_t_there(served: Served, path: str) -> None:
    for method in ("GET", "POST"):
        answer = served.ask(method, path, b"{}" if method == "POST" else None)
        assert (answer.status, answer.body) == (404, b"There is nothing here.")


@pytest.mark.parametrize("path", ["gradio_api/queue/join", "gradio_api/call/generate"])
def test_a_body_that_is_too_large_isn_t_read(served: Served, path: str) -> None:
    too_much = {"Content-Length": str(MAX_BODY_BYTES + 1), "Content-Type": "application/json"}
    assert served.ask("POST", path, b"", too_much).status == 413
    endless = (b"x" * 2**20 for _ in range(MAX_BODY_BYTES // 2**20 + 2))
    answer = served.ask("POST", path, endless, {"Content-Type": "application/json"})
    assert answer.status == 413
    assert b"too much" in answer.body


def upload(n_files: int) -> bytes:
    part = (
        b'--frontier\r\nContent-Disposition: form-data; name="files"; filename="a.npz"\r\n'
        b"Content-Type: application/octet-stream\r\n\r\nabc\r\n"
    )
    return part * n_files + b"--frontier--\r\n"


def test_an_upload_has_so_many_files_at_most(served: Served) -> None:
    form = {"Content-Type": "multipart/form-data; boundary=frontier"}
    assert served.ask("POST", "gradio_api/upload", upload(MAX_PARTS), form).status == 200
    assert served.ask("POST", "gradio_api/upload", upload(MAX_PARTS + 1), form).status == 413
    # in pieces that cut boundaries
    body = upload(MAX_PARTS)
    pieces = [body[start : start + 7] for start in range(0, len(body), 7)]
    assert served.ask("POST", "gradio_api/upload", pieces, form).status == 200
    pieces = [*pieces[:-3], upload(2)]
    assert served.ask("POST", "gradio_api/upload", pieces, form).status == 413


@pytest.mark.parametrize("length", ["-1", "1e3", "abc"])
def test_a_length_is_a_number(served: Served, length: str) -> None:
    answer = served.ask("POST", "gradio_api/queue/join", b"", {"Content-Length": length})
    assert answer.status == 400

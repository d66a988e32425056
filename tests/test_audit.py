"""Laws of the audit log: it only grows, holds no words, and shows where it was changed."""

from __future__ import annotations

import json
import os
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from webui.__main__ import main
from webui.audit import FILE, KEY, AuditLog


def test_a_line_says_who_did_what_and_never_the_words(tmp_path: Path) -> None:
    log = AuditLog.open(tmp_path)
    log.note("asked", "ann", job="1", text=log.hash_of("secret words"), voice=None)
    (line,) = log.lines()
    assert (line["who"], line["what"], line["job"]) == ("ann", "asked", "1")
    assert "voice" not in line
    assert b"secret" not in (tmp_path / FILE).read_bytes()
    again = AuditLog.open(tmp_path)
    assert again.hash_of("secret words") == line["text"]
    assert AuditLog.open(tmp_path / "other").hash_of("secret words") != line["text"]
    if os.name == "posix":
        modes = {stat.S_IMODE((tmp_path / name).stat().st_mode) for name in (FILE, KEY)}
        assert modes == {0o600}


def test_it_shows_where_it_was_changed(tmp_path: Path) -> None:
    log = AuditLog.open(tmp_path)
    assert log.first_break() is None
    for n in range(40):
        log.note("made", "ann", job=str(n), filler="x" * 1000 * (n % 7))
    assert log.first_break() is None
    path = tmp_path / FILE
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:3] + lines[4:]))
    assert log.first_break() == 4
    path.write_bytes(b"".join(lines).replace(b'"job": "9"', b'"job": "8"'))
    assert log.first_break() == 11
    path.write_bytes(b"".join([*lines[:5], b"nonsense\n", *lines[5:]]))
    assert log.first_break() == 6


def test_several_write_to_it_at_once(tmp_path: Path) -> None:
    logs = [AuditLog.open(tmp_path) for _ in range(4)]
    with ThreadPoolExecutor(8) as pool:
        for n in range(80):
            pool.submit(logs[n % 4].note, "made", f"user{n % 3}", job=str(n))
    assert sorted(int(line["job"]) for line in logs[0].lines()) == list(range(80))
    if os.name == "posix":
        assert logs[0].first_break() is None


def test_a_full_disk_stops_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    log = AuditLog.open(tmp_path)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    log.note("made", "ann")
    assert "isn't in the audit log" in caplog.text


def test_it_is_read_on_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log = AuditLog.open(tmp_path)
    log.note("asked", "ann", text=log.hash_of("Hello."))
    log.note("signed in", "bob", address="10.0.0.1")

    def run(*arguments: str) -> tuple[int, str]:
        code = main(["audit", "--data", str(tmp_path), *arguments])
        return code, capsys.readouterr().out

    assert len(run()[1].splitlines()) == 2
    assert "signed in  address=10.0.0.1" in run("--owner", "bob")[1]
    assert json.loads(run("--text", "Hello.", "--json")[1])["who"] == "ann"
    assert run("--text", "Goodbye.")[1] == ""
    assert run("--check")[0] == 0
    (tmp_path / FILE).write_bytes((tmp_path / FILE).read_bytes().replace(b"ann", b"eve"))
    assert run("--check")[0] == 1
    assert main(["audit", "--nonsense"]) == 2

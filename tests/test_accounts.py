"""Laws of the accounts: what is kept of a password, who may come in, the command line."""

from __future__ import annotations

import io
import json
import os
import sqlite3
import stat
from pathlib import Path

import pytest

import app
from bark_core import InvalidRequest, InvalidSetting, StorageError
from webui.accounts import FILE, Accounts, checked_name, plain_name

PASSWORD = "right horse"


def test_nothing_of_a_password_can_be_read(tmp_path: Path) -> None:
    accounts = Accounts.open(tmp_path)
    assert not accounts.any()
    assert not (tmp_path / FILE).exists()
    accounts.add("ann", PASSWORD)
    accounts.add("bob", PASSWORD)
    content = b"".join(path.read_bytes() for path in tmp_path.iterdir())
    assert b"right" not in content
    with sqlite3.connect(tmp_path / FILE) as connection:
        rows = connection.execute("SELECT salt, hash FROM accounts").fetchall()
    assert len({salt for salt, _ in rows}) == len({value for _, value in rows}) == 2
    if os.name == "posix":
        assert {stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()} == {0o600}
    accounts.close()


def test_a_name_and_its_password_belong_together(tmp_path: Path) -> None:
    accounts = Accounts.open(tmp_path)
    first = accounts.add("Ann", PASSWORD)
    assert first.administrator  # somebody has to be
    assert not accounts.add("bob", "other horse").administrator
    assert accounts.check(" ANN ", PASSWORD) == first
    assert accounts.check("bob", PASSWORD) is None
    assert accounts.check("eve", PASSWORD) is None
    accounts.set_password("ann", "third horse")
    assert accounts.check("ann", PASSWORD) is None
    found = accounts.check("ann", "third horse")
    assert found is not None
    assert found.stamp != first.stamp
    accounts.remove("ann")
    assert [account.name for account in accounts.every()] == ["bob"]
    accounts.close()


@pytest.mark.parametrize("name", ["", " ", "a/b", "..", "a\0b", "con", "x" * 65, "a:b", "<b>"])
def test_a_name_can_name_a_folder(name: str) -> None:
    with pytest.raises(InvalidSetting):
        checked_name(name)


def test_capitals_and_accents_make_no_second_name(tmp_path: Path) -> None:
    accounts = Accounts.open(tmp_path)
    accounts.add("José", PASSWORD)
    with pytest.raises(InvalidRequest, match="already"):
        accounts.add("JOSÉ", PASSWORD)
    assert plain_name("STRASSE") == plain_name("straße")
    accounts.close()


@pytest.mark.parametrize("password", ["", "short", "aaaaaaaaaa", "annannann", "x" * 1001])
def test_a_password_isn_t_easy(tmp_path: Path, password: str) -> None:
    with pytest.raises(InvalidSetting, match="password"):
        Accounts.open(tmp_path).add("annannann", password)


def test_what_isn_t_there_can_t_be_changed(tmp_path: Path) -> None:
    accounts = Accounts.open(tmp_path)
    for change in (accounts.remove, lambda name: accounts.set_password(name, PASSWORD)):
        with pytest.raises(InvalidRequest, match="no account 'eve'"):
            change("eve")
    accounts.close()


def test_a_damaged_file_is_told(tmp_path: Path) -> None:
    (tmp_path / FILE).write_bytes(b"nonsense" * 100)
    with pytest.raises(StorageError, match="check the file"):
        Accounts.open(tmp_path)


# --- the command line


def test_accounts_are_made_on_the_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(*arguments: str, typed: str = "") -> tuple[int, str, str]:
        monkeypatch.setattr("sys.stdin", io.StringIO(typed))
        code = app.main(["accounts", *arguments, "--data", str(tmp_path)])
        return code, *capsys.readouterr()

    assert run("list")[1] == "There are no accounts: nobody signs in.\n"
    code, out, _ = run("add", "ann", typed=f"{PASSWORD}\n")
    assert code == 0
    assert "administrator" in out
    code, out, _ = run("add", "bob", "--generate")
    made_up = out.split("The password of bob: ")[1].split("\n")[0]
    assert len(made_up) >= 16
    accounts = Accounts.open(tmp_path)
    assert accounts.check("ann", PASSWORD) is not None
    assert accounts.check("bob", made_up) is not None

    assert run("passwd", "bob", "--password-stdin", typed="fourth horse\n")[0] == 0
    assert accounts.check("bob", "fourth horse") is not None
    assert run("disk", "bob", "0.5")[0] == 0
    told = json.loads(run("list", "--json")[1])
    assert [(one["name"], one["administrator"], one["disk_bytes"]) for one in told] == [
        ("ann", True, None),
        ("bob", False, 500_000_000),
    ]
    code, _, err = run("remove", "ann")
    assert code == 3
    assert "only administrator" in err
    assert run("role", "bob", "administrator")[0] == 0
    assert run("remove", "ann")[0] == 0
    assert accounts.get("ann") is None
    accounts.close()
    assert run("add", "a/b", typed=PASSWORD)[0] == 3
    assert run("add", "eve", typed="short")[0] == 3
    assert run("disk", "bob", "much")[0] == 3
    assert run("nonsense")[0] == 2


def test_a_password_is_no_argument() -> None:
    assert app.main(["accounts", "add", "ann", PASSWORD]) == 2

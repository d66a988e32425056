"""Laws of room on the disk: quotas, what stays free, what goes after a time."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from bark_core import InvalidSetting, StorageError, VoiceLibrary
from tests.made import made
from webui.accounts import Accounts
from webui.belongings import Belongings
from webui.history import History
from webui.quotas import Limits
from webui.settings import StudioSettings, parse_arguments
from webui.upkeep import DAY_S, Room, Upkeep
from webui.voices_of import VoicesOf


@pytest.fixture
def history(tmp_path: Path) -> Iterator[History]:
    history = History.open(tmp_path)
    yield history
    history.close()


def room_in(history: History, limits: Limits) -> Room:
    voices_of = VoicesOf(history.folder, lambda folder: VoiceLibrary.default(folder, layouts=dict))
    scripts = history.folder / "scripts"
    return Room(
        limits,
        history,
        Accounts.open(history.folder),
        voices_of=voices_of,
        scripts_of=lambda owner: [scripts / owner] if owner else [],
    )


def test_nobody_keeps_more_than_they_may(history: History) -> None:
    history.add(made(), owner="ann")
    used = history.usage("ann").n_bytes
    # a little under two: an entry's time may be written with a digit less than another's
    room = room_in(history, Limits(quota_bytes=2 * used - 100, keep_free_bytes=0))
    room.check("ann")
    room.check("bob")
    with pytest.raises(StorageError, match="empty the bin"):
        room.check("ann", more_bytes=used)
    entry = history.add(made(), owner="ann")
    with pytest.raises(StorageError, match="you keep"):
        room.check("ann")
    history.trash([entry.id], owner="ann")
    with pytest.raises(StorageError):
        room.check("ann")  # what is in the bin is still there
    history.empty_bin(owner="ann")
    room.check("ann")
    room.check("bob")


def test_scripts_and_voices_count(history: History) -> None:
    for part in ("scripts/ann/takes", "users/ann/voices"):
        folder = history.folder / part
        folder.mkdir(parents=True)
        (folder / "x").write_bytes(b"x" * 500)
    assert room_in(history, Limits()).used("ann") == 1000
    assert room_in(history, Limits()).used("bob") == 0


def test_an_account_may_have_a_quota_of_its_own(history: History) -> None:
    accounts = Accounts.open(history.folder)
    accounts.add("ann", "right horse")
    room = room_in(history, Limits(quota_bytes=10))
    assert room.quota("ann") == room.quota("bob") == room.quota("") == 10
    accounts.set_disk("ann", 5)
    assert room.quota("ann") == 5
    accounts.close()


def test_some_of_the_disk_stays_free(history: History, monkeypatch: pytest.MonkeyPatch) -> None:
    room = room_in(history, Limits(keep_free_bytes=1000))
    for free, fine in ((1000, True), (999, False)):
        usage = SimpleNamespace(total=10**6, used=0, free=free)
        monkeypatch.setattr(shutil, "disk_usage", lambda _path, usage=usage: usage)
        if fine:
            room.check("ann")
        else:
            with pytest.raises(StorageError, match="almost full"):
                room.check("ann")


def test_what_is_old_goes_but_never_a_favourite(history: History) -> None:
    now = time.time()
    old, dear, new = (
        history.add(made(), owner="ann", created_at=now - age * DAY_S) for age in (31, 31, 29)
    )
    history.set_favourite(dear.id, True, owner="ann")
    kept = Upkeep(Limits(), history, Belongings())
    assert kept.tidy() == 0
    gone = Upkeep(Limits(keep_days=30), history, Belongings())
    assert gone.tidy() == 1
    assert not history.sound_path(old.id).exists()
    assert {entry.id for entry in history.search(owner="ann")} == {dear.id, new.id}


def test_upkeep_ends_when_it_is_told(history: History) -> None:
    upkeep = Upkeep(Limits(), history, Belongings())
    upkeep.start()
    upkeep.close()
    assert not upkeep._thread.is_alive()


def test_limits_are_given_at_the_start() -> None:
    given = parse_arguments(["--quota-gb", "0.5", "--keep-days", "30", "--keep-free-gb", "2"], {})
    assert given.limits == Limits(500_000_000, 2_000_000_000, 30.0)
    assert parse_arguments([], {}).limits == Limits(None, 10**9, None)
    for wrong in ({"quota_gb": -1.0}, {"keep_days": float("nan")}, {"keep_free_gb": 1e9}):
        with pytest.raises(InvalidSetting, match="must be within"):
            StudioSettings(**wrong)  # type: ignore[arg-type]

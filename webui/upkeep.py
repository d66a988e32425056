"""Room on the disk: how much each owner may keep, what must stay free, what goes after a time."""

from __future__ import annotations

import logging
import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path

from bark_core import BarkError, StorageError
from webui.accounts import Accounts
from webui.belongings import Belongings
from webui.history import History
from webui.history_mend import BIN_S
from webui.quotas import Limits
from webui.voices_of import VoicesOf

_log = logging.getLogger(__name__)

EVERY_S = 600.0
MEASURE_EVERY_S = 20.0  # folders, which takes a moment
DAY_S = 24 * 3600.0


class Room:
    """Whether somebody may keep more. May be called from any thread.

    Args:
        scripts_of: the folders of somebody's scripts.
    """

    def __init__(
        self,
        limits: Limits,
        history: History,
        accounts: Accounts,
        *,
        voices_of: VoicesOf,
        scripts_of: Callable[[str], list[Path]],
    ) -> None:
        self.limits = limits
        self._history, self._accounts = history, accounts
        self._voices_of, self._scripts_of = voices_of, scripts_of
        self._measured: dict[str, tuple[float, int]] = {}

    def quota(self, owner: str) -> int | None:
        """Bytes that somebody may keep; None: as much as there is."""
        account = self._accounts.get(owner) if owner else None
        if account is not None and account.disk_bytes is not None:
            return account.disk_bytes
        return self.limits.quota_bytes

    def used(self, owner: str) -> int:
        """Bytes that somebody keeps: sounds, those in the bin too, scripts and voices."""
        usage = self._history.usage(owner)
        return usage.n_bytes + usage.trashed_bytes + self._in_folders(owner)

    def check(self, owner: str, *, more_bytes: int = 0) -> None:
        """Raises StorageError where there is no room for something more."""
        free = shutil.disk_usage(self._history.folder).free
        if free - more_bytes < self.limits.keep_free_bytes:
            raise StorageError(
                f"the disk of the studio is almost full ({free / 1e9:.1f} GB are free, "
                f"{self.limits.keep_free_bytes / 1e9:g} GB stay free); delete what isn't needed"
            )
        quota = self.quota(owner)
        if quota is None:
            return
        used = self.used(owner)
        if used + more_bytes >= quota:
            raise StorageError(
                f"you keep {used / 1e9:.2f} GB of the {quota / 1e9:g} GB that you may; delete "
                "something in History, and empty the bin there"
            )

    def _in_folders(self, owner: str) -> int:
        now = time.monotonic()
        measured = self._measured.get(owner)
        if measured is None or now - measured[0] > MEASURE_EVERY_S:
            folders = [self._voices_of.folder_of(owner) / "voices", *self._scripts_of(owner)]
            measured = self._measured[owner] = (now, sum(map(_size_of, folders)))
        return measured[1]


class Upkeep:
    """Tidies up every ten minutes, on a thread of its own, until it is closed."""

    def __init__(self, limits: Limits, history: History, belongings: Belongings) -> None:
        self._limits, self._history, self._belongings = limits, history, belongings
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="upkeep", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        self._over.set()
        if self._thread.is_alive():
            self._thread.join(timeout=10.0)

    def tidy(self) -> int:
        """Once; returns how many entries of the history went for good."""
        self._belongings.sweep()
        now = time.time()
        n_gone = self._history.purge(before=now - BIN_S)
        if self._limits.keep_days is not None:
            n_gone += self._history.expire(before=now - self._limits.keep_days * DAY_S)
        if n_gone:
            _log.info("%d takes were removed: their time was over", n_gone)
        return n_gone

    def _run(self) -> None:
        while True:
            try:
                self.tidy()
            except BarkError as error:
                _log.warning("tidying up didn't work: %s", error)
            if self._over.wait(EVERY_S):
                return


def _size_of(folder: Path) -> int:
    total = 0
    for path in folder.rglob("*"):
        try:
            total += path.stat().st_size if path.is_file() else 0
        except OSError:
            continue  # it went meanwhile
    return total

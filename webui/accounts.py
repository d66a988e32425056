"""Who may come in: names and passwords, in `DATA/accounts.sqlite3`.

Of a password only what scrypt makes of it is kept. The file is its owner's alone (0600). A studio
that runs and the command line work on it side by side.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import os
import secrets
import sqlite3
import threading
import time
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from bark_core import InvalidRequest, InvalidSetting, InvalidVoice, StorageError, valid_name

FILE = "accounts.sqlite3"
MIN_PASSWORD_CHARACTERS = 8
MAX_PASSWORD_CHARACTERS = 1000

# OWASP's second choice: 32 MB and some 0.2 s a try
_SCRYPT = (2**15, 8, 3)
_MAX_MEMORY = 128 * 2**20

_SCHEMA = """
CREATE TABLE IF NOT EXISTS accounts (
    name TEXT PRIMARY KEY,
    administrator INTEGER NOT NULL,
    created_at REAL NOT NULL,
    salt BLOB NOT NULL,
    hash BLOB NOT NULL,
    n INTEGER NOT NULL,
    r INTEGER NOT NULL,
    p INTEGER NOT NULL,
    stamp TEXT NOT NULL,
    disk_bytes INTEGER
)
"""
_COLUMNS = "name, administrator, created_at, stamp, disk_bytes"


@dataclass(frozen=True, slots=True)
class Account:
    """Somebody who may come in."""

    name: str
    administrator: bool
    created_at: float  # seconds since 1970
    stamp: str  # another one with each password: what was signed in with the last one ends
    disk_bytes: int | None  # how much may be kept; None: as much as everybody


class Accounts:
    """All accounts of a studio. All methods may be called from any thread."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._connection: sqlite3.Connection | None = None

    @classmethod
    def open(cls, folder: Path) -> Self:
        """Those of a data folder; a file is made when the first account is added.

        Raises:
            StorageError: there is a file, and it can't be used.
        """
        accounts = cls(folder / FILE)
        accounts.any()
        return accounts

    def close(self) -> None:
        with self._lock:
            if self._connection is not None:
                self._connection.close()
                self._connection = None

    # --- looking

    def any(self) -> bool:
        """Whether there are accounts at all."""
        return bool(self._read("SELECT name FROM accounts LIMIT 1"))

    def get(self, name: str) -> Account | None:
        rows = self._read(f"SELECT {_COLUMNS} FROM accounts WHERE name = ?", (name,))
        return _account(rows[0]) if rows else None

    def every(self) -> list[Account]:
        """All of them, by name."""
        rows = self._read(f"SELECT {_COLUMNS} FROM accounts ORDER BY name")
        return [_account(row) for row in rows]

    def check(self, name: str, password: str) -> Account | None:
        """The account that a name and a password belong to.

        Takes as long for a name that nobody has.
        """
        rows = self._read("SELECT * FROM accounts WHERE name = ?", (plain_name(name),))
        row: Any = rows[0] if rows else _NOBODY
        given = _hashed(password, row["salt"], (row["n"], row["r"], row["p"]))
        right = hmac.compare_digest(given, row["hash"])
        return _account(row) if right and rows else None

    # --- changing

    def add(self, name: str, password: str, *, administrator: bool = False) -> Account:
        """Let somebody in. The first one is an administrator: somebody has to be.

        Raises:
            InvalidSetting: the name or the password can't be one.
            InvalidRequest: somebody has that name.
            StorageError: it can't be written.
        """
        name = checked_name(name)
        check_password(password, name)
        with self._write() as connection:
            first = connection.execute("SELECT 1 FROM accounts").fetchone() is None
            try:
                connection.execute(
                    "INSERT INTO accounts (name, administrator, created_at, salt, hash, n, r, p, "
                    "stamp) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
                    (name, administrator or first, time.time(), *_secret(password)),
                )
            except sqlite3.IntegrityError as error:
                raise InvalidRequest(
                    f"there is an account {name!r} already; choose another name, or give it "
                    "another password with passwd"
                ) from error
        return self._there(name)

    def set_password(self, name: str, password: str) -> None:
        """Give somebody another password; whoever is signed in with the old one isn't any more.

        Raises:
            InvalidSetting, InvalidRequest, StorageError: as `add`; or there is no such account.
        """
        account = self._there(name)
        check_password(password, account.name)
        self._set(
            account.name, "salt = ?, hash = ?, n = ?, r = ?, p = ?, stamp = ?", *_secret(password)
        )

    def set_administrator(self, name: str, administrator: bool) -> None:
        """Let somebody look after the studio, or no longer. Raises as `set_password`."""
        self._set(self._there(name).name, "administrator = ?", int(administrator))

    def set_disk(self, name: str, n_bytes: int | None) -> None:
        """How much somebody may keep; None: as much as everybody. Raises as `set_password`."""
        if n_bytes is not None and n_bytes < 0:
            raise InvalidSetting(f"the space on the disk can't be {n_bytes}; give 0 or more")
        self._set(self._there(name).name, "disk_bytes = ?", n_bytes)

    def remove(self, name: str) -> None:
        """Let somebody in no longer; what is theirs stays. Raises as `set_password`."""
        account = self._there(name)
        with self._write() as connection:
            connection.execute("DELETE FROM accounts WHERE name = ?", (account.name,))

    # --- the parts of it

    def _there(self, name: str) -> Account:
        account = self.get(plain_name(name))
        if account is None:
            raise InvalidRequest(f"there is no account {name[:100]!r}; 'accounts list' tells them")
        return account

    def _set(self, name: str, columns: str, *values: Any) -> None:
        with self._write() as connection:
            connection.execute(f"UPDATE accounts SET {columns} WHERE name = ?", (*values, name))

    def _read(self, query: str, values: tuple[Any, ...] = ()) -> list[Any]:
        with self._lock, self._told():
            if self._connection is None and not self._path.exists():
                return []
            return self._connected().execute(query, values).fetchall()

    @contextlib.contextmanager
    def _write(self) -> Iterator[sqlite3.Connection]:
        with self._lock, self._told():
            if self._connection is None and not self._path.exists():
                self._path.parent.mkdir(parents=True, exist_ok=True)
                # nobody else's from the first moment on
                os.close(os.open(self._path, os.O_CREAT | os.O_RDWR, 0o600))
            connection = self._connected()
            connection.execute("BEGIN IMMEDIATE")
            try:
                yield connection
                connection.execute("COMMIT")
            finally:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")

    def _connected(self) -> sqlite3.Connection:
        if self._connection is None:
            connection = sqlite3.connect(
                self._path, timeout=10.0, isolation_level=None, check_same_thread=False
            )
            connection.row_factory = sqlite3.Row
            connection.execute("PRAGMA synchronous = FULL")
            connection.execute(_SCHEMA)
            self._connection = connection
        return self._connection

    @contextlib.contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, OSError) as error:
            raise StorageError(
                f"the accounts in {self._path} can't be used: {error}; check the file"
            ) from error


def plain_name(name: str) -> str:
    """A name as it is compared: capitals and the way that accents are written don't count."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name.strip()).casefold())


def checked_name(name: str) -> str:
    """The name of an account. Raises InvalidSetting."""
    try:
        return valid_name(plain_name(name))
    except InvalidVoice as error:
        raise InvalidSetting(str(error).replace("a voice's name", "a name")) from error


def check_password(password: str, name: str = "") -> None:
    """Raises InvalidSetting where it is too easy, or too long to be one."""
    n_characters = len(password)
    if not MIN_PASSWORD_CHARACTERS <= n_characters <= MAX_PASSWORD_CHARACTERS:
        raise InvalidSetting(
            f"the password has {n_characters} characters; it must have "
            f"{MIN_PASSWORD_CHARACTERS}..{MAX_PASSWORD_CHARACTERS}, for it is all that keeps "
            "others out"
        )
    if len(set(password)) < 4 or plain_name(password) == name:
        raise InvalidSetting("the password is too easy to guess; choose another one")


def _account(row: Any) -> Account:
    return Account(
        name=row["name"],
        administrator=bool(row["administrator"]),
        created_at=row["created_at"],
        stamp=row["stamp"],
        disk_bytes=row["disk_bytes"],
    )


def _secret(password: str) -> tuple[Any, ...]:
    salt = secrets.token_bytes(16)
    return salt, _hashed(password, salt, _SCRYPT), *_SCRYPT, secrets.token_hex(16)


def _hashed(password: str, salt: bytes, cost: tuple[int, int, int]) -> bytes:
    n, r, p = cost
    plain = unicodedata.normalize("NFC", password[:MAX_PASSWORD_CHARACTERS]).encode(
        "utf-8", "surrogatepass"
    )
    return hashlib.scrypt(plain, salt=salt, n=n, r=r, p=p, maxmem=_MAX_MEMORY, dklen=32)


# whose password nobody knows: looked at for names that nobody has
_NOBODY = {
    **dict(zip("nrp", _SCRYPT, strict=True)),
    "salt": secrets.token_bytes(16),
    "hash": secrets.token_bytes(32),
}

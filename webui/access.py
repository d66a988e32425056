"""Who is in: signing in, tries that fail, sessions that end, who looks after the studio.

A studio is open (this computer alone, nobody signs in), has one password for all, or has
accounts. Which of them is looked at with every request: the first account closes an open studio
at once, and the last one that is removed doesn't open it again.
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import math
import secrets
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum

from bark_core import BarkError
from webui.accounts import Accounts, checked_name

MAX_TRIES_A_MINUTE = 10
FREE_TRIES = 5  # in a row, before each has to wait twice as long as the one before
MAX_WAIT_S = 60.0
MAX_TRACKED = 20_000  # names and addresses

IDLE_S = 12 * 3600.0
LONGEST_S = 7 * 24 * 3600.0
MAX_SESSIONS = 50  # of one person; the oldest ends

ALL = "every name"  # what tries count for where all have the same password


class Mode(StrEnum):
    """How somebody gets in."""

    OPEN = "open"  # nobody signs in
    PASSWORD = "password"  # one for all; the name says whose history it is
    ACCOUNTS = "accounts"
    CLOSED = "closed"  # there were accounts, and all are gone


class SignInRefused(BarkError):
    """The name or the password is wrong; which of them isn't told."""


class TooManyTries(BarkError):
    """No more tries for a while.

    Attributes:
        wait_s: until the next one.
    """

    def __init__(self, message: str, *, wait_s: float = 60.0) -> None:
        super().__init__(message)
        self.wait_s = wait_s


class NotAllowed(BarkError):
    """What was asked for is an administrator's to do."""


@dataclass(frozen=True, slots=True)
class Visitor:
    """Who sends a request."""

    name: str  # "" where nobody signs in
    administrator: bool


@dataclass(slots=True)
class _Tries:
    recent: deque[float] = field(default_factory=deque)  # within the last minute
    n_failed: int = 0  # in a row
    free_at: float = 0.0


class Tries:
    """Counts tries to sign in that fail, by name and by address.

    Ten a minute at most; from the sixth that fails on each has to wait, twice as long each time,
    for a minute at most: whoever forgot a password gets in again, and whoever guesses doesn't.

    Args:
        clock: gives seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._tries: OrderedDict[str, _Tries] = OrderedDict()

    def begin(self, name: str, address: str) -> None:
        """Count a try for both. Raises TooManyTries: it counts for neither."""
        with self._lock:
            now = self._clock()
            every = self._of(name), self._of(address)
            wait_s = max(self._wait_s(tries, now) for tries in every)
            if wait_s > 0:
                raise TooManyTries(
                    f"too many tries; wait {math.ceil(wait_s)} s, and try again", wait_s=wait_s
                )
            for tries in every:
                # as if it failed: of many at once none may slip through before the first has
                tries.recent.append(now)
                tries.n_failed += 1
                doublings = tries.n_failed - FREE_TRIES
                wait_s = min(2.0**doublings, MAX_WAIT_S) if doublings > 0 else 0.0
                tries.free_at = now + wait_s

    def succeed(self, name: str, address: str) -> None:
        """The last try of these was right, and doesn't count.

        What failed before is forgotten of the name alone: who has an account may still guess at
        others' from the same address.
        """
        with self._lock:
            for tries in (self._of(name), self._of(address)):
                if tries.recent:
                    tries.recent.pop()
                tries.n_failed = max(0, tries.n_failed - 1)
                tries.free_at = 0.0
            self._of(name).n_failed = 0

    def _wait_s(self, tries: _Tries, now: float) -> float:
        while tries.recent and now - tries.recent[0] >= 60.0:
            tries.recent.popleft()
        full = len(tries.recent) >= MAX_TRIES_A_MINUTE
        return max(tries.free_at - now, tries.recent[0] + 60.0 - now if full else 0.0)

    def _of(self, key: str) -> _Tries:
        tries = self._tries.setdefault(key, _Tries())
        self._tries.move_to_end(key)
        while len(self._tries) > MAX_TRACKED:
            self._tries.popitem(last=False)
        return tries


@dataclass(slots=True)
class _Session:
    name: str
    stamp: str  # of the password that it began with
    began_at: float
    seen_at: float


class Sessions:
    """Who is signed in, by a token that only their browser has; gone with the process.

    Args:
        clock: gives seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._sessions: OrderedDict[bytes, _Session] = OrderedDict()

    def begin(self, name: str, stamp: str) -> str:
        """A new session; returns its token."""
        token = secrets.token_urlsafe(32)
        with self._lock:
            now = self._clock()
            own = [key for key, session in self._sessions.items() if session.name == name]
            for key in own[: max(0, len(own) - MAX_SESSIONS + 1)]:
                del self._sessions[key]
            self._sessions[_key(token)] = _Session(name, stamp, now, now)
        return token

    def find(self, token: str, *, touch: bool = True) -> tuple[str, str] | None:
        """The name and the stamp of a session; None: it has ended.

        Args:
            touch: somebody does something, so that it isn't idle.
        """
        with self._lock:
            session = self._sessions.get(_key(token))
            if session is None:
                return None
            now = self._clock()
            if now - session.seen_at > IDLE_S or now - session.began_at > LONGEST_S:
                del self._sessions[_key(token)]
                return None
            if touch:
                session.seen_at = now
            return session.name, session.stamp

    def end(self, token: str) -> None:
        with self._lock:
            self._sessions.pop(_key(token), None)


class Access:
    """Who may come in.

    Args:
        password: one for all; counts as long as there are no accounts.
        wide: others than this computer itself may be able to reach the studio.
    """

    def __init__(
        self,
        accounts: Accounts,
        *,
        password: str | None = None,
        wide: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.accounts = accounts
        self._password, self._wide = password, wide
        self._password_stamp = secrets.token_hex(8)
        self._tries, self._sessions = Tries(clock), Sessions(clock)
        self._had_accounts = False
        # each takes 32 MB: what comes together is looked at one after the other
        self._checking = threading.Semaphore(2)

    @property
    def mode(self) -> Mode:
        if self.accounts.any():
            self._had_accounts = True
            return Mode.ACCOUNTS
        if self._had_accounts:
            return Mode.CLOSED
        if self._password is not None:
            return Mode.PASSWORD
        return Mode.CLOSED if self._wide else Mode.OPEN

    def sign_in(self, name: str, password: str, address: str) -> str:
        """Let somebody in; returns the token of a session.

        Raises:
            SignInRefused: the name or the password is wrong.
            TooManyTries: it wasn't even looked at.
            StorageError: the accounts can't be read.
        """
        mode = self.mode
        by_name = _name_or_all(name) if mode is Mode.ACCOUNTS else ALL
        keys = f"name {by_name}", f"address {network_of(address)}"
        self._tries.begin(*keys)
        with self._checking:
            found = self._checked(mode, name, password)
        if found is None:
            raise SignInRefused("the name or the password is wrong; try again")
        self._tries.succeed(*keys)
        return self._sessions.begin(*found)

    def sign_out(self, token: str) -> None:
        self._sessions.end(token)

    def visitor(self, token: str | None, *, touch: bool = True) -> Visitor | None:
        """Whose token it is; None: nobody's, or no longer."""
        mode = self.mode
        if mode is Mode.OPEN:
            return Visitor("", administrator=True)
        found = self._sessions.find(token, touch=touch) if token else None
        if found is None:
            return None
        name, stamp = found
        if mode is Mode.PASSWORD:
            # whoever has the one password may do everything
            return Visitor(name, administrator=True) if stamp == self._password_stamp else None
        account = self.accounts.get(name)
        if account is None or account.stamp != stamp:
            return None
        return Visitor(name, account.administrator)

    def is_administrator(self, name: str) -> bool:
        """Whether somebody who is in may look after models, limits and what others have."""
        mode = self.mode
        if mode in (Mode.OPEN, Mode.PASSWORD):
            return True
        account = self.accounts.get(name) if mode is Mode.ACCOUNTS else None
        return account is not None and account.administrator

    def require_administrator(self, name: str) -> None:
        """Raises NotAllowed."""
        if not self.is_administrator(name):
            raise NotAllowed("it takes an administrator; ask whoever runs this studio")

    def _checked(self, mode: Mode, name: str, password: str) -> tuple[str, str] | None:
        if mode is Mode.ACCOUNTS:
            account = self.accounts.check(name, password)
            return None if account is None else (account.name, account.stamp)
        if mode is not Mode.PASSWORD or self._password is None:
            return None
        given, right = _key(password), _key(self._password)
        if not hmac.compare_digest(given, right):
            return None
        try:
            return checked_name(name), self._password_stamp
        except BarkError:
            return None


def _name_or_all(name: str) -> str:
    """A name as tries count for it; all that can't be one count together."""
    try:
        return checked_name(name)
    except BarkError:
        return ALL


def network_of(address: str) -> str:
    """What of an address one person has: of IPv6 the first half."""
    try:
        ip = ipaddress.ip_address(address.split("%")[0])
    except ValueError:
        return address[:100]
    if isinstance(ip, ipaddress.IPv6Address):
        if ip.ipv4_mapped is not None:
            return str(ip.ipv4_mapped)
        return str(ipaddress.ip_network((ip, 64), strict=False))
    return str(ip)


def _key(secret: str) -> bytes:
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).digest()

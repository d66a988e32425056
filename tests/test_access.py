"""Laws of signing in: tries are few, sessions end, nobody is let in by an accident."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, replace
from typing import Any

import pytest

from webui.access import (
    FREE_TRIES,
    IDLE_S,
    LONGEST_S,
    MAX_SESSIONS,
    MAX_TRIES_A_MINUTE,
    Access,
    Mode,
    Sessions,
    SignInRefused,
    TooManyTries,
    Tries,
    network_of,
)
from webui.accounts import Account


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def attack(tries: Tries, clock: Clock, keys: Any, *, seconds: float, every_s: float) -> list[float]:
    """When an attacker, who never rests, got to try."""
    done: list[float] = []
    end = clock.now + seconds
    while clock.now < end:
        with contextlib.suppress(TooManyTries):
            tries.begin(*keys(len(done)))
            done.append(clock.now)
        clock.now += every_s
    return done


def most_in_a_minute(times: list[float]) -> int:
    return max(sum(start <= time < start + 60 for time in times) for start in times)


@pytest.mark.parametrize("every_s", [0.01, 0.5, 3.0])
@pytest.mark.parametrize("what", ["one name", "one address", "both"])
def test_nobody_tries_more_than_ten_times_a_minute(clock: Clock, every_s: float, what: str) -> None:
    keys = {
        "one name": lambda n: ("name ann", f"address {n}"),
        "one address": lambda n: (f"name {n}", "address x"),
        "both": lambda n: ("name ann", "address x"),
    }[what]
    done = attack(Tries(clock), clock, keys, seconds=600, every_s=every_s)
    assert most_in_a_minute(done) <= MAX_TRIES_A_MINUTE
    # the wait grows until only one a minute is left
    late = [time for time in done if time > done[0] + 300]
    assert len(late) <= 6


def test_an_account_of_one_s_own_is_no_help_in_guessing(clock: Clock) -> None:
    tries = Tries(clock)

    def both(n: int) -> tuple[str, str]:
        tries.begin("name eve", "address x")
        tries.succeed("name eve", "address x")
        return f"name {n}", "address x"

    done = attack(tries, clock, both, seconds=600, every_s=0.5)
    assert most_in_a_minute(done) <= MAX_TRIES_A_MINUTE
    tries = Tries(clock)
    for _ in range(5 * MAX_TRIES_A_MINUTE):  # programs sign in again and again
        tries.begin("name eve", "address x")
        tries.succeed("name eve", "address x")


def test_who_forgot_a_password_gets_in_again(clock: Clock) -> None:
    tries = Tries(clock)
    ann, bob = ("name ann", "address x"), ("name bob", "address y")
    for _ in range(FREE_TRIES + 1):
        tries.begin(*ann)
    with pytest.raises(TooManyTries) as refused:
        tries.begin(*ann)
    tries.begin(*bob)  # others aren't kept out meanwhile
    clock.now += refused.value.wait_s
    tries.begin(*ann)
    tries.succeed(*ann)
    clock.now += 60
    tries.begin(*ann)


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("192.168.1.5", "192.168.1.6", False),
        ("2001:db8::1", "2001:db8::2", True),
        ("2001:db8::1", "2001:db8:0:1::1", False),
        ("::ffff:10.0.0.1", "10.0.0.1", True),
        ("fe80::1%eth0", "fe80::1", True),
    ],
)
def test_one_person_s_addresses_count_together(one: str, other: str, same: bool) -> None:
    assert (network_of(one) == network_of(other)) is same


# --- sessions


def test_a_session_ends_when_nobody_uses_it_and_in_any_case_after_a_week(clock: Clock) -> None:
    sessions = Sessions(clock)
    token = sessions.begin("ann", "stamp")
    for _ in range(5):
        clock.now += IDLE_S - 1
        assert sessions.find(token) == ("ann", "stamp")
    clock.now += IDLE_S - 1
    assert sessions.find(token, touch=False)  # a page that only watches doesn't count as use
    clock.now += 2
    assert sessions.find(token) is None
    token = sessions.begin("ann", "stamp")
    for _ in range(int(LONGEST_S / IDLE_S) + 1):
        clock.now += IDLE_S - 1
        sessions.find(token)
    assert sessions.find(token) is None


def test_one_person_has_so_many_sessions_at_most(clock: Clock) -> None:
    sessions = Sessions(clock)
    bob = sessions.begin("bob", "")
    tokens = [sessions.begin("ann", "") for _ in range(MAX_SESSIONS + 3)]
    assert [sessions.find(token) is None for token in tokens[:4]] == [True, True, True, False]
    assert sessions.find(bob)
    assert len(set(tokens)) == len(tokens)
    assert min(map(len, tokens)) >= 43


# --- who may come in


@dataclass
class Known:
    """Accounts without the time that a real password takes."""

    accounts: dict[str, tuple[Account, str]]

    def any(self) -> bool:
        return bool(self.accounts)

    def get(self, name: str) -> Account | None:
        return self.accounts[name][0] if name in self.accounts else None

    def check(self, name: str, password: str) -> Account | None:
        found = self.accounts.get(name)
        return found[0] if found is not None and found[1] == password else None


def known(*names: str) -> Any:
    return Known({name: (Account(name, name == "ann", 0.0, "1", None), "pass") for name in names})


def test_an_open_studio_has_one_person(clock: Clock) -> None:
    access = Access(known(), clock=clock)
    assert access.mode is Mode.OPEN
    visitor = access.visitor(None)
    assert visitor is not None
    assert (visitor.name, visitor.administrator) == ("", True)
    assert access.is_administrator("")


def test_a_wide_studio_without_any_password_lets_nobody_in(clock: Clock) -> None:
    access = Access(known(), wide=True, clock=clock)
    assert access.mode is Mode.CLOSED
    assert access.visitor(None) is None
    with pytest.raises(SignInRefused):
        access.sign_in("ann", "", "10.0.0.1")


def test_one_password_for_all(clock: Clock) -> None:
    access = Access(known(), password="pass word", wide=True, clock=clock)
    assert access.visitor(None) is None
    for name, password in (("ann", "pass"), ("ann", ""), ("", "pass word"), ("a/b", "pass word")):
        with pytest.raises(SignInRefused):
            access.sign_in(name, password, "10.0.0.1")
    visitor = access.visitor(access.sign_in("Ann", "pass word", "10.0.0.1"))
    assert visitor is not None
    assert (visitor.name, visitor.administrator) == ("ann", True)
    # whichever name and address: all guess the same
    clock.now += 1000
    n_done = 0
    for n in range(50):
        try:
            access.sign_in(f"name{n}", "guess", f"10.0.0.{n}")
        except TooManyTries:
            continue
        except SignInRefused:
            n_done += 1
    assert n_done <= MAX_TRIES_A_MINUTE


def test_a_removed_account_and_a_changed_password_end_sessions(clock: Clock) -> None:
    accounts = known("ann", "bob")
    access = Access(accounts, clock=clock)
    ann, bob = (access.sign_in(name, "pass", name) for name in ("ann", "bob"))
    assert access.visitor(ann) is not None
    assert access.is_administrator("ann")
    assert not access.is_administrator("bob")
    old, password = accounts.accounts["ann"]
    accounts.accounts["ann"] = (replace(old, stamp="2"), password)
    assert access.visitor(ann) is None
    del accounts.accounts["bob"]
    assert access.visitor(bob) is None
    again = access.sign_in("ann", "pass", "x")
    access.sign_out(again)
    assert access.visitor(again) is None


def test_the_first_account_closes_an_open_studio_and_the_last_doesn_t_open_it(
    clock: Clock,
) -> None:
    accounts = known()
    access = Access(accounts, clock=clock)
    assert access.visitor(None) is not None
    accounts.accounts |= known("ann").accounts
    assert access.visitor(None) is None
    accounts.accounts.clear()
    assert access.mode is Mode.CLOSED
    assert access.visitor(None) is None
    assert not access.is_administrator("ann")

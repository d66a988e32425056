"""The command line of the accounts: `python app.py accounts COMMAND`.

Works on the data folder itself, also while a studio runs on it: what changes counts at once.
Passwords are asked for, read from standard input, or made up; never given as an argument, which
other users of the computer could see. Exit codes:

    0    fine                    3    no such account, or a name or password that can't be one
    2    wrong usage             5    storage: no permission, full disk
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import getpass
import json
import secrets
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from bark_core import InvalidSetting
from webui.accounts import Account, Accounts, check_password, checked_name
from webui.command_line import run_command


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    return run_command(parser(), argv, _work)


def _work(args: argparse.Namespace) -> None:
    with contextlib.closing(Accounts.open(args.data)) as accounts:
        args.run(args, accounts)


def _add(args: argparse.Namespace, accounts: Accounts) -> None:
    name = checked_name(args.name)
    first = not accounts.any()
    account = accounts.add(name, _password(args, name), administrator=args.administrator)
    print(f"{account.name} may come in{_role(account)}.")
    if first:
        print("This is the first account: from now on everybody signs in.")


def _list(args: argparse.Namespace, accounts: Accounts) -> None:
    every = accounts.every()
    if args.json:
        print(json.dumps([_told(account) for account in every], indent=1))
        return
    if not every:
        print("There are no accounts: nobody signs in.")
    for account in every:
        since = datetime.date.fromtimestamp(account.created_at).isoformat()
        room = "" if account.disk_bytes is None else f", {account.disk_bytes / 1e9:g} GB"
        role = "administrator" if account.administrator else "user"
        print(f"{account.name}  {role}, since {since}{room}")


def _remove(args: argparse.Namespace, accounts: Accounts) -> None:
    every = accounts.every()
    name = checked_name(args.name)
    others = [account for account in every if account.name != name]
    if others and not any(account.administrator for account in others) and not args.force:
        raise InvalidSetting(
            f"{name} is the only administrator; make somebody else one with 'role', or add --force"
        )
    accounts.remove(name)
    print(f"{name} may come in no longer. What {name} made is still there.")
    if not others:
        print("This was the last account: at the next start nobody signs in.")


def _passwd(args: argparse.Namespace, accounts: Accounts) -> None:
    name = checked_name(args.name)
    accounts.set_password(name, _password(args, name))
    print(f"{name} has another password, and has to sign in again.")


def _role(account: Account) -> str:
    return ", as an administrator" if account.administrator else ""


def _set_role(args: argparse.Namespace, accounts: Accounts) -> None:
    accounts.set_administrator(checked_name(args.name), args.role == "administrator")
    print(f"{checked_name(args.name)} is {args.role} now.")


def _set_disk(args: argparse.Namespace, accounts: Accounts) -> None:
    n_bytes = None if args.gigabytes == "default" else round(_number(args.gigabytes) * 1e9)
    accounts.set_disk(checked_name(args.name), n_bytes)
    print(f"{checked_name(args.name)} may keep {args.gigabytes} GB.")


def _number(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < 1e6:
        raise InvalidSetting(f"give gigabytes such as 5 or 0.5, or 'default', got {text[:40]!r}")
    return value


def _password(args: argparse.Namespace, name: str) -> str:
    if args.generate:
        password = secrets.token_urlsafe(12)
        print(f"The password of {name}: {password}")
        return password
    if args.password_stdin or not sys.stdin.isatty():
        password = sys.stdin.readline().rstrip("\r\n")
        check_password(password, name)
        return password
    password = getpass.getpass(f"Password of {name}: ")
    check_password(password, name)
    if getpass.getpass("Once more: ") != password:
        raise InvalidSetting("these were two different passwords; try again")
    return password


def _told(account: Account) -> dict[str, object]:
    return {
        "name": account.name,
        "administrator": account.administrator,
        "created_at": account.created_at,
        "disk_bytes": account.disk_bytes,
    }


def parser() -> argparse.ArgumentParser:
    """Of `accounts`, and of nothing else."""
    top = argparse.ArgumentParser(
        prog="app.py accounts", description="Who may come into this studio."
    )
    commands = top.add_subparsers(metavar="COMMAND", required=True)

    def command(name: str, run: Callable[..., None], about: str) -> argparse.ArgumentParser:
        made = commands.add_parser(name, help=about, description=about)
        made.set_defaults(run=run)
        made.add_argument("--data", type=Path, metavar="DIR", help="the studio's data folder")
        return made

    add = command("add", _add, "let somebody in; the first one is an administrator")
    passwd = command("passwd", _passwd, "give somebody another password")
    for made in (add, passwd):
        made.add_argument("name")
        made.add_argument(
            "--generate", action="store_true", help="make a password up, and print it"
        )
        made.add_argument(
            "--password-stdin", action="store_true", help="read it from the first line"
        )
    add.add_argument(
        "--administrator", action="store_true", help="who may look after models and limits"
    )
    listed = command("list", _list, "who may come in")
    listed.add_argument("--json", action="store_true", help="as JSON")
    remove = command("remove", _remove, "let somebody in no longer; what they made stays")
    remove.add_argument("name")
    remove.add_argument("--force", action="store_true", help="even the only administrator")
    role = command("role", _set_role, "let somebody look after the studio, or no longer")
    role.add_argument("name")
    role.add_argument("role", choices=("user", "administrator"))
    disk = command("disk", _set_disk, "how much somebody may keep")
    disk.add_argument("name")
    disk.add_argument("gigabytes", help="such as 5 or 0.5; 'default': as much as everybody")
    return top

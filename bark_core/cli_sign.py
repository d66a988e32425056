"""Signing on the command line: `--sign`, with the studio's own key or one from elsewhere."""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from pathlib import Path

import platformdirs

from bark_core.audio import Stamp
from bark_core.credentials import SIGNED, check_can_sign, own_signing_key
from bark_core.errors import InvalidSetting
from bark_core.provenance import Provenance


def default_signing_folder() -> Path:
    """Where a studio of the user's own has its key."""
    return platformdirs.user_data_path("bark-studio", appauthor=False) / "signing"


def add_signing(parser: argparse.ArgumentParser) -> None:
    """Add `--sign` and `--signing-key`."""
    group = parser.add_argument_group("provenance")
    group.add_argument(
        "--sign",
        action="store_true",
        help="sign what is written (Content Credentials), with the key of your own studio",
    )
    group.add_argument(
        "--signing-key",
        metavar="DIR",
        help="sign with the key of that folder; made there, as with --sign, where there is none",
    )


def stamp_of(args: argparse.Namespace, targets: Iterable[Path]) -> Stamp | None:
    """What goes into each file that is written; None: nothing but its tags.

    Args:
        targets: the sound files that are to be signed.

    Raises:
        InvalidSetting: one of them can't be signed, or the packages are missing.
        StorageError: the key is damaged, others can read it, or it can't be made.
    """
    if not (args.sign or args.signing_key):
        return None
    for path in targets:
        if path.suffix.lower() not in SIGNED:
            raise InvalidSetting(
                f"{path} can't be signed: Content Credentials have no place in {path.suffix}; "
                f"choose one of {', '.join(SIGNED)}, or leave --sign away"
            )
    check_can_sign()
    folder = default_signing_folder()
    if args.signing_key:
        folder = Path(args.signing_key).expanduser()
    return Provenance(own_signing_key(folder))

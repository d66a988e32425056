"""`python -m webui history | accounts | audit | origin | signing-key`: without a page."""

from __future__ import annotations

import sys
from collections.abc import Sequence


def main(argv: Sequence[str] | None = None) -> int:
    """Hand the arguments on to a command line of their own; returns the exit code."""
    given = list(sys.argv[1:] if argv is None else argv)
    if given[:1] == ["accounts"]:
        from webui.accounts_cli import main as accounts

        return accounts(given[1:])
    if given[:1] == ["audit"]:
        from webui.audit_cli import main as audit

        return audit(given[1:])
    if given[:1] in (["origin"], ["signing-key"]):
        from webui.origin_cli import main as origin

        return origin(given)
    from webui.history_cli import main as history

    return history(given)


if __name__ == "__main__":
    sys.exit(main())

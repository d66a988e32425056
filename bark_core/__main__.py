"""`python -m bark_core`: see bark_core.cli."""

from __future__ import annotations

import sys

from bark_core.cli import run

if __name__ == "__main__":
    sys.exit(run())

"""An attack on the page to sign in, over HTTP: at most ten tries a minute come through.

Eight attackers guess as fast as they can at one name from one address; every answer is either
"wrong" or "too many tries", and of the first there may be ten within any minute. The right
password works again as soon as they have gone and a minute has passed; others are signed in
throughout.
"""

from __future__ import annotations

import tempfile
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import urlencode

from benchmarks.reliability.result import Result
from tests.page_model import save_page_model
from tests.people import FORM, people
from tests.served import Served

N = 3_000  # guesses
AT_ONCE = 8


def measure(n: int = N) -> Result:
    """Guess n times."""
    broken: list[str] = []
    seen: list[tuple[float, int]] = []
    with tempfile.TemporaryDirectory() as folder:
        model = save_page_model(Path(folder) / "page")
        with people(model, Path(folder) / "data", "ann", "bob") as (served, (_ann, bob)):
            started = time.monotonic()
            with ThreadPoolExecutor(AT_ONCE) as pool:
                seen = list(pool.map(lambda k: _guess(served, k, started), range(n)))
            took_s = time.monotonic() - started
            if bob.ask("GET", "studio/me").status != 200:
                broken.append("who was signed in isn't any more")
    statuses = Counter(status for _at, status in seen)
    tries = sorted(at for at, status in seen if status != 429)
    most = max((sum(at <= t < at + 60 for t in tries) for at in tries), default=0)
    if most > 10:
        broken.append(f"{most} tries within a minute")
    if set(statuses) - {401, 429}:
        broken.append(f"answers: {dict(statuses)}")
    figures = {
        "tries_looked_at": len(tries),
        "most_in_a_minute": most,
        "refused_unseen": statuses[429],
        "seconds": round(took_s, 1),
    }
    return Result(figures, tuple(broken))


def _guess(served: Served, number: int, started: float) -> tuple[float, int]:
    form = urlencode({"username": "ann", "password": f"guess {number}"}).encode()
    at = time.monotonic() - started
    return at, served.ask("POST", "login", form, FORM).status

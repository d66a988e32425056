"""How quickly the history opens and is searched when it is long.

    python -m benchmarks.history --entries 5000 --json benchmarks/history.json

Makes a history of its own: real rows, and for each of them real files as the studio writes them
(a FLAC of a fifth of a second with its tags, tokens, a sidecar). Then it measures what the
History tab asks of the server when it is opened, searched and filtered, and with --browser what
a person waits for in Chromium: from the click, or the last key, until the list is there.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from bark_core import Audio
from bark_core.config import BARK_LAYOUT
from bark_core.processor import name as processor
from bark_core.tokens import FineCodes, SemanticTokens
from bark_core.voices import Voice
from webui.blocks import build_page
from webui.history import SPEECH, History
from webui.history_tab import Look
from webui.history_view import Found, disk_use, history_details, history_list
from webui.serving import open_page, prepared_environment
from webui.settings import StudioSettings
from webui.studio import Studio, open_studio

WORDS = (
    *("river", "rain", "evening", "walk", "sea", "seven", "years", "tonight", "hear", "kettle"),
    *("bread", "morning", "star", "sky", "school", "snow", "window", "moment", "laugh", "door"),
    *("table", "winter", "summer", "train", "letter", "garden", "voice", "studio"),
)
VOICES = (None, "rosa", "ralf", "v2/en_speaker_6", "v2/de_speaker_3")
SECONDS = 0.2
TURNS = 9


def fill(history: History, n_entries: int) -> None:
    """Entries such as one would have: sentences, voices, tags, favourites."""
    draw = np.random.default_rng(0)
    audio = Audio(draw.normal(0, 0.1, round(SECONDS * 24_000)).astype(np.float32))
    n_frames = round(SECONDS * BARK_LAYOUT.frame_rate_hz)
    fine = FineCodes(draw.integers(0, 1024, (8, n_frames)), BARK_LAYOUT)
    semantic = SemanticTokens(draw.integers(0, 10_000, n_frames * 2 // 3), BARK_LAYOUT)
    tokens = Voice(semantic=semantic, coarse=fine.coarse, fine=fine)
    for number in range(n_entries):
        text = " ".join(draw.choice(WORDS, size=int(draw.integers(4, 40))))
        voice = VOICES[number % len(VOICES)]
        entry = history.add_sound(
            audio,
            {
                "generator": "Bark Studio",
                "text": text,
                "segments": [text],
                "takes": [0],
                "problems": [[]],
                "seed": number,
                "voice": None if voice is None else {"name": voice, "sha256": "0" * 64},
                "settings": {"semantic": {"temperature": 0.7}, "coarse": {"temperature": 0.7}},
                "model": {"name": ("pup", "small")[number % 2], "layout_name": BARK_LAYOUT.name},
                "seconds": {"semantic": 1.0, "coarse": 2.0},
            },
            segments=[tokens],
            kind=SPEECH,
            created_at=1.7e9 + 600 * number,
        )
        if number % 10 == 0:
            history.set_tags(entry.id, [f"tag {number % 7}", "film"])
        if number % 25 == 0:
            history.set_favourite(entry.id, True)


def shown(studio: Studio, look: Look) -> str:
    """All that the tab shows for what somebody looks for."""
    history = studio.history
    entries = history.search(look.words, limit=look.limit, **look.filters)
    total = history.count(look.words, **look.filters)
    found = Found(entries, total, look.narrowed, entries[0].id if entries else None)
    parts = (
        history_list(found, studio.voice_label),
        history_details(entries[0] if entries else None, studio.voice_label),
        disk_use(history.usage(""), shutil.disk_usage(history.folder).free),
        repr(history.choices()),
    )
    return "".join(parts)


def on_server(studio: Studio) -> dict[str, dict[str, float]]:
    """Milliseconds of each question, the median and the worst of several."""
    looks = {
        "open": Look(),
        "search one word": Look(words="river"),
        "search three words": Look(words="river rain evening"),
        "search nothing that is there": Look(words="xylophone"),
        "filter by voice": Look(voice="=rosa"),
        "filter by tag": Look(tag="=film"),
        "filter favourites": Look(favourite=True),
        "show 500 rows": Look(limit=500),
    }
    return {name: timed(partial(shown, studio, look)) for name, look in looks.items()}


def timed(work: Callable[[], object]) -> dict[str, float]:
    work()
    times = []
    for _turn in range(TURNS):
        started = time.perf_counter()
        work()
        times.append(1_000 * (time.perf_counter() - started))
    return {"median_ms": round(statistics.median(times), 1), "worst_ms": round(max(times), 1)}


def in_browser(address: str) -> dict[str, float]:
    """Milliseconds that a person waits for; the page is loaded before."""
    from playwright.sync_api import sync_playwright

    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    waits: dict[str, float] = {}
    with sync_playwright() as playwright:
        arguments = ["--no-sandbox", "--disable-dev-shm-usage"]
        browser = playwright.chromium.launch(executable_path=chromium, args=arguments)
        page = browser.new_page()
        page.set_default_timeout(60_000)
        page.goto(address)
        page.locator("#masthead .status").wait_for()
        page.wait_for_timeout(5_000)  # the model loads beside it

        def wait(name: str, act: Callable[[], object], until: str) -> None:
            started = time.perf_counter()
            act()
            page.wait_for_function(f"() => {until}", polling=10)
            waits[name] = round(1_000 * (time.perf_counter() - started))

        total = "(document.querySelector('#rows .total') || {textContent: ''}).textContent"
        tab, field = page.get_by_role("tab", name="History"), page.get_by_label("Find")
        wait("open the tab", tab.click, f"{total} !== ''")
        before = page.locator("#rows .total").inner_text()
        wait("search", lambda: field.fill("river rain"), f"{total} !== '{before}'")
        between = page.locator("#rows .total").inner_text()
        wait("clear the search", lambda: field.fill(""), f"{total} !== '{between}'")
        browser.close()
    return waits


def measure(n_entries: int, folder: Path, *, browser: bool) -> dict[str, Any]:
    history = History.open(folder)
    started = time.perf_counter()
    fill(history, n_entries)
    filling_s = time.perf_counter() - started
    history.close()
    started = time.perf_counter()
    History.open(folder).close()
    starting_s = time.perf_counter() - started
    with prepared_environment():
        studio = open_studio(StudioSettings(data=folder))
        try:
            studio.desk.loaded.wait(300)
            report: dict[str, Any] = {"server": on_server(studio)}
            if browser:
                demo = build_page(studio)
                report["browser_ms"] = in_browser(open_page(demo, studio))
                demo.close(verbose=False)
        finally:
            studio.close()
    return {
        "entries": n_entries,
        "files": sum(1 for _path in (folder / "sounds").iterdir()),
        "filled_in_s": round(filling_s, 1),
        "store_opened_in_s": round(starting_s, 2),
        **report,
    }


def main() -> None:
    """Measure and print; --json writes the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--entries", type=int, default=5_000)
    parser.add_argument("--browser", action="store_true", help="measure in Chromium, too")
    parser.add_argument("--note", default="", help="what else the machine did meanwhile")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    load_before = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as folder:
        found = measure(args.entries, Path(folder) / "data", browser=args.browser)
    report = {
        "date": time.strftime("%Y-%m-%d"),
        "hardware": f"{processor()}, {os.cpu_count()} cores",
        "load_average": [round(load_before, 1), round(os.getloadavg()[0], 1)],
        "note": args.note,
        **found,
    }
    text = json.dumps(report, indent=1)
    print(text)
    if args.json:
        args.json.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

"""Make docs/images: every tab of the page, light, dark and on a phone, with the bundled model.

    python scripts/screenshots.py [FOLDER]

Needs what requirements-dev.txt lists, and Chromium.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from playwright.sync_api import Browser, Page, expect, sync_playwright  # noqa: E402

from bark_core import GenerationRequest  # noqa: E402
from webui.settings import StudioSettings  # noqa: E402
from webui.studio import Studio  # noqa: E402

WIDE, PHONE = {"width": 1280, "height": 860}, {"width": 390, "height": 844}
PATIENCE_MS = 120_000
TAKES = (
    ("rosa", "The rain has stopped. Shall we walk home along the river?"),
    ("ralf", "I have not seen the sea for seven years, and tonight I can hear it."),
    ("rosa", "Good evening, and welcome to the studio."),
)
LINES = (
    ("Anna", "Good evening. Have you been here before?"),
    ("Bob", "Never. Is it always this quiet?"),
    ("Anna", "Only until the music begins."),
    ("Bob", "Then we should find a table by the window."),
)
# long enough to be caught while it runs
RUNNING = " ".join(
    [text for _, text in TAKES]
    + [
        f"On the {day} day we walked along the river, and in the evening we sat by the fire and "
        "talked until the stars came out. Nobody wanted to go to bed."
        for day in ("first", "second", "third", "fourth", "fifth", "sixth", "seventh", "last")
    ]
)


@contextlib.contextmanager
def studio_with_takes(data: Path) -> Iterator[tuple[Studio, str]]:
    """A studio on the bundled model in which somebody has made a few things."""
    from webui.blocks import build_page
    from webui.serving import open_page, prepared_environment
    from webui.studio import open_studio

    with prepared_environment():
        studio = open_studio(StudioSettings(model="pup", data=data))
        studio.desk.loaded.wait()
        address = open_page(demo := build_page(studio), studio)
        for number, (voice, text) in enumerate(TAKES):
            wanted = GenerationRequest(
                text, voice=studio.voice(voice, owner=""), seed=1870 + number
            )
            studio.desk.submit(wanted).finished.wait()
        try:
            yield studio, address
        finally:
            studio.close()
            demo.close(verbose=False)


def opened(browser: Browser, address: str, scheme: str, size: dict[str, int]) -> Page:
    """A fresh page, ready, with results."""
    page = browser.new_page(
        viewport={"width": size["width"], "height": size["height"]},
        color_scheme="dark" if scheme == "dark" else "light",
        reduced_motion="reduce",
        device_scale_factor=1.5,
    )
    page.set_default_timeout(PATIENCE_MS)
    expect.set_options(timeout=PATIENCE_MS)
    page.goto(address)
    expect(page.locator("#masthead .status.ready")).to_be_visible()
    expect(page.locator("#results .take").first).to_be_visible()
    return page


def shoot(page: Page, folder: Path, name: str) -> None:
    """Write one picture, once the page is still."""
    page.wait_for_timeout(600)
    # the segments of a script lie below what it is made of
    page.screenshot(path=folder / f"{name}.png", full_page=name == "script")
    print(folder / f"{name}.png")


def show_generate(page: Page) -> None:
    """A prompt and its plan, beside results."""
    page.get_by_label("What should be said?").fill(TAKES[-1][1])
    expect(page.locator("#plan")).to_contain_text("segment")


def show_script(page: Page) -> None:
    """A dialogue of two people, made; the first one who comes makes it."""
    page.get_by_role("tab", name="Script").click()
    table = page.locator("#script-table")
    if not table.get_by_text(LINES[0][1]).count():
        page.get_by_label("Script", exact=True).fill("\n".join(map(": ".join, LINES)))
        page.get_by_role("button", name="Show the segments").click()
        expect(table.get_by_text(LINES[0][1]).first).to_be_visible()
        page.get_by_role("button", name="Make all").click()
    expect(page.locator("#script-actions")).to_contain_text("All made")


def show_voices(page: Page) -> None:
    """The voices of the model, one of them chosen."""
    page.get_by_role("tab", name="Voices").click()
    expect(page.locator("#voice-details .facts")).to_be_visible()
    expect(page.locator("#voice-details .player")).to_be_visible()


def show_history(page: Page) -> None:
    """Everything made, the newest in full."""
    page.get_by_role("tab", name="History").click()
    expect(page.locator("#details .facts")).to_be_visible()


def show_system(page: Page) -> None:
    """Models, queue and machine."""
    page.get_by_role("tab", name="System").click()
    expect(page.locator("#system-queue")).to_be_visible()


TABS: dict[str, Callable[[Page], None]] = {
    "generate": show_generate,
    "script": show_script,
    "voices": show_voices,
    "history": show_history,
    "system": show_system,
}


def shoot_all(browser: Browser, address: str, studio: Studio, folder: Path) -> None:
    """All pictures, the tabs by their names."""
    for scheme, suffix, size in (
        ("light", "", WIDE),
        ("dark", "-dark", WIDE),
        ("light", "-phone", PHONE),
    ):
        page = opened(browser, address, scheme, size)
        for name, show in TABS.items():
            show(page)
            page.mouse.move(0, 0)
            shoot(page, folder, f"{name}{suffix}")
        page.close()
    page = opened(browser, address, "light", WIDE)
    page.get_by_label("What should be said?").fill(RUNNING)
    page.get_by_role("button", name="Generate").click()
    expect(page.locator("#running .player")).to_be_visible()
    page.mouse.move(0, 0)
    shoot(page, folder, "running")
    page.close()
    for ticket in studio.desk.views():
        studio.desk.stop(ticket.id)


def main() -> int:
    """Make all pictures in docs/images, or in the folder that is given."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("folder", type=Path, nargs="?", default=ROOT / "docs" / "images")
    folder: Path = parser.parse_args().folder
    folder.mkdir(parents=True, exist_ok=True)
    chromium = os.environ.get("CHROMIUM") or shutil.which("chromium")
    with (
        tempfile.TemporaryDirectory() as data,
        studio_with_takes(Path(data)) as (studio, address),
        sync_playwright() as playwright,
    ):
        arguments = ["--no-sandbox", "--disable-dev-shm-usage"]
        browser = playwright.chromium.launch(executable_path=chromium, args=arguments)
        shoot_all(browser, address, studio, folder)
        browser.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())

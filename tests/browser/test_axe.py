"""No violation of accessibility that is ours, in any tab, in both themes."""

from __future__ import annotations

from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page, expect

from tests.browser.test_page import LONG, generate, open_more, opened, say
from tests.made import made
from tests.served import Served

# of each tab, what comes from the server when it is shown first
TABS = {
    "Script": ("#script-table .empty",),
    "Voices": ("#voice-rows .empty", "#voice-details .empty"),
    "History": ("#rows :is(.row, .empty)", "#details :is(.facts, .empty)"),
    "System": ('#system-models [data-model="large"]',),
}


def violations(page: Page) -> list[str]:
    results: Any = Axe().run(page, options={"resultTypes": ["violations"]})
    return [
        f"{violation['id']}: {node['target']} {node['html'][:160]} {node.get('failureSummary')}"
        for violation in results.response["violations"]
        for node in violation["nodes"]
    ]


def in_theme(page: Page, scheme: str) -> None:
    page.emulate_media(
        color_scheme="dark" if scheme == "dark" else "light", reduced_motion="reduce"
    )


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_of_ours_in_generate(page: Page, served: Served, scheme: str) -> None:
    in_theme(page, scheme)
    opened(page, served)
    assert violations(page) == []  # the empty places
    for text in ("Good evening.", "Good night."):
        served.studio.history.add(made(text), group="one")
    expect(page.locator("#results .group .take")).to_have_count(2)
    page.locator("#voice-chosen").click()
    open_more(page)
    generate(page)
    expect(page.locator("#notice .notice")).to_be_visible()
    page.get_by_role("button", name="Compare them").click()
    page.locator("#results summary").first.click()
    assert violations(page) == []
    page.get_by_role("button", name="Done comparing").click()
    say(page, LONG * 4)
    expect(page.locator("#running .player")).to_be_visible()
    assert violations(page) == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("filled", [False, True], ids=["empty", "filled"])
def test_axe_finds_nothing_of_ours_elsewhere(
    page: Page, served: Served, scheme: str, filled: bool
) -> None:
    in_theme(page, scheme)
    if filled:
        for text in ("Good evening.", "Good night."):
            served.studio.history.add(made(text))
    opened(page, served)
    found = []
    for tab, parts in TABS.items():
        page.get_by_role("tab", name=tab, exact=True).click()
        expect(page.get_by_role("tab", name=tab, exact=True)).to_have_attribute(
            "aria-selected", "true"
        )
        for part in parts:
            expect(page.locator(part).first).to_be_visible()
        page.wait_for_timeout(300)  # until all of it is drawn
        found += violations(page)
    assert found == []

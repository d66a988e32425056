"""No violation of accessibility that is ours, in any tab, in both themes."""

from __future__ import annotations

from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page, expect

from tests.browser.test_page import LONG, opened, say
from tests.made import made
from tests.served import Served


def violations(page: Page) -> list[str]:
    results: Any = Axe().run(page, options={"resultTypes": ["violations"]})
    return [
        f"{violation['id']}: {node['target']} {node['html'][:160]} {node.get('failureSummary')}"
        for violation in results.response["violations"]
        for node in violation["nodes"]
    ]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_of_ours(page: Page, served: Served, scheme: str) -> None:
    page.emulate_media(
        color_scheme="dark" if scheme == "dark" else "light", reduced_motion="reduce"
    )
    opened(page, served)
    assert violations(page) == []  # the empty places
    page.get_by_role("tab", name="History").click()
    expect(page.locator("#rows .empty")).to_be_visible()
    assert violations(page) == []
    for text in ("Good evening.", "Good night."):
        served.studio.history.add(made(text))
    page.get_by_role("tab", name="Generate").click()
    expect(page.locator("#results .take")).to_have_count(2)
    page.get_by_role("button", name="More:").click()
    page.get_by_role("button", name="Generate").click()
    expect(page.locator("#notice .notice")).to_be_visible()
    assert violations(page) == []
    page.get_by_role("tab", name="History").click()
    expect(page.locator("#rows .row")).to_have_count(2)
    assert violations(page) == []
    page.get_by_role("tab", name="Generate").click()
    say(page, LONG * 4)
    expect(page.locator("#running .player")).to_be_visible()
    assert violations(page) == []

"""Signing in and out in a browser."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.browser.conftest import PATIENCE_MS
from tests.browser.test_axe import in_theme, violations
from tests.served import Served, serving
from webui.accounts import Accounts
from webui.settings import StudioSettings


@pytest.fixture(scope="module")
def guarded_studio(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    data = tmp_path_factory.mktemp("guarded")
    accounts = Accounts.open(data)
    accounts.add("ann", "right horse")
    accounts.close()
    with serving(StudioSettings(model=str(model), data=data)) as served:
        yield served


@pytest.fixture
def stranger(browser: Browser) -> Iterator[Page]:
    """A page whose console may tell of what was refused."""
    context = browser.new_context()
    page = context.new_page()
    page.set_default_timeout(PATIENCE_MS)
    yield page
    context.close()


def sign_in(page: Page, password: str) -> None:
    page.get_by_label("Name").fill("ann")
    page.get_by_label("Password").fill(password)
    page.get_by_role("button", name="Sign in").click()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_to_sign_in_is_for_everybody(
    stranger: Page, guarded_studio: Served, scheme: str
) -> None:
    in_theme(stranger, scheme)
    stranger.goto(guarded_studio.address)
    expect(stranger).to_have_url(re.compile("/login$"))
    assert violations(stranger) == []
    sign_in(stranger, "wrong horse")
    expect(stranger.get_by_role("alert")).to_contain_text("is wrong")
    expect(stranger.get_by_label("Name")).to_have_value("ann")
    assert violations(stranger) == []
    stranger.get_by_role("link", name="Deutsch").click()
    expect(stranger.get_by_role("button", name="Anmelden")).to_be_visible()
    stranger.set_viewport_size({"width": 360, "height": 640})
    fits = "document.documentElement.scrollWidth <= 360"
    assert stranger.evaluate(fits)


def test_who_signed_in_is_shown_and_gets_out_again(stranger: Page, guarded_studio: Served) -> None:
    stranger.goto(guarded_studio.address)
    sign_in(stranger, "right horse")
    account = stranger.locator("#account-form")
    expect(account).to_contain_text("ann")
    expect(stranger.locator("#masthead .status")).to_contain_text("ready")
    account.get_by_role("button", name="Sign out").click()
    expect(stranger).to_have_url(re.compile("/login$"))
    stranger.goto(guarded_studio.address)
    expect(stranger).to_have_url(re.compile("/login$"))


def test_a_page_whose_session_ended_leads_to_the_page_to_sign_in(
    stranger: Page, guarded_studio: Served
) -> None:
    stranger.goto(guarded_studio.address)
    sign_in(stranger, "right horse")
    expect(stranger.locator("#account-form")).to_contain_text("ann")
    guarded_studio.studio.access._sessions._sessions.clear()
    stranger.evaluate("document.dispatchEvent(new Event('visibilitychange'))")
    expect(stranger).to_have_url(re.compile("/login$"))

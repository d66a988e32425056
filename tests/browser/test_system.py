"""The System tab and the head of the page: a model is got, loaded, used and put away again."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.hub_server import FakeHub, serve
from tests.page_model import page_config
from tests.served import Served, serving
from tests.tiny import save_tiny_model
from webui.models import ModelState
from webui.settings import StudioSettings

pytest.importorskip("playwright")
from playwright.sync_api import Locator, Page, expect

PUBLISHED = "suno/bark-small"


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[FakeHub]:
    """A hub that has a model of half a megabyte under a published name, and sends it slowly."""
    fake = FakeHub()
    fake.publish(PUBLISHED, save_tiny_model(tmp_path / "published", config=page_config()))
    with serve(fake):
        yield fake


@pytest.fixture
def own(model: Path, hub: FakeHub, tmp_path: Path, page: Page) -> Iterator[Served]:
    """A studio whose cache is empty."""
    settings = StudioSettings(
        model=str(model), data=tmp_path / "data", cache=tmp_path / "cache", endpoint=hub.url
    )
    with serving(settings) as served:
        yield served
        # a server that ends waits five seconds for the streams of pages
        page.goto("about:blank")


def slowed(hub: FakeHub) -> threading.Event:
    """Let the hub wait before each chunk, until the event is set."""
    free = threading.Event()

    def wait() -> None:
        free.wait(0.5)

    hub.on_bytes = wait
    return free


def open_system(page: Page, served: Served) -> None:
    page.goto(served.address)
    expect(page.locator("#masthead .status.ready")).to_be_visible()
    page.get_by_role("tab", name="System").click()
    expect(card(page, "small")).to_be_visible()


def card(page: Page, name: str) -> Locator:
    return page.locator(f'#system-models [data-model="{name}"]')


def press(page: Page, name: str, action: str) -> None:
    card(page, name).locator(f'[data-action="{action}"]').click()


def test_a_model_is_downloaded_loaded_used_and_removed(
    page: Page, own: Served, hub: FakeHub
) -> None:
    free = slowed(hub)
    open_system(page, own)
    small = card(page, "small")
    expect(small.locator(".state")).to_have_text("not here")
    press(page, "small", "model-download")
    expect(small.locator(".state")).to_have_text("downloading")
    expect(small.get_by_role("progressbar")).to_have_attribute("aria-valuenow", "0", timeout=60_000)
    expect(small.locator("[data-line]")).to_contain_text(" of ")
    press(page, "small", "model-cancel")
    expect(small.locator(".state")).to_have_text("paused, partly here")
    free.set()
    page.get_by_role("button", name="Resume").click()
    expect(small.locator(".state")).to_have_text("on the disk")
    small.locator('select[data-choice="precision"]').select_option("bfloat16")
    press(page, "small", "model-load")
    expect(small.locator(".state")).to_have_text("loaded")
    expect(small).to_contain_text("CPU in bfloat16")
    press(page, "small", "model-use")
    expect(small).to_contain_text("this page works with it")
    expect(page.locator("#model input")).to_have_value("Bark small, a demonstration")
    page.get_by_role("tab", name="Generate").click()
    page.locator("#prompt textarea").fill("Hello there.")
    page.locator("#generate").click()
    expect(page.locator("#results .take")).to_have_count(1)
    (entry,) = own.studio.history.search()
    assert entry.details["model"]["source"] == PUBLISHED
    page.get_by_role("tab", name="System").click()
    press(page, "small", "model-unload")
    expect(small.locator(".state")).to_have_text("on the disk")
    small.get_by_text("Remove …").click()
    press(page, "small", "model-remove")
    expect(small.locator(".state")).to_have_text("not here")
    assert own.studio.models.status("small").stored.disk_bytes == 0


def test_a_model_that_is_not_here_can_t_be_chosen_but_is_shown(page: Page, own: Served) -> None:
    page.goto(own.address)
    expect(page.locator("#masthead .status.ready")).to_be_visible()
    field = page.locator("#model input")
    before = field.input_value()
    field.click()
    page.get_by_role("option", name="Bark large").click()
    expect(page.get_by_role("tab", name="System")).to_have_attribute("aria-selected", "true")
    expect(card(page, "large")).to_have_class("model marked")
    expect(card(page, "large")).to_be_focused()
    expect(field).not_to_have_value("Bark large, not downloaded")
    assert before.split(",")[0] in field.input_value()


def test_the_note_of_a_demonstration_leads_to_real_bark(page: Page, own: Served) -> None:
    page.goto(own.address)
    page.locator("#masthead").get_by_role("button", name="Get real Bark").click()
    expect(page.locator("#system-models .advice")).to_contain_text("For this computer")
    expect(card(page, "large").locator("[data-fit]")).to_contain_text("needs")


def test_an_error_says_what_to_do_and_a_wrong_name_is_refused(
    page: Page, own: Served, hub: FakeHub
) -> None:
    open_system(page, own)
    hub.corrupt.add("codec.safetensors")
    press(page, "small", "model-download")
    expect(card(page, "small").locator(".notice")).to_contain_text("damaged")
    page.locator("#system-source input, #system-source textarea").first.fill("bark")
    page.locator("#system-add").click()
    expect(page.locator("#system-notice .notice")).to_contain_text("owner/name")
    page.locator("#system-source input, #system-source textarea").first.fill("someone/bark")
    page.locator("#system-add").click()
    expect(card(page, "someone/bark")).to_be_visible()
    press(page, "someone/bark", "model-forget")
    expect(card(page, "someone/bark")).to_have_count(0)


def test_what_is_chosen_before_loading_outlives_updates(page: Page, own: Served) -> None:
    open_system(page, own)
    page.locator('[data-model="page"] select[data-choice="precision"]').select_option("bfloat16")
    own.studio.models.download("small")  # draws the cards anew
    expect(card(page, "small").locator(".state")).to_have_text("on the disk")
    page.wait_for_timeout(1500)
    chosen = page.locator('[data-model="page"] select[data-choice="precision"]')
    expect(chosen).to_have_value("bfloat16")
    press(page, "page", "model-load")
    expect(card(page, "page")).to_contain_text("CPU in bfloat16")
    assert own.studio.models.status("page").state is ModelState.LOADED


@pytest.mark.parametrize("width", [360, 375])
def test_a_phone_shows_all_of_it(page: Page, own: Served, width: int) -> None:
    page.set_viewport_size({"width": width, "height": 740})
    page.goto(own.address)
    expect(page.locator("#masthead .status.ready")).to_be_visible()
    page.locator("#masthead").get_by_role("button", name="Get real Bark").click()
    expect(card(page, "small")).to_be_visible()
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    for part in ("#brand h1", "#model", "#language select", "#masthead .status"):
        box = page.locator(part).bounding_box()
        assert box is not None
        assert box["x"] >= 0
        assert box["x"] + box["width"] <= width, part
    name, language = (page.locator(p).bounding_box() for p in ("#brand h1", "#language select"))
    assert name is not None
    assert language is not None
    assert abs(name["y"] + name["height"] / 2 - language["y"] - language["height"] / 2) < 10

"""What a person does with the page, in a real browser."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from tests.browser.conftest import CHROMIUM
from tests.made import made
from tests.served import Served, serving
from webui.settings import StudioSettings

# a sentence a segment, each a second or so of work
LONG = "The rain has stopped, and the river is high. " * 12
SEED = "1"  # with which the random model doesn't fall silent


def opened(page: Page, served: Served) -> Page:
    page.goto(served.address)
    expect(page.locator("#masthead .status.ready")).to_be_visible()
    return page


def say(page: Page, text: str, *, seed: str = SEED) -> None:
    page.get_by_label("What should be said?").fill(text)
    page.locator("#seed textarea").fill(seed)
    page.get_by_label("Keep this seed").check()
    page.get_by_role("button", name="Generate").click()


def heard(page: Page) -> float:
    """Seconds of the sound in the player, once it is there."""
    page.wait_for_function("() => document.querySelector('#studio-audio').duration > 0")
    return float(page.evaluate("() => document.querySelector('#studio-audio').duration"))


def open_history(page: Page) -> None:
    page.get_by_role("tab", name="History").click()
    expect(page.get_by_label("Find")).to_be_visible()


def test_generate_with_the_keyboard_and_hear(page: Page, served: Served) -> None:
    opened(page, served)
    page.locator("#seed textarea").fill(SEED)
    page.get_by_label("Keep this seed").check()
    prompt = page.get_by_label("What should be said?")
    prompt.fill("Hello there.")
    expect(page.locator("#plan")).to_contain_text("1 segment")
    prompt.press("Control+Enter")
    take = page.locator("#results .take")
    expect(take).to_contain_text("Hello there.")
    # it plays by itself, for that is what was waited for
    assert heard(page) > 0
    (entry,) = served.studio.history.search()
    assert heard(page) == pytest.approx(entry.duration_s, abs=0.05)
    assert entry.seed == int(SEED)


def test_an_empty_place_offers_examples(page: Page, served: Served) -> None:
    opened(page, served)
    page.locator("#results .empty button").first.click()
    expect(page.get_by_label("What should be said?")).to_have_value(re.compile("evening"))
    open_history(page)
    page.get_by_role("button", name="Make the first one").click()
    expect(page.get_by_role("tab", name="Generate")).to_have_attribute("aria-selected", "true")


def test_progress_and_sound_before_the_end_and_stop_keeps_it(page: Page, served: Served) -> None:
    opened(page, served)
    expect(page.get_by_role("button", name="Stop", exact=True)).to_be_disabled()
    say(page, LONG)
    card = page.locator("#running .take")
    expect(card.get_by_role("progressbar", name="words")).to_be_visible()
    expect(card.locator(".line")).to_contain_text(re.compile(r"segment \d of"))
    expect(card.locator(".player")).to_be_visible()
    assert heard(page) > 0
    expect(card.locator(".line")).to_contain_text(re.compile("left"))
    page.get_by_role("button", name="Stop", exact=True).click()
    expect(page.locator("#running .take")).to_have_count(0)
    expect(page.locator("#results .take")).to_contain_text("stopped early")
    (entry,) = served.studio.history.search()
    assert not entry.complete


def test_what_was_typed_survives_a_reload(page: Page, served: Served) -> None:
    opened(page, served)
    page.get_by_label("What should be said?").fill("My precious words.")
    page.reload()
    expect(page.get_by_label("What should be said?")).to_have_value("My precious words.")
    expect(page.locator("#plan")).to_contain_text("segment")


def test_progress_leaves_the_rest_of_the_page_alone(page: Page, served: Served) -> None:
    served.studio.history.add(made("Good morning, Ann."))
    opened(page, served)
    say(page, LONG)
    expect(page.locator("#running .player")).to_be_visible()
    again = page.get_by_role("button", name="Use these settings: Good morning, Ann.")
    again.evaluate("button => { button.marked = true; button.focus(); }")
    line = page.locator("#running .line").text_content()
    expect(page.locator("#running .line")).not_to_have_text(line or "")
    assert again.evaluate("button => button.marked && document.activeElement === button")
    assert page.locator("#stop").is_enabled()


def test_reload_second_tab_and_coming_back_attach_again(page: Page, served: Served) -> None:
    opened(page, served)
    say(page, LONG * 4)
    expect(page.locator("#running .take")).to_be_visible()
    page.reload()
    expect(page.locator("#running .take")).to_contain_text("The rain has stopped")
    expect(page.locator("#running .line")).to_contain_text("segment")
    second = page.context.new_page()
    second.goto(served.address)
    expect(second.locator("#running .take")).to_be_visible()
    page.close()
    expect(second.get_by_role("button", name="Stop", exact=True)).to_be_enabled()
    second.get_by_role("button", name="Stop", exact=True).click()
    expect(second.locator("#running .take.running")).to_have_count(0)
    second.close()


def test_a_job_ends_and_is_kept_while_nobody_looks(page: Page, served: Served) -> None:
    opened(page, served)
    say(page, "The rain has stopped. " * 8)
    expect(page.locator("#running .take")).to_be_visible()
    context = page.context
    page.close()
    (ticket,) = served.studio.desk._tickets.values()
    assert ticket.finished.wait(60)
    again = opened(context.new_page(), served)
    expect(again.locator("#results .take")).to_contain_text("The rain has stopped")
    again.close()


def test_history_survives_a_restart(page: Page, settings: StudioSettings, tmp_path: Path) -> None:
    own = StudioSettings(model=settings.model, data=tmp_path / "data")
    with serving(own) as served:
        opened(page, served)
        say(page, "Hello there.")
        expect(page.locator("#results .take")).to_be_visible()
        page.goto("about:blank")
    with serving(own) as served:
        opened(page, served)
        expect(page.locator("#results .take")).to_contain_text("Hello there.")
        open_history(page)
        expect(page.locator("#rows .row")).to_have_count(1)
        page.locator("#details").get_by_role("button", name="Play: Hello there.").click()
        assert heard(page) > 0
        expect(page.locator("#details .facts")).to_contain_text(SEED)
        page.goto("about:blank")


def test_use_these_settings_again(page: Page, served: Served) -> None:
    opened(page, served)
    page.get_by_label("number input for Wording").fill("0.35")
    page.get_by_role("button", name="More:").click()
    page.get_by_label("Choices, words").fill("40")
    say(page, "Hello there.", seed="3")
    expect(page.locator("#results .take")).to_be_visible()
    page = opened(page.context.new_page(), served)
    expect(page.get_by_label("What should be said?")).to_have_value("")
    open_history(page)
    page.get_by_role("button", name="Use these settings again").click()
    expect(page.get_by_role("tab", name="Generate")).to_have_attribute("aria-selected", "true")
    expect(page.get_by_label("What should be said?")).to_have_value("Hello there.")
    expect(page.locator("#seed textarea")).to_have_value("3")
    expect(page.get_by_label("Keep this seed")).to_be_checked()
    expect(page.get_by_label("number input for Wording")).to_have_value("0.35")
    page.get_by_role("button", name="Generate").click()
    expect(page.locator("#results .take")).to_have_count(2)
    second, first = served.studio.history.search()
    assert first.details["settings"]["semantic"]["top_k"] == 40
    assert first.details["settings"] == second.details["settings"]
    assert first.duration_s == second.duration_s


def test_find_and_delete(page: Page, served: Served) -> None:
    history = served.studio.history
    for text in ("Good morning, Ann.", "Good night, Bob.", "<b>bold</b>"):
        history.add(made(text))
    opened(page, served)
    open_history(page)
    rows = page.locator("#rows .row")
    expect(rows).to_have_count(3)
    expect(rows.first).to_contain_text("<b>bold</b>")
    page.get_by_label("Find").fill("night")
    expect(rows).to_have_count(1)
    rows.click()
    expect(page.locator("#details .words")).to_have_text("Good night, Bob.")
    page.get_by_role("button", name="Delete").click()
    assert history.count() == 3  # the first press only asks
    page.get_by_role("button", name="Press again to delete for good").click()
    expect(page.locator("#rows")).to_contain_text("Nothing made here has")
    assert history.count() == 2
    page.get_by_role("button", name="Show everything").click()
    expect(rows).to_have_count(2)


def test_downloads_have_a_name(page: Page, served: Served) -> None:
    served.studio.history.add(made("Good morning, Ann."))
    opened(page, served)
    with page.expect_download() as download:
        page.get_by_role("link", name="Download: Good morning, Ann.").click()
    assert download.value.suggested_filename == "good-morning-ann.flac"


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("#seed textarea", "twelve", "must be a whole number"),
        ("#words-top-k input", "2.5", "must be a whole number"),
        ("#sound-top-k input", "-3", "must be within"),
        ("#longest input", "-1", "must be within"),
    ],
)
def test_what_can_t_be_done_is_told(
    page: Page, served: Served, field: str, value: str, message: str
) -> None:
    opened(page, served)
    page.get_by_role("button", name="More:").click()
    page.get_by_label("What should be said?").fill("Hello there.")
    page.get_by_label("Keep this seed").check()
    page.locator(field).fill(value)
    page.get_by_role("button", name="Generate").click()
    notice = page.locator("#notice").get_by_role("alert")
    expect(notice).to_contain_text("A setting is out of its range")
    expect(notice).to_contain_text(message)


def test_an_empty_prompt_is_told_until_it_is_mended(page: Page, served: Served) -> None:
    opened(page, served)
    page.get_by_role("button", name="Generate").click()
    expect(page.locator("#notice")).to_contain_text("Type at least one word")
    say(page, "Hello there.")
    expect(page.locator("#notice .notice")).to_have_count(0)
    expect(page.locator("#results .take")).to_be_visible()


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here")
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone_never_scrolls_sideways(page: Page, served: Served, scheme: str) -> None:
    served.studio.history.add(made("Donaudampfschifffahrtsgesellschaftskapitän" * 5))
    page.emulate_media(color_scheme="dark" if scheme == "dark" else "light")
    page.set_viewport_size({"width": 360, "height": 740})
    opened(page, served)
    page.get_by_role("button", name="More:").click()
    for tab in ("Generate", "History"):
        page.get_by_role("tab", name=tab).click()
        page.wait_for_timeout(300)
        assert page.evaluate("() => document.documentElement.scrollWidth") <= 360
        ground = page.evaluate("() => getComputedStyle(document.body).backgroundColor")
        assert ground == ("rgb(21, 19, 17)" if scheme == "dark" else "rgb(251, 249, 246)")
    page.get_by_role("tab", name="Generate").click()
    # the two buttons stay within the thumb's reach, wherever one is in the settings
    box = page.get_by_role("button", name="Generate").bounding_box()
    assert box is not None
    assert 0 < box["y"] < 740 - box["height"]

"""What a person does in the History tab, in a real browser."""

from __future__ import annotations

import base64
import csv
import io
import re
import zipfile
from pathlib import Path

import pytest
from playwright.sync_api import Locator, Page, expect

from tests.browser.test_axe import violations
from tests.made import made
from tests.served import Served
from webui.exports import Encoder
from webui.history import Entry, History

TEXTS = ("Good morning, Ann.", "Good night, Bob.", "Good evening, Carl.", "<b>bold</b>")


def opened(page: Page, served: Served) -> Page:
    page.goto(served.address)
    expect(page.locator("#masthead .status.ready")).to_be_visible()
    return open_history(page)


def open_history(page: Page) -> Page:
    tab = page.get_by_role("tab", name="History")
    menu = page.locator("#tabs .overflow-menu > button")
    expect(tab.or_(menu).first).to_be_visible()
    if not tab.is_visible():
        menu.click()
        page.locator("#tabs .overflow-dropdown").get_by_text("History").click()
    else:
        tab.click()
    expect(page.get_by_label("Find")).to_be_visible()
    return page


def filled(history: History) -> list[Entry]:
    """The newest first, as the list shows them."""
    voices = (None, "rosa", "ralf", "rosa")
    entries = [
        history.add(made(text, seed=n, voice_name=voice), created_at=1e9 + n)
        for n, (text, voice) in enumerate(zip(TEXTS, voices, strict=True))
    ]
    return entries[::-1]


def rows(page: Page) -> Locator:
    return page.locator("#rows .row")


def choose(page: Page, name: str, option: str) -> None:
    """A filter."""
    field = page.locator("#filters").get_by_label(name, exact=True)
    field.click()
    page.get_by_role("option", name=option).click()


def test_an_old_result_is_found_and_its_settings_used(page: Page, served: Served) -> None:
    history = served.studio.history
    for n in range(60):
        history.add(made(f"Take number {n}", seed=n))
    history.add(made("The needle in the hay", seed=4242), created_at=1.0)
    opened(page, served)
    expect(rows(page)).to_have_count(50)
    expect(page.locator("#rows .total")).to_have_text("61 takes")
    page.get_by_role("button", name="Show more").click()
    expect(rows(page)).to_have_count(61)
    page.get_by_label("Find").fill("NEEDLE 4242")
    expect(rows(page)).to_have_count(1)
    rows(page).click()
    expect(page.locator("#details .words")).to_have_text("The needle in the hay")
    expect(page.locator("#details .facts")).to_contain_text("4242")
    page.get_by_role("button", name="Use these settings again").click()
    expect(page.get_by_role("tab", name="Generate")).to_have_attribute("aria-selected", "true")
    expect(page.get_by_label("What should be said?")).to_have_value("The needle in the hay")


def test_filters_narrow_the_list_and_are_taken_back(page: Page, served: Served) -> None:
    entries = filled(served.studio.history)
    served.studio.history.set_tags(entries[0].id, ["film"])
    served.studio.history.set_favourite(entries[3].id, True)
    opened(page, served)
    expect(rows(page)).to_have_count(4)
    choose(page, "Voice", "Rosa")
    expect(rows(page)).to_have_count(2)
    choose(page, "Tag", "film")
    expect(rows(page)).to_have_count(1)
    expect(rows(page)).to_contain_text("<b>bold</b>")
    page.get_by_label("Favourites only").check()
    expect(page.locator("#rows .empty")).to_contain_text("Nothing that was made here fits.")
    page.get_by_role("button", name="Show everything").click()
    expect(rows(page)).to_have_count(4)
    expect(page.get_by_label("Favourites only")).not_to_be_checked()
    page.get_by_label("Favourites only").check()
    expect(rows(page)).to_have_count(1)
    expect(rows(page)).to_contain_text("Good morning, Ann.")


def test_all_that_is_known_of_a_take_is_told(page: Page, served: Served) -> None:
    served.studio.history.add(made("Two parts.", n_segments=2, voice_name="rosa"))
    opened(page, served)
    details = page.locator("#details")
    facts = details.locator(".facts")
    for told in ("Rosa", "temperature 0.7", "end threshold 0.2", "tiny, float32", "MB"):
        expect(facts).to_contain_text(told)
    expect(details.locator(".segments li")).to_have_count(2)


def test_tags_are_added_and_removed(page: Page, served: Served) -> None:
    history = served.studio.history
    (entry,) = [history.add(made("Good morning, Ann."))]
    opened(page, served)
    field = page.locator("#details").get_by_label("Add a tag")
    field.fill("for the film")
    field.press("Enter")
    chip = page.locator("#details .tags li")
    expect(chip).to_contain_text("for the film")
    expect(page.locator("#rows .tag")).to_have_text("for the film")
    # the next one can be typed at once
    expect(page.locator("#details").get_by_label("Add a tag")).to_be_focused()
    page.keyboard.type("<i>night</i>")
    page.get_by_role("button", name="Add a tag").click()
    expect(chip).to_have_count(2)
    page.get_by_role("button", name="Remove the tag: for the film").click()
    expect(chip).to_have_count(1)
    kept = history.get(entry.id)
    assert kept is not None and kept.tags == ("<i>night</i>",)


def test_a_star_makes_a_favourite_and_focus_stays(page: Page, served: Served) -> None:
    history = served.studio.history
    entries = filled(history)
    opened(page, served)
    star = page.locator("#rows").get_by_role("button", name="Favourite: Good evening, Carl.")
    expect(star).to_have_attribute("aria-pressed", "false")
    star.click()
    expect(star).to_have_attribute("aria-pressed", "true")
    page.wait_for_timeout(500)
    expect(star).to_be_focused()
    assert history.ids(favourite=True) == [entries[1].id]


def test_delete_undo_and_the_bin(page: Page, served: Served) -> None:
    history = served.studio.history
    filled(history)
    opened(page, served)
    rows(page).nth(1).click()
    expect(page.locator("#details .words")).to_have_text("Good evening, Carl.")
    page.locator("#details").get_by_role("button", name="Delete").click()
    expect(rows(page)).to_have_count(3)
    # what follows it is looked at
    expect(page.locator("#details .words")).to_have_text("Good night, Bob.")
    page.get_by_role("button", name="Undo").click()
    expect(rows(page)).to_have_count(4)
    assert history.count() == 4
    page.locator("#details").get_by_role("button", name="Delete").click()
    expect(rows(page)).to_have_count(3)
    page.get_by_role("button", name="Dismiss").click()
    expect(page.locator("#disk")).to_contain_text("1 deleted take stays in the bin")
    page.get_by_role("button", name="Put back").click()
    expect(rows(page)).to_have_count(4)
    page.locator("#details").get_by_role("button", name="Delete").click()
    page.get_by_role("button", name="Empty the bin").click()
    expect(page.locator("#disk")).not_to_contain_text("in the bin for")
    assert history.trashed() == []
    assert len(list(history.sounds.glob("*.flac"))) == 3


def test_several_are_selected_zipped_and_deleted(page: Page, served: Served) -> None:
    history = served.studio.history
    filled(history)
    opened(page, served)
    boxes = page.locator("#rows [data-pick]")
    bar = page.locator("#rows .picked")
    expect(bar).to_be_hidden()
    boxes.nth(1).click()
    boxes.nth(3).click(modifiers=["Shift"])
    expect(bar).to_contain_text("3 takes selected")
    with page.expect_download() as download:
        bar.get_by_role("button", name="Download as zip").click()
    assert re.fullmatch(r"bark-studio-[\d-]+\.zip", download.value.suggested_filename)
    archive = zipfile.ZipFile(io.BytesIO(Path(download.value.path()).read_bytes()))
    assert archive.namelist()[0] == "settings.csv" and len(archive.namelist()) == 4
    table = csv.DictReader(io.StringIO(archive.read("settings.csv").decode("utf-8-sig")))
    assert {row["text"] for row in table} == set(TEXTS[:3])
    bar.get_by_label("Tag them").fill("kept")
    bar.get_by_role("button", name="Tag them").click()
    expect(page.locator("#rows .tag")).to_have_count(3)
    # what is selected stays selected
    expect(bar).to_contain_text("3 takes selected")
    bar.get_by_role("button", name="Delete").click()
    expect(rows(page)).to_have_count(1)
    expect(bar).to_be_hidden()
    page.get_by_role("button", name="Undo").click()
    expect(rows(page)).to_have_count(4)
    assert len(history.ids(tag="kept")) == 3


def test_all_that_was_found_is_selected(page: Page, served: Served) -> None:
    history = served.studio.history
    for n in range(60):
        history.add(made(f"Take number {n}"))
    history.add(made("Another"))
    opened(page, served)
    page.get_by_label("Find").fill("number")
    expect(page.locator("#rows .total")).to_have_text("60 takes")
    page.get_by_role("button", name="Select all").click()
    bar = page.locator("#rows .picked")
    expect(bar).to_contain_text("60 takes selected")
    bar.get_by_role("button", name="Delete").click()
    expect(page.locator("#rows .empty")).to_be_visible()
    assert [entry.text for entry in history.search()] == ["Another"]


def test_the_list_is_walked_by_keyboard(page: Page, served: Served) -> None:
    history = served.studio.history
    filled(history)
    opened(page, served)
    expect(rows(page)).to_have_count(4)
    rows(page).first.focus()
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowDown")
    expect(rows(page).nth(2)).to_be_focused()
    expect(page.locator("#details .words")).to_have_text("Good night, Bob.")
    ring = rows(page).nth(2).evaluate("row => getComputedStyle(row).outlineStyle")
    assert ring == "solid"
    page.keyboard.press("End")
    page.keyboard.press("Enter")
    expect(page.locator("#details .words")).to_have_text("Good morning, Ann.")
    page.wait_for_function("() => document.querySelector('#studio-audio').duration > 0")
    page.keyboard.press("Home")
    page.keyboard.press("Space")
    page.keyboard.press("Shift+ArrowDown")
    expect(page.locator("#rows .picked")).to_contain_text("2 takes selected")
    page.keyboard.press("Escape")
    expect(page.locator("#rows .picked")).to_be_hidden()
    page.keyboard.press("f")
    expect(page.locator("#rows [aria-pressed=true]")).to_have_count(1)
    expect(rows(page).nth(1)).to_be_focused()
    page.keyboard.press("Delete")
    expect(rows(page)).to_have_count(3)
    # the next one has the focus, so that one can go on
    expect(rows(page).nth(1)).to_be_focused()
    # one stop of Tab for the whole list
    stops = page.locator("#rows ul [tabindex='0']")
    expect(stops).to_have_count(3)  # the box, the row and the star of one


def drop(page: Page, name: str, data: bytes) -> None:
    """As if a file was dragged over the page and let go."""
    page.evaluate(
        """([name, data]) => {
          const bytes = Uint8Array.from(atob(data), (c) => c.charCodeAt(0));
          const transfer = new DataTransfer();
          transfer.items.add(new File([bytes], name));
          const options = {bubbles: true, cancelable: true, dataTransfer: transfer};
          document.body.dispatchEvent(new DragEvent("dragover", options));
          window.hinted = !document.querySelector("#studio-drop").hidden;
          document.body.dispatchEvent(new DragEvent("drop", options));
        }""",
        [name, base64.b64encode(data).decode()],
    )
    assert page.evaluate("() => window.hinted && document.querySelector('#studio-drop').hidden")


@pytest.mark.parametrize("suffix", ["flac", "mp3", "wav", "opus"])
def test_a_file_that_was_made_here_opens_where_it_is_dropped(
    page: Page, served: Served, suffix: str
) -> None:
    history = served.studio.history
    entry = history.add(made("Good morning, Ann."))
    data = Encoder(history).path(entry.id, suffix).read_bytes()
    history.delete(entry.id)
    opened(page, served)
    expect(page.locator("#rows .empty")).to_be_visible()
    drop(page, f"good-morning.{suffix}", data)
    expect(page.get_by_label("What should be said?")).to_have_value("Good morning, Ann.")
    expect(page.locator("#studio-says")).to_contain_text("settings of this file")


def test_a_file_opens_by_a_button(page: Page, served: Served) -> None:
    history = served.studio.history
    entry = history.add(made("Good morning, Ann."))
    opened(page, served)
    with page.expect_file_chooser() as chooser:
        page.get_by_role("button", name="Open a file made here").click()
    chooser.value.set_files(Encoder(history).path(entry.id, "mp3"))
    expect(page.get_by_label("What should be said?")).to_have_value("Good morning, Ann.")


def test_a_stranger_s_file_gets_a_calm_message(page: Page, served: Served) -> None:
    opened(page, served)
    drop(page, "letter.txt", b"Dear Ann")
    told = page.locator("#studio-says")
    expect(told).to_contain_text("That file can’t be opened here.")
    expect(told).to_contain_text("Open a WAV, FLAC, MP3 or Opus file.")
    expect(page.get_by_label("Find")).to_be_visible()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nothing_is_in_the_way_of_anybody(page: Page, served: Served, scheme: str) -> None:
    page.emulate_media(
        color_scheme="dark" if scheme == "dark" else "light", reduced_motion="reduce"
    )
    entries = filled(served.studio.history)
    served.studio.history.set_tags(entries[0].id, ["film"])
    opened(page, served)
    page.locator("#rows [data-pick]").nth(1).click()
    expect(page.locator("#rows .picked")).to_be_visible()
    assert violations(page) == []
    page.locator("#details").get_by_role("button", name="Delete").click()
    expect(page.locator("#undo .undo")).to_be_visible()
    assert violations(page) == []


def test_a_phone_shows_all_of_it(page: Page, served: Served) -> None:
    history = served.studio.history
    filled(history)
    history.add(made("Donaudampfschifffahrtsgesellschaftskapitän" * 5))
    page.set_viewport_size({"width": 375, "height": 740})
    opened(page, served)
    rows(page).nth(1).click()
    expect(page.locator("#details .words")).to_have_text("<b>bold</b>")
    page.locator("#rows [data-pick]").first.click()
    assert page.evaluate("() => document.documentElement.scrollWidth") <= 375
    page.locator("#details").get_by_role("button", name="Delete").click()
    undo = page.get_by_role("button", name="Undo")
    expect(undo).to_be_in_viewport()
    undo.click()
    expect(rows(page)).to_have_count(5)

"""What a person does with voices, in a real browser."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
from playwright.sync_api import FilePayload, Locator, Page, expect

from bark_core import GenerationRequest, TokenLayout, Voice
from bark_core.npz import npz_bytes
from tests.browser.test_axe import violations
from tests.browser.test_page import heard, opened
from tests.page_model import LAYOUT
from tests.served import Served
from tests.test_previews import page_voice

SENTENCE = "The rain has stopped."


@pytest.fixture
def voices(served: Served) -> Iterator[Served]:
    """A studio without voices of one's own, before and after."""
    yield served
    library = served.studio.voices
    for entry in library.entries():
        if entry.source == "yours":
            library.delete(entry.name)
    for liked in served.studio.favourites.of(""):
        served.studio.favourites.like(liked, False, owner="")


def open_voices(page: Page, served: Served) -> None:
    opened(page, served)
    page.get_by_role("tab", name="Voices").click()
    expect(page.get_by_label("Find a voice")).to_be_visible()


def keep(served: Served, name: str, n_semantic: int = 90, **notes: str) -> Voice:
    voice = replace(page_voice(n_semantic), **notes)  # type: ignore[arg-type]
    served.studio.voices.save(voice, name)
    return voice


def rows(page: Page) -> Locator:
    return page.locator("#voice-rows .row")


def details(page: Page) -> Locator:
    return page.locator("#voice-details article")


def files(*named: tuple[str, bytes]) -> list[FilePayload]:
    return [
        FilePayload(name=name, mimeType="application/octet-stream", buffer=data)
        for name, data in named
    ]


def take(served: Served, text: str = SENTENCE, seed: int = 1) -> str:
    """Something that was made with the page's own model."""
    ticket = served.studio.desk.submit(GenerationRequest(text, seed=seed))
    assert ticket.finished.wait(60)
    assert ticket.entry is not None
    return ticket.id


def test_without_voices_it_says_what_to_do(page: Page, voices: Served) -> None:
    open_voices(page, voices)
    expect(page.locator("#voice-rows .empty")).to_contain_text("Roll some")
    expect(page.locator("#voice-details .empty")).to_be_visible()


def test_a_voice_from_a_result_is_kept_and_used(page: Page, voices: Served) -> None:
    text = "The rain has stopped. " * 8
    entry_id = take(voices, text)
    opened(page, voices)
    result = page.locator(f'#results [data-take="{entry_id}"]')
    result.get_by_text("More", exact=True).click()
    result.get_by_role("button", name=re.compile("^Save as voice")).click()
    expect(page.get_by_role("tab", name="Voices")).to_have_attribute("aria-selected", "true")
    segments = details(page).get_by_role("radio")
    assert segments.count() > 1
    details(page).locator(".segment .hear").first.click()
    assert heard(page) > 0
    segments.nth(1).check()
    details(page).get_by_label("Name").fill("Anna")
    details(page).get_by_label("Who is heard").fill("a friend, whispering")
    details(page).get_by_role("button", name="Keep this voice").click()
    expect(page.locator("#voices-said")).to_contain_text("Anna is one of your voices now")
    expect(details(page).locator("h2")).to_have_text("Anna")
    expect(rows(page)).to_contain_text(["Anna"])
    voice = voices.studio.voices["Anna"]
    kept = voices.studio.history.segments(entry_id, LAYOUT)
    assert voice.sha256 == kept[1].sha256
    assert voice.description == "a friend, whispering"
    details(page).get_by_role("button", name="Use it").click()
    expect(page.get_by_role("tab", name="Generate")).to_have_attribute("aria-selected", "true")
    expect(page.locator("#voice-chosen")).to_contain_text("Anna")


def test_a_preview_plays_and_stops(page: Page, voices: Served) -> None:
    keep(voices, "Anna")
    open_voices(page, voices)
    listen = page.locator("#voice-rows").get_by_role("button", name="Listen to Anna")
    listen.click()
    assert heard(page) == pytest.approx(page_voice(90).duration_s, abs=0.05)
    expect(listen).to_have_attribute("aria-pressed", "false")  # it is short, and ends
    expect(details(page).locator(".player")).to_be_visible()
    details(page).get_by_role("button", name="Play: Anna").click()
    page.wait_for_function("() => document.querySelector('#studio-audio').currentTime > 0.2")


def test_files_are_added_or_refused_one_by_one(page: Page, voices: Served) -> None:
    open_voices(page, voices)
    page.get_by_role("button", name="Add voice files").click()
    good = replace(page_voice(), name="Otto", description="an uncle").to_bytes()
    arrays = {"semantic_prompt": np.arange(5), "other": np.arange(5)}
    far = replace(page_voice().semantic.layout, name="elsewhere")
    foreign = _of_layout(far).to_bytes()
    page.locator("#voice-files input[type=file]").set_input_files(
        files(
            ("good.npz", good),
            ("text.txt", b"not a voice at all"),
            ("half.npz", good[: len(good) // 2]),
            ("pickle.npz", b"\x80\x04\x95junk"),
            ("other.npz", npz_bytes(arrays)),
            ("far.npz", foreign),
        )
    )
    said = page.locator("#voices-said")
    expect(said).to_contain_text("1 voice was added: Otto")
    refused = said.locator(".notice")
    expect(refused).to_have_count(5)
    for words in (
        "text.txt wasn’t added", "half.npz wasn’t added", "never opened here",
        "oarse_prompt, fine_prompt are missing", "Install that model",
    ):  # fmt: skip
        expect(said).to_contain_text(words)
    expect(details(page).locator("h2")).to_have_text("Otto")
    assert voices.studio.voices["Otto"].sha256 == page_voice().sha256


def _of_layout(layout: TokenLayout) -> Voice:
    voice = page_voice()
    return Voice(
        replace(voice.semantic, layout=layout),
        replace(voice.coarse, layout=layout),
        replace(voice.fine, layout=layout),
    )


def test_rename_describe_trim_delete_and_back(page: Page, voices: Served) -> None:
    keep(voices, "Anna", 120)
    open_voices(page, voices)
    details(page).get_by_text("Rename and describe").click()
    form = details(page).locator("[data-keep=keep-notes]")
    form.get_by_label("Name").fill("rosa")  # taken
    form.get_by_role("button", name="Keep").click()
    expect(page.locator("#voices-said .notice")).to_contain_text("is taken by")
    expect(form.get_by_label("Name")).to_have_value("rosa")  # what was typed stays
    form.get_by_label("Name").fill("Berta")
    form.get_by_label("Who is heard").fill("an aunt")
    form.get_by_label("Language").select_option("de")
    form.get_by_role("button", name="Keep").click()
    expect(details(page).locator("h2")).to_have_text("Berta")
    expect(rows(page)).to_contain_text(["An aunt"])
    expect(details(page).locator(".facts")).to_contain_text("Deutsch")

    details(page).get_by_text("Keep a part of it").click()
    part = details(page).locator("[data-keep=keep-part]")
    part.locator("[name=to]").fill("0.2")
    part.get_by_role("button", name="Keep as a new voice").click()
    expect(page.locator("#voices-said .notice")).to_contain_text("at least 0.5 s")
    part.locator("[name=from]").fill("0.5")
    part.locator("[name=to]").fill("1.5")
    expect(part.locator("[data-part-length]")).to_have_text("1.0 s")
    part.get_by_role("button", name="Hear this part").click()
    page.wait_for_function("() => document.querySelector('#studio-audio').currentTime > 1.3")
    page.wait_for_function("() => document.querySelector('#studio-audio').paused")
    part.get_by_label("Name of the new voice").fill("Berta short")
    part.get_by_role("button", name="Keep as a new voice").click()
    expect(details(page).locator("h2")).to_have_text("Berta short")
    assert voices.studio.voices["Berta short"].duration_s == pytest.approx(1.0, abs=0.06)
    assert voices.studio.voices["Berta"].duration_s == pytest.approx(2.4, abs=0.06)

    details(page).get_by_role("button", name="Delete").click()
    expect(page.locator("#voices-said")).to_contain_text("Berta short was deleted")
    expect(rows(page)).to_have_count(1)
    page.locator("#voices-said").get_by_role("button", name="Undo").click()
    expect(rows(page)).to_have_count(2)
    expect(details(page).locator("h2")).to_have_text("Berta short")


def test_replacing_asks_first(page: Page, voices: Served) -> None:
    keep(voices, "Anna", 120)
    open_voices(page, voices)
    details(page).get_by_text("Keep a part of it").click()
    details(page).locator("[name=to]").fill("1")
    press = details(page).locator("[data-action=replace-part]")
    press.click()
    expect(press).to_contain_text("Press again")
    assert voices.studio.voices["Anna"].duration_s > 2
    press.click()
    expect(page.locator("#voices-said")).to_contain_text("Anna is one of your voices now")
    assert voices.studio.voices["Anna"].duration_s == pytest.approx(1.0, abs=0.06)


def test_roll_reload_and_keep(page: Page, voices: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    # seeds with which the random model doesn't fall silent
    monkeypatch.setattr("webui.voices_roll.random_seed", lambda: 3)
    open_voices(page, voices)
    page.get_by_role("button", name="Roll new voices").click()
    page.get_by_label("What should they say?").fill(SENTENCE)
    page.get_by_label("number input for How many").fill("2")
    page.get_by_role("button", name="Roll voices").click()
    expect(page.locator("#rolls .take")).to_have_count(2)
    page.reload()
    page.get_by_role("tab", name="Voices").click()
    page.get_by_role("button", name="Roll new voices").click()
    cards = page.locator("#rolls .take")
    expect(cards).to_have_count(2)
    expect(page.locator("#rolls .player")).to_have_count(2)
    first = cards.first
    first.get_by_role("button", name="Play: Voice 1").click()
    assert heard(page) > 0
    first.get_by_role("textbox").fill("Vera")
    first.get_by_role("textbox").press("Enter")
    expect(first).to_contain_text("Kept as Vera")
    expect(details(page).locator("h2")).to_have_text("Vera")
    assert voices.studio.voices["Vera"].kind == "generated"
    assert voices.studio.history.count() == 2
    page.get_by_role("button", name="Done with these").click()
    expect(cards).to_have_count(0)
    assert voices.studio.history.count() == 2


def test_find_filter_and_favourites(page: Page, voices: Served) -> None:
    keep(voices, "Anna", description="an aunt", language="de", kind="cloned")
    keep(voices, "Otto", 60, description="an uncle")
    open_voices(page, voices)
    expect(rows(page)).to_have_count(2)
    page.get_by_label("Find a voice").fill("german")
    expect(rows(page)).to_have_count(1)
    page.get_by_label("Find a voice").fill("nobody")
    page.get_by_role("button", name="Show all of them").click()
    expect(rows(page)).to_have_count(2)
    expect(page.get_by_label("Find a voice")).to_have_value("")
    star = page.locator("#voice-rows").get_by_role("button", name="Favourite: Otto")
    star.click()
    expect(star).to_have_attribute("aria-pressed", "true")
    page.get_by_label("Only favourites").check()
    expect(rows(page)).to_have_count(1)
    expect(rows(page)).to_contain_text(["Otto"])
    page.reload()  # it is remembered
    page.get_by_role("tab", name="Voices").click()
    star = page.locator("#voice-rows").get_by_role("button", name="Favourite: Otto")
    expect(star).to_have_attribute("aria-pressed", "true")


def test_other_models_voices_say_what_they_need(page: Page, voices: Served) -> None:
    open_voices(page, voices)
    page.get_by_label("Voices of all models").check()
    expect(page.locator("#voice-rows .total")).to_contain_text("voices")
    page.get_by_label("Find a voice").fill("v2/en_speaker_6")
    expect(rows(page)).to_have_count(1)
    expect(rows(page)).to_contain_text(["needs the model small, large"])
    rows(page).click()
    expect(details(page)).to_contain_text("MIT")
    expect(details(page).locator(".player")).to_have_count(0)


def test_a_phone_never_scrolls_sideways(page: Page, voices: Served) -> None:
    keep(voices, "Anna-" * 12, 120, description="who is heard there, " * 10)
    page.set_viewport_size({"width": 375, "height": 740})
    open_voices(page, voices)
    rows(page).first.click()
    expect(details(page).locator(".player")).to_be_visible()
    details(page).get_by_text("Keep a part of it").click()
    page.get_by_role("button", name="Roll new voices").click()
    page.get_by_role("button", name="Add voice files").click()
    wide = page.evaluate("() => document.documentElement.scrollWidth - innerWidth")
    assert wide <= 0


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_of_ours(
    page: Page, voices: Served, scheme: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("webui.voices_roll.random_seed", lambda: 3)
    page.emulate_media(
        color_scheme="dark" if scheme == "dark" else "light", reduced_motion="reduce"
    )
    open_voices(page, voices)
    assert violations(page) == []
    keep(voices, "Anna", 120, language="de")
    entry_id = take(voices, "The rain has stopped. " * 8)
    page.get_by_label("Voices of all models").check()
    rows(page).filter(has_text="Anna").click()
    expect(details(page).locator(".player")).to_be_visible()
    for folded in ("Rename and describe", "Keep a part of it"):
        details(page).get_by_text(folded).click()
    page.get_by_role("button", name="Roll new voices").click()
    page.get_by_role("button", name="Add voice files").click()
    page.get_by_label("number input for How many").fill("2")
    page.get_by_role("button", name="Roll voices").click()
    expect(page.locator("#rolls .player")).to_have_count(2)
    page.locator("#voice-files input[type=file]").set_input_files(files(("bad.npz", b"junk")))
    expect(page.locator("#voices-said .notice")).to_be_visible()
    assert violations(page) == []
    page.get_by_role("tab", name="Generate").click()
    result = page.locator(f'#results [data-take="{entry_id}"]')
    result.get_by_text("More", exact=True).click()
    result.get_by_role("button", name=re.compile("^Save as voice")).click()
    expect(details(page).get_by_role("radio").first).to_be_visible()
    assert violations(page) == []

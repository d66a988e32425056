"""What a person does with the page, in a real browser."""

from __future__ import annotations

import contextlib
import re
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Locator, Page, Request, expect

from bark_core import AudioChunk
from tests.browser.conftest import CHROMIUM, PATIENCE_MS
from tests.made import made
from tests.served import Served, serving
from webui import languages
from webui.jobs import Ticket
from webui.settings import StudioSettings

# a sentence a segment, each a second or so of work
LONG = "The rain has stopped, and the river is high. " * 12
ROOT = Path(__file__).resolve().parents[2]
SEED = "1"  # with which the random model doesn't fall silent


def opened(page: Page, served: Served) -> Page:
    page.goto(served.address)
    expect(page.locator("#masthead .status.ready")).to_be_visible()
    # the list of voices comes with the first answer, as do drafts
    expect(page.locator("#voice-chosen")).to_be_visible()
    return page


def open_more(page: Page) -> None:
    """Unfold the dials, if they aren't."""
    if not page.locator("#seed textarea").is_visible():
        page.get_by_role("button", name="More:").click()
        expect(page.locator("#seed textarea")).to_be_visible()


def keep_seed(page: Page, seed: str = SEED) -> None:
    open_more(page)
    page.locator("#seed textarea").fill(seed)
    page.get_by_label("Keep this seed").check()


def say(page: Page, text: str, *, seed: str = SEED) -> None:
    keep_seed(page, seed)
    prompt(page).fill(text)
    generate(page)


def prompt(page: Page) -> Locator:
    return page.get_by_label("What should be said?")


def cue(page: Page, sign: str) -> Locator:
    return page.locator(f'[data-cue="{sign}"]')


def generate(page: Page) -> None:
    page.locator("#generate").click()


def menu_of(page: Page, name: str, choice: str) -> None:
    """Choose something in a menu of the newest result."""
    page.locator("#results .take").first.locator("summary", has_text=name).click()
    page.locator("#results .take").first.get_by_text(choice, exact=True).click()


def heard(page: Page) -> float:
    """Seconds of the sound in the player, once it is there."""
    page.wait_for_function("() => document.querySelector('#studio-audio').duration > 0")
    return float(page.evaluate("() => document.querySelector('#studio-audio').duration"))


def open_history(page: Page) -> None:
    page.get_by_role("tab", name="History").click()
    expect(page.get_by_label("Find")).to_be_visible()


def test_generate_with_the_keyboard_and_hear(page: Page, served: Served) -> None:
    opened(page, served)
    keep_seed(page)
    prompt(page).fill("Hello there.")
    expect(page.locator("#plan")).to_contain_text("1 segment")
    prompt(page).press("Control+Enter")
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
    expect(prompt(page)).to_have_value(re.compile("[a-z]{3}"))


def test_progress_and_sound_before_the_end_and_stop_keeps_it(page: Page, served: Served) -> None:
    opened(page, served)
    expect(page.get_by_role("button", name="Stop", exact=True)).to_be_disabled()
    say(page, LONG * 8)  # it has to run for longer than the first sound is heard
    card = page.locator("#running .take")
    expect(card.get_by_role("progressbar", name="words")).to_be_visible()
    expect(card.locator(".line")).to_contain_text(re.compile(r"segment \d of"))
    expect(card.locator(".player")).to_be_visible()
    first_s = heard(page)
    expect(card.locator(".line")).to_contain_text(re.compile("left"))
    # it goes on playing into what was made meanwhile
    page.wait_for_function(
        "s => document.querySelector('#studio-audio').currentTime > s + 0.2", arg=first_s
    )
    page.get_by_role("button", name="Stop", exact=True).click()
    expect(page.locator("#running .take")).to_have_count(0)
    expect(page.locator("#results .take")).to_contain_text("stopped early")
    (entry,) = served.studio.history.search()
    assert not entry.complete


def test_sound_at_once_is_heard_before_its_segment_is_finished(
    page: Page, served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    desk, asked, pieces = served.studio.desk, threading.Event(), []
    hear = desk._hear

    def hear_and_wait(ticket: Ticket, chunk: AudioChunk) -> None:
        pieces.append((chunk.ends_segment, len(chunk.so_far.segments)))
        hear(ticket, chunk)
        # the model is too quick for a browser: nothing more comes until this was fetched
        assert asked.wait(PATIENCE_MS / 1000)

    monkeypatch.setattr(desk, "_hear", hear_and_wait)

    def note(request: Request) -> None:
        if "/studio/live/" in request.url:
            asked.set()

    page.on("request", note)
    opened(page, served)
    open_more(page)
    page.get_by_label("Sound at once").check()
    page.locator("#end-threshold input[type=number]").fill("1")  # it says more than a piece
    say(page, "Hello there.")
    expect(page.locator("#results .take")).to_contain_text("Hello there.")
    assert pieces[0] == (False, 0)
    assert pieces[-1] == (True, 1)
    (entry,) = served.studio.history.search()
    assert entry.details["streaming"] is True
    # what plays goes on into what was made meanwhile
    page.wait_for_function(
        "s => document.querySelector('#studio-audio').duration > s", arg=entry.duration_s - 0.1
    )
    page.get_by_label("Sound at once").uncheck()
    menu_of(page, "More", "Use these settings")
    expect(page.get_by_label("Sound at once")).to_be_checked()


def test_what_was_typed_survives_a_reload(page: Page, served: Served) -> None:
    opened(page, served)
    prompt(page).fill("My precious words.")
    page.reload()  # at once, in the middle of the call for its plan
    expect(prompt(page)).to_have_value("My precious words.")
    expect(page.locator("#plan")).to_contain_text("segment")


def test_progress_leaves_the_rest_of_the_page_alone(page: Page, served: Served) -> None:
    served.studio.history.add(made("Good morning, Ann."))
    opened(page, served)
    say(page, LONG * 4)  # so that a quick machine has something left when it is looked at
    expect(page.locator("#running .player")).to_be_visible()
    again = page.get_by_role("button", name="Same words, new seed: Good morning, Ann.")
    again.evaluate("button => { button.marked = true; button.focus(); }")
    line = page.locator("#running .line").text_content()
    expect(page.locator("#running .line")).not_to_have_text(line or "")
    assert again.evaluate("button => button.marked && document.activeElement === button")
    page.get_by_role("button", name="Stop", exact=True).click()
    expect(page.locator("#running .take.running")).to_have_count(0)


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


def test_several_tabs_of_one_browser_are_open_at_once(page: Page, served: Served) -> None:
    tabs = [page, *(page.context.new_page() for _ in range(3))]
    for tab in tabs:
        opened(tab, served)
        prompt(tab).fill("Hello there.")
        expect(tab.locator("#plan")).to_contain_text("1 segment")
    for tab in tabs[1:]:
        tab.close()


@contextlib.contextmanager
def program(model: str, data: Path, port: int) -> Iterator[str]:
    """The studio as a program of its own, killed in the end; its address."""
    arguments = ["--model", model, "--data", str(data), "--port", str(port), "--no-open"]
    command = [sys.executable, str(ROOT / "app.py"), *arguments]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert "is at" in process.stdout.readline()
            yield f"http://127.0.0.1:{port}/"
        finally:
            process.kill()


def test_a_page_comes_back_when_its_studio_does(
    browser: Browser, settings: StudioSettings, tmp_path: Path
) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    page = browser.new_page()
    page.add_init_script("window.barkBeatMs = 1000;")
    with program(settings.model, tmp_path, port) as address:
        page.goto(address, timeout=PATIENCE_MS)
        expect(page.locator("#masthead .status.ready")).to_be_visible(timeout=PATIENCE_MS)
        prompt(page).fill("The rain has stopped.")
        page.evaluate("window.before = true")
    with program(settings.model, tmp_path, port):
        # its connection was cut, so it loads itself again; what was typed is still there
        page.wait_for_function("!window.before", timeout=2 * PATIENCE_MS)
        expect(page.locator("#plan")).to_contain_text("1 segment", timeout=2 * PATIENCE_MS)
        keep_seed(page)
        generate(page)
        expect(page.locator("#results .take")).to_contain_text(
            "The rain has stopped.", timeout=2 * PATIENCE_MS
        )
        page.close()


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
        page.locator("#results").get_by_role("button", name="Play: Hello there.").click()
        assert heard(page) > 0
        page.goto("about:blank")


def test_use_these_settings_again(page: Page, served: Served) -> None:
    opened(page, served)
    open_more(page)
    page.get_by_label("number input for Wording").fill("0.35")
    page.get_by_label("Choices, words").fill("40")
    say(page, "Hello there.", seed="3")
    expect(page.locator("#results .take")).to_be_visible()
    page = opened(page.context.new_page(), served)
    expect(prompt(page)).to_have_value("")
    menu_of(page, "More", "Use these settings")
    expect(prompt(page)).to_have_value("Hello there.")
    open_more(page)
    expect(page.locator("#seed textarea")).to_have_value("3")
    expect(page.get_by_label("Keep this seed")).to_be_checked()
    expect(page.get_by_label("number input for Wording")).to_have_value("0.35")
    generate(page)
    expect(page.locator("#results .take")).to_have_count(2)
    second, first = served.studio.history.search()
    assert first.details["settings"]["semantic"]["top_k"] == 40
    assert first.details["settings"] == second.details["settings"]
    assert first.duration_s == second.duration_s


def test_downloads_have_a_name(page: Page, served: Served) -> None:
    served.studio.history.add(made("Good morning, Ann."))
    opened(page, served)
    for choice, suffix, magic in (
        ("FLAC, lossless", "flac", b"fLaC"),
        ("Ogg Opus, smallest", "opus", b"OggS"),
    ):
        with page.expect_download() as download:
            menu_of(page, "Download", choice)
        assert download.value.suggested_filename == f"good-morning-ann.{suffix}"
        assert Path(download.value.path()).read_bytes()[:4] == magic


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("#seed textarea", "twelve", "must be a whole number"),
        ("#words-top-k input", "2.5", "must be a whole number"),
        ("#sound-top-k input", "-3", "must be within"),
        ("#longest input", "-1", "must be within"),
        ("#sound-history input", "-1", "must be within"),
    ],
)
def test_what_can_t_be_done_is_told(
    page: Page, served: Served, field: str, value: str, message: str
) -> None:
    opened(page, served)
    open_more(page)
    prompt(page).fill("Hello there.")
    page.get_by_label("Keep this seed").check()
    page.locator(field).fill(value)
    generate(page)
    notice = page.locator("#notice").get_by_role("alert")
    expect(notice).to_contain_text("A setting is out of its range")
    expect(notice).to_contain_text(message)


def test_an_empty_prompt_is_told_until_it_is_mended(page: Page, served: Served) -> None:
    opened(page, served)
    generate(page)
    expect(page.locator("#notice")).to_contain_text("Type at least one word")
    say(page, "Hello there.")
    expect(page.locator("#notice .notice")).to_have_count(0)
    expect(page.locator("#results .take")).to_be_visible()


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here")
@pytest.mark.parametrize("locale", ["de-DE", "es-ES", "fr-FR", "ja-JP", "zh-CN"])
def test_a_phone_never_scrolls_sideways_in_another_language(
    browser: Browser, served: Served, locale: str
) -> None:
    page = browser.new_page(viewport={"width": 360, "height": 740}, locale=locale)
    opened(page, served)
    expect(page.locator("html")).to_have_attribute("lang", re.compile(locale[:2]))
    for tab in range(5):
        page.get_by_role("tab").nth(tab).click()
        page.wait_for_timeout(300)
        assert page.evaluate("() => document.documentElement.scrollWidth") <= 360
    page.close()


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here")
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone_never_scrolls_sideways(page: Page, served: Served, scheme: str) -> None:
    served.studio.history.add(made("Donaudampfschifffahrtsgesellschaftskapitän" * 5))
    page.emulate_media(color_scheme="dark" if scheme == "dark" else "light")
    page.set_viewport_size({"width": 360, "height": 740})
    opened(page, served)
    open_more(page)
    for tab in ("Generate", "Script", "Voices", "History", "System"):
        page.get_by_role("tab", name=tab).click()
        page.wait_for_timeout(300)
        assert page.evaluate("() => document.documentElement.scrollWidth") <= 360
        ground = page.evaluate("() => getComputedStyle(document.body).backgroundColor")
        assert ground == ("rgb(21, 19, 17)" if scheme == "dark" else "rgb(251, 249, 246)")
    page.get_by_role("tab", name="Generate").click()
    # the two buttons stay within the thumb's reach, wherever one is in the settings
    for button in ("#generate", "#stop"):
        box = page.locator(button).bounding_box()
        assert box is not None
        assert 0 < box["y"] < 740 - box["height"]


# --- cues, voices, moods


def test_cues_are_written_where_the_cursor_is(page: Page, served: Served) -> None:
    opened(page, served)
    prompt(page).fill("Good evening friends")
    prompt(page).evaluate("field => field.setSelectionRange(4, 4)")
    cue(page, "[laughs]").click()
    expect(prompt(page)).to_have_value("Good [laughs] evening friends")
    assert page.evaluate("document.activeElement === document.querySelector('#prompt textarea')")
    page.keyboard.press("Control+z")
    expect(prompt(page)).to_have_value("Good evening friends")
    prompt(page).evaluate("field => field.setSelectionRange(5, 12)")
    cue(page, "CAPITALS").click()
    expect(prompt(page)).to_have_value("Good EVENING friends")
    prompt(page).evaluate("field => field.setSelectionRange(13, 20)")
    cue(page, "♪").click()
    expect(prompt(page)).to_have_value("Good EVENING ♪ friends ♪")


def test_a_cue_says_what_it_does_and_whether_the_model_knows_it(page: Page, served: Served) -> None:
    opened(page, served)
    cue(page, "[laughs]").focus()
    expect(page.locator("[data-cue-about]")).to_contain_text("laugh")
    expect(page.locator("[data-cue-about]")).not_to_contain_text("has not learned")
    cue(page, "[gasps]").hover()
    expect(page.locator("[data-cue-about]")).to_contain_text("page has not learned it")


def test_the_plan_unfolds_and_loses_no_word(page: Page, served: Served) -> None:
    opened(page, served)
    prompt(page).fill(LONG)
    summary = page.locator("#plan summary")
    expect(summary).to_contain_text(re.compile(r"\d+ segments"))
    summary.click()
    shown = page.locator("#plan li > span").all_text_contents()
    assert " ".join(shown).split() == LONG.split()
    prompt(page).fill(LONG * 2)  # it stays open while one types
    expect(page.locator("#plan li")).to_have_count(2 * len(shown))
    expect(page.locator("#plan li").first).to_be_visible()


def test_a_mood_sets_the_dials_and_a_dial_makes_it_one_s_own(page: Page, served: Served) -> None:
    opened(page, served)
    page.get_by_text("Steady", exact=True).click()
    expect(page.locator("#mood-about")).to_contain_text("Even and clear")
    open_more(page)
    wording = page.get_by_label("number input for Wording")
    expect(wording).to_have_value("0.5")
    wording.fill("0.65")
    wording.blur()
    expect(page.get_by_role("radio", name="Your own")).to_be_checked()
    page.reload()
    expect(page.get_by_role("radio", name="Your own")).to_be_checked()
    open_more(page)
    expect(page.get_by_label("number input for Wording")).to_have_value("0.65")


def test_the_words_of_a_rolled_voice_can_be_others(page: Page, served: Served) -> None:
    opened(page, served)
    say(page, "Hello there.")
    expect(page.locator("#results .take")).to_contain_text("a new voice")
    menu_of(page, "More", "Same voice, new words")
    expect(prompt(page)).to_have_value("")
    expect(page.locator("#voice-chosen")).to_contain_text("The voice of “Hello there.”")
    prompt(page).fill("Good night.")
    generate(page)
    expect(page.locator("#results .take")).to_have_count(2)
    second, first = served.studio.history.search()
    assert second.voice_name == f"take:{first.id}"


# --- variations and what is done with results


def test_variations_stand_side_by_side_and_are_compared(page: Page, served: Served) -> None:
    opened(page, served)
    keep_seed(page)
    page.locator("#variations input").click()
    page.get_by_role("option", name="3 takes").click()
    prompt(page).fill("Hello there.")
    generate(page)
    members = page.locator("#results .group .take")
    expect(members).to_have_count(3)
    entries = served.studio.history.search()
    assert sorted(entry.seed for entry in entries) == [1, 2, 3]
    assert len({entry.group for entry in entries}) == 1
    page.get_by_role("button", name="Compare them").click()
    letters = page.locator("#studio-compare [data-letter]")
    expect(letters).to_have_count(3)
    letters.first.click()
    expect(letters.first).to_have_attribute("aria-pressed", "true")
    page.keyboard.press("ArrowRight")
    expect(letters.nth(1)).to_have_attribute("aria-pressed", "true")
    assert "/sound/" in page.evaluate("document.querySelector('#studio-audio').src")
    page.get_by_role("button", name="Done comparing").click()
    expect(page.locator("#studio-compare")).to_have_count(0)


def test_stop_stops_all_variations(page: Page, served: Served) -> None:
    opened(page, served)
    page.locator("#variations input").click()
    page.get_by_role("option", name="4 takes").click()
    prompt(page).fill(LONG * 2)
    generate(page)
    expect(page.locator("#running .group .take.running")).to_have_count(4)
    page.locator("#stop").click()
    expect(page.locator("#running .take.running")).to_have_count(0)
    own, _others = served.studio.desk.queue()
    assert own == []


def test_the_words_stay_while_the_sound_is_made_anew(page: Page, served: Served) -> None:
    opened(page, served)
    say(page, "Hello there.")
    expect(page.locator("#results .take")).to_have_count(1)
    menu_of(page, "More", "Keep the words, redo the sound")
    expect(page.locator("#results .take")).to_have_count(2)
    redone, first = served.studio.history.search()
    assert redone.text == first.text
    assert redone.seed != first.seed
    assert redone.details["words"] is not None
    assert redone.duration_s == pytest.approx(first.duration_s, abs=0.02)


def test_same_words_new_seed_and_favourite(page: Page, served: Served) -> None:
    opened(page, served)
    say(page, "Hello there.")
    page.get_by_role("button", name="Same words, new seed").click()
    expect(page.locator("#results .take")).to_have_count(2)
    second, first = served.studio.history.search()
    assert (second.text, second.details["settings"]) == (first.text, first.details["settings"])
    assert second.seed != first.seed
    star = page.locator("#results .take").first.get_by_role("button", name="Favourite")
    star.click()
    expect(star).to_have_attribute("aria-pressed", "true")
    assert [entry.id for entry in served.studio.history.search(favourite=True)] == [second.id]


def test_menus_work_with_the_keyboard(page: Page, served: Served) -> None:
    served.studio.history.add(made("Good morning, Ann."))
    opened(page, served)
    summary = page.locator("#results .take summary", has_text="More")
    summary.focus()
    page.keyboard.press("Enter")
    page.keyboard.press("ArrowDown")
    chosen = page.locator("#results .take").get_by_role("button", name="Same voice, new words")
    expect(chosen).to_be_focused()
    page.keyboard.press("Escape")
    expect(summary).to_be_focused()
    expect(chosen).not_to_be_visible()


# --- languages


def test_the_page_speaks_the_browser_s_language_or_the_chosen_one(
    browser: Browser, served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = {"Generate": "Erzeugen", "Stop": "Anhalten", "CPU, ready": "CPU, bereit"}
    monkeypatch.setattr(languages, "texts_of", lambda code: table if code == "de" else {})
    context = browser.new_context(locale="de-DE")
    page = context.new_page()
    page.goto(served.address)
    expect(page.locator("#generate")).to_have_text("Erzeugen", timeout=PATIENCE_MS)
    expect(page.locator("html")).to_have_attribute("lang", "de")
    # what is made while the page is open speaks it too
    expect(page.locator("#masthead")).to_contain_text("CPU, bereit", timeout=PATIENCE_MS)
    page.locator("#language select").select_option("en")
    expect(page.locator("#generate")).to_have_text("Generate", timeout=PATIENCE_MS)
    page.reload()
    expect(page.locator("#generate")).to_have_text("Generate", timeout=PATIENCE_MS)
    context.close()

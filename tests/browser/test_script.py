"""What a person does with a script, in a real browser."""

from __future__ import annotations

import dataclasses
import io
import itertools
import json
import re
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from playwright.sync_api import Locator, Page, expect

from bark_core import (
    Audio,
    GenerationRequest,
    Project,
    SemanticParams,
    Settings,
    Voice,
    load,
    parse_srt,
    read_audio,
    script_from_json,
    write_audio,
)
from tests.browser.conftest import PATIENCE_MS
from tests.browser.test_axe import violations
from tests.browser.test_page import heard, opened
from tests.made import made
from tests.served import Served
from webui.history import SCRIPT
from webui.script_scene import Look, Looks, Shown

TALK = "Anna: The rain.\nBob: Has it?\nAnna: Look there."
# of so many that no machine makes them all while pages are opened
N_LONG = 150
LONG = "\n\n".join(f"The river is high, line {n}." for n in range(N_LONG))
# a random model would end at once now and then
STEADY = Settings(semantic=SemanticParams(allow_early_stop=False, max_duration_s=0.8))
SLOW = Settings(semantic=SemanticParams(allow_early_stop=False, max_duration_s=3.5))


@pytest.fixture(autouse=True)
def no_scripts(served: Served) -> Iterator[None]:
    """Begin and end without any script."""
    scripts = served.studio.scripts
    yield
    for entry in scripts.entries(""):
        scripts.delete(entry.id, "")


def open_script(page: Page, served: Served) -> Page:
    opened(page, served)
    page.get_by_role("tab", name="Script").click()
    expect(page.get_by_label("Script", exact=True)).to_be_visible()
    return page


def write(page: Page, served: Served, text: str = TALK, settings: Settings = STEADY) -> Locator:
    """Paste a script and show its segments; returns the table's rows."""
    # at once: `fill` types line after line, which takes seconds of a long one
    page.get_by_label("Script", exact=True).evaluate(
        "(field, text) => { field.value = text; field.dispatchEvent(new InputEvent('input')); }",
        text,
    )
    page.get_by_role("button", name="Show the segments").click()
    rows = page.locator("#script-table tbody tr")
    expect(rows.first).to_be_visible()
    steady(served, settings)
    return rows


def steady(served: Served, settings: Settings) -> None:
    """Let the random model speak as long as it is told, and always."""
    (entry,) = served.studio.scripts.entries("")
    folder = served.studio.scripts.open(entry.id, "")

    def changed(project: Project) -> Project:
        options = dataclasses.replace(project.options, settings=settings, retries=0)
        return dataclasses.replace(project, options=options)

    folder.edit(changed)


def project(served: Served) -> Project:
    (entry,) = served.studio.scripts.entries("")
    return served.studio.scripts.open(entry.id, "").project


def until(page: Page, what: Callable[[], bool]) -> None:
    """Wait for what a page asked of the studio."""
    deadline = time.monotonic() + PATIENCE_MS / 1000
    while not what():
        assert time.monotonic() < deadline, "it never happened"
        page.wait_for_timeout(50)


def make_all(page: Page, n: int = 3) -> None:
    page.get_by_role("button", name="Make all").click()
    expect(page.locator("#script-table .slim")).to_have_count(n)
    expect(page.locator("[data-script-line]")).to_contain_text("All made")


def test_write_make_and_hear_the_whole(page: Page, served: Served) -> None:
    open_script(page, served)
    expect(page.locator("#script-table .empty")).to_be_visible()
    rows = write(page, served)
    expect(rows).to_have_count(3)
    expect(rows.nth(1)).to_contain_text("Bob")
    expect(rows.nth(1)).to_contain_text("needs sound")
    expect(page.locator("#script-plan")).to_contain_text("3 segments")
    expect(page.locator("#script-setup .speaker")).to_have_count(2)
    make_all(page)
    # it is in the history as a script, and can be heard here
    whole = page.locator(".whole-script")
    expect(whole).to_be_visible()
    (entry,) = served.studio.history.search()
    assert (entry.kind, entry.complete) == (SCRIPT, True)
    whole.get_by_role("button", name="Play: The whole").click()
    assert heard(page) == pytest.approx(entry.duration_s, abs=0.05)
    rows.first.get_by_role("button", name=re.compile("^Play: ")).click()
    take = project(served).segments[0].take
    assert take is not None
    page.wait_for_function(
        "s => Math.abs(document.querySelector('#studio-audio').duration - s) < 0.05",
        arg=take.duration_s,
    )
    # it is no take: nothing that a take can do can be done with it
    page.get_by_role("tab", name="Generate").click()
    expect(page.locator("#results .empty")).to_be_visible()
    expect(page.locator("#results .take")).to_have_count(0)


def test_stop_half_way_reload_half_way_and_go_on(page: Page, served: Served) -> None:
    open_script(page, served)
    write(page, served, LONG, SLOW)
    page.get_by_role("button", name="Make all").click()
    expect(page.locator("#script-table tr.making .row-bar")).to_be_visible()
    expect(page.locator("#script-table .slim").first).to_be_visible()
    page.reload()
    page.get_by_role("tab", name="Script").click()
    # the page attaches to the run again
    expect(page.locator("[data-script-line]")).to_contain_text(
        re.compile(f"segment [0-9]+ of {N_LONG}")
    )
    expect(page.get_by_label("Script", exact=True)).to_have_value(LONG)
    second = page.context.new_page()
    open_script(second, served)
    expect(second.locator("#script-table tr.making")).to_have_count(1)
    second.locator("#script-actions").get_by_role("button", name="Stop").click()
    expect(page.get_by_role("button", name="Make all")).to_be_enabled()
    made_before = sum(segment.take is not None for segment in project(served).segments)
    assert 1 <= made_before < N_LONG
    second.close()
    page.get_by_role("button", name="Make all").click()
    expect(page.locator("#script-table .slim").nth(made_before)).to_be_visible()
    page.locator("#script-actions").get_by_role("button", name="Stop").click()
    expect(page.get_by_role("button", name="Make all")).to_be_enabled()
    assert all(len(segment.takes) <= 1 for segment in project(served).segments)


def test_a_late_answer_does_not_have_the_last_word(
    page: Page, served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    open_script(page, served)
    write(page, served, "\n\n".join(LONG.split("\n\n")[:20]), SLOW)
    page.get_by_role("button", name="Make all").click()
    expect(page.locator("#script-table tr.making")).to_have_count(1)
    shown, answered = Looks.shown, threading.Event()

    def late(looks: Looks, look: Look, before: Shown | None = None) -> Shown:
        made = shown(looks, look, before)
        if before is None:  # no watcher asks, but a press
            time.sleep(1.5)  # it has stopped, and the page was told so, once and again
            answered.set()
        return made

    monkeypatch.setattr(Looks, "shown", late)
    page.locator("#script-actions").get_by_role("button", name="Stop").click()
    assert answered.wait(PATIENCE_MS / 1000)
    expect(page.locator("[data-script-line]")).to_contain_text("stopping")
    expect(page.get_by_role("button", name="Make all")).to_be_enabled()


def test_change_words_take_again_lock_and_move(page: Page, served: Served) -> None:
    open_script(page, served)
    rows = write(page, served)
    make_all(page)
    # another take, and back to the first
    rows.nth(1).get_by_role("button", name="Edit: Has it?").click()
    panel = page.locator("#script-panel")
    words = panel.get_by_label("Words")
    expect(words).to_be_focused()
    panel.locator("#script-takes").get_by_role("button", name="New take").click()
    expect(panel.locator(".take-list li")).to_have_count(2)
    panel.get_by_role("button", name="Use this one: Take 1").click()
    expect(panel.locator(".take-list .heard")).to_contain_text("Take 1")
    # other words need sound; the text follows
    words.fill("Has it stopped?")
    words.press("Tab")
    expect(rows.nth(1)).to_contain_text("needs sound")
    expect(page.get_by_label("Script", exact=True)).to_have_value(re.compile("Has it stopped"))
    rows.nth(1).get_by_role("button", name="New take").click()
    expect(rows.nth(1)).to_contain_text(re.compile("ready|went wrong"))
    # locked: nothing changes how it sounds
    panel.get_by_role("button", name="Lock").click()
    expect(rows.nth(1)).to_contain_text("locked")
    expect(words).to_be_disabled()
    panel.get_by_role("button", name="Move up").click()
    expect(rows.first).to_contain_text("Has it stopped?")
    page.get_by_role("button", name="Undo").click()
    expect(rows.nth(1)).to_contain_text("Has it stopped?")
    panel.get_by_role("button", name="Insert one after it").click()
    expect(rows).to_have_count(4)
    expect(words).to_have_value("Words to be said.")
    panel.get_by_role("button", name="Delete it").click()
    expect(rows).to_have_count(3)
    assert [segment.line.text for segment in project(served).segments][1] == "Has it stopped?"


def test_export_and_open_again(page: Page, served: Served, tmp_path: Path) -> None:
    open_script(page, served)
    write(page, served, "Anna: The rain. (pause 0.7)\nBob: Has it?\nAnna: Look there.")
    page.get_by_label("Title").fill("The weather")
    page.get_by_label("Title").press("Tab")
    for _ in range(2):  # what is unfolded and folded here leaves the menus alone
        page.locator("details.syntax > summary").click()
    make_all(page)

    def export(kind: str) -> Path:
        page.locator("#script-actions details.menu summary").click()
        with page.expect_download() as download:
            page.locator(f"[data-export={kind}]").click()
        assert download.value.suggested_filename.startswith("The-weather")
        path = tmp_path / download.value.suggested_filename
        download.value.save_as(path)
        return path

    sound, srt, told, stems = export("wav"), export("srt"), export("json"), export("zip")
    audio = read_audio(sound)
    lines = parse_srt(srt.read_text(encoding="utf-8")).lines
    assert [line.speaker for line in lines] == ["Anna", "Bob", "Anna"]
    assert lines[0].end_s is not None and lines[1].start_s is not None
    assert lines[1].start_s - lines[0].end_s == pytest.approx(0.7, abs=0.002)
    for before, after in itertools.pairwise(lines):
        assert before.end_s is not None and after.start_s is not None
        rate = audio.sample_rate_hz
        join = slice(round(before.end_s * rate) + 30, round(after.start_s * rate) - 30)
        # between two subtitles nobody speaks, and no click is heard where one ends or begins
        assert not np.abs(audio.samples[join]).max() > 1e-4
        edge = audio.samples[round(before.end_s * rate) - 24 : round(before.end_s * rate) + 48]
        assert np.abs(np.diff(edge)).max() < 0.01
    with zipfile.ZipFile(io.BytesIO(stems.read_bytes())) as archive:
        assert archive.namelist() == ["01-Anna.flac", "02-Bob.flac"]
    assert script_from_json(told.read_text(encoding="utf-8")).title == "The weather"
    page.locator("input[data-import]").set_input_files(told)
    expect(page.locator("#script-table .slim")).to_have_count(0)
    expect(page.locator("#script-table tbody tr")).to_have_count(3)
    expect(page.get_by_label("Title")).to_have_value("The weather")
    assert len(served.studio.scripts.entries("")) == 2
    page.locator("#script-head details.menu summary").click()
    page.locator("#script-head details.menu").get_by_role("button").nth(1).click()
    expect(page.locator("#script-table .slim")).to_have_count(3)


@pytest.mark.parametrize(
    ("name", "content", "speakers"),
    [
        ("a.txt", TALK.encode(), 2),
        ("a.srt", b"1\r\n00:00:01,000 --> 00:00:02,000\r\nANNA: caf\xe9\r\n", 1),
        ("a.ssml", b"<speak><p><voice name='x'>Hello.</voice></p></speak>", 1),
    ],
)
def test_files_of_all_kinds_open(
    page: Page, served: Served, tmp_path: Path, name: str, content: bytes, speakers: int
) -> None:
    open_script(page, served)
    path = tmp_path / name
    path.write_bytes(content)
    page.locator("input[data-import]").set_input_files(path)
    expect(page.locator("#script-setup .speaker")).to_have_count(speakers)
    if name == "a.srt":
        expect(page.locator("#script-table")).to_contain_text("café")


def test_what_can_t_be_read_is_told(page: Page, served: Served, tmp_path: Path) -> None:
    open_script(page, served)
    path = tmp_path / "a.json"
    path.write_text(json.dumps({"format": "another"}))
    page.locator("input[data-import]").set_input_files(path)
    expect(page.locator("#script-notice")).to_contain_text("isn't a script")
    assert served.studio.scripts.entries("") == []


def test_voices_a_wrong_guess_and_a_background(page: Page, served: Served, tmp_path: Path) -> None:
    open_script(page, served)
    write(page, served, "Anna: The rain.\nNote: it stopped.")
    page.get_by_role("button", name="Not a speaker: Note").click()
    expect(page.locator("#script-setup .speaker")).to_have_count(1)
    expect(page.locator("#script-table")).to_contain_text("Note: it stopped.")
    served.studio.voices.save(made_voice(served), "mine")
    try:
        page.reload()
        page.get_by_role("tab", name="Script").click()
        page.locator(".speaker select").select_option("mine")
        until(page, lambda: project(served).voices == {"Anna": "mine"})
    finally:
        served.studio.voices.delete("mine")
    page.locator("details.background > summary").click()
    draw = np.random.default_rng(1).normal(0, 0.1, 24_000).astype(np.float32)
    write_audio(tmp_path / "rain.wav", Audio(draw))
    page.locator("input[data-bed]").set_input_files(tmp_path / "rain.wav")
    expect(page.locator("#script-setup")).to_contain_text("rain.wav")
    layer = project(served).layer
    assert layer is not None and layer.duration_s == pytest.approx(1.0)


def made_voice(served: Served) -> Voice:
    cascade = load(served.studio.settings.model)
    request = GenerationRequest("Hello.", seed=1, settings=STEADY)
    return dataclasses.replace(cascade.generate(request).voice, name="mine")


def test_a_take_of_the_history_becomes_a_script(page: Page, served: Served) -> None:
    served.studio.history.add(made("Good morning, Ann."))
    opened(page, served)
    button = page.locator("#results [data-action=to-script]").first
    button.evaluate("button => button.click()")
    expect(page.get_by_role("tab", name="Script")).to_have_attribute("aria-selected", "true")
    expect(page.locator("#script-table")).to_contain_text("Good morning, Ann.")


def test_deleting_asks_first(page: Page, served: Served) -> None:
    open_script(page, served)
    write(page, served)
    page.locator("#script-head").get_by_role("button", name="Delete").click()
    assert len(served.studio.scripts.entries("")) == 1
    page.get_by_role("button", name="Press again to delete").click()
    expect(page.locator("#script-table .empty")).to_be_visible()
    assert served.studio.scripts.entries("") == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_and_a_phone_never_scrolls_sideways(
    page: Page, served: Served, scheme: str
) -> None:
    page.emulate_media(
        color_scheme="dark" if scheme == "dark" else "light", reduced_motion="reduce"
    )
    open_script(page, served)
    assert violations(page) == []
    rows = write(page, served, TALK + "\nAnna: " + "Donaudampfschifffahrt" * 4)
    page.get_by_role("button", name=re.compile("^Make: The rain")).click()
    expect(page.locator("#script-table .slim")).to_have_count(1)
    page.locator("details.background > summary").click()
    page.locator("details.syntax > summary").click()
    rows.first.get_by_role("button", name=re.compile("^Edit: ")).click()
    expect(page.locator("#script-editor textarea")).to_be_visible()
    assert violations(page) == []
    page.set_viewport_size({"width": 360, "height": 740})
    page.wait_for_timeout(300)
    assert page.evaluate("() => document.documentElement.scrollWidth") <= 360
    assert violations(page) == []

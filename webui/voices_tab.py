"""The Voices tab: find one, hear it, change one's own, add some, roll new ones."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import gradio as gr

from bark_core import BarkError, InvalidSetting, examples
from webui import voices_roll as rolling
from webui import voices_view as view
from webui.audience import Turn
from webui.generate_view import kind_titles
from webui.languages import _
from webui.page import Page, event_of, held, held_number
from webui.studio import Studio, owner_of
from webui.voices_shelf import Filters, VoicesShelf
from webui.words import guarded

PAGE = 60  # rows that are shown before one asks for more
MAX_UPLOAD_BYTES = 8 * 2**20
Values = Mapping[Any, Any]  # component -> value, as Gradio hands them over
PRIVATE: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}


@dataclass(frozen=True, slots=True)
class VoicesTab:
    """What the composition needs of this tab."""

    search: gr.Textbox
    language: gr.Dropdown
    kind: gr.Dropdown
    source: gr.Dropdown
    favourites: gr.Checkbox
    everything: gr.Checkbox
    rows: gr.HTML
    said: gr.HTML
    details: gr.HTML
    files: gr.File
    sentence: gr.Textbox
    number: gr.Slider
    roll: gr.Button
    rolls: gr.HTML
    group: gr.BrowserState
    subject: gr.Textbox  # "voice:NAME", "take:ID" or ""
    limit: gr.Number

    @property
    def filters(self) -> list[Any]:
        return [
            self.search,
            self.language,
            self.kind,
            self.source,
            self.favourites,
            self.everything,
        ]

    @property
    def looked_at(self) -> list[Any]:
        """What says what is shown."""
        return [*self.filters, self.subject, self.limit]

    @property
    def shown(self) -> list[Any]:
        return [self.rows, self.details, self.subject, self.limit]


@dataclass(frozen=True, slots=True)
class Look:
    """What somebody looks at."""

    filters: Filters
    subject: str
    limit: int
    model: str
    owner: str


def build_voices_tab(page: Page) -> VoicesTab:
    """Lay the tab out."""
    with gr.Row(elem_classes="desk voice-desk"):
        with gr.Column(scale=6, min_width=320, elem_classes="finding"):
            filters = _build_filters(page)
            rows = page.html(elem_id="voice-rows")
        with gr.Column(scale=6, min_width=300, elem_classes="hearing"):
            said = page.html(elem_id="voices-said")
            with gr.Accordion(_("Roll new voices"), open=False, elem_id="roll-voices"):
                sentence = gr.Textbox(
                    examples()[0],
                    label=_("What should they say?"),
                    info=_("Each time the model makes somebody else up; keep who pleases you"),
                    lines=2,
                    max_length=2_000,
                    elem_id="roll-sentence",
                )
                number = gr.Slider(
                    rolling.LEAST,
                    rolling.MOST,
                    4,
                    step=1,
                    label=_("How many"),
                    elem_id="roll-number",
                    elem_classes="dial",
                )
                roll = gr.Button(_("Roll voices"), variant="primary", elem_id="roll")
                rolls = page.html(elem_id="rolls")
            with gr.Accordion(_("Add voice files"), open=False, elem_id="add-voices"):
                files = gr.File(
                    label=_("Voice files (.npz), several at once"),
                    file_count="multiple",
                    elem_id="voice-files",
                    height=120,
                )
            details = page.html(view.no_voice(), elem_id="voice-details")
    group = gr.BrowserState("", storage_key="bark-studio-roll", secret="bark-studio")
    return VoicesTab(
        **filters,
        rows=rows,
        said=said,
        details=details,
        files=files,
        sentence=sentence,
        number=number,
        roll=roll,
        rolls=rolls,
        group=group,
        subject=held(),
        limit=held_number(PAGE),
    )


def _build_filters(page: Page) -> dict[str, Any]:
    search = gr.Textbox(
        label=_("Find a voice"),
        placeholder=_("a name, a word of its description, a language"),
        max_length=200,
        elem_id="find-voice",
    )
    with gr.Row(elem_id="voice-filters"):
        languages = [(title, code) for code, title in page.studio.voices.languages.items()]
        language = gr.Dropdown(
            [(_("All languages"), ""), *languages],
            value="",
            label=_("Language"),
            elem_id="voice-language",
            min_width=120,
        )
        kind = gr.Dropdown(
            [(_("All kinds"), "")], value="", label=_("Kind"), elem_id="voice-kind", min_width=120
        )
        sources = [(title, name) for name, title in kind_titles().items()]
        source = gr.Dropdown(
            [(_("From anywhere"), ""), *sources],
            value="",
            label=_("Source"),
            elem_id="voice-source",
            min_width=120,
        )
    with gr.Row(elem_id="voice-switches"):
        favourites = gr.Checkbox(
            label=_("Only favourites"), elem_id="voice-favourites", min_width=140
        )
        everything = gr.Checkbox(
            label=_("Voices of all models"), elem_id="voice-models", min_width=160
        )
    return {
        "search": search,
        "language": language,
        "kind": kind,
        "source": source,
        "favourites": favourites,
        "everything": everything,
    }


def connect_voices_tab(tab: VoicesTab, page: Page, opened: Any) -> None:
    """Connect the tab's events; `opened` is the listener of the tab being selected."""
    shelf = VoicesShelf(page.studio)
    _connect_list(tab, page, shelf, opened)
    _connect_acts(tab, page, shelf)
    _connect_files(tab, page, shelf)
    _connect_rolls(tab, page, shelf, opened)

    def as_voice(target: str, model: str, request: gr.Request) -> dict[Any, Any]:
        owner = owner_of(request)
        return {
            tab.details: view.take_details(shelf.take(target, owner)),
            tab.subject: f"take:{target}",
            tab.said: "",
        }

    page.cross("as-voice", "voices", [tab.details, tab.subject, tab.said], as_voice)


# --- finding and looking


def _connect_list(tab: VoicesTab, page: Page, shelf: VoicesShelf, opened: Any) -> None:
    inputs = {*tab.looked_at, page.model}

    def show(values: Values, request: gr.Request) -> tuple[Any, ...]:
        return _shown(shelf, _look_of(tab, page, values, request))

    def find(values: Values, request: gr.Request) -> tuple[Any, ...]:
        return _shown(shelf, replace(_look_of(tab, page, values, request), limit=PAGE))

    def kinds(request: gr.Request) -> Any:
        known = [(view.kind_title(kind), kind) for kind in shelf.kinds(owner_of(request))]
        return gr.update(choices=[(_("All kinds"), ""), *known])

    hear: dict[str, Any] = {"fn": guarded(_hear(shelf)), **_hearing(tab, page)}
    opened(guarded(kinds), None, tab.kind, **PRIVATE)
    opened(guarded(show), inputs, tab.shown, **PRIVATE).then(**hear)
    page.model.change(guarded(show), inputs, tab.shown, **PRIVATE).then(**hear)
    for component in tab.filters:
        component.change(guarded(find), inputs, tab.shown, trigger_mode="always_last", **PRIVATE)


def _look_of(tab: VoicesTab, page: Page, values: Values, request: gr.Request) -> Look:
    return Look(
        Filters(*(values[component] for component in tab.filters)),
        values[tab.subject] or "",
        max(values[tab.limit] or 0, PAGE),
        values[page.model] or "",
        owner_of(request),
    )


def _shown(shelf: VoicesShelf, look: Look) -> tuple[Any, ...]:
    """List, details, what is chosen, how many rows."""
    found = shelf.find(look.filters, look.model, look.owner)
    subject = look.subject
    kind, _separator, name = subject.partition(":")
    if kind != "take" and not shelf.has(name, look.owner):
        name = found[0].entry.name if found else ""
        kind, subject = "voice", f"voice:{name}" if name else ""
    rows = view.voice_list(
        found[: look.limit],
        name if kind == "voice" else "",
        total=len(found),
        model=look.model,
        filtered=look.filters.any,
    )
    details: Any = gr.skip()  # what is being typed there stays
    if kind != "take":
        details = shelf.details_html(name, look.model, look.owner) if name else view.no_voice()
    return rows, details, subject, look.limit


def _hear(shelf: VoicesShelf) -> Any:
    """Decode what is chosen, after it was shown, where that wasn't done before."""

    def hear(subject: str, model: str, request: gr.Request) -> Any:
        kind, _separator, name = (subject or "").partition(":")
        if kind != "voice" or not shelf.can_decode(name, model or "", owner_of(request)):
            return gr.skip()
        return shelf.details_html(name, model or "", owner_of(request), decode=True)

    return hear


def _hearing(tab: VoicesTab, page: Page) -> dict[str, Any]:
    return {"inputs": [tab.subject, page.model], "outputs": tab.details, **PRIVATE}


# --- what buttons do


def _connect_acts(tab: VoicesTab, page: Page, shelf: VoicesShelf) -> None:
    outputs = [*tab.shown, tab.said, *tab.filters]

    def act(values: Values, event: gr.EventData, request: gr.Request) -> tuple[Any, ...]:
        look = _look_of(tab, page, values, request)
        action, target = event_of(event)
        try:
            done = _do(shelf, action, target, look)
        except BarkError as error:
            # what was typed stays: only the message is new
            told = view.notice_of(view.explain_voice(error))
            return _only(outputs, tab.said, told)
        if done is None:
            return _only(outputs, tab.said, gr.skip())
        said, subject = done
        limit = look.limit + PAGE if action == "more" else look.limit
        look = replace(look, subject=subject, limit=limit)
        cleared: list[Any] = [gr.skip()] * len(tab.filters)
        if action == "show-all":
            look = replace(look, filters=Filters())
            cleared = look.filters.values
        return *_shown(shelf, look), said, *cleared

    for component in (tab.rows, tab.details, tab.said):
        component.act(
            guarded(act), {*tab.looked_at, page.model}, outputs, concurrency_limit=4, **PRIVATE
        ).then(guarded(_hear(shelf)), **_hearing(tab, page))


def _only(outputs: Sequence[Any], component: Any, value: Any) -> tuple[Any, ...]:
    return tuple(value if output is component else gr.skip() for output in outputs)


def _do(shelf: VoicesShelf, action: str, target: str, look: Look) -> tuple[str, str] | None:
    """Do what a button says: what to tell of it, and what is chosen then; None: not ours."""
    match action:
        case "more" | "show-all":
            return "", look.subject
        case "voice":
            return "", f"voice:{target}"
        case "star":
            shelf.star(target, look.owner)
            return "", look.subject
        case "fetch":
            shelf.fetch(target, look.owner)
            return "", f"voice:{target}"
        case "remove-voice":
            shelf.delete(target, look.owner)
            return view.done(_("{name} was deleted.", name=target), undo=target), ""
        case "restore-voice":
            shelf.restore(target, look.owner)
            return view.done(_("{name} is back.", name=target)), f"voice:{target}"
        case "leave-take":
            return "", ""
        case "keep-notes" | "keep-part" | "replace-part" | "keep-take":
            return _keep(shelf, action, _fields(target), look.owner)
    return None


def _keep(shelf: VoicesShelf, action: str, fields: dict[str, str], owner: str) -> tuple[str, str]:
    """Keep what a form says."""
    if action == "keep-notes":
        name = shelf.write_down(fields, owner)
        return view.done(_("Kept.")), f"voice:{name}"
    if action == "keep-take":
        name = shelf.keep_take(fields, owner)
    else:
        name = shelf.keep_part(fields, owner, replace=action == "replace-part")
    return view.done(_("{name} is one of your voices now.", name=name)), f"voice:{name}"


def _fields(target: str) -> dict[str, str]:
    """The fields of a form as voices.js hands them over; `target` is what it is about."""
    try:
        data = json.loads(target)
        return {str(key): str(value) for key, value in data.items()}
    except (ValueError, AttributeError) as error:
        raise InvalidSetting("the form came in damaged; reload the page, and try again") from error


# --- files


def _connect_files(tab: VoicesTab, page: Page, shelf: VoicesShelf) -> None:
    def add(values: Values, request: gr.Request) -> tuple[Any, ...]:
        look = _look_of(tab, page, values, request)
        kept: list[str] = []
        refused: list[tuple[str, BarkError]] = []
        for path in map(Path, values[tab.files] or []):
            try:
                kept.append(shelf.add(_content(path), path.stem, look.owner))
            except BarkError as error:
                refused.append((path.name, error))
        if kept:
            look = replace(look, subject=f"voice:{kept[0]}")
        return *_shown(shelf, look), view.uploaded(kept, refused), None

    tab.files.upload(
        guarded(add),
        {tab.files, *tab.looked_at, page.model},
        [*tab.shown, tab.said, tab.files],
        **PRIVATE,
    ).then(guarded(_hear(shelf)), **_hearing(tab, page))


def _content(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(MAX_UPLOAD_BYTES + 1)


# --- rolling


def _connect_rolls(tab: VoicesTab, page: Page, shelf: VoicesShelf, opened: Any) -> None:
    studio = page.studio
    watching: dict[str, Any] = {
        "fn": guarded(RollWatcher(studio, shelf).watch),
        "inputs": [tab.group, page.browser],
        "outputs": tab.rolls,
        "concurrency_limit": None,
        "trigger_mode": "multiple",
        **PRIVATE,
    }

    def begin(
        text: str, number: float, model: str, browser: str, request: gr.Request
    ) -> tuple[Any, str]:
        try:
            group = rolling.begin_roll(
                studio,
                text or "",
                number,
                model=model or "",
                owner=owner_of(request),
                browser=browser or "",
            )
        except BarkError as error:
            return gr.skip(), view.notice_of(view.explain_voice(error))
        return group, ""

    tab.roll.click(
        guarded(begin),
        [tab.sentence, tab.number, page.model, page.browser],
        [tab.group, tab.said],
        **PRIVATE,
    ).then(**watching)
    # a tab is only there once it was opened
    opened(**watching)
    page.attach.click(**watching)

    outputs = [*tab.shown, tab.said, tab.rolls, tab.group]

    def act(values: Values, event: gr.EventData, request: gr.Request) -> tuple[Any, ...]:
        look = _look_of(tab, page, values, request)
        action, target = event_of(event)
        group, browser = values[tab.group] or "", values[page.browser] or ""
        said: Any = gr.skip()
        try:
            match action:
                case "keep-roll":
                    name = shelf.keep_roll(_fields(target), look.owner)
                    said = view.done(_("{name} is one of your voices now.", name=name))
                    look = replace(look, subject=f"voice:{name}")
                case "voice":
                    look = replace(look, subject=f"voice:{target}")
                case "stop-roll":
                    studio.desk.stop(target, owner=look.owner)
                case "end-roll":
                    group = ""
                case _:
                    return _only(outputs, tab.said, gr.skip())
        except BarkError as error:
            return _only(outputs, tab.said, view.notice_of(view.explain_voice(error)))
        rolls = shelf.rolls_html(group, look.owner, browser)
        return *_shown(shelf, look), said, rolls, group

    inputs = {*tab.looked_at, page.model, tab.group, page.browser}
    acted = tab.rolls.act(guarded(act), inputs, outputs, **PRIVATE)
    acted.then(guarded(_hear(shelf)), **_hearing(tab, page))
    # whoever watched may know the group that was there before
    acted.then(**watching)


class RollWatcher:
    """Shows those that are made up as they come; a page that reloads attaches again."""

    def __init__(self, studio: Studio, shelf: VoicesShelf) -> None:
        self._studio, self._shelf = studio, shelf

    async def watch(
        self, group: str, browser: str, request: gr.Request
    ) -> AsyncGenerator[Any, None]:
        """Update after update, until all of them are there."""
        owner, shown = owner_of(request), ""
        with self._studio.audience.seat("rolls", request) as seat:
            while seat.held:
                html, going = await asyncio.to_thread(self._look, group or "", owner, browser or "")
                turn = seat.turn(news=html != shown)
                if turn is Turn.SPEAK:
                    yield html
                    shown = html
                elif turn is Turn.SIGN:
                    yield gr.skip()
                if not going and seat.done:
                    return
                await seat.rest(busy=False)
            yield gr.skip()

    def _look(self, group: str, owner: str, browser: str) -> tuple[str, bool]:
        found = rolling.rolled(self._studio, group, owner=owner, browser=browser)
        return self._shelf.rolls_html(group, owner, browser), rolling.still_going(found)

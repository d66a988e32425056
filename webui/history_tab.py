"""The History tab: everything that was made, to hear, to find again and to go on from."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import gradio as gr

from webui import history_view as view
from webui.history import SCRIPT, SPEECH, Entry, Filters
from webui.html import escaped
from webui.languages import _
from webui.page import Page, event_of, held, held_number
from webui.studio import Studio, owner_of
from webui.words import guarded

PAGE = 50  # rows that are shown before one asks for more
PICKED = 'watch("value", () => window.barkStudio && window.barkStudio.picked(props.value));'
PRIVATE: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}

Values = Mapping[Any, Any]  # component -> value, as Gradio hands them over
Updates = dict[Any, Any]  # the same for what is to be shown


@dataclass(frozen=True, slots=True)
class HistoryTab:
    """What the composition needs of this tab."""

    search: gr.Textbox
    voice: gr.Dropdown
    model: gr.Dropdown
    tag: gr.Dropdown
    kind: gr.Dropdown
    favourite: gr.Checkbox
    rows: gr.HTML
    disk: gr.HTML
    undo: gr.HTML
    details: gr.HTML
    found: gr.HTML  # ids for history.js, as JSON
    chosen: gr.Textbox
    limit: gr.Number

    @property
    def finding(self) -> list[Any]:
        """What narrows the list."""
        return [self.search, self.voice, self.model, self.tag, self.kind, self.favourite]

    @property
    def inputs(self) -> list[Any]:
        return [*self.finding, self.chosen, self.limit]

    @property
    def outputs(self) -> list[Any]:
        others = [self.rows, self.disk, self.undo, self.details, self.found]
        return [*self.inputs, *others]


@dataclass(frozen=True, slots=True)
class Look:
    """What somebody looks for and at, as the components say."""

    words: str = ""
    voice: str = ""  # as all choices: "" is any, else "=" and the name
    model: str = ""
    tag: str = ""
    kind: str = ""
    favourite: bool = False
    chosen: str | None = None
    limit: int = PAGE

    @property
    def filters(self) -> Filters:
        filters: Filters = {}
        if self.voice:
            filters["voice"] = self.voice[1:]
        if self.model:
            filters["model"] = self.model[1:]
        if self.tag:
            filters["tag"] = self.tag[1:]
        if self.kind:
            filters["kind"] = self.kind[1:]
        if self.favourite:
            filters["favourite"] = True
        return filters

    @property
    def narrowed(self) -> bool:
        return bool(self.words.strip() or self.filters)


def build_history_tab(page: Page) -> HistoryTab:
    """Lay the tab out."""
    with gr.Row(elem_classes="desk history"):
        with gr.Column(scale=6, min_width=320, elem_classes="finding"):
            search = gr.Textbox(
                label=_("Find"),
                placeholder=_("words, a voice, a model, a seed, a tag"),
                max_length=200,
                elem_id="search",
                type="text",
            )
            with gr.Row(elem_id="filters"):
                voice = _filter(_("Voice"), _("any voice"), "filter-voice")
                model = _filter(_("Model"), _("any model"), "filter-model")
                tag = _filter(_("Tag"), _("any tag"), "filter-tag")
                kind = _filter(_("Kind"), _("any kind"), "filter-kind")
            favourite = gr.Checkbox(label=_("Favourites only"), elem_id="filter-favourite")
            rows = page.html(elem_id="rows")
            disk = page.html(elem_id="disk")
        with gr.Column(scale=6, min_width=300, elem_classes="hearing"):
            details = page.html(elem_id="details")
    undo = page.html(elem_id="undo")
    found = gr.HTML("", elem_id="found", js_on_load=PICKED, visible="hidden")
    return HistoryTab(
        search=search,
        voice=voice,
        model=model,
        tag=tag,
        kind=kind,
        favourite=favourite,
        rows=rows,
        disk=disk,
        undo=undo,
        details=details,
        found=found,
        chosen=held(),
        limit=held_number(PAGE),
    )


def build_opening(page: Page) -> gr.HTML:
    """What history.js presses when a file was dropped anywhere on the page and read."""
    hint = escaped(_("Drop a sound that was made here, and its settings open"))
    done = escaped(_("The settings of this file are here now."))
    buttons = "".join(
        f'<button type="button" data-action="{action}" data-target=""></button>'
        for action in ("again", "details")
    )
    html = f'<div data-hint="{hint}" data-done="{done}">{buttons}</div>'
    return page.html(html, elem_id="opening", visible="hidden")


def connect_history_tab(tab: HistoryTab, page: Page, opened: Any) -> None:
    """Connect the tab's events; `opened` is the listener of the tab being selected."""
    studio = page.studio

    def show(values: Values, request: gr.Request) -> Updates:
        look, owner = _look(tab, values), owner_of(request)
        return _shown(tab, studio, look, owner) | _choices(tab, studio, look, owner)

    def find(values: Values, request: gr.Request) -> Updates:
        look = replace(_look(tab, values), limit=PAGE)
        return _shown(tab, studio, look, owner_of(request))

    def act(values: Values, event: gr.EventData, request: gr.Request) -> Updates:
        action, target = event_of(event)
        return _acted(tab, studio, _look(tab, values), action, target, owner_of(request))

    opened(guarded(show), {*tab.inputs}, tab.outputs, **PRIVATE)
    # pasted text is no "input" to Gradio; to the others "change" is also what a handler sets
    listeners = [tab.search.change, *(component.input for component in tab.finding[1:])]
    for listen in listeners:
        listen(guarded(find), {*tab.inputs}, tab.outputs, trigger_mode="always_last", **PRIVATE)
    for component in (tab.rows, tab.details, tab.undo, tab.disk):
        component.act(guarded(act), {*tab.inputs}, tab.outputs, trigger_mode="multiple", **PRIVATE)

    def details(target: str, _model: str, request: gr.Request) -> Mapping[Any, Any]:
        look = Look(chosen=target)
        return _shown(tab, studio, look, owner_of(request)) | _everything(tab)

    page.cross("details", "history", tab.outputs, details)


# --- what happens


def _acted(
    tab: HistoryTab, studio: Studio, look: Look, action: str, target: str, owner: str
) -> Updates:
    """What a button of this tab does. Some are crossings: others do those."""
    history = studio.history
    ids, _line, tag = target.partition("\n")
    several = ids.split()

    def again(*, choices: bool = False, **more: Any) -> Updates:
        shown = _shown(tab, studio, look, owner)
        return shown | (_choices(tab, studio, look, owner) if choices else {}) | more

    match action:
        case "choose":
            # the list stays as it is: history.js marks the row
            return _chosen(tab, studio, history.get(target, owner=owner))
        case "more":
            return _shown(tab, studio, replace(look, limit=look.limit + PAGE), owner)
        case "clear":
            empty = Look(chosen=look.chosen)
            return _shown(tab, studio, empty, owner) | _everything(tab)
        case "favourite":
            entry = history.get(target, owner=owner)
            history.set_favourite(target, not (entry and entry.favourite), owner=owner)
            return again()
        case "star":
            history.set_favourites(several, True, owner=owner)
            return again()
        case "tag":
            history.tag(several, add=[tag] if tag.strip() else [], owner=owner)
            return again(choices=True)
        case "untag":
            history.tag(several, remove=[tag], owner=owner)
            return again(choices=True)
        case "trash":
            look = replace(look, chosen=_next(studio, look, several, owner))
            n_trashed = history.trash(several, owner=owner)
            return again(choices=True) | {tab.undo: view.undo(n_trashed, several)}
        case "undo" | "put-back":
            back = several or [entry.id for entry in history.trashed(owner=owner)]
            history.restore(back, owner=owner)
            return again(choices=True) | {tab.undo: ""}
        case "empty-bin":
            history.empty_bin(owner=owner)
            return again() | {tab.undo: ""}
        case "dismiss":
            return {tab.undo: ""}
        case "pick-all":
            found = history.ids(look.words, owner=owner, **look.filters)
            # the time, for what is equal would change nothing in the browser
            return {tab.found: json.dumps({"ids": found, "at": time.time()})}
    return {tab.undo: gr.skip()}


def _next(studio: Studio, look: Look, gone: Sequence[str], owner: str) -> str | None:
    """What to look at when some entries go: what follows the one that was looked at."""
    ids = studio.history.ids(look.words, owner=owner, **look.filters)
    at = ids.index(look.chosen) if look.chosen in ids else 0
    left = [*ids[at:], *reversed(ids[:at])]
    return next((entry_id for entry_id in left if entry_id not in set(gone)), None)


def _shown(tab: HistoryTab, studio: Studio, look: Look, owner: str) -> Updates:
    """The list and the details."""
    history = studio.history
    entries = history.search(look.words, owner=owner, limit=look.limit, **look.filters)
    entry = history.get(look.chosen, owner=owner) if look.chosen else None
    if entry is None and entries:
        entry = entries[0]
    found = view.Found(
        entries,
        total=history.count(look.words, owner=owner, **look.filters),
        narrowed=look.narrowed,
        chosen=entry.id if entry else None,
    )
    free_bytes = shutil.disk_usage(history.folder).free
    return {
        tab.rows: view.history_list(found, studio.voice_label),
        tab.disk: view.disk_use(history.usage(owner), free_bytes),
        tab.limit: look.limit,
        **_chosen(tab, studio, entry),
    }


def _chosen(tab: HistoryTab, studio: Studio, entry: Entry | None) -> Updates:
    return {
        tab.details: view.history_details(entry, studio.voice_label),
        tab.chosen: entry.id if entry else "",
    }


def _choices(tab: HistoryTab, studio: Studio, look: Look, owner: str) -> Updates:
    """What there is to filter by, what is chosen of it included."""
    there = studio.history.choices(owner=owner)
    kinds = {SPEECH: _("speech"), SCRIPT: _("script")}

    def choices(
        every: str, names: Sequence[str], chosen: str, label: Callable[[str], str] = str
    ) -> Any:
        known = [(label(name), f"={name}") for name in names]
        if chosen and chosen not in {value for _label, value in known}:
            known.append((label(chosen[1:]), chosen))
        return gr.update(choices=[(every, ""), *known], value=chosen)

    return {
        tab.voice: choices(
            _("any voice"),
            there.voices,
            look.voice,
            lambda name: studio.voice_label(name or None),
        ),
        tab.model: choices(_("any model"), there.models, look.model),
        tab.tag: choices(_("any tag"), there.tags, look.tag),
        tab.kind: choices(
            _("any kind"), there.kinds, look.kind, lambda kind: kinds.get(kind, kind)
        ),
    }


def _everything(tab: HistoryTab) -> Updates:
    """No filter at all."""
    return {
        tab.search: "",
        tab.voice: "",
        tab.model: "",
        tab.tag: "",
        tab.kind: "",
        tab.favourite: False,
    }


# --- the parts of it


def _filter(label: str, every: str, elem_id: str) -> gr.Dropdown:
    return gr.Dropdown([(every, "")], value="", label=label, elem_id=elem_id, min_width=120)


def _look(tab: HistoryTab, values: Values) -> Look:
    return Look(
        words=values[tab.search] or "",
        voice=values[tab.voice] or "",
        model=values[tab.model] or "",
        tag=values[tab.tag] or "",
        kind=values[tab.kind] or "",
        favourite=bool(values[tab.favourite]),
        chosen=values[tab.chosen] or None,
        limit=max(values[tab.limit] or 0, PAGE),
    )

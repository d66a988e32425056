"""The History tab: everything that was made, to hear, to find again and to go on from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import gradio as gr

from webui import takes
from webui.generate_tab import CLICKS, event_of
from webui.studio import Studio, owner_of
from webui.words import guarded

PAGE = 50  # rows that are shown before one asks for more


@dataclass(frozen=True, slots=True)
class HistoryTab:
    """What the composition needs of this tab."""

    search: gr.Textbox
    rows: gr.HTML
    details: gr.HTML
    chosen: gr.State
    limit: gr.State

    @property
    def shown(self) -> list[Any]:
        return [self.rows, self.details, self.chosen, self.limit]


def build_history_tab() -> HistoryTab:
    """Lay the tab out."""
    chosen, limit = gr.State(None), gr.State(PAGE)
    with gr.Row(elem_classes="desk history"):
        with gr.Column(scale=6, min_width=320, elem_classes="finding"):
            search = gr.Textbox(
                label="Find",
                placeholder="words, a voice, a model, a seed",
                max_length=200,
                elem_id="search",
                type="text",
            )
            rows = gr.HTML("", elem_id="rows", js_on_load=CLICKS, apply_default_css=False)
        with gr.Column(scale=6, min_width=300, elem_classes="hearing"):
            details = gr.HTML("", elem_id="details", js_on_load=CLICKS, apply_default_css=False)
    return HistoryTab(search, rows, details, chosen, limit)


def connect_history_tab(tab: HistoryTab, studio: Studio, opened: Any) -> None:
    """Connect the tab's events; `opened` is the listener of the tab being selected."""
    private: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}

    def show(words: str, chosen: str | None, limit: int, request: gr.Request) -> tuple[Any, ...]:
        return _shown(studio, words, chosen, limit, owner_of(request))

    inputs = [tab.search, tab.chosen, tab.limit]
    opened(guarded(show), inputs, tab.shown, **private)

    def find(words: str, chosen: str | None, request: gr.Request) -> tuple[Any, ...]:
        return _shown(studio, words, chosen, PAGE, owner_of(request))

    tab.search.change(
        guarded(find), [tab.search, tab.chosen], tab.shown, trigger_mode="always_last", **private
    )

    def act(
        words: str, chosen: str | None, limit: int, event: gr.EventData, request: gr.Request
    ) -> tuple[Any, ...]:
        action, target = event_of(event)
        owner = owner_of(request)
        match action:
            case "choose":
                chosen = target
            case "more":
                limit += PAGE
            case "delete":
                studio.history.delete(target, owner=owner)
                chosen = None
            case "clear":
                words = ""
            case _:
                return tuple(gr.skip() for _ in range(5))
        new_words = "" if action == "clear" else gr.skip()
        return *_shown(studio, words, chosen, limit, owner), new_words

    for component in (tab.rows, tab.details):
        component.act(guarded(act), inputs, [*tab.shown, tab.search], **private)


def _shown(
    studio: Studio, words: str, chosen: str | None, limit: int, owner: str
) -> tuple[Any, ...]:
    """Rows, details, what is chosen, how many rows."""
    history = studio.history
    entries = history.search(words, owner=owner, limit=limit)
    entry = history.get(chosen, owner=owner) if chosen else None
    if entry is None and entries:
        entry = entries[0]
    chosen = entry.id if entry else None
    rows = takes.history_list(
        entries,
        studio.voice_label,
        chosen=chosen,
        total=history.count(words, owner=owner),
        words=words.strip(),
    )
    return rows, takes.history_details(entry, studio.voice_label), chosen, limit

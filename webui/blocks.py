"""The page: its tabs, put together. No logic lives here."""

from __future__ import annotations

from typing import Any

import gradio as gr

from webui import takes
from webui.api import build_api
from webui.generate_tab import (
    GenerateTab,
    bring_back,
    build_generate_tab,
    connect_generate_tab,
    event_of,
    example,
)
from webui.history_tab import build_history_tab, connect_history_tab
from webui.studio import Studio
from webui.words import guarded


def build_page(studio: Studio) -> gr.Blocks:
    """Compose the page of a studio; `serving.serve` opens it to browsers."""
    demo: gr.Blocks
    with gr.Blocks(title="Bark Studio", analytics_enabled=False) as demo:
        masthead = gr.HTML(
            takes.masthead(studio.desk.status()), elem_id="masthead", apply_default_css=False
        )
        with gr.Tabs(elem_id="tabs") as tabs:
            with gr.Tab("Generate", id="generate", elem_id="generate-tab"):
                generate = build_generate_tab(studio)
            with gr.Tab("History", id="history", elem_id="history-tab") as tab:
                history = build_history_tab()
        connect_generate_tab(generate, studio, masthead, demo)
        connect_history_tab(history, studio, tab.select)
        for component in (generate.results, history.rows, history.details):
            _connect_going_back(component, studio, generate, tabs)
        build_api(studio)
    return demo


def _connect_going_back(
    component: gr.HTML, studio: Studio, generate: GenerateTab, tabs: gr.Tabs
) -> None:
    """From a take, or an empty place, to the Generate tab."""

    def go(event: gr.EventData, request: gr.Request) -> dict[Any, Any]:
        action, target = event_of(event)
        if action == "again":
            updates = bring_back(studio, generate, target, request)
        elif action == "example":
            updates = example(generate, target)
        else:
            return {tabs: gr.skip()}
        return {**updates, tabs: gr.Tabs(selected="generate")}

    component.act(
        guarded(go),
        None,
        [*generate.controls.all, generate.notice, tabs],
        api_visibility="private",
        show_progress="hidden",
    )

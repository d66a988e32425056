"""The frame around the tabs: the head of the page, the model it works with, its language."""

from __future__ import annotations

import contextlib
from typing import Any

import gradio as gr

from bark_core import BarkError
from webui import head
from webui.languages import _
from webui.page import Page, held
from webui.studio import Studio, owner_of
from webui.system_tab import SystemTab
from webui.words import guarded


def build_frame(studio: Studio) -> tuple[Page, gr.HTML]:
    """Lay out what stands above all tabs: the page's shared parts, and its masthead."""
    # not a secret: what can be done with it is checked by owner. Without one, Gradio makes one
    # at each start and can't read what the last one wrote
    browser = gr.BrowserState("", storage_key="bark-studio-browser", secret="bark-studio")
    with gr.Row(elem_id="head"):
        gr.HTML(head.brand(), elem_id="brand", apply_default_css=False)
        model = gr.Dropdown(
            # a word on the state of each comes with the first look at them
            [(studio.models.status(name).title, name) for name in studio.models.names()],
            value=studio.first_model(),
            label=_("Model"),
            elem_id="model",
            min_width=160,
        )
        attach = gr.Button(_("Look again"), elem_id="attach", visible="hidden")
        page = Page(studio, browser, model, attach)
        masthead = page.html(head.first_masthead(studio.first_model()), elem_id="masthead")
        gr.HTML(head.language_choice(), elem_id="language", apply_default_css=False, min_width=120)
        gr.HTML(head.account(), elem_id="account", apply_default_css=False, min_width=0)
    return page, masthead


def connect_frame(page: Page, system: SystemTab) -> None:
    """A model that isn't here can't be chosen: System shows it, with what to do."""
    studio = page.studio
    assert page.tabs is not None
    chosen = held(studio.first_model())

    def choose(name: str, before: str, request: gr.Request) -> dict[Any, Any]:
        if name not in studio.models.usable():
            going = gr.Tabs(selected="system")
            shown = system.show(studio, request, marked=name)
            return {page.model: gr.update(value=before), page.tabs: going, **shown}
        # for others it is loaded when something is to be made with it
        if studio.access.is_administrator(owner_of(request)):
            with contextlib.suppress(BarkError):  # what goes wrong is told in the masthead
                studio.models.load(name)
        return {chosen: name}

    page.model.input(
        guarded(choose),
        [page.model, chosen],
        [page.model, chosen, page.tabs, *system.outputs],
        api_visibility="private",
        show_progress="hidden",
    )

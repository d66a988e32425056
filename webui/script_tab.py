"""The Script tab: long texts and dialogues, as segments that each have takes.

What is typed or chosen is kept at once. The pieces of the page show the state of the desk; a
press changes that state and shows all of it again, and a watcher shows what goes on behind it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass
from typing import Any

import gradio as gr

from webui import script_view
from webui.audience import Turn
from webui.html import remark
from webui.languages import _
from webui.page import Page
from webui.script_acts import Act, ScriptActs
from webui.script_scene import Look, Looks, Shown, plan_line
from webui.words import guarded

PRIVATE: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}
FOLLOW = 'watch("value", () => window.barkScript && window.barkScript.pulse(props.value));'
# buttons act when they are pressed, fields when they are left
ACTS = """
element.addEventListener("click", (event) => {
  const button = event.target.closest("[data-action]");
  if (button) trigger("act", {action: button.dataset.action, target: button.dataset.target});
});
element.addEventListener("change", async (event) => {
  const field = event.target.closest("[data-change]");
  if (field) {
    trigger("act", {
      action: field.dataset.change, target: field.dataset.target, value: field.value,
    });
  }
  const file = event.target.closest("[data-import]");
  if (file && window.barkScript) {
    const read = await window.barkScript.read(file);
    if (read) trigger("act", {action: "s-import", target: read.name, value: read.text});
  }
});
"""


@dataclass(frozen=True, slots=True)
class ScriptTab:
    """The components of the tab."""

    head: gr.HTML
    text: gr.Textbox
    plan: gr.HTML
    tools: gr.HTML
    syntax: gr.HTML
    update: gr.Button
    notice: gr.HTML
    setup: gr.HTML
    actions: gr.HTML
    table: gr.HTML
    editor: gr.HTML
    takes: gr.HTML
    pulse: gr.HTML

    @property
    def watched(self) -> list[Any]:
        """What a watcher keeps up to date, in the order of `Shown.values`."""
        return [
            self.head,
            self.setup,
            self.actions,
            self.table,
            self.editor,
            self.takes,
            self.pulse,
        ]

    @property
    def all(self) -> list[Any]:
        return [*self.watched, self.text, self.plan, self.notice]


def build_script_tab(page: Page) -> ScriptTab:
    """Lay the tab out."""

    def acting(elem_id: str, value: str = "") -> gr.HTML:
        return page.html(value, elem_id=elem_id, acts=False, js_on_load=ACTS)

    head = acting("script-head")
    with gr.Row(elem_classes="desk scripting"):
        with gr.Column(scale=7, min_width=320, elem_classes="making"):
            text = gr.Textbox(
                label=_("Script"),
                placeholder=_("Anna: Good evening. Have you been here before?"),
                lines=9,
                max_lines=24,
                max_length=1_000_000,
                elem_id="script-text",
            )
            plan = gr.HTML("", elem_id="script-plan", apply_default_css=False)
            with gr.Row(elem_classes="script-tools"):
                update = gr.Button(
                    _("Show the segments"), elem_id="script-update", scale=0, min_width=200
                )
                tools = acting("script-tools", script_view.importer())
            syntax = acting("script-syntax", script_view.syntax())
            notice = page.html(elem_id="script-notice")
        with gr.Column(scale=5, min_width=300, elem_classes="hearing setup"):
            setup = acting("script-setup")
    actions = page.html(elem_id="script-actions")
    with gr.Row(elem_classes="script-body"):
        with gr.Column(scale=8, min_width=320):
            table = page.html(elem_id="script-table")
        with gr.Column(scale=4, min_width=300, elem_id="script-panel"):
            editor = acting("script-editor")
            takes = page.html(elem_id="script-takes")
    return ScriptTab(
        head=head,
        text=text,
        plan=plan,
        tools=tools,
        syntax=syntax,
        update=update,
        notice=notice,
        setup=setup,
        actions=actions,
        table=table,
        editor=editor,
        takes=takes,
        pulse=gr.HTML("", elem_id="script-pulse", js_on_load=FOLLOW, visible="hidden"),
    )


def connect_script_tab(tab: ScriptTab, page: Page, demo: Any) -> None:
    """Connect the tab's events."""
    looks = Looks(page.studio)
    acts = ScriptActs(page.studio)
    _connect_watching(tab, page, demo, looks)
    _connect_acts(tab, page, looks, acts)
    _connect_crossings(tab, page, looks, acts)


def _connect_watching(tab: ScriptTab, page: Page, demo: Any, looks: Looks) -> None:
    """Whoever opens the page or comes back to it sees the script and what goes on."""
    inputs = [page.browser, page.model]

    def begin(browser: str, model: str, request: gr.Request) -> dict[Any, Any]:
        look = looks.of(request, browser or "", model or "")
        return _updates(tab, looks.shown(look), look, looks.text(look))

    async def watch(
        browser: str, model: str, request: gr.Request
    ) -> AsyncGenerator[tuple[Any, ...], None]:
        look = looks.of(request, browser or "", model or "")
        shown: Shown | None = None
        nothing = (gr.skip(),) * len(tab.watched)
        with page.studio.audience.seat("script", request) as seat:
            try:
                while seat.held:
                    now = await asyncio.to_thread(looks.shown, look, shown)
                    turn = seat.turn(news=now != shown)
                    if turn is Turn.SPEAK:
                        yield now.values
                        shown = now
                    elif turn is Turn.SIGN:
                        yield nothing
                    await seat.rest(busy=now.busy)
                # Gradio sends the last values again at the end, over those of who took over
                yield nothing
            finally:
                if not seat.taken:
                    looks.forget(look)

    watching: dict[str, Any] = {
        "inputs": inputs,
        "outputs": tab.watched,
        "concurrency_limit": None,
        "trigger_mode": "multiple",
        **PRIVATE,
    }
    shown: dict[str, Any] = {"concurrency_limit": None, **PRIVATE}
    demo.load(guarded(begin), inputs, tab.all, **shown).then(guarded(watch), **watching)
    page.attach.click(guarded(watch), **watching)
    page.model.change(guarded(begin), inputs, tab.all, **shown)


def _connect_acts(tab: ScriptTab, page: Page, looks: Looks, acts: ScriptActs) -> None:
    """Buttons and fields of the tab; typing; the button that makes segments of the text."""

    def act(browser: str, model: str, event: gr.EventData, request: gr.Request) -> dict[Any, Any]:
        look = looks.of(request, browser or "", model or "")
        return _done(tab, looks, acts, look, Act.of(event))

    inputs = [page.browser, page.model]
    for component in (
        tab.head,
        tab.tools,
        tab.syntax,
        tab.notice,
        tab.setup,
        tab.actions,
        tab.table,
        tab.editor,
        tab.takes,
    ):
        component.act(
            guarded(act),
            inputs,
            tab.all,
            concurrency_limit=None,
            trigger_mode="multiple",
            **PRIVATE,
        )

    def typed(text: str, browser: str, model: str, request: gr.Request) -> str:
        look = looks.of(request, browser or "", model or "")
        acts.type(look, text or "")
        return plan_line(page.studio, text or "", look.model, look.owner)

    tab.text.input(
        guarded(typed),
        [tab.text, *inputs],
        tab.plan,
        trigger_mode="always_last",
        concurrency_limit=None,
        **PRIVATE,
    )

    def update(text: str, browser: str, model: str, request: gr.Request) -> dict[Any, Any]:
        look = looks.of(request, browser or "", model or "")
        return _done(tab, looks, acts, look, Act("s-update", "", text or ""))

    tab.update.click(
        guarded(update), [tab.text, *inputs], tab.all, concurrency_limit=None, **PRIVATE
    )


def _connect_crossings(tab: ScriptTab, page: Page, looks: Looks, acts: ScriptActs) -> None:
    """What buttons of other tabs do here."""

    def cross(action: str) -> None:
        def handler(target: str, model: str, request: gr.Request) -> Mapping[Any, Any]:
            look = looks.of(request, None, model)
            return _done(tab, looks, acts, look, Act(action, target))

        page.cross(action, "script", tab.all, handler)

    cross("to-script")
    cross("open-script")


def _done(tab: ScriptTab, looks: Looks, acts: ScriptActs, look: Look, act: Act) -> dict[Any, Any]:
    """Do something, and show what came of it."""
    outcome = acts.do(look, act)
    text = looks.text(look) if outcome.new_text else None
    return {
        **_updates(tab, looks.shown(look), look, text),
        tab.notice: remark(outcome.said) if outcome.said else outcome.notice,
    }


def _updates(tab: ScriptTab, shown: Shown, look: Look, text: str | None) -> dict[Any, Any]:
    updates = dict(zip(tab.watched, shown.values, strict=True))
    if text is None:
        return updates
    return {
        **updates,
        tab.text: text,
        tab.plan: plan_line(look.studio, text, look.model, look.owner),
    }

"""What the tabs share on the page itself: who looks, with which model, and ways between tabs.

Our own HTML holds buttons with an action and a target. A press in one of them is an `act` event
of its component. What an action of one tab does to another is a *crossing*: the tab that changes
registers it, every component whose HTML may hold such buttons is joined to all crossings.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import gradio as gr

from webui.studio import Studio
from webui.words import guarded

CLICKS = """
element.addEventListener("click", (event) => {
  const button = event.target.closest("[data-action]");
  if (button) trigger("act", {action: button.dataset.action, target: button.dataset.target});
});
"""

# target, what the page's model is, who asks -> updates of components
Crossing = Callable[[str, str, gr.Request], Mapping[Any, Any]]


@dataclass(slots=True)
class Page:
    """One page while it is composed.

    Attributes:
        browser: which browser it is: its jobs are shown in all of its tabs. Not a secret.
        model: the name of the model that this page works with.
        attach: pressed by player.js when the page has lost its watchers.
    """

    studio: Studio
    browser: gr.BrowserState
    model: gr.Dropdown
    attach: gr.Button
    tabs: gr.Tabs | None = None
    _crossings: dict[str, tuple[str, Crossing]] = field(default_factory=dict)
    _outputs: list[Any] = field(default_factory=list)
    _joined: list[gr.HTML] = field(default_factory=list)

    def html(self, value: str = "", *, elem_id: str, acts: bool = True, **options: Any) -> gr.HTML:
        """A piece of our own HTML; with `acts`, its buttons reach all crossings."""
        if acts:
            options["js_on_load"] = CLICKS
        component = gr.HTML(value, elem_id=elem_id, apply_default_css=False, **options)
        if acts:
            self._joined.append(component)
        return component

    def cross(self, action: str, to: str, outputs: list[Any], handler: Crossing) -> None:
        """What an action does to another tab.

        Args:
            to: the tab to go to; "" stays.
            outputs: the components that the handler may update.
        """
        self._crossings[action] = (to, handler)
        self._outputs += [output for output in outputs if output not in self._outputs]

    def connect(self) -> None:
        """Join the pieces of HTML to the crossings, when all of both are there."""

        def act(model: str, event: gr.EventData, request: gr.Request) -> dict[Any, Any]:
            action, target = event_of(event)
            if action not in self._crossings:
                return {self.tabs: gr.skip()}
            to, handler = self._crossings[action]
            going = gr.Tabs(selected=to) if to else gr.skip()
            return {**handler(target, model or "", request), self.tabs: going}

        for component in self._joined:
            component.act(
                guarded(act),
                self.model,
                [*self._outputs, self.tabs],
                concurrency_limit=None,
                trigger_mode="multiple",
                api_visibility="private",
                show_progress="hidden",
            )


def held(value: str = "") -> gr.Textbox:
    """A word that a page remembers between events, unseen.

    Not `gr.State`: with one of these on a page, Gradio keeps a second connection open for as long
    as the page is. A browser has six to one studio, and three open pages would stop all of them.
    """
    return gr.Textbox(value, visible=False)


def held_number(value: int) -> gr.Number:
    """A number of that kind."""
    return gr.Number(value, precision=0, visible=False)


def event_of(event: gr.EventData) -> tuple[str, str]:
    """What was pressed in one of our own HTML components, and for what."""
    data = event._data if isinstance(event._data, Mapping) else {}
    return str(data.get("action", "")), str(data.get("target", ""))

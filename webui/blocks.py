"""The page: its tabs, put together. No logic lives here."""

from __future__ import annotations

import logging
import math
from typing import Any

import gradio as gr

from webui.api import build_api
from webui.frame import build_frame, connect_frame
from webui.generate_tab import build_generate_tab, connect_generate_tab
from webui.history_tab import build_history_tab, build_opening, connect_history_tab
from webui.languages import _, building
from webui.script_tab import build_script_tab, connect_script_tab
from webui.studio import Studio
from webui.system_tab import build_system_tab, connect_system_tab
from webui.voices_tab import build_voices_tab, connect_voices_tab

_log = logging.getLogger(__name__)


class StudioBlocks(gr.Blocks):
    """Gradio's, but for values that don't fit a component: a message to who sent them, no more.

    Gradio would print where in its code it noticed, for everything that anybody sends.
    """

    async def preprocess_data(self, block_fn: Any, *args: Any, **kwargs: Any) -> Any:
        try:
            values = await super().preprocess_data(block_fn, *args, **kwargs)
            for component, value in zip(block_fn.inputs, values, strict=True):
                _check_kind(component, value)
            return values
        except gr.Error as error:
            error.print_exception = False
            raise
        except Exception as error:
            _log.info("values of a call don't fit: %s", type(error).__name__)
            raise gr.Error(
                _("Reload the page, and try again."),
                title=_("What was sent doesn’t fit"),
                print_exception=False,
            ) from error


def _check_kind(component: Any, value: object) -> None:
    """Raises TypeError for a value that no page sends; Gradio looks at some kinds only."""
    if isinstance(component, gr.BrowserState):
        fits = value is None or isinstance(value, str)
    elif isinstance(component, gr.Checkbox):
        fits = isinstance(value, bool)
    elif isinstance(component, gr.Slider | gr.Number):
        empty = value is None and isinstance(component, gr.Number)
        number = isinstance(value, int | float) and not isinstance(value, bool)
        fits = empty or (number and math.isfinite(value))  # type: ignore[arg-type]
    else:
        return
    if not fits:
        raise TypeError(f"a {type(component).__name__} can't be {type(value).__name__}")


def build_page(studio: Studio) -> gr.Blocks:
    """Compose the page of a studio; `serving.serve` opens it to browsers."""
    demo: gr.Blocks
    with building(), StudioBlocks(title="Bark Studio", analytics_enabled=False) as demo:
        build_api(studio)  # first: handlers of the page that have the same names get other ones
        page, masthead = build_frame(studio)
        with gr.Tabs(elem_id="tabs") as page.tabs:
            with gr.Tab(_("Generate"), id="generate", elem_id="generate-tab"):
                generate = build_generate_tab(page)
            with gr.Tab(_("Script"), id="script", elem_id="script-tab"):
                script = build_script_tab(page)
            with gr.Tab(_("Voices"), id="voices", elem_id="voices-tab") as voices_tab:
                voices = build_voices_tab(page)
            with gr.Tab(_("History"), id="history", elem_id="history-tab") as history_tab:
                history = build_history_tab(page)
            with gr.Tab(_("System"), id="system", elem_id="system-tab") as system_tab:
                system = build_system_tab(page)
        connect_frame(page, system)
        build_opening(page)
        connect_generate_tab(generate, page, masthead, demo)
        connect_script_tab(script, page, demo)
        connect_voices_tab(voices, page, voices_tab.select)
        connect_history_tab(history, page, history_tab.select)
        connect_system_tab(system, page, system_tab.select)
        page.connect()
    return demo

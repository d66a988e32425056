"""Gradio's sessions, without what this page never asks of them."""

from __future__ import annotations

from types import SimpleNamespace
from typing import cast

import gradio as gr
from gradio.state_holder import SessionState, StateHolder


class Sessions(StateHolder):
    """What Gradio keeps of each open page, and of each call by a program.

    Gradio copies the whole page into each of them, for links that lead into its middle: 0.7 MB
    and a quarter of the computing of a call. There are no such links here (`limits`).
    """

    def __init__(self, demo: gr.Blocks) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.set_blocks(demo)
        # all that a new session reads of the page; what it needs of a component it copies then
        self._blank = cast(
            gr.Blocks, SimpleNamespace(default_config=demo.default_config, blocks={})
        )

    def __getitem__(self, session_id: str) -> SessionState:
        if session_id not in self.session_data:
            self.session_data[session_id] = SessionState(self._blank)
        return super().__getitem__(session_id)

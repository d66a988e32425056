"""The System tab: models, and the machine that they run on."""

from __future__ import annotations

import importlib.metadata
import json
import platform
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import gradio as gr

from bark_core import BarkError, InvalidSetting, __version__, process_memory_bytes
from webui import system_view
from webui.html import notice
from webui.languages import _
from webui.models import ModelShelf
from webui.page import Page, event_of, held
from webui.preferences import Choice
from webui.studio import Studio, owner_of
from webui.words import explain, guarded

LOOK_EVERY_S = 1.0
FOLLOW = 'watch("value", () => window.barkStudio && window.barkStudio.system(props.value));'
PRIVATE: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}


@dataclass(frozen=True, slots=True)
class SystemTab:
    """The tab's components, and what others need of it."""

    notice: gr.HTML
    models: gr.HTML
    queue: gr.HTML
    machine: gr.HTML
    pulse: gr.HTML
    marked: gr.Textbox
    timer: gr.Timer
    source: gr.Textbox
    add: gr.Button
    adding: gr.Row  # of the two: an administrator's alone

    @property
    def outputs(self) -> list[Any]:
        """What `show` updates."""
        return [
            self.notice,
            self.models,
            self.queue,
            self.machine,
            self.pulse,
            self.marked,
            self.timer,
            self.adding,
        ]

    def show(
        self,
        studio: Studio,
        request: gr.Request,
        *,
        current: str = "",
        marked: str = "",
        error: BarkError | None = None,
    ) -> dict[Any, Any]:
        """Updates that show how things are now.

        Args:
            current: the model that the page works with.
            marked: a model that somebody looks for.
            error: what went wrong with what was asked for last.
        """
        updates = self.look(studio, request, current=current, marked=marked)
        told = "" if error is None else notice(explain(error))
        return {
            **updates,
            self.notice: told,
            self.marked: marked,
            self.timer: gr.Timer(LOOK_EVERY_S, active=True),
            self.adding: gr.Row(visible=studio.access.is_administrator(owner_of(request))),
        }

    def look(
        self, studio: Studio, request: gr.Request, *, current: str, marked: str
    ) -> dict[Any, Any]:
        """What changes by itself."""
        shelf = studio.models
        current = current or shelf.default
        shown = [_shown(shelf, name) for name in shelf.names()]
        owner = owner_of(request)
        managed = studio.access.is_administrator(owner)
        shown = [replace(model, managed=managed) for model in shown]
        own, n_others = studio.desk.queue(owner=owner)
        titles = {model.status.name: model.status.title for model in shown}
        return {
            self.models: system_view.models(
                shown, shelf.recommendation(), current=current, marked=marked
            ),
            self.queue: system_view.queue(own, n_others, titles) + _yours(studio, owner),
            self.machine: system_view.machine(_machine(studio, current, managed=managed)),
            self.pulse: system_view.pulse(shown, marked=marked),
        }


def build_system_tab(page: Page) -> SystemTab:
    """Lay the tab out."""
    with gr.Column(elem_classes="system"):
        told = gr.HTML("", elem_id="system-notice", apply_default_css=False)
        models = page.html(elem_id="system-models")
        with gr.Row(elem_classes="adding", visible=False) as adding:
            source = gr.Textbox(
                label=_("Another model of the hub"),
                info=_("A Bark model at huggingface.co, by its owner and name"),
                placeholder="owner/name",
                max_length=120,
                elem_id="system-source",
                scale=3,
            )
            add = gr.Button(_("Add it"), elem_id="system-add", scale=1, min_width=96)
        with gr.Row(elem_classes="below"):
            with gr.Column():
                queue = page.html(elem_id="system-queue", acts=False)
            with gr.Column():
                machine = page.html(elem_id="system-machine", acts=False)
    pulse = gr.HTML("", elem_id="system-pulse", js_on_load=FOLLOW, visible="hidden")
    marked, timer = held(), gr.Timer(LOOK_EVERY_S, active=False)
    return SystemTab(told, models, queue, machine, pulse, marked, timer, source, add, adding)


def connect_system_tab(tab: SystemTab, page: Page, opened: Callable[..., Any]) -> None:
    """Connect the tab's events.

    Args:
        opened: the event of the tab being opened.
    """
    _connect_looking(tab, page, opened)
    _connect_models(tab, page)
    studio = page.studio

    def cross(target: str, model: str, request: gr.Request) -> dict[Any, Any]:
        return tab.show(studio, request, current=model, marked=target)

    page.cross("system", "system", tab.outputs, cross)


def _connect_looking(tab: SystemTab, page: Page, opened: Callable[..., Any]) -> None:
    """The tab is kept up to date while it is open."""
    studio, looked_at = page.studio, [tab.models, tab.queue, tab.machine, tab.pulse]

    def show(model: str, marked: str, request: gr.Request) -> dict[Any, Any]:
        return tab.show(studio, request, current=model or "", marked=marked)

    def look(model: str, marked: str, request: gr.Request) -> dict[Any, Any]:
        return tab.look(studio, request, current=model or "", marked=marked)

    # not gr.SelectData: Gradio makes one of whatever is sent, and fails before anybody can look
    def turn(event: gr.EventData) -> dict[Any, Any]:
        # by its id: its title is in the reader's language
        here = isinstance(event._data, dict) and event._data.get("id") == "system"
        updates: dict[Any, Any] = {tab.timer: gr.Timer(LOOK_EVERY_S, active=here)}
        return updates if here else {**updates, tab.marked: ""}

    opened(guarded(show), [page.model, tab.marked], tab.outputs, concurrency_limit=None, **PRIVATE)
    if page.tabs is not None:
        page.tabs.select(guarded(turn), None, [tab.timer, tab.marked], **PRIVATE)
    tab.timer.tick(
        guarded(look), [page.model, tab.marked], looked_at, concurrency_limit=None, **PRIVATE
    )


def _connect_models(tab: SystemTab, page: Page) -> None:
    """The buttons of the cards, and adding a model."""
    studio = page.studio

    def act(model: str, event: gr.EventData, request: gr.Request) -> dict[Any, Any]:
        action, target = event_of(event)
        using, error = gr.skip(), None
        try:
            if action == "model-use":
                using = gr.update(value=studio.models.status(target).name)
                model = target
            elif action in ACTIONS:
                studio.access.require_administrator(owner_of(request))
                ACTIONS[action](studio.models, target)
                studio.audit.note(action, owner_of(request), model=target[:200])
            else:
                return {page.model: using}
        except BarkError as problem:
            error = problem
        updates = tab.show(studio, request, current=model or "", error=error)
        return {**updates, page.model: using}

    def add(source: str, model: str, request: gr.Request) -> dict[Any, Any]:
        try:
            studio.access.require_administrator(owner_of(request))
            name = studio.models.add(source or "")
            studio.audit.note("model-add", owner_of(request), model=name)
        except BarkError as problem:
            return {**tab.show(studio, request, current=model, error=problem), tab.source: source}
        return {**tab.show(studio, request, current=model, marked=name), tab.source: ""}

    outputs = [*tab.outputs, page.model]
    tab.models.act(guarded(act), page.model, outputs, concurrency_limit=None, **PRIVATE)
    adding: dict[str, Any] = {
        "fn": guarded(add),
        "inputs": [tab.source, page.model],
        "outputs": [*tab.outputs, tab.source],
        **PRIVATE,
    }
    tab.add.click(**adding)
    tab.source.submit(**adding)


# --- what the buttons do


def _load(shelf: ModelShelf, target: str) -> None:
    shelf.load(*_chosen(target))


def _load_despite(shelf: ModelShelf, target: str) -> None:
    shelf.load(*_chosen(target), despite_memory=True)


def _chosen(target: str) -> tuple[str, Choice]:
    """Reads `system_view.load_target`."""
    try:
        name, precision, offload = json.loads(target)
    except (ValueError, TypeError) as error:
        raise InvalidSetting("it isn't clear what is to be loaded; open System again") from error
    return str(name), Choice(precision, offload)


ACTIONS: dict[str, Callable[[ModelShelf, str], None]] = {
    "model-download": ModelShelf.download,
    "model-cancel": ModelShelf.cancel,
    "model-load": _load,
    "model-load-despite": _load_despite,
    "model-unload": ModelShelf.unload,
    "model-unload-now": lambda shelf, name: shelf.unload(name, force=True),
    "model-remove": ModelShelf.remove,
    "model-first": ModelShelf.begin_with,
    "model-forget": ModelShelf.forget,
}


# --- what there is to show


def _shown(shelf: ModelShelf, name: str) -> system_view.Shown:
    status, pace = shelf.status(name), shelf.pace(name)
    fit, problem = None, None
    try:
        fit = shelf.fit(name)
    except BarkError as error:
        problem = error
    computing_s = None if pace is None else pace.computing_per_s()
    return system_view.Shown(status, fit, problem, computing_s)


def _yours(studio: Studio, owner: str) -> str:
    limits = studio.room.limits
    return system_view.yours(studio.room.used(owner), studio.room.quota(owner), limits.keep_days)


def _machine(studio: Studio, current: str, *, managed: bool) -> system_view.Machine:
    """Args: managed: whoever looks may know where on the disk things lie."""
    shelf = studio.models
    used = sum(shelf.status(name).stored.disk_bytes for name in shelf.names())
    return system_view.Machine(
        devices=shelf.devices(),
        in_use=shelf.status(current).devices,
        program_bytes=process_memory_bytes(),
        workers=shelf.backend.workers() if studio.settings.hosting.worker else (),
        disks={
            _("Models"): (str(shelf.cache_folder), used, shelf.disk_free_bytes()),
            _("Your sounds"): (str(studio.settings.data_folder), None, None),
        }
        if managed
        else {},
        versions=_versions(),
    )


def _versions() -> dict[str, str]:
    return {
        "Bark Studio": __version__,
        "Python": platform.python_version(),
        "torch": importlib.metadata.version("torch"),
        "Gradio": gr.__version__,
    }

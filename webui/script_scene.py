"""What a page shows of a script: which script, which segment, and the HTML of all of it."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field, replace
from typing import Any

import gradio as gr

from bark_core import BarkError, Project, moods, parse_any
from webui import script_table, script_view
from webui.languages import language
from webui.previews import preview_url
from webui.script_view import Scene, VoiceOption
from webui.studio import Studio, owner_of
from webui.voice_choice import entries

MAX_LIVE_PLAN_CHARACTERS = 20_000  # more is planned when it is asked for


@dataclass(slots=True, eq=False)
class Look:
    """What one page looks at."""

    studio: Studio
    session: str
    owner: str
    browser: str
    model: str
    script_id: str = ""
    segment_id: str | None = None  # whose panel is open


@dataclass(frozen=True, slots=True)
class Shown:
    """What a page should show. Equal where nothing has changed."""

    version: tuple[Any, ...]
    values: tuple[str, ...] = field(compare=False)  # as `ScriptTab.watched`
    pulse: str
    busy: bool


class Looks:
    """What each page looks at, by its session. Nothing in it is private: owners are checked."""

    def __init__(self, studio: Studio) -> None:
        self._studio = studio
        self._lock = threading.Lock()
        self._looks: dict[str, Look] = {}

    def of(self, request: gr.Request, browser: str | None, model: str) -> Look:
        """The look of a page; a new one begins with what its browser worked on last."""
        session, owner = str(request.session_hash), owner_of(request)
        with self._lock:
            look = self._looks.get(session)
            if look is None or look.owner != owner:
                look = Look(self._studio, session, owner, browser or "", model)
                self._looks[session] = look
            look.browser = browser or look.browser
            look.model = model
        scripts = self._studio.scripts
        if not scripts.has(look.script_id, owner):
            look.script_id = scripts.current(owner, look.browser)
            look.segment_id = None
        return look

    def forget(self, look: Look) -> None:
        with self._lock:
            if self._looks.get(look.session) is look:
                del self._looks[look.session]

    def text(self, look: Look) -> str:
        """The script as text."""
        if not look.script_id:
            return ""
        return self._studio.scripts.text(look.script_id, look.owner)[0]

    def shown(self, look: Look, before: Shown | None = None) -> Shown:
        """What the page should show; made anew only where something has changed since."""
        scripts, owner = self._studio.scripts, look.owner
        entries_ = scripts.entries(owner)
        if not scripts.has(look.script_id, owner):
            empty = Scene.empty()
            return _shown(look, empty, (), script_view.head(entries_, "", can_undo=False), ())
        scene = self._scene(look)
        version = (
            look.script_id,
            look.segment_id,
            look.model,
            tuple((entry.id, entry.title, entry.opening) for entry in entries_),
            scene.project,
            _standing(scene),
            tuple(scene.failures),
            scene.mixed.key if scene.mixed else "",
            scene.entry_id,
            scene.can_undo,
            scene.window,
            language(),
        )
        if before is not None and before.version == version:
            pulse = script_view.pulse(scene)
            return replace(before, values=(*before.values[:-1], pulse), pulse=pulse)
        head = script_view.head(entries_, look.script_id, can_undo=scene.can_undo)
        return _shown(
            look, scene, version, head, voice_options(self._studio, scene.project.model, look.owner)
        )

    def _scene(self, look: Look) -> Scene:
        studio, owner = self._studio, look.owner
        scripts, script_id = studio.scripts, look.script_id
        folder = scripts.open(script_id, owner)
        project = folder.project
        config = None
        if project.model in studio.models.names():
            config = studio.models.config(project.model)
        entry_id = scripts.about(script_id, owner).entry_id
        kept = entry_id and studio.history.get(entry_id, owner=owner) is not None
        return Scene(
            script_id=script_id,
            project=project,
            run=scripts.run(script_id, owner),
            failures=scripts.failures(script_id, owner),
            mixed=scripts.mixed(script_id, owner),
            entry_id=entry_id if kept else "",
            window=config.layout.text_window if config is not None else 0,
            can_undo=folder.can_undo,
            chosen=look.segment_id,
            other_model=look.model if look.model not in ("", project.model) else "",
        )


def _standing(scene: Scene) -> tuple[Any, ...]:
    """What of a run changes more than its progress."""
    run = scene.run
    if run is None:
        return ()
    return run.state, run.stopping, run.current, run.waiting, run.problems, run.error is None


def _shown(
    look: Look,
    scene: Scene,
    version: tuple[Any, ...],
    head: str,
    voices: tuple[VoiceOption, ...],
) -> Shown:
    pulse = script_view.pulse(scene)
    values = (
        head,
        script_view.setup(scene, voices, moods(), mood=mood_of(scene.project)),
        script_view.actions(scene),
        script_table.table(scene),
        script_table.editor(scene, voices),
        script_table.takes_of(scene),
        pulse,
    )
    return Shown(version, values, pulse, scene.running)


def mood_of(project: Project) -> str:
    """The mood that a script's settings are; "" if they are none."""
    settings = project.options.settings
    return next((mood.name for mood in moods() if mood.settings == settings), "")


def voice_options(studio: Studio, model: str, owner: str) -> tuple[VoiceOption, ...]:
    """The voices that a model's speakers can have."""
    if model not in studio.models.names():
        return ()
    languages = studio.voices.languages
    return tuple(
        VoiceOption(
            entry.name,
            studio.voice_label(entry.name),
            languages.get(entry.language or "", ""),
            preview_url(entry.name, model),
        )
        for entry in entries(studio, model, owner)
        if entry.available
    )


def plan_line(studio: Studio, text: str, model: str, owner: str) -> str:
    """How a typed text would be split, or what is wrong with it."""
    if not text.strip() or len(text) > MAX_LIVE_PLAN_CHARACTERS:
        return script_view.plan_line(None, (), 0)
    known = studio.models.known(model)
    try:
        script = parse_any(text)
        if known is None:
            return script_view.plan_line(None, (), 0)
        planner = studio.scripts.planner(model, owner)
        project = Project.make(script, planner)
    except BarkError as error:
        return script_view.plan_line(error, (), 0)
    return script_view.plan_line(None, project.segments, planner.window)

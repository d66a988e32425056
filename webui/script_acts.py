"""What a press or a field of the Script tab does to the desk of scripts."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import gradio as gr

from bark_core import (
    Background,
    BarkError,
    InvalidRequest,
    InvalidSetting,
    Line,
    LineSettings,
    Project,
    ProjectFolder,
    Script,
    moods,
    parse_any,
)
from webui.controls import FIRST_MOOD
from webui.html import notice
from webui.languages import _
from webui.page import event_of
from webui.script_scene import Look
from webui.script_view import EXAMPLE
from webui.studio import Studio
from webui.words import explain

Edit = Callable[[Project], Project]


@dataclass(frozen=True, slots=True)
class Act:
    """What was pressed or changed, for what, and to what."""

    action: str
    target: str = ""
    value: str = ""

    @classmethod
    def of(cls, event: gr.EventData) -> Act:
        action, target = event_of(event)
        data = event._data if isinstance(event._data, Mapping) else {}
        return cls(action, target, str(data.get("value", "")))


@dataclass(frozen=True, slots=True)
class Outcome:
    """What the page should say of it."""

    new_text: bool = False  # the text changed other than by typing
    said: str = ""
    notice: str = ""  # HTML


class ScriptActs:
    """Does what pages ask for."""

    def __init__(self, studio: Studio) -> None:
        self._studio = studio
        self._scripts = studio.scripts

    def do(self, look: Look, act: Act) -> Outcome:
        """Do it; what can't be done is said on the page."""
        groups = (self._of_scripts, self._of_all, self._of_run, self._of_segment, self._of_takes)
        try:
            for group in groups:
                outcome = group(look, act)
                if outcome is not None:
                    return outcome
        except BarkError as error:
            return Outcome(notice=notice(explain(error), dismiss=""))
        return Outcome()

    def type(self, look: Look, text: str) -> None:
        """Keep what is being typed; the first letter begins a script."""
        if text.strip() or look.script_id:
            self._scripts.set_draft(self._some_script(look), look.owner, text)

    # --- which script, and its text

    def _of_scripts(self, look: Look, act: Act) -> Outcome | None:
        scripts, owner = self._scripts, look.owner
        match act.action:
            case "s-open" | "open-script":
                scripts.open(act.target, owner, browser=look.browser)
                look.script_id, look.segment_id = act.target, None
            case "s-new":
                self._new(look)
            case "s-title":
                scripts.rename(act.target, owner, act.value)
                return Outcome()
            case "s-drop":
                scripts.delete(act.target, owner)
                look.script_id, look.segment_id = scripts.current(owner, look.browser), None
            case "s-undo":
                self._folder(look).undo()
            case "s-example":
                self._begin(look, parse_any(_(EXAMPLE)), source=_(EXAMPLE))
            case "s-import":
                return self._import(look, act.target, act.value)
            case "s-update":
                return self._update(look, act.value)
            case "to-script":
                return self._from_history(look, act.target)
            case "dismiss":
                if look.script_id:
                    scripts.dismiss(look.script_id, owner)
                return Outcome()
            case _:
                return None
        return Outcome(new_text=True)

    def _new(self, look: Look, title: str = "") -> str:
        first = next((mood.settings for mood in moods() if mood.name == FIRST_MOOD), None)
        look.script_id = self._scripts.create(
            look.owner, model=look.model, title=title, browser=look.browser, settings=first
        )
        look.segment_id = None
        return look.script_id

    def _some_script(self, look: Look) -> str:
        return look.script_id or self._new(look)

    def _begin(
        self, look: Look, script: Script, *, title: str = "", source: str | None = None
    ) -> None:
        """Put a script into a new one, or into this one where it is still empty."""
        planned_for = look.model
        empty = look.script_id and not self._folder(look).project.segments
        text = self._scripts.text(look.script_id, look.owner)[0] if empty else ""
        if not empty or text.strip():
            # planned first: what can't be leaves no empty script behind
            Project.make(script, self._scripts.planner(planned_for, look.owner))
            self._new(look, script.title or title)
        self._scripts.set_script(look.script_id, look.owner, script, planned_for, source=source)

    def _import(self, look: Look, name: str, text: str) -> Outcome:
        script = parse_any(text, name)
        stem = name.rsplit(".", 1)[0][:80]
        plain = name.lower().endswith((".txt", ".md"))
        self._begin(look, script, title=stem, source=text if plain else None)
        return Outcome(new_text=True, said=" ".join(script.notes[:3]))

    def _update(self, look: Look, text: str) -> Outcome:
        """Make segments of the text as it stands."""
        self._scripts.set_draft(self._some_script(look), look.owner, text)
        script = parse_any(text)
        plain = not text.lstrip().startswith(("{", "<", "WEBVTT"))
        self._scripts.set_script(
            look.script_id, look.owner, script, look.model, source=text if plain else None
        )
        return Outcome(new_text=True)

    def _from_history(self, look: Look, entry_id: str) -> Outcome:
        """The words of something made before, with its voice."""
        entry = self._studio.history.get(entry_id, owner=look.owner)
        if entry is None:
            raise InvalidRequest("that take was deleted meanwhile; choose another one")
        known = self._studio.voices_of(look.owner).names(
            self._studio.models.layout_name(look.model)
        )
        voice = entry.voice_name if entry.voice_name in known else None
        self._begin(look, Script((Line("", entry.text),), {"": voice}))
        return Outcome(new_text=True)

    # --- what all segments share

    def _of_all(self, look: Look, act: Act) -> Outcome | None:
        target, value = act.target, act.value
        match act.action:
            case "s-speaker-voice":
                return self._edit(look, lambda p: p.with_speaker_voice(target, value or None))
            case "s-reroll":
                return self._edit(look, lambda p: p.with_new_roll(target))
            case "s-unname":
                planner = self._scripts.planner(look.model, look.owner)
                return self._edit(look, lambda p: p.without_speaker(target, planner))
            case "s-replan":
                project = self._folder(look).project
                self._scripts.set_script(look.script_id, look.owner, project.script, look.model)
                return Outcome(new_text=True)
            case "s-mood":
                mood = next((mood for mood in moods() if mood.name == value), None)
                return self._set(look, **({"settings": mood.settings} if mood else {}))
            case "s-pause":
                return self._set(look, line_pause_s=_number(value))
            case "s-retries":
                return self._set(look, retries=round(_number(value)))
            case "s-bed" | "s-layer" | "s-no-background":
                return self._background(look, act)
        return None

    def _set(self, look: Look, **changed: Any) -> Outcome:
        return self._edit(look, lambda p: replace(p, options=replace(p.options, **changed)))

    def _background(self, look: Look, act: Act) -> Outcome:
        folder = self._folder(look)
        layer = folder.project.background
        match act.action:
            case "s-bed" if act.value.strip():
                how = layer or Background(prompt=act.value)
                layer = replace(how, prompt=act.value.strip(), file=None)
            case "s-layer" if layer is not None and act.target in _LAYER_FIELDS:
                changed: dict[str, Any] = {act.target: _number(act.value)}
                layer = replace(layer, **changed)
            case _:
                layer = None
        folder.set_background(layer)
        return Outcome()

    # --- making

    def _of_run(self, look: Look, act: Act) -> Outcome | None:
        scripts, owner = self._scripts, look.owner
        match act.action:
            case "s-make":
                text, more = scripts.text(look.script_id, owner)
                if more:  # what was typed since belongs to all
                    self._update(look, text)
                scripts.make(look.script_id, owner)
                return Outcome(new_text=more)
            case "s-take":
                scripts.make(look.script_id, owner, [act.target])
            case "s-stop":
                scripts.stop(look.script_id, owner)
            case "s-mix":
                scripts.mix(look.script_id, owner)
            case _:
                return None
        return Outcome()

    # --- one segment

    def _of_segment(self, look: Look, act: Act) -> Outcome | None:
        key, value = act.target, act.value
        match act.action:
            case "s-choose":
                look.segment_id = None if look.segment_id == key else key
                return Outcome()
            case "s-close":
                look.segment_id = None
                return Outcome()
            case "s-words":
                planner = self._scripts.planner(self._folder(look).project.model, look.owner)
                return self._edit(look, lambda p: p.with_words(key, value, planner))
            case "s-speaker":
                return self._edit(look, lambda p: p.with_speaker(key, value))
            case "s-voice":
                return self._edit(look, lambda p: p.with_voice(key, value or None))
            case "s-gap":
                pause_s = _number(value) if value.strip() else None
                return self._edit(look, lambda p: p.with_pause(key, pause_s))
            case "s-setting":
                return self._setting(look, key, value)
            case "s-lock":
                return self._edit(look, lambda p: p.locked(key, not p.segment(key).line.locked))
            case "s-up" | "s-down":
                steps = -1 if act.action == "s-up" else 1
                return self._edit(look, lambda p: p.moved(key, steps))
            case "s-insert":
                return self._insert(look, key)
            case "s-delete":
                look.segment_id = None
                return self._edit(look, lambda p: p.deleted(key))
        return None

    def _setting(self, look: Look, target: str, value: str) -> Outcome:
        """One of a segment's own settings; nothing leaves it to all."""
        key, _space, name = target.partition(" ")
        if name not in _SETTING_FIELDS:
            return Outcome()
        new: dict[str, Any] = {name: None}
        if value.strip():
            new[name] = _whole(value) if name == "seed" else _number(value)

        def changed(project: Project) -> Project:
            own: LineSettings = project.segment(key).line.settings
            return project.with_settings(key, replace(own, **new))

        return self._edit(look, changed)

    def _insert(self, look: Look, key: str) -> Outcome:
        folder = self._folder(look)
        planner = self._scripts.planner(folder.project.model, look.owner)
        speaker = folder.project.segment(key).line.speaker

        def inserted(project: Project) -> Project:
            changed, look.segment_id = project.inserted(
                key, _("Words to be said."), planner, speaker=speaker
            )
            return changed

        return self._edit(look, inserted)

    # --- its takes

    def _of_takes(self, look: Look, act: Act) -> Outcome | None:
        key, _space, take_id = act.target.partition(" ")
        match act.action:
            case "s-hear":
                return self._edit(look, lambda p: p.with_chosen(key, take_id))
            case "s-drop-take":
                return self._edit(look, lambda p: p.without_take(key, take_id))
        return None

    # --- the parts of it

    def _folder(self, look: Look) -> ProjectFolder:
        return self._scripts.open(look.script_id, look.owner, browser=look.browser)

    def _edit(self, look: Look, change: Edit) -> Outcome:
        """Change the segments; the text follows, unless there is more in it than they say."""
        dirty = self._scripts.text(look.script_id, look.owner)[1]
        self._folder(look).edit(change)
        return Outcome(new_text=not dirty)


_LAYER_FIELDS = ("level_db", "fade_in_s", "fade_out_s", "duck_db")
_SETTING_FIELDS = ("semantic_temperature", "coarse_temperature", "fine_temperature", "seed")


def _number(text: str) -> float:
    try:
        value = float(text.strip().replace(",", "."))
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise InvalidSetting(f"a number is needed here, got {text[:30]!r}; type digits only")
    return value


def _whole(text: str) -> int:
    digits = text.strip().replace(" ", "")
    if not (digits.isascii() and digits.isdecimal()):
        raise InvalidSetting(
            f"the seed must be a whole number from 0 on, got {text[:30]!r}; type digits only, or "
            "clear the field"
        )
    return int(digits)

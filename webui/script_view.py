"""How a script looks: pure functions from its state to HTML. assets/script.js brings it to life.

Fields with `data-change` send their value when they are left, so that nothing has to be saved.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from bark_core import (
    Background,
    BarkError,
    Mood,
    Project,
    ProjectSegment,
    SegmentState,
    estimate_duration_s,
)
from webui.html import button, escaped, menu, notice, player
from webui.languages import N_, _, count
from webui.script_run import RunView
from webui.scripts import Mixed, ScriptEntry
from webui.words import about, explain, quote, seconds

EXAMPLE = N_(
    "Anna: Good evening. Have you been here before?\n"
    "Bob: Never. (pause 0.5) Is it always this quiet?\n"
    "Anna: Only until the music begins."
)
_EXPORTS = (
    ("flac", N_("One file, FLAC (lossless)")),
    ("wav", N_("One file, WAV")),
    ("mp3", N_("One file, MP3")),
    ("opus", N_("One file, Ogg Opus")),
    ("zip", N_("Stems: a file for each speaker")),
    ("srt", N_("Subtitles, .srt")),
    ("vtt", N_("Subtitles, .vtt")),
    ("json", N_("The script itself, to open again")),
    ("txt", N_("The script as text")),
)


@dataclass(frozen=True, slots=True)
class VoiceOption:
    """A voice that a speaker can have."""

    name: str
    label: str
    language: str  # its own name; "" where it isn't known
    url: str  # where it is heard


@dataclass(frozen=True, slots=True)
class Scene:
    """All that the tab shows of one script at one moment."""

    script_id: str
    project: Project
    run: RunView | None
    failures: Mapping[str, BarkError]
    mixed: Mixed | None
    entry_id: str  # of the whole in the history
    window: int  # text tokens of a segment; 0 while that isn't known
    can_undo: bool
    chosen: str | None  # segment that the panel is about
    other_model: str = ""  # that the page works with, where it isn't the script's own

    @classmethod
    def empty(cls) -> Scene:
        """What there is to see where there is no script."""
        project = Project(model="", layout_name="")
        return cls("", project, None, {}, None, "", 0, can_undo=False, chosen=None)

    @property
    def running(self) -> bool:
        return self.run is not None and not self.run.state.over


# --- which script


def head(entries: Sequence[ScriptEntry], current: str, *, can_undo: bool) -> str:
    """The script's title, and the list of all of them."""
    here = next((entry for entry in entries if entry.id == current), None)
    rows = [
        f'<button type="button" class="quiet" data-action="s-open" data-target="{entry.id}"'
        f"{' aria-current=true' if entry.id == current else ''}>{escaped(_name(entry))}</button>"
        for entry in entries[:100]
    ]
    new = button("s-new", "", _("New script"), quiet=False)
    if here is None:
        return f'<div class="script-head"><h2>{escaped(_("A new script"))}</h2></div>'
    undo = button("s-undo", here.id, _("Undo")) if can_undo else ""
    delete = (
        f'<button type="button" class="quiet" data-arm="{escaped(_("Press again to delete"))}" '
        f'data-action="s-drop" data-target="{here.id}">{escaped(_("Delete"))}</button>'
    )
    others = menu(_("All scripts"), rows, about=str(len(entries)))
    return (
        f'<div class="script-head"><label class="title"><span class="hidden">'
        f"{escaped(_('Title'))}</span>"
        f'<input type="text" maxlength="200" value="{escaped(here.title)}" '
        f'placeholder="{escaped(_name(here))}" data-change="s-title" data-target="{here.id}">'
        f"</label><div>{undo}{delete}{others}{new}</div></div>"
    )


def _name(entry: ScriptEntry) -> str:
    return entry.title or quote(entry.opening, 48) or _("Without a title")


# --- its words


def plan_line(script_or_error: object, segments: Sequence[ProjectSegment], window: int) -> str:
    """How the typed text would be split, or what is wrong with it."""
    if isinstance(script_or_error, BarkError):
        return f'<p class="warn" role="status">{escaped(script_or_error)}</p>'
    if not segments:
        return f'<p class="about">{escaped(_("Any length. Each line may begin with a name."))}</p>'
    speakers = dict.fromkeys(segment.line.speaker for segment in segments)
    tokens = [segment.n_tokens for segment in segments]
    sound_s = sum(estimate_duration_s(segment.line.text) for segment in segments)
    named = ", ".join(name for name in speakers if name)
    parts = [
        count(len(segments), "{n} segment", "{n} segments"),
        _("{low} to {high} of {window} tokens", low=min(tokens), high=max(tokens), window=window),
        _("{time} of sound", time=about(sound_s)),
    ]
    if named:
        parts.append(_("speakers: {names}", names=named))
    return f'<p class="about" role="status">{escaped(", ".join(parts))}</p>'


def syntax() -> str:
    """What can be written, behind a fold-out, with an example to press."""
    rows = (
        ("Anna: Hello!", _("begins what Anna says; lines without a name go on with her")),
        ("(pause 0.5)", _("silence, in seconds or as 500ms; anywhere in a line")),
        ("[laughs]  ♪", _("cues that the model knows stay in the words")),
        ("{temperature=0.5 seed=7}", _("settings of this line, before its words or after them")),
        ('{voice="rosa"}', _("another voice for this line")),
        ("Warning\\: hot", _("a backslash makes words of a name, a pause or a brace")),
        (_("an empty line"), _("ends a paragraph")),
    )
    table = "".join(
        f"<div><dt><code>{escaped(mark)}</code></dt><dd>{escaped(what)}</dd></div>"
        for mark, what in rows
    )
    return (
        '<details class="fold syntax" data-keep="syntax">'
        f'<summary class="quiet">{escaped(_("How to write it"))}</summary>'
        f"<dl>{table}</dl>{button('s-example', '', _('Try an example'))}</details>"
    )


def importer() -> str:
    """A button that reads a file on this computer; script.js sends its text."""
    return (
        f'<div class="importer"><label class="file plain">{escaped(_("Open a file"))}'
        '<input type="file" class="hidden" data-import '
        'accept=".txt,.srt,.vtt,.ssml,.xml,.json,.md,text/plain"></label>'
        f'<span class="about">{escaped(_("text, .srt, .vtt, SSML, or a script as JSON"))}</span>'
        "</div>"
    )


# --- who speaks, how


def setup(scene: Scene, voices: Sequence[VoiceOption], moods: Sequence[Mood], *, mood: str) -> str:
    """Speakers and their voices, the pause between lines, tries, what lies under the speech."""
    project = scene.project
    if not project.segments:
        hint = _("Speakers and their voices stand here as soon as there are segments.")
        return f'<div class="empty"><p>{escaped(hint)}</p></div>'
    cast = "".join(_speaker(project, name, voices) for name in project.speakers)
    notes = "".join(f'<p class="remark">{escaped(note)}</p>' for note in project.notes[:5])
    if scene.other_model:
        said = _("Its segments are planned for {model}.", model=project.model)
        text = _("Plan them for {model}", model=scene.other_model)
        notes += f'<p class="remark">{escaped(said)} {button("s-replan", "", text)}</p>'
    return (
        f'{notes}<section><h2>{escaped(_("Voices"))}</h2><div class="cast">{cast}</div></section>'
        f"<section><h2>{escaped(_('All segments'))}</h2>{_shared(project, moods, mood)}</section>"
        f"{_background(scene)}"
    )


def _speaker(project: Project, name: str, voices: Sequence[VoiceOption]) -> str:
    shown = name or _("Nobody in particular")
    chosen = project.voices.get(name)
    known = {voice.name: voice for voice in voices}
    listen = more = ""
    if chosen in known:
        listen = (
            f'<button type="button" class="quiet" data-hear="{escaped(known[chosen].url)}" '
            f'aria-label="{escaped(_("Hear the voice of {name}", name=shown))}">'
            f"{escaped(_('Hear'))}</button>"
        )
    elif chosen is None and name in project.rolled:
        more = button("s-reroll", name, _("Roll another one"), about=shown)
    if name:
        more += button("s-unname", name, _("Not a speaker"), about=name)
    n_lines = sum(segment.line.speaker == name for segment in project.segments)
    return (
        f'<div class="speaker"><label><span class="name">{escaped(shown)}</span>'
        f'<span class="about">{escaped(count(n_lines, "{n} segment", "{n} segments"))}</span>'
        f"{voice_select('s-speaker-voice', name, chosen, voices, rolled=name in project.rolled)}"
        f'</label><div class="more">{listen}{more}</div></div>'
    )


def voice_select(
    action: str,
    target: str,
    chosen: str | None,
    voices: Sequence[VoiceOption],
    *,
    rolled: bool = False,
    none: str = "",
) -> str:
    """A list of voices, by language; "" stands for none of its own."""
    first = none or (_("The new voice, kept") if rolled else _("Roll a new voice"))
    options = [_option("", first, chosen or "")]
    if chosen is not None and chosen not in {voice.name for voice in voices}:
        options.append(_option(chosen, _("{name}, which isn’t here", name=chosen), chosen))
    by_language: dict[str, list[VoiceOption]] = {}
    for voice in voices:
        by_language.setdefault(voice.language, []).append(voice)
    for language, members in by_language.items():
        inside = "".join(_option(voice.name, voice.label, chosen or "") for voice in members)
        if len(by_language) > 1 and language:
            inside = f'<optgroup label="{escaped(language)}">{inside}</optgroup>'
        options.append(inside)
    inside = "".join(options)
    return f'<select data-change="{action}" data-target="{escaped(target)}">{inside}</select>'


def _option(value: str, label: str, chosen: str) -> str:
    selected = " selected" if value == chosen else ""
    return f'<option value="{escaped(value)}"{selected}>{escaped(label)}</option>'


def field(
    label: str,
    action: str,
    target: str,
    value: object,
    *,
    kind: str = "number",
    about: str = "",
    more: str = "",
) -> str:
    """A labelled input that sends its value when it is left."""
    said = f'<span class="about">{escaped(about)}</span>' if about else ""
    return (
        f'<label class="field"><span>{escaped(label)}</span>{said}<input type="{kind}" '
        f'value="{escaped("" if value is None else value)}" data-change="{action}" '
        f'data-target="{escaped(target)}" {more}></label>'
    )


def _shared(project: Project, moods: Sequence[Mood], mood: str) -> str:
    options = "".join(_option(each.name, _(each.title), mood) for each in moods)
    if mood not in {each.name for each in moods}:
        options = _option("", _("as it was set"), "") + options
    return (
        f'<div class="fields"><label class="field"><span>{escaped(_("Mood"))}</span>'
        f'<select data-change="s-mood" data-target="">{options}</select></label>'
        + field(
            _("Pause between lines, s"),
            "s-pause",
            "",
            f"{project.options.line_pause_s:g}",
            more='min="0" max="60" step="0.1"',
        )
        + field(
            _("Further tries"),
            "s-retries",
            "",
            project.options.retries,
            about=_("of a segment that went wrong"),
            more='min="0" max="10" step="1"',
        )
        + "</div>"
    )


def _background(scene: Scene) -> str:
    project = scene.project
    layer = project.background
    is_file = layer is not None and layer.file is not None
    state = _("none")
    if layer is not None:
        state = layer.prompt or layer.file or ""
    remove = button("s-no-background", "", _("Without a background")) if layer else ""
    failed = scene.failures.get(Project.BACKGROUND)
    made = notice(explain(failed)) if failed is not None else ""
    if layer is not None and project.layer is None and failed is None:
        need = _("It is made with the segments.") if not is_file else _("Its file isn’t here.")
        made = f'<p class="about" role="status">{escaped(need)}</p>'
    how = "" if layer is None else _background_fields(layer)
    return (
        '<details class="fold background" data-keep="background">'
        f"<summary><span>{escaped(_('Background'))}</span> "
        f'<span class="about">{escaped(quote(state, 30))}</span></summary>'
        + field(
            _("Made from a prompt"),
            "s-bed",
            "",
            layer.prompt if layer is not None and layer.prompt else "",
            kind="text",
            about=_("such as [music]; press Make all to hear it"),
            more='maxlength="1000" placeholder="[music]"',
        )
        + f'<label class="file plain">{escaped(_("or from a sound file"))}'
        f'<input type="file" class="hidden" data-bed="{scene.script_id}" accept="audio/*"></label>'
        f"{made}{how}{remove}</details>"
    )


def _background_fields(layer: Background) -> str:
    fields = (
        (_("Level under the speech, dB"), "level_db", layer.level_db, 'min="-60" max="0" step="1"'),
        (_("Fades in over, s"), "fade_in_s", layer.fade_in_s, 'min="0" max="60" step="0.5"'),
        (_("Fades out over, s"), "fade_out_s", layer.fade_out_s, 'min="0" max="60" step="0.5"'),
        (_("Quieter under words, dB"), "duck_db", layer.duck_db, 'min="0" max="40" step="1"'),
    )
    return (
        '<div class="fields">'
        + "".join(
            field(label, "s-layer", name, f"{value:g}", more=more)
            for label, name, value, more in fields
        )
        + "</div>"
    )


# --- what can be done


def actions(scene: Scene) -> str:
    """Make all, Stop, the whole, and Export; how the run goes."""
    project, run = scene.project, scene.run
    if not project.segments:
        return ""
    n_left = len(project.to_make)
    if scene.running:
        stopping = run is not None and run.stopping
        main = (
            f'<span class="about">{escaped(_("stopping …"))}</span>'
            if stopping
            else button("s-stop", "", _("Stop"), quiet=False)
        )
    else:
        main = (
            f'<button type="button" class="plain main" data-action="s-make" data-target="" '
            f"{'' if n_left else 'disabled'}>{escaped(_('Make all'))}</button>"
        )
    return (
        f'<div class="script-actions">{main}<p class="line" role="status" data-script-line>'
        f"{escaped(_standing(scene))}</p>{_whole_button(scene)}{_exports(scene)}</div>"
        f"{_progress(scene)}{_outcome(scene)}{_whole(scene)}"
    )


def _standing(scene: Scene) -> str:
    """How far the script is, in one line."""
    if scene.running and scene.run is not None:
        return run_line(scene.run)
    project = scene.project
    total = len(project.segments)
    ready = sum(segment.take is not None for segment in project.segments)
    wrong = sum(segment.state is SegmentState.WRONG for segment in project.segments)
    if ready == total:
        length_s = sum(segment.take.duration_s for segment in project.segments if segment.take)
        said = _("All made, {time} of speech.", time=seconds(length_s))
    else:
        said = _("{n} of {total} segments have sound.", n=ready, total=total)
    if wrong:
        more = count(wrong, "{n} seems to have gone wrong.", "{n} seem to have gone wrong.")
        said = f"{said} {more}"
    return said


def run_line(run: RunView) -> str:
    """How a run goes, in one line."""
    if run.stopping:
        return _("stopping …")
    if run.current is None and run.n_done == 0:
        return _("starting, or waiting for the model")
    parts = [
        _("segment {n} of {total}", n=min(run.n_done + 1, run.n_segments), total=run.n_segments)
    ]
    if run.position:
        waits = "waiting, {n} job goes first", "waiting, {n} jobs go first"
        parts.append(count(run.position, *waits))
    if run.left_s is not None:
        parts.append(_("{time} left", time=about(run.left_s)))
    return ", ".join(parts)


def _progress(scene: Scene) -> str:
    if not scene.running:
        return ""
    return (
        f'<div class="script-bar" role="progressbar" aria-label="{escaped(_("The whole script"))}" '
        'aria-valuemin="0" aria-valuemax="100" aria-valuenow="0" data-script-bar><i></i></div>'
    )


def _outcome(scene: Scene) -> str:
    """What stopped the last run, where something did."""
    if scene.run is None or scene.running or scene.run.error is None:
        return ""
    return notice(explain(scene.run.error), dismiss="")


def _whole_button(scene: Scene) -> str:
    has_sound = any(segment.take is not None for segment in scene.project.segments)
    if scene.mixed is not None or not has_sound:
        return ""
    return button("s-mix", "", _("Play the whole"), quiet=False)


def _whole(scene: Scene) -> str:
    if scene.mixed is None:
        return ""
    url = f"studio/script/{scene.script_id}/mix/{scene.mixed.key}.flac"
    title = _("The whole")
    kept = ""
    if scene.entry_id:
        kept = button("details", scene.entry_id, _("Show it in History"))
    return (
        f'<article class="take whole-script" data-take="mix-{scene.mixed.key}" '
        f'data-title="{escaped(title)}">'
        f"{player(url, scene.mixed.duration_s, scene.mixed.peaks, title)}{kept}</article>"
    )


def _exports(scene: Scene) -> str:
    has_sound = any(segment.take is not None for segment in scene.project.segments)
    links = [
        f'<a class="quiet" href="studio/script/{scene.script_id}/export.{suffix}" '
        f'download data-export="{suffix}">{escaped(_(name))}</a>'
        for suffix, name in _EXPORTS
        if has_sound or suffix in ("json", "txt")
    ]
    return menu(_("Export"), links)


def pulse(scene: Scene) -> str:
    """What changes many times a second, as JSON for script.js."""
    run = scene.run
    if run is None or run.state.over:
        return "{}"
    share = 0.0
    if run.bars is not None:
        share = (run.bars.words + run.bars.sound + run.bars.detail) / 3
    state = {
        "line": run_line(run),
        "share": round((run.n_done + share) / max(run.n_segments, 1), 3),
        "segment": run.current,
        "part": round(share, 3),
    }
    return json.dumps(state)

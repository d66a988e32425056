"""How the segments of a script look: their table, and the panel of the one that is chosen.

Pure functions from a `Scene` to HTML, as those of script_view.py.
"""

from __future__ import annotations

from collections.abc import Sequence

from bark_core import Line, LineSettings, ProjectSegment, SegmentState, Take
from webui.html import button, clock, escaped
from webui.languages import _, count
from webui.script_view import Scene, VoiceOption, field, voice_select
from webui.takes import PROBLEMS
from webui.words import explain, quote, seconds

MAX_ROWS = 300
_PLAY = (
    '<svg viewBox="0 0 16 16" aria-hidden="true"><path class="if-paused" d="M4 2.5v11l9-5.5z"/>'
    '<path class="if-playing" d="M4 2.5h3v11H4zM9 2.5h3v11H9z"/></svg>'
)


# --- the table


def table(scene: Scene) -> str:
    """All segments, a row each."""
    project = scene.project
    if not project.segments:
        said = _("Write something above and press Show the segments, or begin with an example.")
        return (
            f'<div class="empty"><p>{escaped(said)}</p>'
            f"<ul><li>{button('s-example', '', _('Two people and a pause'))}</li></ul></div>"
        )
    rows = "".join(
        _row(scene, number, segment)
        for number, segment in enumerate(project.segments[:MAX_ROWS], 1)
    )
    names = (
        ("n", _("No.")),
        ("who", _("Speaker")),
        ("said", _("Words")),
        ("tokens", _("Tokens")),
        ("state", _("State")),
        ("length", _("Length")),
        ("takes", _("Takes")),
        ("do", _("Actions")),
    )
    cells = "".join(f'<th scope="col" class="{key}">{escaped(name)}</th>' for key, name in names)
    hidden = ""
    if len(project.segments) > MAX_ROWS:
        n_more = len(project.segments) - MAX_ROWS
        more = count(n_more, "{n} more segment is made", "{n} more segments are made")
        hidden = f'<p class="about">{escaped(more)}</p>'
    return (
        f'<table class="script-lines"><caption class="hidden">{escaped(_("Segments"))}</caption>'
        f"<thead><tr>{cells}</tr></thead><tbody>{rows}</tbody></table>{hidden}"
    )


def _row(scene: Scene, number: int, segment: ProjectSegment) -> str:
    line, take = segment.line, segment.take
    key, said = _state(scene, segment)
    length = seconds(take.duration_s) if take is not None else ""
    chosen = ' aria-selected="true"' if segment.id == scene.chosen else ""
    words = quote(line.text, 160)
    n_takes = len(segment.takes)
    return (
        f'<tr data-segment="{segment.id}" class="{key}"{chosen}>'
        f'<th scope="row" class="n">{number}</th>'
        f'<td class="who">{escaped(line.speaker)}</td>'
        f'<td class="said"><button type="button" class="said" data-action="s-choose" '
        f'data-target="{segment.id}" aria-label="{escaped(_("Edit: {words}", words=words))}">'
        f"{escaped(words)}</button></td>"
        f'<td class="tokens" title="{escaped(_("text tokens of {n}", n=scene.window))}">'
        f'<span class="hidden">{escaped(_("tokens:"))} </span>{segment.n_tokens}</td>'
        f'<td class="state">{said}</td><td class="length">{length}</td>'
        f'<td class="takes">{n_takes or ""}</td>'
        f'<td class="do">{_row_actions(scene, segment, words)}</td></tr>'
    )


def _row_actions(scene: Scene, segment: ProjectSegment, words: str) -> str:
    short = quote(words, 40)
    heard = ""
    if segment.take is not None:
        heard = slim_player(scene.script_id, segment.take, short)
    new = ""
    if not segment.line.locked:
        text = _("New take") if segment.takes else _("Make")
        new = button("s-take", segment.id, text, about=short)
    lock_text = _("Unlock") if segment.line.locked else _("Lock")
    lock = button("s-lock", segment.id, lock_text, about=short)
    return f"{heard}{new}{lock}"


def slim_player(script_id: str, take: Take, title: str) -> str:
    """A take's play button and clock; its place to seek in shows on wide rows only."""
    url = f"studio/script/{script_id}/take/{take.id}.flac"
    name, play, place = escaped(title), escaped(_("Play")), escaped(_("Place in"))
    return (
        f'<div class="slim" data-take="{take.id}" data-title="{name}"><div class="player" '
        f'data-src="{url}" data-seconds="{take.duration_s:.3f}">'
        f'<button type="button" class="play" aria-label="{play}: {name}">{_PLAY}</button>'
        f'<input type="range" min="0" max="{take.duration_s:.2f}" step="0.05" value="0" '
        f'aria-label="{place}: {name}"><span class="clock">{clock(take.duration_s)}</span>'
        "</div></div>"
    )


def _state(scene: Scene, segment: ProjectSegment) -> tuple[str, str]:
    """(class, HTML) of where a segment stands, and why."""
    run = scene.run if scene.running else None
    lock = f'<span class="lock">{escaped(_("locked"))}</span>' if segment.line.locked else ""
    if run is not None and run.current == segment.id:
        again = ""
        if run.problems:
            said = _("again: it {problem}", problem=_problems(run.problems))
            again = f'<span class="why">{escaped(said)}</span>'
        bar = (
            f'<div class="row-bar" role="progressbar" aria-label="{escaped(_("making"))}" '
            'aria-valuemin="0" aria-valuemax="100" aria-valuenow="0"><i></i></div>'
        )
        return "making", f"{escaped(_('making'))}{bar}{again}"
    if run is not None and segment.id in run.waiting:
        return "waiting", escaped(_("waiting"))
    failure = scene.failures.get(segment.id)
    if failure is not None:
        told = explain(failure)
        why = f'<span class="why">{escaped(told.what)}. {escaped(told.do)}</span>'
        return "wrong", f"{escaped(_('went wrong'))}{why}"
    match segment.state:
        case SegmentState.READY:
            return "ready", f"{escaped(_('ready'))}{_other_words(segment)}{lock}"
        case SegmentState.WRONG:
            problems = segment.take.problems if segment.take else ()
            said = _("it {problem}", problem=_problems(problems))
            why = f'<span class="why">{escaped(said)}</span>'
            return "wrong", f"{escaped(_('went wrong'))}{why}{lock}"
    return "needs", f"{escaped(_('needs sound'))}{lock}"


def _other_words(segment: ProjectSegment) -> str:
    if segment.take is None or segment.take.text == segment.line.text:
        return ""
    return f'<span class="why">{escaped(_("it says other words"))}</span>'


def _problems(problems: Sequence[str]) -> str:
    """ "was almost silent, was too short for its words"."""
    return ", ".join(_(PROBLEMS[p]) for p in PROBLEMS if str(p) in map(str, problems))


# --- one segment


def editor(scene: Scene, voices: Sequence[VoiceOption]) -> str:
    """The panel of the chosen segment: its words, who says them, how."""
    segment = _chosen(scene)
    if segment is None:
        return ""
    number = scene.project.index(segment.id) + 1
    line, key = segment.line, segment.id
    fixed = "disabled" if line.locked else ""
    speakers = "".join(f'<option value="{escaped(s)}">' for s in scene.project.speakers if s)
    voice = voice_select("s-voice", key, line.voice, voices, none=_("That of the speaker"))
    if line.locked:
        voice = voice.replace("<select ", "<select disabled ", 1)
    pause = "" if line.pause_after_s is None else f"{line.pause_after_s:g}"
    usual = f"{scene.project.options.line_pause_s:g}"
    return (
        f'<div class="panel"><div class="panel-head">'
        f"<h3>{escaped(_('Segment {n}', n=number))}</h3>"
        f"{button('s-close', key, _('Close'))}</div>"
        f'<label class="field"><span>{escaped(_("Words"))}</span><textarea rows="4" '
        f'data-change="s-words" data-target="{key}" {fixed}>{escaped(line.text)}</textarea></label>'
        f'<div class="fields">'
        + field(
            _("Speaker"),
            "s-speaker",
            key,
            line.speaker,
            kind="text",
            more=f'list="script-speakers" maxlength="80" {fixed}',
        )
        + f'<datalist id="script-speakers">{speakers}</datalist>'
        + field(
            _("Pause after it, s"),
            "s-gap",
            key,
            pause,
            more=f'min="0" max="60" step="0.1" placeholder="{usual}"',
        )
        + f'<label class="field"><span>{escaped(_("Voice"))}</span>{voice}</label>'
        f"</div>{_own_settings(line, key, fixed)}{_places(key, line)}</div>"
    )


def _own_settings(line: Line, key: str, fixed: str) -> str:
    own = line.settings
    fields = (
        (_("Wording (semantic temperature)"), "semantic_temperature", own.semantic_temperature),
        (_("Timbre (coarse temperature)"), "coarse_temperature", own.coarse_temperature),
        (_("Detail (fine temperature)"), "fine_temperature", own.fine_temperature),
    )
    inside = "".join(
        field(
            label,
            "s-setting",
            f"{key} {name}",
            None if value is None else f"{value:g}",
            more=f'min="0" max="5" step="0.05" placeholder="{escaped(_("as all"))}" {fixed}',
        )
        for label, name, value in fields
    )
    seed = field(
        _("Seed"),
        "s-setting",
        f"{key} seed",
        own.seed,
        kind="text",
        more=f'inputmode="numeric" placeholder="{escaped(_("its own"))}" {fixed}',
    )
    opened = " open" if own != LineSettings() else ""
    return (
        f'<details class="fold" data-keep="own {key}"{opened}>'
        f'<summary class="quiet">{escaped(_("Its own settings"))}</summary>'
        f'<div class="fields">{inside}{seed}</div></details>'
    )


def _places(key: str, line: Line) -> str:
    lock = _("Unlock") if line.locked else _("Lock")
    buttons = (
        button("s-up", key, _("Move up")),
        button("s-down", key, _("Move down")),
        button("s-insert", key, _("Insert one after it")),
        button("s-lock", key, lock),
        button("s-delete", key, _("Delete it")),
    )
    return f'<div class="places">{"".join(buttons)}</div>'


def takes_of(scene: Scene) -> str:
    """The takes of the chosen segment, the newest first."""
    segment = _chosen(scene)
    if segment is None:
        return ""
    new = ""
    if not segment.line.locked:
        text = _("New take") if segment.takes else _("Make it")
        new = button("s-take", segment.id, text, quiet=False)
    rows = "".join(
        _take(scene, segment, number, take)
        for number, take in reversed(list(enumerate(segment.takes, 1)))
    )
    return (
        f'<div class="panel-head"><h4>{escaped(_("Takes"))}</h4>{new}</div>'
        f'<ul class="take-list">{rows}</ul>'
    )


def _take(scene: Scene, segment: ProjectSegment, number: int, take: Take) -> str:
    title = _("Take {n}", n=number)
    target = f"{segment.id} {take.id}"
    heard = take.id == segment.chosen
    parts = [_("seed {n}", n=take.seed)]
    if take.voice_name:
        parts.append(take.voice_name)
    if take.problems:
        parts.append(_("it {problem}", problem=_problems(take.problems)))
    if take.text != segment.line.text:
        parts.append(_("says: {words}", words=quote(take.text, 60)))
    choose = f'<span class="about">{escaped(_("is heard"))}</span>'
    if not heard:
        choose = button("s-hear", target, _("Use this one"), about=title)
    return (
        f'<li{" class=heard" if heard else ""}><span class="name">{escaped(title)}</span>'
        f"{slim_player(scene.script_id, take, title)}{choose}"
        f"{button('s-drop-take', target, _('Delete'), about=title)}"
        f'<span class="about">{escaped(", ".join(parts))}</span></li>'
    )


def _chosen(scene: Scene) -> ProjectSegment | None:
    return next((s for s in scene.project.segments if s.id == scene.chosen), None)

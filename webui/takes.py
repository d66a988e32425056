"""How jobs and results look: pure functions from what there is to HTML."""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping, Sequence

from bark_core import Problem
from webui.history import Entry
from webui.html import (
    VoiceLabel,
    about_take,
    button,
    download,
    escaped,
    menu,
    notice,
    player,
    sound_url,
    toggle,
)
from webui.jobs import TicketState, View
from webui.languages import N_, _, count
from webui.words import about, explain, quote

FORMATS = (
    ("flac", N_("FLAC, lossless")),
    ("wav", N_("WAV, for every program")),
    ("mp3", N_("MP3, small")),
    ("opus", N_("Ogg Opus, smallest")),
)
PROBLEMS = {
    Problem.NO_END: N_("ran on without an end"),
    Problem.SILENT: N_("was almost silent"),
    Problem.TOO_SHORT: N_("was too short for its words"),
    Problem.TOO_LONG: N_("was too long for its words"),
    Problem.EMPTY: N_("was empty"),
}


# --- what runs


def running(views: Sequence[View]) -> str:
    """A card for each job that isn't over, or has something to tell; one for a whole group."""
    cards = []
    for group, members in itertools.groupby(views, key=lambda view: view.group):
        several = list(members)
        cards.append(_running_group(several) if group else "".join(map(_running_card, several)))
    return "".join(cards)


def pulse(views: Sequence[View], **told: object) -> str:
    """What changes many times a second, as JSON for player.js: bars and a line for each job.

    Args:
        told: what else it needs to know.
    """
    jobs = {
        view.id: {
            "bars": [view.bars.words, view.bars.sound, view.bars.detail]
            if view.bars
            else [0, 0, 0],
            "line": _line(view),
        }
        for view in views
        if not view.state.over
    }
    return json.dumps({"jobs": jobs, **told})


def _running_group(views: Sequence[View]) -> str:
    """The unfinished and the failed ones of a group, in the order of their seeds."""
    text = views[0].text
    members = "".join(
        _running_card(view, heading=escaped(_("seed {n}", n=view.seed)))
        for view in sorted(views, key=lambda view: view.seed)
    )
    going = [view for view in views if not view.state.over]
    said = _("{n} of them to go", n=len(going)) if going else ""
    return (
        f'<section class="group" aria-label="{escaped(quote(text, 40))}">'
        f'<header><h3 class="words">{escaped(quote(text, 160))}</h3>'
        f'<p class="about" role="status">{escaped(said)}</p></header>'
        f'<div class="side">{members}</div></section>'
    )


def _running_card(view: View, heading: str = "") -> str:
    title = f'<h3 class="words">{escaped(quote(view.text, 160))}</h3>'
    if heading:
        title = f'<h4 class="about">{heading}</h4>'
    if view.error is not None:
        message = notice(explain(view.error), dismiss=view.id)
        again = ""
        if view.cut_off:
            again = button("once-more", view.id, _("Make it again"), about=quote(view.text, 40))
        return f'<article class="take failed">{title}{message}{again}</article>'
    if view.state is TicketState.STOPPED:
        nothing = _("Stopped before its first segment was finished, so there is nothing to keep.")
        return (
            f'<article class="take stopped">{title}<p class="about">{escaped(nothing)}</p>'
            "</article>"
        )
    heard = ""
    if view.live is not None:
        url = f"studio/live/{view.id}/{view.live.n_pieces}.flac"
        heard = player(url, view.live.duration_s, view.live.peaks, quote(view.text, 40))
    stop = f'<span class="about">{escaped(_("stopping …"))}</span>'
    if not view.stopping:
        stop = button("stop", view.id, _("Stop"), about=quote(view.text, 40))
    return (
        f'<article class="take running" data-take="{view.id}" data-live>{title}'
        f'<div class="bars">{_bars(view)}</div>{heard}'
        f'<footer><span class="line">{escaped(_line(view))}</span>{stop}</footer></article>'
    )


def _bars(view: View) -> str:
    stages = {"words": _("words"), "sound": _("sound"), "detail": _("detail")}
    return "".join(
        f'<div class="bar"><span id="{key}-{view.id}">{escaped(name)}</span>'
        f'<div role="progressbar" aria-labelledby="{key}-{view.id}" aria-valuemin="0" '
        f'aria-valuemax="100" aria-valuenow="0"><i></i></div></div>'
        for key, name in stages.items()
    )


def _line(view: View) -> str:
    match view.state:
        case TicketState.LOADING:
            return _("waiting for the model, which is loading")
        case TicketState.WAITING:
            return _waiting_line(view)
    parts = []
    if view.restarted:
        parts.append(_("made again, as the worker was restarted"))
    if view.n_segments > 1:
        parts.append(_("segment {n} of {total}", n=view.segment + 1, total=view.n_segments))
    if view.retry is not None:
        parts.append(
            _(
                "take {n}: the one before {problem}",
                n=view.retry.take + 1,
                problem=_problem(view.retry.problems),
            )
        )
    if view.left_s is None:
        parts.append(_("no estimate yet: this is the first one"))
    else:
        parts.append(_("{time} left", time=about(view.left_s)))
    return ", ".join(parts)


def _waiting_line(view: View) -> str:
    """Its place in the queue, and about how long."""
    if view.restarted:
        return _("the worker was restarted, your job runs again")
    ahead = view.position or 0
    if not ahead:
        return _("starting")
    line = count(ahead, "waiting, {n} job goes first", "waiting, {n} jobs go first")
    if view.wait_s is not None and view.wait_s >= 1:
        line += ", " + _("{time} until it begins", time=about(view.wait_s))
    return line


# --- what was made


def results(
    entries: Sequence[Entry],
    label: VoiceLabel,
    *,
    running: bool,
    older: bool,
    examples: Sequence[str] = (),
) -> str:
    """The newest takes, the newest first; those of one group side by side."""
    if entries:
        cards = []
        for group, members in itertools.groupby(entries, key=lambda entry: entry.group):
            several = list(members)
            if group and len(several) > 1:
                cards.append(_group(several, label))
            else:
                cards += [take(entry, label) for entry in several]
        last = ""
        if older:
            last = f'<p class="older">{escaped(_("Older ones are in History."))}</p>'
        return "".join(cards) + last
    if running:
        return ""
    rows = "".join(
        f"<li>{button('example', str(number), text)}</li>" for number, text in enumerate(examples)
    )
    said = _("Nothing made yet. Type something and press Generate, or begin with one of these:")
    return f'<div class="empty"><p>{escaped(said)}</p><ul>{rows}</ul></div>'


def take(entry: Entry, label: VoiceLabel) -> str:
    """One result: words, player, what it was made with, what to do with it."""
    title = quote(entry.text, 40)
    return (
        f'<article class="take" data-take="{entry.id}" data-title="{escaped(title)}">'
        f'<h3 class="words">{escaped(quote(entry.text, 160))}</h3>'
        f"{player(sound_url(entry), entry.duration_s, entry.peaks, title)}"
        f'{_remark(entry)}<footer><span class="about">{about_take(entry, label)}</span>'
        f"{_actions(entry, title, small=False)}</footer></article>"
    )


def _group(entries: Sequence[Entry], label: VoiceLabel) -> str:
    """Variations of the same words, side by side in the order of their seeds."""
    text = entries[0].text
    members = []
    for entry in sorted(entries, key=lambda entry: entry.seed):
        title = _("{words}, seed {n}", words=quote(text, 40), n=entry.seed)
        members.append(
            f'<article class="take" data-take="{entry.id}" data-title="{escaped(title)}">'
            f"{player(sound_url(entry), entry.duration_s, entry.peaks, title)}"
            f'{_remark(entry)}<footer><span class="about">{about_take(entry, label)}</span>'
            f"{_actions(entry, title, small=True)}</footer></article>"
        )
    return (
        f'<section class="group" aria-label="{escaped(quote(text, 40))}">'
        f'<header><h3 class="words">{escaped(quote(text, 160))}</h3>'
        f'<button type="button" class="quiet" data-compare-all>{escaped(_("Compare them"))}'
        f'</button></header><div class="side">{"".join(members)}</div></section>'
    )


def _actions(entry: Entry, title: str, *, small: bool) -> str:
    """A few in sight, the rest in menus."""
    star = toggle(
        "favourite", entry.id, _("Favourite"), pressed=entry.favourite, symbol="star", about=title
    )
    formats = [download(entry, title, suffix, _(name)) for suffix, name in FORMATS]
    compare = (
        f'<button type="button" class="quiet" data-compare="{entry.id}" aria-pressed="false">'
        f"{escaped(_('Compare'))}</button>"
    )
    reseed = button("reseed", entry.id, _("Same words, new seed"), about=title)
    more = [
        *([reseed] if small else []),
        button("words", entry.id, _("Same voice, new words"), about=title),
        button("redo", entry.id, _("Keep the words, redo the sound"), about=title),
        button("again", entry.id, _("Use these settings"), about=title),
        compare,
        button("as-voice", entry.id, _("Save as voice"), about=title),
        button("to-script", entry.id, _("Put it into a script"), about=title),
        button("details", entry.id, _("All details"), about=title),
    ]
    return (
        f"{'' if small else reseed}{menu(_('Download'), formats, about=title)}"
        f"{menu(_('More'), more, about=title)}{star}"
    )


def _remark(entry: Entry) -> str:
    """What was noticed of its segments: further takes, and what is still wrong."""
    said = remarks_on(entry.details)
    return f'<p class="about noticed">{escaped(" ".join(said))}</p>' if said else ""


def remarks_on(details: Mapping[str, object]) -> list[str]:
    """Sentences on the takes of each segment and what is wrong with the one that was kept."""
    takes, problems = details.get("takes"), details.get("problems")
    first = details.get("take")
    said = []
    if isinstance(takes, list):
        begun = first if isinstance(first, int) else 0
        further = sum(take - begun for take in takes if isinstance(take, int) and take > begun)
        if further:
            said.append(
                count(
                    further,
                    "Something went wrong in {n} take, and another one was made.",
                    "Something went wrong in {n} takes, and others were made.",
                )
            )
    if isinstance(problems, list):
        for number, found in enumerate(problems, start=1):
            kinds = [Problem(name) for name in found if name in set(Problem)]
            if not kinds:
                continue
            if len(problems) == 1:
                said.append(_("It seems that it {problem}.", problem=_problem(kinds)))
            else:
                said.append(
                    _(
                        "It seems that segment {n} {problem}.",
                        n=number,
                        problem=_problem(kinds),
                    )
                )
    return said


def _problem(problems: Sequence[Problem]) -> str:
    return ", ".join(_(PROBLEMS[problem]) for problem in problems)

"""How results look: pure functions from what there is to HTML. studio.js brings it to life.

Everything that a person typed is escaped here, and nowhere else does the page make HTML.
"""

from __future__ import annotations

import datetime
import html
import json
import re
from collections.abc import Callable, Sequence

from webui.history import Entry
from webui.jobs import ModelStatus, TicketState, View
from webui.words import DEMONSTRATION, EXAMPLES, Notice, about, count, explain, quote, seconds

VoiceLabel = Callable[[str | None], str]

_PLAY = '<svg viewBox="0 0 16 16" aria-hidden="true"><path class="if-paused" d="M4 2.5v11l9-5.5z"/>'
_PLAY += '<path class="if-playing" d="M4 2.5h3v11H4zM9 2.5h3v11H9z"/></svg>'
_MARK = (
    '<svg class="mark" viewBox="0 0 32 32" aria-hidden="true"><path d="M5 13v6M10 9v14M16 4v24'
    'M22 10v12M27 14v4" stroke="currentColor" stroke-width="3" stroke-linecap="round"/></svg>'
)


def escaped(text: object) -> str:
    """Text that is safe within HTML, attributes too."""
    return html.escape(str(text), quote=True)


# --- the head of the page


def masthead(status: ModelStatus) -> str:
    """Name, model, device, readiness, queue, and an honest label where it is a demonstration."""
    waiting = "nobody waiting"
    if status.n_waiting:
        waiting = f"{status.n_waiting} waiting"
    note = ""
    if status.error is not None:
        note = notice(explain(status.error))
    elif status.demonstration:
        command = "<code>python app.py --model small</code>"
        note = f'<p class="honest">{escaped(DEMONSTRATION).replace("{command}", command)}</p>'
    return (
        f'<header class="masthead"><h1>{_MARK}Bark Studio</h1>'
        f'<p class="status {status.state}" role="status"><span class="dot"></span>'
        f"<b>{escaped(status.name)}</b><span>{escaped(status.line)}</span>"
        f'<span class="queue">{waiting}</span></p></header>{note}'
    )


def notice(message: Notice, *, dismiss: str | None = None) -> str:
    """What happened, why, what to do."""
    button = ""
    if dismiss is not None:
        button = _button("dismiss", dismiss, "Dismiss", quiet=True)
    return (
        f'<div class="notice" role="alert"><p class="what">{escaped(message.what)}</p>'
        f"<p>{escaped(message.why)} {escaped(message.do)}</p>{button}</div>"
    )


def remark(text: str) -> str:
    """Something worth knowing that isn't an error."""
    return f'<p class="remark" role="status">{escaped(text)}</p>'


# --- what runs


def running(views: Sequence[View]) -> str:
    """A card for each job that isn't over, or has something to tell."""
    return "".join(map(_running_card, views))


def pulse(views: Sequence[View]) -> str:
    """What changes many times a second, as JSON for studio.js: bars and a line for each job."""
    state = {
        view.id: {
            "bars": [view.bars.words, view.bars.sound, view.bars.detail]
            if view.bars
            else [0, 0, 0],
            "line": _line(view),
        }
        for view in views
        if not view.state.over
    }
    return json.dumps(state)


def _running_card(view: View) -> str:
    title = f'<h3 class="words">{escaped(quote(view.text, 160))}</h3>'
    if view.error is not None:
        message = notice(explain(view.error), dismiss=view.id)
        return f'<article class="take failed">{title}{message}</article>'
    if view.state is TicketState.STOPPED:
        nothing = "Stopped before its first segment was finished, so there is nothing to keep."
        return f'<article class="take stopped">{title}<p class="about">{nothing}</p></article>'
    bars = "".join(
        f'<div class="bar"><span id="{name}-{view.id}">{name}</span>'
        f'<div role="progressbar" aria-labelledby="{name}-{view.id}" aria-valuemin="0" '
        f'aria-valuemax="100" aria-valuenow="0"><i></i></div></div>'
        for name in ("words", "sound", "detail")
    )
    player = ""
    if view.n_live:
        url = f"studio/live/{view.id}/{view.n_live - 1}.flac"
        player = _player(view.id, url, view.live_s, (), quote(view.text, 40))
    stop = '<span class="about">stopping …</span>'
    if not view.stopping:
        stop = _button("stop", view.id, "Stop", about=f"making {quote(view.text, 40)}")
    return (
        f'<article class="take running" data-take="{view.id}" data-live>{title}'
        f'<div class="bars">{bars}</div>{player}'
        f'<footer><span class="line">{escaped(_line(view))}</span>{stop}</footer></article>'
    )


def _line(view: View) -> str:
    match view.state:
        case TicketState.LOADING:
            return "waiting for the model, which is loading"
        case TicketState.WAITING:
            ahead = view.position or 0
            return f"waiting, {count(ahead, 'job goes', 'jobs go')} first" if ahead else "starting"
    parts = []
    if view.n_segments > 1:
        parts.append(f"segment {view.segment + 1} of {view.n_segments}")
    if view.left_s is None:
        parts.append("no estimate yet: this is the first one")
    else:
        parts.append(f"{about(view.left_s)} left")
    return ", ".join(parts)


# --- what was made


def results(entries: Sequence[Entry], label: VoiceLabel, *, running: bool, older: bool) -> str:
    """The newest takes, the newest first."""
    if entries:
        cards = "".join(take(entry, label) for entry in entries)
        return cards + ('<p class="older">Older ones are in History.</p>' if older else "")
    if running:
        return ""
    buttons = "".join(
        f"<li>{_button('example', str(number), text)}</li>" for number, text in enumerate(EXAMPLES)
    )
    return (
        '<div class="empty"><p>Nothing made yet. Type something on the left and press '
        f"Generate, or begin with one of these:</p><ul>{buttons}</ul></div>"
    )


def take(entry: Entry, label: VoiceLabel) -> str:
    """One result: words, player, what it was made with, what to do with it."""
    title = quote(entry.text, 40)
    return (
        f'<article class="take" data-take="{entry.id}">'
        f'<h3 class="words">{escaped(quote(entry.text, 160))}</h3>'
        f"{_player(entry.id, _sound_url(entry), entry.duration_s, entry.peaks, title)}"
        f'<footer><span class="about">{_about(entry, label)}</span>'
        f"{_button('again', entry.id, 'Use these settings', about=title)}"
        f"{_download(entry, title)}</footer></article>"
    )


def _about(entry: Entry, label: VoiceLabel) -> str:
    parts = [escaped(label(entry.voice_name)), f"seed <code>{entry.seed}</code>"]
    if not entry.complete:
        parts.insert(0, "<b>stopped early</b>")
    return ", ".join(parts)


def _player(take_id: str, url: str, duration_s: float, peaks: Sequence[int], title: str) -> str:
    name = escaped(title)
    return (
        f'<div class="player" data-src="{escaped(url)}" data-seconds="{duration_s:.3f}">'
        f'<button type="button" class="play" aria-label="Play: {name}">{_PLAY}</button>'
        f'<div class="wave">{_wave(peaks)}<input type="range" min="0" max="{duration_s:.2f}" '
        f'step="0.05" value="0" aria-label="Place in: {name}"></div>'
        f'<span class="clock">{_clock(duration_s)}</span></div>'
    )


def _wave(peaks: Sequence[int]) -> str:
    """Bars about a middle line, drawn twice: the second, in the accent, as far as it played."""
    heights = [max(4, peak) for peak in peaks] or [8] * 72
    path = "".join(f"M{x * 4 + 2} {50 - h / 2:g}v{h}" for x, h in enumerate(heights))
    picture = (
        f'<svg viewBox="0 0 {4 * len(heights)} 100" preserveAspectRatio="none" '
        f'aria-hidden="true"><path d="{path}" stroke-width="2.2" stroke="currentColor" '
        'stroke-linecap="round" fill="none"/></svg>'
    )
    return f'<div class="whole">{picture}</div><div class="played">{picture}</div>'


def _clock(duration_s: float) -> str:
    return f"{int(duration_s // 60)}:{duration_s % 60:04.1f}"


def _sound_url(entry: Entry) -> str:
    # relative, so that it works behind a proxy that serves the studio under a path
    return f"studio/sound/{entry.id}.flac"


def _download(entry: Entry, title: str) -> str:
    name = re.sub(r"\W+", "-", quote(entry.text, 40).lower()).strip("-_") or "sound"
    return (
        f'<a class="quiet" href="{_sound_url(entry)}" download="{escaped(name)}.flac" '
        f'aria-label="Download: {escaped(title)}">Download</a>'
    )


def _button(action: str, target: str, text: str, *, about: str = "", quiet: bool = True) -> str:
    more = f' aria-label="{escaped(f"{text}: {about}")}"' if about else ""
    kind = "quiet" if quiet else "plain"
    return (
        f'<button type="button" class="{kind}" data-action="{action}" '
        f'data-target="{escaped(target)}"{more}>{escaped(text)}</button>'
    )


# --- history


def history_list(
    entries: Sequence[Entry], label: VoiceLabel, *, chosen: str | None, total: int, words: str
) -> str:
    """Rows to choose from, the newest first."""
    if not entries and words:
        return (
            f'<div class="empty"><p>Nothing made here has “{escaped(words)}” in its words, '
            f"voice, model or seed.</p>{_button('clear', '', 'Show everything')}</div>"
        )
    if not entries:
        return (
            '<div class="empty"><p>What you make is kept here, over restarts too. '
            f"Nothing is here yet.</p>{_button('example', '0', 'Make the first one')}</div>"
        )
    rows = "".join(_row(entry, label, chosen=entry.id == chosen) for entry in entries)
    more = ""
    if total > len(entries):
        more = _button("more", "", f"Show more of {count(total, 'take', 'takes')}")
    shown = count(total, "take", "takes") + (f" with “{escaped(words)}”" if words else "")
    return f'<p class="about total">{shown}</p><ul class="rows">{rows}</ul>{more}'


def _row(entry: Entry, label: VoiceLabel, *, chosen: bool) -> str:
    current = ' aria-current="true"' if chosen else ""
    return (
        f'<li><button type="button" class="row" data-action="choose" data-target="{entry.id}"'
        f'{current}><span class="words">{escaped(quote(entry.text, 110))}</span>'
        f'<span class="about">{escaped(label(entry.voice_name))}, {seconds(entry.duration_s)}'
        f"{'' if entry.complete else ', stopped early'}, {_time(entry.created_at)}</span>"
        "</button></li>"
    )


def history_details(entry: Entry | None, label: VoiceLabel) -> str:
    """Everything about one take."""
    if entry is None:
        return (
            '<div class="empty"><p>Choose a take to hear it and to see how it was made.</p></div>'
        )
    title = quote(entry.text, 40)
    facts = "".join(
        f"<dt>{escaped(name)}</dt><dd>{value}</dd>" for name, value in _facts(entry, label)
    )
    return (
        f'<article class="take chosen" data-take="{entry.id}" tabindex="-1">'
        f'<h2 class="words">{escaped(entry.text)}</h2>'
        f"{_player(entry.id, _sound_url(entry), entry.duration_s, entry.peaks, title)}"
        f"<footer>{_button('again', entry.id, 'Use these settings again', quiet=False)}"
        f"{_download(entry, title)}{_button('delete', entry.id, 'Delete')}</footer>"
        f'<dl class="facts">{facts}</dl></article>'
    )


def _facts(entry: Entry, label: VoiceLabel) -> list[tuple[str, str]]:
    """Names and values as HTML."""
    details = entry.details
    model, settings = details.get("model", {}), details.get("settings", {})
    computing = details.get("seconds", {})
    facts = [("Voice", escaped(label(entry.voice_name)))]
    voice_hash = (details.get("voice") or {}).get("sha256")
    if voice_hash:
        facts.append(("Its hash", f"<code>{escaped(voice_hash[:16])}</code>"))
    facts += [
        ("Seed", f"<code>{entry.seed}</code>"),
        ("Length", seconds(entry.duration_s) + ("" if entry.complete else ", stopped early")),
        ("Segments", escaped(len(details.get("segments", ())))),
    ]
    for stage, name in (("semantic", "Wording"), ("coarse", "Timbre"), ("fine", "Detail")):
        facts.append((name, _setting(settings.get(stage, {}))))
    facts += [
        ("Model", f"{escaped(model.get('name', '?'))}, {escaped(model.get('precision', '?'))}"),
        ("Revision", f"<code>{escaped(str(model.get('revision', '?'))[:16])}</code>"),
        ("Computing", escaped(_computing(computing))),
        ("Made", _time(entry.created_at)),
    ]
    return facts


_SETTING_NAMES = {
    "temperature": "temperature",
    "top_k": "top-k",
    "top_p": "top-p",
    "min_eos_p": "end threshold",
    "max_duration_s": "longest, s",
    "max_history": "history",
    "allow_early_stop": "may end early",
}


def _setting(values: dict[str, object]) -> str:
    shown = [
        f"{_SETTING_NAMES.get(name, name)} <code>{escaped(value)}</code>"
        for name, value in values.items()
        if value is not None and not isinstance(value, bool)
    ]
    return ", ".join(shown)


def _computing(by_stage: dict[str, float]) -> str:
    names = {"semantic": "words", "coarse": "sound", "fine": "detail", "codec": "codec"}
    parts = [f"{names.get(stage, stage)} {seconds(value)}" for stage, value in by_stage.items()]
    return f"{seconds(sum(by_stage.values()))} ({', '.join(parts)})" if parts else "unknown"


def _time(created_at: float) -> str:
    moment = datetime.datetime.fromtimestamp(created_at, datetime.UTC)
    # studio.js writes it in the reader's own time zone and language
    return f'<time datetime="{moment.isoformat()}">{moment:%Y-%m-%d %H:%M} UTC</time>'

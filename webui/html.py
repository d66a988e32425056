"""The small pieces that our own HTML is made of. assets/player.js brings them to life.

Everything that a person typed is escaped here.
"""

from __future__ import annotations

import datetime
import html
import re
from collections.abc import Callable, Sequence

from webui.history import Entry
from webui.languages import _
from webui.words import Notice, quote

VoiceLabel = Callable[[str | None], str]

_PLAY = '<svg viewBox="0 0 16 16" aria-hidden="true"><path class="if-paused" d="M4 2.5v11l9-5.5z"/>'
_PLAY += '<path class="if-playing" d="M4 2.5h3v11H4zM9 2.5h3v11H9z"/></svg>'


MARK = (
    '<svg class="mark" viewBox="0 0 32 32" aria-hidden="true"><path d="M5 13v6M10 9v14M16 4v24'
    'M22 10v12M27 14v4" stroke="currentColor" stroke-width="3" stroke-linecap="round"/></svg>'
)
_SYMBOLS = {
    "star": '<svg viewBox="0 0 20 20" aria-hidden="true"><path d="M10 2.5l2.3 4.9 5.2.7-3.8 '
    '3.7.9 5.3-4.6-2.6-4.6 2.6.9-5.3L2.5 8.1l5.2-.7z"/></svg>',
}


def escaped(text: object) -> str:
    """Text that is safe within HTML, attributes too."""
    return html.escape(str(text), quote=True)


def notice(message: Notice, *, dismiss: str | None = None) -> str:
    """What happened, why, what to do."""
    leave = ""
    if dismiss is not None:
        leave = button("dismiss", dismiss, _("Dismiss"))
    return (
        f'<div class="notice" role="alert"><p class="what">{escaped(message.what)}</p>'
        f"<p>{escaped(message.why)} {escaped(message.do)}</p>{leave}</div>"
    )


def remark(text: str) -> str:
    """Something worth knowing that isn't an error."""
    return f'<p class="remark" role="status">{escaped(text)}</p>'


def button(action: str, target: str, text: str, *, about: str = "", quiet: bool = True) -> str:
    """A button whose press reaches Python as (action, target); see `page.Page`."""
    more = f' aria-label="{escaped(f"{text}: {about}")}"' if about else ""
    kind = "quiet" if quiet else "plain"
    return (
        f'<button type="button" class="{kind}" data-action="{action}" '
        f'data-target="{escaped(target)}"{more}>{escaped(text)}</button>'
    )


def toggle(
    action: str, target: str, text: str, *, pressed: bool, symbol: str, about: str = ""
) -> str:
    """A button that is on or off, drawn as one of the symbols of `_SYMBOLS`."""
    name = f"{text}: {about}" if about else text
    return (
        f'<button type="button" class="symbol" data-action="{action}" '
        f'data-target="{escaped(target)}" aria-pressed="{str(pressed).lower()}" '
        f'aria-label="{escaped(name)}" title="{escaped(text)}">{_SYMBOLS[symbol]}</button>'
    )


def menu(text: str, items: Sequence[str], *, about: str = "") -> str:
    """What there is more to do, folded away; generate.js closes it again."""
    more = f' aria-label="{escaped(f"{text}: {about}")}"' if about else ""
    rows = "".join(f"<li>{item}</li>" for item in items)
    return (
        f'<details class="menu"><summary class="quiet"{more}>{escaped(text)}</summary>'
        f"<ul>{rows}</ul></details>"
    )


def player(url: str, duration_s: float, peaks: Sequence[int], title: str) -> str:
    """The picture of a sound, a button that plays it, a place to seek in."""
    name, play, place = escaped(title), escaped(_("Play")), escaped(_("Place in"))
    return (
        f'<div class="player" data-src="{escaped(url)}" data-seconds="{duration_s:.3f}">'
        f'<button type="button" class="play" aria-label="{play}: {name}">{_PLAY}</button>'
        f'<div class="wave">{wave(peaks)}<input type="range" min="0" max="{duration_s:.2f}" '
        f'step="0.05" value="0" aria-label="{place}: {name}"></div>'
        f'<span class="clock">{clock(duration_s)}</span></div>'
    )


def wave(peaks: Sequence[int]) -> str:
    """Bars about a middle line, drawn twice: the second, in the accent, as far as it played."""
    heights = [max(4, peak) for peak in peaks]
    path = "".join(f"M{x * 4 + 2} {50 - h / 2:g}v{h}" for x, h in enumerate(heights))
    picture = (
        f'<svg viewBox="0 0 {4 * len(heights)} 100" preserveAspectRatio="none" '
        f'aria-hidden="true"><path d="{path}" stroke-width="2.2" stroke="currentColor" '
        'stroke-linecap="round" fill="none"/></svg>'
    )
    return f'<div class="whole">{picture}</div><div class="played">{picture}</div>'


def clock(duration_s: float) -> str:
    """ "1:07.5"."""
    return f"{int(duration_s // 60)}:{duration_s % 60:04.1f}"


def sound_url(entry: Entry, suffix: str = "flac") -> str:
    """Where the sound of an entry is: wav, flac, mp3 or opus."""
    # relative, so that it works behind a proxy that serves the studio under a path
    return f"studio/sound/{entry.id}.{suffix}"


def download(entry: Entry, title: str, suffix: str = "flac", text: str = "") -> str:
    """A link that saves the sound of an entry."""
    said = text or _("Download")
    name = re.sub(r"\W+", "-", quote(entry.text, 40).lower()).strip("-_") or "sound"
    return (
        f'<a class="quiet" href="{sound_url(entry, suffix)}" '
        f'download="{escaped(name)}.{suffix}" '
        f'aria-label="{escaped(said)}: {escaped(title)}">{escaped(said)}</a>'
    )


def about_take(entry: Entry, label: VoiceLabel) -> str:
    """One line on how an entry was made, as HTML."""
    # the seed is a number of its own look, wherever a language puts it
    seed = escaped(_("seed {n}", n="\x00")).replace("\x00", f"<code>{entry.seed}</code>")
    parts = [escaped(label(entry.voice_name)), seed]
    if not entry.complete:
        parts.insert(0, f"<b>{escaped(_('stopped early'))}</b>")
    return ", ".join(parts)


def moment(created_at: float) -> str:
    """A time; player.js writes it in the reader's own time zone and language."""
    at = datetime.datetime.fromtimestamp(created_at, datetime.UTC)
    return f'<time datetime="{at.isoformat()}">{at:%Y-%m-%d %H:%M} UTC</time>'

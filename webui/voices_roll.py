"""New voices rolled: one sentence said by several people that the model makes up, side by side.

A roll is a group of jobs without a voice. What they make is kept in the history under the same
group, so a roll is found again after a reload, and after a restart.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from bark_core import GenerationRequest, InvalidSetting, Voice, random_seed
from webui.history import Entry, is_id, new_id
from webui.html import button, escaped, player, sound_url
from webui.jobs import TicketState, View
from webui.languages import _, count
from webui.studio import Studio
from webui.voice_choice import segments_of
from webui.words import explain, quote

LEAST, MOST = 2, 6
MAX_SEED = 2**63 - 1


@dataclass(frozen=True, slots=True)
class Rolled:
    """One of those that are made up: still on its way, or finished."""

    id: str
    seed: int
    view: View | None  # None: it is over
    entry: Entry | None  # None: nothing was made of it yet


def begin_roll(
    studio: Studio, text: str, number: float, *, model: str, owner: str, browser: str
) -> str:
    """Hand the jobs in; returns the group that they share.

    Raises:
        InvalidSetting: not 2 to 6 of them.
        BarkError: the text can't be said, or the model isn't there.
    """
    if isinstance(number, bool) or number not in range(LEAST, MOST + 1):
        raise InvalidSetting(
            f"{LEAST} to {MOST} voices can be rolled at once, got {number}; choose between them"
        )
    first = GenerationRequest(text, seed=random_seed())
    # all are checked before the first is handed in
    seeds = [(first.seed + more) % (MAX_SEED + 1) for more in range(int(number))]
    wanted = [replace(first, seed=seed) for seed in seeds]
    group = new_id()
    for request in wanted:
        studio.desk.submit(request, model=model, owner=owner, browser=browser, group=group)
    return group


def rolled(studio: Studio, group: str, *, owner: str, browser: str) -> list[Rolled]:
    """All of a roll, in the order of their seeds."""
    if not is_id(group):
        return []
    views = {
        view.id: view
        for view in studio.desk.views(owner=owner, browser=browser)
        if view.group == group
    }
    entries = {
        entry.id: entry for entry in studio.history.search(owner=owner, group=group, limit=MOST)
    }
    ids = [*entries, *(ticket_id for ticket_id in views if ticket_id not in entries)]
    found = []
    for each in ids:
        view, entry = views.get(each), entries.get(each)
        seed = view.seed if view is not None else entry.seed if entry is not None else 0
        found.append(Rolled(each, seed, view, entry))
    return sorted(found, key=lambda one: one.seed)


def still_going(found: Sequence[Rolled]) -> bool:
    """Whether there is more to come."""
    return any(one.view is not None and not one.view.state.over for one in found)


def voice_of_take(studio: Studio, entry: Entry, segment: int) -> Voice:
    """One segment of a take as a voice that says where it comes from.

    Raises:
        InvalidSetting: it has no such segment.
        VoiceError, StorageError: its tokens aren't there, or no model knows them.
    """
    segments = segments_of(studio, entry)
    if not 0 <= segment < len(segments):
        raise InvalidSetting(
            f"this take has {len(segments)} segments, number {segment + 1} isn't one; "
            "choose another"
        )
    source = f"{entry.model_name}, seed {entry.seed}: {quote(entry.text, 200)}"
    return replace(segments[segment], source=source, kind="generated")


def longest_segment(segments: Sequence[Voice]) -> int:
    """Which segment tells a model most of how somebody speaks."""
    return max(range(len(segments)), key=lambda number: len(segments[number].semantic))


# --- how it looks


def roll_view(found: Sequence[Rolled], kept: Mapping[str, str], names: Mapping[str, str]) -> str:
    """Those that were made up, side by side.

    Args:
        kept: names of the voices that were made of them, by their ids.
        names: free names to offer, by their ids.
    """
    if not found:
        return ""
    texts = [one.entry.text for one in found if one.entry] + [o.view.text for o in found if o.view]
    cards = "".join(
        _card(one, number, kept.get(one.id, ""), names.get(one.id, ""))
        for number, one in enumerate(found, start=1)
    )
    going = sum(one.view is not None and not one.view.state.over for one in found)
    said = count(going, "{n} more is on its way.", "{n} more are on their way.") if going else ""
    if not going:
        said = _("All of them stay in History, whether you keep them as voices or not.")
    away = "" if going else button("end-roll", "", _("Done with these"))
    return (
        f'<section class="roll" aria-label="{escaped(_("New voices"))}">'
        f'<p class="about">“{escaped(quote(texts[0], 160))}”</p><div class="side">{cards}</div>'
        f'<p class="about" role="status">{escaped(said)}</p>{away}</section>'
    )


def _card(one: Rolled, number: int, kept: str, name: str) -> str:
    title = _("Voice {n}", n=number)
    if one.entry is not None:
        return _finished(one.entry, title, kept, name)
    view = one.view
    assert view is not None
    if view.error is not None:
        told = explain(view.error)
        body = f'<p class="about">{escaped(told.what)}. {escaped(told.why)}</p>'
    elif view.state is TicketState.STOPPED:
        body = f'<p class="about">{escaped(_("Stopped before anything was finished."))}</p>'
    else:
        body = _bars(view, title)
    return (
        f'<article class="take running" data-take="{view.id}" data-live><h2>{escaped(title)}</h2>'
        f"{body}</article>"
    )


def _bars(view: View, title: str) -> str:
    """Filled by the page's pulse, as those of Generate are."""
    bars = "".join(
        f'<div class="bar"><div role="progressbar" aria-label="{escaped(f"{title}: {name}")}" '
        'aria-valuemin="0" aria-valuemax="100" aria-valuenow="0"><i></i></div></div>'
        for name in (_("words"), _("sound"), _("detail"))
    )
    stop = button("stop-roll", view.id, _("Stop"), about=title)
    stopping = f'<span class="about">{escaped(_("stopping …"))}</span>'
    return (
        f'<div class="bars">{bars}</div><footer><span class="line"></span>'
        f"{stopping if view.stopping else stop}</footer>"
    )


def _finished(entry: Entry, title: str, kept: str, name: str) -> str:
    if kept:
        said = escaped(_("Kept as {name}", name=kept))
        show = button("voice", kept, _("Show it"), about=kept)
        foot = f'<p class="about">{said} {show}</p>'
    else:
        label = escaped(_("Name of {title}", title=title))
        foot = (
            '<div class="voice-form inline" data-form>'
            f'<input type="text" name="name" maxlength="64" '
            f'value="{escaped(name)}" autocomplete="off" aria-label="{label}" required>'
            f"{button('keep-roll', entry.id, _('Keep'), about=title, quiet=False)}</div>"
        )
    seed = escaped(_("seed {n}", n="\x00")).replace("\x00", f"<code>{entry.seed}</code>")
    return (
        f'<article class="take" data-take="{entry.id}"><h2>{escaped(title)}</h2>'
        f"{player(sound_url(entry), entry.duration_s, entry.peaks, title)}"
        f'<p class="about">{seed}</p>{foot}</article>'
    )

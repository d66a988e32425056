"""How the history looks: pure functions from entries to HTML. assets/history.js picks and moves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bark_core import Problem
from webui.history import SCRIPT, Entry, Usage
from webui.html import (
    VoiceLabel,
    button,
    download,
    escaped,
    menu,
    moment,
    player,
    sound_url,
    toggle,
)
from webui.languages import N_, _, count
from webui.takes import FORMATS, PROBLEMS
from webui.words import quote, seconds

_SETTINGS = {
    "temperature": N_("temperature"),
    "top_k": N_("top-k"),
    "top_p": N_("top-p"),
    "min_eos_p": N_("end threshold"),
    "max_duration_s": N_("longest, seconds"),
    "max_history": N_("tokens looked back on"),
    "allow_early_stop": N_("may end early"),
}
_STAGES = {
    "semantic": N_("Wording"),
    "coarse": N_("Timbre"),
    "fine": N_("Detail"),
    "codec": N_("Codec"),
}


@dataclass(frozen=True, slots=True)
class Found:
    """What a search found, as far as it is shown."""

    entries: Sequence[Entry]
    total: int
    narrowed: bool  # by words or filters
    chosen: str | None


# --- the list


def history_list(found: Found, label: VoiceLabel) -> str:
    """Rows to choose from, the newest first."""
    if not found.entries and found.narrowed:
        said = _("Nothing that was made here fits.")
        return _empty(said, button("clear", "", _("Show everything")))
    if not found.entries:
        said = _("What you make is kept here, over restarts too. Nothing is here yet.")
        return _empty(said, button("example", "0", _("Make the first one")), open_button())
    rows = "".join(_row(entry, label, current=entry.id == found.chosen) for entry in found.entries)
    more = ""
    if found.total > len(found.entries):
        more = button("more", "", _("Show more"))
    return f'{_list_head(found)}<ul class="rows">{rows}</ul>{more}'


def open_button() -> str:
    """Opens the settings of a file; history.js asks for the file."""
    return (
        '<button type="button" class="quiet" data-open-file>'
        f"{escaped(_('Open a file made here'))}</button>"
    )


def _list_head(found: Found) -> str:
    shown = count(found.total, "{n} take", "{n} takes")
    every = button("pick-all", "", _("Select all"))
    clear = button("clear", "", _("Show everything")) if found.narrowed else ""
    return (
        f'<div class="list-head"><p class="about total" role="status">{escaped(shown)}</p>'
        f"{clear}{every}{open_button()}</div>{_picked()}"
    )


def _picked() -> str:
    """What to do with several; history.js fills in which, and shows it when there are any."""
    one, many = escaped(_("{n} take selected")), escaped(_("{n} takes selected"))
    formats = "".join(
        f'<option value="{suffix}">{escaped(_(name))}</option>' for suffix, name in FORMATS
    )
    return (
        f'<div class="picked" hidden><p class="about" role="status" data-one="{one}" '
        f'data-many="{many}"></p>'
        f'<div><button type="button" class="plain" data-zip>{escaped(_("Download as zip"))}'
        f'</button><select data-zip-format aria-label="{escaped(_("Format in the zip"))}">'
        f"{formats}</select></div>"
        f"{_tag_field('picked', _('Tag them'))}"
        f"<div>{button('star', 'picked', _('Make favourites'))}"
        f"{button('trash', 'picked', _('Delete'))}"
        f'<button type="button" class="quiet" data-pick-none>{escaped(_("Select none"))}'
        "</button></div></div>"
    )


def _row(entry: Entry, label: VoiceLabel, *, current: bool) -> str:
    title = escaped(quote(entry.text, 40))
    mark = ' aria-current="true"' if current else ""
    about = [_voices(entry, label), seconds(entry.duration_s)]
    if not entry.complete:
        about.append(_("stopped early"))
    tags = "".join(f'<span class="tag">{escaped(tag)}</span>' for tag in entry.tags)
    return (
        f'<li><input type="checkbox" class="pick" data-pick="{entry.id}" '
        f'aria-label="{escaped(_("Select"))}: {title}">'
        f'<button type="button" class="row" data-action="choose" data-target="{entry.id}"{mark}>'
        f'<span class="words">{escaped(quote(entry.text, 110))}</span>'
        f'<span class="about">{escaped(", ".join(about))}, {moment(entry.created_at)}{tags}</span>'
        f"</button>{_star(entry, title)}</li>"
    )


def _star(entry: Entry, title: str) -> str:
    return toggle(
        "favourite",
        entry.id,
        _("Favourite"),
        pressed=entry.favourite,
        symbol="star",
        about=title,
    )


def _voices(entry: Entry, label: VoiceLabel) -> str:
    """Who is heard."""
    if entry.kind != SCRIPT:
        return label(entry.voice_name)
    names = [label(name) for name in entry.voice_names]
    return _("script: {voices}", voices=", ".join(names)) if names else _("script")


def _empty(said: str, *actions: str) -> str:
    return f'<div class="empty"><p>{escaped(said)}</p>{" ".join(actions)}</div>'


# --- what was deleted, and the disk


def undo(n_trashed: int, ids: Sequence[str]) -> str:
    """A line that takes a deletion back."""
    said = count(n_trashed, "{n} take is in the bin.", "{n} takes are in the bin.")
    return (
        f'<div class="undo" role="status"><span>{escaped(said)}</span>'
        f"{button('undo', ' '.join(ids), _('Undo'))}"
        f"{button('dismiss', '', _('Dismiss'))}</div>"
    )


def disk_use(usage: Usage, free_bytes: int) -> str:
    """What all of it takes, and how to free it."""
    if not usage.n_entries and not usage.n_trashed:
        return ""
    takes = count(usage.n_entries, "{n} take", "{n} takes")
    said = _(
        "{takes} on the disk: {size}; {free} are free. To free some, select takes, delete them "
        "and empty the bin.",
        takes=takes,
        size=size(usage.n_bytes),
        free=size(free_bytes),
    )
    bin_line = ""
    if usage.n_trashed:
        waits = count(
            usage.n_trashed,
            "{n} deleted take stays in the bin for a week",
            "{n} deleted takes stay in the bin for a week",
        )
        bin_line = (
            f'<p class="about">{escaped(waits)} ({escaped(size(usage.trashed_bytes))}). '
            f"{button('put-back', '', _('Put back'))} "
            f"{button('empty-bin', '', _('Empty the bin'))}</p>"
        )
    return f'<div class="disk"><p class="about">{escaped(said)}</p>{bin_line}</div>'


def size(n_bytes: int) -> str:
    """ "0.04 MB", "214 MB", "12.1 GB"."""
    if n_bytes >= 10**9:
        return _("{n} GB", n=f"{n_bytes / 10**9:.1f}")
    n_mb = n_bytes / 10**6
    digits = next(n for n, least in ((0, 10.0), (1, 1.0), (2, 0.0)) if n_mb >= least)
    return _("{n} MB", n=f"{n_mb:.{digits}f}")


# --- one take


def history_details(entry: Entry | None, label: VoiceLabel) -> str:
    """Everything about one take."""
    if entry is None:
        return _empty(_("Choose a take to hear it and to see how it was made."))
    title = quote(entry.text, 40)
    facts = "".join(
        f"<dt>{escaped(name)}</dt><dd>{value}</dd>" for name, value in _facts(entry, label)
    )
    return (
        f'<article class="take chosen" data-take="{entry.id}" data-title="{escaped(title)}" '
        f'tabindex="-1"><h2 class="words">{escaped(entry.text)}</h2>'
        f"{player(sound_url(entry), entry.duration_s, entry.peaks, title)}"
        f"{_actions(entry, title)}{_tags(entry)}{_segments(entry)}"
        f'<dl class="facts">{facts}</dl></article>'
    )


def _actions(entry: Entry, title: str) -> str:
    formats = [download(entry, title, suffix, _(name)) for suffix, name in FORMATS]
    script = button("to-script", entry.id, _("Send to Script"))
    ends = f"{_star(entry, title)}{button('trash', entry.id, _('Delete'))}"
    end = f'<span class="ending">{ends}</span>'
    if entry.kind == SCRIPT:
        return f"<footer>{script}{menu(_('Download'), formats, about=title)}{end}</footer>"
    more = [
        button("words", entry.id, _("Same voice, new words")),
        button("reseed", entry.id, _("Same words, new seed")),
        button("redo", entry.id, _("Keep the words, redo the sound")),
    ]
    return (
        f"<footer>{button('again', entry.id, _('Use these settings again'), quiet=False)}"
        f"{menu(_('Download'), formats, about=title)}{menu(_('Vary'), more, about=title)}"
        f"{button('as-voice', entry.id, _('Save as voice'))}{script}{end}</footer>"
    )


def _tags(entry: Entry) -> str:
    chips = "".join(
        f'<li class="tag">{escaped(tag)}<button type="button" data-action="untag" '
        f'data-target="{entry.id}\n{escaped(tag)}" aria-label="{escaped(_("Remove the tag"))}: '
        f'{escaped(tag)}">×</button></li>'
        for tag in entry.tags
    )
    return (
        f'<div class="tags"><ul aria-label="{escaped(_("Tags"))}">{chips}</ul>'
        f"{_tag_field(entry.id, _('Add a tag'))}</div>"
    )


def _tag_field(whose: str, text: str) -> str:
    """A field and a button; history.js hands over what was typed."""
    return (
        f'<div class="tag-field"><input type="text" maxlength="40" data-tag-for="{whose}" '
        f'aria-label="{escaped(text)}" placeholder="{escaped(_("a tag"))}" autocomplete="off">'
        f"{button('tag', whose, text)}</div>"
    )


def _segments(entry: Entry) -> str:
    """The words of each segment, which take it is, what seems wrong with it."""
    takes, problems = entry.details.get("takes"), entry.details.get("problems")
    first = entry.details.get("take")
    begun = first if isinstance(first, int) else 0
    rows = []
    for number, words in enumerate(entry.segments):
        notes = []
        take = _at(takes, number)
        if isinstance(take, int) and take > begun:
            notes.append(_("take {n}", n=take - begun + 1))
        found = _at(problems, number)
        names = found if isinstance(found, list) else []
        notes += [_(PROBLEMS[Problem(name)]) for name in names if name in set(Problem)]
        about = f'<span class="about">{escaped(", ".join(notes))}</span>' if notes else ""
        rows.append(f"<li><span>{escaped(words)}</span>{about}</li>")
    if not rows:
        return ""
    shown = count(len(rows), "{n} segment", "{n} segments")
    is_open = " open" if 1 < len(rows) <= 8 else ""
    return (
        f'<details class="fold segments" data-keep="segments"{is_open}>'
        f'<summary class="quiet">{escaped(shown)}</summary><ol>{"".join(rows)}</ol></details>'
    )


def _facts(entry: Entry, label: VoiceLabel) -> list[tuple[str, str]]:
    """Names and values as HTML."""
    details = entry.details
    model, computing = _mapping(details.get("model")), _mapping(details.get("seconds"))
    length = seconds(entry.duration_s) + ("" if entry.complete else f", {_('stopped early')}")
    facts = [(_("Voice"), escaped(_voices(entry, label)))]
    if voice_hash := _mapping(details.get("voice")).get("sha256"):
        facts.append((_("Its hash"), _code(str(voice_hash)[:16])))
    if entry.kind != SCRIPT:
        facts.append((_("Seed"), _code(entry.seed)))
    for name, key in ((_("Take"), "take"), (_("Retries allowed"), "retries")):
        if details.get(key):
            facts.append((name, _code(details[key])))
    facts.append((_("Length"), escaped(length)))
    if isinstance(pause_s := details.get("segment_pause_s"), int | float):
        facts.append((_("Pause between segments"), escaped(_("{s} s", s=f"{pause_s:g}"))))
    if details.get("words"):
        facts.append((_("Words"), escaped(_("kept from an earlier take"))))
    if details.get("streaming"):
        facts.append((_("Sound at once"), escaped(_("yes"))))
    settings = _mapping(details.get("settings"))
    facts += [
        (_(name), _settings(_mapping(settings[stage])))
        for stage, name in _STAGES.items()
        if stage in settings
    ]
    if model:
        # that of a script says which model it is of; its takes may be of several loads of it
        named = [str(model[key]) for key in ("name", "precision") if model.get(key)]
        facts.append((_("Model"), escaped(", ".join(named) or "?")))
        if model.get("revision"):
            facts.append((_("Revision"), _code(str(model["revision"])[:16])))
    if computing:
        facts.append((_("Computing"), escaped(_computing(computing))))
    return [*facts, (_("On the disk"), escaped(size(entry.n_bytes))), *_when(entry)]


def _when(entry: Entry) -> list[tuple[str, str]]:
    return [(_("Made"), moment(entry.created_at))]


def _settings(values: Mapping[str, Any]) -> str:
    shown = []
    for key, value in values.items():
        if isinstance(value, bool):
            said = _("yes") if value else _("no")
        else:
            said = "–" if value is None else str(value)
        shown.append(f"{escaped(_(_SETTINGS.get(key, key)))} {_code(said)}")
    return ", ".join(shown)


def _computing(by_stage: Mapping[str, Any]) -> str:
    times = {key: value for key, value in by_stage.items() if isinstance(value, int | float)}
    parts = [f"{_(_STAGES.get(key, key))} {seconds(value)}" for key, value in times.items()]
    return f"{seconds(sum(times.values()))} ({', '.join(parts)})"


def _code(value: object) -> str:
    return f"<code>{escaped(value)}</code>"


def _at(values: Any, index: int) -> Any:
    """An item of what may be a list, and may be shorter."""
    return values[index] if isinstance(values, list) and index < len(values) else None


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}

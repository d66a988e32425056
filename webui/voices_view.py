"""How the Voices tab looks: pure functions from voices to HTML.

Forms are our own: assets/voices.js hands the fields of the form around a button over, as JSON,
in place of the button's target.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from bark_core import BarkError, DownloadError, MissingFiles, Voice, VoiceEntry
from webui.generate_view import kind_titles, voice_about
from webui.html import button, escaped, player, toggle
from webui.languages import N_, _, count
from webui.previews import Preview, preview_url
from webui.words import Notice, explain, quote, seconds

_KINDS = {
    "announcer": N_("Announcer"),
    "v1": N_("Bark, first series"),
    "v2": N_("Bark, second series"),
    "generated": N_("Made up by a model"),
    "cloned": N_("From a recording"),
    "synthetic": N_("Synthetic"),
}
_HEAR = (
    '<svg viewBox="0 0 16 16" aria-hidden="true"><path class="if-paused" d="M4 2.5v11l9-5.5z"/>'
    '<path class="if-playing" d="M4 2.5h3v11H4zM9 2.5h3v11H9z"/></svg>'
)


@dataclass(frozen=True, slots=True)
class Row:
    """One voice of the list."""

    entry: VoiceEntry
    title: str
    language: str  # its own name, or ""
    favourite: bool
    needed: tuple[str, ...] | None  # models that can use it; None: the page's own can


@dataclass(frozen=True, slots=True)
class Details:
    """All that is shown of one voice."""

    row: Row
    voice: Voice | None  # None: it isn't here yet, or can't be read
    preview: Preview | None
    model: str  # of the page
    licence: str  # of published ones
    languages: Mapping[str, str]
    free_name: str  # for a part of it
    problem: Notice | None = None
    coming: bool = False  # its preview is about to be made


@dataclass(frozen=True, slots=True)
class TakeDetails:
    """A take of the history that is about to become a voice."""

    entry_id: str
    text: str
    segments: tuple[tuple[str, Voice], ...]  # words, tokens
    longest: int  # which segment is offered first
    free_name: str
    languages: Mapping[str, str]


def kind_title(kind: str) -> str:
    """What a kind is called; one's own kinds are as they were typed."""
    return _(_KINDS[kind]) if kind in _KINDS else kind


def explain_voice(error: BaseException) -> Notice:
    """As `explain`, for a voice instead of a model that can't be had."""
    if isinstance(error, DownloadError | MissingFiles):
        return Notice(
            _("This voice couldn’t be fetched"),
            _sentence(str(error)),
            _("Connect to the internet and try again: it is fetched once, and kept."),
        )
    return explain(error)


# --- the list


def voice_list(rows: Sequence[Row], chosen: str, *, total: int, model: str, filtered: bool) -> str:
    """Voices to hear and to choose from.

    Args:
        total: how many there are, of which `rows` are the first.
        filtered: whether something was looked for.
    """
    if not rows and filtered:
        nothing = _("No voice is like that. Look for less, or look among all models’ voices.")
        everything = button("show-all", "", _("Show all of them"))
        return f'<div class="empty"><p>{escaped(nothing)}</p>{everything}</div>'
    if not rows:
        nothing = _("No voices of this model are here yet. Roll some, or add voice files.")
        return f'<div class="empty"><p>{escaped(nothing)}</p></div>'
    items = "".join(_item(row, chosen=row.entry.name == chosen, model=model) for row in rows)
    more = button("more", "", _("Show more")) if total > len(rows) else ""
    said = escaped(count(total, "{n} voice", "{n} voices"))
    return (
        f'<p class="about total" role="status">{said}</p>'
        f'<ul class="rows voice-rows">{items}</ul>{more}'
    )


def _item(row: Row, *, chosen: bool, model: str) -> str:
    entry = row.entry
    current = ' aria-current="true"' if chosen else ""
    needs = ""
    if row.needed is not None:
        needs = f'<span class="needs">{escaped(needs_models(row.needed, entry.layout))}</span>'
    language = f"<small>{escaped(row.language)}</small>" if row.language else ""
    hear = hear_button(preview_url(entry.name, model), row.title) if entry.available else ""
    star = toggle(
        "star", entry.name, _("Favourite"), pressed=row.favourite, symbol="star", about=row.title
    )
    return (
        f'<li class="voice-item">{hear or "<span></span>"}<button type="button" class="row" '
        f'data-action="voice" data-target="{escaped(entry.name)}"{current}>'
        f'<span class="words">{escaped(row.title)} {language}</span>'
        f'<span class="about">{escaped(voice_about(entry))}</span>{needs}</button>{star}</li>'
    )


def hear_button(url: str, title: str) -> str:
    """Plays a sound with the page's one player; player.js says why where it can't."""
    said = escaped(_("Listen to {name}", name=title))
    return (
        f'<button type="button" class="hear" data-hear="{escaped(url)}" aria-pressed="false" '
        f'aria-label="{said}" title="{said}">{_HEAR}</button>'
    )


def needs_models(needed: Sequence[str], layout: str) -> str:
    """Which models a voice needs that the page's own can't use."""
    if not needed:
        return _("needs a model with the layout {layout}", layout=layout or "?")
    return _("needs the model {models}", models=", ".join(needed))


# --- one voice


def voice_details(details: Details) -> str:
    """Everything about one voice, and what can be done with it."""
    row, entry = details.row, details.row.entry
    mark = details.voice.sha256[:16] if details.voice else "none"
    facts = "".join(f"<dt>{escaped(name)}</dt><dd>{value}</dd>" for name, value in _facts(details))
    folded = _trim_form(details) if details.voice and details.preview else ""
    if entry.source == "yours" and details.voice is not None:
        folded = _notes_form(details) + folded
    return (
        f'<article class="take chosen voice" data-take="voice-{mark}" tabindex="-1" '
        f'data-voice="{escaped(entry.name)}"><h2 class="words">{escaped(row.title)}</h2>'
        f'<p class="about">{escaped(voice_about(entry))}</p>{_sound(details)}'
        f"<footer>{_actions(details)}</footer>{folded}"
        f'<dl class="facts">{facts}</dl></article>'
    )


def no_voice() -> str:
    """What stands there while nothing is chosen."""
    said = _("Choose a voice to hear it, and to see what it is made of.")
    return f'<div class="empty"><p>{escaped(said)}</p></div>'


def _sound(details: Details) -> str:
    row, preview = details.row, details.preview
    if details.problem is not None:
        return notice_of(details.problem)
    if preview is not None:
        url = preview_url(row.entry.name, details.model)
        if details.voice is not None:  # another one of that name has another address
            url += f"&v={details.voice.sha256[:8]}"
        return player(url, preview.duration_s, preview.peaks, row.title)
    if row.needed is not None:
        said = _sentence(needs_models(row.needed, row.entry.layout))
        return f'<p class="remark">{escaped(said)}</p>'
    if details.voice is None:
        said = _("It isn’t on this computer yet. It has some 100 KB, and is kept once it is here.")
        fetch = button("fetch", row.entry.name, _("Fetch and listen"), quiet=False)
        return f'<p class="remark">{escaped(said)}</p><p>{fetch}</p>'
    said = _("It can be heard as soon as its model is loaded.")
    if details.coming:
        said = _("Its sound is being made.")
    return f'<p class="remark">{escaped(said)}</p>'


def _actions(details: Details) -> str:
    row, name = details.row, details.row.entry.name
    use = button("use-voice", name, _("Use it"), about=row.title, quiet=False)
    star = toggle(
        "star", name, _("Favourite"), pressed=row.favourite, symbol="star", about=row.title
    )
    keep = ""
    if details.voice is not None:
        href = preview_url(name).split("?")[0].removesuffix(".flac") + ".npz"
        keep = (
            f'<a class="quiet" href="{escaped(href)}" download '
            f'aria-label="{escaped(_("Download"))}: {escaped(row.title)}">'
            f"{escaped(_('Download'))}</a>"
        )
    away = ""
    if row.entry.source == "yours":
        away = button("remove-voice", name, _("Delete"), about=row.title)
    return f"{use}{keep}{away}{star}"


def _facts(details: Details) -> list[tuple[str, str]]:
    """Names and values as HTML."""
    row, entry, voice = details.row, details.row.entry, details.voice
    facts = [(_("Source"), escaped(kind_titles()[entry.source]))]
    if row.language:
        facts.append((_("Language"), escaped(row.language)))
    if entry.kind:
        facts.append((_("Kind"), escaped(kind_title(entry.kind))))
    if entry.source == "published":
        facts.append((_("Licence"), escaped(details.licence)))
    if entry.layout:
        facts.append((_("Layout"), f"<code>{escaped(entry.layout)}</code>"))
    if voice is None:
        return facts
    shape = f"{voice.fine.values.shape[0]} × {voice.fine.n_frames}"
    facts += [
        (_("Length"), escaped(seconds(voice.duration_s))),
        (_("Semantic tokens"), f"<code>{len(voice.semantic)}</code>"),
        (_("Codes"), f"<code>{shape}</code>"),
        (_("Hash"), f"<code>{voice.sha256[:16]}</code>"),
    ]
    if voice.source and entry.source == "yours":
        facts.append((_("Made from"), escaped(voice.source)))
    return facts


# --- forms


def _notes_form(details: Details) -> str:
    entry = details.row.entry
    fields = (
        _field("name", _("Name"), entry.name, required=True)
        + _field("description", _("Who is heard"), entry.description or "", long=True)
        + _language_field(entry.language or "", details.languages)
        + _field("kind", _("Kind"), entry.kind or "")
    )
    form = _form("keep-notes", entry.name, _("Keep"), fields)
    return _folded(_("Rename and describe"), "keep-notes", form)


def _trim_form(details: Details) -> str:
    assert details.voice is not None
    entry, end_s = details.row.entry, details.voice.duration_s
    hear = (
        f'<button type="button" class="quiet" data-hear-part>{escaped(_("Hear this part"))}'
        "</button>"
    )
    fields = (
        f'<div class="part" data-seconds="{end_s:.2f}">'
        f"{_moment('from', _('From'), 0.0, end_s)}{_moment('to', _('To'), end_s, end_s)}"
        f'<p class="about"><span data-part-length>{escaped(seconds(end_s))}</span> {hear}</p></div>'
        + _field("name", _("Name of the new voice"), details.free_name, required=True)
    )
    more = ""
    if entry.source == "yours":
        more = (
            f'<button type="button" class="quiet" data-action="replace-part" data-sure '
            f'data-target="{escaped(entry.name)}">{escaped(_("Replace the whole with it"))}'
            "</button>"
        )
    form = _form("keep-part", entry.name, _("Keep as a new voice"), fields, more)
    return _folded(_("Keep a part of it"), "keep-part", form)


def _moment(name: str, label: str, value_s: float, end_s: float) -> str:
    return (
        f'<label><span>{escaped(label)}</span><input type="number" name="{name}" min="0" '
        f'max="{end_s:.2f}" step="0.01" value="{value_s:.2f}" inputmode="decimal">'
        f'<input type="range" data-of="{name}" min="0" max="{end_s:.2f}" step="0.01" '
        f'value="{value_s:.2f}" aria-label="{escaped(label)}"></label>'
    )


def _form(action: str, target: str, do: str, fields: str, more: str = "") -> str:
    return (
        f'<div class="voice-form" data-form>{fields}<p class="do">'
        f'<button type="button" class="plain" '
        f'data-action="{action}" data-target="{escaped(target)}">{escaped(do)}</button>{more}</p>'
        "</div>"
    )


def _folded(title: str, key: str, body: str) -> str:
    return (
        f'<details class="fold" data-keep="{key}"><summary>{escaped(title)}</summary>'
        f"{body}</details>"
    )


def _field(name: str, label: str, value: str, *, required: bool = False, long: bool = False) -> str:
    needed = " required" if required else ""
    if long:
        control = f'<textarea name="{name}" rows="2" maxlength="2000">{escaped(value)}</textarea>'
    else:
        control = (
            f'<input type="text" name="{name}" value="{escaped(value)}" maxlength="64" '
            f'autocomplete="off"{needed}>'
        )
    return f"<label><span>{escaped(label)}</span>{control}</label>"


def _language_field(chosen: str, languages: Mapping[str, str]) -> str:
    known = {"": _("not said"), **languages}
    if chosen not in known:
        known[chosen] = chosen
    options = "".join(
        f'<option value="{escaped(code)}"{" selected" if code == chosen else ""}>'
        f"{escaped(title)}</option>"
        for code, title in known.items()
    )
    return (
        f"<label><span>{escaped(_('Language'))}</span>"
        f'<select name="language">{options}</select></label>'
    )


# --- a voice from a take


def take_details(take: TakeDetails) -> str:
    """A take of the history, to be kept as a voice: which segment, under which name."""
    one = len(take.segments) == 1
    choices = "".join(
        _segment(take, number, words, voice, chosen=number == take.longest, alone=one)
        for number, (words, voice) in enumerate(take.segments)
    )
    legend = _("Which part of it?")
    segments = (
        choices
        if one
        else f'<fieldset class="segments"><legend>{escaped(legend)}</legend>{choices}</fieldset>'
    )
    fields = (
        segments
        + _field("name", _("Name"), take.free_name, required=True)
        + _field("description", _("Who is heard"), "", long=True)
        + _language_field("", take.languages)
    )
    form = _form("keep-take", take.entry_id, _("Keep this voice"), fields)
    leave = button("leave-take", take.entry_id, _("Leave it"))
    return (
        f'<article class="take chosen voice" tabindex="-1" data-voice="take:{take.entry_id}">'
        f'<h2 class="words">{escaped(_("A voice from what was said"))}</h2>'
        f'<p class="about">“{escaped(quote(take.text, 160))}”</p>{form}<p>{leave}</p></article>'
    )


def _segment(
    take: TakeDetails, number: int, words: str, voice: Voice, *, chosen: bool, alone: bool
) -> str:
    hear = hear_button(segment_url(take.entry_id, number), quote(words, 40))
    length = escaped(seconds(voice.duration_s))
    if alone:
        return (
            f'<p class="segment">{hear}<span>{escaped(quote(words, 90))} <small>{length}</small>'
            '</span><input type="hidden" name="segment" value="0"></p>'
        )
    checked = " checked" if chosen else ""
    return (
        f'<p class="segment">{hear}<label><input type="radio" name="segment" value="{number}"'
        f"{checked}><span>{escaped(quote(words, 90))} <small>{length}</small></span></label></p>"
    )


def segment_url(entry_id: str, number: int) -> str:
    """Where one segment of a take is heard as the voice that it would be."""
    return f"studio/take-voice/{entry_id}/{number}.flac"


# --- what was done


def done(text: str, *, undo: str = "") -> str:
    """What was done, and a way back; `undo` is the name of a deleted voice."""
    back = button("restore-voice", undo, _("Undo")) if undo else ""
    return f'<p class="remark done" role="status">{escaped(text)} {back}</p>'


def notice_of(message: Notice) -> str:
    """What happened, why, what to do."""
    return (
        f'<div class="notice" role="alert"><p class="what">{escaped(message.what)}</p>'
        f"<p>{escaped(message.why)} {escaped(message.do)}</p></div>"
    )


def uploaded(kept: Sequence[str], refused: Sequence[tuple[str, BarkError]]) -> str:
    """What became of each file."""
    parts = []
    if kept:
        names = ", ".join(kept)
        said = count(len(kept), "{n} voice was added:", "{n} voices were added:")
        parts.append(f'<p class="remark done" role="status">{escaped(f"{said} {names}")}</p>')
    for file, error in refused:
        # the file is named above what is wrong with it
        told = explain(type(error)(str(error).removeprefix("this voice file: ")))
        what = _("{file} wasn’t added", file=file)
        do = told.do if "; " in str(error) else _("Choose an .npz file that holds a Bark voice.")
        parts.append(notice_of(Notice(what, told.why, do)))
    return "".join(parts)


def _sentence(text: str) -> str:
    text = text.strip()
    return text[:1].upper() + text[1:] + ("" if text[-1:] in ".!?" else ".")

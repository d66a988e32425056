"""How the Generate tab looks: pure functions from what there is to HTML."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from bark_core import SoundCue, VoiceEntry
from webui.controls import OWN_MOOD, mood_named
from webui.html import escaped
from webui.languages import _, count
from webui.words import about

FEW_VOICES = 8  # so many can be looked through without a search


@dataclass(frozen=True, slots=True)
class PlannedSegment:
    """What one segment of a text will take."""

    text: str
    n_tokens: int
    duration_s: float  # an estimate


@dataclass(frozen=True, slots=True)
class VoiceRow:
    """One voice to choose."""

    name: str  # "" for a new one, "take:ID" for that of a take
    title: str
    language: str  # a code, or ""
    language_title: str
    kind: str  # "bundled", "yours", "published" or ""
    about: str
    url: str  # where it is heard, "" for one that can't be
    favourite: bool = False


# --- the plan


def plan_line(segments: Sequence[PlannedSegment], *, window: int, computing_s: float | None) -> str:
    """How a text is split, how full the segments are, how long it sounds; the words folded."""
    tokens = [segment.n_tokens for segment in segments]
    sound = about(sum(segment.duration_s for segment in segments))
    if len(tokens) == 1:
        fill = _("{n} of {window} tokens", n=tokens[0], window=window)
    elif len(tokens) <= 4:
        fill = _("{numbers} of {window} tokens", numbers=", ".join(map(str, tokens)), window=window)
    else:
        fill = _(
            "{least} to {most} of {window} tokens each",
            least=min(tokens),
            most=max(tokens),
            window=window,
        )
    parts = [
        f"<b>{escaped(count(len(segments), '{n} segment', '{n} segments'))}</b>",
        escaped(fill),
        escaped(_("{time} of sound", time=sound)),
    ]
    if computing_s is not None:
        parts.append(escaped(_("made in {time}", time=about(computing_s))))
    line = ", ".join(parts)
    if len(segments) == 1:
        return quiet(line)
    rows = "".join(
        f"<li><span>{escaped(segment.text)}</span> <small>{_segment_facts(segment)}</small></li>"
        for segment in segments
    )
    return (
        f'<details class="fold about" data-keep="plan"><summary>{line}</summary>'
        f"<ol>{rows}</ol></details>"
    )


def _segment_facts(segment: PlannedSegment) -> str:
    tokens = count(segment.n_tokens, "{n} token", "{n} tokens")
    return escaped(f"{tokens}, {about(segment.duration_s)}")


# --- cues


def cue_bar(cues: Sequence[tuple[SoundCue, bool]], model: str) -> str:
    """Buttons that write a cue into the prompt; `model` knows those that say so."""
    buttons = "".join(_cue(number, cue, known, model) for number, (cue, known) in enumerate(cues))
    name = escaped(_("Sounds and signs to write into the text"))
    return (
        f'<div class="cues" role="group" aria-label="{name}">{buttons}</div>'
        f'<p class="about cue-about" data-cue-about>{name}</p>'
    )


def _cue(number: int, cue: SoundCue, known: bool, model: str) -> str:
    explained = _(cue.about)
    if not known:
        explained = _("{about} ({model} has not learned it.)", about=explained, model=model)
    kind = "wrap" if cue.wraps else "insert"
    if cue.uppercases:
        kind = "capitals"
    return (
        f'<button type="button" class="cue{"" if known else " unknown"}" '
        f'data-cue="{escaped(cue.insert)}" data-cue-kind="{kind}" title="{escaped(explained)}" '
        f'aria-describedby="cue-{number}">{escaped(_cue_face(cue))}</button>'
        f'<span id="cue-{number}" hidden>{escaped(explained)}</span>'
    )


def _cue_face(cue: SoundCue) -> str:
    # a sign alone says nothing to who has never met it
    bracketed = cue.insert.startswith("[") or cue.uppercases
    return cue.insert if bracketed else f"{cue.insert} {_(cue.title)}"


# --- voices


def voice_picker(rows: Sequence[VoiceRow], chosen: VoiceRow, *, others: str) -> str:
    """What is chosen, and folded under it everything that can be.

    Args:
        others: a sentence on voices that this model can't use, or "".
    """
    name = escaped(_("Voice"))
    options = "".join(_voice(row, chosen=row.name == chosen.name) for row in rows)
    search = _voice_search(rows) if len(rows) > FEW_VOICES else ""
    beyond = f'<p class="about">{escaped(others)}</p>' if others else ""
    nothing = escaped(_("No voice is like that. Look for less."))
    return (
        f'<p class="label" id="voice-label">{name}</p><div class="voice-line">'
        f'<details class="picker" data-keep="voices"><summary id="voice-chosen" '
        f'aria-labelledby="voice-label voice-chosen"><b>{escaped(chosen.title)}</b> '
        f"<span>{escaped(chosen.language_title)}</span></summary>"
        f'<div class="panel">{search}<fieldset class="voices" data-voices>'
        f'<legend class="hidden">{name}</legend>{options}</fieldset>'
        f'<p class="about" data-no-voice hidden>{nothing}</p>{beyond}</div></details>'
        f"{_hear(chosen)}</div>"
        f'<p class="about" id="voice-about">{escaped(chosen.about)}</p>'
    )


def _voice(row: VoiceRow, *, chosen: bool) -> str:
    checked = " checked" if chosen else ""
    star = f'<i title="{escaped(_("Favourite"))}">★</i> ' if row.favourite else ""
    kinds = f"{row.kind} favourite" if row.favourite else row.kind
    words = f"{row.name} {row.title} {row.about} {row.language_title}".casefold()
    return (
        f'<div class="voice-row" data-language="{escaped(row.language)}" '
        f'data-kind="{escaped(kinds)}" data-words="{escaped(words)}">'
        f'<label><input type="radio" name="voice" value="{escaped(row.name)}"{checked}>'
        f"<span>{star}<b>{escaped(row.title)}</b> <span>{escaped(row.language_title)}</span>"
        f"<small>{escaped(row.about)}</small></span></label>{_hear(row)}</div>"
    )


def _hear(row: VoiceRow) -> str:
    if not row.url:
        return ""
    said = escaped(_("Listen to {name}", name=row.title))
    return (
        f'<button type="button" class="hear" data-hear="{escaped(row.url)}" '
        f'aria-pressed="false" aria-label="{said}" title="{said}">'
        '<svg viewBox="0 0 16 16" aria-hidden="true"><path class="if-paused" '
        'd="M4 2.5v11l9-5.5z"/><path class="if-playing" d="M4 2.5h3v11H4zM9 2.5h3v11H9z"/>'
        "</svg></button>"
    )


def _voice_search(rows: Sequence[VoiceRow]) -> str:
    languages = {row.language: row.language_title for row in rows if row.language}
    kinds = {row.kind for row in rows}
    if any(row.favourite for row in rows):
        kinds.add("favourite")
    titles = {key: title for key, title in kind_titles().items() if key in kinds}
    return (
        f'<div class="filters"><input type="search" data-voice-words autocomplete="off" '
        f'placeholder="{escaped(_("Search"))}" aria-label="{escaped(_("Search the voices"))}">'
        f"{_select('language', _('All languages'), languages)}"
        f"{_select('kind', _('All kinds'), titles)}</div>"
    )


def _select(key: str, every: str, titles: Mapping[str, str]) -> str:
    options = "".join(
        f'<option value="{escaped(value)}">{escaped(title)}</option>'
        for value, title in titles.items()
    )
    return (
        f'<select data-voice-{key} aria-label="{escaped(every)}">'
        f'<option value="">{escaped(every)}</option>{options}</select>'
    )


def kind_titles() -> dict[str, str]:
    """Kinds of voices, as the filter offers them."""
    return {
        "favourite": _("Favourites"),
        "bundled": _("Comes with the studio"),
        "yours": _("Your own"),
        "published": _("Published with Bark"),
    }


def voice_about(entry: VoiceEntry) -> str:
    """A sentence about a voice."""
    description = entry.description or _("Nobody wrote down who is heard")
    description = f"{description[:1].upper()}{description[1:].rstrip('.')}."
    if entry.source == "published":
        return f"{description} {_('It is downloaded when it is first used.')}"
    return description


# --- moods


def mood_about(name: str) -> str:
    """What a mood does to the sound."""
    mood = None if name == OWN_MOOD else mood_named(name)
    return quiet(escaped(_("As you set it under More.") if mood is None else _(mood.about)))


def quiet(text: str) -> str:
    """A line in quiet ink; the text is HTML."""
    return f'<p class="about">{text}</p>'

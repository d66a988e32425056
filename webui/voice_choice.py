"""Which voices the Generate tab offers, and what a name there stands for.

A name is that of a voice in the library, "" for one that is rolled anew, or "take:ID": the voice
that a take of the history was said with, or that it rolled.
"""

from __future__ import annotations

from dataclasses import replace

from bark_core import InvalidVoice, UnknownVoice, Voice, VoiceEntry, read_segments
from webui.generate_view import VoiceRow, voice_about, voice_picker
from webui.history import Entry, is_id
from webui.html import sound_url
from webui.languages import _
from webui.previews import preview_url
from webui.studio import TAKE, Studio
from webui.words import quote


def picker(studio: Studio, chosen: str, model: str, owner: str) -> str:
    """The list of a model's voices, with one that is chosen, as HTML."""
    rows = voice_rows(studio, model, owner)
    if chosen.startswith(TAKE):
        rows.insert(1, _row_of_take(studio, chosen, owner))
    row = next((row for row in rows if row.name == chosen), rows[0])
    return voice_picker(rows, row, others=_others(studio, model, owner))


def voice_rows(studio: Studio, model: str, owner: str) -> list[VoiceRow]:
    """A new voice, then all that the model can speak with, those that one likes first."""
    rolled = VoiceRow(
        name="",
        title=_("Roll a new voice"),
        language="",
        language_title="",
        kind="",
        about=_("The model makes somebody up; what it made can be used again as a voice."),
        url="",
    )
    liked = studio.favourites.of(owner)
    every = sorted(entries(studio, model, owner), key=lambda entry: entry.name not in liked)
    return [rolled, *(_row(studio, entry, model, entry.name in liked) for entry in every)]


def entries(studio: Studio, model: str, owner: str) -> list[VoiceEntry]:
    """The voices of a model's layout; none where that isn't known yet."""
    layout = studio.models.layout_name(model)
    every = studio.voices_of(owner).entries(layout) if layout else []
    return [entry for entry in every if entry.available]


def first_voice(studio: Studio, model: str, owner: str) -> str:
    """The voice that a page begins with: one that came with the model, or a new one ("")."""
    return next((e.name for e in entries(studio, model, owner) if e.source == "bundled"), "")


def fitting_voice(studio: Studio, name: str, model: str, owner: str) -> str:
    """The same voice where the model can use it, or else the one that it begins with."""
    if name.startswith(TAKE):
        entry = _entry(studio, name, owner)
        fits = entry is not None and entry.layout_name == studio.models.layout_name(model)
        return name if fits else first_voice(studio, model, owner)
    known = {"", *(entry.name for entry in entries(studio, model, owner))}
    return name if name in known else first_voice(studio, model, owner)


def needed_models(studio: Studio, layout: str) -> list[str]:
    """The models that take voices of a layout."""
    return [name for name in studio.models.names() if studio.models.layout_name(name) == layout]


def resolve_voice(studio: Studio, name: str, owner: str) -> Voice | None:
    """The voice that a name stands for.

    Raises:
        VoiceError, DownloadError: there is none, or it can't be had.
    """
    if not name.startswith(TAKE):
        return studio.voices_of(owner)[name] if name else None
    entry = _entry(studio, name, owner)
    if entry is None:
        raise UnknownVoice("the take that this voice is of was deleted; choose another voice")
    segments = segments_of(studio, entry)
    return replace(max(segments, key=lambda voice: len(voice.semantic)), name=name)


def segments_of(studio: Studio, entry: Entry) -> tuple[Voice, ...]:
    """The tokens of each segment of a take.

    Raises:
        InvalidVoice: no model with its layout is known here, or the file is damaged.
    """
    for model in needed_models(studio, entry.layout_name):
        config = studio.models.config(model)
        if config is not None:
            return read_segments(studio.history.voice_path(entry.id), layout=config.layout)
    raise InvalidVoice(
        f"this take was made with {entry.model_name!r}, which isn't here; get it under System"
    )


def _entry(studio: Studio, name: str, owner: str) -> Entry | None:
    entry_id = name.removeprefix(TAKE)
    return studio.history.get(entry_id, owner=owner) if is_id(entry_id) else None


def _row(studio: Studio, entry: VoiceEntry, model: str, favourite: bool) -> VoiceRow:
    return VoiceRow(
        name=entry.name,
        title=studio.voice_label(entry.name),
        language=entry.language or "",
        language_title=studio.voices.languages.get(entry.language or "", ""),
        kind=entry.source,
        about=voice_about(entry),
        url=preview_url(entry.name, model),
        favourite=favourite,
    )


def _row_of_take(studio: Studio, name: str, owner: str) -> VoiceRow:
    entry = _entry(studio, name, owner)
    if entry is None:
        return VoiceRow(name, _("A take that was deleted"), "", "", "", "", "")
    return VoiceRow(
        name=name,
        title=_("The voice of “{words}”", words=quote(entry.text, 40)),
        language="",
        language_title="",
        kind="",
        about=_("As it was heard there. Save it as a voice to keep it under a name."),
        url=sound_url(entry),
    )


def _others(studio: Studio, model: str, owner: str) -> str:
    """A sentence on the models that other voices need."""
    layout = studio.models.layout_name(model)
    layouts = {entry.layout for entry in studio.voices_of(owner).entries()} - {layout}
    needed = [name for other in sorted(layouts) for name in needed_models(studio, other)]
    if not needed:
        return ""
    return _("Other voices belong to other models: {models}.", models=", ".join(needed))

"""What the Voices tab does with voices, apart from how it looks and how it is pressed."""

from __future__ import annotations

import threading
from dataclasses import dataclass, replace
from typing import Any

import gradio as gr

from bark_core import BarkError, InvalidSetting, Voice, VoiceEntry
from webui import voices_roll as rolling
from webui import voices_view as view
from webui.history import Entry
from webui.languages import _
from webui.previews import kept_preview, loaded_models, preview
from webui.studio import Studio
from webui.voice_choice import needed_models, segments_of
from webui.voices_view import Details, Row, TakeDetails
from webui.words import quote


@dataclass(frozen=True, slots=True)
class Filters:
    """What is looked for in the list."""

    words: str | None = ""
    language: str | None = ""
    kind: str | None = ""
    source: str | None = ""
    favourites: bool = False
    everything: bool = False  # voices of other models too

    @property
    def any(self) -> bool:
        """Whether voices of the page's model may be left out."""
        texts = (self.words or "").strip(), self.language, self.kind, self.source
        return any(texts) or self.favourites

    @property
    def values(self) -> list[Any]:
        return [
            self.words,
            self.language,
            self.kind,
            self.source,
            self.favourites,
            self.everything,
        ]


class VoicesShelf:
    """All methods may be called from any thread."""

    def __init__(self, studio: Studio) -> None:
        self._studio = studio
        self._lock = threading.Lock()
        self._kept: dict[str, str] = {}  # takes of rolls that were kept, and as which voice

    # --- looking

    def find(self, filters: Filters, model: str, owner: str) -> list[Row]:
        """The voices of a model that were looked for, or those of all models."""
        studio = self._studio
        layout = studio.models.layout_name(model)
        favourites = studio.favourites.of(owner)
        entries = studio.voices_of(owner).search(
            filters.words or "",
            language=filters.language or None,
            kind=filters.kind or None,
            source=filters.source or None,
        )
        return [
            self._row(entry, layout, favourite=entry.name in favourites)
            for entry in entries
            # one that is damaged has no layout, and is shown so that it can be deleted
            if filters.everything or not layout or entry.layout in (layout, "")
            if entry.name in favourites or not filters.favourites
        ]

    def kinds(self, owner: str) -> list[str]:
        """Kinds that there are, Bark's own first."""
        return list(dict.fromkeys(e.kind for e in self._by_kind(owner) if e.kind))

    def has(self, name: str, owner: str) -> bool:
        return bool(name) and name in self._studio.voices_of(owner)

    def details_html(self, name: str, model: str, owner: str, *, decode: bool = False) -> str:
        """Everything about one voice; what is wrong with it where it can't be read.

        Args:
            decode: make its sound where that wasn't done before, which takes a moment.
        """
        studio, voices = self._studio, self._studio.voices_of(owner)
        voice = heard = problem = None
        entry = voices.entry(name)
        try:
            voice = voices.here(name)
            if voice is not None:
                heard = kept_preview(studio, voice, model)
                if heard is None and decode:
                    heard = preview(studio, voice, model)
        except BarkError as error:
            problem = view.explain_voice(error)
        layout = studio.models.layout_name(model)
        favourite = name in studio.favourites.of(owner)
        return view.voice_details(
            Details(
                self._row(entry, layout, favourite=favourite),
                voice,
                heard,
                model,
                voices.licence,
                voices.languages,
                voices.free_name(_("{name} part", name=studio.voice_label(name))),
                problem,
                coming=not decode
                and voice is not None
                and heard is None
                and self._can_hear(voice, model),
            )
        )

    def can_decode(self, name: str, model: str, owner: str) -> bool:
        """Whether its sound is still to be made, and can be."""
        try:
            voice = self._studio.voices_of(owner).here(name) if self.has(name, owner) else None
        except BarkError:
            return False
        if voice is None or kept_preview(self._studio, voice, model) is not None:
            return False
        return self._can_hear(voice, model)

    def _can_hear(self, voice: Voice, model: str) -> bool:
        """Whether a model is loaded whose codec can decode it."""
        layouts = {m.front.config.layout.name for m in loaded_models(self._studio, model)}
        return voice.layout.name in layouts

    def take(self, entry_id: str, owner: str) -> TakeDetails:
        """A take that is about to become a voice. Raises gr.Error, VoiceError, StorageError."""
        entry = self._entry(entry_id, owner)
        segments = segments_of(self._studio, entry)
        words = entry.segments if len(entry.segments) == len(segments) else ()
        return TakeDetails(
            entry_id,
            entry.text,
            tuple(zip(words or [entry.text] * len(segments), segments, strict=True)),
            rolling.longest_segment(segments),
            self._studio.voices_of(owner).free_name(_("New voice")),
            self._studio.voices_of(owner).languages,
        )

    def rolls_html(self, group: str, owner: str, browser: str) -> str:
        """Those of a roll, with the names of those that were kept."""
        found = rolling.rolled(self._studio, group, owner=owner, browser=browser)
        voices = self._studio.voices_of(owner)
        with self._lock:
            kept = {one.id: self._kept[one.id] for one in found if one.id in self._kept}
        kept = {take: name for take, name in kept.items() if name in voices}
        names = {}
        for number, one in enumerate(found, start=1):
            names[one.id] = voices.free_name(_("New voice {n}", n=number))
        return rolling.roll_view(found, kept, names)

    # --- changing

    def star(self, name: str, owner: str) -> None:
        """Like a voice, or no longer."""
        favourites = self._studio.favourites
        favourites.like(name, name not in favourites.of(owner), owner=owner)

    def fetch(self, name: str, owner: str) -> None:
        """Have a published voice here. Raises VoiceError, DownloadError, StorageError."""
        self._studio.voices_of(owner)[name]

    def delete(self, name: str, owner: str) -> None:
        self._studio.voices_of(owner).delete(name)

    def restore(self, name: str, owner: str) -> None:
        self._studio.voices_of(owner).restore(name)

    def write_down(self, fields: dict[str, str], owner: str) -> str:
        """Notes first, then the name: each is whole or not at all. Returns the name."""
        voices, name = self._studio.voices_of(owner), fields["target"]
        voices.describe(
            name,
            description=fields.get("description", "").strip(),
            language=fields.get("language", ""),
            kind=fields.get("kind", "").strip(),
        )
        new_name = fields.get("name", "").strip()
        if new_name != name:
            voices.rename(name, new_name)
            self._studio.favourites.rename(name, new_name, owner=owner)
        return voices.entry(new_name).name

    def keep_part(self, fields: dict[str, str], owner: str, *, replace: bool) -> str:
        """Keep a part of a voice, as a new one or in place of the whole. Returns the name."""
        name = fields["target"]
        save_as = name if replace else fields.get("name", "").strip()
        return (
            self._studio.voices_of(owner)
            .trim(
                name,
                _seconds(fields.get("from", "")),
                _seconds(fields.get("to", "")),
                save_as=save_as,
                replace_own=replace,
            )
            .name
        )

    def keep_take(self, fields: dict[str, str], owner: str) -> str:
        """Keep a segment of a take as a voice. Returns the name."""
        entry = self._entry(fields["target"], owner)
        number = fields.get("segment", "0")
        segment = int(number) if number.isdecimal() else -1
        voice = replace(
            rolling.voice_of_take(self._studio, entry, segment),
            description=fields.get("description", "").strip() or None,
            language=fields.get("language", "") or None,
        )
        return self._keep(voice, fields, owner)

    def keep_roll(self, fields: dict[str, str], owner: str) -> str:
        """Keep one of a roll as a voice. Returns the name."""
        entry = self._entry(fields["target"], owner)
        longest = rolling.longest_segment(segments_of(self._studio, entry))
        voice = rolling.voice_of_take(self._studio, entry, longest)
        name = self._keep(voice, fields, owner)
        with self._lock:
            self._kept[entry.id] = name
        return name

    def add(self, data: bytes, stem: str, owner: str) -> str:
        """Keep the content of a voice file. Returns the name.

        Raises:
            InvalidVoice, LayoutMismatch, StorageError: it can't be.
        """
        voices = self._studio.voices_of(owner)
        voice = voices.read(data)
        return self._save(voice, voices.free_name(voice.name or stem), owner)

    # --- the parts of it

    def _keep(self, voice: Voice, fields: dict[str, str], owner: str) -> str:
        return self._save(voice, fields.get("name", "").strip(), owner)

    def _save(self, voice: Voice, name: str, owner: str) -> str:
        self._studio.room.check(owner)
        kept = self._studio.voices_of(owner).save(voice, name).name
        self._studio.audit.note("voice kept", owner, voice=voice.sha256)
        return kept

    def _by_kind(self, owner: str) -> list[VoiceEntry]:
        entries = self._studio.voices_of(owner).entries()
        return sorted(entries, key=lambda entry: (entry.source != "published", entry.kind or ""))

    def _row(self, entry: VoiceEntry, layout: str, *, favourite: bool) -> Row:
        studio = self._studio
        needed = None
        if entry.layout and layout and entry.layout != layout:
            needed = tuple(needed_models(studio, entry.layout))
        language = studio.voices.languages.get(entry.language or "", entry.language or "")
        return Row(entry, studio.voice_label(entry.name), language, favourite, needed)

    def _entry(self, entry_id: str, owner: str) -> Entry:
        entry = self._studio.entry(entry_id, owner)
        if entry is None:
            raise gr.Error(
                _("It was deleted meanwhile. Choose another one."), title=_("That take is gone")
            )
        return entry


def _seconds(text: str) -> float:
    try:
        return float(text.replace(",", "."))
    except ValueError as error:
        raise InvalidSetting(
            f"a moment of a voice is a number of seconds, got {quote(text, 20)!r}; type digits"
        ) from error

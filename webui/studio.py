"""What all tabs share: the store, the desk, the voices, and what they say of them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import gradio as gr

from bark_core import Voice, VoiceEntry, VoiceLibrary, load, voice_fetcher
from webui.history import History
from webui.jobs import Desk
from webui.settings import StudioSettings
from webui.words import NEW_VOICE


@dataclass(frozen=True, slots=True)
class Studio:
    """One running studio."""

    settings: StudioSettings
    history: History
    desk: Desk
    voices: VoiceLibrary

    def close(self) -> None:
        """Stop all jobs, keep what they made, let go of the store."""
        self.desk.close()
        self.history.close()

    def voice_entries(self) -> list[VoiceEntry]:
        """Voices of the loaded model that can be used; none while it loads."""
        cascade = self.desk.cascade
        if cascade is None:
            return []
        entries = self.voices.entries(cascade.config.layout.name)
        return [entry for entry in entries if entry.available]

    def voice(self, name: str) -> Voice | None:
        """A voice by the name that a page gives; "" rolls a new one.

        Raises:
            VoiceError, DownloadError: there is none, or it can't be had.
        """
        return self.voices[name] if name else None

    def voice_label(self, name: str | None) -> str:
        """How a page calls a voice; None is one that was rolled."""
        return "a new voice" if name is None else name[:1].upper() + name[1:]

    def voice_choices(self) -> list[tuple[str, str]]:
        """(label, name) for a list to choose from."""
        choices = [(NEW_VOICE, "")]
        for entry in self.voice_entries():
            language = self.voices.languages.get(entry.language or "", "")
            label = self.voice_label(entry.name)
            choices.append((f"{label}, {language}" if language else label, entry.name))
        return choices

    def first_voice(self) -> str:
        """The voice that a page begins with: one that came with the model, or a new one ("")."""
        bundled = [entry.name for entry in self.voice_entries() if entry.source == "bundled"]
        return bundled[0] if bundled else ""

    def voice_description(self, name: str) -> str:
        """A sentence about a voice."""
        if not name:
            return "The model makes up somebody; what it made can be used again as a voice."
        entry = next((entry for entry in self.voice_entries() if entry.name == name), None)
        if entry is None:
            return ""
        description = entry.description or "nobody wrote down who is heard"
        whence = {
            "bundled": "Comes with the studio.",
            "yours": "One of your own.",
            "published": "Published with Bark; fetched when it is first used.",
        }
        return f"{description[:1].upper()}{description[1:].rstrip('.')}. {whence[entry.source]}"


def open_studio(settings: StudioSettings) -> Studio:
    """Open the store and begin to load the model in the background.

    Raises:
        StorageError: the data folder can't be used.
    """
    folder = settings.data_folder
    history = History.open(folder)
    voices = VoiceLibrary.default(folder / "voices", fetch=voice_fetcher())
    desk = Desk(
        lambda progress: load(
            settings.model,
            device=settings.device,
            precision=settings.precision,
            progress=progress,
        ),
        history=history,
        model_name=Path(settings.model).name,
    )
    desk.start()
    return Studio(settings, history, desk, voices)


def owner_of(request: gr.Request) -> str:
    """Who looks at a page; "" where nobody signs in."""
    return request.username or ""

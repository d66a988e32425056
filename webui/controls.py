"""The settings of the Generate tab: from components to a request's, and back.

What the sliders show is not quite what the core takes: 0 and 1 stand for "all allowed" there,
None here. Drafts, moods and entries of the history all come through `Controls.updates`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import gradio as gr

from bark_core import (
    BarkError,
    CoarseParams,
    FineParams,
    InvalidSetting,
    Mood,
    SemanticParams,
    Settings,
    moods,
    random_seed,
    settings_from_metadata,
)
from webui.history import Entry

OWN_MOOD = "own"  # settings that have no name
FIRST_MOOD = "bark"
MAX_VARIATIONS = 8
MAX_RETRIES = 5

Values = Mapping[Any, Any]  # component -> value, as Gradio hands them over


@dataclass(frozen=True, slots=True)
class Controls:
    """The components that a request is read from."""

    prompt: gr.Textbox
    voice: gr.Textbox  # the name in the library, "take:ID", or "" for a new one
    mood: gr.Radio
    words_temperature: gr.Slider
    sound_temperature: gr.Slider
    detail_temperature: gr.Slider
    words_top_k: gr.Number
    words_top_p: gr.Slider
    sound_top_k: gr.Number
    sound_top_p: gr.Slider
    end_threshold: gr.Slider
    longest_s: gr.Number
    sound_history: gr.Number
    retries: gr.Slider
    streaming: gr.Checkbox
    seed: gr.Textbox
    keep_seed: gr.Checkbox
    variations: gr.Dropdown

    @property
    def all(self) -> list[Any]:
        return [getattr(self, name) for name in self.__dataclass_fields__]

    @property
    def dials(self) -> list[Any]:
        """Those that a mood sets."""
        return [
            self.words_temperature,
            self.sound_temperature,
            self.detail_temperature,
            self.words_top_k,
            self.words_top_p,
            self.sound_top_k,
            self.sound_top_p,
            self.end_threshold,
            self.longest_s,
            self.sound_history,
        ]

    @property
    def kept(self) -> list[Any]:
        """Those that a draft holds; player.js keeps the prompt at every key."""
        return [component for component in self.all if component is not self.prompt]

    def settings(self, values: Values) -> Settings:
        """Raises InvalidSetting: one of them is out of its range."""
        threshold = values[self.end_threshold]
        return Settings(
            semantic=SemanticParams(
                temperature=values[self.words_temperature],
                top_k=_whole(values[self.words_top_k], "top-k of words"),
                top_p=_top_p(values[self.words_top_p]),
                min_eos_p=None if threshold == 1 else threshold,
                max_duration_s=values[self.longest_s] or None,
            ),
            coarse=CoarseParams(
                temperature=values[self.sound_temperature],
                top_k=_whole(values[self.sound_top_k], "top-k of sound"),
                top_p=_top_p(values[self.sound_top_p]),
                max_history=_whole(values[self.sound_history], "memory of the timbre"),
            ),
            fine=FineParams(temperature=values[self.detail_temperature]),
        )

    def updates(self, settings: Settings) -> dict[Any, Any]:
        """What the dials show for some settings, and which mood that is."""
        words, sound = settings.semantic, settings.coarse
        return {
            self.words_temperature: words.temperature,
            self.sound_temperature: sound.temperature,
            self.detail_temperature: settings.fine.temperature,
            self.words_top_k: words.top_k or 0,
            self.words_top_p: 1.0 if words.top_p is None else words.top_p,
            self.sound_top_k: sound.top_k or 0,
            self.sound_top_p: 1.0 if sound.top_p is None else sound.top_p,
            self.end_threshold: 1.0 if words.min_eos_p is None else words.min_eos_p,
            self.longest_s: words.max_duration_s or 0,
            self.sound_history: sound.max_history or 0,
            self.mood: mood_of(settings),
        }

    def from_entry(self, entry: Entry) -> dict[Any, Any]:
        """Updates that bring a take's text, seed and settings back; the voice is the tab's.

        Raises:
            InvalidSetting: the entry's details aren't ours.
        """
        retries = entry.details.get("retries", 0)
        return {
            **self.updates(settings_from_metadata(entry.details)),
            self.prompt: entry.text,
            self.retries: min(retries, MAX_RETRIES) if isinstance(retries, int) else 0,
            self.streaming: entry.details.get("streaming") is True,
            self.seed: str(entry.seed),
            self.keep_seed: True,
            self.variations: 1,
        }

    def from_draft(self, draft: str) -> dict[Any, Any]:
        """Updates that bring back what a browser kept, {} where that isn't ours."""
        try:
            values = dict(zip(self.kept, json.loads(draft), strict=True))
            self.settings(values)
            read_seed(values[self.seed], keep=True)
            valid = (
                isinstance(values[self.voice], str)
                and isinstance(values[self.keep_seed], bool)
                and isinstance(values[self.streaming], bool)
                and values[self.mood] in {OWN_MOOD, *(mood.name for mood in moods())}
                and values[self.variations] in range(1, MAX_VARIATIONS + 1)
                and values[self.retries] in range(MAX_RETRIES + 1)
            )
        except (ValueError, TypeError, BarkError):
            return {}
        return values if valid else {}


def mood_named(name: str) -> Mood | None:
    """A mood by its name, None for settings of one's own."""
    return next((mood for mood in moods() if mood.name == name), None)


def mood_of(settings: Settings) -> str:
    """The name of the mood that has these settings, or OWN_MOOD."""
    return next((mood.name for mood in moods() if mood.settings == settings), OWN_MOOD)


def read_seed(text: str | None, *, keep: bool) -> int:
    """The seed as it was typed, or a new one. Raises InvalidSetting: it isn't a number."""
    digits = (text or "").strip().replace(" ", "")
    if not keep or not digits:
        return random_seed()
    if not digits.isascii() or not digits.isdecimal():
        raise InvalidSetting(
            f"the seed must be a whole number from 0 on, got {digits[:30]!r}; "
            "type digits only, or clear the field for a new one"
        )
    return int(digits)


def _whole(value: float | None, what: str) -> int | None:
    if not value:
        return None
    if not math.isfinite(value) or value != int(value):
        raise InvalidSetting(f"{what} must be a whole number, got {value!r}; 0 allows all")
    return int(value)


def _top_p(value: float) -> float | None:
    return None if value == 1 else value

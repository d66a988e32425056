"""The text front end of a model: its segments and token counts, without its weights.

It is all that a page needs to plan a text, so a process that holds no model can have it.
"""

from __future__ import annotations

from dataclasses import dataclass

from bark_core.config import CascadeConfig
from bark_core.errors import InvalidTokens, LayoutMismatch
from bark_core.request import GenerationRequest
from bark_core.text import Segment, plan_segments, spell_numbers
from bark_core.tokenizer import Tokenizer
from bark_core.tokens import SemanticTokens
from bark_core.voices import Voice


@dataclass(frozen=True, slots=True)
class FrontEnd:
    """What of a model concerns texts. Thread-safe; a few megabytes, most of it vocabulary."""

    config: CascadeConfig
    tokenizer: Tokenizer

    def split(
        self,
        text: str,
        language: str | None = None,
        *,
        voice: Voice | None = None,
        pause_s: float = 0.25,
    ) -> tuple[Segment, ...]:
        """Split a text into segments that fit the model; no character is lost.

        Args:
            language: an ISO 639-1 code; None is the model's first language.
            voice, pause_s: of each segment.
        Raises:
            InvalidText: a part of it can't be said.
        """
        language, config = language or self.config.languages[0], self.config
        return plan_segments(
            spell_numbers(text, language) if config.spell_numbers else text,
            count=self.tokenizer.count,
            max_tokens=config.layout.text_window,
            max_duration_s=min(config.segment_s, config.layout.max_duration_s),
            language=language,
            voice=voice,
            pause_s=pause_s,
        )

    def plan(self, request: GenerationRequest) -> tuple[Segment, ...]:
        """The segments of a request, each with its voice and its pause.

        Raises:
            LayoutMismatch: the voice or the kept words were made for another model.
            InvalidTokens: the kept words aren't of as many segments as the text has.
        """
        layout, voice = self.config.layout, request.voice
        if voice is not None and voice.layout.name != layout.name:
            raise LayoutMismatch(
                f"the voice {voice.name or 'given'!r} belongs to models of the layout "
                f"{voice.layout.name!r}, but {self.config.name!r} has {layout.name!r}; choose "
                "a voice of this model, or load the model that the voice was made with"
            )
        language = voice.language if voice else None
        segments = self.split(request.text, language, voice=voice, pause_s=request.segment_pause_s)
        self._check_words(request.words, len(segments))
        return segments

    def _check_words(self, words: tuple[SemanticTokens, ...] | None, n_segments: int) -> None:
        if words is None:
            return
        if not all(isinstance(tokens, SemanticTokens) for tokens in words):
            raise InvalidTokens("words must be SemanticTokens, one for each segment")
        if len(words) != n_segments:
            raise InvalidTokens(
                f"the words of {len(words)} segments were kept, but the text has {n_segments}; "
                "keep the text as it was, or have the words made again"
            )
        foreign = next((t.layout.name for t in words if t.layout != self.config.layout), None)
        if foreign is not None:
            raise LayoutMismatch(
                f"the kept words belong to models of the layout {foreign!r}, but "
                f"{self.config.name!r} has {self.config.layout.name!r}; have them made again"
            )

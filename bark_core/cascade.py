"""The cascade: text to semantic tokens to coarse codes to fine codes to sound.

One request at a time, one row, no tricks: this is the oracle that every faster path must agree
with. It doesn't know of queues, pages or files. It runs as an iterator of events; closing the
iterator stops it within one step.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Generator, Iterator
from dataclasses import replace

import numpy as np
import torch
from torch import nn

from bark_core.coarse import generate_coarse
from bark_core.codec import Codec
from bark_core.config import CascadeConfig
from bark_core.device import Placement, out_of_memory_as_error, release_memory, resident
from bark_core.errors import GenerationError, LayoutMismatch
from bark_core.events import AudioChunk, Event, Finished, Stage, StageProgress
from bark_core.fine import generate_fine
from bark_core.generation import Generation, ModelIdentity, SegmentResult
from bark_core.request import GenerationRequest, Settings
from bark_core.sampling import StageName, stage_generator
from bark_core.semantic import generate_semantic, step_limit
from bark_core.text import Segment, plan_segments, spell_numbers
from bark_core.tokenizer import Tokenizer
from bark_core.tokens import Audio, TextTokens
from bark_core.transformer import CausalGPT, FineGPT


class Cascade:
    """A loaded model. Made by `bark_core.load`."""

    def __init__(
        self,
        config: CascadeConfig,
        *,
        text: CausalGPT,
        coarse: CausalGPT,
        fine: FineGPT,
        codec: Codec,
        tokenizer: Tokenizer,
        placement: Placement,
        identity: ModelIdentity,
    ) -> None:
        self.config = config
        self.text, self.coarse, self.fine, self.codec = text, coarse, fine, codec
        self.tokenizer = tokenizer
        self.placement = placement
        self.identity = identity
        self._unloaded = False

    def plan(self, request: GenerationRequest) -> tuple[Segment, ...]:
        """Split the text into segments that fit the model; no character is lost.

        Raises:
            LayoutMismatch: the voice was made for another model.
            GenerationError: the model was unloaded.
        """
        if self._unloaded:
            raise GenerationError(f"the model {self.config.name!r} was unloaded; load it again")
        layout = self.config.layout
        voice = request.voice
        if voice is not None and voice.layout.name != layout.name:
            raise LayoutMismatch(
                f"the voice {voice.name or 'given'!r} belongs to models of the layout "
                f"{voice.layout.name!r}, but {self.config.name!r} has {layout.name!r}; choose "
                "a voice of this model, or load the model that the voice was made with"
            )
        language = (voice.language if voice else None) or self.config.languages[0]
        text = spell_numbers(request.text, language) if self.config.spell_numbers else request.text
        return plan_segments(
            text,
            count=self.tokenizer.count,
            max_tokens=layout.text_window,
            max_duration_s=min(self.config.segment_s, layout.max_duration_s),
            language=language,
            voice=voice,
            pause_s=request.segment_pause_s,
        )

    def generate(self, request: GenerationRequest) -> Generation:
        """Run a request to its end.

        Raises:
            BarkError: of the kind that says what was wrong.
        """
        for event in self.events(request):
            if isinstance(event, Finished):
                return event.generation
        raise AssertionError("a run that neither fails nor is closed ends with Finished")

    def events(self, request: GenerationRequest) -> Iterator[Event]:
        """Run a request, event by event; closing the iterator stops it.

        The segments of a request without a voice keep the voice that the first one rolled.
        """
        segments = self.plan(request)
        done: list[SegmentResult] = []
        for index, segment in enumerate(segments):
            if segment.voice is None and done:
                segment = replace(segment, voice=done[0].voice)
            run = self.say(segment, settings=request.settings, seed=request.seed, index=index)
            result = yield from _numbered(run, index, len(segments))
            done.append(result)
            so_far = Generation(request, self.identity, tuple(done), len(segments))
            yield AudioChunk(_with_pause(result), index, len(segments), so_far)
        yield Finished(so_far)

    def say(
        self, segment: Segment, *, settings: Settings, seed: int, index: int = 0, take: int = 0
    ) -> Generator[StageProgress, None, SegmentResult]:
        """Run one segment through the four hops.

        Args:
            index: position of the segment in its request; with the seed and the take it
                decides what is drawn, whatever else runs.
        """
        config, voice = self.config, segment.voice
        text = TextTokens(np.array(self.tokenizer.encode(segment.text)), config.layout)
        seconds = _Stopwatch()

        def draws(stage: StageName) -> torch.Generator:
            device = self.placement.device
            return stage_generator(seed, index, stage, take=take, device=device)

        with seconds.measure(Stage.SEMANTIC), self._on_device(self.text):
            semantic = yield from generate_semantic(
                self.text,
                text,
                history=voice.semantic if voice else None,
                params=settings.semantic,
                generator=draws("semantic"),
            )
        with seconds.measure(Stage.COARSE), self._on_device(self.coarse):
            coarse = yield from generate_coarse(
                self.coarse,
                semantic,
                history=(voice.semantic, voice.coarse) if voice else None,
                params=settings.coarse,
                generator=draws("coarse"),
            )
        with seconds.measure(Stage.FINE), self._on_device(self.fine):
            fine = yield from generate_fine(
                self.fine,
                coarse,
                history=voice.fine if voice else None,
                params=settings.fine,
                generator=draws("fine"),
            )
        with seconds.measure(Stage.CODEC), self._on_device(self.codec):
            audio = self.codec.decode(fine)
        yield StageProgress(Stage.CODEC, 1, 1)
        return SegmentResult(
            text=segment.text,
            semantic=semantic,
            coarse=coarse,
            fine=fine,
            audio=audio,
            pause_s=segment.pause_s,
            seconds=seconds.by_stage,
            ended=len(semantic) < step_limit(settings.semantic, config.layout),
        )

    def unload(self) -> None:
        """Give the memory of all weights back; whatever is asked of the cascade then fails."""
        for module in (self.text, self.coarse, self.fine, self.codec):
            nn.Module.to(module, "meta")
        self._unloaded = True
        release_memory()

    @contextlib.contextmanager
    def _on_device(self, stage: nn.Module) -> Iterator[None]:
        placement = self.placement
        if stage is self.codec:
            placement = replace(placement, device=placement.codec_device)
        with out_of_memory_as_error(), resident(stage, placement):
            yield


class _Stopwatch:
    """Computing time of each stage, seconds; pauses of whoever consumes the events count too."""

    def __init__(self) -> None:
        self.by_stage: dict[str, float] = {}

    @contextlib.contextmanager
    def measure(self, stage: Stage) -> Iterator[None]:
        started = time.perf_counter()
        yield
        self.by_stage[stage.value] = time.perf_counter() - started


def _numbered(
    run: Generator[StageProgress, None, SegmentResult], index: int, n_segments: int
) -> Generator[StageProgress, None, SegmentResult]:
    """Add to each event which segment it is of."""
    while True:
        try:
            event = next(run)
        except StopIteration as end:
            result: SegmentResult = end.value
            return result
        try:
            yield replace(event, segment=index, n_segments=n_segments)
        except GeneratorExit:
            run.close()
            raise


def _with_pause(result: SegmentResult) -> Audio:
    rate = result.audio.sample_rate_hz
    pause = np.zeros(round(result.pause_s * rate), dtype=np.float32)
    return Audio(np.concatenate([result.audio.samples, pause]), rate)

"""The cascade: text to semantic tokens to coarse codes to fine codes to sound.

One request at a time, one row, no tricks: this is the oracle that every faster path must agree
with. It doesn't know of queues, pages or files. It runs as an iterator of events; closing the
iterator stops it within one step.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Generator, Iterator
from dataclasses import dataclass, replace

import numpy as np
from torch import nn

from bark_core.coarse import generate_coarse
from bark_core.codec import Codec
from bark_core.config import CascadeConfig
from bark_core.device import out_of_memory_as_error, release_memory, resident
from bark_core.errors import EmptyGeneration, GenerationError
from bark_core.events import AudioChunk, Event, Finished, Retry, Stage, StageProgress
from bark_core.fine import generate_fine
from bark_core.frontend import FrontEnd
from bark_core.generation import Generation, ModelIdentity, SegmentResult
from bark_core.placement import Placement
from bark_core.quality import Problem, is_silent
from bark_core.request import GenerationRequest, Settings
from bark_core.semantic import generate_semantic, nothing_said
from bark_core.takes import Take, Takes
from bark_core.text import Segment
from bark_core.tokenizer import Tokenizer
from bark_core.tokens import Audio, FineCodes, SemanticTokens, TextTokens
from bark_core.transformer import CausalGPT, FineGPT
from bark_core.vocoder import Between, go_on


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
        self._decoding = threading.Lock()  # previews are decoded while a job runs

    @property
    def front(self) -> FrontEnd:
        """What of the model concerns texts; needs no weights."""
        return FrontEnd(self.config, self.tokenizer)

    def plan(self, request: GenerationRequest) -> tuple[Segment, ...]:
        """Split the text into segments that fit the model; no character is lost.

        Raises:
            LayoutMismatch: the voice or the kept words were made for another model.
            InvalidTokens: the kept words aren't of as many segments as the text has.
            GenerationError: the model was unloaded.
        """
        if self._unloaded:
            raise GenerationError(f"the model {self.config.name!r} was unloaded; load it again")
        return self.front.plan(request)

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
            run = self._best_take(segment, request, index)
            result = yield from _numbered(run, index, len(segments))
            done.append(result)
            so_far = Generation(request, self.identity, tuple(done), len(segments))
            yield AudioChunk(_with_pause(result), index, len(segments), so_far)
        yield Finished(so_far)

    def _best_take(
        self, segment: Segment, request: GenerationRequest, index: int
    ) -> Generator[StageProgress | Retry, None, SegmentResult]:
        """Say a segment, again while something is wrong with it and the budget lasts.

        Most of the time goes into the sound, so words of an impossible length become sound only
        if there is no better take in the end.
        """
        words = request.words[index] if request.words else None
        takes: Takes[_Spoken | SegmentResult] = Takes(request)
        while True:
            take = Take(
                segment, request.settings, request.seed, index, takes.number, request.streaming
            )
            made: _Spoken | SegmentResult | None = None
            problems: tuple[Problem, ...] = (Problem.EMPTY,)
            with contextlib.suppress(EmptyGeneration):
                made = yield from self._speak(take, words)
                if not made.problems:
                    made = yield from self._sound(made)
                problems = made.problems
            if not takes.another(made, problems):
                break
            yield Retry(index, 1, takes.number, problems)
        if takes.best is None:
            raise nothing_said()
        if isinstance(takes.best, _Spoken):
            return (yield from self._sound(takes.best))
        return takes.best

    def say(
        self,
        segment: Segment,
        *,
        settings: Settings,
        seed: int,
        index: int = 0,
        take: int = 0,
        words: SemanticTokens | None = None,
    ) -> Generator[StageProgress, None, SegmentResult]:
        """Run one segment through the four hops.

        Args:
            index: position of the segment in its request; with the seed and the take it
                decides what is drawn, whatever else runs.
            words: its semantic tokens, kept from before; None has them made.
        """
        spoken = yield from self._speak(Take(segment, settings, seed, index, take), words)
        return (yield from self._sound(spoken))

    def _speak(
        self, take: Take, words: SemanticTokens | None
    ) -> Generator[StageProgress, None, _Spoken]:
        """The first hop, or what was kept from it."""
        seconds = _Stopwatch()
        if words is not None:
            # their length is given: no other take could mend it
            return _Spoken(take, words, True, (), seconds)
        layout, voice = self.config.layout, take.segment.voice
        text = TextTokens(np.array(self.tokenizer.encode(take.segment.text)), layout)
        with seconds.measure(Stage.SEMANTIC), self.on_device(self.text):
            semantic = yield from generate_semantic(
                self.text,
                text,
                history=voice.semantic if voice else None,
                params=take.settings.semantic,
                generator=take.draws("semantic"),
            )
        ended, problems = take.ended(semantic), take.length_problems(semantic)
        return _Spoken(take, semantic, ended, problems, seconds)

    def _sound(self, spoken: _Spoken) -> Generator[StageProgress, None, SegmentResult]:
        """The other three hops."""
        take, semantic, seconds = spoken.take, spoken.semantic, spoken.seconds
        voice, settings = take.segment.voice, take.settings
        with seconds.measure(Stage.COARSE), self.on_device(self.coarse):
            coarse = yield from generate_coarse(
                self.coarse,
                semantic,
                history=(voice.semantic, voice.coarse) if voice else None,
                params=settings.coarse,
                generator=take.draws("coarse"),
            )
        with seconds.measure(Stage.FINE), self.on_device(self.fine):
            fine = yield from generate_fine(
                self.fine,
                coarse,
                history=voice.fine if voice else None,
                params=settings.fine,
                generator=take.draws("fine"),
                streaming=take.streaming,
            )
        with seconds.measure(Stage.CODEC):
            audio = self.decode(fine)
        yield StageProgress(Stage.CODEC, 1, 1)
        silent = (Problem.SILENT,) if is_silent(take.segment.text, audio) else ()
        return SegmentResult(
            text=take.segment.text,
            semantic=semantic,
            coarse=coarse,
            fine=fine,
            audio=audio,
            pause_s=take.segment.pause_s,
            seconds=seconds.by_stage,
            ended=spoken.ended,
            take=take.number,
            problems=(*spoken.problems, *silent),
        )

    def decode(self, fine: FineCodes, *, between: Between = go_on) -> Audio:
        """Fine codes to sound, with the codec alone; also while another thread runs a job.

        Args:
            between: see `Codec.decode`.
        """
        with self._decoding, self.on_device(self.codec):
            return self.codec.decode(fine, between=between)

    def decode_from(self, fine: FineCodes, start: int, *, between: Between = go_on) -> Audio:
        """The end of the sound of some codes, from a frame on: see `Codec.decode_from`."""
        with self._decoding, self.on_device(self.codec):
            return self.codec.decode_from(fine, start, between=between)

    def unload(self) -> None:
        """Give the memory of all weights back; whatever is asked of the cascade then fails."""
        for module in (self.text, self.coarse, self.fine, self.codec):
            nn.Module.to(module, "meta")
        self._unloaded = True
        release_memory()

    @contextlib.contextmanager
    def on_device(self, stage: nn.Module) -> Iterator[None]:
        """Have one of the four networks where it computes; no memory left is OutOfMemory."""
        placement = self.placement
        if stage is self.codec:
            placement = replace(placement, device=placement.codec_device)
        with out_of_memory_as_error(), resident(stage, placement):
            yield


@dataclass(frozen=True, slots=True)
class _Spoken:
    """A take whose words are there, not yet its sound."""

    take: Take
    semantic: SemanticTokens
    ended: bool
    problems: tuple[Problem, ...]
    seconds: _Stopwatch


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
    run: Generator[StageProgress | Retry, None, SegmentResult], index: int, n_segments: int
) -> Generator[StageProgress | Retry, None, SegmentResult]:
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

"""A job on its way: its segments side by side, their takes, and what its watchers are told.

Segments with a voice of the request's don't depend on each other and run together; without one
the later wait for the voice that the first rolls. Whatever the order in which they are finished,
what is told is in the order of the text.
"""

from __future__ import annotations

from collections import deque
from dataclasses import replace

import numpy as np

from bark_core.cascade import Cascade
from bark_core.errors import BarkError, EmptyGeneration
from bark_core.events import AudioChunk, Failed, Finished, Retry, Stage, StageProgress, Stopped
from bark_core.generation import Generation, SegmentResult
from bark_core.jobs import Job
from bark_core.quality import Problem
from bark_core.take_run import TakeRun
from bark_core.takes import Take, Takes
from bark_core.text import Segment
from bark_core.tokens import Audio
from bark_core.voices import Voice


class SegmentRun:
    """One segment: a take after the other until one is good or the budget is spent."""

    def __init__(self, cascade: Cascade, job: Job, index: int, segment: Segment) -> None:
        self.segment = segment
        self.retries: deque[Retry] = deque()  # that nobody was told of yet
        self.result: SegmentResult | None = None
        self.error: BarkError | None = None
        self.take: TakeRun | None = None  # the one on its way
        self._cascade, self._request, self._index = cascade, job.request, index
        self._takes: Takes[TakeRun] = Takes(job.request)
        self._judged: TakeRun | None = None  # its words were found wrong; it sounds all the same

    @property
    def over(self) -> bool:
        return self.result is not None or self.error is not None

    def start(self, voice: Voice | None) -> None:
        """Begin with the first take."""
        self.segment = replace(self.segment, voice=voice)
        self._next_take()

    def _next_take(self) -> None:
        request, index = self._request, self._index
        take = Take(
            self.segment,
            request.settings,
            request.seed,
            index,
            self._takes.number,
            request.streaming,
        )
        words = request.words[index] if request.words else None
        self.take = TakeRun(self._cascade, take, words)

    def advance(self) -> None:
        """Look at how the take has come on, and decide what follows."""
        take = self.take
        if take is None or self.over:
            return
        if isinstance(take.error, EmptyGeneration):
            self._settle(None, (Problem.EMPTY,), take.error)
        elif take.error is not None:
            self._end(error=take.error)
        elif take.result is not None and take is self._judged:
            self._end(result=take.result)
        elif take.result is not None:
            self._settle(take, take.result.problems)
        elif take.semantic is not None and not take.may_sound:
            # most of the time goes into the sound, so words of an impossible length become
            # sound only if there is no better take in the end
            if take.problems:
                self._settle(take, take.problems)
            else:
                take.may_sound = True

    def _settle(
        self,
        made: TakeRun | None,
        problems: tuple[Problem, ...],
        error: BarkError | None = None,
    ) -> None:
        if self._takes.another(made, problems):
            self.retries.append(Retry(self._index, 1, self._takes.number, problems))
            self._next_take()
            return
        best = self._takes.best
        if best is None:
            self._end(error=error)
        elif best.result is not None:
            self._end(result=best.result)
        else:
            best.may_sound = True
            self.take = self._judged = best

    def _end(self, *, result: SegmentResult | None = None, error: BarkError | None = None) -> None:
        self.result, self.error, self.take = result, error, None


class JobRun:
    """One job."""

    def __init__(self, cascade: Cascade, job: Job) -> None:
        self.job = job
        self.over = False
        self._identity = cascade.identity
        self._segments = [
            SegmentRun(cascade, job, index, segment)
            for index, segment in enumerate(cascade.plan(job.request))
        ]
        self._n_started = 0
        self._done: list[SegmentResult] = []
        self._heard: list[Audio] = []  # pieces of the first unfinished segment that were told
        self._told: StageProgress | None = None

    @property
    def active(self) -> list[SegmentRun]:
        """Segments on their way, in the order of the text."""
        return [s for s in self._segments[: self._n_started] if not s.over]

    @property
    def takes(self) -> list[TakeRun]:
        """Takes on their way, in the order of the text."""
        return [segment.take for segment in self.active if segment.take is not None]

    @property
    def can_start(self) -> bool:
        """Its next segment waits for nothing but a place."""
        if self.over or self._n_started == len(self._segments):
            return False
        if self._n_started == 0:
            return True
        if any(segment.error is not None for segment in self._segments):
            return False  # it will fail: what comes behind would be for nothing
        if self.job.request.streaming and not (self._done or self._heard):
            return False  # the first sound comes before everything else
        first = self._segments[0]
        return self._segments[self._n_started].segment.voice is not None or bool(first.result)

    def start_segment(self) -> None:
        """Begin with the next segment."""
        segment = self._segments[self._n_started]
        first = self._segments[0].result
        self._n_started += 1
        voice = segment.segment.voice
        segment.start(first.voice if voice is None and first is not None else voice)

    def advance(self) -> None:
        """Look at what a turn has brought, and tell the watchers."""
        for segment in self.active:
            segment.advance()
        while not self.over:
            if not self._tell_of(self._segments[len(self._done)]):
                return

    def _tell_of(self, front: SegmentRun) -> bool:
        """Tell of the first unfinished segment; True: it is finished now."""
        index, n_segments = len(self._done), len(self._segments)
        while front.retries:
            self.job.tell(replace(front.retries.popleft(), n_segments=n_segments))
        if front.error is not None:
            self.fail(front.error)
            return True
        self._tell_progress(front, index)
        self._tell_pieces(front, index)
        if front.result is None:
            return False
        self._done.append(front.result)
        rest = _rest(front.result, sum(map(len, self._heard)))
        self._heard = []
        self.job.tell(AudioChunk(rest, index, n_segments, self._so_far()))
        if len(self._done) == n_segments:
            self._end(Finished(self._so_far()))
        return True

    def _tell_progress(self, front: SegmentRun, index: int) -> None:
        progress = front.take.progress if front.take is not None else None
        if front.result is not None:
            progress = StageProgress(Stage.CODEC, 1, 1)
        if progress is None:
            return
        progress = replace(progress, segment=index, n_segments=len(self._segments))
        if progress != self._told:
            self._told = progress
            self.job.tell(progress)

    def _tell_pieces(self, front: SegmentRun, index: int) -> None:
        """Sound of a segment that goes on; the last of it comes with the segment's end."""
        if front.take is None or not front.take.take.streaming:
            return
        for audio in front.take.sound[len(self._heard) :]:
            self._heard.append(audio)
            n_segments, so_far = len(self._segments), self._so_far()
            self.job.tell(AudioChunk(audio, index, n_segments, so_far, ends_segment=False))

    def stop(self) -> None:
        """End it, with what was told so far."""
        self._end(Stopped(self._so_far() if self._done else None))

    def fail(self, error: BarkError) -> None:
        """End it with an error that is no segment's own."""
        self._end(Failed(error, self._so_far() if self._done else None))

    def _end(self, event: Finished | Failed | Stopped) -> None:
        if not self.over:
            self.over = True
            self.job.tell(event)

    def _so_far(self) -> Generation:
        request, n_segments = self.job.request, len(self._segments)
        return Generation(request, self._identity, tuple(self._done), n_segments)


def _rest(result: SegmentResult, n_heard: int) -> Audio:
    """A segment's sound behind the first samples, and its pause."""
    rate = result.audio.sample_rate_hz
    pause = np.zeros(round(result.pause_s * rate), dtype=np.float32)
    return Audio(np.concatenate([result.audio.samples[n_heard:], pause]), rate)

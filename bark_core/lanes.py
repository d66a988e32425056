"""Lanes: one for each stage, in which takes of many jobs are computed together.

A turn of a lane is short: a step of all its rows and a chunk of the prompts that wait, one
codebook of a window, one piece of sound. Whatever goes wrong with one take is that take's error;
the others go on.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

import torch
from torch import Tensor

from bark_core.cascade import Cascade
from bark_core.decoders import fine_forward, new_decoder
from bark_core.device import out_of_memory_as_error
from bark_core.errors import BarkError, GenerationError
from bark_core.events import Stage
from bark_core.fine import FineWork
from bark_core.rows import RowDecoder, RowNews, RowStart, RowState
from bark_core.take_run import TakeRun
from bark_core.tokens import Audio, FineCodes
from bark_core.transformer import PREFILL_CHUNK, CausalGPT

_log = logging.getLogger(__name__)


class Lane(Protocol):
    """One stage's lane. Only the engine's thread uses it, while the weights are on the device."""

    def wanted(self, takes: Sequence[TakeRun]) -> bool:
        """Whether a turn would do something; asked wherever the weights are."""

    def launch(self, takes: Sequence[TakeRun]) -> None:
        """Begin a turn, for the takes that have work here."""

    def settle(self) -> None:
        """Wait for what the turn began, and tell the takes."""

    def drop(self, take: TakeRun) -> None:
        """Give up what a take has here."""

    def close(self) -> None:
        """Give all memory back."""


@contextlib.contextmanager
def its_error(doing: str, *takes: TakeRun) -> Iterator[None]:
    """Whatever goes wrong inside is an error of these takes, and of nobody else."""
    try:
        with out_of_memory_as_error():
            yield
    except Exception as error:
        failure = for_people(error, doing)
        for take in takes:
            take.fail(failure)


def for_people(error: Exception, doing: str) -> BarkError:
    """An error for people, of one that nobody meant: its traceback goes to the log."""
    if isinstance(error, BarkError):
        return error
    _log.error("%s failed", doing, exc_info=error)
    return GenerationError(
        f"something unexpected went wrong ({type(error).__name__}); "
        "the log has the details; try again, and report it if it comes back"
    )


class RowLane:
    """The semantic or the coarse stage: rows of a row decoder.

    Args:
        stage: which of them.
        n_rows: most rows at the same time.
    """

    def __init__(self, cascade: Cascade, stage: Stage, n_rows: int) -> None:
        self._cascade = cascade
        self._stage = stage
        self._n_rows = n_rows
        self._model: CausalGPT = cascade.text if stage is Stage.SEMANTIC else cascade.coarse
        self._decoder: RowDecoder | None = None
        self._rows: dict[int, TakeRun] = {}
        self._spent_s = 0.0

    def wanted(self, takes: Sequence[TakeRun]) -> bool:
        return bool(self._rows) or any(_wants(take, self._stage) for take in takes)

    @torch.inference_mode()
    def launch(self, takes: Sequence[TakeRun]) -> None:
        started = time.perf_counter()
        for take in takes:
            self._begin(take)
        if not self._rows:
            return
        decoder = self._the_decoder()
        with self._all_fail():
            decoder.prefill(PREFILL_CHUNK)
            decoder.run(decoder.stride)
        self._spent_s = time.perf_counter() - started

    def _the_decoder(self) -> RowDecoder:
        if self._decoder is None:
            self._decoder = new_decoder(self._model, self._cascade.placement, self._n_rows)
        return self._decoder

    def _begin(self, take: TakeRun) -> None:
        if take.over or len(self._rows) >= self._n_rows:
            return
        with its_error(f"beginning the {self._stage} stage", take):
            row = self._row_of(take)
            if row is not None:
                self._rows[self._the_decoder().start(row)] = take

    def _row_of(self, take: TakeRun) -> RowStart | None:
        if self._stage is Stage.SEMANTIC:
            return take.semantic_row(self._model)
        return take.coarse_row(self._model)

    @torch.inference_mode()
    def settle(self) -> None:
        if self._decoder is None or not self._rows:
            return
        started, takes = time.perf_counter(), list(self._rows.values())
        with self._all_fail():
            for row, news in self._decoder.collect().items():
                take = self._rows[row]
                if news.state is not RowState.RUNNING:
                    del self._rows[row]
                self._hear(take, news)
        for take in takes:
            take.spend(self._stage, (self._spent_s + time.perf_counter() - started) / len(takes))
            if take.over or (self._stage is Stage.COARSE and take.coarse is not None):
                self.drop(take)

    def _hear(self, take: TakeRun, news: RowNews) -> None:
        if self._stage is Stage.SEMANTIC:
            take.hear_semantic(news)
        else:
            take.hear_coarse(news)

    @contextlib.contextmanager
    def _all_fail(self) -> Iterator[None]:
        """What goes wrong in a step of all rows is the error of each."""
        takes = list(self._rows.values())
        with its_error(f"a step of the {self._stage} stage", *takes):
            yield
        if takes and all(take.error is not None for take in takes):
            self.close()  # nobody knows in which state it is

    def drop(self, take: TakeRun) -> None:
        for row in [row for row, of in self._rows.items() if of is take]:
            del self._rows[row]
            if self._decoder is not None:
                self._decoder.drop(row)

    def close(self) -> None:
        self._rows.clear()
        if self._decoder is not None:
            self._decoder.close()
            self._decoder = None


class FineLane:
    """The fine stage: windows that stand at the same codebook, the oldest take's first.

    Args:
        n_rows: most windows at the same time: on a CPU one, for arithmetic is all that counts.
    """

    def __init__(self, cascade: Cascade, n_rows: int) -> None:
        self._model = cascade.fine
        self._placement = cascade.placement
        self._forward: Callable[[int, Tensor, int], Tensor] | None = None
        self._n_rows = n_rows

    def wanted(self, takes: Sequence[TakeRun]) -> bool:
        return any(_wants(take, Stage.FINE) for take in takes)

    @torch.inference_mode()
    def launch(self, takes: Sequence[TakeRun]) -> None:
        started = time.perf_counter()
        chosen = self._choose(takes)
        if not chosen:
            return
        with its_error("a step of the fine stage", *(take for take, _ in chosen)):
            windows = torch.stack([work.window() for _, work in chosen])
            if self._forward is None:
                self._forward = fine_forward(self._model, self._placement)
            n_wanted = max(work.n_wanted for _, work in chosen)
            logits = self._forward(chosen[0][1].codebook, windows, n_wanted)
            for (take, work), own in zip(chosen, logits, strict=True):
                with its_error("drawing fine codes", take):
                    work.fill(own)
                    take.hear_fine()
        for take, _ in chosen:
            take.spend(Stage.FINE, (time.perf_counter() - started) / len(chosen))

    def _choose(self, takes: Sequence[TakeRun]) -> list[tuple[TakeRun, FineWork]]:
        chosen: list[tuple[TakeRun, FineWork]] = []
        for take in takes:
            work: FineWork | None = None
            with its_error("beginning the fine stage", take):
                work = take.fine_work(self._model.device)
            if work is None or take.over or len(chosen) == self._n_rows:
                continue
            if not chosen or work.codebook == chosen[0][1].codebook:
                chosen.append((take, work))
        return chosen

    def settle(self) -> None:
        """Nothing goes on after a turn."""

    def drop(self, take: TakeRun) -> None:
        """A take has nothing here but what it holds itself."""

    def close(self) -> None:
        self._forward = None


class _Left(Exception):
    """Somebody was stopped while sound was made."""


class CodecLane:
    """The codec: one take's codes become sound in a turn.

    A turn ends early when somebody's job is stopped, whoever's that is, so that they needn't wait
    for a whole segment's sound; what was begun of it is made anew in the next turn.

    Args:
        stopped: whether a job was stopped that is still here.
    """

    def __init__(self, cascade: Cascade, stopped: Callable[[], bool]) -> None:
        self._cascade, self._stopped = cascade, stopped

    def wanted(self, takes: Sequence[TakeRun]) -> bool:
        return any(_wants(take, Stage.CODEC) for take in takes)

    def launch(self, takes: Sequence[TakeRun]) -> None:
        take = next((take for take in takes if _wants(take, Stage.CODEC)), None)
        if take is None:
            return
        started = time.perf_counter()
        with its_error("making sound", take), contextlib.suppress(_Left):
            unheard = take.unheard()
            assert unheard is not None
            audio = self._sound(*unheard, whole=not take.take.streaming)
            take.spend(Stage.CODEC, time.perf_counter() - started)
            take.hear_sound(audio)

    def _sound(self, fine: FineCodes, start: int, *, whole: bool) -> Audio:
        if whole:
            return self._cascade.decode(fine, between=self._check)
        return self._cascade.decode_from(fine, start, between=self._check)

    def _check(self) -> None:
        if self._stopped():
            raise _Left

    def settle(self) -> None:
        """Nothing goes on after a turn."""

    def drop(self, take: TakeRun) -> None:
        """A take has nothing here."""

    def close(self) -> None:
        """There is nothing to give back."""


def _wants(take: TakeRun, stage: Stage) -> bool:
    """Whether a take has work for a stage; one that can't tell has an error to be found there."""
    try:
        return take.wants(stage)
    except BarkError:
        return True

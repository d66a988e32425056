"""A take on its way through the stages: what it needs next, what became of it.

It computes nothing but prompts. Lanes (bark_core.lanes) ask each take for work of their stage,
do that of many takes together and hand back what came of it. With streaming a take may have
work of all stages at once: coarse codes for the words so far, sound for the codes so far.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from bark_core import semantic as words_stage
from bark_core.cascade import Cascade
from bark_core.coarse import CoarsePlan, live_range, n_coarse_steps, plan_coarse, unflatten
from bark_core.errors import BarkError
from bark_core.events import Stage, StageProgress
from bark_core.fine import FineRun, FineWork, Piece, joined, piece_at
from bark_core.generation import SegmentResult
from bark_core.quality import Problem, is_silent
from bark_core.rows import RowNews, RowStart, RowState
from bark_core.sampling import not_finite, uniforms
from bark_core.takes import Take
from bark_core.tokens import Audio, CoarseCodes, FineCodes, SemanticTokens, TextTokens
from bark_core.transformer import CausalGPT


class TakeRun:
    """One take, from its text to its sound.

    Args:
        words: its semantic tokens, kept from before; None has them made.
    """

    def __init__(self, cascade: Cascade, take: Take, words: SemanticTokens | None) -> None:
        self.take = take
        self.semantic = words  # None until they are complete
        self.coarse: CoarseCodes | None = None  # None until they are complete
        self.fine: FineCodes | None = None  # with streaming those of the pieces so far
        self.sound: list[Audio] = []  # pieces, in their order
        self.problems: tuple[Problem, ...] = ()  # of the words
        self.error: BarkError | None = None
        self.result: SegmentResult | None = None
        self.progress: StageProgress | None = None
        self.seconds: dict[str, float] = {}
        self.may_sound = take.streaming  # else its words are judged before more is done
        self._cascade, self._layout = cascade, cascade.config.layout
        self._kept = words is not None
        self._limit = words_stage.step_limit(take.settings.semantic, self._layout)
        self._tokens: list[int] = [] if words is None else words.values.tolist()
        self._asked = self._kept  # somebody has its semantic row
        self._made: list[int] = []  # coarse, flat
        self._window = False  # somebody has a coarse row of it
        self._plan: CoarsePlan | None = None  # for the most words there can be
        self._final: CoarsePlan | None = None
        self._numbers: torch.Tensor | None = None  # that the coarse tokens are drawn with
        voice = take.segment.voice
        self._fine_run = FineRun(
            self._layout,
            history=voice.fine if voice else None,
            params=take.settings.fine,
            generator=take.draws("fine"),
        )
        self._work: FineWork | None = None
        self._own = slice(0)
        self._n_heard = 0  # frames that are sound already

    @property
    def over(self) -> bool:
        return self.error is not None or self.result is not None

    def spend(self, stage: Stage, seconds: float) -> None:
        """Count computing time."""
        self.seconds[stage.value] = self.seconds.get(stage.value, 0.0) + seconds

    def fail(self, error: BarkError) -> None:
        """It goes no further."""
        self.error = error

    def wants(self, stage: Stage) -> bool:
        """Whether there is something that a lane doesn't have yet, or work on codes."""
        if self.over:
            return False
        match stage:
            case Stage.SEMANTIC:
                return not self._asked
            case Stage.COARSE:
                return self._coarse_plan() is not None
            case Stage.FINE:
                return self._work is not None or self._can_begin_fine()
        return self.unheard() is not None

    # --- semantic

    def semantic_row(self, model: CausalGPT) -> RowStart | None:
        """Its semantic row; None: it has none, or somebody has it already."""
        if self._asked:
            return None
        self._asked = True
        take, layout, params = self.take, self._layout, self.take.settings.semantic
        voice = take.segment.voice
        text = TextTokens(np.array(self._cascade.tokenizer.encode(take.segment.text)), layout)
        return RowStart(
            prompt=words_stage.prompt_of(model, text, voice.semantic if voice else None)[0],
            ranges=(words_stage.live_range(layout, allow_end=params.allow_early_stop),),
            n_steps=self._limit,
            uniforms=uniforms(take.draws("semantic"), self._limit),
            sampling=params,
            end=layout.semantic_pad if params.allow_early_stop else None,
            min_end_p=params.min_eos_p,
        )

    def hear_semantic(self, news: RowNews) -> None:
        """Take in what became of its semantic row."""
        self._tokens += news.tokens
        n_tokens = len(self._tokens)
        if news.state is RowState.BROKEN:
            self.error = not_finite()
        elif news.state is not RowState.RUNNING and not n_tokens:
            self.error = words_stage.nothing_said()
        elif news.state is RowState.RUNNING:
            self.progress = StageProgress(Stage.SEMANTIC, n_tokens, self._limit)
        else:
            self.progress = StageProgress(Stage.SEMANTIC, n_tokens, n_tokens)
            self.semantic = SemanticTokens(np.array(self._tokens), self._layout)
            self.problems = self.take.length_problems(self.semantic)
            self._look_at_coarse()

    # --- coarse

    def coarse_row(self, model: CausalGPT) -> RowStart | None:
        """Its next coarse window, as soon as the words that it looks at are there."""
        plan = self._coarse_plan()
        if plan is None:
            return None
        n_made = len(self._made)
        n_steps = plan.n_window_steps(n_made)
        prompt = plan.prompt(np.array(self._made, dtype=np.int64))
        if self._numbers is None:
            self._numbers = uniforms(self.take.draws("coarse"), plan.n_steps)
        self._window = True
        books = range(n_made, n_made + self._layout.n_coarse_codebooks)
        return RowStart(
            prompt=model.embed(torch.from_numpy(prompt).to(model.device)),
            ranges=tuple(live_range(step, self._layout) for step in books),
            n_steps=n_steps,
            uniforms=self._numbers[n_made : n_made + n_steps],
            sampling=self.take.settings.coarse,
        )

    def _coarse_plan(self) -> CoarsePlan | None:
        """The plan that the next window can be made by; None: there is nothing to do now.

        As long as the words go on it is one for the longest there can be: what it says of a
        window doesn't depend on how many follow.
        """
        if self._window or self.coarse is not None or not self.may_sound or not self._tokens:
            return None
        if self.semantic is not None:
            if self._final is None:
                self._final = self._plan_for(self.semantic)
            return self._final
        if self._plan is None:
            longest = np.zeros(self._limit, dtype=np.int64)
            self._plan = self._plan_for(SemanticTokens(longest, self._layout))
        if len(self._tokens) < self._plan.needs(len(self._made)):
            return None
        values = np.array(self._tokens, dtype=np.int64)
        past = self._plan.semantic[: self._plan.n_semantic_history]
        return replace(self._plan, semantic=np.concatenate([past, values]))

    def _plan_for(self, semantic: SemanticTokens) -> CoarsePlan:
        voice = self.take.segment.voice
        history = (voice.semantic, voice.coarse) if voice else None
        return plan_coarse(semantic, history, self.take.settings.coarse)

    def hear_coarse(self, news: RowNews) -> None:
        """Take in what became of its coarse window."""
        self._made += news.tokens
        if news.state is RowState.BROKEN:
            self.error = not_finite()
        elif news.state is not RowState.RUNNING:
            self._window = False
        self._look_at_coarse()

    def _look_at_coarse(self) -> None:
        if self.semantic is None or not self._made:
            return  # with streaming: the bar of the words goes on
        n_steps = n_coarse_steps(len(self.semantic), self._layout)
        del self._made[n_steps:]
        self.progress = StageProgress(Stage.COARSE, len(self._made), n_steps)
        if len(self._made) == n_steps:
            self.coarse = self._coarse_so_far()

    def _coarse_so_far(self) -> CoarseCodes:
        n_books = self._layout.n_coarse_codebooks
        whole = len(self._made) // n_books * n_books
        return unflatten(np.array(self._made[:whole], dtype=np.int64), self._layout)

    # --- fine

    def fine_work(self, device: torch.device) -> FineWork | None:
        """What there is to do in the fine stage now."""
        if self._work is None and not self.over and self._can_begin_fine():
            self._begin_fine(device)
        return self._work

    def _can_begin_fine(self) -> bool:
        if self.take.streaming:
            return self._next_piece() is not None
        return self.coarse is not None and self.fine is None

    def _next_piece(self) -> Piece | None:
        n_known = len(self._made) // self._layout.n_coarse_codebooks
        complete = self.coarse is not None
        return piece_at(self._n_fine, n_known, complete=complete, layout=self._layout)

    def _begin_fine(self, device: torch.device) -> None:
        piece, codes = self._next_piece(), self.coarse or self._coarse_so_far()
        if piece is not None and self.take.streaming:
            self._work, self._own = self._fine_run.piece(piece, codes, self.fine, device)
        else:
            self._work, self._own = self._fine_run.whole(codes, device)

    @property
    def _n_fine(self) -> int:
        return 0 if self.fine is None else self.fine.n_frames

    def hear_fine(self) -> None:
        """Look at how far the fine stage has come."""
        work = self._work
        assert work is not None
        if self.coarse is not None and not self.take.streaming:
            self.progress = StageProgress(Stage.FINE, work.done, work.total)
        if not work.over:
            return
        self.fine = joined(self.fine, work.columns(self._own.start, self._own.stop))
        self._work = None
        if self.coarse is not None and self.take.streaming:
            self.progress = StageProgress(Stage.FINE, self._n_fine, self.coarse.n_frames)

    # --- codec

    def unheard(self) -> tuple[FineCodes, int] | None:
        """Codes so far, and the first frame of them that isn't sound yet."""
        if self.fine is None or self._n_heard == self._n_fine:
            return None
        return self.fine, self._n_heard

    def hear_sound(self, audio: Audio) -> None:
        """Take in the sound of what was unheard."""
        self.sound.append(audio)
        self._n_heard = self._n_fine
        if self.coarse is not None and self._n_heard == self.coarse.n_frames:
            self.progress = StageProgress(Stage.CODEC, 1, 1)
            self.result = self._result(self.coarse)

    def _result(self, coarse: CoarseCodes) -> SegmentResult:
        assert self.semantic is not None
        assert self.fine is not None
        samples = np.concatenate([piece.samples for piece in self.sound])
        audio = Audio(samples, self.sound[0].sample_rate_hz)
        text = self.take.segment.text
        silent = (Problem.SILENT,) if is_silent(text, audio) else ()
        return SegmentResult(
            text=text,
            semantic=self.semantic,
            coarse=coarse,
            fine=self.fine,
            audio=audio,
            pause_s=self.take.segment.pause_s,
            seconds=dict(self.seconds),
            ended=self._kept or self.take.ended(self.semantic),
            take=self.take.number,
            problems=(*self.problems, *silent),
        )

"""Rows on a CUDA device: prompts in batches, then steps that are replayed without the host.

A step of so many rows is captured once in a CUDA graph. A turn of the engine replays it some
times in a row; only then does the host ask which tokens there are. The kernels are those of
`triton_step` where Triton is there and works, else torch's own, captured in the same way; where
even capturing fails, the same operations run one by one.

Rows take slots. A graph has room for 1, 2, 4, 8 ... rows and reads a list of the slots that it
runs, so rows can come and go without their caches being moved.
"""

from __future__ import annotations

import importlib.util
import logging
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from bark_core.config import GPTConfig
from bark_core.cuda_graphs import Capture
from bark_core.errors import InvalidTokens
from bark_core.request import SamplingParams
from bark_core.rows import RowNews, RowStart, RowState
from bark_core.static_step import (
    MAX_TURNS,
    CacheBits,
    SlotCache,
    Slots,
    Span,
    StaticStep,
    Step,
    WeightBits,
    draw_tokens,
    linear,
    normed,
    widened,
)
from bark_core.transformer import CausalGPT

_log = logging.getLogger(__name__)

STATES = (RowState.RUNNING, RowState.FULL, RowState.ENDED, RowState.BROKEN)
PROMPT_STEP = 64  # prompts are padded to a multiple of so many positions
GRAPH_POSITIONS = 2_048  # a batch of prompts this small takes longer to launch than to compute
TURN_POSITIONS = 32_768  # of prompts that wait, in a turn: small batches would waste the device
FIRST_ROWS = 3  # that there is room for at once; with the empty slot it is four
MOST_PROMPTS = 32  # of one batch


@dataclass(frozen=True, slots=True)
class CudaOptions:
    """What may be traded for speed. The defaults compute in the model's own precision.

    Args:
        weights: "int8" or "float8": of the decode steps, with a scale a row; prompts are read
            with the model's own.
        cache: "int8": keys and values, with a scale a position and head.
        kernels: False: torch's operations only.
        graphs: False: nothing is captured.
    """

    weights: WeightBits = "model"
    cache: CacheBits = "model"
    kernels: bool = True
    graphs: bool = True


@dataclass(slots=True)
class _Row:
    """What the host knows of a row."""

    start: RowStart
    slot: int
    prompted: bool = False
    n_told: int = 0  # tokens that were reported
    n_most: int = 0  # tokens that it can have made by now


class CudaRows:
    """The row decoder of CUDA devices, with static caches that grow with the rows there are.

    Args:
        n_rows: most rows at the same time.
        capacity: positions of a row, at most the model's block size; None: as many.
    """

    stride = 15

    def __init__(
        self,
        model: CausalGPT,
        n_rows: int,
        *,
        capacity: int | None = None,
        options: CudaOptions | None = None,
    ) -> None:
        self._model, self._n_rows = model, n_rows
        self._options = options or CudaOptions()
        self._capacity = min(capacity or model.config.block_size, model.config.block_size)
        self._rows: dict[int, _Row] = {}
        self._waiting: deque[int] = deque()
        self._next_number = 0
        self._room = min(n_rows, FIRST_ROWS)
        self._free = list(reversed(range(self._room)))
        self._slots, self._cache = self._new_slots()
        self._launches = _Launches(model, self._cache, self._slots, self._options)

    def _new_slots(self) -> tuple[Slots, SlotCache]:
        n_slots = -(-(self._room + 1) // 4) * 4  # the last stays empty
        cache = SlotCache(self._model, n_slots, self._capacity, self._options.cache)
        return Slots(n_slots, self._capacity, self._model.device), cache

    def _grow(self) -> None:
        """Make room for about twice the rows; those on their way go on in new caches."""
        room, self._room = self._room, min(2 * self._room + 1, self._n_rows)
        slots, cache = self._slots, self._cache
        self._slots, self._cache = self._new_slots()
        self._slots.take(slots, room)
        self._cache.take(cache, room)
        self._free.extend(reversed(range(room, self._room)))
        self._launches.move(self._cache, self._slots)

    def start(self, row: RowStart) -> int:
        n_positions = len(row.prompt) + row.n_steps - 1
        if n_positions > self._capacity:
            raise InvalidTokens(f"{n_positions} positions don't fit the {self._capacity} of a row")
        if not self._free:
            assert self._room < self._n_rows, f"all {self._n_rows} rows are taken"
            self._grow()
        number, self._next_number = self._next_number, self._next_number + 1
        self._rows[number] = _Row(row, self._free.pop())
        self._waiting.append(number)
        self._launches.cover(_span(row.ranges))
        return number

    def prefill(self, n_positions: int) -> None:
        n_positions = max(n_positions, TURN_POSITIONS)
        while n_positions > 0 and self._waiting:
            batch: list[_Row] = []
            while self._waiting and n_positions > 0 and len(batch) < MOST_PROMPTS:
                batch.append(self._rows[self._waiting.popleft()])
                n_positions -= len(batch[-1].start.prompt)
            self._prompt(batch)

    def _prompt(self, batch: Sequence[_Row]) -> None:
        """Prompts through the model, their rows' first tokens drawn."""
        device = self._model.device
        rows = _upload(torch.tensor([row.slot for row in batch]), device)
        lengths = [len(row.start.prompt) for row in batch]
        most = min(-(-max(lengths) // PROMPT_STEP) * PROMPT_STEP, self._capacity)
        columns = torch.stack([_column(row.start) for row in batch], dim=1)
        numbers = torch.zeros((len(batch), self._slots.n_draws))
        for place, row in enumerate(batch):
            numbers[place, : row.start.n_steps] = row.start.uniforms[: self._slots.n_draws]
            row.prompted, row.n_most = True, 1
        self._slots.lines.index_copy_(1, rows, _upload(columns, device))
        self._slots.draws.index_copy_(0, rows, _upload(numbers, device))
        x = torch.zeros(
            (len(batch), most, self._model.config.n_embd), dtype=self._model.dtype, device=device
        )
        for place, row in enumerate(batch):
            x[place, : lengths[place]] = row.start.prompt
        last = _upload(torch.tensor(lengths) - 1, device)
        self._launches.prompt(x, rows, last)

    def run(self, n_steps: int) -> None:
        rows = [row for row in self._rows.values() if row.prompted]
        n_left = max((row.start.n_steps - row.n_most for row in rows), default=0)
        n_steps = min(n_steps, n_left)
        if n_steps <= 0:
            return
        self._launches.run([row.slot for row in rows], n_steps)
        for row in rows:
            row.n_most = min(row.n_most + n_steps, row.start.n_steps)

    def collect(self) -> Mapping[int, RowNews]:
        running = {number: row for number, row in self._rows.items() if row.prompted}
        if not running:
            return {}
        state, made, out = _download(self._slots.state, self._slots.made, self._slots.out)
        news: dict[int, RowNews] = {}
        for number, row in running.items():
            n_made, how = int(made[row.slot]), STATES[int(state[row.slot])]
            tokens = tuple(out[row.slot, row.n_told : n_made].tolist())
            row.n_told = row.n_most = n_made
            if how is not RowState.RUNNING:
                self._release(number)
            elif not tokens:
                continue
            news[number] = RowNews(tokens, how)
        return news

    def logits_behind(self, tokens: Tensor, span: tuple[int, int]) -> Tensor:
        """Logits of ids start..stop - 1 behind rows of tokens: to measure how close they are.

        All tokens but the last are read as prompts, the last in a step, as in use; nothing is
        drawn. No row may be running.

        Args:
            tokens: [n, T], n at most three.
        Returns:
            float32 [n, stop - start].
        """
        assert not self._rows and len(tokens) <= self._room, "there is no room"
        embedded = self._model.embed(tokens[:, :-1])
        starts = [
            RowStart(prompt, (span,), 2, torch.zeros(2), SamplingParams()) for prompt in embedded
        ]
        self._launches.cover(_span((span,)))
        batch = [_Row(start, slot) for slot, start in enumerate(starts)]
        self._prompt(batch)
        slots = list(range(len(batch)))
        self._slots.token[slots] = tokens[:, -1].int()
        self._slots.state[slots] = STATES.index(RowState.RUNNING)
        logits = self._launches.step_logits(slots)
        self._slots.state[slots] = STATES.index(RowState.FULL)
        return logits[: len(slots)].float()

    def drop(self, row: int) -> None:
        if row not in self._rows:
            return
        if self._rows[row].prompted:
            self._slots.state[self._rows[row].slot] = STATES.index(RowState.FULL)
        else:
            self._waiting.remove(row)
        self._release(row)

    def _release(self, number: int) -> None:
        self._free.append(self._rows.pop(number).slot)

    def close(self) -> None:
        self._rows.clear()
        self._waiting.clear()
        self._launches.close()
        del self._cache, self._slots, self._launches


class _Launches:
    """Steps and batches of prompts, captured where that works."""

    def __init__(
        self, model: CausalGPT, cache: SlotCache, slots: Slots, options: CudaOptions
    ) -> None:
        self._model, self._cache, self._slots, self._options = model, cache, slots, options
        self._span: Span | None = None
        self._steps: dict[int, tuple[Step, Callable[[], object]]] = {}
        self._listed: dict[int, tuple[int, ...]] = {}
        self._prompts: dict[tuple[int, int], _Prompt] = {}
        self._capture = Capture() if options.graphs and model.device.type == "cuda" else None
        self._kernels = _kernels(model, options)

    def move(self, cache: SlotCache, slots: Slots) -> None:
        """Go on in other tensors."""
        self._cache, self._slots = cache, slots
        self._forget()
        self._forget_prompts()

    def cover(self, span: Span) -> None:
        """See to it that rows may draw these ids."""
        joined = span if self._span is None else self._span.joined(span)
        if joined != self._span:
            self._span = joined
            self._forget()

    def run(self, slots: Sequence[int], n_steps: int) -> None:
        _, replay = self._listing(slots)
        for _ in range(n_steps):
            replay()

    def step_logits(self, slots: Sequence[int]) -> Tensor:
        """One step, and what it drew from."""
        step, _ = self._listing(slots)
        return step.launch().clone()

    def _listing(self, slots: Sequence[int]) -> tuple[Step, Callable[[], object]]:
        """The step that has room for these rows, made to run them."""
        size = 1
        while size < len(slots):
            size *= 2
        if size not in self._steps:
            self._steps[size] = self._new_step(size)
        step, replay = self._steps[size]
        spare = self._slots.n_slots - 1
        listed = (*slots, *(spare,) * (size - len(slots)))
        if self._listed.get(size) != listed:
            self._listed[size] = listed
            step.rows.copy_(_upload(torch.tensor(listed, dtype=torch.int32), step.rows.device))
        return step, replay

    def _new_step(self, size: int) -> tuple[Step, Callable[[], object]]:
        assert self._span is not None
        if self._kernels is not None:
            try:
                step = self._kernels.step(self._cache, self._slots, size, self._span)
                step.launch()  # of empty rows: compiles, and shows whether the kernels run here
                return step, self._captured(step.launch)
            except Exception:
                _log.warning("the Triton kernels don't work here; going on without", exc_info=True)
                self._kernels = None
        bits = self._options.weights
        plain = StaticStep(self._model, self._cache, self._slots, size, self._span, bits)
        return plain, self._captured(plain.launch)

    def _captured(self, launch: Callable[[], object]) -> Callable[[], object]:
        if self._capture is None:
            return launch
        try:
            return self._capture(launch)
        except Exception:
            _log.warning("CUDA graphs don't work here; going on without", exc_info=True)
            self._capture = None
            return launch

    def prompt(self, x: Tensor, rows: Tensor, last: Tensor) -> None:
        """Prompts [n, T, C] into slots, and a token drawn behind position last[i] of each."""
        n, length = x.shape[:2]
        if self._capture is None or n * length > GRAPH_POSITIONS:
            self._draw(_Prompt(self._model, self._cache, x, rows, last).launch(), rows)
            return
        if (n, length) not in self._prompts:
            prompt = _Prompt(self._model, self._cache, x, rows, last)
            prompt.launch()
            prompt.replay = self._captured(prompt.launch)
            self._prompts[n, length] = prompt
        prompt = self._prompts[n, length]
        prompt.x.copy_(x)
        prompt.rows.copy_(rows)
        prompt.last.copy_(last)
        assert prompt.replay is not None
        prompt.replay()
        self._draw(prompt.hidden, rows)

    def _draw(self, hidden: Tensor, rows: Tensor) -> None:
        assert self._span is not None
        logits = self._model.logits(hidden, self._span.first_id, self._span.stop_id).float()
        if self._kernels is not None:
            self._kernels.draw(logits, rows, self._slots, self._span)
        else:
            draw_tokens(logits, rows, self._slots, self._span, advance=False)

    def _forget(self) -> None:
        for step, _ in self._steps.values():
            step.close()
        self._steps.clear()
        self._listed.clear()

    def _forget_prompts(self) -> None:
        for prompt in self._prompts.values():
            prompt.replay = None  # may be its own method: a circle would keep the caches
        self._prompts.clear()

    def close(self) -> None:
        self._forget()
        self._forget_prompts()
        self._capture = self._kernels = None


class _Prompt:
    """A batch of prompts through the model, all of the same padded length.

    The padding behind a prompt writes keys that nobody sees: a step writes its own before it
    looks, and looks no further.
    """

    def __init__(
        self, model: CausalGPT, cache: SlotCache, x: Tensor, rows: Tensor, last: Tensor
    ) -> None:
        self._weights, self._cache = model.step_weights(), cache
        self.x, self.rows, self.last = x, rows, last
        self.hidden = torch.empty((len(x), x.shape[2]), dtype=x.dtype, device=x.device)
        self.replay: Callable[[], object] | None = None

    def launch(self) -> Tensor:
        """Hidden states of the last positions, [n, C], also left in `hidden`."""
        weights = self._weights
        n, length, width = self.x.shape
        heads = (n, length, 3, weights.n_head, width // weights.n_head)
        x = self.x + weights.positions[:length]
        for layer, of_layer in enumerate(weights.layers):
            qkv = linear(normed(x, of_layer.norm_1), of_layer.attention)
            q, k, v = qkv.view(heads).permute(2, 0, 3, 1, 4).unbind(0)  # (n, H, T, D)
            self._cache.write(layer, self.rows, k, v)
            if layer < len(weights.layers) - 1:
                y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
            else:  # from here on, only the last positions count
                at = self.last[:, None, None]
                x = x.gather(1, at.expand(n, 1, width))
                q = q.gather(2, at[:, None].expand(n, q.shape[1], 1, q.shape[3]))
                seen = torch.arange(length, device=x.device) <= self.last[:, None]
                y = F.scaled_dot_product_attention(q, k, v, attn_mask=seen[:, None, None])
            x = x + linear(y.transpose(1, 2).flatten(2), of_layer.projection)
            x = x + widened(normed(x, of_layer.norm_2), of_layer)
        return self.hidden.copy_(normed(x[:, 0], weights.last_norm))


class _Kernels:
    """The way to `triton_step`, which can be imported only where Triton is."""

    def __init__(self, model: CausalGPT, options: CudaOptions) -> None:
        from bark_core import triton_step

        self._module = triton_step
        hopper = torch.cuda.get_device_capability(model.device) >= (9, 0)
        overlap = triton_step.Cuts().overlap if hopper else 0
        self._cuts = triton_step.Cuts(overlap=overlap)
        self._weights = triton_step.PackedWeights(model, options.weights)

    def step(self, cache: SlotCache, slots: Slots, n_rows: int, span: Span) -> Step:
        return self._module.TritonStep(self._weights, cache, slots, n_rows, span, self._cuts)

    def draw(self, logits: Tensor, rows: Tensor, slots: Slots, span: Span) -> None:
        self._module.draw_tokens(
            logits, rows.int(), slots, span, whole=True, advance=False, overlap=0
        )


def _kernels(model: CausalGPT, options: CudaOptions) -> _Kernels | None:
    """The Triton kernels, where they can be used."""
    if not options.kernels or model.device.type != "cuda" or not can_use_kernels(model.config):
        return None
    try:
        return _Kernels(model, options)
    except Exception:
        _log.warning("the Triton kernels can't be used here; going on without", exc_info=True)
        return None


def can_use_kernels(config: GPTConfig) -> bool:
    """Whether Triton is installed and a model has a shape that the kernels know."""
    head = config.n_embd // config.n_head
    return importlib.util.find_spec("triton") is not None and head & (head - 1) == 0 and head >= 16


def _span(ranges: Sequence[tuple[int, int]]) -> Span:
    if len(ranges) > MAX_TURNS:
        raise AssertionError(f"at most {MAX_TURNS} ranges can follow each other, not {len(ranges)}")
    return Span(
        min(start for start, _ in ranges),
        max(stop for _, stop in ranges),
        max(stop - start for start, stop in ranges),
    )


def _column(row: RowStart) -> Tensor:
    """A row as `Slots.lines` has it, int32 [N_LINES]; its prompt is taken to be in the cache."""
    starts = [start for start, _ in row.ranges]
    counts = [stop - start for start, stop in row.ranges]
    missing = [0] * (MAX_TURNS - len(starts))
    sampling = row.sampling
    real = torch.tensor(
        [
            sampling.temperature,
            -1.0 if sampling.top_p is None else sampling.top_p,
            2.0 if row.min_end_p is None else row.min_end_p,
        ],
        dtype=torch.float32,
    )
    head = [
        STATES.index(RowState.RUNNING),
        0,  # token
        len(row.prompt),
        0,  # made
        starts[0],
        len(starts),
        row.n_steps,
        -1 if row.end is None else row.end,
        min(sampling.top_k or 0, 2**31 - 1),
    ]
    whole = torch.tensor([*starts, *missing, *counts, *missing], dtype=torch.int32)
    return torch.cat([torch.tensor(head, dtype=torch.int32), real.view(torch.int32), whole])


def _upload(x: Tensor, device: torch.device) -> Tensor:
    """To the device, without waiting for what runs there."""
    if device.type == "cpu":
        return x
    return x.pin_memory().to(device, non_blocking=True)


def _download(*tensors: Tensor) -> list[Tensor]:
    """To the host, together; waits."""
    if tensors[0].device.type == "cpu":
        return list(tensors)
    host = [torch.empty(x.shape, dtype=x.dtype, pin_memory=True) for x in tensors]
    for mine, theirs in zip(host, tensors, strict=True):
        mine.copy_(theirs, non_blocking=True)
    torch.cuda.current_stream().synchronize()
    return host

"""The two transformers of Bark: `CausalGPT` (text, coarse) and `FineGPT`, with a static KV cache.

Pre-LayerNorm GPT-2 shape: learned positions, exact GELU, fused QKV projection, MLP x 4. Names
of the parameters are those of suno-ai/bark, so that loading is a strict load. This module knows
nothing of tokens' meanings, sampling or devices.

Axes: B rows of a batch, T positions, C channels, H heads, D channels a head, V vocabulary.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bark_core import native, products
from bark_core.config import FineConfig, GPTConfig
from bark_core.cpu_step import (
    CompiledStep,
    LayerWeights,
    LinearWeights,
    NormWeights,
    StepWeights,
    can_compute,
)
from bark_core.errors import InvalidTokens
from bark_core.int8_linear import Int8Linear

NORM_EPS = 1e-5
PREFILL_CHUNK = 512  # positions; always the same, so that a prompt's sums are
MOST_ROWS_AT_ONCE = 8  # from there on two cores' arithmetic is busy, not their memory


class KVCache:
    """Keys and values of all positions so far, in buffers that never move.

    Args:
        length: most positions it can hold, at most the model's block size.
    """

    def __init__(
        self,
        config: GPTConfig,
        batch: int,
        length: int,
        *,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        head_dim = config.n_embd // config.n_head
        shape = (config.n_layer, 2, batch, config.n_head, length, head_dim)
        self.both = torch.zeros(shape, dtype=dtype, device=device)
        self.keys, self.values = self.both.unbind(1)  # (layer, B, H, T, D)
        self.n_positions = 0

    @property
    def capacity(self) -> int:
        return int(self.keys.shape[3])

    def append(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Write [B, H, T, D] behind what is there; return all positions including the new ones.

        The position counter moves only with `advance`, once all layers have written.
        """
        start, end = self.n_positions, self.n_positions + keys.shape[2]
        self.keys[layer, :, :, start:end] = keys
        self.values[layer, :, :, start:end] = values
        return self.keys[layer, :, :, :end], self.values[layer, :, :, :end]

    def advance(self, n_positions: int) -> None:
        self.n_positions += n_positions


class LayerNorm(nn.Module):
    """Layer normalisation whose bias is optional."""

    def __init__(self, width: int, *, bias: bool) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.bias = nn.Parameter(torch.zeros(width)) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        return F.layer_norm(x, self.weight.shape, self.weight, self.bias, NORM_EPS)


class Linear(nn.Linear):
    """A linear layer whose products are our own on processors where that is quicker."""

    def forward(self, input: Tensor) -> Tensor:
        library = products.library_for(input, self.weight)
        if library is None:
            return super().forward(input)
        return products.multiply(library, input, self.weight, self.bias)

    def activated(self, x: Tensor) -> Tensor:
        """The GELU of what comes out."""
        library = products.library_for(x, self.weight)
        if library is None:
            return F.gelu(self(x))
        return products.multiply(library, x, self.weight, self.bias, gelu=True)


def activated(layer: nn.Module, x: Tensor) -> Tensor:
    """The GELU of a layer's outputs, in one with its product where the layer can."""
    if isinstance(layer, Linear | Int8Linear):
        return layer.activated(x)
    return F.gelu(layer(x))


class SelfAttention(nn.Module):
    """Multi-head attention, causal or over the whole sequence."""

    def __init__(self, config: GPTConfig, *, causal: bool) -> None:
        super().__init__()
        self.c_attn = Linear(config.n_embd, 3 * config.n_embd, bias=config.bias)
        self.c_proj = Linear(config.n_embd, config.n_embd, bias=config.bias)
        self.n_head = config.n_head
        self.causal = causal

    def forward(
        self, x: Tensor, cache: KVCache | None = None, layer: int = 0, n_out: int | None = None
    ) -> Tensor:
        """[B, T, C] to [B, n_out, C], the last n_out positions; all of them by default."""
        batch, length, width = x.shape
        n_out = length if n_out is None else n_out
        heads = (batch, length, self.n_head, width // self.n_head)
        q, k, v = (part.view(heads).transpose(1, 2) for part in self.c_attn(x).split(width, dim=2))
        # (B, H, T, D)
        n_past = 0
        if cache is not None:
            n_past = cache.n_positions
            k, v = (past.to(x.dtype) for past in cache.append(layer, k, v))
        y = self._attend(q[:, :, length - n_out :], k, v, n_past + length - n_out)
        out: Tensor = self.c_proj(y)
        return out

    def _attend(self, q: Tensor, k: Tensor, v: Tensor, n_past: int) -> Tensor:
        """Queries [B, H, T, D], the first behind so many keys of others, to [B, T, C]."""
        library = products.library_for(q, k, v)
        if library is not None:
            return products.attend(library, q, k, v, n_past if self.causal else None)
        kept = q.dtype
        if isinstance(self.c_attn, Int8Linear):
            q, k, v = (part.to(self.c_attn.attention_dtype) for part in (q, k, v))
        return self._attend_with_torch(q, k, v, n_past).to(kept).transpose(1, 2).flatten(2)

    def _attend_with_torch(self, q: Tensor, k: Tensor, v: Tensor, n_past: int) -> Tensor:
        length = q.shape[2]
        if not self.causal or length == 1:
            return F.scaled_dot_product_attention(q, k, v)
        if n_past == 0:
            return F.scaled_dot_product_attention(q, k, v, is_causal=True)
        # new positions see the whole past and each other causally; `is_causal` would align the
        # triangle with the first past position instead of the first new one
        mask = torch.ones(length, n_past + length, dtype=torch.bool, device=q.device)
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask.tril(diagonal=n_past))


class MLP(nn.Module):
    """Two linear layers around a GELU."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.c_fc = Linear(config.n_embd, 4 * config.n_embd, bias=config.bias)
        self.c_proj = Linear(4 * config.n_embd, config.n_embd, bias=config.bias)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.c_proj(activated(self.c_fc, x))
        return out


class Block(nn.Module):
    """Attention and MLP, each behind a LayerNorm and around a residual connection."""

    def __init__(self, config: GPTConfig, *, causal: bool, norm_bias: bool) -> None:
        super().__init__()
        self.ln_1 = LayerNorm(config.n_embd, bias=norm_bias)
        self.attn = SelfAttention(config, causal=causal)
        self.ln_2 = LayerNorm(config.n_embd, bias=norm_bias)
        self.mlp = MLP(config)

    def forward(
        self, x: Tensor, cache: KVCache | None = None, layer: int = 0, n_out: int | None = None
    ) -> Tensor:
        """[B, T, C] to [B, n_out, C]; the keys and values of all positions go into the cache."""
        attended = self.attn(self.ln_1(x), cache, layer, n_out)
        x = x[:, x.shape[1] - attended.shape[1] :] + attended
        out: Tensor = x + self.mlp(self.ln_2(x))
        return out


class CausalGPT(nn.Module):
    """The transformer of the semantic and the coarse stage: token embeddings in, logits out."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.config = config
        self.transformer = nn.ModuleDict(
            {
                "wte": nn.Embedding(config.input_vocab_size, config.n_embd),
                "wpe": nn.Embedding(config.block_size, config.n_embd),
                "h": nn.ModuleList(
                    Block(config, causal=True, norm_bias=config.bias) for _ in range(config.n_layer)
                ),
                "ln_f": LayerNorm(config.n_embd, bias=config.bias),
            }
        )
        self.lm_head = nn.Linear(config.n_embd, config.output_vocab_size, bias=False)

    @property
    def device(self) -> torch.device:
        return _table(self.transformer["wte"]).device

    @property
    def dtype(self) -> torch.dtype:
        """What it computes in; its linear layers may be kept in int8."""
        return _table(self.transformer["wte"]).dtype

    def new_cache(self, batch: int, length: int) -> KVCache:
        """An empty cache for `batch` rows of up to `length` positions."""
        length = min(length, self.config.block_size)
        # with int8 weights the past would be half of what a step reads
        dtype = torch.float16 if isinstance(self.lm_head, Int8Linear) else self.dtype
        return KVCache(self.config, batch, length, dtype=dtype, device=self.device)

    def embed(self, tokens: Tensor) -> Tensor:
        """Token embeddings without positions: integers [B, T] to [B, T, C]."""
        out: Tensor = self.transformer["wte"](tokens)
        return out

    def forward(
        self,
        embeddings: Tensor,
        cache: KVCache | None = None,
        positions: Tensor | None = None,
        n_out: int | None = None,
    ) -> Tensor:
        """Hidden states of new positions, behind those that the cache holds.

        Args:
            embeddings: [B, T, C] from `embed` (the semantic stage adds two of them).
            cache: extended by T positions.
            positions: integers [T]; None counts on from what the cache holds.
            n_out: only the last so many are wanted; all of them by default.
        Returns:
            [B, n_out, C], normalised, ready for `logits`.
        Raises:
            InvalidTokens: more positions than the block size.
        """
        n_past = 0 if cache is None else cache.n_positions
        length = embeddings.shape[1]
        if n_past + length > (self.config.block_size if cache is None else cache.capacity):
            raise InvalidTokens(
                f"{n_past + length} positions don't fit the model's {self.config.block_size}"
            )
        if positions is None:
            positions = torch.arange(n_past, n_past + length, device=embeddings.device)
        x = embeddings + self.transformer["wpe"](positions)
        blocks = self._blocks()
        for layer, block in enumerate(blocks):
            # the last layer needs nothing of the other positions but their keys and values
            x = block(x, cache, layer, n_out if layer == len(blocks) - 1 else None)
        if cache is not None:
            cache.advance(length)
        out: Tensor = self.transformer["ln_f"](x)
        return out

    def prefill(self, embeddings: Tensor, cache: KVCache) -> Tensor:
        """A whole prompt, in chunks: [B, T, C] to the last position's hidden state [B, C]."""
        for chunk in torch.split(embeddings, PREFILL_CHUNK, dim=1):
            hidden = self(chunk, cache, n_out=1)
        last: Tensor = hidden[:, -1]
        return last

    def decoder(self) -> Decoder:
        """A quicker way to go on behind what caches hold, one position at a time.

        It holds the weights: it has to go before they do.
        """
        weights = self.step_weights()
        library = native.library() if can_compute(weights) else None
        if library is None:
            return PlainDecoder(weights)
        return CompiledDecoder(CompiledStep(library, weights))

    def logits(self, hidden: Tensor, start: int = 0, stop: int | None = None) -> Tensor:
        """Output head, only its rows start..stop - 1: [..., C] to [..., stop - start]."""
        head: nn.Module = self.lm_head
        if isinstance(head, Int8Linear):
            return head.rows(hidden, start, stop)
        return F.linear(hidden, self.lm_head.weight[start:stop])

    def step_weights(self) -> StepWeights:
        """All that a decoder computes with."""
        return StepWeights(
            n_head=self.config.n_head,
            tokens=_table(self.transformer["wte"]),
            positions=_table(self.transformer["wpe"]),
            layers=tuple(_layer(block) for block in self._blocks()),
            last_norm=_norm(self.transformer["ln_f"]),
            head=_linear(self.lm_head),
        )

    def _blocks(self) -> nn.ModuleList:
        blocks = self.transformer["h"]
        assert isinstance(blocks, nn.ModuleList)
        return blocks


class Decoder(Protocol):
    """One position after another, of rows that have caches of their own.

    They may stand at different positions. On a CPU in float32 each row's numbers are the same,
    bit for bit, whatever rows are beside it.
    """

    def step(self, tokens: Tensor, caches: Sequence[KVCache]) -> Tensor:
        """Hidden states of each row's next position.

        Args:
            tokens: integers [B].
            caches: B of them, each of one row.
        Returns:
            [B, C], normalised, ready for `logits`.
        Raises:
            InvalidTokens: a cache is full.
        """

    def logits(self, hidden: Tensor, start: int, stop: int) -> Tensor:
        """`CausalGPT.logits` of some rows: [B, C] to [B, stop - start]."""


class CompiledDecoder:
    """A `Decoder` on a CPU: one compiled call a step, see `cpu_step`."""

    def __init__(self, step: CompiledStep) -> None:
        self._step = step

    def step(self, tokens: Tensor, caches: Sequence[KVCache]) -> Tensor:
        places = _next_places(caches)
        hidden = self._step.step(tokens.tolist(), places, [cache.both for cache in caches])
        for cache in caches:
            cache.advance(1)
        return hidden

    def logits(self, hidden: Tensor, start: int, stop: int) -> Tensor:
        return self._step.logits(hidden, start, stop)


class PlainDecoder:
    """A `Decoder` anywhere: the operations of `CausalGPT.forward`, and nothing around them.

    In a small model, finding modules and calling them takes as long as computing.
    """

    def __init__(self, weights: StepWeights) -> None:
        self._weights = weights
        self._width = weights.tokens.shape[1]
        self._heads = (weights.n_head, self._width // weights.n_head)

    def step(self, tokens: Tensor, caches: Sequence[KVCache]) -> Tensor:
        weights, places, n_rows = self._weights, _next_places(caches), len(caches)
        x = F.embedding(tokens, weights.tokens) + weights.positions[places]
        if n_rows % 2:
            x = torch.cat([x, x[-1:]])  # see `_even_linear`
        heads = (len(x), 3, *self._heads)
        for number, layer in enumerate(weights.layers):
            qkv = _even_linear(_normed(x, layer.norm_1), layer.attention).view(heads)
            seen = [
                _attend_one(qkv[row], cache.both[number], places[row])
                for row, cache in enumerate(caches)
            ]
            seen += [seen[-1]] * (len(x) - n_rows)
            y = torch.cat(seen) if len(seen) > 1 else seen[0]
            x = x + _even_linear(y.view(len(x), self._width), layer.projection)
            wide = F.gelu(_even_linear(_normed(x, layer.norm_2), layer.widening))
            x = x + _even_linear(wide, layer.narrowing)
        for cache in caches:
            cache.advance(1)
        return _normed(x, weights.last_norm)[:n_rows]

    def logits(self, hidden: Tensor, start: int, stop: int) -> Tensor:
        n_rows = len(hidden)
        if n_rows % 2:
            hidden = torch.cat([hidden, hidden[-1:]])
        head = self._weights.head
        if head.scale is not None:
            wide = head.weight[start:stop].float() * head.scale[start:stop, None]
            return torch.cat([F.linear(row, wide) for row in torch.split(hidden, 1)])[:n_rows]
        return _even_linear(hidden, LinearWeights(head.weight[start:stop]))[:n_rows]


def _next_places(caches: Sequence[KVCache]) -> list[int]:
    """Where each row's next position goes.

    Raises:
        InvalidTokens: a cache is full.
    """
    for cache in caches:
        if cache.n_positions >= cache.capacity:
            raise InvalidTokens(f"the cache holds {cache.n_positions} positions and is full")
    return [cache.n_positions for cache in caches]


def _normed(x: Tensor, norm: NormWeights) -> Tensor:
    return torch.layer_norm(x, (x.shape[-1],), norm.weight, norm.bias, NORM_EPS)


def _attend_one(qkv: Tensor, both: Tensor, place: int) -> Tensor:
    """One row's attention at its new position.

    Args:
        qkv: [3, H, D].
        both: this layer's keys and values, [2, 1, H, T, D]; the new ones are written at `place`.
    Returns:
        [1, H, D]
    """
    both[:, 0, :, place].copy_(qkv[1:])
    k, v = both.narrow(3, 0, place + 1).to(qkv.dtype).unbind()
    return F.scaled_dot_product_attention(qkv[:1].unsqueeze(2), k, v)[:, :, 0]


def _even_linear(x: Tensor, linear: LinearWeights) -> Tensor:
    """`F.linear` of an even number of rows, in portions that don't change a row's sums.

    A library may add in another order for another number of rows (always for a single one, which
    is no quicker than two). What comes out of a row must not depend on its neighbours.
    """
    weight, bias = linear.weight, linear.bias
    if linear.product is not None:
        return torch.cat([linear.product(row) for row in torch.split(x, 1)])
    if x.device.type != "cpu" or x.dtype != torch.float32:
        return F.linear(x, weight, bias)
    sizes = _portions(len(x), _equal_sizes(*weight.shape, torch.get_num_threads()))
    if len(sizes) == 1:
        return F.linear(x, weight, bias)
    return torch.cat([F.linear(part, weight, bias) for part in torch.split(x, list(sizes))])


@functools.cache
def _portions(n_rows: int, sizes: tuple[int, ...]) -> tuple[int, ...]:
    """The fewest portions of the given sizes, the largest first."""
    chosen: list[int] = []
    while sum(chosen) < n_rows:
        chosen.append(max(size for size in sizes if size <= n_rows - sum(chosen)))
    return tuple(chosen)


@functools.cache
def _equal_sizes(n_out: int, n_in: int, n_threads: int) -> tuple[int, ...]:
    """Numbers of rows for which a product of this shape adds as it does for two; tried out here.

    Args:
        n_threads: that torch computes with: it divides the sums among them.
    """
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(n_out, n_in, generator=generator)
    x = torch.randn(MOST_ROWS_AT_ONCE, n_in, generator=generator)
    pairs = torch.cat([F.linear(pair, weight) for pair in torch.split(x, 2)])
    equal = [
        size
        for size in range(4, MOST_ROWS_AT_ONCE + 1, 2)
        if torch.equal(F.linear(x[:size], weight), pairs[:size])
    ]
    return (2, *equal)


def _layer(block: nn.Module) -> LayerWeights:
    assert isinstance(block, Block)
    return LayerWeights(
        norm_1=_norm(block.ln_1),
        attention=_linear(block.attn.c_attn),
        projection=_linear(block.attn.c_proj),
        norm_2=_norm(block.ln_2),
        widening=_linear(block.mlp.c_fc),
        narrowing=_linear(block.mlp.c_proj),
    )


def _table(module: nn.Module) -> Tensor:
    assert isinstance(module, nn.Embedding)
    return module.weight


def _norm(module: nn.Module) -> NormWeights:
    assert isinstance(module, LayerNorm)
    return NormWeights(module.weight, module.bias)


def _linear(module: nn.Module) -> LinearWeights:
    if isinstance(module, Int8Linear):
        return LinearWeights(module.weight, module.bias, module.scale, module)
    assert isinstance(module, nn.Linear)
    return LinearWeights(module.weight, module.bias)


class FineGPT(nn.Module):
    """The transformer of the fine stage: sees the whole window, predicts one codebook at a time.

    Head i and the input embedding of codebook i + 1 share their weights.
    """

    def __init__(self, config: FineConfig) -> None:
        super().__init__()
        self.config = config
        vocab, width = config.input_vocab_size, config.n_embd
        self.transformer = nn.ModuleDict(
            {
                "wtes": nn.ModuleList(
                    nn.Embedding(vocab, width) for _ in range(config.n_codes_total)
                ),
                "wpe": nn.Embedding(config.block_size, width),
                # the LayerNorms have biases here even where the linear layers have none
                "h": nn.ModuleList(
                    Block(config, causal=False, norm_bias=True) for _ in range(config.n_layer)
                ),
                "ln_f": LayerNorm(width, bias=True),
            }
        )
        self.lm_heads = nn.ModuleList(
            Linear(width, config.output_vocab_size, bias=False)
            for _ in range(config.n_codes_given, config.n_codes_total)
        )
        self.tie_weights()

    def tie_weights(self) -> None:
        """Make head i and embedding i + 1 one tensor (again, after a load that replaced them)."""
        for head, table in zip(self.lm_heads, list(self._tables())[1:], strict=False):
            table.weight = head.weight

    @property
    def device(self) -> torch.device:
        weight = self._tables()[0].weight
        assert isinstance(weight, Tensor)
        return weight.device

    @property
    def dtype(self) -> torch.dtype:
        weight = self._tables()[0].weight
        assert isinstance(weight, Tensor)
        return weight.dtype

    def forward(self, codebook: int, codes: Tensor, n_out: int | None = None) -> Tensor:
        """Logits of one codebook for every frame, or for the last ones.

        Args:
            codebook: n_codes_given..n_codes_total - 1.
            codes: integers [B, T, n_codes_total]; those of `codebook` itself are seen too (as
                padding, or as an earlier window left them), later ones are not.
            n_out: only the last so many frames' are wanted; all of them by default.
        Returns:
            [B, n_out, V].
        Raises:
            InvalidTokens: no head for that codebook, or a window longer than the block size.
        """
        given, total = self.config.n_codes_given, self.config.n_codes_total
        if not given <= codebook < total:
            raise InvalidTokens(f"codebook must be within {given}..{total - 1}, got {codebook}")
        length = codes.shape[1]
        if length > self.config.block_size:
            raise InvalidTokens(f"{length} frames don't fit the model's {self.config.block_size}")
        seen = [table(codes[:, :, i]) for i, table in enumerate(self._tables()[: codebook + 1])]
        positions = self.transformer["wpe"](torch.arange(length, device=codes.device))
        x = torch.stack(seen, dim=-1).sum(dim=-1) + positions
        blocks = self._blocks()
        for layer, block in enumerate(blocks):
            # the last layer needs nothing of the other frames but their keys and values
            x = block(x, n_out=n_out if layer == len(blocks) - 1 else None)
        logits: Tensor = self.lm_heads[codebook - given](self.transformer["ln_f"](x))
        return logits

    def _tables(self) -> nn.ModuleList:
        tables = self.transformer["wtes"]
        assert isinstance(tables, nn.ModuleList)
        return tables

    def _blocks(self) -> nn.ModuleList:
        blocks = self.transformer["h"]
        assert isinstance(blocks, nn.ModuleList)
        return blocks

"""The two transformers of Bark: `CausalGPT` (text, coarse) and `FineGPT`, with a static KV cache.

Pre-LayerNorm GPT-2 shape: learned positions, exact GELU, fused QKV projection, MLP x 4. Names
of the parameters are those of suno-ai/bark, so that loading is a strict load. This module knows
nothing of tokens' meanings, sampling or devices.

Axes: B rows of a batch, T positions, C channels, H heads, D channels a head, V vocabulary.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bark_core.config import FineConfig, GPTConfig
from bark_core.errors import InvalidTokens


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
        shape = (config.n_layer, batch, config.n_head, length, head_dim)
        self.keys = torch.zeros(shape, dtype=dtype, device=device)  # (layer, B, H, T, D)
        self.values = torch.zeros(shape, dtype=dtype, device=device)
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
        return F.layer_norm(x, self.weight.shape, self.weight, self.bias, 1e-5)


class SelfAttention(nn.Module):
    """Multi-head attention, causal or over the whole sequence."""

    def __init__(self, config: GPTConfig, *, causal: bool) -> None:
        super().__init__()
        self.c_attn = nn.Linear(config.n_embd, 3 * config.n_embd, bias=config.bias)
        self.c_proj = nn.Linear(config.n_embd, config.n_embd, bias=config.bias)
        self.n_head = config.n_head
        self.causal = causal

    def forward(self, x: Tensor, cache: KVCache | None = None, layer: int = 0) -> Tensor:
        batch, length, width = x.shape
        heads = (batch, length, self.n_head, width // self.n_head)
        q, k, v = (part.view(heads).transpose(1, 2) for part in self.c_attn(x).split(width, dim=2))
        # (B, H, T, D)
        n_past = 0
        if cache is not None:
            n_past = cache.n_positions
            k, v = cache.append(layer, k, v)
        y = self._attend(q, k, v, n_past)
        out: Tensor = self.c_proj(y.transpose(1, 2).reshape(batch, length, width))
        return out

    def _attend(self, q: Tensor, k: Tensor, v: Tensor, n_past: int) -> Tensor:
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
        self.c_fc = nn.Linear(config.n_embd, 4 * config.n_embd, bias=config.bias)
        self.c_proj = nn.Linear(4 * config.n_embd, config.n_embd, bias=config.bias)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.c_proj(F.gelu(self.c_fc(x)))
        return out


class Block(nn.Module):
    """Attention and MLP, each behind a LayerNorm and around a residual connection."""

    def __init__(self, config: GPTConfig, *, causal: bool, norm_bias: bool) -> None:
        super().__init__()
        self.ln_1 = LayerNorm(config.n_embd, bias=norm_bias)
        self.attn = SelfAttention(config, causal=causal)
        self.ln_2 = LayerNorm(config.n_embd, bias=norm_bias)
        self.mlp = MLP(config)

    def forward(self, x: Tensor, cache: KVCache | None = None, layer: int = 0) -> Tensor:
        x = x + self.attn(self.ln_1(x), cache, layer)
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
        return self.lm_head.weight.device

    @property
    def dtype(self) -> torch.dtype:
        return self.lm_head.weight.dtype

    def new_cache(self, batch: int, length: int) -> KVCache:
        """An empty cache for `batch` rows of up to `length` positions."""
        length = min(length, self.config.block_size)
        return KVCache(self.config, batch, length, dtype=self.dtype, device=self.device)

    def embed(self, tokens: Tensor) -> Tensor:
        """Token embeddings without positions: integers [B, T] to [B, T, C]."""
        out: Tensor = self.transformer["wte"](tokens)
        return out

    def forward(
        self, embeddings: Tensor, cache: KVCache | None = None, positions: Tensor | None = None
    ) -> Tensor:
        """Hidden states of new positions, behind those that the cache holds.

        Args:
            embeddings: [B, T, C] from `embed` (the semantic stage adds two of them).
            cache: extended by T positions.
            positions: integers [T]; None counts on from what the cache holds.
        Returns:
            [B, T, C], normalised, ready for `logits`.
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
        for layer, block in enumerate(self._blocks()):
            x = block(x, cache, layer)
        if cache is not None:
            cache.advance(length)
        out: Tensor = self.transformer["ln_f"](x)
        return out

    def logits(self, hidden: Tensor, start: int = 0, stop: int | None = None) -> Tensor:
        """Output head, only its rows start..stop - 1: [..., C] to [..., stop - start]."""
        return F.linear(hidden, self.lm_head.weight[start:stop])

    def _blocks(self) -> nn.ModuleList:
        blocks = self.transformer["h"]
        assert isinstance(blocks, nn.ModuleList)
        return blocks


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
            nn.Linear(width, config.output_vocab_size, bias=False)
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

    def forward(self, codebook: int, codes: Tensor) -> Tensor:
        """Logits of one codebook for every frame.

        Args:
            codebook: n_codes_given..n_codes_total - 1.
            codes: integers [B, T, n_codes_total]; those of `codebook` itself are seen too (as
                padding, or as an earlier window left them), later ones are not.
        Returns:
            [B, T, V].
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
        for block in self._blocks():
            x = block(x)
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

"""How much memory a model takes, from its shapes alone."""

from __future__ import annotations

from bark_core.config import (
    VOCODER_STEPS_AT_ONCE,
    CascadeConfig,
    CodecConfig,
    FineConfig,
    GPTConfig,
    TokenLayout,
    VocoderConfig,
)
from bark_core.placement import Numbers


def memory_needed(config: CascadeConfig, numbers: Numbers, offload: bool, *, batch: int = 1) -> int:
    """Bytes of device memory for weights and working buffers, from the model's shapes.

    Args:
        offload: only the largest stage counts, otherwise all weights and the largest buffers.
        batch: rows that are generated at the same time.
    """
    layout = config.layout
    size = numbers.n_bytes
    text_positions = layout.text_window + 1 + layout.max_semantic_tokens
    coarse_positions = (
        layout.coarse_semantic_window + 1 + layout.max_coarse_history + layout.coarse_window
    )
    frames = layout.fine_window
    stages = [
        (_weight_bytes(config.text, numbers), _causal_bytes(config.text, text_positions, numbers)),
        (
            _weight_bytes(config.coarse, numbers),
            _causal_bytes(config.coarse, coarse_positions, numbers),
        ),
        (_weight_bytes(config.fine, numbers), _fine_bytes(config.fine, frames, size)),
        (n_codec_parameters(config.codec, layout) * 4, _codec_bytes(config.codec, frames)),
    ]
    if offload:
        return max(weights + batch * work for weights, work in stages)
    return sum(weights for weights, _ in stages) + batch * max(work for _, work in stages)


def n_parameters(config: GPTConfig) -> int:
    """Weights of one transformer, shared ones counted once."""
    width, fine = config.n_embd, isinstance(config, FineConfig)
    norm = 2 * width if config.bias or fine else width
    matrices = 12 * width * width + (9 * width if config.bias else 0)
    total = config.n_layer * (matrices + 2 * norm) + norm + config.block_size * width
    if isinstance(config, FineConfig):
        return total + config.n_codes_total * config.input_vocab_size * width
    return total + (config.input_vocab_size + config.output_vocab_size) * width


def n_codec_parameters(config: CodecConfig, layout: TokenLayout) -> int:
    """Weights of the codec, with the codebooks that the layout uses."""
    total = layout.n_codebooks * config.bins * config.dimension
    if config.encoder and config.analysis is not None:
        total += config.analysis.n_mels * (1 + config.dimension)
    elif config.encoder:
        total += _seanet(config, decoder=False)
    if config.vocoder is not None:
        return total + _vocoder(config.vocoder, config.dimension)
    return total + _seanet(config, decoder=True)


def _weight_bytes(config: GPTConfig, numbers: Numbers) -> int:
    total = n_parameters(config)
    matrices = 12 * config.n_layer * config.n_embd**2
    fine = isinstance(config, FineConfig)
    head = 0 if fine else config.output_vocab_size * config.n_embd
    size = numbers.n_bytes
    if numbers.weights == "model":
        return total * size
    if numbers.dtype == "float32":
        # a CPU's: of the matrices a second copy, packed for prompts
        return 2 * matrices + head + size * (total - matrices - head)
    return total * size + (0 if fine else matrices + head)  # decode steps have their own


def _causal_bytes(config: GPTConfig, positions: int, numbers: Numbers) -> int:
    """KV cache of one row, the hidden states of its prompt and float32 logits of one step."""
    positions, size = min(positions, config.block_size), numbers.n_bytes
    cache = 2 * config.n_layer * positions * config.n_embd * size
    if numbers.cache == "int8":
        cache = 2 * config.n_layer * positions * (config.n_embd + 4 * config.n_head)
    return cache + 8 * positions * config.n_embd * size + 4 * config.output_vocab_size * 4


def _fine_bytes(config: FineConfig, frames: int, size: int) -> int:
    """Hidden states of a window, attention scores, logits in float32 with their softmax."""
    scores = config.n_head * frames * frames * size
    return 8 * frames * config.n_embd * size + scores + 3 * frames * config.output_vocab_size * 4


def _codec_bytes(config: CodecConfig, frames: int) -> int:
    """The widest three float32 feature maps of the decoder, for one window of frames."""
    if config.vocoder is not None:  # they are spectra, complex, one a step
        return 3 * 8 * VOCODER_STEPS_AT_ONCE * (config.vocoder.window // 2 + 1)
    widest, width, length = 0, config.n_filters * 2 ** len(config.ratios), frames
    for ratio in config.ratios:
        length, width = length * ratio, width // 2
        widest = max(widest, width * length)
    return 3 * 4 * widest


def _seanet(config: CodecConfig, *, decoder: bool) -> int:
    """Weights of EnCodec's encoder or decoder."""
    widest = config.n_filters << len(config.ratios)
    first, last = (config.dimension, 1) if decoder else (1, config.dimension)
    ends = (widest, config.n_filters) if decoder else (config.n_filters, widest)
    total = _conv(first, ends[0], config.kernel_size)
    total += _conv(ends[1], last, config.last_kernel_size)
    total += config.lstm * (8 * widest * widest + 8 * widest)
    width = config.n_filters
    for ratio in reversed(config.ratios):
        total += 2 * width * width * 2 * ratio + (width if decoder else 2 * width)
        total += config.n_residual_layers * _residual(config, width)
        width *= 2
    return total


def _vocoder(config: VocoderConfig, dimension: int) -> int:
    first, *others = config.kernel_sizes
    width, n_values = config.width, 1 + config.n_bands + config.n_cepstra
    total = _conv(dimension, width, first) + _conv(width, config.steps * n_values, 1)
    return total + sum(_conv(width, width, size) for size in others)


def _conv(n_in: int, n_out: int, kernel: int) -> int:
    return n_in * n_out * kernel + n_out


def _residual(config: CodecConfig, width: int) -> int:
    hidden = width // config.compress
    skip = 0 if config.true_skip else _conv(width, width, 1)
    return _conv(width, hidden, config.residual_kernel_size) + _conv(hidden, width, 1) + skip

"""Where training starts from: weights that already know what "at the same time" means.

Position embeddings are sinusoids whose phase is time. Two positions of different kinds (the
letter being read, the token being said) that belong to the same moment get the same phase, and
queries start equal to keys, so attention looks at that moment from the first step on.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from bark_core.transformer import CausalGPT, FineGPT
from training.units import N_UNITS, PHONE_INDEX, PHONES, THIRDS, TONES, parts

EMBEDDING_STD = 0.1


def sinusoids(times: Tensor, width: int) -> Tensor:
    """Phases of a moment: [T] in any unit to [T, width], wavelengths of 3 to 600 units."""
    wavelengths = torch.logspace(math.log10(3.0), math.log10(600.0), width // 2)
    angles = 2 * math.pi * times[:, None].float() / wavelengths
    return torch.cat([angles.sin(), angles.cos()], dim=1) * (EMBEDDING_STD * math.sqrt(2.0))


def initialise(model: CausalGPT | FineGPT, times: Tensor, *, seed: int) -> None:
    """Set all weights of a `CausalGPT` or `FineGPT`.

    Args:
        times: the moment of each position, [block_size].
    """
    torch.manual_seed(seed)
    n_layer = model.config.n_layer
    for name, parameter in model.named_parameters():
        with torch.no_grad():
            if name.endswith("wpe.weight"):
                parameter.copy_(sinusoids(times, parameter.shape[1]))
            elif "wte" in name:
                parameter.normal_(std=EMBEDDING_STD)
            elif "lm_head" in name:
                parameter.normal_(std=0.02)
            elif parameter.ndim == 2:
                parameter.normal_(std=parameter.shape[1] ** -0.5)
                if name.endswith("c_proj.weight"):
                    parameter.mul_(1 / math.sqrt(2 * n_layer))
                if name.endswith("c_attn.weight"):
                    width = parameter.shape[1]
                    parameter[:width] = parameter[width : 2 * width]


def share_units(model: CausalGPT, *, head: bool) -> None:
    """Start the semantic tokens of one phone alike, and those of one third and of one tone.

    Args:
        head: the output rows too.
    """
    tables = [model.transformer["wte"].weight] + ([model.lm_head.weight] if head else [])
    for table in tables:
        assert isinstance(table, Tensor)
        std, width = float(table.detach().std()), table.shape[1]
        shared = [torch.randn(n, width) * std for n in (len(PHONES), THIRDS, len(TONES))]
        with torch.no_grad():
            for token in range(N_UNITS):
                phone, third, tone = parts(token)
                rows = (shared[0][PHONE_INDEX[phone]], shared[1][third], shared[2][tone])
                table[token] = 0.3 * table[token] + 0.6 * rows[0] + 0.5 * (rows[1] + rows[2])

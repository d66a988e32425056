"""Sound to semantic tokens: a small network that hears which units are said, and a voice of it.

The published models have none. pup's lies beside its weights, so that a recording can become a
voice: semantic tokens from here, codes from the codec.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bark_core.codec import Codec
from bark_core.config import CascadeConfig, RecogniserConfig
from bark_core.errors import InvalidSetting
from bark_core.folders import read_own_config
from bark_core.layouts import check_state
from bark_core.models import resolve
from bark_core.tokens import Audio, SemanticTokens
from bark_core.voices import Voice
from bark_core.weights import read_safetensors

RECOGNISER_FILE = "recogniser.safetensors"


class Recogniser(nn.Module):
    """Convolutions over the codec's latents, with the clip's mean beside each frame.

    The mean tells who speaks, without which a unit's tone can't be told.
    """

    def __init__(self, config: RecogniserConfig, *, dimension: int, n_tokens: int) -> None:
        super().__init__()
        width, half = config.width, config.kernel_size // 2
        self.first = nn.Conv1d(dimension, width, config.kernel_size, padding=half)
        self.about = nn.Linear(2 * dimension, width)
        self.blocks = nn.ModuleList(
            nn.Conv1d(width, width, config.kernel_size, padding=half * step, dilation=step)
            for step in config.dilations
        )
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in config.dilations)
        self.head = nn.Linear(width, n_tokens)

    def forward(self, latents: Tensor, n_tokens: int, frames_per_token: float) -> Tensor:
        """Latents [B, C, T] to logits [B, n_tokens, V].

        Args:
            frames_per_token: token j is heard at the frame (j + 1/2) * frames_per_token.
        """
        spread = (latents.square().mean(2) - latents.mean(2).square()).clamp_min(0)
        about = self.about(torch.cat([latents.mean(2), spread.sqrt()], dim=1))
        x = F.gelu(self.first(latents) + about[:, :, None])
        for norm, block in zip(self.norms, self.blocks, strict=True):
            x = x + F.gelu(block(norm(x.mT).mT))
        return self.head(_at_tokens(x, n_tokens, frames_per_token).mT)  # type: ignore[no-any-return]


def _at_tokens(x: Tensor, n_tokens: int, frames_per_token: float) -> Tensor:
    """Interpolate frames [B, C, T] at the centres of tokens: [B, C, n_tokens]."""
    # frame t is heard at t: its window is centred near there
    times = (torch.arange(n_tokens, device=x.device) + 0.5) * frames_per_token
    times = times.clamp(0, x.shape[2] - 1)
    before = times.floor().long()
    after = (before + 1).clamp_max(x.shape[2] - 1)
    share = (times - before).to(x.dtype)
    return x[:, :, before] * (1 - share) + x[:, :, after] * share


def new_recogniser(config: CascadeConfig) -> Recogniser:
    """An untrained one of the model's shape.

    Raises:
        InvalidSetting: the model has none.
    """
    if config.recogniser is None or config.codec.analysis is None:
        raise InvalidSetting(
            f"the model {config.name!r} can't hear: it has no recogniser of semantic tokens; "
            "use a voice file, or the model pup"
        )
    return Recogniser(
        config.recogniser,
        dimension=config.codec.dimension,
        n_tokens=config.layout.semantic_vocab,
    )


def load_recogniser(model: str | Path = "pup") -> Recogniser:
    """Read a model's recogniser.

    Args:
        model: "pup", or the folder of a model in our own layout.
    Raises:
        InvalidSetting: the model has none, as the published ones.
        UnknownModel, MissingFiles: there is no such model, or its file is missing.
        InvalidCheckpoint, StorageError: the file is damaged or can't be read.
    """
    folder = resolve(model)
    if not isinstance(folder, Path):
        raise InvalidSetting(f"the model {model!r} can't hear; use a voice file, or the model pup")
    recogniser = new_recogniser(read_own_config(folder))
    file = folder / RECOGNISER_FILE
    state = read_safetensors(file)
    shapes = {name: tuple(t.shape) for name, t in recogniser.state_dict().items()}
    check_state(state, shapes, str(file))
    recogniser.load_state_dict({name: tensor.float() for name, tensor in state.items()})
    return recogniser.eval()


def voice_from_audio(
    audio: Audio, codec: Codec, recogniser: Recogniser, *, name: str = ""
) -> Voice:
    """A recording as a voice: what is said in it as units, and its codes.

    Args:
        audio: at the codec's sample rate, some seconds of one speaker.
    Raises:
        InvalidTokens: no samples, or another sample rate.
        InvalidSetting: this model's codec has no encoder.
    """
    fine = codec.encode(audio)
    layout = codec.layout
    n_tokens = max(1, round(fine.n_frames / layout.frames_per_semantic))
    samples = torch.tensor(audio.samples)[None, None]
    with torch.inference_mode():
        latents = codec.encoder.cpu()(samples)
        logits = recogniser(latents, n_tokens, layout.frames_per_semantic)
    tokens = logits[0].argmax(1).numpy().astype(np.int64)
    semantic = SemanticTokens(tokens, layout)
    return Voice(semantic=semantic, coarse=fine.coarse, fine=fine, name=name, kind="recording")

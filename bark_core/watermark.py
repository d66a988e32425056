"""An inaudible mark in the sound itself: AudioSeal, where the host has it.

    mark  = AudioSeal's generator over the sound at 16 kHz, brought back to the sound's own rate
    sound + mark                      16 bits of message: the same for every file made here

It survives what tags and credentials don't: another format, a cut, another loudness, within
limits (docs/provenance.md). The package and its two files of weights are the host's to bring;
nothing is ever downloaded here. The files are looked for in a folder, under the names that they
are published with, and where AudioSeal itself would have kept them.

The package's own loader unpickles whatever a file asks for. Its networks are used here, its
loader isn't: files pass the restricted reader of weights.py.
"""

from __future__ import annotations

import collections
import contextlib
import hashlib
import importlib.util
import os
import threading
import typing
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlsplit

import numpy as np
import torch

from bark_core.audio import resample
from bark_core.errors import InvalidCheckpoint, InvalidSetting, MissingFiles
from bark_core.tokens import Audio
from bark_core.weights import read_pickle, tensors_of

RATE_HZ = 16_000  # what AudioSeal was trained at
N_BITS = 16
GENERATOR, DETECTOR = "audioseal_wm_16bits", "audioseal_detector_16bits"
FILES: Mapping[str, str] = {GENERATOR: "generator_base.pth", DETECTOR: "detector_base.pth"}
LEAST_S = 0.1  # a shorter sound has no room for a mark
_COMPILING = threading.Lock()  # the package's switch is one for the whole process
_MESSAGE = hashlib.sha256(b"Bark Studio").digest()[:2]


@dataclass(frozen=True, slots=True)
class Detected:
    """What the detector says of a sound."""

    probability: float  # 0..1, that some AudioSeal mark is in it
    message: bool  # and its message is the one that is written here

    @property
    def found(self) -> bool:
        return self.probability >= 0.5


@dataclass(frozen=True, slots=True, eq=False)
class Watermark:
    """AudioSeal's two networks, loaded. Thread-safe: they are only read."""

    generator: Any
    detector: Any

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Load both networks; some 100 MB of memory.

        Args:
            folder: where FILES are looked for first.

        Raises:
            InvalidSetting: the package isn't installed.
            MissingFiles: the weights aren't here; the message says where to put them.
            InvalidCheckpoint: they are damaged, unsafe or of another model.
        """
        if importlib.util.find_spec("audioseal") is None:
            raise InvalidSetting(
                "the watermark needs the package audioseal; run: pip install -r "
                "requirements-provenance.txt, or leave --watermark away"
            )
        from audioseal.builder import (
            AudioSealDetectorConfig,
            AudioSealWMConfig,
            create_detector,
            create_generator,
        )

        return cls(
            generator=_network(GENERATOR, folder, AudioSealWMConfig, create_generator),
            detector=_network(DETECTOR, folder, AudioSealDetectorConfig, create_detector),
        )

    def embed(self, audio: Audio) -> Audio:
        """The sound with the mark in it; the same length and rate. Silence stays silence."""
        if audio.duration_s < LEAST_S or not np.any(audio.samples):
            return audio
        slow = resample(audio, RATE_HZ)
        with _running():
            mark = self.generator.get_watermark(_batch(slow), message=_message())
        back = resample(Audio(mark[0, 0].float().numpy(), RATE_HZ), audio.sample_rate_hz).samples
        marked = audio.samples.copy()
        n = min(len(marked), len(back))
        marked[:n] += back[:n]
        return Audio(marked, audio.sample_rate_hz)

    def detect(self, audio: Audio) -> Detected:
        """Whether a mark is in a sound, and whether it is ours."""
        if audio.duration_s < LEAST_S:
            return Detected(0.0, False)
        with _running():
            probability, message = self.detector.detect_watermark(_batch(resample(audio, RATE_HZ)))
        bits = (message[0] > 0.5).long() if message is not None else None
        # two wrong bits of sixteen are forgiven: chance alone hits that once in 480
        ours = bits is not None and int((bits == _message()[0]).sum()) >= N_BITS - 2
        return Detected(float(probability), ours)


def weights_here(folder: Path) -> bool:
    """Whether both files of weights are on this machine, without opening them."""
    return all(_file(card, folder).is_file() for card in FILES)


def _network(card: str, folder: Path, config_type: Any, create: Callable[..., Any]) -> Any:
    """One network of a card of the package, with weights from a file."""
    from audioseal import loader
    from omegaconf import OmegaConf

    file = _file(card, folder)
    if not file.is_file():
        names = " and ".join(FILES.values())
        raise MissingFiles(
            f"the watermark needs AudioSeal's weights {names}; download them from "
            f"huggingface.co/facebook/audioseal and put them into {folder}, or leave "
            "--watermark away"
        )
    stated: Any = OmegaConf.to_container(loader.load_local_model_config(card))
    stated.pop("checkpoint", None)
    config = loader.AudioSeal.parse_config(stated, config_type=config_type, nbits=N_BITS)
    network = create(config)
    state = loader.convert_state_dict_for_scriptable_model(_state(file))
    try:
        loader.load_state_dict(network, state)
    except (RuntimeError, AttributeError, AssertionError, KeyError) as error:
        raise InvalidCheckpoint(
            f"{file} doesn't hold the weights of {card} ({' '.join(str(error).split())[:200]}); "
            "get it again"
        ) from error
    return network.eval().requires_grad_(False)


def _state(file: Path) -> dict[str, torch.Tensor]:
    """Named weights, wherever a training run put them in its file."""
    from omegaconf import base, dictconfig, listconfig, nodes

    # what a saved configuration consists of; it isn't used
    plain = [
        *(dictconfig.DictConfig, listconfig.ListConfig, nodes.AnyNode, base.Metadata),
        *(base.ContainerMetadata, collections.defaultdict, typing.Any, dict, list, int),
    ]
    data: Any = read_pickle(file, also=plain)
    if isinstance(data.get("best_state"), Mapping):
        data = data["best_state"]
    return tensors_of(data.get("model", data), file)


def _file(card: str, folder: Path) -> Path:
    """Where a card's weights are, or should be."""
    given = folder / FILES[card]
    if given.is_file():
        return given
    # AudioSeal keeps what it downloaded under a hash of the path of its address
    address = f"https://huggingface.co/facebook/audioseal/resolve/main/{FILES[card]}"
    name = hashlib.sha1(urlsplit(address).path.encode(), usedforsecurity=False).hexdigest()[:24]
    for variable in ("AUDIOSEAL_CACHE_DIR", "XDG_CACHE_HOME"):
        if os.environ.get(variable):
            cache = Path(os.environ[variable])
            break
    else:
        cache = Path.home() / ".cache"
    kept = cache / "audioseal" / name
    return kept if kept.is_file() else given


@contextlib.contextmanager
def _running() -> Iterator[None]:
    """Without gradients, and without the package's compiling: it takes minutes, for seconds."""
    from audioseal.libs.moshi.utils.compile import no_compile

    with _COMPILING, no_compile(), torch.inference_mode():
        yield


def _batch(audio: Audio) -> torch.Tensor:
    return torch.from_numpy(np.array(audio.samples, dtype=np.float32))[None, None]  # (B, 1, T)


def _message() -> torch.Tensor:
    bits = np.unpackbits(np.frombuffer(_MESSAGE, dtype=np.uint8))
    return torch.from_numpy(bits.astype(np.int64))[None]  # (B, 16)

"""`python -m training codec`: codebooks by analysis, and the codec that they go into.

Training a codec as an autoencoder from nothing ended, twice, in a decoder that ignored its codes.
So the codes are made without training: log-mel frames, their principal components, residual
k-means. Only the decoder learns, to make sound of them again (`training.decoder`).

The coarse codebooks describe what is below 3.5 kHz, and how loud it is above; what stands there is
left to the fine one. Words are decided below, and what is above can be told from it (docs/log.md).
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from bark_core.codec import Codec
from bark_core.weights import read_safetensors
from training import data
from training.features import N_MELS, cosines, log_mel
from training.pup import CONFIG, LAYOUT

DIMENSION = CONFIG.codec.dimension
N_CODEBOOKS = LAYOUT.n_codebooks
CODEBOOK_SIZE = LAYOUT.codebook_size
BANDS_BELOW = 57  # of 80, up to 3.5 kHz: the coarse codebooks'
DIMENSIONS_BELOW = 46  # of 64; the one after them is about how loud it is above
ENVELOPE_CEPSTRA = 14
N_FRAMES = 150_000  # of sound, for the codebooks and for comparing them
CODEBOOKS = "codebooks.npz"
WEIGHTS = "codec.pt"
CURVE = "codec.jsonl"
TABLES = ("encoder.mean", "encoder.components", "quantizer.codebooks")
FIRST_WEIGHT, FIRST_BIAS = "decoder.first.weight", "decoder.first.bias"


@dataclass(frozen=True, slots=True)
class Codebooks:
    """PCA and residual k-means over log-mel frames.

    Attributes:
        mean, components: float32 [80] and [64, 80]; latent = (mel - mean) @ components.T.
        entries: float32 [4, 512, 64].
        spectra: the same as differences of log-mel frames, float32 [4, 512, 80].
    """

    mean: Tensor
    components: Tensor
    entries: Tensor

    @property
    def spectra(self) -> Tensor:
        return self.entries @ self.components

    def latents(self, samples: Tensor) -> Tensor:
        """float32 [..., n] at 24 kHz to float32 [..., n // 480, 64]."""
        return self.projected(log_mel(samples))

    def projected(self, mels: Tensor) -> Tensor:
        """Log-mel frames float32 [..., 80] to their latents [..., 64]."""
        return (mels - self.mean) @ self.components.T

    def encode(self, latents: Tensor) -> Tensor:
        """float32 [T, 64] to int64 [4, T]: each codebook takes what the one before left."""
        residual, codes = latents, []
        for entries in self.entries:
            index = nearest(residual, entries)
            codes.append(index)
            residual = residual - entries[index]
        return torch.stack(codes)

    def decode(self, codes: Tensor) -> Tensor:
        """int64 [K, T], K of 1..4, to latents float32 [T, 64]."""
        return torch.stack([self.entries[k][row] for k, row in enumerate(codes)]).sum(0)


def nearest(points: Tensor, entries: Tensor) -> Tensor:
    """Index of the nearest entry to each point: [N, D], [K, D] to int64 [N]."""
    half_norm = entries.square().sum(1) / 2
    # In pieces that stay in the processor's cache.
    pieces = [
        torch.addmm(-half_norm, piece, entries.T).argmax(1) for piece in torch.split(points, 2048)
    ]
    return torch.cat(pieces)


def k_means(points: Tensor, size: int, seed: int, n_rounds: int = 25) -> Tensor:
    """Lloyd's k-means; an entry that loses its points is put on the worst-served one.

    Args:
        points: float32 [N, D], N >= size.
    Returns:
        float32 [size, D].
    """
    generator = torch.Generator().manual_seed(seed)
    entries = points[torch.randperm(len(points), generator=generator)[:size]].clone()
    for step in range(n_rounds):
        index = nearest(points, entries)
        counts = torch.bincount(index, minlength=size)
        sums = torch.zeros_like(entries).index_add_(0, index, points)
        empty = counts < (4 if step < n_rounds - 5 else 1)
        entries = sums / counts.clamp_min(1)[:, None]
        n_empty = int(empty.sum())
        if n_empty:
            error = (points - entries[index]).square().sum(1)
            entries[empty] = points[error.topk(n_empty).indices]
    return entries


def fit_codebooks(mels: Tensor, seed: int = 0) -> tuple[Codebooks, dict[str, Any]]:
    """PCA and residual k-means.

    Args:
        mels: float32 [N, 80], frames of all voices.
    Returns:
        the codebooks, and a report: the share of variance left after PCA and each stage, and how
        many entries of each codebook are used.
    """
    mean = mels.mean(0)
    centred = mels - mean
    components = principal_components(centred)
    latents = centred @ components.T
    total = centred.square().sum()
    report: dict[str, Any] = {
        "frames": len(mels),
        "left_by_pca": float(1 - latents.square().sum() / total),
        "left_after_stage": [],
        "entries_used": [],
    }
    residual, stages = latents, list[Tensor]()
    for stage, space in enumerate(subspaces(components)):
        entries = k_means(residual @ space, CODEBOOK_SIZE, seed + stage)
        index = nearest(residual, entries)
        residual = residual - entries[index]
        stages.append(entries)
        report["left_after_stage"].append(float(residual.square().sum() / total))
        report["entries_used"].append(
            int((torch.bincount(index, minlength=CODEBOOK_SIZE) > 0).sum())
        )
    return Codebooks(mean, components, torch.stack(stages)), report


def principal_components(centred: Tensor) -> Tensor:
    """Those of the bands below, then those of the bands above, each by its share of variance.

    Args:
        centred: float32 [N, 80], of which the mean is 0.
    Returns:
        float32 [64, 80], orthonormal rows.
    """
    components = torch.zeros(DIMENSION, N_MELS)
    below = slice(0, BANDS_BELOW), slice(0, DIMENSIONS_BELOW)
    above = slice(BANDS_BELOW, N_MELS), slice(DIMENSIONS_BELOW, DIMENSION)
    for bands, rows in (below, above):
        _values, vectors = torch.linalg.eigh(centred[:, bands].T @ centred[:, bands])
        components[rows, bands] = vectors.flip(1)[:, : rows.stop - rows.start].T
    return components


def subspaces(components: Tensor) -> list[Tensor]:
    """What each codebook describes, as projections of the latents: float32 [64, 64] each.

    The first: the spectrum's envelope below 3.5 kHz (its lowest cepstra) and how loud it is above,
    thus what is said and by whom. The second: what is left of the spectrum there, which is its
    harmonics, thus pitch and voicing. These two can be foretold from semantic tokens far better
    than two stages of plain residual k-means, whose second one is near to noise. The third: what
    these two leave of the same. The last: everything that is left, which is what stands above.

    An entry within a subspace is the nearest one to a point if it is nearest to the point's
    projection, so encoding needs to know nothing of this.

    Args:
        components: of `principal_components`.
    """
    cepstra = F.pad(cosines(ENVELOPE_CEPSTRA, BANDS_BELOW), (0, N_MELS - BANDS_BELOW))
    basis, _ = torch.linalg.qr(components @ cepstra.T)
    envelope = basis @ basis.T
    place = torch.arange(DIMENSION)
    below = torch.diag((place < DIMENSIONS_BELOW).float())
    loudness = torch.diag((place == DIMENSIONS_BELOW).float())
    return [envelope + loudness, below - envelope, below + loudness, torch.eye(DIMENSION)]


def save_codebooks(work: Path, codebooks: Codebooks) -> None:
    """Write the codebooks, atomically, for `load_codebooks`."""
    part = work / "codebooks.part.npz"
    np.savez(
        part,
        mean=codebooks.mean.numpy(),
        components=codebooks.components.numpy(),
        entries=codebooks.entries.numpy(),
    )
    part.replace(work / CODEBOOKS)


def load_codebooks(work: Path) -> Codebooks:
    """Read what `save_codebooks` wrote."""
    with np.load(work / CODEBOOKS, allow_pickle=False) as arrays:
        names = ("mean", "components", "entries")
        return Codebooks(*(torch.from_numpy(arrays[name]) for name in names))


def encode_all(
    codebooks: Codebooks, audio: NDArray[np.int16], offsets: NDArray[np.int64]
) -> NDArray[np.uint16]:
    """Codes of a whole set, each sentence by itself.

    Args:
        audio, offsets: as in data.Dataset.
    Returns:
        uint16 [4, all frames].
    """
    rows = []
    for start, end in itertools.pairwise(offsets):
        samples = torch.from_numpy(audio[start:end].astype(np.float32) / 32768)
        rows.append(codebooks.encode(codebooks.latents(samples)).to(torch.int32).numpy())
    return np.concatenate(rows, axis=1).astype(np.uint16)


def mel_frames(dataset: data.Dataset, n_frames: int, seed: int = 0) -> Tensor:
    """Log-mel frames of randomly chosen training sentences: float32 [about n_frames, 80]."""
    order = np.random.default_rng(seed).permutation(dataset.n_training)
    rows: list[Tensor] = []
    for index in order:
        rows.append(log_mel(torch.from_numpy(dataset.audio_of(int(index)))))
        if sum(map(len, rows)) >= n_frames:
            break
    return torch.cat(rows)


def build(codebooks: Codebooks) -> Codec:
    """pup's codec with these codebooks and a decoder that has learnt nothing."""
    model = Codec(CONFIG.codec, LAYOUT)
    model.load_state_dict(tables_of(codebooks), strict=False)
    return model


def tables_of(codebooks: Codebooks) -> dict[str, Tensor]:
    """Them as a codec's state has them."""
    tables = (codebooks.mean, codebooks.components, codebooks.entries)
    return dict(zip(TABLES, tables, strict=True))


def codebooks_of(weights: dict[str, Tensor]) -> Codebooks:
    """What a codec's state has of them."""
    return Codebooks(*(weights[name] for name in TABLES))


@torch.no_grad()
def synthesise(model: Codec, latents: Tensor) -> Tensor:
    """Latents float32 [T, 64] to sound float32 [480 T] at 24 kHz."""
    sound: Tensor = model.decoder(latents.T[None])[0]
    return sound


def stored_weights(model: Path) -> dict[str, Tensor]:
    """The codec of a folder that `export` wrote, float32."""
    stored = read_safetensors(model / "codec.safetensors")
    weights = {name: value.float() for name, value in stored.items()}
    Codec(CONFIG.codec, LAYOUT).load_state_dict(weights)  # says so if they are of another shape
    return weights


def start_from(work: Path, model: Path) -> None:
    """Take over a finished model's codebooks and decoder, unless the work folder has its own.

    Where there are codebooks already, the decoder is told how to read them.

    Args:
        model: a folder that `export` wrote.
    """
    weights = stored_weights(model)
    work.mkdir(parents=True, exist_ok=True)
    if not (work / CODEBOOKS).exists():
        save_codebooks(work, codebooks_of(weights))
    if not has_model(work):
        save_tensors(work / WEIGHTS, reading(weights, load_codebooks(work)))


def reading(weights: dict[str, Tensor], codebooks: Codebooks) -> dict[str, Tensor]:
    """A codec's weights with other codebooks: its decoder reads the same spectra from them."""
    before = codebooks_of(weights)
    tables = tables_of(codebooks)
    if all(torch.equal(weights[name], table) for name, table in tables.items()):
        return weights  # float16 components are orthonormal only nearly
    first, bias = weights[FIRST_WEIGHT], weights[FIRST_BIAS]
    turned, moved = turn(before, codebooks)
    return {
        **weights,
        **tables,
        FIRST_WEIGHT: torch.einsum("oik,ij->ojk", first, turned),
        FIRST_BIAS: bias + first.sum(2) @ moved,
    }


def turn(before: Codebooks, now: Codebooks) -> tuple[Tensor, Tensor]:
    """What latents of now were before, of the same spectra: latents @ [0].T + [1].

    Returns:
        float32 [64, 64] and [64].
    """
    return before.components @ now.components.T, before.components @ (now.mean - before.mean)


def save_tensors(path: Path, state: Any) -> None:
    """torch.save, atomically."""
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    torch.save(state, part)
    part.replace(path)


def has_model(work: Path) -> bool:
    """Whether there is something for `load_model`."""
    return (work / WEIGHTS).exists()


def load_model(work: Path) -> Codec:
    """The codec at its last checkpoint, ready to use."""
    model = Codec(CONFIG.codec, LAYOUT)
    model.load_state_dict(torch.load(work / WEIGHTS, map_location="cpu", weights_only=True))
    return model.eval()


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `python -m training codec`."""
    parser.add_argument("--work", type=Path, default=data.DEFAULT_WORK)
    parser.add_argument("--start", type=Path, help="take over this model's codebooks and decoder")
    parser.add_argument("--frames", type=int, default=N_FRAMES, help="frames for the codebooks")
    parser.add_argument("--threads", type=int, default=1)


def main(args: argparse.Namespace) -> None:
    """Make the codebooks, if there are none."""
    torch.set_num_threads(args.threads)
    if args.start is not None:
        start_from(args.work, args.start)
    if not (args.work / CODEBOOKS).exists():
        codebooks, report = fit_codebooks(mel_frames(data.load(args.work, "sound"), args.frames))
        save_codebooks(args.work, codebooks)
        data.write_atomic(args.work / "codebooks.json", json.dumps(report, indent=1).encode())
        print(json.dumps(report), flush=True)
    data.add_codes(args.work)

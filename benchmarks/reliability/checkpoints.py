"""Checkpoints that are damaged or hostile: a clear error each, the loaded model stays.

A studio has a model loaded. One after the other, 40 repositories of a (local) hub that pretend
to be models are downloaded and loaded as somebody would under System, among them pickles that
would run a program. Each must end as InvalidCheckpoint or MissingFiles that says what is wrong;
nothing is executed, and the model that was loaded says the same words with the same tokens.
"""

from __future__ import annotations

import json
import os
import pickle
import queue
import shutil
import struct
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from bark_core import (
    Event,
    Failed,
    Finished,
    GenerationRequest,
    SemanticParams,
    Settings,
)
from bark_core.errors import InvalidCheckpoint, MissingFiles
from benchmarks.reliability.result import Result
from tests import tiny
from tests.hub_server import FakeHub, serve
from webui.models import ModelShelf
from webui.settings import StudioSettings

N = 40
WAIT_S = 120.0

Damage = Callable[[Path], object]


class _Payload:
    """Unpickled by anything careless, makes a file."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.target}",)


# --- what is done to our own layout


def _cut(name: str, share: float, folder: Path) -> None:
    os.truncate(folder / name, int((folder / name).stat().st_size * share))


def _write(name: str, content: bytes, folder: Path) -> None:
    (folder / name).write_bytes(content)


def _remove(name: str, folder: Path) -> None:
    (folder / name).unlink()


def _copy(source: str, target: str, folder: Path) -> None:
    shutil.copy(folder / source, folder / target)


def _weights(stage: str, change: Callable[[dict[str, Any]], object], folder: Path) -> None:
    file = folder / f"{stage}.safetensors"
    weights = {name: tensor.clone() for name, tensor in load_file(file).items()}
    change(weights)
    save_file(weights, file)


def _config(change: Callable[[dict[str, Any]], object], folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    change(config)
    (folder / "config.json").write_text(json.dumps(config))


def _header(claims: object, folder: Path) -> None:
    text = json.dumps(claims).encode()
    (folder / "coarse.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + bytes(64))


OWN: tuple[Damage, ...] = (
    *(partial(_cut, "semantic.safetensors", share) for share in (0.0, 0.001, 0.5, 0.999)),
    *(partial(_cut, "codec.safetensors", share) for share in (0.01, 0.9)),
    *(partial(_write, "fine.safetensors", content)
      for content in (bytes(4096), b"<html>404</html>", b"version https://git-lfs", b"\x80\x02}.")),
    partial(_write, "coarse.safetensors", struct.pack("<Q", 2**62) + b"{}"),
    partial(_header, {"x": {"dtype": "F32", "shape": [2**40], "data_offsets": [0, 2**42]}}),
    partial(_header, [1, 2, 3]),
    partial(_remove, "coarse.safetensors"),
    partial(_remove, "tokenizer.json"),
    partial(_write, "tokenizer.json", b"{}"),
    partial(_copy, "semantic.safetensors", "coarse.safetensors"),
    partial(_weights, "semantic", lambda w: w.pop("lm_head.weight")),
    partial(_weights, "coarse", lambda w: w.update(banana=torch.zeros(2))),
    partial(_weights, "fine", lambda w: w.update({k: t.flatten()[:1] for k, t in w.items()})),
    partial(_weights, "codec", lambda w: w.update({k: t.to(torch.int64) for k, t in w.items()})),
    *(partial(_write, "config.json", content)
      for content in (b"", b"{", b"[]", b"\xff\xfe", b"[" * 100_000, b'{"model_type": "llama"}')),
    partial(_config, lambda c: c["text"].update(n_layer=10**9)),
    partial(_config, lambda c: c["layout"].pop("text_pad")),
    partial(_config, lambda c: c["codec"].update(ratios=[2, 2])),
)  # fmt: skip


# --- and to Suno's pickles


def _pickle(change: Callable[[dict[str, Any]], object], folder: Path) -> None:
    data = torch.load(folder / "text.pt", weights_only=False)
    change(data)
    torch.save(data, folder / "text.pt")


def _in_the_weights(folder: Path) -> None:
    _pickle(lambda data: data["model"].update(x=_Payload(_target(folder))), folder)


def _plain_pickle(folder: Path) -> None:
    content = pickle.dumps({"model": _Payload(_target(folder)), "model_args": {}}, protocol=2)
    (folder / "fine.pt").write_bytes(content)


def _old_torch_file(folder: Path) -> None:
    payload = {"model": _Payload(_target(folder))}
    torch.save(payload, folder / "coarse.pt", _use_new_zipfile_serialization=False)


def _codec_payload(folder: Path) -> None:
    torch.save({"x": _Payload(_target(folder))}, folder / "encodec_24khz-d7cc33bc.th")


def _target(folder: Path) -> Path:
    return folder.parent / "executed"


SUNO: tuple[Damage, ...] = (
    _in_the_weights,
    _plain_pickle,
    _old_torch_file,
    _codec_payload,
    partial(_cut, "text.pt", 0.5),
    partial(_cut, "encodec_24khz-d7cc33bc.th", 0.99),
    partial(_copy, "coarse.pt", "text.pt"),
    partial(_pickle, lambda data: data.pop("model_args")),
    partial(_pickle, lambda data: data["model_args"].update(n_layer=-1)),
    partial(_pickle, lambda data: data["model"]["_orig_mod.lm_head.weight"][0].fill_(torch.nan)),
)


def damaged(folder: Path, n: int) -> Iterator[Path]:
    """Up to `n` folders, one by one, of both kinds; each is made in a folder of its own."""
    own, suno = folder / "own", folder / "suno"
    tiny.save_tiny_model(own)
    tiny.save_tiny_suno_checkpoints(suno)
    for kind, damages in ((own, OWN), (suno, SUNO)):
        for number in sorted({len(damages) * k // n for k in range(n)}):
            copy = folder / f"{kind.name}-{number}" / "model"
            shutil.copytree(kind, copy)
            damages[number](copy)
            yield copy


def measure(n: int) -> Result:
    """Have a studio that has a model download and load `n` of them from a hub."""
    outcomes: Counter[str] = Counter()
    broken: list[str] = []
    with (
        tempfile.TemporaryDirectory(prefix="bark-studio-checkpoints-") as name,
        serve(FakeHub()) as hub,
        warnings.catch_warnings(),
    ):
        warnings.filterwarnings("ignore", message=".*(April 2023|pickle protocol)")
        torch.set_num_threads(1)  # tiny models gain nothing from more
        folder = Path(name)
        shelf = _shelf_with_a_model(folder, hub.url)
        before = _tokens(shelf)
        for copy in islice(damaged(folder, n), n):
            hub.publish(f"stranger/{copy.parent.name}", copy)
            outcome = _loaded(shelf, f"stranger/{copy.parent.name}")
            outcomes[outcome.split(":")[0]] += 1
            if outcome.startswith("!"):
                broken.append(f"{copy.parent.name}: {outcome}")
            if _target(copy).exists():
                broken.append(f"{copy.parent.name} executed its program")
            if _tokens(shelf) != before:
                broken.append(f"after {copy.parent.name} the loaded model isn't what it was")
        shelf.close()
    return Result({"outcomes": dict(outcomes.most_common())}, tuple(broken))


def _shelf_with_a_model(folder: Path, hub_url: str) -> ModelShelf:
    settings = StudioSettings(
        model=str(tiny.save_tiny_model(folder / "good")),
        data=folder / "data",
        cache=folder / "cache",
        endpoint=hub_url,
        devices=("cpu",),
    )
    shelf = ModelShelf(settings)
    shelf.start()
    shelf.settled().wait(WAIT_S)
    return shelf


def _loaded(shelf: ModelShelf, repository: str) -> str:
    """Download and load as System does; the kind of its error, "!" in front if it isn't clear."""
    name = shelf.add(repository)
    for begin in (shelf.download, shelf.load):
        begin(name)
        until = time.monotonic() + WAIT_S
        while shelf.status(name).state.busy:
            if time.monotonic() > until:
                return "! it never ended"
            time.sleep(0.01)
        error = shelf.status(name).error
        if error is not None:
            break
    if not isinstance(error, InvalidCheckpoint | MissingFiles):
        return f"! {error!r}"
    # which file, and what is wrong with it or what to do
    return type(error).__name__ if len(str(error).split()) >= 6 else f"! unclear: {error}"


def _tokens(shelf: ModelShelf) -> list[bytes]:
    """What the loaded model makes of a sentence."""
    assert shelf.loaded() is not None, shelf.status().error
    settings = Settings(semantic=SemanticParams(allow_early_stop=False, max_duration_s=0.3))
    request = GenerationRequest("Hello.", seed=3, settings=settings)
    told: queue.Queue[Event] = queue.Queue()
    shelf.backend.submit(shelf.default, request, told.put)
    while not isinstance(event := told.get(timeout=WAIT_S), Finished):
        assert not isinstance(event, Failed), event
    return [segment.fine.values.tobytes() for segment in event.generation.segments]

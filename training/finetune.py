"""`python -m training finetune`: teach one stage of a model, published or own, from examples.

All of its weights ("full"), or small matrices beside them that are merged in the end ("lora",
through the package peft, see requirements-training.txt). The result is a whole model in a new
folder: `python app.py --model FOLDER`.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.machinery
import json
import sys
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from bark_core import Cascade, load
from bark_core.folders import Origin
from bark_core.formats import write_model
from bark_core.layouts import expected_shapes
from bark_core.transformer import CausalGPT, FineGPT
from training.examples import Rows, read_examples, stage_module

STAGES = ("semantic", "coarse", "fine")
ADAPTED = ["c_attn", "c_proj", "c_fc"]  # the matrices inside the blocks
ROWS_A_STEP = 4


class _Placeholder(types.ModuleType):
    """Stands in for a module that is imported on the way and never called."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.__spec__ = importlib.machinery.ModuleSpec(name, None)


@contextlib.contextmanager
def without_torchaudio() -> Iterator[None]:
    """Let what imports torchaudio be imported where that is absent or broken; leaves no trace."""
    if "torchaudio" in sys.modules:
        yield
        return
    sys.modules["torchaudio"] = _Placeholder("torchaudio")
    try:
        yield
    finally:
        del sys.modules["torchaudio"]


def adapt(model: CausalGPT | FineGPT, rank: int) -> Callable[[], None]:
    """Put LoRA matrices beside the blocks' weights; only they learn from here on.

    Returns:
        what merges them into the weights again.
    """
    with without_torchaudio():  # peft imports transformers, and that torchaudio if it is there
        from peft import LoraConfig, inject_adapter_in_model
        from peft.tuners.tuners_utils import BaseTunerLayer

    config = LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=ADAPTED, bias="none")
    inject_adapter_in_model(config, model)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_("lora_" in name)

    def merge() -> None:
        for parent in list(model.modules()):
            for name, child in list(parent.named_children()):
                if isinstance(child, BaseTunerLayer):
                    child.merge()
                    setattr(parent, name, child.get_base_layer())

    return merge


def teach(
    cascade: Cascade, rows: Rows, stage: str, *, steps: int, rate: float, rank: int | None
) -> list[float]:
    """Train a stage in place.

    Args:
        rank: of LoRA; None trains all weights.
    Returns:
        the loss of each step, nats a token.
    """
    model = stage_module(cascade, stage)
    model.float().train().requires_grad_(True)  # a loaded model's weights are frozen
    merge: Callable[[], None] = (lambda: None) if rank is None else adapt(model, rank)
    learning = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(learning, lr=rate, weight_decay=0.0)
    losses = []
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = rate * min(1.0, (step + 1) / 10) * (1 - step / steps)
        optimizer.zero_grad()
        total = torch.stack([rows.loss(stage) for _ in range(ROWS_A_STEP)]).mean()
        total.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(learning, 1.0)
        optimizer.step()
        losses.append(float(total.detach()))
    merge()
    model.eval()
    return losses


def save(cascade: Cascade, target: Path, precision: str = "float16") -> None:
    """Write the model as a new folder in our own layout."""
    modules: dict[str, nn.Module] = {
        "semantic": cascade.text,
        "coarse": cascade.coarse,
        "fine": cascade.fine,
        "codec": cascade.codec,
    }

    def weights(stage: Any) -> dict[str, Tensor]:
        state = modules[stage].state_dict()
        return {name: state[name].cpu() for name in expected_shapes(stage, cascade.config)}

    write_model(
        target,
        config=cascade.config,
        tokenizer=cascade.tokenizer,
        read_stage=weights,
        precision=precision,
        origin=Origin(f"fine-tuned from {cascade.identity.source}", cascade.identity.revision),
    )


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `python -m training finetune`."""
    parser.add_argument("examples", type=Path, help="folder of NAME.npz with NAME.txt")
    parser.add_argument("--model", default="pup", help="name, hub repository or folder")
    parser.add_argument("--stage", choices=STAGES, required=True)
    parser.add_argument("--out", type=Path, required=True, help="a new folder for the result")
    parser.add_argument("--method", choices=("lora", "full"), default="lora")
    parser.add_argument("--rank", type=int, default=16, help="of LoRA")
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--rate", type=float, help="default: 1e-3 for lora, 1e-5 for full")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--seed", type=int, default=1)


def main(args: argparse.Namespace) -> None:
    """Train and write."""
    torch.manual_seed(args.seed)
    lora = args.method == "lora"
    cascade = load(args.model, device=args.device, precision="float32", offload=False)
    rows = Rows(cascade, read_examples(args.examples, cascade.config.layout), args.seed)
    rate = args.rate or (1e-3 if lora else 1e-5)
    rank = args.rank if lora else None
    losses = teach(cascade, rows, args.stage, steps=args.steps, rate=rate, rank=rank)
    save(cascade, args.out)
    tenth = max(1, len(losses) // 10)
    ends = {"first": sum(losses[:tenth]) / tenth, "last": sum(losses[-tenth:]) / tenth}
    print(json.dumps({name: round(value, 3) for name, value in ends.items()}))

"""The loop that the transformers and the recogniser train in.

Muon for the matrices inside the blocks, AdamW for embeddings, head and norms; a short warm-up,
then a linear decay to nothing at the end of the budget. The budget is a number of steps or of
minutes, whichever ends first. Checkpoints are written atomically every few minutes and hold
all that is needed to go on: weights, both optimizers, step, minutes used.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bark_core.transformer import MLP, Block, SelfAttention
from training.attention import use_plain_products

LOG_EVERY_STEPS = 50


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """How long to train, and how often to look up."""

    minutes: float
    steps: int = 1_000_000
    until: float | None = None  # Unix seconds; shortens the minutes of a run
    checkpoint_minutes: float = 4.0
    validate_minutes: float = 6.0

    def minutes_from(self, used: float) -> float:
        """Minutes that a run may have in all which starts now and has used some before."""
        if self.until is None:
            return self.minutes
        return min(self.minutes, used + max(1e-3, (self.until - time.time()) / 60))

    def progress(self, step: int, used: float, minutes: float) -> float:
        """How much of the budget is spent, 0..1, by steps or by time, whichever is further."""
        return min(1.0, max(used / minutes, step / self.steps))


@dataclass(frozen=True, slots=True, kw_only=True)
class Rates:
    """Peak learning rates and the length of the warm-up in steps."""

    matrices: float = 0.02
    vectors: float = 2e-3
    warmup_steps: int = 50
    clip: float = 1.0

    def scaled(self, factor: float) -> Rates:
        """These rates times a factor."""
        return replace(self, matrices=self.matrices * factor, vectors=self.vectors * factor)


@dataclass(slots=True)
class State:
    """What a checkpoint adds to weights and optimizers."""

    step: int = 0
    minutes: float = 0.0
    progress: float = 0.0  # 0..1 of the budget; data may depend on it (curriculum)


def optimizers(model: nn.Module, rates: Rates) -> list[torch.optim.Optimizer]:
    """Muon over the blocks' matrices, AdamW over the rest."""
    matrices: list[nn.Parameter] = []
    others: list[nn.Parameter] = []
    for name, parameter in model.named_parameters():
        inside = ".h." in name and parameter.ndim == 2
        (matrices if inside else others).append(parameter)
    chosen: list[torch.optim.Optimizer] = [
        torch.optim.AdamW(others, lr=rates.vectors, betas=(0.9, 0.98), weight_decay=0.0)
    ]
    if matrices:
        muon = torch.optim.Muon(matrices, lr=rates.matrices, momentum=0.95, weight_decay=0.01)
        chosen.insert(0, muon)
    return chosen


def drop_out(model: nn.Module, share: float) -> None:
    """Leave out a share of what attention and MLP add, while the model is in training mode."""
    if share <= 0:
        return

    def hook(module: nn.Module, _inputs: object, output: Tensor) -> Tensor:
        return F.dropout(output, share, module.training)

    for module in model.modules():
        if isinstance(module, SelfAttention | MLP):
            module.register_forward_hook(hook)


def save_atomically(data: dict[str, Any], path: Path) -> None:
    """A reader sees the old file or the new one, never half of one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".part")
    torch.save(data, partial)
    os.replace(partial, path)


class Trainer:
    """Trains one model.

    Args:
        batches: progress (0..1) to an endless iterator's next batch.
        loss: model and batch to a scalar in nats per token.
        validate: model to a dict of figures; called under no_grad, in eval mode.
        folder: where NAME.pt and NAME.jsonl (the curve) go.
        dropout: share of what a block's parts add that is left out while training.
        compiled: compile the transformer's blocks; pays on a GPU, from some minutes on.
    """

    def __init__(
        self,
        name: str,
        model: nn.Module,
        *,
        batches: Callable[[State], Iterator[Any]],
        loss: Callable[[nn.Module, Any], Tensor],
        validate: Callable[[nn.Module], dict[str, float]],
        folder: Path,
        budget: Budget,
        rates: Rates | None = None,
        device: str = "cpu",
        dropout: float = 0.0,
        compiled: bool = False,
    ) -> None:
        self.name, self.model, self.folder, self.budget = name, model.to(device), folder, budget
        self.rates = rates or Rates()
        self.batches, self.loss, self.validate = batches, loss, validate
        self.device = device
        use_plain_products()
        drop_out(model, dropout)
        if compiled:
            for module in model.modules():
                if isinstance(module, Block):
                    module.compile()
        self.optimizers = optimizers(model, self.rates)
        self.peaks = [[group["lr"] for group in o.param_groups] for o in self.optimizers]
        self.state = State()
        self.best, self.best_weights = float("inf"), dict[str, Tensor]()
        self._resume()

    @property
    def checkpoint_path(self) -> Path:
        return self.folder / f"{self.name}.pt"

    def run(self) -> None:
        """Train until the budget is spent."""
        started = last_saved = last_validated = time.monotonic()
        minutes_before = self.state.minutes
        minutes = self.budget.minutes_from(minutes_before)
        batches = self.batches(self.state)
        losses: list[Tensor] = []
        while self.state.progress < 1.0:
            self._set_rates()
            losses.append(self._step(next(batches)))
            now = time.monotonic()
            self.state.step += 1
            self.state.minutes = minutes_before + (now - started) / 60
            self.state.progress = self.budget.progress(self.state.step, self.state.minutes, minutes)
            finished = self.state.progress >= 1.0
            if len(losses) == LOG_EVERY_STEPS or finished:
                self._log(loss=float(torch.stack(losses).mean()))
                losses.clear()
            if finished or now - last_validated > self.budget.validate_minutes * 60:
                self._log(**self._validated())
                last_validated = time.monotonic()
            if finished or now - last_saved > self.budget.checkpoint_minutes * 60:
                self.save(finished=finished)
                last_saved = time.monotonic()

    def save(self, *, finished: bool = False) -> None:
        """Write the checkpoint: at the end, the weights that did best in validation."""
        save_atomically(
            {
                "model": self.best_weights if finished else self.model.state_dict(),
                "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
                "step": self.state.step,
                "minutes": self.state.minutes,
            },
            self.checkpoint_path,
        )

    def _resume(self) -> None:
        if not self.checkpoint_path.exists():
            return
        data = torch.load(self.checkpoint_path, map_location=self.device, weights_only=True)
        self.model.load_state_dict(data["model"])
        for optimizer, saved in zip(self.optimizers, data["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        self.state.step, self.state.minutes = data["step"], data["minutes"]
        self.state.progress = self.budget.progress(
            self.state.step, self.state.minutes, self.budget.minutes
        )

    def _set_rates(self) -> None:
        warm = min(1.0, (self.state.step + 1) / self.rates.warmup_steps)
        scale = warm * max(0.02, 1.0 - self.state.progress)
        for optimizer, peaks in zip(self.optimizers, self.peaks, strict=True):
            for group, peak in zip(optimizer.param_groups, peaks, strict=True):
                group["lr"] = peak * scale

    def _step(self, batch: Any) -> Tensor:
        for optimizer in self.optimizers:
            optimizer.zero_grad(set_to_none=True)
        # bfloat16 halves the time where the processor has it and costs no quality here
        with torch.autocast(self.device.split(":")[0], torch.bfloat16):
            loss = self.loss(self.model, batch)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self.model.parameters(), self.rates.clip)
        for optimizer in self.optimizers:
            optimizer.step()
        return loss.detach()

    def _validated(self) -> dict[str, float]:
        self.model.eval()
        with torch.no_grad():
            figures = self.validate(self.model)
        self.model.train()
        if figures["validation_loss"] <= self.best:
            self.best = figures["validation_loss"]
            self.best_weights = {k: v.clone() for k, v in self.model.state_dict().items()}
        return figures

    def _log(self, **figures: float) -> None:
        record = {
            "step": self.state.step,
            "minutes": round(self.state.minutes, 2),
            **{name: round(value, 4) for name, value in figures.items()},
        }
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / f"{self.name}.jsonl").open("a", encoding="utf-8") as curve:
            curve.write(json.dumps(record) + "\n")

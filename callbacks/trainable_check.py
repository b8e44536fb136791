"""Nothing trains in vain: every parameter that should train gets a gradient and moves, or an error names it."""

from typing import Any

import lightning.pytorch as L
import torch
from lightning.pytorch import Callback
from torch import Tensor


class TrainableCheck(Callback):
    """Checks gradients after the first backward pass, and after `steps` optimiser steps that the weights have moved.

    A LoRA's first factor has no gradient while the second one is still zero, and a warm-up may begin at a learning rate
    of 0, so moving takes up to three steps.

    Args:
        steps: optimiser steps after which every weight must differ from where it began.
    """

    def __init__(self, *, steps: int) -> None:
        self.steps = steps
        self._before: dict[str, Tensor] = {}

    def on_before_optimizer_step(self, trainer: L.Trainer, pl_module: L.LightningModule, optimizer: Any) -> None:
        if trainer.global_step > 0 or self._before:
            return
        trained = {name: p for name, p in pl_module.named_parameters() if p.requires_grad}
        if not trained:
            raise RuntimeError("nothing trains: no parameter requires a gradient")
        if without := [name for name, p in trained.items() if p.grad is None]:
            raise RuntimeError(f"{len(without)} parameters got no gradient in the first step, {without[0]} is one")
        self._before = {name: p.detach().clone() for name, p in trained.items()}

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *args: Any) -> None:
        if trainer.global_step != self.steps or not self._before:
            return
        parameters = dict(pl_module.named_parameters())
        still = [name for name, before in self._before.items() if torch.equal(before, parameters[name])]
        self._before = {}
        if still:
            raise RuntimeError(f"{len(still)} parameters did not move in {self.steps} steps, {still[0]} is one")

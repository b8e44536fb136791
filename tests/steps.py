"""Records of a training step with hand-made numbers in them, for the tests of plug-ins."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from diffusers import DDPMScheduler
from torch import Tensor

from callbacks.step import ClassificationStep, DiffusionStep, ModelPass
from models.capture import Captured
from models.noise_process import Epsilon


def diffusion_step(
    prediction: Tensor,
    *,
    reference: Tensor | None = None,
    target: Tensor | None = None,
    captured: Mapping[str, Tensor] | None = None,
    reference_captured: Mapping[str, Tensor] | None = None,
    recorded: Mapping[str, Captured[Any]] | None = None,
    reference_recorded: Mapping[str, Captured[Any]] | None = None,
    **fields: Any,
) -> DiffusionStep:
    """A step whose every row is the subject's, at t = 0 with target 0, unless said otherwise.

    Args:
        captured, reference_captured: outputs, where a plug-in reads them by full name.
        recorded, reference_recorded: further fields of the two `ModelPass`es.
    """
    rows = len(prediction)
    fields = {
        "t": torch.zeros(rows),
        "snr": torch.ones(rows),
        "noise_process": Epsilon(DDPMScheduler()),
        "num_instance": rows,
    } | fields
    if reference is not None:
        fields["reference"] = _forward(reference, reference_captured, reference_recorded)
    return DiffusionStep(
        student=_forward(prediction, captured, recorded),
        target=torch.zeros_like(prediction) if target is None else target,
        **{"reference": None} | fields,
    )


def with_losses(losses: Sequence[float], *, channels: int = 1) -> Tensor:
    """Predictions `[B, channels, 2, 2]` whose denoising losses against a target of 0 are `losses`."""
    return torch.tensor(losses).sqrt()[:, None, None, None].expand(-1, channels, 2, 2).clone()


def middles(timesteps: Sequence[int], *, num_steps: int = 1000) -> Tensor:
    """Times `t` in the middle of these steps of a discrete schedule, as they are drawn."""
    return (torch.tensor(timesteps) + 0.5) / num_steps


def step_of_losses(
    student: Sequence[float],
    reference: Sequence[float],
    timesteps: Sequence[int],
    *,
    num_steps: int = 1000,
    **fields: Any,
) -> DiffusionStep:
    """A step in which student and frozen model have these losses at these timesteps of a schedule."""
    t = middles(timesteps, num_steps=num_steps)
    return diffusion_step(with_losses(student), reference=with_losses(reference), t=t, **fields)


def classification_step(
    logits: Tensor,
    *,
    captured: Mapping[str, Tensor] | None = None,
    reference_captured: Mapping[str, Tensor] | None = None,
    recorded: Mapping[str, Captured[Any]] | None = None,
    reference_recorded: Mapping[str, Captured[Any]] | None = None,
    **fields: Any,
) -> ClassificationStep:
    """A step of unmixed pictures with one prefix token, all of class 0, unless said otherwise.

    Args:
        captured, reference_captured: outputs, where a plug-in reads them by full name.
        recorded, reference_recorded: further fields of the two `ModelPass`es.
    """
    fields = {"labels": torch.zeros(len(logits), dtype=torch.int64), "num_prefix_tokens": 1, "reference": None} | fields
    if reference_captured is not None or reference_recorded is not None:
        fields["reference"] = _forward(torch.zeros(len(logits), 1, 1), reference_captured, reference_recorded)
    return ClassificationStep(student=_forward(logits, captured, recorded), **fields)


def _forward(
    prediction: Tensor, captured: Mapping[str, Tensor] | None, recorded: Mapping[str, Captured[Any]] | None
) -> ModelPass:
    return ModelPass(prediction, **{"captured": Captured(captured)} | dict(recorded or {}))

"""The denoising loss of diffusion models (arXiv:2006.11239, eq. 14), the primary term of every baseline and of APT."""

from typing import ClassVar

from torch import Tensor

from callbacks.regularizer import Regularizer
from callbacks.step import DiffusionStep, TermOutput


def denoising_loss(prediction: Tensor, target: Tensor, mask: Tensor | None = None) -> Tensor:
    """Mean squared error of each row, `[B]`, in float32 whatever the inputs are.

    A rounding error of 1e-3 in the difference of two such losses is a γ of 0.6, so both are upcast before subtracting.

    Args:
        prediction, target: `[B, …]`.
        mask: `[B, 1, …]` in [0, 1]: a weighted mean over what it shows; a row that shows nothing has loss 0.
    """
    error = (prediction.float() - target.float()).square()
    if mask is None:
        return error.flatten(1).mean(1)
    weight = mask.float().expand_as(error).flatten(1)
    return (error.flatten(1) * weight).sum(1) / weight.sum(1).clamp(min=1e-6)


class Denoising(Regularizer):
    """Mean over the subject's rows of `denoising_loss`, each times its sample weight."""

    primary: ClassVar[bool] = True
    step_type: ClassVar[type] = DiffusionStep

    def loss(self, step: DiffusionStep) -> TermOutput:
        rows = instance_loss(step)
        return TermOutput(rows.mean() if step.sample_weight is None else (step.sample_weight * rows).mean())


def instance_loss(step: DiffusionStep) -> Tensor:
    """`ℓ_θ` of the subject's rows, `[num_instance]`."""
    return step.once("instance_loss", lambda: denoising_loss(*_rows(step, step.student.prediction)))


def reference_loss(step: DiffusionStep) -> Tensor:
    """`ℓ_ref` of the subject's rows, `[num_instance]`, on the same noisy latents."""
    reference = step.reference
    assert reference is not None
    return step.once("reference_loss", lambda: denoising_loss(*_rows(step, reference.prediction)))


def _rows(step: DiffusionStep, prediction: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
    rows = slice(step.num_instance)
    return prediction[rows], step.target[rows], None if step.mask is None else step.mask[rows]

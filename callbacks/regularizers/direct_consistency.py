"""Direct consistency (DCO, arXiv:2402.12004): learn the subject and stay near the pretrained model."""

from typing import ClassVar

from torch import Tensor
from torch.nn import functional as F

from callbacks.regularizer import Regularizer
from callbacks.regularizers.denoising import instance_loss, reference_loss
from callbacks.step import DiffusionStep, Needs, TermOutput


def direct_consistency_loss(student: Tensor, reference: Tensor, *, beta: float, weight: Tensor | None = None) -> Tensor:
    """`−log σ(−β d)` of each row, `[B]` in float32, with `d` the student's denoising loss minus the frozen model's.

    The official code averages `d` over the batch inside the sigmoid, so that its loss depends on the batch size; per
    sample is not stated in the sources. The gradient is `β σ(β d)` times the denoising loss's, β/2 where `d` is 0.

    Args:
        student, reference: denoising losses `[B]` on the same noisy latents.
        beta: β, 1000 to 2000 on SDXL in DCO.
        weight: `[B]`, multiplies `d` inside the sigmoid (min-SNR in the official code).
    """
    difference = student.float() - reference.float()
    if weight is not None:
        difference = weight * difference
    return F.softplus(beta * difference)


class DirectConsistency(Regularizer):
    """Mean of `direct_consistency_loss` over the subject's rows, in place of `denoising`.

    Where the student fits a row better than the frozen model does, that row's gradient fades, as it does under APT's
    indicator; so nothing else may weight the rows.

    Args:
        beta: β; it belongs to the scale of the model's loss.
        min_snr_gamma: γ of min-SNR on `d`, 5 in its paper; None leaves it out.
    """

    primary: ClassVar[bool] = True
    takes_sample_weight: ClassVar[bool] = False
    step_type: ClassVar[type] = DiffusionStep
    needs = Needs(reference=True)

    def __init__(self, *, weight: float, beta: float, min_snr_gamma: float | None) -> None:
        super().__init__(weight=weight)
        if beta <= 0:
            raise ValueError(f"regularizer.direct_consistency.beta={beta}: must be above 0")
        self.beta, self.min_snr_gamma = beta, min_snr_gamma

    def loss(self, step: DiffusionStep) -> TermOutput:
        student, reference = instance_loss(step), reference_loss(step)
        weight = None
        if self.min_snr_gamma is not None:
            snr = step.snr[: step.num_instance]
            weight = step.noise_process.min_snr_weight(snr, gamma=self.min_snr_gamma)
        rows = direct_consistency_loss(student, reference, beta=self.beta, weight=weight)
        return TermOutput(rows.mean(), {"difference": (student - reference).mean().detach()})

"""Representation stabilisation of APT (arXiv:2507.02687): keep the decoder's features where they were."""

from typing import ClassVar

import torch
from torch import Tensor

from callbacks.regularizer import Regularizer
from callbacks.step import DiffusionStep, Needs, TermOutput


def channel_statistics_loss(student: Tensor, reference: Tensor) -> tuple[Tensor, Tensor]:
    """`L_μ` and `L_σ`: squared distances between the channel-wise means and standard deviations of two feature maps.

    The statistics are over the spatial tokens, the squared error is averaged over channels and rows, in float32. The
    terms are APT's; which means are taken is not stated in the sources.

    Args:
        student, reference: `[rows, tokens, channels]`.
    """
    student_mean, student_std = _statistics(student)
    reference_mean, reference_std = _statistics(reference)
    return (student_mean - reference_mean).square().mean(), (student_std - reference_std).square().mean()


def _statistics(features: Tensor) -> tuple[Tensor, Tensor]:
    features = features.float()
    variance, mean = torch.var_mean(features, dim=1, correction=0)
    return mean, (variance + 1e-8).sqrt()  # the root of 0 has no gradient


class RepresentationStabilization(Regularizer):
    """`L_μ + L_σ`, averaged over the captured sites, between student and frozen model on the same input.

    Args:
        weight: `λ_dist`; not stated in the sources.
        sites: submodules whose outputs `[rows, tokens, channels]` are compared, by the family's symbolic names or by
            glob patterns. APT's figure shows the output of self-attention in the UNet's decoder half, "decoder_self".
    """

    step_type: ClassVar[type] = DiffusionStep

    def __init__(self, *, weight: float, sites: list[str]) -> None:
        super().__init__(weight=weight)
        self.needs = Needs(reference=True, sites=frozenset(sites))

    def loss(self, step: DiffusionStep) -> TermOutput:
        assert step.reference is not None
        references = step.reference.captured.at(self.needs.sites)
        terms = [
            torch.stack(channel_statistics_loss(student[: step.num_instance], references[site]))
            for site, student in step.student.captured.at(self.needs.sites).items()
        ]
        mean, std = torch.stack(terms).mean(0)
        return TermOutput(mean + std, {"mean": mean.detach(), "std": std.detach()})

"""Prior preservation (DreamBooth, arXiv:2208.12242, eq. 2): go on denoising what the base model drew."""

from typing import ClassVar

from callbacks.regularizer import Regularizer
from callbacks.regularizers.denoising import denoising_loss
from callbacks.step import DiffusionStep, Needs, TermOutput
from checks.values import at_least


class PriorPreservation(Regularizer):
    """Mean denoising loss over the class images, which the pretrained model draws once before training.

    Args:
        weight: factor λ of the term.
        num_class_images: how many pictures of the bare class are drawn and kept in the cache.
    """

    step_type: ClassVar[type] = DiffusionStep

    def __init__(self, *, weight: float, num_class_images: int) -> None:
        super().__init__(weight=weight)
        at_least("regularizer.prior_preservation.num_class_images", num_class_images, 1)
        self.needs = Needs(class_images=num_class_images)

    def loss(self, step: DiffusionStep) -> TermOutput:
        rows = slice(step.num_instance, None)
        return TermOutput(denoising_loss(step.student.prediction[rows], step.target[rows]).mean())

"""Feature distillation: keep the [CLS] feature where the pretrained model has it."""

from typing import ClassVar

from torch import Tensor
from torch.nn import functional as F

from callbacks.regularizer import Regularizer
from callbacks.step import ClassificationStep, Needs, TermOutput


def feature_distance(student: Tensor, source: Tensor) -> Tensor:
    """`mean_B ‖f − f⁰‖² / D`, a scalar in float32. That it is divided by `D` is not stated in the sources.

    Args:
        student, source: `[B, D]`.
    """
    return F.mse_loss(student.float(), source.float())


class FeatureDistillation(Regularizer):
    """`feature_distance` between student and pretrained model, of the [CLS] tokens after the final norm.

    Written for a `ClassificationStep`.

    Args:
        weight: not stated in the sources.
    """

    step_type: ClassVar[type] = ClassificationStep

    needs = Needs(reference=True, sites=frozenset({"norm"}))

    def __init__(self, *, weight: float) -> None:
        super().__init__(weight=weight)

    def loss(self, step: ClassificationStep) -> TermOutput:
        assert step.reference is not None
        return TermOutput(feature_distance(step.student.captured["norm"][:, 0], step.reference.captured["norm"][:, 0]))

"""L2-SP (arXiv:1802.01483): weight decay towards the pretrained weights instead of towards 0."""

from typing import ClassVar

from torch import Tensor, as_tensor

from callbacks.regularizer import Regularizer
from callbacks.step import ClassificationStep, Needs, TermOutput, Weights


def l2sp_penalty(weights: Weights, *, alpha: float, beta: float) -> Tensor:
    """`α/2 ‖w − w⁰‖² + β/2 ‖w_head‖²`, L2-SP's penalty with the norm over all weights, a scalar in float32.

    Args:
        weights: backbone and head; what is frozen is not in there.
        alpha: strength for the backbone.
        beta: strength for the head, which has no pretrained weights.
    """
    moved = sum((now.float() - weights.source[name].float()).square().sum() for name, now in weights.student.items())
    head = sum(weight.float().square().sum() for weight in weights.head.values())
    return as_tensor(alpha / 2 * moved + beta / 2 * head)


class L2SP(Regularizer):
    """`l2sp_penalty` of the weights before the step. Set `optimizer.weight_decay=0`: this takes its place.

    Written for a `ClassificationStep`.

    Args:
        weight: factor of both parts.
        alpha, beta: see `l2sp_penalty`; the paper searches them, 0.01 is common.
    """

    step_type: ClassVar[type] = ClassificationStep

    needs = Needs(weights=True)

    def __init__(self, *, weight: float, alpha: float, beta: float) -> None:
        super().__init__(weight=weight)
        self.alpha, self.beta = alpha, beta

    def loss(self, step: ClassificationStep) -> TermOutput:
        assert step.weights is not None
        return TermOutput(l2sp_penalty(step.weights, alpha=self.alpha, beta=self.beta))

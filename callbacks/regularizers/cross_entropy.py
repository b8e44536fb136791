"""Cross-entropy, the primary term of every classifier; of a mixed picture (CutMix, mixup) with both of its labels."""

from typing import ClassVar

from torch import Tensor
from torch.nn import functional as F

from callbacks.regularizer import Regularizer
from callbacks.step import ClassificationStep, TermOutput
from checks.values import share


def mixed_cross_entropy(
    logits: Tensor, labels: Tensor, partner_labels: Tensor, share: Tensor, *, label_smoothing: float
) -> Tensor:
    """Cross-entropy of each row against `share` of its label and the rest of its partner's, `[B]`, in float32.

    Args:
        logits: `[B, classes]`.
        labels, partner_labels: int64 `[B]`.
        share: `[B]` in [0, 1].
        label_smoothing: in [0, 1].
    """
    own, partner = (
        F.cross_entropy(logits.float(), each, reduction="none", label_smoothing=label_smoothing)
        for each in (labels, partner_labels)
    )
    return share * own + (1 - share) * partner


class CrossEntropy(Regularizer):
    """Mean cross-entropy of the rows, each times its sample weight; a mixed row's labels count by area (CutMix).

    Args:
        label_smoothing: in [0, 1]; 0 is plain cross-entropy.
    """

    primary: ClassVar[bool] = True
    step_type: ClassVar[type] = ClassificationStep

    def __init__(self, *, weight: float, label_smoothing: float) -> None:
        super().__init__(weight=weight)
        share("regularizer.cross_entropy.label_smoothing", label_smoothing)
        self.label_smoothing = label_smoothing

    def loss(self, step: ClassificationStep) -> TermOutput:
        rows = self.rows(step)
        return TermOutput((rows if step.sample_weight is None else step.sample_weight * rows).mean())

    def rows(self, step: ClassificationStep) -> Tensor:
        """The loss of each row, `[B]`."""
        logits = step.student.prediction
        if step.mixing is None:
            return F.cross_entropy(logits.float(), step.labels, reduction="none", label_smoothing=self.label_smoothing)
        partner_labels = step.labels[step.mixing.partner]
        share = self.share(step)
        return mixed_cross_entropy(logits, step.labels, partner_labels, share, label_smoothing=self.label_smoothing)

    def share(self, step: ClassificationStep) -> Tensor:
        """How much of each mixed row's label counts, `[B]` in [0, 1]."""
        assert step.mixing is not None
        return step.mixing.mask.flatten(1).mean(1)

"""A mean over pictures, right under several processes."""

import torch
from torch import Tensor
from torchmetrics import Metric

from metrics.picture_metric import BackboneMetric


class MeanMetric(Metric):
    """A mean whose sums are added up over processes, in float64."""

    full_state_update = False
    is_differentiable = False
    total: Tensor
    count: Tensor

    def __init__(self) -> None:
        super().__init__()
        for state in ("total", "count"):
            self.add_state(state, torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")

    def add(self, mean: Tensor, *, count: int) -> None:
        """Takes the mean of `count` more values."""
        self.total += count * mean.cpu()
        self.count += count

    def compute(self) -> Tensor:
        return self.total / self.count


class MeanBackboneMetric(BackboneMetric, MeanMetric):
    """A mean over pictures of what one backbone sees.

    Args:
        backbone, weights: see `checks.backbones.backbone_source`.
    """

    def __init__(self, *, backbone: str, weights: str | None) -> None:
        super().__init__(backbone, weights)

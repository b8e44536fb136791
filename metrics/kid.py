"""KID: the squared maximum mean discrepancy of pictures' features."""

import warnings

import torch
from torch import Tensor
from torchmetrics.image.kid import KernelInceptionDistance

from metrics.picture_distribution import DistributionMetric


class KID(DistributionMetric, KernelInceptionDistance):
    """Kernel distance (arXiv:1801.01401) of torchmetrics, mean over random subsets.

    Compare it with figures of this project alone; see `FID`.

    Args:
        backbone, weights: see `checks.backbones.backbone_source`.
        real: a folder of pictures.
        num_features: of the backbone; 2048 of Inception.
        subset_size: pictures of either side in a subset.
        seed: of the subsets.
    """

    name = "kid"

    def __init__(
        self, *, backbone: str, weights: str | None, real: str, num_features: int, subset_size: int, seed: int
    ) -> None:
        with warnings.catch_warnings(action="ignore"):  # that embeddings are kept, which they are anyway
            super().__init__(backbone, weights, real, num_features, at_least=subset_size, subset_size=subset_size)
        self.seed = seed

    def compute(self) -> Tensor:  # type: ignore[override]
        """The mean over the subsets; torchmetrics gives their standard deviation as well."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            mean, _ = super().compute()
        return mean

"""FID: the distance of two Gaussians that pictures' features are taken for."""

from torchmetrics.image.fid import FrechetInceptionDistance

from metrics.picture_distribution import DistributionMetric


class FID(DistributionMetric, FrechetInceptionDistance):
    """Fréchet distance (arXiv:1706.08500) of torchmetrics, in any backbone's features.

    Compare it with figures of this project alone: pictures are brought to the backbone's size as its transform says,
    which moves the distance, also with Inception.

    The covariance of fewer pictures than features is singular and the figure biased: they are refused.

    Args:
        backbone, weights: see `checks.backbones.backbone_source`.
        real: a folder of pictures.
        num_features: of the backbone; 2048 of Inception.
    """

    name = "fid"

    def __init__(self, *, backbone: str, weights: str | None, real: str, num_features: int) -> None:
        super().__init__(backbone, weights, real, num_features, at_least=num_features + 1)

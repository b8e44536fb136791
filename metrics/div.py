"""DIV, diversity: how much the pictures of one prompt differ."""

from collections.abc import Callable
from itertools import combinations, groupby
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torchmetrics.image import LearnedPerceptualImagePatchSimilarity
from torchvision.models import get_model_weights
from torchvision.transforms.v2.functional import to_dtype, to_image

from datamodules.subject import Subject
from metrics.checkpoint_hash import checkpoint_hash
from metrics.embeddings import Embeddings
from metrics.mean_metric import MeanMetric
from metrics.picture_metric import Drawn, PictureMetric

NETWORKS = {"alex": "alexnet", "vgg": "vgg16", "squeeze": "squeezenet1_1"}
Distance = Callable[[Tensor, Tensor], Tensor]


def mean_pairwise_distance(pictures: Tensor, distance: Distance) -> Tensor:
    """Mean of `distance` over all pairs of different rows of `pictures` `[N, …]`, N at least 2.

    With LPIPS it is DIV of DreamBooth (arXiv:2208.12242, section 4.3).

    Args:
        distance: of rows `[P, …]` and `[P, …]`, `[P]` or `[P, 1, …]`.
    """
    first, second = zip(*combinations(range(len(pictures)), 2), strict=True)
    return distance(pictures[list(first)], pictures[list(second)]).mean()


class DIV(PictureMetric, MeanMetric):
    """Mean over the prompts of `mean_pairwise_distance` by LPIPS (arXiv:1801.03924), at the size that was drawn.

    Under several processes each updates with prompts of its own. Real pictures have no figure; see `no_reference`.

    Args:
        net: "alex", "vgg" or "squeeze", torchvision's weights under LPIPS.

    Raises:
        ValueError: another `net`.
    """

    name = "div"
    no_reference = "no two real pictures show one prompt at the size that is drawn"
    higher_is_better = True

    def __init__(self, *, net: str) -> None:
        if net not in NETWORKS:
            raise ValueError(f"net={net} of div: choose one of {', '.join(NETWORKS)}")
        super().__init__()
        self.net = net

    @property
    def model_name(self) -> str:
        return f"lpips_{self.net}"

    @property
    def file(self) -> Path:
        """Where torchvision keeps the network's weights."""
        url = get_model_weights(NETWORKS[self.net]).DEFAULT.url
        return Path(torch.hub.get_dir(), "checkpoints", Path(url).name)

    def check(self, *, num_pictures: int, images_per_prompt: int) -> None:
        """Refuses single pictures, and torchvision's weights where they are not here yet; see `PictureMetric.check`."""
        if images_per_prompt < 2:
            raise ValueError("div compares the pictures of one prompt: set evaluation.images_per_prompt to 2 or more")
        if not self.file.is_file():
            name = NETWORKS[self.net]
            raise FileNotFoundError(
                f"div needs torchvision's {name}, and {self.file} is not there: where there is a network, run "
                f"python -c \"import torchvision; torchvision.models.{name}(weights='DEFAULT')\", or leave div out"
            )

    def update(self, pictures: Tensor, distance: Distance) -> None:
        """Takes the pictures of one prompt, `[N, 3, H, W]` in [-1, 1]."""
        self.add(mean_pairwise_distance(pictures, distance), count=1)

    def look(self, drawn: Drawn, subject: Subject, embeddings: Embeddings) -> int:
        net: Any = self.net  # one of three, as was checked
        lpips = LearnedPerceptualImagePatchSimilarity(net_type=net).net.to(embeddings.device)
        pairs = zip(drawn.prompts, drawn.pictures, strict=True)
        for _, group in groupby(pairs, key=lambda pair: pair[0]):
            pictures = torch.stack([to_dtype(to_image(picture), scale=True) for _, picture in group])
            with torch.no_grad():
                self.update(pictures.to(embeddings.device) * 2 - 1, lpips)
        return len(drawn.pictures)

    def describe(self, subject: Subject, embeddings: Embeddings) -> dict[str, Any]:
        return {
            "description": f"mean LPIPS ({self.net}) over the pairs of pictures of one prompt, mean over the prompts",
            "model": f"torchmetrics' LPIPS on torchvision's {NETWORKS[self.net]}",
            "checkpoint": checkpoint_hash(self.file),
            "transform": "none: [-1, 1] at the size that was drawn",
            "pairing": "every two pictures of one prompt",
        }

"""What FID and KID share: the pictures of a folder, which a model's pictures are compared with as a whole."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from datamodules.pictures import check_picture, picture_files, read_picture, reason
from datamodules.subject import Subject
from metrics.backbone import Backbone
from metrics.embeddings import Embeddings
from metrics.picture_metric import BackboneMetric, Drawn


class Given(nn.Module):
    """Stands for torchmetrics' feature extractor, which is fed with embeddings `[N, num_features]` here."""

    def __init__(self, num_features: int) -> None:
        super().__init__()
        self.num_features = num_features

    def forward(self, embeddings: Tensor) -> Tensor:
        return embeddings


class DistributionMetric(BackboneMetric):
    """A distance of all that is drawn to the pictures in the folder `real`; lower is better.

    Args:
        real: a folder of pictures.
        num_features: of the backbone.
        at_least: pictures on either side.
    """

    higher_is_better = False
    no_reference = "a subject has fewer real pictures than a distribution is estimated from"

    def __init__(
        self, backbone: str, weights: str | None, real: str, num_features: int, at_least: int, **kwargs: Any
    ) -> None:
        super().__init__(backbone, weights, feature=Given(num_features), **kwargs)
        self.real, self.num_features, self.at_least = real, num_features, at_least
        self._pictures: list[Any] = []

    def check(self, *, num_pictures: int, images_per_prompt: int) -> None:
        """Also refuses broken or too few pictures, and features of another number; see `PictureMetric.check`."""
        files = picture_files(Path(self.real).expanduser(), key=f"evaluation.metrics.{self.name}.real")
        for path in files:
            try:
                check_picture(path)
            except Exception as error:  # whatever Pillow raises on broken bytes
                raise ValueError(f"{path}, of real={self.real}, cannot be read ({reason(error)}): remove it") from error
        for count, what, mend in (
            (num_pictures, "are drawn", "raise evaluation.images_per_prompt or max_prompts"),
            (len(files), f"lie in real={self.real}", "give a folder of more"),
        ):
            if count < self.at_least:
                raise ValueError(
                    f"{self.name} by {self.backbone} needs {self.at_least} pictures, and {count} {what}: {mend}, or "
                    "leave it out"
                )
        super().check(num_pictures=num_pictures, images_per_prompt=images_per_prompt)
        found = Backbone(backbone=self.backbone, weights=self.weights, device=torch.device("cpu")).num_features
        if found != self.num_features:
            raise ValueError(
                f"num_features={self.num_features} of {self.name}: {self.backbone} has {found}, "
                f"set num_features={found}"
            )

    def look(self, drawn: Drawn, subject: Subject, embeddings: Embeddings) -> int:
        if not self._pictures:
            self._pictures = [read_picture(path) for path in picture_files(Path(self.real).expanduser())]
        self.update(self.embed(embeddings, self._pictures), real=True)
        self.update(self.embed(embeddings, drawn.pictures), real=False)
        return len(drawn.pictures)

    def describe(self, subject: Subject, embeddings: Embeddings) -> dict[str, Any]:
        return {
            "description": f"{self.name.upper()} to the pictures in {self.real}, features of {self.backbone}",
            **self.describe_backbone(embeddings),
            "pairing": f"all that was drawn with all pictures in {self.real}",
            "compared_with": len(self._pictures),
        }

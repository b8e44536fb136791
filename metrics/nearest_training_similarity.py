"""Nearest training similarity: whether pictures are copies of those that were trained on."""

from typing import Any

from torch import Tensor

from datamodules.subject import Subject
from metrics.cosines import cosines
from metrics.embeddings import Embeddings
from metrics.mean_metric import MeanBackboneMetric
from metrics.picture_metric import Drawn


def nearest_training_similarity(generated: Tensor, training: Tensor) -> Tensor:
    """`[N]`: the largest cosine in [-1, 1] of each row of `generated` `[N, D]` to the rows of `training` `[M, D]`.

    1 for a copy. A figure of ours, not stated in the sources.
    """
    return cosines(generated, training).amax(1)


class NearestTrainingSimilarity(MeanBackboneMetric):
    """Mean of `nearest_training_similarity` over the pictures; of real pictures, over the held-out ones.

    Under several processes each updates with its share of the generated pictures, and with all training pictures.

    Args:
        backbone, weights: see `checks.backbones.backbone_source`.
    """

    name = "nearest_training_similarity"
    no_reference = "no pictures are held out, and each training picture is its own nearest one"
    higher_is_better = False

    def update(self, generated: Tensor, training: Tensor) -> None:
        """Takes embeddings `[N, D]` and `[M, D]`."""
        self.add(nearest_training_similarity(generated, training).mean(), count=len(generated))

    def look(self, drawn: Drawn, subject: Subject, embeddings: Embeddings) -> int:
        training = self.embed(embeddings, [each.image for each in subject.train])
        self.update(self.embed(embeddings, drawn.pictures), training)
        return len(drawn.pictures)

    def look_at_real(self, subject: Subject, embeddings: Embeddings) -> int:
        if subject.heldout:
            heldout = [each.image for each in subject.heldout]
            self.look(Drawn(pictures=heldout, prompts=(), class_pictures=()), subject, embeddings)
        return len(subject.heldout)

    def describe(self, subject: Subject, embeddings: Embeddings) -> dict[str, Any]:
        return {
            "description": "mean over the pictures of the cosine to the nearest training picture, features of "
            f"{self.backbone}: 1 for copies; real: held-out pictures",
            **self.describe_backbone(embeddings),
            "pairing": "each picture with the training picture nearest to it",
            "compared_with": len(subject.train),
        }

"""Image similarity: how near drawn pictures are to real ones of the subject, in a backbone's features."""

from typing import Any

from torch import Tensor

from datamodules.subject import Subject
from metrics.cosines import cosines
from metrics.embeddings import Embeddings
from metrics.mean_metric import MeanBackboneMetric
from metrics.picture_metric import Drawn


def image_similarity(generated: Tensor, real: Tensor) -> Tensor:
    """Mean cosine in [-1, 1] over all pairs of rows of `generated` `[N, D]` and `real` `[M, D]`.

    With the [CLS] token of DINO ViT-S/16 it is DINO of DreamBooth (arXiv:2208.12242, section 4.1), with CLIP's
    embedding its CLIP-I.
    """
    return cosines(generated, real).mean()


def self_similarity(pictures: Tensor) -> Tensor:
    """Mean cosine in [-1, 1] over the pairs of different rows of `[N, D]`, N at least 2: the ceiling of real pictures.

    That a picture is not compared with itself is not stated in the sources.
    """
    every = cosines(pictures, pictures)
    return (every.sum() - every.trace()) / (len(pictures) * (len(pictures) - 1))


class ImageSimilarity(MeanBackboneMetric):
    """`image_similarity` to the held-out pictures of the subject, or to those it learned from where none are held out.

    Under several processes each updates with its share of the generated pictures, and with all of the real ones.
    Of real pictures: those trained on against the held-out ones, or `self_similarity` where there are none.

    Args:
        backbone, weights: see `checks.backbones.backbone_source`.
    """

    name = "image_similarity"
    no_reference = "no pictures are held out, and a single training picture has no other to be compared with"
    higher_is_better = True

    def update(self, generated: Tensor, real: Tensor | None) -> None:
        """Takes embeddings `[N, D]` and `[M, D]`; None for `self_similarity` of the first, N at least 2."""
        if real is None:
            self.add(self_similarity(generated), count=len(generated) * (len(generated) - 1))
            return
        self.add(image_similarity(generated, real), count=len(generated) * len(real))

    def look(self, drawn: Drawn, subject: Subject, embeddings: Embeddings) -> int:
        real = [each.image for each in subject.heldout or subject.train]
        self.update(self.embed(embeddings, drawn.pictures), self.embed(embeddings, real))
        return len(drawn.pictures)

    def look_at_real(self, subject: Subject, embeddings: Embeddings) -> int:
        train = self.embed(embeddings, [each.image for each in subject.train])
        if subject.heldout:
            self.update(train, self.embed(embeddings, [each.image for each in subject.heldout]))
        elif len(train) > 1:
            self.update(train, None)
        else:
            return 0
        return len(train)

    def describe(self, subject: Subject, embeddings: Embeddings) -> dict[str, Any]:
        target = "held-out" if subject.heldout else "training"
        return {
            "description": f"mean cosine to the {target} pictures, features of {self.backbone}; real: training pictures"
            + ("" if subject.heldout else ", each to the others"),
            **self.describe_backbone(embeddings),
            "pairing": f"every picture with every {target} picture",
            "compared_with": len(subject.heldout or subject.train),
        }

"""PRES, prior preservation: how near pictures of the bare class prompt are to the subject. High: the class is lost."""

from typing import Any

from datamodules.subject import Subject
from metrics.embeddings import Embeddings
from metrics.image_similarity import ImageSimilarity
from metrics.picture_metric import Drawn


class PRES(ImageSimilarity):
    """`image_similarity` of pictures of the bare class prompt to all real pictures (DreamBooth, arXiv:2208.12242).

    The class has collapsed onto the subject as far as this is above the base model's figure. Of real pictures it is
    `ImageSimilarity`'s.

    Args:
        backbone, weights: see `checks.backbones.backbone_source`.
        num_class_pictures: to be drawn, at least one.

    Raises:
        ValueError: `num_class_pictures` is below 1.
    """

    name = "pres"
    higher_is_better = False

    def __init__(self, *, backbone: str, weights: str | None, num_class_pictures: int) -> None:
        if num_class_pictures < 1:
            raise ValueError(f"num_class_pictures={num_class_pictures} of pres: at least one picture is looked at")
        super().__init__(backbone=backbone, weights=weights)
        self.num_class_pictures = num_class_pictures

    def look(self, drawn: Drawn, subject: Subject, embeddings: Embeddings) -> int:
        pictures = drawn.class_pictures[: self.num_class_pictures]
        real = [each.image for each in (*subject.train, *subject.heldout)]
        self.update(self.embed(embeddings, pictures), self.embed(embeddings, real))
        return len(pictures)

    def describe(self, subject: Subject, embeddings: Embeddings) -> dict[str, Any]:
        return super().describe(subject, embeddings) | {
            "description": f"mean cosine of pictures of “{subject.class_prompt}” to all real pictures, features of "
            f"{self.backbone}: low where the class is preserved; real: training pictures, as of image_similarity",
            "prompts": subject.class_prompt,
            "template": "the bare class prompt",
            "pairing": "every picture of the class prompt with every real picture",
            "compared_with": len(subject.train) + len(subject.heldout),
        }

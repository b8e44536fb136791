"""Text similarity: how well pictures fit their prompts, by a model that embeds both."""

from typing import Any, ClassVar

from torch import Tensor
from torch.nn import functional as F

from checks.backbones import backbone_source
from datamodules.subject import Subject
from metrics.embeddings import Embeddings
from metrics.mean_metric import MeanBackboneMetric
from metrics.picture_metric import PRIOR_TEMPLATE, Drawn


def text_similarity(pictures: Tensor, prompts: Tensor) -> Tensor:
    """`[N]`: cosine in [-1, 1] of each row of `pictures` `[N, D]` and the same row of `prompts` `[N, D]`.

    Its mean is CLIP-T of DreamBooth (arXiv:2208.12242, section 4.1), without CLIPScore's factor 100 and its floor at 0.
    """
    return F.cosine_similarity(pictures.double(), prompts.double(), dim=1)


class TextSimilarity(MeanBackboneMetric):
    """Mean of `text_similarity`, the prompts with the class word in the place of the subject's identifier.

    Of real pictures: the held-out ones with their own captions, or those trained on where none are held out.

    Args:
        backbone, weights: of an open_clip model, see `checks.backbones.backbone_source`.
    """

    name = "text_similarity"
    higher_is_better = True
    tells_adherence: ClassVar[bool] = True
    """Whether it compares pictures with their prompts, one by one; read off the source by `checks`."""

    def check(self, *, num_pictures: int, images_per_prompt: int) -> None:
        """Also refuses a model that cannot read; see `PictureMetric.check`."""
        if (library := backbone_source(self.backbone, self.weights).library) != "open_clip":
            raise ValueError(f"backbone={self.backbone} is {library}'s, which reads no prompts: take one of open_clip")
        super().check(num_pictures=num_pictures, images_per_prompt=images_per_prompt)

    def update(self, pictures: Tensor, prompts: Tensor) -> None:
        """Takes embeddings `[N, D]` each."""
        self.add(text_similarity(pictures, prompts).mean(), count=len(pictures))

    def look(self, drawn: Drawn, subject: Subject, embeddings: Embeddings) -> int:
        prompts = embeddings.prompts(self.backbone, self.weights, drawn.prompts)
        self.update(self.embed(embeddings, drawn.pictures), prompts)
        return len(drawn.pictures)

    def look_at_real(self, subject: Subject, embeddings: Embeddings) -> int:
        real = subject.heldout or subject.train
        pictures, prompts = [each.image for each in real], [each.prompts.prior for each in real]
        return self.look(Drawn(pictures=pictures, prompts=prompts, class_pictures=()), subject, embeddings)

    def describe(self, subject: Subject, embeddings: Embeddings) -> dict[str, Any]:
        real = "held-out" if subject.heldout else "training"
        return {
            "description": f"mean cosine of picture and prompt with the class word, by {self.backbone}; real: {real} "
            "pictures with their captions",
            **self.describe_backbone(embeddings),
            "template": PRIOR_TEMPLATE,
            "pairing": "each picture with its prompt",
        }

"""What a metric of `evaluation.metrics` is: figures of what a model draws, and how they are described."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from PIL import Image
from torch import Tensor
from torchmetrics import Metric

from checks.backbones import backbone_source, fetch
from datamodules.subject import Subject
from metrics.embeddings import Embeddings

# The `template` of a figure that reads prompts as they stand.
PRIOR_TEMPLATE = "none: the prompts as they are, with the class word in the identifier's place"


@dataclass(frozen=True, kw_only=True, slots=True)
class Drawn:
    """What one model drew, in RGB.

    Args:
        pictures: of the evaluation prompts, the pictures of one prompt side by side.
        prompts: one for each picture, with the class word alone.
        class_pictures: of the bare class prompt; as many as the metrics ask for.
    """

    pictures: Sequence[Image.Image]
    prompts: Sequence[str]
    class_pictures: Sequence[Image.Image]


class PictureMetric(Metric, ABC):
    """A torchmetrics metric that knows which pictures of a run it is about.

    Its file, its class and `name` carry one name; the config may have several of one class, with other backbones.
    Whatever it is fed with lies on the CPU.
    """

    name: ClassVar[str]
    no_reference: ClassVar[str] = "real pictures have no such figure"
    """Why, where `look_at_real` has looked at none; a sentence without its end."""
    num_class_pictures: int = 0

    @property
    @abstractmethod
    def model_name(self) -> str:
        """What the pictures are looked at with: the figure is called `<name>/<model_name>`."""

    @abstractmethod
    def check(self, *, num_pictures: int, images_per_prompt: int) -> None:
        """Whether the figure can be had, asked before training; may download weights.

        Raises:
            ValueError: it cannot, with the reason.
            FileNotFoundError: weights or pictures are missing and cannot be fetched.
        """

    @abstractmethod
    def look(self, drawn: Drawn, subject: Subject, embeddings: Embeddings) -> int:
        """Updates the states with one model's pictures; returns how many."""

    def look_at_real(self, subject: Subject, embeddings: Embeddings) -> int:
        """Updates the states with real pictures of the subject; returns how many, 0 where they have no such figure."""
        return 0

    @abstractmethod
    def describe(self, subject: Subject, embeddings: Embeddings) -> dict[str, Any]:
        """What `metrics.json` says beside the numbers: `description`, `model`, `checkpoint`, `transform`, `pairing`.

        And `template` of a figure that reads prompts; see `evaluation.figures.figure`.
        """


class BackboneMetric(PictureMetric):
    """A `PictureMetric` of the embeddings of one backbone.

    Args:
        backbone, weights: see `checks.backbones.backbone_source`.
        kwargs: of the class that this is mixed into.
    """

    def __init__(self, backbone: str, weights: str | None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.backbone, self.weights = backbone, weights

    @property
    def model_name(self) -> str:
        return backbone_source(self.backbone, self.weights).name

    def check(self, *, num_pictures: int, images_per_prompt: int) -> None:
        """Fetches the weights; see `PictureMetric.check`."""
        fetch(backbone_source(self.backbone, self.weights))

    def embed(self, embeddings: Embeddings, pictures: Sequence[Image.Image]) -> Tensor:
        """`[N, D]`."""
        return embeddings.pictures(self.backbone, self.weights, pictures)

    def describe_backbone(self, embeddings: Embeddings) -> dict[str, Any]:
        """Its name, the hash of its weights, and its transform."""
        backbone = embeddings.backbone(self.backbone, self.weights)
        return {"model": self.backbone, "checkpoint": backbone.checkpoint, "transform": backbone.transform}

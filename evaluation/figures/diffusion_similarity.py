"""The similarity of a run's samples to real pictures in the pretrained diffusion model's own features."""

from collections.abc import Sequence
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from datamodules.subject import Subject
from datamodules.subject_datamodule import picture_tensor, square_tensor
from metrics.image_similarity import image_similarity
from models.family import DiffusionFamily


class DiffusionSimilarity:
    """Mean cosine to the held-out pictures, or to the training pictures where none are held out.

    All features are taken with the pretrained denoiser, or the tuned model would judge itself.
    """

    def __init__(self, model: DiffusionFamily, subject: Subject) -> None:
        self.model = model
        self.target = "held-out" if subject.heldout else "training"
        self._target = self.model.picture_features(picture_tensor(subject.heldout or subject.train, model.resolution))
        self.num_training, self.num_compared_with = len(subject.train), len(subject.heldout or subject.train)
        self.of_training_pictures = self._to_target(picture_tensor(subject.train, model.resolution))

    def __call__(self, pictures: Sequence[Image.Image]) -> float:
        return self._to_target(torch.stack([square_tensor(picture, self.model.resolution) for picture in pictures]))

    def describe(self, checkpoint: dict[str, str | None], *, num_drawn: int) -> dict[str, Any]:
        """What `metrics.json` says of the figure beside its numbers.

        Args:
            checkpoint: the hashes of the pretrained weights.
            num_drawn: pictures of each model.
        """
        return {
            "description": f"mean cosine to the {self.target} pictures, {self.model.features_description}; "
            "real: training pictures",
            "model": self.model.pretrained,
            "checkpoint": checkpoint,
            "transform": self.model.transform,
            "template": "none: the empty prompt beside every picture",
            "pairing": f"every picture with every {self.target} picture",
            "counts": {"tuned": num_drawn, "base": num_drawn, "reference": self.num_training},
            "compared_with": self.num_compared_with,
        }

    def _to_target(self, pictures: Tensor) -> float:
        return float(image_similarity(self.model.picture_features(pictures), self._target))

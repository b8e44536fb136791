"""Image and text similarity along the training: what does not change between two checks is embedded once."""

from collections.abc import Mapping, Sequence

import torch
from PIL import Image
from torch import Tensor

from datamodules.subject import Subject
from evaluation.figures.pictures import figure_name
from metrics.backbone import Backbone
from metrics.image_similarity import ImageSimilarity, image_similarity
from metrics.picture_metric import PictureMetric
from metrics.text_similarity import TextSimilarity, text_similarity


def curve_names(metrics: Mapping[str, PictureMetric], subject: Subject) -> dict[str, ImageSimilarity | TextSimilarity]:
    """Which of `evaluation.metrics` can be had of a few pictures, by name in the logs, as "heldout/text_similarity/…".

    Image similarity is below `train/` where it is that to the training pictures, none being held out.
    """
    found: dict[str, ImageSimilarity | TextSimilarity] = {}
    for metric in metrics.values():
        if isinstance(metric, TextSimilarity):
            found[f"heldout/{figure_name(metric)}"] = metric
        elif isinstance(metric, ImageSimilarity):
            found[f"{'heldout' if subject.heldout else 'train'}/{figure_name(metric)}"] = metric
    return found


class SimilarityCurves:
    """The figures of `curve_names`, of pictures that are drawn again and again for the same prompts.

    On the CPU, as judge and identity are: the accelerator's memory is the training's.

    Args:
        metrics: of `curve_names`.
        prompts: one for each picture, with the class word alone.
        batch_size: pictures or prompts in one call.
    """

    def __init__(
        self,
        metrics: Mapping[str, ImageSimilarity | TextSimilarity],
        subject: Subject,
        prompts: Sequence[str],
        *,
        batch_size: int,
    ) -> None:
        self._metrics, self._batch_size = metrics, batch_size
        real = [each.image for each in subject.heldout or subject.train]
        keys = dict.fromkeys((each.backbone, each.weights) for each in metrics.values())
        self._backbones = {key: Backbone(backbone=key[0], weights=key[1], device=torch.device("cpu")) for key in keys}
        self._targets: dict[str, Tensor] = {}  # what the pictures are compared with, `[prompts or real pictures, D]`
        for name, metric in metrics.items():
            backbone = self._backbones[metric.backbone, metric.weights]
            self._targets[name] = (
                backbone.embed_prompts(prompts, batch_size=batch_size)
                if isinstance(metric, TextSimilarity)
                else backbone.embed(real, batch_size=batch_size)
            )

    def __call__(self, pictures: Sequence[Image.Image]) -> dict[str, list[float]]:
        """Of every picture, by name: their mean is the figure of the final evaluation."""
        rows = {key: each.embed(pictures, batch_size=self._batch_size) for key, each in self._backbones.items()}
        figures = {}
        for name, metric in self._metrics.items():
            of, target = rows[metric.backbone, metric.weights], self._targets[name]
            figures[name] = (
                text_similarity(of, target).tolist()
                if isinstance(metric, TextSimilarity)
                else [float(image_similarity(row[None], target)) for row in of]
            )
        return figures

"""Embeddings that several metrics share: each picture goes through each backbone once."""

from collections.abc import Sequence

import torch
from PIL import Image
from torch import Tensor

from metrics.backbone import Backbone


class Embeddings:
    """Loads a backbone when it is first asked for, and remembers what it made of every picture.

    Args:
        device: that the backbones compute on.
        batch_size: pictures or prompts in one call.
    """

    def __init__(self, *, device: torch.device, batch_size: int) -> None:
        self.device, self.batch_size = device, batch_size
        self._backbones: dict[tuple[str, str | None], Backbone] = {}
        # The picture is kept beside its row: another one could else be given its id.
        self._rows: dict[tuple[str, str | None, int], tuple[Image.Image, Tensor]] = {}

    def backbone(self, backbone: str, weights: str | None) -> Backbone:
        """See `Backbone`."""
        key = backbone, weights
        if key not in self._backbones:
            self._backbones[key] = Backbone(backbone=backbone, weights=weights, device=self.device)
        return self._backbones[key]

    def pictures(self, backbone: str, weights: str | None, pictures: Sequence[Image.Image]) -> Tensor:
        """`[N, D]` of RGB pictures, as `Backbone.embed` gives them."""
        new = {id(picture): picture for picture in pictures if (backbone, weights, id(picture)) not in self._rows}
        if new:
            rows = self.backbone(backbone, weights).embed(list(new.values()), batch_size=self.batch_size)
            for picture, row in zip(new.values(), rows, strict=True):
                self._rows[backbone, weights, id(picture)] = picture, row
        return torch.stack([self._rows[backbone, weights, id(picture)][1] for picture in pictures])

    def prompts(self, backbone: str, weights: str | None, prompts: Sequence[str]) -> Tensor:
        """`[N, D]`, as `Backbone.embed_prompts` gives them."""
        distinct = list(dict.fromkeys(prompts))
        rows = self.backbone(backbone, weights).embed_prompts(distinct, batch_size=self.batch_size)
        return rows[[distinct.index(prompt) for prompt in prompts]]

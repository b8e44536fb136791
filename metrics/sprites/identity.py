"""Identity: whether pictures show the subject, by features in which one object's scenes lie together."""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from numpy.typing import NDArray
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional as F

from metrics.mean_metric import MeanMetric
from metrics.sprites.object_crop import MARGIN, object_crop, object_masks

SIDE = 64  # pixels of a crop
CELLS = 8
Pictures = Sequence[NDArray[np.uint8]]
Masks = Sequence[NDArray[np.bool_] | None]


def within_class_whitening(features: Tensor, *, shrinkage: float) -> tuple[Tensor, Tensor]:
    """Mean `[D]` and matrix `[D, D]` after which what differs among pictures of one object has covariance 1.

    A linear discriminant's first half (Fisher 1936); to use it for identity is not stated in the sources.

    Args:
        features: `[objects, pictures of each, D]`.
        shrinkage: added to the covariance's eigenvalues, as a share of their mean.
    """
    features = features.double()
    within = (features - features.mean(1, keepdim=True)).flatten(0, 1)
    values, vectors = torch.linalg.eigh(within.T @ within / len(within))
    return features.mean((0, 1)), vectors / torch.sqrt(values + shrinkage * values.mean())


class Identity:
    """Cosine in [-1, 1] of the object in pictures to that in reference pictures, in whitened features of its crop.

    The features are the [CLS] tokens of a ViT and the mean colours of a grid over the crop, which tell one pattern from
    another where the ViT does not. Crops and not pictures are compared so that a copied background earns nothing.

    Args:
        vit: folder of a timm ViT.
        layers: blocks whose [CLS] tokens are taken, each normalised.
        mean, whitening: see `within_class_whitening`.
    """

    def __init__(self, vit: str, layers: Sequence[int], mean: Tensor, whitening: Tensor) -> None:
        self.vit, self.layers, self.mean, self.whitening = vit, list(layers), mean, whitening
        self._model: Any = timm.create_model(f"local-dir:{vit}", pretrained=True, num_classes=0).eval()

    @property
    def transform(self) -> str:
        """What an object goes through before the features, in words."""
        side = self._model.patch_embed.img_size[0]
        return (
            f"the object's box with a margin of {MARGIN:.0%}, gray around the object, resized to {SIDE} px; "
            f"for the ViT to {side} px, normalised as it was pretrained"
        )

    def __call__(self, pictures: Pictures, references: Pictures, masks: Masks | None = None) -> Tensor:
        """`[N]`: the mean of `pairwise` over the references."""
        return self.pairwise(pictures, references, masks).mean(1)

    def pairwise(self, pictures: Pictures, references: Pictures, masks: Masks | None = None) -> Tensor:
        """`[N, M]`: each of `pictures` with each of `references`, uint8 `[H, W, 3]`, in float64.

        Where a picture shows several objects, the one whose mean cosine is highest is taken.

        Args:
            masks: the exact masks of `references`, as `embed` takes them.
        """
        found = [(number, mask) for number, picture in enumerate(pictures) for mask in object_masks(picture)]
        objects = self.embed([pictures[number] for number, _ in found], [mask for _, mask in found])
        cosines = objects @ self.embed(references, masks).T
        rows = [[row for row, (owner, _) in enumerate(found) if owner == number] for number in range(len(pictures))]
        return torch.stack([cosines[max(own, key=lambda row: float(cosines[row].mean()))] for own in rows])

    def embed(self, pictures: Pictures, masks: Masks | None = None) -> Tensor:
        """Whitened features of length 1 of the object in each picture, `[N, D]` in float64.

        Args:
            masks: bool `[H, W]` each; None, as a whole or for one picture, takes the largest object found.
        """
        crops = []
        for picture, mask in zip(pictures, masks or [None] * len(pictures), strict=True):
            crops.append(object_crop(picture, object_masks(picture)[0] if mask is None else mask, side=SIDE))
        features = crop_features(self._model, crops, layers=self.layers)
        return F.normalize((features.double() - self.mean) @ self.whitening, dim=1)

    def save_pretrained(self, folder: Path) -> None:
        """Writes `config.json`, with the ViT's folder relative to this one, and `whitening.safetensors`."""
        folder.mkdir(parents=True, exist_ok=True)
        config = {"vit": os.path.relpath(self.vit, folder), "layers": self.layers}
        (folder / "config.json").write_text(json.dumps(config, indent=2))
        tensors = {"mean": self.mean.float(), "whitening": self.whitening.float().contiguous()}
        save_file(tensors, folder / "whitening.safetensors")

    @classmethod
    def from_pretrained(cls, folder: Path) -> "Identity":
        """Reads what `save_pretrained` wrote."""
        tensors = load_file(folder / "whitening.safetensors")
        config = json.loads((folder / "config.json").read_text())
        return cls(
            str((folder / config["vit"]).resolve()),
            config["layers"],
            tensors["mean"].double(),
            tensors["whitening"].double(),
        )


class MeanIdentity(MeanMetric):
    """Mean of `Identity` over pictures.

    Under several processes each updates with its share of the pictures, and has all references.

    Args:
        identity: in whose features.
        references, masks: as `Identity.pairwise` takes them.
    """

    higher_is_better = True

    def __init__(self, identity: Identity, references: Pictures, masks: Masks | None) -> None:
        super().__init__()
        self._identity, self._references, self._masks = identity, references, masks

    def update(self, pictures: Pictures) -> None:
        """Takes pictures `[H, W, 3]`, one at least."""
        self.add(self._identity(pictures, self._references, self._masks).mean(), count=len(pictures))


def crop_features(vit: Any, crops: Pictures, *, layers: Sequence[int]) -> Tensor:
    """`cls_features` of crops `[S, S, 3]` and, behind them, their mean colours on `CELLS` × `CELLS` cells in [0, 1]."""
    colors = torch.from_numpy(np.stack(crops)).permute(0, 3, 1, 2).float() / 255
    side = vit.patch_embed.img_size[0]
    sized = [np.asarray(Image.fromarray(crop).resize((side, side))) for crop in crops]
    return torch.cat([cls_features(vit, sized, layers=layers), F.adaptive_avg_pool2d(colors, CELLS).flatten(1)], 1)


@torch.no_grad()
def cls_features(vit: Any, pictures: Pictures, *, layers: Sequence[int]) -> Tensor:
    """The [CLS] tokens of `layers`, each of length 1, side by side: `[N, layers · D]`."""
    mean, std = (torch.tensor(vit.pretrained_cfg[key]).view(3, 1, 1) for key in ("mean", "std"))
    pixel_values = (torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).float() / 255 - mean) / std
    found = [
        vit.forward_intermediates(
            chunk, indices=list(layers), return_prefix_tokens=True, intermediates_only=True, output_fmt="NLC"
        )
        for chunk in pixel_values.split(256)
    ]
    return torch.cat([torch.cat([F.normalize(prefix[:, 0], dim=1) for _, prefix in each], 1) for each in found])

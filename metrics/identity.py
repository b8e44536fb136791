"""Identity: whether pictures show the subject, by the features of a ViT in which one object's scenes lie together."""

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

Pictures = Sequence[NDArray[np.uint8]]


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
    """Mean cosine in [-1, 1] of pictures to reference pictures, in whitened [CLS] features.

    Args:
        vit: folder of a timm ViT.
        layers: blocks whose [CLS] tokens are taken, each normalised.
        mean, whitening: see `within_class_whitening`.
    """

    def __init__(self, vit: str, layers: Sequence[int], mean: Tensor, whitening: Tensor) -> None:
        self.vit, self.layers, self.mean, self.whitening = vit, list(layers), mean, whitening
        self._model: Any = timm.create_model(f"local-dir:{vit}", pretrained=True, num_classes=0).eval()

    def __call__(self, pictures: Pictures, references: Pictures) -> Tensor:
        """`[N]`, of `pictures` to all `references`; uint8 `[H, W, 3]` each, resized to the ViT's pictures."""
        return (self.embed(pictures) @ self.embed(references).T).mean(1)

    def embed(self, pictures: Pictures) -> Tensor:
        """Whitened features of length 1, `[N, D]` in float64."""
        side = self._model.patch_embed.img_size[0]
        sized = [np.asarray(Image.fromarray(each).resize((side, side))) for each in pictures]
        features = cls_features(self._model, sized, layers=self.layers)
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

"""Frozen models that pictures and prompts are compared with: any of timm, or of open_clip."""

from collections.abc import Callable, Sequence
from typing import Any

import open_clip
import timm
import torch
from PIL import Image
from timm.data import create_transform, resolve_data_config
from torch import Tensor
from torchmetrics.image.fid import FrechetInceptionDistance
from torchvision.transforms import v2

from checks.backbones import BackboneSource, backbone_source, fetch
from metrics.checkpoint_hash import checkpoint_hash

Loaded = tuple[Any, Callable[[Image.Image], Any], Any]  # the model, its transform, its tokenizer where it reads


def dreambooth_transform() -> v2.Compose:
    """DreamBooth's transform for DINO (arXiv:2208.12242, its evaluation code): PIL pictures to `[3, 224, 224]`."""
    return v2.Compose(
        [
            v2.Resize(256, v2.InterpolationMode.BICUBIC),
            v2.CenterCrop(224),
            v2.ToImage(),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),  # of ImageNet
        ]
    )


class Backbone:
    """A frozen model by name or folder, see `backbone_source`; weights of the hub are fetched where they are not here.

    The embedding is what the model gives without a classifier: the [CLS] token after the last norm for a ViT of timm,
    the projected one, before it is normalised, for open_clip. DINO by name has `dreambooth_transform`, DINOv2 as well
    (which is not stated in the sources), and everything else its library's own.

    Args:
        backbone, weights: see `backbone_source`.
        device: that it computes on.
    """

    def __init__(self, *, backbone: str, weights: str | None, device: torch.device) -> None:
        source = backbone_source(backbone, weights)
        self.checkpoint = checkpoint_hash(fetch(source))
        self.name, self.device = source.name, device
        self._model, self._transform, tokenizer = _LOADERS[source.library](source)
        self._tokenizer: Any = tokenizer
        self._model.to(device).eval().requires_grad_(False)

    @property
    def transform(self) -> str:
        """What a picture goes through before the model, in words."""
        steps = getattr(self._transform, "transforms", [self._transform])
        return ", ".join(getattr(step, "__name__", "") or " ".join(repr(step).split()) for step in steps)

    @property
    def reads(self) -> bool:
        """Whether prompts can be embedded as well."""
        return self._tokenizer is not None

    @property
    def num_features(self) -> int:
        """D of `embed`, found by embedding a black picture: the libraries do not name it alike."""
        return self.embed([Image.new("RGB", (64, 64))], batch_size=1).shape[1]

    @torch.no_grad()
    def embed(self, pictures: Sequence[Image.Image], *, batch_size: int) -> Tensor:
        """Embeddings float32 `[N, D]` on the CPU of RGB pictures of any size."""
        encode: Any = getattr(self._model, "encode_image", self._model)
        chunks = (pictures[start : start + batch_size] for start in range(0, len(pictures), batch_size))
        return torch.cat(
            [encode(torch.stack([self._transform(p) for p in chunk]).to(self.device)).float().cpu() for chunk in chunks]
        )

    @torch.no_grad()
    def embed_prompts(self, prompts: Sequence[str], *, batch_size: int) -> Tensor:
        """Embeddings float32 `[N, D]` on the CPU, in the space of the pictures'; open_clip cuts what is too long.

        Raises:
            ValueError: this model cannot read.
        """
        if not self.reads:
            raise ValueError(f"backbone={self.name} reads no prompts: take one of open_clip")
        tokens = self._tokenizer(list(prompts))
        return torch.cat([self._model.encode_text(c.to(self.device)).float().cpu() for c in tokens.split(batch_size)])


def _timm(source: BackboneSource) -> Loaded:
    if source.model.startswith("local-dir:"):
        model = timm.create_model(source.model, pretrained=True, num_classes=0)
        return model, create_transform(**resolve_data_config(model=model), is_training=False), None
    file = {"file": str(fetch(source))}  # in the place of the hub's
    model = timm.create_model(source.model, pretrained=True, num_classes=0, img_size=224, pretrained_cfg_overlay=file)
    return model, dreambooth_transform(), None


def _open_clip(source: BackboneSource) -> Loaded:
    pretrained = None if source.model.startswith("local-dir:") else str(fetch(source))
    model, _, transform = open_clip.create_model_and_transforms(source.model, pretrained=pretrained)
    return model, transform, open_clip.get_tokenizer(source.model)


def _torch_fidelity(source: BackboneSource) -> Loaded:
    metric = FrechetInceptionDistance(feature=2048, feature_extractor_weights_path=str(source.weights))
    # Inception resizes by itself, but a batch is of one size.
    square = v2.Compose([v2.ToImage(), v2.Resize(299, antialias=True), v2.CenterCrop(299)])
    return metric.inception, square, None


_LOADERS: dict[str, Callable[[BackboneSource], Loaded]] = {
    "timm": _timm,
    "open_clip": _open_clip,
    "torch_fidelity": _torch_fidelity,
}

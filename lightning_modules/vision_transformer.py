"""A pretrained ViT of timm as a run needs it: loaded once, with its pictures' size and normalisation."""

from pathlib import Path
from typing import Any, cast

import timm
import torch
from timm.data import resolve_data_config
from torch import Tensor, nn

from lightning_modules.vit_folder import check_vit


class VisionTransformer:
    """Any timm ViT with a [CLS] token and absolute positions.

    Args:
        pretrained: a folder in timm's layout, a name of timm ("vit_small_patch16_224.dino"), or a hub id
            ("hf-hub:timm/vit_small_patch16_224.dino").
        checkpoint: a local .safetensors file for that name, instead of its own weights.
        resolution: side of the pictures in pixels.
        gradient_checkpointing: trade a second forward for memory (non-reentrant).
        compile: run the ViT through torch.compile while training.

    Raises:
        FileNotFoundError: no such folder or file.
        ValueError: the weights are another architecture's, or the model has no [CLS] token.
    """

    def __init__(
        self, *, pretrained: str, checkpoint: str | None, resolution: int, gradient_checkpointing: bool, compile: bool
    ) -> None:
        check_vit(pretrained, checkpoint)
        self.pretrained, self.resolution, self.compile = pretrained, resolution, compile
        name = f"local-dir:{Path(pretrained).expanduser()}" if Path(pretrained).expanduser().is_dir() else pretrained
        # Without a source of its own, timm reads the file, for whichever model.
        overlay = {"source": "", "file": str(Path(checkpoint).expanduser())} if checkpoint else None
        source = f"model.checkpoint={checkpoint}" if checkpoint else f"model.pretrained={pretrained}"
        try:
            vit = timm.create_model(
                name, pretrained=True, pretrained_cfg_overlay=overlay, num_classes=0, img_size=resolution
            )
        except RuntimeError as error:
            message = str(error).split("\n\t")
            raise ValueError(f"{source} does not fit {pretrained}: {' '.join(message[:2])}") from None
        except TypeError as error:
            raise ValueError(f"{source} is no ViT that takes pictures of any size: {error}") from None
        self.vit: Any = cast(Any, vit)  # timm adds to nn.Module what a type checker cannot know
        check_cls_token(self.vit, pretrained)
        if gradient_checkpointing:
            self.vit.set_grad_checkpointing(True)
        config = resolve_data_config(model=self.vit)
        self.mean, self.std = (torch.tensor(config[key]).view(3, 1, 1) for key in ("mean", "std"))
        self.num_prefix_tokens = int(self.vit.num_prefix_tokens)

    def set_classes(self, num_classes: int) -> None:
        """Gives the ViT a new head of so many classes, initialised as timm does; a distilled one has two."""
        self.vit.reset_classifier(num_classes)

    def to(self, device: torch.device | str | None) -> None:
        self.vit.to(device)

    def normalize(self, pictures: Tensor) -> Tensor:
        """uint8 `[B, 3, H, W]` to what this model was pretrained on, float32."""
        return (pictures.float() / 255 - self.mean.to(pictures.device)) / self.std.to(pictures.device)


def heads(vit: Any) -> list[nn.Module]:
    """The classifier, or both of a distilled model's."""
    classifier = vit.get_classifier()
    return list(classifier) if isinstance(classifier, tuple) else [classifier]


def check_cls_token(vit: Any, name: str) -> None:
    """Raises:
    ValueError: `vit` has no [CLS] token in the first place, or does not classify by it.
    """
    if getattr(vit, "cls_token", None) is None or not getattr(vit, "num_prefix_tokens", 0):
        raise ValueError(
            f"model.pretrained={name} has no [CLS] token, whose attention is transferred: take a ViT that has"
        )
    if getattr(vit, "global_pool", "token") != "token":
        raise ValueError(
            f"model.pretrained={name} classifies by {vit.global_pool!r} pooling, not by [CLS]: take a ViT that does"
        )

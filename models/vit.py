"""A pretrained ViT of timm as a run needs it: loaded once, with its pictures' size and normalisation."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, cast

import timm
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file
from timm.data import resolve_data_config
from timm.models import save_for_hf
from timm.models.vision_transformer import checkpoint_filter_fn
from timm.optim import param_groups_layer_decay
from torch import Tensor, nn

from checks.folders import check_vit
from models.attention import matching_attention


class VisionTransformer:
    """Any timm ViT with a [CLS] token, as `models.adapters.Adaptable` asks it.

    Args:
        pretrained: a folder in timm's layout, a name of timm ("vit_small_patch16_224.dino"), or a hub id
            ("hf-hub:timm/vit_small_patch16_224.dino").
        checkpoint: a local .safetensors file for that name, instead of its own weights.
        resolution: side of the pictures in pixels.
        crop_pct: `resolution` over the shorter side that test pictures are resized to, before their central crop.
        gradient_checkpointing: trade a second forward for memory (non-reentrant).
        compile: run the ViT through torch.compile while training.

    Raises:
        FileNotFoundError: no such folder or file.
        ValueError: the weights are another architecture's, or the model has no [CLS] token.
    """

    network_name = "vit"
    lora_targets: ClassVar[tuple[str, ...]] = ("qkv",)

    def __init__(
        self,
        *,
        pretrained: str,
        checkpoint: str | None,
        resolution: int,
        crop_pct: float,
        gradient_checkpointing: bool,
        compile: bool,
    ) -> None:
        check_vit(pretrained, checkpoint)
        self.resolution, self.crop_pct, self.compile = resolution, crop_pct, compile
        name, file = pretrained, Path(checkpoint).expanduser() if checkpoint else None
        if (folder := Path(pretrained).expanduser()).is_dir():
            name, file = f"local-dir:{folder}", file or folder / "model.safetensors"
        try:
            vit = timm.create_model(name, pretrained=file is None, num_classes=0, img_size=resolution)
        except TypeError as error:
            raise ValueError(
                f"model.pretrained={pretrained} is no ViT of timm with positions of its own: {error}"
            ) from None
        self.vit: Any = cast(Any, vit)  # timm adds to nn.Module what a type checker cannot know
        check_cls_token(self.vit, pretrained)
        check_patches(self.vit, resolution)
        if file is not None:
            load_weights(self.vit, file)
        if gradient_checkpointing:
            self.vit.set_grad_checkpointing(True)
        config = resolve_data_config(model=self.vit)
        self.mean, self.std = (torch.tensor(config[key]).view(3, 1, 1) for key in ("mean", "std"))
        self.num_prefix_tokens = int(self.vit.num_prefix_tokens)

    def set_classes(self, classes: Sequence[str]) -> None:
        """Gives the ViT a new head for the named classes, initialised as timm does; a distilled one has two."""
        self.classes = tuple(classes)
        self.vit.reset_classifier(len(self.classes))

    def to(self, device: torch.device | str | None) -> None:
        self.vit.to(device)

    def normalize(self, pictures: Tensor) -> Tensor:
        """uint8 `[B, 3, H, W]` to what this model was pretrained on, in its weights' dtype."""
        if self.mean.device != pictures.device:  # once, not a copy in every step
            self.mean, self.std = self.mean.to(pictures.device), self.std.to(pictures.device)
        normalized = (pictures.float() / 255 - self.mean) / self.std
        return normalized.to(self.vit.patch_embed.proj.weight.dtype)

    @property
    def network(self) -> Any:
        return self.vit

    def heads(self) -> list[nn.Module]:
        return heads(self.vit)

    def add_lora(self, config: LoraConfig) -> None:
        self._peft = get_peft_model(self.vit, config)  # changes `vit` in place, whose names stay as they are

    def save_lora(self, folder: Path) -> None:
        """Loads with `PeftModel.from_pretrained(timm.create_model(…, num_classes=n), folder)`; the head is in it."""
        self._peft.save_pretrained(str(folder), safe_serialization=True)

    def load_lora(self, folder: Path) -> None:
        PeftModel.from_pretrained(self.vit, folder, torch_device="cpu")  # changes `vit` in place

    def save_full(self, folder: Path) -> None:
        """Loads with `timm.create_model("local-dir:<folder>", pretrained=True)`; the classes' names are in it."""
        config = {"label_names": list(self.classes), "num_classes": len(self.classes)}
        save_for_hf(self.vit, str(folder), model_config=config, safe_serialization=True)

    def load_full(self, folder: Path) -> None:
        self.vit.load_state_dict(load_file(folder / "model.safetensors"))


def load_weights(vit: Any, file: Path) -> None:
    """Loads everything but a classifier, after timm's own renaming and resizing of positions.

    timm itself would load what fits and leave the rest random wherever the number of classes differs.

    Raises:
        ValueError: a weight is missing, left over or of another shape, named.
    """
    classifier = vit.pretrained_cfg.get("classifier") or "head"
    prefixes = tuple(f"{each}." for each in ([classifier] if isinstance(classifier, str) else classifier))
    state = checkpoint_filter_fn(load_file(file), vit)
    try:
        vit.load_state_dict({key: value for key, value in state.items() if not key.startswith(prefixes)})
    except RuntimeError as error:
        raise ValueError(f"{file} is of another architecture: {' '.join(str(error).split()[:40])}, …") from None


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


def check_patches(vit: Any, resolution: int) -> None:
    """Raises:
    ValueError: the patches do not cover the picture, or the attention's logits cannot be captured.
    """
    matching_attention(vit, ["blocks.*.attn"])
    side = vit.patch_embed.patch_size[0]
    if resolution % side:
        raise ValueError(f"model.resolution={resolution} is no multiple of this ViT's patches of {side} pixels")


def parameter_groups(
    vit: Any, *, lr: float, weight_decay: float, head_lr_scale: float, layer_decay: float
) -> list[dict[str, Any]]:
    """Groups for a torch optimiser over what trains of `vit`; biases, norms and tokens do not decay, as in timm.

    Args:
        lr: of everything where `layer_decay` is 1.
        weight_decay: of matrices.
        head_lr_scale: the head's learning rate is `lr` times this.
        layer_decay: each block's learning rate is this times that of the block above, as in timm, where the head counts
            as the layer above the topmost block; 1 is none.
    """
    head = {id(parameter) for each in heads(vit) for parameter in each.parameters()}
    kept = vit.no_weight_decay() if hasattr(vit, "no_weight_decay") else ()
    groups = param_groups_layer_decay(
        vit, weight_decay=weight_decay, no_weight_decay_list=kept, layer_decay=layer_decay
    )
    split = []
    for group in groups:
        for is_head, rate in ((False, lr * group["lr_scale"]), (True, lr * head_lr_scale)):
            if parameters := [p for p in group["params"] if (id(p) in head) == is_head]:
                split.append({"params": parameters, "lr": rate, "weight_decay": group["weight_decay"]})
    return split

"""`experiment=pretrain_sprites_clip`: the world's own CLIP, in open_clip's layout."""

from collections.abc import Callable
from typing import Any

import torch
from open_clip import CLIP, ClipLoss
from open_clip.push_to_hf_hub import save_for_hf
from torch import Tensor

from lightning_modules.pretraining.exported import ExportedModule
from lightning_modules.pretraining.tokenizer import build_tokenizer, tokenize


class PretrainCLIPModule(ExportedModule):
    """Trains an open_clip model on pictures and captions of the world, with the contrastive loss of arXiv:2103.00020.

    Loads with `open_clip.create_model_and_transforms("local-dir:<export_dir>")`.

    Args:
        clip: arguments of `open_clip.CLIP`.
        optimizer, lr_scheduler, export_dir: see `ExportedModule`.
    """

    exports = "the CLIP model"

    def __init__(
        self,
        *,
        clip: dict[str, Any],
        optimizer: Callable[..., torch.optim.Optimizer],
        lr_scheduler: Callable[..., Any],
        export_dir: str,
    ) -> None:
        super().__init__(optimizer=optimizer, lr_scheduler=lr_scheduler, export_dir=export_dir)
        self.tokenizer = build_tokenizer(max_length=clip["text_cfg"]["context_length"])
        # Any name will do: open_clip then looks for the tokenizer in the folder itself.
        clip["text_cfg"] |= {"vocab_size": len(self.tokenizer), "hf_tokenizer_name": self.export_dir.name}
        self.config = clip
        self.clip = CLIP(**clip).to(memory_format=torch.channels_last)
        self.clip.visual.image_mean = self.clip.visual.image_std = (0.5, 0.5, 0.5)  # of pictures in [-1, 1]
        self.contrast = ClipLoss()

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        image, text, scale = self.clip(batch["pixel_values"], tokenize(self.tokenizer, batch["captions"]))
        loss: Tensor = self.contrast(image, text, scale)
        self.log("loss/clip", loss, prog_bar=True)
        return loss

    def on_before_zero_grad(self, optimizer: torch.optim.Optimizer) -> None:
        with torch.no_grad():
            self.clip.logit_scale.clamp_(0, torch.log(torch.tensor(100.0)))  # at most 100, as in CLIP

    def export(self) -> None:
        self.clip.to(memory_format=torch.contiguous_format)  # safetensors stores no other
        save_for_hf(self.clip.half(), self.tokenizer, self.config, str(self.export_dir), safe_serialization=True)

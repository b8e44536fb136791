"""`experiment=pretrain_sprites_clip`: the world's own CLIP, in open_clip's layout."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import lightning.pytorch as L
import torch
from open_clip import CLIP, ClipLoss
from open_clip.push_to_hf_hub import save_for_hf
from torch import Tensor

from lightning_modules.pretraining.tokenizer import build_tokenizer, tokenize
from lightning_modules.pretraining.vae import refuse_existing


class PretrainCLIPModule(L.LightningModule):
    """Trains an open_clip model on pictures and captions of the world, with the contrastive loss of arXiv:2103.00020.

    Loads with `open_clip.create_model_and_transforms("local-dir:<export_dir>")`.

    Args:
        clip: arguments of `open_clip.CLIP`.
        optimizer: partial of a torch optimiser over parameters.
        lr_scheduler: partial of a torch scheduler over an optimiser.
        export_dir: folder of the model; must not hold one yet.
    """

    kind: ClassVar[str] = "pretraining"

    def __init__(
        self,
        *,
        clip: dict[str, Any],
        optimizer: Callable[..., torch.optim.Optimizer],
        lr_scheduler: Callable[..., Any],
        export_dir: str,
    ) -> None:
        super().__init__()
        self.export_dir = Path(export_dir)
        refuse_existing(self.export_dir)
        self.tokenizer = build_tokenizer(max_length=clip["text_cfg"]["context_length"])
        # Any name will do: open_clip then looks for the tokenizer in the folder itself.
        clip["text_cfg"] |= {"vocab_size": len(self.tokenizer), "hf_tokenizer_name": self.export_dir.name}
        self.config = clip
        self.clip = CLIP(**clip).to(memory_format=torch.channels_last)
        self.clip.visual.image_mean = self.clip.visual.image_std = (0.5, 0.5, 0.5)  # of pictures in [-1, 1]
        self.optimizer, self.lr_scheduler = optimizer, lr_scheduler
        self.contrast = ClipLoss()

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        image, text, scale = self.clip(batch["pixel_values"], tokenize(self.tokenizer, batch["captions"]))
        loss: Tensor = self.contrast(image, text, scale)
        self.log("loss/clip", loss, prog_bar=True)
        return loss

    def on_before_zero_grad(self, optimizer: torch.optim.Optimizer) -> None:
        with torch.no_grad():
            self.clip.logit_scale.clamp_(0, torch.log(torch.tensor(100.0)))  # at most 100, as in CLIP

    def configure_optimizers(self) -> Any:
        optimizer = self.optimizer(self.parameters())
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": self.lr_scheduler(optimizer), "interval": "step"},
        }

    def on_train_end(self) -> None:
        self.clip.to(memory_format=torch.contiguous_format)  # safetensors stores no other
        save_for_hf(self.clip.half(), self.tokenizer, self.config, str(self.export_dir), safe_serialization=True)
        self.print(f"the CLIP model lies in {self.export_dir}")

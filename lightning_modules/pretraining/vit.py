"""`experiment=pretrain_sprites_vit`: a ViT of the world that learns without labels, in timm's layout."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar, cast

import lightning.pytorch as L
import timm
import torch
from timm.models import save_for_hf
from torch import Tensor, nn
from torch.nn import functional as F

from lightning_modules.pretraining.vae import refuse_existing


class PretrainViTModule(L.LightningModule):
    """Trains a ViT by contrast (SimCLR, arXiv:2002.05709): two pictures of one object attract, all others repel.

    The two pictures show the object at other places, on another ground, among other clutter and in another light, so
    that [CLS] can only win by finding the object. Contrast rather than DINO's self-distillation: one model and no
    teacher's pass, and it cannot collapse, so that minutes on a laptop's CPU are enough. Loads with
    `timm.create_model("local-dir:<export_dir>", pretrained=True)`.

    Args:
        architecture: timm's name of the model.
        vit: arguments that change it.
        projector: widths of the hidden and the last layer between [CLS] and the loss; dropped afterwards.
        temperature: of the softmax over similarities.
        optimizer: partial of a torch optimiser over parameters.
        lr_scheduler: partial of a torch scheduler over an optimiser.
        export_dir: folder of the model; must not hold one yet.
    """

    kind: ClassVar[str] = "pretraining"

    def __init__(
        self,
        *,
        architecture: str,
        vit: dict[str, Any],
        projector: list[int],
        temperature: float,
        optimizer: Callable[..., torch.optim.Optimizer],
        lr_scheduler: Callable[..., Any],
        export_dir: str,
    ) -> None:
        super().__init__()
        self.export_dir = Path(export_dir)
        refuse_existing(self.export_dir)
        self.vit = cast(Any, timm.create_model(architecture, num_classes=0, **vit))
        hidden, width = projector
        self.projector = nn.Sequential(
            nn.Linear(self.vit.num_features, hidden), nn.BatchNorm1d(hidden), nn.ReLU(), nn.Linear(hidden, width)
        )
        self.temperature = temperature
        self.optimizer, self.lr_scheduler = optimizer, lr_scheduler

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        generator = torch.Generator().manual_seed(int(batch["position"][0]))
        pictures = augmented(batch["pixel_values"], generator=generator)
        first, second = self.projector(self.vit(pictures)).chunk(2)
        loss, accuracy = contrastive_loss(first, second, temperature=self.temperature)
        self.log("loss/contrastive", loss, prog_bar=True)
        self.log("accuracy", accuracy, prog_bar=True)
        return loss

    def configure_optimizers(self) -> Any:
        optimizer = self.optimizer(self.parameters())
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": self.lr_scheduler(optimizer), "interval": "step"},
        }

    def on_train_end(self) -> None:
        size = self.vit.patch_embed.img_size
        overlay = {
            "tag": "sprites", "input_size": (3, *size), "mean": (0.5,) * 3, "std": (0.5,) * 3, "crop_pct": 1.0,
        }  # fmt: skip
        save_for_hf(self.vit, str(self.export_dir), model_config={"pretrained_cfg": overlay}, safe_serialization=True)
        self.print(f"the ViT lies in {self.export_dir}")


def contrastive_loss(first: Tensor, second: Tensor, *, temperature: float) -> tuple[Tensor, Tensor]:
    """NT-Xent (arXiv:2002.05709, eq. 1) over `2 · B` embeddings, and how often the partner is the nearest.

    Args:
        first, second: `[B, D]`; row `i` of one is the partner of row `i` of the other.
        temperature: above 0.
    """
    embeddings = F.normalize(torch.cat([first, second]).float(), dim=1)
    similarity = embeddings @ embeddings.T / temperature
    similarity.fill_diagonal_(-torch.inf)
    count = len(first)
    partner = torch.arange(2 * count, device=first.device).roll(count)
    return F.cross_entropy(similarity, partner), (similarity.argmax(1) == partner).float().mean()


def augmented(pictures: Tensor, *, generator: torch.Generator) -> Tensor:
    """`pictures` `[B, 3, H, W]` in [-1, 1], each mirrored with chance 1/2 and under a little other light.

    The light changes contrast and brightness of each channel; the order of the channels stays, since colours are most
    of what sets the objects apart.
    """
    count = len(pictures)
    contrast = 0.8 + 0.4 * torch.rand(count, 3, 1, 1, generator=generator).to(pictures.device)
    brightness = 0.2 * torch.rand(count, 3, 1, 1, generator=generator).to(pictures.device) - 0.1
    mirrored = torch.rand(count, 1, 1, 1, generator=generator).to(pictures.device) < 0.5
    return (torch.where(mirrored, pictures.flip(-1), pictures) * contrast + brightness).clamp(-1, 1)

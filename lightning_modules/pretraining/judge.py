"""`experiment=pretrain_sprites_judge`: the classifier that reads nouns, colours, textures and sizes off a picture."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar

import lightning.pytorch as L
import numpy as np
import torch
from diffusers import AutoencoderKL
from torch import Tensor
from torch.nn import functional as F

from datamodules.sprites.attributes import ATTRIBUTES, UNKNOWN, labels
from lightning_modules.pretraining.vae import refuse_existing
from metrics.sprites.sprites_judge import SpritesJudge


class PretrainJudgeModule(L.LightningModule):
    """Trains a `SpritesJudge` on rendered pictures and on what an autoencoder makes of them, noised and blurred.

    Args:
        judge: arguments of `SpritesJudge`.
        pretrained: folder of an earlier judge of these arguments that goes on learning, or None: from nothing.
        vae: folder of the autoencoder whose pictures are to be judged.
        reconstructed: share of each batch that went through the autoencoder, which rounds small objects' corners off.
        optimizer: partial of a torch optimiser over parameters.
        lr_scheduler: partial of a torch scheduler over an optimiser.
        noise: the largest standard deviation of the pixel noise, pixels being in [-1, 1].
        blur: share of the pictures that are halved and enlarged again.
        export_dir: folder of the judge; must not hold one yet.

    Raises:
        FileExistsError: `export_dir` holds a model.
        ValueError: a share outside [0, 1].
    """

    kind: ClassVar[str] = "pretraining"

    def __init__(
        self,
        *,
        judge: dict[str, Any],
        pretrained: str | None,
        vae: str,
        reconstructed: float,
        optimizer: Callable[..., torch.optim.Optimizer],
        lr_scheduler: Callable[..., Any],
        noise: float,
        blur: float,
        export_dir: str,
    ) -> None:
        super().__init__()
        self.export_dir = Path(export_dir)
        refuse_existing(self.export_dir)
        for name, share in (("reconstructed", reconstructed), ("blur", blur)):
            if not 0 <= share <= 1:
                raise ValueError(f"module.{name}={share}: a share of the pictures, from 0 to 1")
        self.judge = SpritesJudge(**judge).to(memory_format=torch.channels_last)
        if pretrained:
            self.judge.load_state_dict(SpritesJudge.from_pretrained(Path(pretrained)).state_dict())
        autoencoder = AutoencoderKL.from_pretrained(vae).to(memory_format=torch.channels_last)
        self._vae = [autoencoder]  # in a list: not a submodule, so never in a checkpoint
        self.reconstructed = reconstructed
        self.optimizer, self.lr_scheduler = optimizer, lr_scheduler
        self.noise, self.blur = noise, blur

    def on_fit_start(self) -> None:
        scenes = self.trainer.datamodule.dataset.scenes  # type: ignore[attr-defined]
        self.labels = torch.from_numpy(np.stack([labels(scene) for scene in scenes]))

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        generator = torch.Generator().manual_seed(int(batch["position"][0]))
        pixel_values = reconstructed(
            batch["pixel_values"], share=self.reconstructed, vae=self._vae[0].to(batch["pixel_values"].device)
        )
        pixel_values = blurred(pixel_values, share=self.blur, generator=generator)
        deviation = self.noise * torch.rand(len(pixel_values), 1, 1, 1, generator=generator)
        pixel_values = pixel_values + deviation * torch.randn(pixel_values.shape, generator=generator)
        logits = self.judge(pixel_values.contiguous(memory_format=torch.channels_last))
        loss = attribute_loss(logits, self.labels[batch["index"]])
        self.log("loss/judge", loss, prog_bar=True)
        return loss

    def configure_optimizers(self) -> Any:
        optimizer = self.optimizer(self.parameters())
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": self.lr_scheduler(optimizer), "interval": "step"},
        }

    def on_train_end(self) -> None:
        self.judge.save_pretrained(self.export_dir)
        self.print(f"the judge lies in {self.export_dir}")


def attribute_loss(logits: Mapping[str, Tensor], labels: Tensor) -> Tensor:
    """Sum over the attributes of the mean cross-entropy over positions; what is `UNKNOWN` does not count.

    The noun's is two means, over objects and over empty positions, since most positions are empty.

    Args:
        logits: `[B, positions, choices]` per attribute, as `SpritesJudge` returns them.
        labels: `[B, positions, attributes]`, as `datamodules.sprites.attributes.labels` returns them.
    """
    flat = {name: (logits[name].flatten(0, 1), labels[..., number].flatten()) for number, name in enumerate(ATTRIBUTES)}
    nouns, noun = flat.pop("noun")
    parts = [(nouns[noun == 0], noun[noun == 0]), (nouns[noun != 0], noun[noun != 0]), *flat.values()]
    return torch.stack([F.cross_entropy(*part, ignore_index=UNKNOWN) for part in parts]).sum()


@torch.no_grad()
def reconstructed(pictures: Tensor, *, share: float, vae: AutoencoderKL) -> Tensor:
    """`pictures` `[B, C, H, W]` in [-1, 1], of which the first `share`, rounded, went through the autoencoder."""
    count = round(share * len(pictures))
    if count == 0:
        return pictures
    decoded = vae.decode(vae.encode(pictures[:count]).latent_dist.mean).sample.clamp(-1, 1)
    return torch.cat([decoded, pictures[count:]])


def blurred(pictures: Tensor, *, share: float, generator: torch.Generator) -> Tensor:
    """`pictures` `[B, C, H, W]`, of which about `share` were halved in size and enlarged again."""
    chosen = torch.rand(len(pictures), 1, 1, 1, generator=generator) < share
    return torch.where(chosen, F.interpolate(F.avg_pool2d(pictures, 2), scale_factor=2, mode="bilinear"), pictures)

"""`experiment=pretrain_sprites_vae`: an `AutoencoderKL` for pictures of the Sprites world."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import lightning.pytorch as L
import torch
from diffusers import AutoencoderKL
from torch import Tensor
from torch.nn import functional as F


class PretrainVAEModule(L.LightningModule):
    """Trains an autoencoder with a fixed small noise on the latents, exported with latents of mean 0 and variance 1.

    A fixed noise instead of a learned posterior: no KL weight to tune, and the noise says how exactly a latent must be
    told apart, which is all that the denoiser needs.

    Args:
        vae: the autoencoder's configuration, arguments of `AutoencoderKL`.
        optimizer: partial of a torch optimiser over parameters.
        lr_scheduler: partial of a torch scheduler over an optimiser.
        latent_noise: standard deviation of the noise, in units of each latent channel's own.
        l1_weight, gradient_weight: weights beside the squared error, of the absolute error and of the absolute error
            between neighbouring pixels' differences, which keeps edges and thin textures.
        export_dir: folder that the trained model is written to; must not hold one yet.
    """

    kind: ClassVar[str] = "pretraining"

    def __init__(
        self,
        *,
        vae: dict[str, Any],
        optimizer: Callable[..., torch.optim.Optimizer],
        lr_scheduler: Callable[..., Any],
        latent_noise: float,
        l1_weight: float,
        gradient_weight: float,
        export_dir: str,
    ) -> None:
        super().__init__()
        self.export_dir = Path(export_dir)
        refuse_existing(self.export_dir)
        self.vae = AutoencoderKL(**vae)
        self.optimizer, self.lr_scheduler = optimizer, lr_scheduler
        self.latent_noise, self.l1_weight, self.gradient_weight = latent_noise, l1_weight, gradient_weight

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        pixel_values = batch["pixel_values"].to(memory_format=torch.channels_last)
        mean = self.vae.encode(pixel_values).latent_dist.mean
        noise = torch.randn(mean.shape, generator=torch.Generator().manual_seed(int(batch["position"][0])))
        latents = mean + self.latent_noise * mean.detach().std((0, 2, 3), keepdim=True) * noise.to(mean)
        error = self.vae.decode(latents).sample - pixel_values
        mse, l1, gradient = error.square().mean(), error.abs().mean(), gradient_difference(error)
        self.log("loss/mse", mse, prog_bar=True)
        return mse + self.l1_weight * l1 + self.gradient_weight * gradient

    def configure_optimizers(self) -> Any:
        self.vae.to(memory_format=torch.channels_last)
        optimizer = self.optimizer(self.vae.parameters())
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": self.lr_scheduler(optimizer), "interval": "step"},
        }

    @torch.no_grad()
    def on_train_end(self) -> None:
        normalize_latents(self.vae, self._sample_latents(batches=64), noise=self.latent_noise)
        self.vae.save_pretrained(self.export_dir)
        self.print(f"the autoencoder lies in {self.export_dir}")

    def _sample_latents(self, *, batches: int) -> Tensor:
        loader = self.trainer.datamodule.loader(start=0, batches=batches)  # type: ignore[attr-defined]
        return torch.cat([self.vae.encode(batch["pixel_values"].to(self.device)).latent_dist.mean for batch in loader])


def gradient_difference(error: Tensor) -> Tensor:
    """Mean absolute difference between neighbouring pixels of `error` `[B, C, H, W]`, over both axes."""
    return F.l1_loss(error[..., 1:], error[..., :-1]) + F.l1_loss(error[..., 1:, :], error[..., :-1, :])


def normalize_latents(vae: AutoencoderKL, latents: Tensor, *, noise: float) -> None:
    """Folds each channel's mean and deviation into the VAE's own 1 × 1 convolutions, in place.

    `StableDiffusionPipeline` knows a scaling factor only, no shift, and with zero terminal SNR the mean of the latents
    must be 0. Afterwards encode gives mean 0 and variance 1 over data like `latents` `[N, C, h, w]`, and the
    posterior's deviation is the constant `noise`.
    """
    mean, std = latents.mean((0, 2, 3)), latents.std((0, 2, 3))
    channels = len(mean)
    encode, decode = vae.quant_conv, vae.post_quant_conv
    encode.weight[:channels] /= std[:, None, None, None]
    encode.bias[:channels] = (encode.bias[:channels] - mean) / std
    encode.weight[channels:] = 0
    encode.bias[channels:] = 2 * torch.log(torch.tensor(noise))
    decode.bias += decode.weight[:, :, 0, 0] @ mean
    decode.weight *= std[None, :, None, None]


def refuse_existing(export_dir: Path) -> None:
    """Raises:
    FileExistsError: `export_dir` holds a model already; nothing that exists is overwritten.
    """
    if any((export_dir / name).exists() for name in ("config.json", "model_index.json", "open_clip_config.json")):
        raise FileExistsError(
            f"{export_dir} holds a model already: move it away, or set module.export_dir=<new folder>"
        )

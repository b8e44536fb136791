"""`experiment=pretrain_sprites_sd`: the UNet of the embedded Stable Diffusion and, from a CLIP's, its text encoder."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar

import lightning.pytorch as L
import numpy as np
import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    DDPMScheduler,
    StableDiffusionPipeline,
    UNet2DConditionModel,
)
from numpy.typing import NDArray
from rich.progress import track
from scipy.special import betaincinv
from torch import Tensor
from torch.nn import functional as F
from transformers import CLIPTokenizer

from datamodules.sprites.pretraining import to_pixel_values
from datamodules.sprites.world import SIZE, Scene, mask
from lightning_modules.pretraining.text_tower import clip_text_encoder
from lightning_modules.pretraining.tokenizer import tokenize
from lightning_modules.pretraining.vae import refuse_existing
from models.noise_process import Epsilon

NOISE_STREAM = 21


class PretrainSDModule(L.LightningModule):
    """Trains a UNet and a CLIP's text encoder on cached latents, and exports a `StableDiffusionPipeline` folder.

    As in Stable Diffusion, a CLIP has taught the text encoder what words mean. An earlier model, trained from nothing
    along with its UNet, had words that were hardly told apart, "striped" and "checkered" among them.

    v-prediction with zero terminal SNR: with the usual ε schedule the last timestep still shows the latents' mean, so
    the flat backgrounds of this world would be decided by the initial noise instead of the prompt.

    Args:
        vae: folder of the trained autoencoder.
        clip: folder of the open_clip model whose text tower the text encoder starts as, and whose tokenizer it has.
        unet, scheduler: arguments of the published classes.
        optimizer: partial of a torch optimiser over parameters.
        text_encoder_lr: learning rate of the text encoder, the second parameter group.
        lr_scheduler: partial of a torch scheduler over an optimiser.
        pretrained: folder of an earlier pipeline whose text encoder and UNet go on learning, or None: the CLIP's and a
            new one.
        timestep_beta: a and b of the beta distribution that timesteps are drawn from, as shares of T: [1, 1] draws all
            alike, [2, 1] high noise more often, from which sampling starts, [1.5, 1.8] the middle, where textures are
            decided.
        object_weight: weight of the loss where an object is; the background's is 1.
        snr_gamma: γ of min-SNR (arXiv:2303.09556), with SNR + 1 in place of the SNR.
        caption_dropout: share of the samples that are trained with an empty prompt, for classifier-free guidance.
        export_dir: folder of the pipeline; must not hold one yet.
        seed: of timesteps, noise and dropout.

    Raises:
        FileExistsError: `export_dir` holds a model.
        FileNotFoundError: `pretrained` is no pipeline's folder.
        ValueError: a beta distribution with infinite density at an end, or an `object_weight` that is not positive.
    """

    kind: ClassVar[str] = "pretraining"

    def __init__(
        self,
        *,
        vae: str,
        clip: str,
        unet: dict[str, Any],
        scheduler: dict[str, Any],
        optimizer: Callable[..., torch.optim.Optimizer],
        text_encoder_lr: float,
        lr_scheduler: Callable[..., Any],
        pretrained: str | None,
        timestep_beta: tuple[float, float],
        object_weight: float,
        snr_gamma: float,
        caption_dropout: float,
        export_dir: str,
        seed: int,
    ) -> None:
        super().__init__()
        self.export_dir = Path(export_dir)
        refuse_existing(self.export_dir)
        if len(timestep_beta) != 2 or min(timestep_beta) < 1:
            raise ValueError(f"module.timestep_beta={timestep_beta}: two numbers of at least 1, such as [1, 1]")
        if object_weight <= 0:
            raise ValueError(f"module.object_weight={object_weight}: the weight of the loss on objects is positive")
        if pretrained is not None and not (Path(pretrained) / "model_index.json").is_file():
            raise FileNotFoundError(
                f"module.pretrained={pretrained!r} is no pipeline's folder: give the one that an earlier "
                "experiment=pretrain_sprites_sd module.export_dir=<folder> has written"
            )
        self._vae = [AutoencoderKL.from_pretrained(vae)]  # in a list: not a submodule, so never in a checkpoint
        self.tokenizer = CLIPTokenizer.from_pretrained(clip)
        self.text_encoder = clip_text_encoder(Path(clip), self.tokenizer)
        self.unet = UNet2DConditionModel(**unet).to(memory_format=torch.channels_last)
        if pretrained is not None:
            earlier = StableDiffusionPipeline.from_pretrained(pretrained, dtype=torch.float32, use_safetensors=True)
            self.text_encoder.load_state_dict(earlier.text_encoder.state_dict())
            self.unet.load_state_dict(earlier.unet.state_dict())
        self.scheduler = scheduler
        self.noise_scheduler = DDPMScheduler(**scheduler)
        self.optimizer, self.text_encoder_lr, self.lr_scheduler = optimizer, text_encoder_lr, lr_scheduler
        self.timestep_beta, self.object_weight, self.snr_gamma = timestep_beta, object_weight, snr_gamma
        self.caption_dropout, self.seed = caption_dropout, seed

    @torch.no_grad()
    def on_fit_start(self) -> None:
        dataset = self.trainer.datamodule.dataset  # type: ignore[attr-defined]
        pictures = dataset.pictures
        encoder = self._vae[0].to(self.device).encode
        self.latents = torch.cat(
            [
                encoder(to_pixel_values(chunk).to(self.device)).latent_dist.mean.half()
                for chunk in track(np.array_split(pictures, len(pictures) // 250 + 1), "encoding the world")
            ]
        )
        weights = loss_weights(dataset.scenes, object_weight=self.object_weight, side=self.latents.shape[-1])
        self.weights = weights.to(self.device)

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        latents = self.latents[batch["index"]].float()
        rng = np.random.default_rng([self.seed, NOISE_STREAM, int(batch["position"][0])])
        noise = torch.from_numpy(rng.standard_normal(latents.shape, np.float32)).to(self.device)
        share = timestep_shares(rng, len(latents), beta=self.timestep_beta)
        timesteps = torch.from_numpy((share * self.noise_scheduler.config.num_train_timesteps).astype(np.int64))
        timesteps = timesteps.to(self.device)
        dropped = rng.random(len(latents)) < self.caption_dropout
        captions = ["" if drop else text for drop, text in zip(dropped, batch["captions"], strict=True)]

        states = self.text_encoder(tokenize(self.tokenizer, captions).to(self.device)).last_hidden_state
        noisy = self.noise_scheduler.add_noise(latents, noise, timesteps)
        target = self.noise_scheduler.get_velocity(latents, noise, timesteps)
        prediction = self.unet(noisy, timesteps, encoder_hidden_states=states).sample.float()
        squared = (prediction - target).square()
        error = (squared * self.weights[batch["index"]]).mean((1, 2, 3))

        # The paper's weight for v-prediction is 0 where the SNR is 0, and sampling starts exactly there: a model that
        # never learned to would draw the layout. SNR + 1 is the weight of the x0 loss that a plain v loss amounts to.
        snr_plus_one = 1 / (1 - self.noise_scheduler.alphas_cumprod[timesteps])
        weight = Epsilon.min_snr_weight(snr_plus_one, gamma=self.snr_gamma)
        loss = (error * weight).mean()
        self.log("loss/denoising", squared.mean(), prog_bar=True)
        return loss

    def configure_optimizers(self) -> Any:
        text_encoder = {"params": self.text_encoder.parameters(), "lr": self.text_encoder_lr}
        optimizer = self.optimizer([{"params": self.unet.parameters()}, text_encoder])
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": self.lr_scheduler(optimizer), "interval": "step"},
        }

    def on_train_end(self) -> None:
        # Callbacks come first: by now EMAWeightAveraging has put the averaged weights in place.
        pipeline = StableDiffusionPipeline(
            vae=self._vae[0],
            text_encoder=self.text_encoder,
            tokenizer=self.tokenizer,
            unet=self.unet,
            scheduler=DDIMScheduler(**self.scheduler),
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        )
        pipeline.to(dtype=torch.float16).save_pretrained(self.export_dir)
        _load_in_float32(self.export_dir / "text_encoder/config.json")
        self.print(f"the pipeline lies in {self.export_dir}")


def timestep_shares(rng: np.random.Generator, count: int, *, beta: tuple[float, float]) -> NDArray[np.float64]:
    """`count` draws in [0, 1) from the beta distribution, by its inverse: one uniform number of `rng` each."""
    shares: NDArray[np.float64] = betaincinv(*beta, rng.random(count))
    return shares


def loss_weights(scenes: Sequence[Scene], *, object_weight: float, side: int) -> Tensor:
    """`[N, 1, side, side]`, as the latents: 1 on the background, `object_weight` on an object, between at its edge."""
    weights = torch.ones(len(scenes), 1, side, side)
    if object_weight != 1:
        for number, each in enumerate(track(scenes, "weighting objects")):
            covered = np.max([mask(sprite) for sprite in each.sprites], axis=0)
            weights[number] += (object_weight - 1) * F.avg_pool2d(torch.from_numpy(covered)[None], SIZE // side)
    return weights


def _load_in_float32(config: Path) -> None:
    """Transformers loads in the dtype that the config names, diffusers in float32: they would not fit together."""
    config.write_text(json.dumps(json.loads(config.read_text()) | {"dtype": "float32"}, indent=2) + "\n")

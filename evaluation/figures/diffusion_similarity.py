"""The similarity of a run's samples to real pictures in the pretrained diffusion model's own features."""

from collections.abc import Sequence
from typing import Any

import torch
from diffusers import DDPMScheduler, StableDiffusionPipeline
from PIL import Image
from torch import Tensor

from datamodules.subject import Subject
from datamodules.subject_datamodule import picture_tensor, square_tensor
from metrics.image_similarity import image_similarity
from models.families.sd import StableDiffusion


class DiffusionSimilarity:
    """Mean cosine to the held-out pictures, or to the training pictures where none are held out.

    All features are taken with the pretrained UNet, which is kept aside for it.
    """

    def __init__(self, model: StableDiffusion, subject: Subject) -> None:
        self.model = model
        self.target = "held-out" if subject.heldout else "training"
        self._target = self._features(picture_tensor(subject.heldout or subject.train, model.resolution))
        self.num_training, self.num_compared_with = len(subject.train), len(subject.heldout or subject.train)
        self.of_training_pictures = self._to_target(picture_tensor(subject.train, model.resolution))

    def __call__(self, pictures: Sequence[Image.Image]) -> float:
        return self._to_target(torch.stack([square_tensor(picture, self.model.resolution) for picture in pictures]))

    def describe(self, checkpoint: dict[str, str | None], *, num_drawn: int) -> dict[str, Any]:
        """What `metrics.json` says of the figure beside its numbers.

        Args:
            checkpoint: the hashes of the pretrained weights.
            num_drawn: pictures of each model.
        """
        return {
            "description": f"mean cosine to the {self.target} pictures, features of the pretrained UNet "
            "(up_blocks.1, a tenth of the noise steps, mean over space); real: training pictures",
            "model": self.model.pretrained,
            "checkpoint": checkpoint,
            "transform": self.model.transform,
            "template": "none: the empty prompt beside every picture",
            "pairing": f"every picture with every {self.target} picture",
            "counts": {"tuned": num_drawn, "base": num_drawn, "reference": self.num_training},
            "compared_with": self.num_compared_with,
        }

    def _to_target(self, pictures: Tensor) -> float:
        return float(image_similarity(self._features(pictures), self._target))

    def _features(self, pictures: Tensor) -> Tensor:
        with self.model.pretrained_pipeline() as pipeline:
            return diffusion_features(pipeline, pictures, batch_size=self.model.inference_batch_size)


@torch.no_grad()
def diffusion_features(pipeline: StableDiffusionPipeline, pictures: Tensor, *, batch_size: int) -> Tensor:
    """Features `[N, D]` of uint8 pictures `[N, 3, H, W]`: the second decoder block at a tenth of the noise steps.

    As in DIFT (arXiv:2306.03881), with an empty prompt; the mean over space is ours. `pipeline` must be the pretrained
    one, or the tuned model would judge itself. The noise is the same for every picture.
    """
    scheduler = DDPMScheduler.from_config(pipeline.scheduler.config)
    vae, unet = pipeline.vae, pipeline.unet
    states, _ = pipeline.encode_prompt("", pipeline.device, 1, do_classifier_free_guidance=False)
    timestep = torch.tensor([scheduler.config.num_train_timesteps // 10])
    features: list[Tensor] = []
    hook = unet.up_blocks[1].register_forward_hook(lambda module, args, output: features.append(output.mean((2, 3))))
    try:
        for chunk in pictures.split(batch_size):
            latents = vae.encode(chunk.to(vae.device, vae.dtype).div(127.5).sub(1)).latent_dist.mean
            latents = latents * vae.config.scaling_factor
            noise = torch.randn(latents.shape[1:], generator=torch.Generator().manual_seed(0)).to(latents)
            noisy = scheduler.add_noise(latents, noise.expand_as(latents), timestep)
            unet(noisy, timestep.to(unet.device), encoder_hidden_states=states.expand(len(noisy), -1, -1))
    finally:
        hook.remove()
    return torch.cat(features).float()

"""What the families share whose denoiser is diffusers' UNet on a discrete schedule."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar

import torch
from diffusers import DDIMScheduler, DDPMScheduler
from PIL import Image
from torch import Tensor

from models.family import Condition, DiffusionFamily
from models.noise_process import Epsilon, NoiseProcess, Velocity

STATES = "encoder_hidden_states"
"""The argument of a UNet that every prompt has; what other tensors a condition has are `added_cond_kwargs`."""


class UNetFamily(DiffusionFamily):
    """A UNet with cross-attention to the text, latents `mean · scaling_factor`, ε- or v-prediction."""

    denoiser_name: ClassVar[str] = "unet"
    lora_targets: ClassVar[tuple[str, ...]] = ("to_q", "to_k", "to_v", "to_out.0")
    sites: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "decoder_self": ("up_blocks.*.attn1",),
        "text": ("up_blocks.*.attn2",),
    }
    features_description: ClassVar[str] = (
        "features of the pretrained UNet (up_blocks.1, a tenth of the noise steps, mean over space)"
    )

    def make_noise_process(self) -> NoiseProcess:
        scheduler = DDPMScheduler.from_config(self.pipeline.scheduler.config)
        kinds: dict[str, type[Epsilon | Velocity]] = {"epsilon": Epsilon, "v_prediction": Velocity}
        kind = scheduler.config.prediction_type
        if kind not in kinds:
            raise ValueError(f"{self.pretrained} predicts {kind!r}: {' and '.join(kinds)} are supported")
        return kinds[kind](scheduler)

    # Pictures

    @torch.no_grad()
    def encode_pictures(self, pictures: Tensor) -> Tensor:
        vae = self.pipeline.vae
        moments = []
        # Moved chunk by chunk: hundreds of large class images would not fit.
        for chunk in pictures.split(self.inference_batch_size):
            pixels = chunk.to(vae.device, vae.dtype, non_blocking=True).div(127.5).sub(1)
            moments.append(vae.encode(pixels).latent_dist.parameters.float())
        return torch.cat(moments)

    def latents(self, moments: Tensor, noise: Tensor) -> Tensor:
        mean, log_variance = moments.chunk(2, dim=1)
        draw = mean + torch.exp(0.5 * log_variance.clamp(-30, 20)) * noise
        return draw * self.pipeline.vae.config.scaling_factor

    @torch.no_grad()
    def decode(self, latents: Tensor) -> list[Image.Image]:
        vae = self.pipeline.vae
        pixels = vae.decode(latents.to(vae.dtype) / vae.config.scaling_factor).sample
        pictures: list[Image.Image] = self.pipeline.image_processor.postprocess(pixels, output_type="pil")
        return pictures

    @torch.no_grad()
    def picture_features(self, pictures: Tensor) -> Tensor:
        """As in DIFT (arXiv:2306.03881), with an empty prompt; the mean over space is ours.

        The noise is the same for every picture. A tuned model would judge itself, so the pretrained one is asked.
        """
        features: list[Tensor] = []
        with self.pretrained_pipeline() as pipeline:
            vae, unet = pipeline.vae, pipeline.unet
            states, _ = pipeline.encode_prompt("", pipeline.device, 1, do_classifier_free_guidance=False)
            t = torch.tensor([0.1])
            timestep = self.noise_process.model_time(t)
            hook = unet.up_blocks[1].register_forward_hook(lambda _, args, output: features.append(output.mean((2, 3))))
            try:
                for chunk in pictures.split(self.inference_batch_size):
                    latents = vae.encode(chunk.to(vae.device, vae.dtype).div(127.5).sub(1)).latent_dist.mean
                    latents = latents * vae.config.scaling_factor
                    noise = torch.randn(latents.shape[1:], generator=torch.Generator().manual_seed(0)).to(latents)
                    noisy = self.noise_process.noisy(latents, noise.expand_as(latents), t)
                    unet(noisy, timestep.to(unet.device), encoder_hidden_states=states.expand(len(noisy), -1, -1))
            finally:
                hook.remove()
        return torch.cat(features).float()

    # The denoiser

    def denoise(self, denoiser: Any, noisy: Tensor, t: Tensor, condition: Condition) -> Tensor:
        dtype = denoiser.conv_in.weight.dtype  # `denoiser.dtype` walks through all parameters, 2 % of a small step
        states = condition.tensors[STATES].to(dtype)
        added = {name: value.to(dtype) for name, value in condition.tensors.items() if name != STATES}
        given = {"added_cond_kwargs": added} if added else {}
        prediction: Tensor = denoiser(noisy.to(dtype), self.noise_process.model_time(t), states, **given).sample
        return prediction

    def denoise_rows(self, denoiser: Any, condition: Condition, args: Sequence[Any], kwargs: dict[str, Any]) -> Tensor:
        sample, timestep = args
        times = len(condition) // len(sample)
        asked = {name: tensor for name, tensor in condition.tensors.items() if name != STATES}
        given = kwargs.get("added_cond_kwargs") or {}
        added = {name: torch.cat([value] * times) for name, value in given.items()} | asked
        prediction: Tensor = denoiser(
            torch.cat([sample] * times),
            timestep,
            **kwargs
            | {
                STATES: condition.tensors[STATES],
                "added_cond_kwargs": added,
                "return_dict": False,
            },
        )[0]
        return prediction

    @property
    def fingerprint(self) -> bytes:
        weights: bytes = self.network.conv_in.weight.detach().float().cpu().numpy().tobytes()
        return weights

    @contextmanager
    def record_trajectory(self) -> Iterator["RecordingScheduler"]:
        """By DDIM (arXiv:2010.02502), where `x_t` is `√ᾱ x0 + √(1 − ᾱ) ε` in every step."""
        kept = self.pipeline.scheduler
        # Latents leave [-1, 1], and a scheduler's config that does not mention clipping would have them clipped.
        recording = RecordingScheduler.from_config(kept.config, clip_sample=False)
        recording.noise_process, recording.predicted = self.noise_process, []
        self.pipeline.scheduler = recording
        try:
            yield recording
        finally:
            self.pipeline.scheduler = kept


class RecordingScheduler(DDIMScheduler):
    """DDIM that keeps the timestep and the predicted x0 `[B, C, h, w]` of every step in `predicted`."""

    noise_process: Any
    predicted: list[tuple[int, Tensor]]

    def step(self, model_output: Tensor, timestep: Any, sample: Tensor, **kwargs: Any) -> Any:
        t = torch.full((len(sample),), (int(timestep) + 0.5) / self.config.num_train_timesteps)
        self.predicted.append((int(timestep), self.noise_process.x0(model_output.float(), sample.float(), t)))
        return super().step(model_output, timestep, sample, **kwargs)

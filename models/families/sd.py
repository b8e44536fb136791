"""A pretrained Stable Diffusion pipeline as a run needs it: loaded once, its frozen encoders callable by themselves."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import ClassVar

import torch
from diffusers import DDPMScheduler, StableDiffusionPipeline
from torch import Tensor

from checks.folders import check_pipeline_folder


class StableDiffusion:
    """The pipeline and its noise schedule for training.

    Args:
        pretrained: a diffusers folder or a hub id; safetensors only.
        resolution: side of the training pictures and samples in pixels.
        dtype: of the frozen weights, "float32" or "bfloat16".
        gradient_checkpointing: trade a second decoder pass for memory (non-reentrant).
        compile: run the UNet through torch.compile while training.
        inference_batch_size: pictures that are encoded, sampled or looked at in one call; guidance doubles the rows.
        guidance_scale, num_inference_steps: of every picture that is sampled.
        indicator_scale: T of APT's overfitting indicator, which belongs to the scale of this model's loss; 1000 in APT.
        indicator_augmentation: whether that indicator decides which training pictures are zoomed out; true in APT.
    """

    sites: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "decoder_self": ("up_blocks.*.attn1",),
        "text": ("up_blocks.*.attn2",),
    }
    """Patterns of the layers that plug-ins look at unless told otherwise, by symbolic name."""

    def __init__(
        self,
        *,
        pretrained: str,
        resolution: int,
        dtype: str,
        gradient_checkpointing: bool,
        compile: bool,
        inference_batch_size: int,
        guidance_scale: float,
        num_inference_steps: int,
        indicator_scale: float,
        indicator_augmentation: bool,
    ) -> None:
        check_pipeline_folder(pretrained)
        if not 1 <= guidance_scale < float("inf"):  # below 1 diffusers' pipelines leave guidance out
            raise ValueError(f"model.guidance_scale={guidance_scale}: 1, which is no guidance, or more")
        self.pretrained, self.resolution, self.compile = pretrained, resolution, compile
        self.inference_batch_size = inference_batch_size
        self.guidance_scale, self.num_inference_steps = guidance_scale, num_inference_steps
        self.indicator_scale, self.indicator_augmentation = indicator_scale, indicator_augmentation
        folder = Path(pretrained).expanduser()
        self.pipeline = StableDiffusionPipeline.from_pretrained(
            folder if folder.is_dir() else pretrained,
            dtype=getattr(torch, dtype),
            use_safetensors=True,
            safety_checker=None,
            requires_safety_checker=False,
        )
        self.pipeline.set_progress_bar_config(disable=True)
        for part in (self.pipeline.vae, self.pipeline.text_encoder, self.pipeline.unet):
            part.requires_grad_(False).eval()
        self.unet = self.pipeline.unet.to(memory_format=torch.channels_last)
        if gradient_checkpointing:
            self.unet.enable_gradient_checkpointing()
        if resolution % self.pipeline.vae_scale_factor:
            raise ValueError(f"model.resolution={resolution} is no multiple of {self.pipeline.vae_scale_factor}")
        self.noise_scheduler = DDPMScheduler.from_config(self.pipeline.scheduler.config)
        self.alphas_cumprod = self.noise_scheduler.alphas_cumprod.clone()  # stays on the CPU; the scheduler's own moves
        self.prediction_type: str = self.noise_scheduler.config.prediction_type
        if self.prediction_type not in ("epsilon", "v_prediction"):
            raise ValueError(f"{pretrained} predicts {self.prediction_type!r}: epsilon and v_prediction are supported")

    def to(self, device: torch.device | str | None) -> None:
        self.pipeline.to(device)

    @property
    def transform(self) -> str:
        """What a picture goes through before this model, in words."""
        return f"shorter side to {self.resolution} px, center crop, [-1, 1]"

    @property
    def num_train_timesteps(self) -> int:
        return int(self.noise_scheduler.config.num_train_timesteps)

    @torch.no_grad()
    def encode_pictures(self, pictures: Tensor) -> Tensor:
        """Moments of the VAE's posterior, float32 `[N, 2 C, h, w]`, of uint8 pictures `[N, 3, H, W]`."""
        vae = self.pipeline.vae
        moments = []
        for chunk in pictures.split(
            self.inference_batch_size
        ):  # moved chunk by chunk: hundreds of large class images would not fit
            pixels = chunk.to(vae.device, vae.dtype, non_blocking=True).div(127.5).sub(1)
            moments.append(vae.encode(pixels).latent_dist.parameters.float())
        return torch.cat(moments)

    def latents(self, moments: Tensor, noise: Tensor) -> Tensor:
        """A draw from the posterior `moments` `[B, 2 C, h, w]` by `noise` `[B, C, h, w]`, in the UNet's scale."""
        mean, log_variance = moments.chunk(2, dim=1)
        draw = mean + torch.exp(0.5 * log_variance.clamp(-30, 20)) * noise
        return draw * self.pipeline.vae.config.scaling_factor

    @torch.no_grad()
    def encode_prompts(self, prompts: Sequence[str]) -> Tensor:
        """Hidden states of the text encoder, `[N, tokens, D]`.

        Raises:
            ValueError: see `tokenize`.
        """
        device = self.pipeline.text_encoder.device
        ids, mask = self.tokenize(prompts)
        return self.encode_tokens(ids.to(device), mask if mask is None else mask.to(device))

    def encode_tokens(self, ids: Tensor, mask: Tensor | None) -> Tensor:
        """Hidden states `[N, tokens, D]` of what `tokenize` returns, with a gradient to what trains of the encoder."""
        states: Tensor = self.pipeline.text_encoder(ids, attention_mask=mask)[0]
        return states

    def tokenize(self, prompts: Sequence[str]) -> tuple[Tensor, Tensor | None]:
        """Ids `[N, tokens]`, padded, and the attention mask where this text encoder wants one; on the CPU.

        Raises:
            ValueError: a prompt is longer than the text encoder reads; the pipeline would cut it off.
        """
        longest = self.pipeline.tokenizer.model_max_length - 2
        for prompt in prompts:
            if (length := len(self.token_ids(prompt))) > longest:
                raise ValueError(f"prompt {prompt!r} has {length} tokens, {longest} are read: shorten that caption")
        tokens = self.pipeline.tokenizer(
            [self._expanded(prompt) for prompt in prompts],
            padding="max_length",
            max_length=self.pipeline.tokenizer.model_max_length,
            truncation=True,
            return_tensors="pt",
        )
        is_masked = getattr(self.pipeline.text_encoder.config, "use_attention_mask", False)
        return tokens.input_ids, tokens.attention_mask if is_masked else None

    def token_ids(self, text: str) -> list[int]:
        """Token ids of `text`, without start and end."""
        return list(self.pipeline.tokenizer(self._expanded(text), add_special_tokens=False).input_ids)

    def _expanded(self, text: str) -> str:
        """`text` with every learned token of several vectors spelt out, as the pipeline itself does."""
        return str(self.pipeline.maybe_convert_prompt(text, self.pipeline.tokenizer))

    def move_encoders(self, device: torch.device | str, *, vae: bool = True, text_encoder: bool = True) -> None:
        """Moves VAE and text encoder, unless told otherwise."""
        if text_encoder:
            self.pipeline.text_encoder.to(device)
        if vae:
            self.pipeline.vae.to(device)

    @contextmanager
    def pretrained_pipeline(self) -> Iterator[StableDiffusionPipeline]:
        """The pipeline as it was loaded, whatever `Adapter.load` has put into it since."""
        tuned = self.pipeline.unet
        has_lora = bool(getattr(self.unet, "peft_config", None))
        if has_lora:
            self.unet.disable_adapters()
        self.pipeline.unet = self.unet
        try:
            yield self.pipeline
        finally:
            self.pipeline.unet = tuned
            if has_lora:
                self.unet.enable_adapters()

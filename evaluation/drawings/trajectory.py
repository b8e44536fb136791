"""Predicted x0 along the denoising trajectory, tuned beside base model, from the same noise (a figure of APT's)."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from diffusers import DDIMScheduler
from PIL import Image
from torch import Tensor

from datamodules.subject import PromptPair
from evaluation.samples import evenly
from models.families.sd import StableDiffusion
from models.prediction import predicted_x0
from report.tile_grid import Tile, tile_grid
from sampling.guidance import Guidance
from sampling.sampler import sample, sample_guided


class Trajectory:
    """Draws the first prompts once more with both models, and what each believes the picture to be on the way.

    Each model follows its own trajectory, guided as its samples are; both by DDIM (arXiv:2010.02502), whatever the
    pipeline's scheduler is, for there `x_t` is `√ᾱ x0 + √(1 − ᾱ) ε` in every step.

    Args:
        num_prompts: the first so many of the evaluated prompts.
        num_columns: steps that are shown, evenly apart, the first and the last among them.
    """

    def __init__(self, *, num_prompts: int, num_columns: int) -> None:
        for name, value, least in (("num_prompts", num_prompts, 1), ("num_columns", num_columns, 2)):
            if value < least:
                raise ValueError(
                    f"evaluation.trajectory.{name}={value}: {least} or more; evaluation.trajectory=null: none"
                )
        self.num_prompts, self.num_columns = num_prompts, num_columns

    def __call__(
        self, model: StableDiffusion, pairs: Sequence[PromptPair], guidance: Guidance, *, seed: int, folder: Path
    ) -> None:
        """Writes `folder/<prompt number>.png`.

        Args:
            model: with a run's adapter loaded into its pipeline.
            pairs: all evaluated prompts.
            guidance: of the tuned model.
            seed: of the noise that both start from.
            folder: made here.
        """
        folder.mkdir(parents=True)
        for number, pair in enumerate(pairs[: self.num_prompts]):
            with model.pretrained_pipeline() as pipeline, recorded(pipeline) as base:
                sample(
                    pipeline,
                    [pair.prior],
                    seeds=[seed],
                    guidance_scale=model.guidance_scale,
                    num_inference_steps=model.num_inference_steps,
                    batch_size=1,
                    resolution=model.resolution,
                    description="the base model's trajectory",
                )
            with recorded(model.pipeline) as tuned:
                sample_guided(model, [pair], guidance, seeds=[seed], description="the tuned model's trajectory")
            rows = {name: self._tiles(model, each.predicted) for name, each in (("base", base), ("tuned", tuned))}
            tile_grid(rows).save(folder / f"{number:02d}.png")

    def _tiles(self, model: StableDiffusion, predicted: Sequence[tuple[int, Tensor]]) -> list[Tile]:
        shown = [predicted[step] for step in evenly(len(predicted), self.num_columns)]
        return [Tile(_decode(model, latents), f"t = {timestep}") for timestep, latents in shown]


class RecordingScheduler(DDIMScheduler):
    """DDIM that keeps the timestep and the predicted x0 `[B, C, h, w]` of every step in `predicted`."""

    predicted: list[tuple[int, Tensor]]

    def step(self, model_output: Tensor, timestep: Any, sample: Tensor, **kwargs: Any) -> Any:
        alphas = self.alphas_cumprod.to(sample.device)[torch.as_tensor(timestep).expand(len(sample))]
        latents = predicted_x0(
            model_output.float(), sample.float(), alphas, prediction_type=self.config.prediction_type
        )
        self.predicted.append((int(timestep), latents))
        return super().step(model_output, timestep, sample, **kwargs)


@contextmanager
def recorded(pipeline: Any) -> Iterator[RecordingScheduler]:
    """Context in which `pipeline` samples by a `RecordingScheduler`; its own scheduler is back afterwards."""
    kept = pipeline.scheduler
    # Latents leave [-1, 1], and a scheduler's config that does not mention clipping would have them clipped.
    pipeline.scheduler = RecordingScheduler.from_config(kept.config, clip_sample=False)
    pipeline.scheduler.predicted = []
    try:
        yield pipeline.scheduler
    finally:
        pipeline.scheduler = kept


@torch.no_grad()
def _decode(model: StableDiffusion, latents: Tensor) -> Image.Image:
    vae = model.pipeline.vae
    pixels = vae.decode(latents.to(vae.dtype) / vae.config.scaling_factor).sample
    picture: Image.Image = model.pipeline.image_processor.postprocess(pixels, output_type="pil")[0]
    return picture

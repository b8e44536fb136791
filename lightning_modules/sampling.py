"""Drawing pictures with a pipeline: a seed for each picture, so that base and tuned model start from the same noise."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from diffusers import StableDiffusionPipeline
from PIL import Image
from rich.progress import track

from lightning_modules.stable_diffusion import StableDiffusion


def sample(
    pipeline: StableDiffusionPipeline,
    prompts: Sequence[str],
    *,
    seeds: Sequence[int],
    guidance_scale: float,
    num_inference_steps: int,
    batch_size: int,
    resolution: int,
    description: str,
) -> list[Image.Image]:
    """One picture for each prompt, from the noise of its seed.

    Picture `i` is plain diffusers' `pipeline(prompts[i], generator=torch.Generator().manual_seed(seeds[i]))`.
    """
    pictures: list[Image.Image] = []
    with _eval_mode(pipeline):
        for start in track(range(0, len(prompts), batch_size), description, disable=not prompts):
            chunk = slice(start, start + batch_size)
            pictures += pipeline(
                list(prompts[chunk]),
                generator=[torch.Generator("cpu").manual_seed(seed) for seed in seeds[chunk]],
                guidance_scale=guidance_scale,
                num_inference_steps=num_inference_steps,
                height=resolution,
                width=resolution,
            ).images
    return pictures


@contextmanager
def _eval_mode(pipeline: StableDiffusionPipeline) -> Iterator[None]:
    was_training = pipeline.unet.training
    pipeline.unet.eval()
    try:
        yield
    finally:
        pipeline.unet.train(was_training)


def sample_to_folder(
    model: StableDiffusion, prompts: Sequence[str], folder: Path, *, images_per_prompt: int, seed: int
) -> None:
    """Draws each prompt from the seeds `seed`, `seed + 1`, … into `folder/<prompt number>-<copy>.png`."""
    pictures = sample(
        model.pipeline,
        [prompt for prompt in prompts for _ in range(images_per_prompt)],
        seeds=[seed + copy for _ in prompts for copy in range(images_per_prompt)],
        guidance_scale=model.guidance_scale,
        num_inference_steps=model.num_inference_steps,
        batch_size=model.inference_batch_size,
        resolution=model.resolution,
        description="drawing",
    )
    for number, picture in enumerate(pictures):
        picture.save(folder / "{:02d}-{}.png".format(*divmod(number, images_per_prompt)))

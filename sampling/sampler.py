"""Drawing pictures with a pipeline: a seed for each picture, so that base and tuned model start from the same noise."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from diffusers import StableDiffusionPipeline
from PIL import Image
from rich.progress import track
from torch import Tensor

from datamodules.subject import PromptPair
from models.families.sd import StableDiffusion
from sampling.guidance import (
    REFERENCE_CONDITIONAL,
    REFERENCE_UNCONDITIONAL,
    STUDENT_CONDITIONAL,
    STUDENT_UNCONDITIONAL,
    Guidance,
    PerPictureGuidance,
)
from sampling.guided_denoiser import GuidedUNet


def sample(
    pipeline: StableDiffusionPipeline,
    prompts: Sequence[str],
    *,
    seeds: Sequence[int],
    guidance_scale: float,
    num_inference_steps: int,
    batch_size: int,
    resolution: int,
    description: str | None,
) -> list[Image.Image]:
    """One picture for each prompt, from the noise of its seed.

    Picture `i` is plain diffusers' `pipeline(prompts[i], generator=torch.Generator().manual_seed(seeds[i]))`.

    Args:
        description: of the progress bar; None shows none, as within a training, which has one already.
    """
    pictures: list[Image.Image] = []
    with _eval_mode(pipeline):
        hidden = description is None or not prompts
        for start in track(range(0, len(prompts), batch_size), description or "", disable=hidden):
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


def sample_guided(
    model: StableDiffusion,
    prompts: Sequence[PromptPair],
    guidance: Guidance | Sequence[Guidance],
    *,
    seeds: Sequence[int],
    description: str | None,
) -> tuple[list[Image.Image], dict[str, Tensor]]:
    """One picture of the tuned model for each prompt, from the noise of its seed.

    With classifier-free guidance it is the picture that `sample` draws of the instance prompts.

    Args:
        model: with a run's adapter loaded into its pipeline.
        prompts: one at least.
        description: see `sample`.
        guidance: one for all, or one for each prompt.

    Returns:
        The pictures, and the guidance's diagnostics `[steps, pictures]` in float32 on the CPU, by name.

    Raises:
        ValueError: see `GuidedUNet`, `PerPictureGuidance`.
    """
    pictures: list[Image.Image] = []
    diagnostics: list[dict[str, Tensor]] = []
    pipeline, size = model.pipeline, model.inference_batch_size
    with _eval_mode(pipeline):
        for start in track(range(0, len(prompts), size), description or "", disable=description is None):
            chunk = slice(start, start + size)
            own = guidance if isinstance(guidance, Guidance) else PerPictureGuidance(guidance[chunk])
            drawn, told = _guided(model, prompts[chunk], own, seeds[chunk])
            pictures += drawn
            diagnostics.append(told)
    return pictures, {name: torch.cat([each[name] for each in diagnostics], 1) for name in diagnostics[0]}


def _guided(
    model: StableDiffusion, prompts: Sequence[PromptPair], guidance: Guidance, seeds: Sequence[int]
) -> tuple[list[Image.Image], dict[str, Tensor]]:
    pipeline, tuned = model.pipeline, model.pipeline.unet
    states = _states(pipeline, prompts, guidance.rows)
    unet = GuidedUNet(
        tuned,
        model.unet,
        guidance,
        guidance_scale=model.guidance_scale,
        states=states,
        scheduler=pipeline.scheduler,
    )
    pipeline.unet = unet
    try:
        with unet.open():
            pictures = pipeline(
                prompt_embeds=next(iter(states.values())),  # not read: the rows have their own
                guidance_scale=1.0,  # one row a picture is asked for
                generator=[torch.Generator("cpu").manual_seed(seed) for seed in seeds],
                num_inference_steps=model.num_inference_steps,
                height=model.resolution,
                width=model.resolution,
            ).images
    finally:
        pipeline.unet = tuned
    steps = unet.diagnostics
    return pictures, {name: torch.stack([step[name] for step in steps]).float().cpu() for name in steps[0]}


@torch.no_grad()
def _states(
    pipeline: StableDiffusionPipeline, prompts: Sequence[PromptPair], rows: Sequence[str]
) -> Mapping[str, Tensor]:
    """The text encoder's hidden states `[B, tokens, D]` of each row, as the pipeline itself encodes them."""
    texts: dict[str, list[str]] = {
        REFERENCE_UNCONDITIONAL: [""] * len(prompts),
        REFERENCE_CONDITIONAL: [pair.prior for pair in prompts],
        STUDENT_UNCONDITIONAL: [""] * len(prompts),
        STUDENT_CONDITIONAL: [pair.instance for pair in prompts],
    }

    def encode(text: list[str]) -> Any:
        return pipeline.encode_prompt(text, pipeline.device, 1, do_classifier_free_guidance=False)[0]

    return {row: encode(texts[row]) for row in rows}


@contextmanager
def _eval_mode(pipeline: StableDiffusionPipeline) -> Iterator[None]:
    was_training = pipeline.unet.training
    pipeline.unet.eval()
    try:
        yield
    finally:
        pipeline.unet.train(was_training)

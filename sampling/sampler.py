"""Drawing pictures with a family: a seed for each picture, so that base and tuned model start from the same noise."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from PIL import Image
from rich.progress import track
from torch import Tensor

from datamodules.subject import PromptPair
from models.family import Condition, DiffusionFamily
from sampling.guidance import (
    REFERENCE_CONDITIONAL,
    REFERENCE_UNCONDITIONAL,
    STUDENT_CONDITIONAL,
    STUDENT_UNCONDITIONAL,
    Guidance,
    PerPictureGuidance,
)
from sampling.guided_denoiser import GuidedDenoiser


def sample(
    model: DiffusionFamily,
    prompts: Sequence[str],
    *,
    seeds: Sequence[int],
    guidance_scale: float,
    num_inference_steps: int | None = None,
    description: str | None,
) -> list[Image.Image]:
    """One picture for each prompt by the pipeline's own guidance, from the noise of its seed.

    Picture `i` is plain diffusers' `pipeline(prompts[i], generator=torch.Generator().manual_seed(seeds[i]))`, with
    whatever denoiser is in the pipeline.

    Args:
        guidance_scale: of classifier-free guidance, 1 or more.
        num_inference_steps: None takes the model's own.
        description: of the progress bar; None shows none, as within a training, which has one already.
    """
    pictures: list[Image.Image] = []
    size = model.inference_batch_size
    with _drawing(model):
        hidden = description is None or not prompts
        for start in track(range(0, len(prompts), size), description or "", disable=hidden):
            chunk = slice(start, start + size)
            pictures += model.draw(
                prompts[chunk],
                seeds=seeds[chunk],
                guidance_scale=guidance_scale,
                num_inference_steps=num_inference_steps or model.num_inference_steps,
            )
    return pictures


def sample_guided(
    model: DiffusionFamily,
    prompts: Sequence[PromptPair],
    guidance: Guidance | Sequence[Guidance],
    *,
    seeds: Sequence[int],
    num_inference_steps: int | None = None,
    description: str | None,
) -> tuple[list[Image.Image], dict[str, Tensor]]:
    """One picture of the tuned model for each prompt, from the noise of its seed.

    With classifier-free guidance it is the picture that `sample` draws of the instance prompts.

    Args:
        model: with a run's adapter loaded into its pipeline.
        prompts: one at least.
        guidance: one for all, or one for each prompt.
        num_inference_steps, description: see `sample`.

    Returns:
        The pictures, and the guidance's diagnostics `[steps, pictures]` in float32 on the CPU, by name.

    Raises:
        ValueError: see `GuidedDenoiser`, `PerPictureGuidance`.
    """
    pictures: list[Image.Image] = []
    diagnostics: list[dict[str, Tensor]] = []
    size, steps = model.inference_batch_size, num_inference_steps or model.num_inference_steps
    with _drawing(model):
        for start in track(range(0, len(prompts), size), description or "", disable=description is None):
            chunk = slice(start, start + size)
            own = guidance if isinstance(guidance, Guidance) else PerPictureGuidance(guidance[chunk])
            drawn, told = _guided(model, prompts[chunk], own, seeds[chunk], steps)
            pictures += drawn
            diagnostics.append(told)
    return pictures, {name: torch.cat([each[name] for each in diagnostics], 1) for name in diagnostics[0]}


def _guided(
    model: DiffusionFamily, prompts: Sequence[PromptPair], guidance: Guidance, seeds: Sequence[int], steps: int
) -> tuple[list[Image.Image], dict[str, Tensor]]:
    conditions = _conditions(model, prompts, guidance.rows)
    denoiser = GuidedDenoiser(model, guidance, conditions=conditions)
    with model.drawing_with(denoiser), denoiser.open():
        # The condition is not read: the rows have their own.
        pictures = model.draw_guided(next(iter(conditions.values())), seeds=seeds, num_inference_steps=steps)
    told = denoiser.diagnostics
    return pictures, {name: torch.stack([step[name] for step in told]).float().cpu() for name in told[0]}


def _conditions(model: DiffusionFamily, prompts: Sequence[PromptPair], rows: Sequence[str]) -> Mapping[str, Condition]:
    texts: dict[str, list[str]] = {
        REFERENCE_UNCONDITIONAL: [""] * len(prompts),
        REFERENCE_CONDITIONAL: [pair.prior for pair in prompts],
        STUDENT_UNCONDITIONAL: [""] * len(prompts),
        STUDENT_CONDITIONAL: [pair.instance for pair in prompts],
    }
    return {row: model.encode_for_drawing(texts[row]) for row in rows}


@contextmanager
def _drawing(model: DiffusionFamily) -> Iterator[None]:
    """Context in which the pipeline's denoiser draws, whatever it was about."""
    denoiser = model.network
    was_training, device = denoiser.training, model.pipeline.device
    # A fully tuned denoiser is float32 whatever the encoders are, and the pipeline hands it their dtype.
    dtype = model.encoders[0].module.dtype
    is_mixed = dtype != next(denoiser.parameters()).dtype
    denoiser.eval()
    try:
        # Compiled for training, it would be compiled anew for each size, and leave the hooks of a mixed batch out.
        with (
            torch.compiler.set_stance("force_eager"),
            torch.autocast(device.type, dtype if is_mixed else None, enabled=is_mixed),
        ):
            yield
    finally:
        denoiser.train(was_training)

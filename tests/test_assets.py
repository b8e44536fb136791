"""The embedded pipeline as a user of plain diffusers meets it."""

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline

from conftest import ROOT
from datamodules.sprites.captions import with_article
from datamodules.sprites.paint import BACKGROUNDS
from metrics.background_adherence import background_adherence

FOLDER = ROOT / "assets/sprites-sd"


@pytest.fixture(scope="module")
def pipeline() -> StableDiffusionPipeline:
    loaded = StableDiffusionPipeline.from_pretrained(str(FOLDER), dtype=torch.float32)
    loaded.set_progress_bar_config(disable=True)
    return loaded


def test_it_is_small_and_holds_safetensors_only() -> None:
    files = [path for path in FOLDER.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 25e6
    assert not [path for path in files if path.suffix in (".bin", ".pt", ".ckpt", ".pkl")]


def test_the_latents_are_scaled_as_the_schedule_wants_them(pipeline: StableDiffusionPipeline) -> None:
    """Zero terminal SNR starts sampling from pure noise, so the last step must hide everything."""
    assert pipeline.scheduler.alphas_cumprod[-1] == pytest.approx(0, abs=1e-6)
    assert pipeline.vae.config.scaling_factor == 1.0
    assert pipeline.scheduler.config.timestep_spacing == "trailing"


def test_backgrounds_follow_the_prompt(pipeline: StableDiffusionPipeline) -> None:
    prompts = [f"a large white square in the center on {with_article(name)} background" for name in BACKGROUNDS]
    generators = [torch.Generator().manual_seed(seed) for seed in range(len(prompts))]
    drawn = pipeline(prompts, generator=generators, num_inference_steps=10, guidance_scale=4.0, height=64, width=64)
    adherence = background_adherence([np.asarray(picture) for picture in drawn.images], prompts)
    assert adherence is not None and adherence >= 0.9

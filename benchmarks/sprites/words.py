"""What each word tells the embedded model: `python -m benchmarks.sprites.words`, figures of its model card.

Pictures of one large textured object are noised to several timesteps; the table shows by how much the denoising loss
rises when one word of the full description is another (any other texture but "solid", which is told apart by its mean
colour alone). A word that the model does not hear changes nothing, at any noise; a small rise alone does not tell
whether the word is hardly heard or has little to say beside the noisy picture.
"""

import argparse

import numpy as np
import torch
from diffusers import DDPMScheduler, StableDiffusionPipeline

from benchmarks.sprites.clip import CHOICES, described, in_words
from datamodules.sprites.pretraining import to_pixel_values
from datamodules.sprites.world import Scene, render, scene
from lightning_modules.pretraining.tokenizer import tokenize

FRESH = 5_000_003  # a seed that it was not trained on
TIMESTEPS = (150, 300, 450, 600, 700, 800, 900, 999)
OTHERS = {name: [choice for choice in choices if choice != "solid"] for name, choices in CHOICES.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="assets/sprites-sd")
    parser.add_argument("--pictures", type=int, default=60)
    arguments = parser.parse_args()
    pipeline = StableDiffusionPipeline.from_pretrained(arguments.model, dtype=torch.float32, use_safetensors=True)

    rng = np.random.default_rng(FRESH)
    scenes = textured(arguments.pictures)
    said = [described(each) for each in scenes]
    prompts = {"": [in_words(each) for each in said]}
    for name, choices in OTHERS.items():
        prompts[name] = [in_words({**e, name: str(rng.choice([c for c in choices if c != e[name]]))}) for e in said]
    losses = denoising_losses(pipeline, scenes, prompts)
    print(f"{'timestep':>10}{'loss':>10}" + "".join(f"{name:>12}" for name in OTHERS))
    for timestep, row in zip(TIMESTEPS, losses, strict=True):
        own = row.pop("")
        print(f"{timestep:>10}{own:>10.4f}" + "".join(f"{loss / own - 1:>12.1%}" for loss in row.values()))


def textured(count: int) -> list[Scene]:
    """The first `count` fresh scenes of one large object that is not solid."""
    found: list[Scene] = []
    index = 0
    while len(found) < count:
        one = scene(FRESH, index)
        if len(one.sprites) == 1 and one.sprites[0].size == "large" and one.sprites[0].paint.pattern != "solid":
            found.append(one)
        index += 1
    return found


@torch.no_grad()
def denoising_losses(
    pipeline: StableDiffusionPipeline, scenes: list[Scene], prompts: dict[str, list[str]]
) -> list[dict[str, float]]:
    """At each of `TIMESTEPS`, the mean loss over the scenes under each list of prompts, all from the same noise."""
    scheduler = DDPMScheduler.from_config(pipeline.scheduler.config)
    latents = pipeline.vae.encode(to_pixel_values(np.stack([render(each) for each in scenes]))).latent_dist.mean
    noise = torch.randn(latents.shape, generator=torch.Generator().manual_seed(FRESH))
    states = {
        name: pipeline.text_encoder(tokenize(pipeline.tokenizer, texts)).last_hidden_state
        for name, texts in prompts.items()
    }
    rows = []
    for timestep in TIMESTEPS:
        t = torch.full((len(latents),), timestep)
        noisy, target = scheduler.add_noise(latents, noise, t), scheduler.get_velocity(latents, noise, t)
        rows.append(
            {
                name: float((pipeline.unet(noisy, t, encoder_hidden_states=each).sample - target).square().mean())
                for name, each in states.items()
            }
        )
    return rows


if __name__ == "__main__":
    main()

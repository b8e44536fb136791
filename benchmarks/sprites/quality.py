"""Quality of the embedded model: `python -m benchmarks.sprites.quality`, the figures of its model card.

PSNR of the autoencoder on fresh pictures of the world, of wild scenes and of the subjects; background and attribute
adherence over samples of random prompts, the latter as the judge reads them, and what it takes textures for; a grid of
samples to look at.
"""

import argparse
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from hydra.utils import instantiate
from numpy.typing import NDArray
from PIL import Image

from benchmarks.shared.lanes import compose_run
from datamodules.sprites.attributes import asked
from datamodules.sprites.captions import caption
from datamodules.sprites.pretraining import to_pixel_values
from datamodules.sprites.subjects import SUBJECTS, sprite_subject
from datamodules.sprites.world import render, scene, wild_scene
from metrics.sprites.attribute_adherence import attribute_adherence, times_named
from metrics.sprites.background_adherence import background_adherence, named_background
from metrics.sprites.sprites_judge import SpritesJudge
from sampling.sampler import sample

FRESH = 1_000_003  # a seed that no training picture was drawn from


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="assets/sprites-sd")
    parser.add_argument("--judge", type=Path, default=Path("assets/sprites-judge"))
    parser.add_argument("--samples", type=int, default=200)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--guidance-scale", type=float, default=4.0)
    parser.add_argument("--grid", default="runs/sprites_quality.png", help="where the picture grid is written")
    arguments = parser.parse_args()

    model = instantiate(compose_run(["logger=csv", f"model.pretrained={arguments.model}"]).model)
    for name, pictures in fresh_pictures().items():
        print(f"PSNR, {len(pictures)} {name}: {psnr(model.pipeline.vae, pictures):.1f} dB (mean over pictures)")

    prompts = random_prompts(arguments.samples)
    drawn = sample(
        model,
        prompts,
        seeds=range(len(prompts)),
        guidance_scale=arguments.guidance_scale,
        num_inference_steps=arguments.steps,
        description=f"drawing {len(prompts)} random prompts",
    )
    arrays = [np.asarray(picture) for picture in drawn]
    print(f"background colour right: {background_adherence(arrays, prompts):.1%} of {len(prompts)} samples")
    named = times_named(prompts)
    judge = SpritesJudge.from_pretrained(arguments.judge)
    for name, share in attribute_adherence(judge, arrays, prompts).items():
        print(f"{name} right: {share:.1%} of the {named[name]} samples whose prompt names it")
    for texture, read in textures_read(judge, arrays, prompts).items():
        print(f"{texture}, of lone objects: read as {', '.join(f'{name} {n}' for name, n in read.most_common())}")
    Path(arguments.grid).parent.mkdir(parents=True, exist_ok=True)
    grid(drawn[:48]).save(arguments.grid)
    for start in range(0, 48, 8):
        print(" | ".join(prompts[start : start + 8]))
    print(f"the first 48 samples, in this order, lie in {arguments.grid}")


def textures_read(
    judge: SpritesJudge, pictures: list[NDArray[np.uint8]], prompts: list[str]
) -> dict[str, Counter[str]]:
    """How often each texture that is asked of a lone object was read as which, where the judge sees one object too."""
    read: dict[str, Counter[str]] = defaultdict(Counter)
    for prompt, seen in zip(prompts, judge.read(pictures), strict=True):
        objects = asked(prompt).objects
        if len(objects) == len(seen) == 1 and objects[0].texture:
            read[objects[0].texture][seen[0].texture] += 1
    return dict(read)


def fresh_pictures() -> dict[str, list[NDArray[np.uint8]]]:
    """Pictures that the autoencoder was not trained on, by what they show."""
    subjects = [
        sprite_subject(
            subject=name,
            identifier="sks",
            replaces_class_word=False,
            instance_prompt="a {identifier} {class_word}",
            num_train=5,
            num_heldout=12,
            seed=FRESH,
        )
        for name in SUBJECTS
    ]
    return {
        "world pictures": [render(scene(FRESH, index)) for index in range(300)],
        "wild pictures (any colours, subjects' patterns)": [render(wild_scene(FRESH, index)) for index in range(300)],
        "subject pictures": [np.asarray(p.image) for each in subjects for p in (*each.train, *each.heldout)],
    }


@torch.no_grad()
def psnr(vae: AutoencoderKL, pictures: list[NDArray[np.uint8]]) -> float:
    """Mean over pictures of the peak signal-to-noise ratio of their reconstructions, in dB."""
    pixels = to_pixel_values(np.stack(pictures))
    decoded = vae.decode(vae.encode(pixels).latent_dist.mean).sample.clamp(-1, 1)
    return float((-10 * torch.log10(((pixels - decoded) / 2).square().mean((1, 2, 3)))).mean())


def random_prompts(count: int) -> list[str]:
    """Captions of fresh scenes that name the background."""
    rng = np.random.default_rng(FRESH)
    captions = (caption(scene(FRESH, index), rng) for index in range(10 * count))
    return [text for text in captions if named_background(text)][:count]


def grid(pictures: list[Image.Image]) -> Image.Image:
    """Eight pictures a row, each twice its size."""
    arrays = [np.kron(np.asarray(picture), np.ones((2, 2, 1), np.uint8)) for picture in pictures]
    arrays += [np.zeros_like(arrays[0])] * (-len(arrays) % 8)
    return Image.fromarray(np.vstack([np.hstack(arrays[i : i + 8]) for i in range(0, len(arrays), 8)]))


if __name__ == "__main__":
    main()

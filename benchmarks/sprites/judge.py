"""How far the judge can be trusted: `python -m benchmarks.sprites.judge`, the figures of its model card.

Share of the pictures that it reads right, per attribute: rendered pictures of captions, their reconstructions by the
autoencoder, and every subject drawn under every evaluation prompt, which is the ceiling of any figure it gives.
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from numpy.typing import NDArray

from benchmarks.shared.rendered_as_asked import FRESH, rendered_as_asked
from datamodules.sprites.attributes import shown
from datamodules.sprites.pretraining import to_pixel_values
from datamodules.sprites.subjects import SUBJECTS
from datamodules.sprites.world import render, scene
from metrics.sprites.attribute_adherence import attribute_adherence, score
from metrics.sprites.sprites_judge import SpritesJudge


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--judge", type=Path, default=Path("assets/sprites-judge"))
    parser.add_argument("--vae", default="assets/sprites-sd/vae")
    parser.add_argument("--pictures", type=int, default=2000)
    arguments = parser.parse_args()
    judge = SpritesJudge.from_pretrained(arguments.judge)
    vae = AutoencoderKL.from_pretrained(arguments.vae)

    scenes = [scene(FRESH, index) for index in range(arguments.pictures)]
    questions = [shown(each) for each in scenes]
    pictures = [render(each) for each in scenes]
    show("rendered", score(judge, pictures, questions))
    show("reconstructed", score(judge, reconstruct(vae, pictures), questions))

    prompts, drawn = rendered_as_asked(list(SUBJECTS))
    show("subjects, rendered", attribute_adherence(judge, drawn, prompts))
    show("subjects, reconstructed", attribute_adherence(judge, reconstruct(vae, drawn), prompts))


@torch.no_grad()
def reconstruct(vae: AutoencoderKL, pictures: list[NDArray[np.uint8]]) -> list[NDArray[np.uint8]]:
    """The pictures once through the autoencoder."""
    pixels = to_pixel_values(np.stack(pictures))
    decoded = torch.cat([vae.decode(vae.encode(chunk).latent_dist.mean).sample for chunk in pixels.split(64)])
    return list(decoded.clamp(-1, 1).add(1).mul(127.5).round().byte().permute(0, 2, 3, 1).numpy())


def show(what: str, shares: dict[str, float]) -> None:
    print(f"{what:24}", "  ".join(f"{name} {share:.1%}" for name, share in shares.items()), flush=True)


if __name__ == "__main__":
    main()

"""How well the world's CLIP reads: `python -m benchmarks.sprites.clip`, the figures of its model card.

How often, of all values of one attribute put into the full description of a picture, the right one is the most similar
(zero-shot classification); how often a picture's caption is the most similar of a hundred; and the text similarity of
pictures and captions, their own and each other's.
"""

import argparse
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from datamodules.sprites.captions import PLACES, caption, with_article
from datamodules.sprites.paint import BACKGROUNDS, COLORS, TEXTURES
from datamodules.sprites.shapes import SHAPES
from datamodules.sprites.world import POSITIONS, RADIUS, Scene, render, scene
from metrics.backbone import Backbone
from metrics.text_similarity import text_similarity

FRESH = 3_000_017  # a seed that it was not trained on
CHOICES = {
    "noun": SHAPES,
    "color": COLORS,
    "texture": TEXTURES,
    "size": RADIUS,
    "position": POSITIONS,
    "background": BACKGROUNDS,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clip", default="assets/sprites-clip")
    parser.add_argument("--pictures", type=int, default=500)
    arguments = parser.parse_args()
    clip = Backbone(backbone=arguments.clip, weights=None, device=torch.device("cpu"))

    scenes = [scene(FRESH, index) for index in range(arguments.pictures)]
    pictures = clip.embed([Image.fromarray(render(each)) for each in scenes], batch_size=256)
    single = [number for number, each in enumerate(scenes) if len(each.sprites) == 1]
    for name, choices in CHOICES.items():
        right = zero_shot(clip, pictures[single], [scenes[number] for number in single], name, list(choices))
        print(f"{name} right: {right:.1%} of {len(single)} pictures of one object, chance {1 / len(choices):.0%}")

    rng = np.random.default_rng(FRESH)
    captions = clip.embed_prompts([caption(each, rng) for each in scenes], batch_size=256)
    found = np.mean([hit for group in groups(pictures, captions) for hit in group])
    print(f"own caption the nearest of 100: {found:.1%}")
    own, other = (text_similarity(pictures, each).mean() for each in (captions, captions.roll(1, 0)))
    print(f"text similarity: {own:.3f} to its own caption, {other:.3f} to another's")


def described(one: Scene) -> dict[str, str]:
    """Everything that can be said of a scene of one object."""
    (sprite,) = one.sprites
    return {
        "noun": sprite.noun, "color": sprite.color, "texture": sprite.paint.pattern, "size": sprite.size,
        "position": sprite.position, "background": one.background,
    }  # fmt: skip


def in_words(said: Mapping[str, str]) -> str:
    phrase = with_article(" ".join(said[name] for name in ("size", "texture", "color", "noun")))
    return f"a photo of {phrase} {PLACES[said['position']][0]} on {with_article(said['background'])} background"


def zero_shot(clip: Backbone, pictures: Tensor, scenes: Sequence[Scene], name: str, choices: Sequence[str]) -> float:
    """Share of the pictures `[N, D]` whose own value of an attribute is the most similar of all `choices`."""
    said = [described(each) for each in scenes]
    prompts = [in_words({**each, name: choice}) for each in said for choice in choices]
    embedded = clip.embed_prompts(prompts, batch_size=256).unflatten(0, (len(said), len(choices)))
    nearest = F.cosine_similarity(pictures[:, None], embedded, dim=2).argmax(1).tolist()
    return float(np.mean([choices[index] == each[name] for index, each in zip(nearest, said, strict=True)]))


def groups(pictures: Tensor, captions: Tensor, *, size: int = 100) -> Iterator[list[bool]]:
    """Per group of pictures, whether each one's own caption is the nearest of the group's."""
    for own, texts in zip(pictures.split(size), captions.split(size), strict=True):
        nearest = (F.normalize(own, dim=1) @ F.normalize(texts, dim=1).T).argmax(1)
        yield (nearest == torch.arange(len(own))).tolist()


if __name__ == "__main__":
    main()

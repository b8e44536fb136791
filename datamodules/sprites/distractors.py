"""Objects of a subject's noun that are not the subject, in the very scenes of its held-out pictures.

Identity has to score them below the subject. A kind of distractor shares with it either its colours, or its pattern, or
nothing but the noun.
"""

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType

import numpy as np

from datamodules.sprites.paint import COLORS, RGB, SUBJECT_PATTERNS, TEXTURES, Paint, shade
from datamodules.sprites.world import Scene, any_color

FAR = 90.0  # in RGB, of 442: a colour that nobody takes for the other
KINDS: Mapping[str, str] = MappingProxyType(
    {
        "pattern": "another subject pattern in the subject's colours",
        "colors": "the subject's pattern in other colours",
        "world": "a paint that the world draws",
    }
)


def distractor(scene: Scene, kind: str, rng: np.random.Generator) -> Scene:
    """`scene` of a subject, its object in another paint.

    Args:
        scene: one sprite, in the subject's paint.
        kind: a key of `KINDS`.
        rng: draws what `kind` leaves open.
    """
    (sprite,) = scene.sprites
    own = sprite.paint
    if kind == "pattern":
        pattern = str(rng.choice([each for each in SUBJECT_PATTERNS if each != own.pattern]))
        paint = replace(own, pattern=pattern)
    elif kind == "colors":
        first = _far_color(rng, own.first, scene.background_rgb)
        paint = Paint(own.pattern, first, _far_color(rng, own.second, scene.background_rgb, first))
    else:
        rgb = COLORS[str(rng.choice(list(COLORS)))]
        paint = Paint(str(rng.choice(list(TEXTURES))), rgb, shade(rgb))
    return replace(scene, sprites=(replace(sprite, paint=paint),))


def _far_color(rng: np.random.Generator, *others: RGB) -> RGB:
    while True:
        color = any_color(rng)
        if all(np.linalg.norm(np.subtract(color, other)) > FAR for other in others):
            return color

"""Cluttered pictures of the world: one object among small ones, for attention that has to find it.

The object is large and lies on top. Around it lie small sprites of all nouns, textures and colours, on a ground that is
textured itself.
"""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from datamodules.sprites.paint import BACKGROUNDS, RGB, SUBJECT_PATTERNS, TEXTURES, Paint
from datamodules.sprites.shapes import SHAPES
from datamodules.sprites.world import SIZE, Scene, Sprite, any_color, draw_sprite, jitter, mask, render

UNSEEN_PATTERNS = ("face", "quarters", "badge", "bolt")
"""Worn by the objects of the target task alone: pretraining never shows them."""
SEEN_PATTERNS = (*TEXTURES, *(name for name in SUBJECT_PATTERNS if name not in UNSEEN_PATTERNS))
RADIUS = (13.0, 17.0)
CLUTTER_RADIUS = (4.0, 7.5)


@dataclass(frozen=True, slots=True)
class Thing:
    """What one object keeps from picture to picture."""

    noun: str
    paint: Paint


@dataclass(frozen=True, slots=True)
class ClutteredPicture:
    """`pixels` uint8 `[64, 64, 3]`; `mask` bool `[64, 64]`, where the object covers more than half of a pixel."""

    pixels: NDArray[np.uint8]
    mask: NDArray[np.bool_]


def draw_thing(rng: np.random.Generator) -> Thing:
    """Any noun in any pattern that pretraining shows, in any two colours."""
    return Thing(str(rng.choice(list(SHAPES))), draw_paint(rng, str(rng.choice(SEEN_PATTERNS))))


def draw_paint(rng: np.random.Generator, pattern: str) -> Paint:
    """`pattern` in two colours that differ by at least 120 in one channel, so that it shows."""
    first, second = any_color(rng), any_color(rng)
    while max(abs(a - b) for a, b in zip(first, second, strict=True)) < 120:
        second = any_color(rng)
    return Paint(pattern, first, second)


def cluttered_picture(rng: np.random.Generator, thing: Thing) -> ClutteredPicture:
    """`thing` at any place among 5 to 9 small sprites, on any ground."""
    name = str(rng.choice(list(BACKGROUNDS)))
    sprites = [_ground(rng, jitter(rng, BACKGROUNDS[name], 12))]
    sprites += [_clutter(rng) for _ in range(rng.integers(5, 10))]
    shown = _at(rng, draw_sprite(rng, position="center", noun=thing.noun, paint=thing.paint), RADIUS, margin=14)
    scene = Scene(background="", background_rgb=BACKGROUNDS[name], sprites=(*sprites, shown))
    return ClutteredPicture(render(scene), mask(shown) > 0.5)


def _ground(rng: np.random.Generator, color: RGB) -> Sprite:
    """The ground's texture in two near tones, as one square sprite that covers the picture."""
    paint = Paint(str(rng.choice(list(TEXTURES))), color, jitter(rng, color, 40))
    sprite = draw_sprite(rng, position="center", noun="square", paint=paint)
    return replace(sprite, center=(SIZE / 2, SIZE / 2), radius=float(SIZE), angle=rng.uniform(-0.7, 0.7))


def _clutter(rng: np.random.Generator) -> Sprite:
    paint = Paint(str(rng.choice(list(TEXTURES))), any_color(rng), any_color(rng))
    return _at(rng, draw_sprite(rng, position="center", paint=paint), CLUTTER_RADIUS, margin=2)


def _at(rng: np.random.Generator, sprite: Sprite, radius: tuple[float, float], *, margin: int) -> Sprite:
    center = (rng.uniform(margin, SIZE - margin), rng.uniform(margin, SIZE - margin))
    return replace(sprite, center=center, radius=rng.uniform(*radius), angle=rng.uniform(-0.5, 0.5))

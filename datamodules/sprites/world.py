"""The procedural world: a scene is drawn from `(seed, index)` alone, and rendered to 64 × 64 pixels."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from datamodules.sprites.paint import BACKGROUNDS, COLORS, PATTERNS, RGB, TEXTURES, Paint, shade
from datamodules.sprites.shapes import SHAPES

SIZE = 64
RADIUS = {"small": (8.0, 10.0), "large": (14.0, 17.0)}
POSITIONS = {"center": (32, 32), "left": (18, 32), "right": (46, 32), "top": (32, 18), "bottom": (32, 46)}
PAIRS = (("left", "right"), ("right", "left"), ("top", "bottom"), ("bottom", "top"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Sprite:
    """One object, in words and in numbers.

    Args:
        noun: a key of `SHAPES`.
        color: the colour's name, "" where it has none (a subject's).
        size: "small" or "large".
        position: a key of `POSITIONS`.
        paint: pattern and colours as rendered.
        center: pixels, x to the right and y down.
        radius: pixels.
        angle: radians.
    """

    noun: str
    color: str
    size: str
    position: str
    paint: Paint
    center: tuple[float, float]
    radius: float
    angle: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """A background (its name, "" where it has none, and its colour) and the sprites on it, the first one below."""

    background: str
    background_rgb: RGB
    sprites: tuple[Sprite, ...]


def scene(seed: int, index: int) -> Scene:
    """The world's scene number `index`: one object or, in 35 % of the scenes, two on opposite sides."""
    rng = np.random.default_rng([seed, index])
    background = str(rng.choice(list(BACKGROUNDS)))
    if rng.random() < 0.35:
        positions: tuple[str, ...] = PAIRS[rng.integers(len(PAIRS))]
        largest = 14.5
    else:
        positions, largest = (str(rng.choice(list(POSITIONS))),), RADIUS["large"][1]
    sprites = tuple(draw_sprite(rng, position=position, largest=largest) for position in positions)
    return Scene(background=background, background_rgb=jitter(rng, BACKGROUNDS[background], 5), sprites=sprites)


def draw_sprite(
    rng: np.random.Generator,
    *,
    position: str,
    largest: float = RADIUS["large"][1],
    noun: str | None = None,
    size: str | None = None,
    paint: Paint | None = None,
) -> Sprite:
    """A sprite at `position`; what is not given is drawn. A given `paint` is a subject's: it has no colour name."""
    noun = noun or str(rng.choice(list(SHAPES)))
    size = size or str(rng.choice(list(RADIUS)))
    color = str(rng.choice(list(COLORS)))
    texture = str(rng.choice(list(TEXTURES), p=(0.4, 0.2, 0.2, 0.2)))
    rgb = jitter(rng, COLORS[color], 6)
    low, high = RADIUS[size]
    x, y = POSITIONS[position]
    return Sprite(
        noun=noun,
        color="" if paint else color,
        size=size,
        position=position,
        paint=paint or Paint(texture, rgb, shade(rgb)),
        center=(x + rng.uniform(-2, 2), y + rng.uniform(-2, 2)),
        radius=rng.uniform(min(low, largest - 1), min(high, largest)),
        angle=rng.uniform(-0.15, 0.15),
    )


def repainted_scene(seed: int, index: int) -> Scene:
    """A scene of the world in which a sprite may wear any paint and stands a little off its place, for the judge.

    Samples of a model are less exact than the world, and a subject's paint has no word.
    """
    rng = np.random.default_rng([seed, index, 2])
    original = scene(seed, index)
    sprites = []
    for sprite in original.sprites:
        x, y = sprite.center
        sprite = replace(sprite, center=(x + rng.uniform(-2.5, 2.5), y + rng.uniform(-2.5, 2.5)))
        if rng.random() < 0.4:
            paint = Paint(str(rng.choice(list(PATTERNS))), any_color(rng), any_color(rng))
            sprite = replace(sprite, color="", paint=paint)
        sprites.append(sprite)
    return replace(original, sprites=tuple(sprites))


def textured_scene(seed: int, index: int) -> Scene:
    """A scene of the world in which no sprite is solid: where it was, it wears one of the other textures."""
    rng = np.random.default_rng([seed, index, 3])
    original = scene(seed, index)
    sprites = []
    for sprite in original.sprites:
        if sprite.paint.pattern == "solid":
            texture = str(rng.choice([name for name in TEXTURES if name != "solid"]))
            sprite = replace(sprite, paint=replace(sprite.paint, pattern=texture))
        sprites.append(sprite)
    return replace(original, sprites=tuple(sprites))


def wild_scene(seed: int, index: int) -> Scene:
    """A scene without words: any colours, any pattern, any place. It teaches the VAE what captions never name."""
    rng = np.random.default_rng([seed, index, 1])
    sprites = []
    for _ in range(rng.integers(1, 4)):
        first, second = any_color(rng), any_color(rng)
        if rng.random() < 0.3:
            second = shade(first)
        sprite = draw_sprite(rng, position="center", paint=Paint(str(rng.choice(list(PATTERNS))), first, second))
        center = (rng.uniform(12, 52), rng.uniform(12, 52))
        sprites.append(replace(sprite, center=center, radius=rng.uniform(8, 20), angle=rng.uniform(-0.4, 0.4)))
    return Scene(background="", background_rgb=any_color(rng), sprites=tuple(sprites))


def render(scene: Scene) -> NDArray[np.uint8]:
    """The scene as `[64, 64, 3]`, antialiased over one pixel."""
    picture = np.empty((SIZE, SIZE, 3), np.float32)
    picture[:] = scene.background_rgb
    for sprite in scene.sprites:
        _draw(picture, sprite)
    return (picture + 0.5).astype(np.uint8)


def mask(sprite: Sprite) -> NDArray[np.floating[Any]]:
    """How much of each pixel the sprite covers: `[64, 64]` in [0, 1]."""
    rows, columns = np.mgrid[0:SIZE, 0:SIZE].astype(np.float32)
    return _coverage(sprite, *_local(sprite, columns, rows))


def _draw(picture: NDArray[np.floating[Any]], sprite: Sprite) -> None:
    reach = 1.15 * sprite.radius + 2
    (left, right), (top, bottom) = ((max(0, int(c - reach)), min(SIZE, int(c + reach) + 1)) for c in sprite.center)
    rows, columns = np.mgrid[top:bottom, left:right].astype(np.float32)
    x, y = _local(sprite, columns, rows)
    alpha = _coverage(sprite, x, y)[..., None]
    mix = PATTERNS[sprite.paint.pattern](x, y, sprite.radius)[..., None]
    first, second = (np.asarray(c, np.float32) for c in (sprite.paint.first, sprite.paint.second))
    window = picture[top:bottom, left:right]
    window += alpha * (first + mix * (second - first) - window)


def _local(
    sprite: Sprite, columns: NDArray[np.floating[Any]], rows: NDArray[np.floating[Any]]
) -> tuple[NDArray[np.floating[Any]], NDArray[np.floating[Any]]]:
    x, y = (columns + 0.5 - sprite.center[0]) / sprite.radius, (rows + 0.5 - sprite.center[1]) / sprite.radius
    cos, sin = np.float32(np.cos(sprite.angle)), np.float32(np.sin(sprite.angle))
    return (cos * x + sin * y).astype(np.float32), (cos * y - sin * x).astype(np.float32)


def _coverage(sprite: Sprite, x: NDArray[np.floating[Any]], y: NDArray[np.floating[Any]]) -> NDArray[np.floating[Any]]:
    return np.clip(0.5 - SHAPES[sprite.noun](x, y) * sprite.radius, 0, 1).astype(np.float32)


def jitter(rng: np.random.Generator, color: RGB, amount: int) -> RGB:
    """`color` with each channel moved by at most `amount`."""
    red, green, blue = (int(np.clip(c + rng.integers(-amount, amount + 1), 0, 255)) for c in color)
    return red, green, blue


def any_color(rng: np.random.Generator) -> RGB:
    """Uniform over all colours."""
    red, green, blue = (int(c) for c in rng.integers(0, 256, 3))
    return red, green, blue

"""The perfect answer to a prompt: a scene that shows exactly what was asked, and anything where nothing was asked."""

from dataclasses import replace

import numpy as np

from datamodules.sprites.attributes import Asked, Seen
from datamodules.sprites.paint import BACKGROUNDS, COLORS, Paint, shade
from datamodules.sprites.world import PAIRS, POSITIONS, RADIUS, Scene, draw_sprite


def scene_as_asked(question: Asked, rng: np.random.Generator, *, paint: Paint | None = None) -> Scene:
    """A scene of the world that is right in everything that `question` asks.

    Args:
        paint: the subject's, worn by the first object, in the colour or the texture that is asked for it.
    """
    background = question.background or str(rng.choice(list(BACKGROUNDS)))
    if len(question.objects) == 1:
        places: tuple[str, ...] = (question.objects[0].position or str(rng.choice(list(POSITIONS))),)
        largest = RADIUS["large"][1]
    else:
        named = tuple(each.position for each in question.objects)
        places, largest = named if all(named) else PAIRS[rng.integers(len(PAIRS))], 14.5
    sprites = []
    for number, (wanted, place) in enumerate(zip(question.objects, places, strict=True)):
        worn = repainted(paint, wanted) if paint and number == 0 else None
        sprite = draw_sprite(
            rng, position=place, largest=largest, noun=wanted.noun, size=wanted.size or None, paint=worn
        )
        if worn is None:
            color = wanted.color or sprite.color
            rgb = COLORS[color]
            texture = wanted.texture or sprite.paint.pattern
            sprite = replace(sprite, color=color, paint=Paint(texture, rgb, shade(rgb)))
        sprites.append(sprite)
    return Scene(background=background, background_rgb=BACKGROUNDS[background], sprites=tuple(sprites))


def repainted(paint: Paint, wanted: Seen) -> Paint:
    """`paint` as asked: its pattern in another colour and that one's darker tone, or a texture in its own colours."""
    first, second = (COLORS[wanted.color], shade(COLORS[wanted.color])) if wanted.color else (paint.first, paint.second)
    return Paint(wanted.texture or paint.pattern, first, second)

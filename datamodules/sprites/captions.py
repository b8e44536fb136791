"""What can be said of a scene: captions of varied wording and completeness."""

import numpy as np

from datamodules.sprites.world import Scene, Sprite

_OPENINGS = ("a photo of ", "a picture of ", "an image of ", "")
PLACES = {
    "center": ("in the center", "in the middle"),
    "left": ("on the left", "at the left"),
    "right": ("on the right", "at the right"),
    "top": ("at the top", "on the top"),
    "bottom": ("at the bottom", "on the bottom"),
}
_RELATIONS = {
    ("left", "right"): "to the left of",
    ("right", "left"): "to the right of",
    ("top", "bottom"): "above",
    ("bottom", "top"): "below",
}
_BACKGROUNDS = ("on {} background", "with {} background", "in front of {} wall")


def caption(scene: Scene, rng: np.random.Generator, *, texture_named: float = 0.65) -> str:
    """One caption: every attribute is true, any of them may be left out.

    Args:
        texture_named: chance in [0, 1] that an object's texture is said.
    """
    text = str(rng.choice(_OPENINGS))
    first = scene.sprites[0]
    if len(scene.sprites) == 1:
        text += _phrase(first, rng, texture_named)
        if rng.random() < 0.55:
            text += f" {rng.choice(PLACES[first.position])}"
    else:
        second = scene.sprites[1]
        relation = _RELATIONS[first.position, second.position] if rng.random() < 0.6 else "and"
        if relation == "and" and rng.random() < 0.5:
            first, second = second, first
        text += f"{_phrase(first, rng, texture_named)} {relation} {_phrase(second, rng, texture_named)}"
    if rng.random() < 0.75:
        text += f" {rng.choice(_BACKGROUNDS).format(with_article(scene.background))}"
    return text


def _phrase(sprite: Sprite, rng: np.random.Generator, texture_named: float) -> str:
    said = (
        (sprite.size, 0.5),
        (sprite.paint.pattern, texture_named),
        (sprite.color, 0.8),
    )
    words = [word for word, chance in said if rng.random() < chance]
    return with_article(" ".join([*words, sprite.noun]))


def with_article(phrase: str) -> str:
    """The phrase behind its indefinite article: "an olive heart"."""
    return f"{'an' if phrase[0] in 'aeiou' else 'a'} {phrase}"

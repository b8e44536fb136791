"""Styles of the Sprites world: a paint that the world never draws, worn by several nouns.

Every training picture has a caption that names its noun and its background and not the style, and no two of them share
a background: the style is what they have in common and no caption explains (DCO, arXiv:2402.12004). Held-out pictures
and evaluation prompts are of nouns that no training picture shows.
"""

from collections.abc import Mapping
from itertools import cycle

import numpy as np
from PIL import Image

from datamodules.sprites.captions import with_article
from datamodules.sprites.embedded_subject import EmbeddedSubject
from datamodules.sprites.paint import BACKGROUNDS, Paint
from datamodules.sprites.world import POSITIONS, Scene, draw_sprite, render
from datamodules.subject import Picture, PromptPair

STYLES: Mapping[str, Paint] = {
    "two_tone": Paint("halves", (80, 235, 205), (190, 25, 130)),
    "harlequin": Paint("quarters", (200, 245, 90), (75, 20, 110)),
}
NOUNS = ("heart", "circle", "star", "square", "triangle", "diamond")
HELDOUT_NOUNS = ("cross", "moon", "flower", "ring")
PROMPTS = tuple(
    template.format(noun)  # noun by noun within a template, so that the first few prompts ask for each of them
    for template in (
        "a photo of a {} on a pink background",
        "a photo of a {} on a navy background",
        "a photo of a {} on an olive background",
        "a photo of a {} on the left",
        "a photo of a small {}",
    )
    for noun in HELDOUT_NOUNS
)


def sprite_style(*, style: str, num_train: int, num_heldout: int, seed: int) -> EmbeddedSubject:
    """A style with its pictures drawn afresh from `seed`; it has no identifier, no class word and no identity.

    Args:
        style: a key of `STYLES`.
        num_train: pictures to learn from, of `NOUNS` in turn.
        num_heldout: pictures of `HELDOUT_NOUNS` in turn.

    Raises:
        ValueError: an unknown style, or no picture to train on, or more of them than there are backgrounds.
    """
    if style not in STYLES:
        raise ValueError(f"data.style={style!r} is not drawn by this world: choose one of {', '.join(STYLES)}")
    if not 1 <= num_train <= len(BACKGROUNDS):
        raise ValueError(
            f"data.num_train={num_train}: 1 to {len(BACKGROUNDS)} pictures, each on a background of its own"
        )
    number = list(STYLES).index(style)
    backgrounds = [str(name) for name in np.random.default_rng([seed, number]).permutation(list(BACKGROUNDS))]
    paint = STYLES[style]
    train = tuple(
        _picture(f"{style}_{i}", noun, background, paint, np.random.default_rng([seed, number, i, 0]))
        for i, noun, background in zip(range(num_train), cycle(NOUNS), cycle(backgrounds), strict=False)
    )
    heldout = tuple(
        _picture(f"{style}_heldout_{i}", noun, background, paint, np.random.default_rng([seed, number, i, 1]))
        for i, noun, background in zip(range(num_heldout), cycle(HELDOUT_NOUNS), cycle(backgrounds), strict=False)
    )
    return EmbeddedSubject(
        name=style,
        identifier=None,
        class_word="",
        class_prompt="",
        train=train,
        heldout=heldout,
        evaluation_prompts=tuple(map(_same_for_both, PROMPTS)),
        is_object=False,
    )


def _picture(name: str, noun: str, background: str, paint: Paint, rng: np.random.Generator) -> Picture:
    sprite = draw_sprite(rng, position=str(rng.choice(list(POSITIONS))), noun=noun, paint=paint)
    scene = Scene(background=background, background_rgb=BACKGROUNDS[background], sprites=(sprite,))
    prompts = _same_for_both(f"a photo of a {noun} on {with_article(background)} background")
    return Picture(image=Image.fromarray(render(scene)), prompts=prompts, name=name)


def _same_for_both(prompt: str) -> PromptPair:
    return PromptPair(instance=prompt, prior=prompt)

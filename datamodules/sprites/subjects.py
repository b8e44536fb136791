"""Subjects of the Sprites world: known nouns in patterns and colours that the world never draws.

Their training pictures share one background and one placement, as the photos of one afternoon do, so that a model which
overfits drags that background along.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
from PIL import Image

from datamodules.sprites.captions import with_article
from datamodules.sprites.distractors import KINDS, distractor
from datamodules.sprites.embedded_subject import EmbeddedSubject
from datamodules.sprites.paint import BACKGROUNDS, Paint
from datamodules.sprites.world import POSITIONS, Scene, draw_sprite, mask, render
from datamodules.subject import Picture, PromptPair, prompt_pair


@dataclass(frozen=True, slots=True)
class SpriteSubject:
    """A noun in a paint of its own, and the habit of its training pictures."""

    noun: str
    paint: Paint
    background: str
    position: str
    size: str


SUBJECTS: Mapping[str, SpriteSubject] = {
    "heart_face": SpriteSubject("heart", Paint("face", (60, 200, 190), (20, 70, 80)), "olive", "left", "large"),
    "star_badge": SpriteSubject("star", Paint("badge", (51, 214, 229), (89, 60, 123)), "navy", "top", "large"),
    "square_bolt": SpriteSubject("square", Paint("bolt", (250, 110, 150), (20, 70, 80)), "beige", "right", "large"),
    "circle_quarters": SpriteSubject(
        "circle", Paint("quarters", (90, 230, 160), (90, 20, 130)), "gray", "bottom", "large"
    ),
    "triangle_halves": SpriteSubject(
        "triangle", Paint("halves", (255, 120, 210), (95, 20, 150)), "olive", "bottom", "large"
    ),
    "moon_halves": SpriteSubject("moon", Paint("halves", (200, 255, 90), (0, 60, 160)), "gray", "top", "large"),
}

TEMPLATES = (  # the first ten are a fair mix too; no subject trains on a background that is named here
    "a photo of a {identifier} {class_word} on a black background",
    "a photo of a {identifier} {class_word} in the center",
    "a photo of a {identifier} {class_word} to the left of a solid red circle",
    "a photo of a {identifier} {class_word} on a pink background",
    "a photo of a small {identifier} {class_word}",
    "a photo of a blue {identifier} {class_word} on a pink background",
    "a photo of a {identifier} {class_word} on a teal background",
    "a large {identifier} {class_word} at the top on a sky background",
    "a photo of a {identifier} {class_word} above a dotted white moon on a maroon background",
    "a photo of a striped {identifier} {class_word}",
    "a photo of a {identifier} {class_word} on a mint background",
    "a photo of a {identifier} {class_word} on the left",
    "a photo of a {identifier} {class_word} to the right of a striped blue square",
    "a photo of a {identifier} {class_word} on a maroon background",
    "a small {identifier} {class_word} at the bottom on a pink background",
    "a photo of a red {identifier} {class_word} on a mint background",
    "a photo of a {identifier} {class_word} on a sky background",
    "a photo of a {identifier} {class_word} on the right",
    "a photo of a {identifier} {class_word} and a green cross on a black background",
    "a photo of a checkered {identifier} {class_word} on a sky background",
)


def sprite_subject(
    *,
    subject: str,
    identifier: str | None,
    replaces_class_word: bool,
    instance_prompt: str,
    num_train: int,
    num_heldout: int,
    seed: int,
) -> EmbeddedSubject:
    """A subject with its pictures and their masks drawn afresh from `seed`, and its distractors.

    Args:
        subject: a key of `SUBJECTS`.
        identifier: the rare word that stands for it; one token of the embedded model for "sks", "zwx", "ohwx", "olis".
            None: there is none.
        replaces_class_word: see `prompt_pair`.
        instance_prompt: template of every training picture's prompt.
        num_train: pictures to learn from, all on the subject's own background.
        num_heldout: pictures on other backgrounds, at other places and sizes; as many distractors of each kind.

    Raises:
        ValueError: an unknown subject, or no picture to train on.
    """
    if subject not in SUBJECTS:
        raise ValueError(f"data.subject={subject!r} is not drawn by this world: choose one of {', '.join(SUBJECTS)}")
    if num_train < 1:
        raise ValueError(f"data.num_train={num_train}: at least one picture to train on is needed")
    spec = SUBJECTS[subject]
    pair = partial(prompt_pair, identifier=identifier, class_word=spec.noun, replaces_class_word=replaces_class_word)
    prompts = pair(instance_prompt)
    number = list(SUBJECTS).index(subject)
    train = [_scene(spec, np.random.default_rng([seed, number, i])) for i in range(num_train)]
    heldout = [_heldout_scene(spec, np.random.default_rng([seed, number, i, 1])) for i in range(num_heldout)]
    said = [
        pair(f"a photo of a {{identifier}} {{class_word}} on {with_article(each.background)} background")
        for each in heldout
    ]
    return EmbeddedSubject(
        name=subject,
        identifier=identifier,
        class_word=spec.noun,
        class_prompt=prompts.prior,
        train=tuple(_picture(each, prompts, f"{subject}_{i}") for i, each in enumerate(train)),
        heldout=tuple(
            _picture(each, words, f"{subject}_heldout_{i}")
            for i, (each, words) in enumerate(zip(heldout, said, strict=True))
        ),
        distractors=tuple(
            _picture(
                distractor(each, kind, np.random.default_rng([seed, number, i, 2, k])),
                PromptPair(instance=words.prior, prior=words.prior),  # it is not the subject
                f"{subject}_distractor_{kind}_{i}",
            )
            for i, (each, words) in enumerate(zip(heldout, said, strict=True))
            for k, kind in enumerate(KINDS)
        ),
        evaluation_prompts=tuple(map(pair, TEMPLATES)),
        is_object=True,
    )


def _heldout_scene(spec: SpriteSubject, rng: np.random.Generator) -> Scene:
    background = str(rng.choice([each for each in BACKGROUNDS if each != spec.background]))
    position = str(rng.choice([each for each in POSITIONS if each != spec.position]))
    size = str(rng.choice(["small", "large"]))
    return _scene(replace(spec, background=background, position=position, size=size), rng)


def _scene(spec: SpriteSubject, rng: np.random.Generator) -> Scene:
    sprite = draw_sprite(rng, position=spec.position, noun=spec.noun, size=spec.size, paint=spec.paint)
    return Scene(background=spec.background, background_rgb=BACKGROUNDS[spec.background], sprites=(sprite,))


def _picture(scene: Scene, prompts: PromptPair, name: str) -> Picture:
    (sprite,) = scene.sprites
    return Picture(image=Image.fromarray(render(scene)), prompts=prompts, name=name, mask=mask(sprite) > 0.5)

"""Subjects of the Sprites world: known nouns in patterns and colours that the world never draws.

Their training pictures share one background and one placement, as the photos of one afternoon do, so that a model which
overfits drags that background along.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np
from PIL import Image

from datamodules.sprites.captions import with_article
from datamodules.sprites.paint import BACKGROUNDS, Paint
from datamodules.sprites.world import POSITIONS, Scene, draw_sprite, render
from datamodules.subject import Picture, PromptPair, Subject, prompt_pair


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
    "star_badge": SpriteSubject("star", Paint("badge", (170, 240, 40), (200, 20, 110)), "navy", "top", "large"),
    "square_bolt": SpriteSubject("square", Paint("bolt", (250, 110, 150), (20, 70, 80)), "beige", "right", "large"),
    "circle_quarters": SpriteSubject(
        "circle", Paint("quarters", (90, 230, 160), (90, 20, 130)), "gray", "bottom", "large"
    ),
}

TEMPLATES = (
    *(f"a photo of a {{identifier}} {{class_word}} on {with_article(name)} background" for name in BACKGROUNDS),
    *(
        f"a photo of a {{identifier}} {{class_word}} {place}"
        for place in ("in the center", "on the left", "on the right")
    ),
    "a photo of a small {identifier} {class_word}",
    "a small {identifier} {class_word} at the bottom on a pink background",
    "a large {identifier} {class_word} in the center on a sky background",
    "a photo of a {identifier} {class_word} to the left of a solid red circle",
    "a photo of a {identifier} {class_word} to the right of a striped blue square",
    "a photo of a {identifier} {class_word} above a dotted white moon on a teal background",
    "a photo of a {identifier} {class_word} and a green cross on a black background",
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
    judge: str | None,
    identity: str | None,
) -> Subject:
    """A subject with its pictures drawn afresh from `seed`.

    Args:
        subject: a key of `SUBJECTS`.
        identifier: the rare word that stands for it; one token of the embedded model for "sks", "zwx", "ohwx", "olis".
            None: there is none.
        replaces_class_word: see `prompt_pair`.
        instance_prompt: template of every training picture's prompt.
        num_train: pictures to learn from, all on the subject's own background.
        num_heldout: pictures on other backgrounds, at other places and sizes.
        judge: folder of the world's judge, or None.
        identity: folder of its identity, or None.

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
    train = tuple(
        _picture(spec, prompts, f"{subject}_{i}", np.random.default_rng([seed, number, i])) for i in range(num_train)
    )
    heldout = tuple(
        _heldout_picture(spec, pair, f"{subject}_heldout_{i}", np.random.default_rng([seed, number, i, 1]))
        for i in range(num_heldout)
    )
    return Subject(
        name=subject,
        identifier=identifier,
        class_word=spec.noun,
        class_prompt=prompts.prior,
        train=train,
        heldout=heldout,
        evaluation_prompts=tuple(pair(template) for template in TEMPLATES),
        judge=judge or None,
        identity=identity or None,
    )


def _heldout_picture(
    spec: SpriteSubject, pair: Callable[[str], PromptPair], name: str, rng: np.random.Generator
) -> Picture:
    background = str(rng.choice([each for each in BACKGROUNDS if each != spec.background]))
    position = str(rng.choice([each for each in POSITIONS if each != spec.position]))
    other = SpriteSubject(spec.noun, spec.paint, background, position, str(rng.choice(["small", "large"])))
    prompts = pair(f"a photo of a {{identifier}} {{class_word}} on {with_article(background)} background")
    return _picture(other, prompts, name, rng)


def _picture(spec: SpriteSubject, prompts: PromptPair, name: str, rng: np.random.Generator) -> Picture:
    sprite = draw_sprite(rng, position=spec.position, noun=spec.noun, size=spec.size, paint=spec.paint)
    scene = Scene(background=spec.background, background_rgb=BACKGROUNDS[spec.background], sprites=(sprite,))
    return Picture(image=Image.fromarray(render(scene)), prompts=prompts, name=name)

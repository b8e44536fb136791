"""The embedded target task of GTA: fine-grained classes, cluttered pictures, few of them.

A class is a pair of colours, as a bird's species is its plumage; its members are of any noun, in any pattern that
pretraining never showed. Ground and clutter are coloured at random and say nothing: whoever looks at the object is
right.
"""

import numpy as np
from PIL import Image

from datamodules.classification import ClassificationData, LabelledPicture, nested_subset, split_validation
from datamodules.sprites.cluttered import UNSEEN_PATTERNS, Thing, cluttered_picture
from datamodules.sprites.paint import RGB, Paint
from datamodules.sprites.shapes import SHAPES
from datamodules.sprites.world import jitter

MAIN: dict[str, RGB] = {
    "ember": (205, 60, 35),
    "lagoon": (30, 115, 160),
    "orchid": (150, 60, 150),
    "moss": (75, 125, 40),
}
MARKINGS: dict[str, RGB] = {
    "cream": (245, 225, 170),
    "rose": (245, 160, 190),
    "charcoal": (45, 45, 50),
    "mint": (150, 235, 190),
}
CLASSES = tuple((main, marking) for main in MAIN for marking in MARKINGS)


def cluttered_objects(
    *, num_train: int, num_test: int, fraction: float, validation_share: float, seed: int
) -> ClassificationData:
    """Pictures of 16 classes, drawn afresh from `seed`, with the objects' masks.

    Args:
        num_train: training pictures a class, before `fraction`.
        num_test: test pictures a class.
        fraction: share of each class's training pictures that is used; a smaller one lies within a larger one.
        validation_share: share of those that is held out of training, to choose settings on.
        seed: of the pictures and the subset; the run's own seed is at the top.

    Raises:
        ValueError: a number out of range, named.
    """
    for name, count in (("num_train", num_train), ("num_test", num_test)):
        if count < 1:
            raise ValueError(f"data.{name}={count}: at least one picture a class is needed")
    pool = [_picture(seed, label, number) for label in range(len(CLASSES)) for number in range(num_train)]
    used = [pool[i] for i in nested_subset([p.label for p in pool], fraction=fraction, seed=seed)]
    train, validation = split_validation([p.label for p in used], share=validation_share, seed=seed)
    return ClassificationData(
        name="cluttered_objects",
        classes=tuple(f"{main} with {marking}" for main, marking in CLASSES),
        train=tuple(used[i] for i in train),
        validation=tuple(used[i] for i in validation),
        test=tuple(_picture(seed, label, -1 - number) for label in range(len(CLASSES)) for number in range(num_test)),
    )


def _picture(seed: int, label: int, number: int) -> LabelledPicture:
    """Picture `number` of a class: those from 0 on are for training, those below for the test."""
    rng = np.random.default_rng([seed, label, abs(number), int(number < 0), 31])
    drawn = cluttered_picture(rng, draw_member(rng, label))
    main, marking = CLASSES[label]
    name = f"{main}_{marking}_{'test' if number < 0 else 'train'}_{abs(number)}"
    return LabelledPicture(picture=Image.fromarray(drawn.pixels), label=label, name=name, mask=drawn.mask)


def draw_member(rng: np.random.Generator, label: int) -> Thing:
    """An object of a class: its colours a little off, any noun, any of the unseen patterns."""
    main, marking = CLASSES[label]
    paint = Paint(str(rng.choice(UNSEEN_PATTERNS)), jitter(rng, MAIN[main], 20), jitter(rng, MARKINGS[marking], 20))
    return Thing(str(rng.choice(list(SHAPES))), paint)

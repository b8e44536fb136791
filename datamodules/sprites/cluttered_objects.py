"""The embedded target task of GTA: fine-grained classes, cluttered pictures, few of them.

A class is a noun in a pattern that pretraining never showed; colours say nothing. While training, the ground is a
class's habitat more often than chance, as that of birds is; in the test pictures it is any. Whoever looks at the object
is right.
"""

import numpy as np
from PIL import Image

from datamodules.classification import ClassificationData, LabelledPicture, nested_subset, split_validation
from datamodules.sprites.cluttered import UNSEEN_PATTERNS, Thing, cluttered_picture, draw_paint
from datamodules.sprites.paint import BACKGROUNDS

NOUNS = ("circle", "heart", "star", "flower")
CLASSES = tuple((noun, pattern) for noun in NOUNS for pattern in UNSEEN_PATTERNS)


def cluttered_objects(
    *, num_train: int, num_test: int, habitat: float, fraction: float, validation_share: float, seed: int
) -> ClassificationData:
    """Pictures of 16 classes, drawn afresh from `seed`, with the objects' masks.

    Args:
        num_train: training pictures a class, before `fraction`.
        num_test: test pictures a class.
        habitat: chance that a training picture's ground is its class's own; it is a random one otherwise.
        fraction: share of each class's training pictures that is used; a smaller one lies within a larger one.
        validation_share: share of those that is held out of training, to choose settings on.
        seed: of the pictures and the subset; the run's own seed is at the top.

    Raises:
        ValueError: a number out of range, named.
    """
    for name, count in (("num_train", num_train), ("num_test", num_test)):
        if count < 1:
            raise ValueError(f"data.{name}={count}: at least one picture a class is needed")
    if not 0 <= habitat <= 1:
        raise ValueError(f"data.habitat={habitat} is a chance, between 0 and 1")
    pool = [_picture(seed, label, number, habitat) for label in range(len(CLASSES)) for number in range(num_train)]
    used = [pool[i] for i in nested_subset([p.label for p in pool], fraction=fraction, seed=seed)]
    train, validation = split_validation([p.label for p in used], share=validation_share, seed=seed)
    return ClassificationData(
        name="cluttered_objects",
        classes=tuple(f"{pattern} {noun}" for noun, pattern in CLASSES),
        train=tuple(used[i] for i in train),
        validation=tuple(used[i] for i in validation),
        test=tuple(
            _picture(seed, label, -1 - number, 0.0) for label in range(len(CLASSES)) for number in range(num_test)
        ),
    )


def _picture(seed: int, label: int, number: int, habitat: float) -> LabelledPicture:
    """Picture `number` of a class: those from 0 on are for training, those below for the test."""
    rng = np.random.default_rng([seed, label, abs(number), int(number < 0), 31])
    noun, pattern = CLASSES[label]
    ground = list(BACKGROUNDS)[label % len(BACKGROUNDS)] if rng.random() < habitat else None
    drawn = cluttered_picture(rng, Thing(noun, draw_paint(rng, pattern)), ground=ground)
    name = f"{pattern}_{noun}_{'test' if number < 0 else 'train'}_{abs(number)}"
    return LabelledPicture(picture=Image.fromarray(drawn.pixels), label=label, name=name, mask=drawn.mask)

import numpy as np
import pytest

from datamodules.sprites.cluttered import UNSEEN_PATTERNS, Thing, cluttered_picture, draw_thing
from datamodules.sprites.cluttered_objects import CLASSES, MAIN, cluttered_objects, draw_member
from datamodules.sprites.paint import Paint


def task(**changes):
    settings = {"num_train": 8, "num_test": 2, "fraction": 1.0, "validation_share": 0.0, "seed": 0}
    return cluttered_objects(**settings | changes)


def names(pictures):
    return {picture.name for picture in pictures}


def test_sixteen_classes_with_masks_of_their_objects():
    data = task()
    assert len(data.classes) == len(set(data.classes)) == 16
    assert len(data.train) == 128 and len(data.test) == 32 and not data.validation
    for picture in data.test:
        assert picture.mask.shape == (64, 64) and 0.02 < picture.mask.mean() < 0.3
        pixels = np.asarray(picture.picture)[picture.mask].astype(float)
        main = np.array(MAIN[CLASSES[picture.label][0]])
        # The main colour is somewhere on the object, each channel at most 20 off.
        assert (np.abs(pixels - main).max(1) <= 21).any()


def test_shares_are_nested_and_leave_the_test_alone():
    whole, part, few = task(), task(fraction=0.5), task(fraction=0.15)
    assert len(few.train) == 32 and names(few.train) < names(part.train) < names(whole.train)
    assert names(few.test) == names(whole.test)
    assert not names(whole.train) & names(whole.test)
    held = task(validation_share=0.25)
    assert len(held.validation) == 32 and names(held.validation) | names(held.train) == names(whole.train)


def test_the_seed_decides_every_pixel():
    one, same, other = task(num_train=1), task(num_train=1), task(num_train=1, seed=1)
    pixels = [np.asarray(data.train[3].picture) for data in (one, same, other)]
    assert np.array_equal(pixels[0], pixels[1]) and not np.array_equal(pixels[0], pixels[2])


def test_pretraining_never_shows_the_patterns_of_the_task():
    assert not {draw_thing(np.random.default_rng(i)).paint.pattern for i in range(200)} & set(UNSEEN_PATTERNS)
    assert {draw_member(np.random.default_rng(i), 0).paint.pattern for i in range(60)} == set(UNSEEN_PATTERNS)


def test_the_object_lies_where_its_mask_says():
    red, blue = (250, 0, 0), (0, 0, 250)
    drawn = cluttered_picture(np.random.default_rng(0), Thing("circle", Paint("halves", red, blue)))
    is_thing = (np.abs(drawn.pixels.astype(int)[:, :, None] - [red, blue]).max(3) < 8).any(2)
    assert is_thing[drawn.mask].mean() > 0.8 and is_thing[~drawn.mask].mean() < 0.05


@pytest.mark.parametrize("wrong", [{"num_train": 0}, {"num_test": 0}, {"fraction": 0.0}])
def test_numbers_out_of_range_are_named(wrong):
    with pytest.raises(ValueError, match=f"data.{next(iter(wrong))}"):
        task(**wrong)

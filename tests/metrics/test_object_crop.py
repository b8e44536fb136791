"""The object's mask and crop, against the world's exact masks and by hand."""

import numpy as np
import pytest

from datamodules.sprites.attributes import asked
from datamodules.sprites.painter import scene_as_asked
from datamodules.sprites.subjects import SUBJECTS, sprite_subject
from datamodules.sprites.world import render
from metrics.sprites.object_crop import object_crop, object_masks


@pytest.mark.parametrize("name", SUBJECTS)
def test_the_object_is_found_on_held_out_pictures(name):
    subject = sprite_subject(
        subject=name, identifier="sks", instance_prompt="a {identifier} {class_word}", num_train=1, num_heldout=24,
        seed=0, replaces_class_word=False,
    )  # fmt: skip
    overlaps = []
    for picture in subject.heldout:
        found = object_masks(np.asarray(picture.image))[0]
        overlaps.append((found & picture.mask).sum() / (found | picture.mask).sum())
    assert np.mean(overlaps) > 0.9 and min(overlaps) > 0.7


def test_two_objects_are_two_masks_the_larger_one_first_and_blots_are_none():
    rng = np.random.default_rng(0)
    picture = render(scene_as_asked(asked("a large red square to the left of a small blue circle on a mint wall"), rng))
    picture[2:4, 60:62] = 0
    left, right = object_masks(picture)
    assert left.sum() > right.sum() and left[:, :32].sum() == left.sum() and right[:, 32:].sum() == right.sum()


def test_an_empty_picture_is_its_own_object():
    (mask,) = object_masks(np.full((64, 64, 3), 90, np.uint8))
    assert mask.all()


def test_crop_by_hand():
    picture = np.zeros((64, 64, 3), np.uint8)
    picture[..., 2] = 200
    mask = np.zeros((64, 64), bool)
    mask[10:20, 30:50] = True  # 20 wide, 10 high: the box is 24 x 24 about (40, 15)
    picture[mask] = (250, 0, 0)
    crop = object_crop(picture, mask, side=24)
    red = (crop == (250, 0, 0)).all(2)
    assert crop.shape == (24, 24, 3) and red.sum() == 200 and red[7:17, 2:22].all()
    assert (crop[~red] == 128).all()  # neither the blue background nor what lies outside is left


def test_the_background_leaves_no_trace_in_the_crop():
    one = np.full((64, 64, 3), 20, np.uint8)
    other = np.full((64, 64, 3), 240, np.uint8)
    for picture in (one, other):
        picture[20:40, 20:40] = (90, 160, 90)
    crops = [object_crop(each, object_masks(each)[0], side=32) for each in (one, other)]
    assert (crops[0] == crops[1]).all()


@pytest.mark.parametrize("mask", [np.zeros((64, 64), bool), np.ones((32, 32), bool)])
def test_a_mask_that_does_not_fit_is_refused(mask):
    with pytest.raises(ValueError, match="empty or of another size"):
        object_crop(np.zeros((64, 64, 3), np.uint8), mask, side=32)

import math
import random
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from datamodules.classification import (
    TEST_STREAM,
    VALIDATION_STREAM,
    ClassificationData,
    LabelledPicture,
    check_readable,
    hold_out_share,
    nested_subset,
    read_image,
    read_mask,
    split_validation,
)
from tests.tiny import ROOT

LABELS = [label for label, count in enumerate((10, 1, 37, 100)) for _ in range(count)]
random.Random(0).shuffle(LABELS)


def per_class(indices, labels=LABELS):
    return np.bincount([labels[i] for i in indices], minlength=max(labels) + 1).tolist()


def picture(label=0, name="a", **more):
    return LabelledPicture(picture=Image.new("RGB", (3, 2)), label=label, name=name, **more)


def saved(path, size=(40, 30), **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.effect_noise(size, 90).convert("RGB").save(path, **options)
    return path


# ---- subsets and splits


@pytest.mark.parametrize(
    "fraction, counts", [(0.07, [1, 1, 3, 7]), (0.3, [3, 1, 12, 30]), (0.55, [6, 1, 21, 55]), (1, [10, 1, 37, 100])]
)
def test_the_share_of_every_class_is_rounded_up_exactly(fraction, counts):
    chosen = nested_subset(LABELS, fraction=fraction, seed=0)
    assert chosen == sorted(set(chosen))
    assert per_class(chosen) == counts


def test_floating_point_would_round_up_too_far():
    assert math.ceil(0.07 * 100) == 8  # the reason for exact arithmetic


def test_subsets_are_nested_and_seeded():
    small, large = (set(nested_subset(LABELS, fraction=fraction, seed=3)) for fraction in (0.15, 0.3))
    assert small < large
    assert set(nested_subset(LABELS, fraction=0.15, seed=4)) != small


def test_a_class_is_drawn_alike_whatever_the_others_hold():
    alone = nested_subset([0] * 10, fraction=0.5, seed=0)
    assert nested_subset([0] * 10 + [1] * 7, fraction=0.5, seed=0)[:5] == alone


def test_every_draw_is_its_own():
    chosen = nested_subset([0] * 30 + [1] * 30, fraction=0.5, seed=0)
    assert [i + 30 for i in chosen[:15]] != chosen[15:]
    held_out = [
        hold_out_share([0] * 30, share=0.5, seed=0, stream=s, key="")[1] for s in (VALIDATION_STREAM, TEST_STREAM)
    ]
    assert chosen[:15] not in held_out and held_out[0] != held_out[1]


@pytest.mark.parametrize("fraction", [0.0, -0.1, 1.01, math.nan])
def test_bad_fraction(fraction):
    with pytest.raises(ValueError, match=r"data\.fraction=.* above 0, at most 1"):
        nested_subset(LABELS, fraction=fraction, seed=0)


def test_validation_is_held_out_of_every_class():
    labels = [label for label in LABELS if label != 1]
    train, validation = split_validation(labels, share=0.07, seed=0)
    assert sorted(train + validation) == list(range(len(labels))) and train == sorted(train)
    assert per_class(validation, labels) == [1, 0, 3, 7]
    assert split_validation(labels, share=0.07, seed=1)[1] != validation


def test_at_least_one_is_left_to_train_on():
    assert [len(part) for part in split_validation([0, 0, 0], share=0.99, seed=0)] == [1, 2]


def test_validation_is_optional():
    assert split_validation(LABELS, share=0.0, seed=0) == (list(range(len(LABELS))), [])


@pytest.mark.parametrize(
    "share, seed, message",
    [
        (0.1, 0, r"class 1 has one picture, and data\.validation_share=0\.1"),
        (1.0, 0, r"data\.validation_share=1\.0 .* below 1"),
        (-0.1, 0, r"data\.validation_share=-0\.1"),
        (0.1, -1, r"data\.seed=-1"),
    ],
)
def test_bad_validation(share, seed, message):
    with pytest.raises(ValueError, match=message):
        split_validation(LABELS, share=share, seed=seed)


# ---- the data


@pytest.mark.parametrize("part", ["train", "validation", "test"])
@pytest.mark.parametrize("label", [-1, 2])
def test_label_out_of_range(part, label):
    parts = {"train": (picture(0), picture(1)), "validation": (), "test": ()}
    parts[part] += (picture(label, "odd.jpg"),)
    with pytest.raises(ValueError, match=rf"birds: odd\.jpg has label {label}, outside 0 to 1"):
        ClassificationData(name="birds", classes=("robin", "wren"), **parts)


def test_every_class_is_learned():
    with pytest.raises(ValueError, match="birds: class 'wren' has no training picture"):
        ClassificationData(
            name="birds", classes=("robin", "wren"), train=(picture(0),), validation=(), test=(picture(1),)
        )


# ---- reading


def test_pictures_are_rgb_and_upright(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    path = saved(tmp_path / "a.jpg", exif=exif)
    read = read_image(LabelledPicture(picture=path, label=0, name="a"))
    assert (read.mode, read.size) == ("RGB", (30, 40))
    grey = LabelledPicture(picture=Image.new("L", (3, 2), 7), label=0, name="a")
    assert read_image(grey).getpixel((0, 0)) == (7, 7, 7)


def test_unreadable_picture(tmp_path):
    (tmp_path / "a.jpg").write_text("no picture")
    with pytest.raises(ValueError, match=r"a\.jpg: cannot be read \(not an image\); replace it"):
        read_image(LabelledPicture(picture=tmp_path / "a.jpg", label=0, name="a"))


@pytest.fixture
def with_trimap(tmp_path):
    trimap = np.array([[1, 2, 3], [2, 2, 1]], np.uint8)
    Image.fromarray(trimap).save(tmp_path / "a.png")
    return LabelledPicture(picture=saved(tmp_path / "a.jpg", (3, 2)), label=0, name="a", mask=tmp_path / "a.png")


def test_the_border_of_a_trimap_is_object(with_trimap):
    np.testing.assert_array_equal(read_mask(with_trimap), [[True, False, True], [False, False, True]])


def test_a_trimap_is_turned_with_its_picture(with_trimap):
    exif = Image.Exif()
    exif[0x0112] = 6  # stored on its side: turn clockwise to show
    saved(with_trimap.picture, (3, 2), exif=exif)
    mask = read_mask(with_trimap)
    np.testing.assert_array_equal(mask, [[False, True], [False, False], [True, True]])
    assert mask.shape[::-1] == read_image(with_trimap).size


@pytest.mark.parametrize(
    "trimap, message",
    [(np.ones((3, 3)), r"it is \(3, 3\) pixels"), (np.zeros((2, 3)), "it is no trimap: only the values 1, 2 and 3")],
)
def test_no_trimap_of_the_picture(with_trimap, trimap, message):
    Image.fromarray(trimap.astype(np.uint8)).save(with_trimap.mask)
    with pytest.raises(ValueError, match=rf"a\.png: cannot be read \({message}"):
        read_mask(with_trimap)


def test_mask_in_memory():
    mask = np.array([[True, False, True], [False, False, True]])
    np.testing.assert_array_equal(read_mask(picture(mask=mask)), mask)
    with pytest.raises(ValueError, match=r"a: its mask is \(2, 3\) pixels, the picture \(3, 2\)"):
        read_mask(picture(mask=mask.T))
    with pytest.raises(ValueError, match="a: the picture has no mask"):
        read_mask(picture())


def test_broken_files_are_named_before_the_run(tmp_path):
    whole = saved(tmp_path / "whole.jpg")
    half = tmp_path / "half.jpg"
    half.write_bytes(whole.read_bytes()[:-200])
    text = tmp_path / "text.png"
    text.write_text("no picture")
    pictures = [
        LabelledPicture(picture=path, label=0, name=path.name) for path in (whole, half, text, tmp_path / "gone.jpg")
    ]
    check_readable([pictures[0], picture()], "reading")
    with pytest.raises(
        ValueError,
        match=r"^3 of 4 pictures .*half\.jpg \(.*truncated.*text\.png \(not an image\), .*gone\.jpg \(.*remove",
    ):
        check_readable(pictures, "reading")


def test_of_many_broken_files_a_few_are_named(tmp_path):
    pictures = [LabelledPicture(picture=tmp_path / f"{i}.jpg", label=0, name=f"{i}") for i in range(600)]
    with pytest.raises(ValueError, match=r"^600 of 600 .*/4\.jpg [^,]*, …; fetch") as error:
        check_readable(pictures, "reading")
    assert "/5.jpg" not in str(error.value)


def test_what_reading_refuses_is_refused_early(tmp_path):
    Image.new("I;16", (3, 2)).save(tmp_path / "deep.png")
    with pytest.raises(ValueError, match="more than 8 bits"):
        check_readable([LabelledPicture(picture=tmp_path / "deep.png", label=0, name="deep")], "reading")


def test_a_broken_mask_is_named_early(with_trimap):
    check_readable([with_trimap], "reading")
    with_trimap.mask.write_text("no picture")
    with pytest.raises(ValueError, match=r"^1 of 1 .*a\.png: cannot be read \(not an image\)"):
        check_readable([with_trimap], "reading")


# ---- imports


def test_the_readers_need_no_torch():
    modules = [f"datamodules.fine_grained.{path.stem}" for path in (ROOT / "datamodules/fine_grained").glob("[!_]*.py")]
    assert len(modules) == 6
    script = f"import sys, datamodules.image_folder, {', '.join(modules)}; print(sorted(sys.modules))"
    loaded = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert "'datamodules.fine_grained.cub200'" in loaded
    assert not any(f"'{name}'" in loaded for name in ("torch", "torchvision", "scipy", "rich"))

"""The grid of attention maps has a tile for everything, is the same every time, and shines where the attention is."""

import numpy as np
import pytest
from PIL import Image

from report.attention import attention_grid, heat_overlay


def inputs(count=3, side=64):
    rng = np.random.default_rng(0)
    pictures = [Image.fromarray(rng.integers(0, 256, (side, side, 3), dtype=np.uint8)) for _ in range(count)]
    maps = {name: [rng.random((8, 8)) for _ in range(count)] for name in ("source", "fine-tuned")}
    masks = [rng.random((side, side)) > 0.5 for _ in range(count)]
    return pictures, maps, masks, [f"class {i}" for i in range(count)]


def test_every_row_and_column_has_its_tile():
    pictures, maps, masks, labels = inputs()
    full = attention_grid(pictures, maps, masks, labels)
    assert attention_grid(pictures, maps, None, labels).size == (full.width, full.height - 132)
    assert attention_grid(pictures[:2], {k: v[:2] for k, v in maps.items()}, masks[:2], labels[:2]).size == (
        full.width - 132,
        full.height,
    )
    left = full.width - (3 * 132 - 4)
    assert left > 40, "room for the rows' names"
    pixels = np.asarray(full)
    shown = np.asarray(pictures[1].resize((128, 128), Image.Resampling.NEAREST))
    assert np.array_equal(pixels[:128, left + 132 : left + 132 + 128], shown)
    # From the bottom: fine-tuned, source, object.
    for rows_up, expected in (
        (0, heat_overlay(Image.fromarray(shown), maps["fine-tuned"][1])),
        (1, heat_overlay(Image.fromarray(shown), maps["source"][1])),
        (2, Image.fromarray(masks[1]).convert("RGB").resize((128, 128), Image.Resampling.NEAREST)),
    ):
        bottom = full.height - rows_up * 132
        assert np.array_equal(pixels[bottom - 128 : bottom, left + 132 : left + 260], np.asarray(expected)), rows_up


def test_the_same_inputs_give_the_same_picture():
    assert attention_grid(*inputs()).tobytes() == attention_grid(*inputs()).tobytes()


@pytest.mark.parametrize("level", [0, 255])
def test_the_hot_patch_is_the_brightest_place_whatever_the_picture(level):
    picture = Image.new("RGB", (128, 128), (255 - level,) * 3)
    picture.paste((level,) * 3, (96, 32, 112, 48))  # the hot patch is black on white, or white on black
    heat = np.full((8, 8), 0.1)
    heat[2, 6] = 0.2
    light = np.asarray(heat_overlay(picture, heat).convert("L"), dtype=int)
    hot = np.zeros((128, 128), bool)
    hot[32:48, 96:112] = True
    assert light[hot].min() > light[~hot].max()


@pytest.mark.parametrize("value", [0.0, 0.3, np.nan, np.inf])
def test_a_map_without_any_difference_is_dark(value):
    white = Image.new("RGB", (16, 16), "white")
    assert np.asarray(heat_overlay(white, np.full((4, 4), value)).convert("L")).max() < 128


def test_a_long_name_stays_within_its_column():
    pictures, maps, masks, _ = inputs(2)
    for name in ("W" * 40, "American_Staffordshire_Terrier_of_the_north", "a b"):
        named, plain = (np.asarray(attention_grid(pictures, maps, masks, [label, name])) for label in (name, ""))
        left = named.shape[1] - (2 * 132 - 4)
        # Only the first column differs, and there is ink in it.
        different = np.flatnonzero((named != plain).any((0, 2)))
        assert left <= different.min() and different.max() < left + 128


@pytest.mark.parametrize("short", ["source", "masks", "labels"])
def test_a_row_of_another_length_is_refused_by_name(short):
    pictures, maps, masks, labels = inputs()
    rows = {"masks": masks, "labels": labels, **maps}
    rows[short] = rows[short][:-1]
    with pytest.raises(ValueError, match=f"{short}: 2 for 3 pictures"):
        attention_grid(pictures, {name: rows[name] for name in maps}, rows["masks"], rows["labels"])

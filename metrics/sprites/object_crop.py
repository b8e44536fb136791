"""The object alone: where it lies on a flat background, and the square picture of it that identity is measured on."""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

TOLERANCE = 40.0  # in RGB, of 442: the autoencoder's own noise stays below it
MARGIN = 0.1  # of the box's longer side, all around
SMALLEST = 0.1  # of the largest object: what is smaller is a blot


def object_masks(picture: NDArray[np.uint8]) -> list[NDArray[np.bool_]]:
    """The objects of `picture` `[H, W, 3]`, each a mask bool `[H, W]`, the largest first; an empty picture is one
    object as a whole.

    Pixels further than `TOLERANCE` from the background, in Euclidean distance, that hang together. The background is
    the median colour of the outermost 3 pixels: right where it is flat, as in the Sprites world, and nowhere else. An
    object of less than a tenth of the largest one is left out. Objects that touch, or nearly, are one.
    """
    inner = np.zeros(picture.shape[:2], bool)
    inner[3:-3, 3:-3] = True
    background = np.median(picture[~inner], axis=0)
    labels, count = ndimage.label(np.linalg.norm(picture - background, axis=2) > TOLERANCE, np.ones((3, 3)))
    if not count:
        return [np.ones_like(inner)]
    areas = np.bincount(labels.flat)[1:]
    order = np.argsort(-areas, kind="stable")
    return [labels == number + 1 for number in order if areas[number] >= SMALLEST * areas.max()]


def object_crop(picture: NDArray[np.uint8], mask: NDArray[np.bool_], *, side: int) -> NDArray[np.uint8]:
    """`picture` `[H, W, 3]` cut to `mask`'s box with a margin, squared, and resized to `[side, side, 3]`.

    What is not of the object, and what lies outside of the picture, becomes gray.

    Raises:
        ValueError: `mask` is empty, or of another size than the picture.
    """
    if mask.shape != picture.shape[:2] or not mask.any():
        raise ValueError(f"the mask {mask.shape} of a picture {picture.shape} is empty or of another size")
    rows, columns = (np.flatnonzero(mask.any(axis)) for axis in (1, 0))
    center: NDArray[Any] = np.array([columns[0] + columns[-1] + 1, rows[0] + rows[-1] + 1]) / 2
    half = (0.5 + MARGIN) * max(np.ptp(columns) + 1, np.ptp(rows) + 1)
    alone = np.where(mask[..., None], picture, np.uint8(128))
    pad = int(np.ceil(2 * half))
    padded = Image.fromarray(np.pad(alone, ((pad, pad), (pad, pad), (0, 0)), constant_values=128))
    box = tuple(float(each) for each in (*(center - half + pad), *(center + half + pad)))
    return np.asarray(padded.resize((side, side), Image.Resampling.BILINEAR, box=box))  # type: ignore[arg-type]

"""One picture of where classifiers look: their [CLS] attention laid over the pictures, a row for each model."""

import textwrap
from collections.abc import Mapping, Sequence

import matplotlib
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from report.grid import TILE, tile

_GAP, _LINE, _MARGIN = 4, 14, 4
_HEAT = 0.6  # share of the colour, above 1/2: the hottest patch of a black picture outshines the coldest of a white one


def attention_grid(
    pictures: Sequence[Image.Image],
    maps: Mapping[str, Sequence[NDArray[np.floating]]],
    masks: Sequence[NDArray[np.bool_]] | None,
    labels: Sequence[str],
) -> Image.Image:
    """Columns by picture; rows: the picture, its label, the object's mask if given, and the map of each model.

    Args:
        pictures: square, as the models saw them; drawn 128 px wide.
        maps: name of a row -> one map `[h, w]` for each picture; each map is scaled from its least to its greatest
            value, so that maps show where a model looks, not how sharply.
        masks: True on the object, `[H, W]` each.
        labels: text under each picture, the class's name.

    Raises:
        ValueError: a row has not as many entries as there are pictures.
    """
    rows = {"picture": [tile(picture) for picture in pictures]}
    if masks is not None:
        rows["object"] = [tile(Image.fromarray(np.uint8(mask) * 255)) for mask in masks]
    for name, row in maps.items():
        _check(name, row, pictures)
        rows[name] = [heat_overlay(each, heat) for each, heat in zip(rows["picture"], row, strict=True)]
    for name, entries in {"labels": labels, "masks": rows.get("object", pictures)}.items():
        _check(name, entries, pictures)

    font = ImageFont.load_default(11)
    texts = [_wrapped(label, font) for label in labels]
    left = round(max(font.getlength(name) for name in rows)) + 2 * _MARGIN
    strip = max(map(len, texts), default=0) * _LINE + _MARGIN
    height = len(rows) * (TILE + _GAP) - _GAP + strip
    grid = Image.new("RGB", (left + len(pictures) * (TILE + _GAP) - _GAP, height), "white")
    draw = ImageDraw.Draw(grid)
    for number, (name, tiles) in enumerate(rows.items()):
        top = number * (TILE + _GAP) + (strip if number else 0)
        draw.text((_MARGIN, top + TILE // 2 - 6), name, fill="black", font=font)
        for column, each in enumerate(tiles):
            grid.paste(each, (left + column * (TILE + _GAP), top))
    for column, lines in enumerate(texts):
        for number, line in enumerate(lines):
            place = (left + column * (TILE + _GAP) + _MARGIN, TILE + number * _LINE)
            draw.text(place, line, fill="black", font=font)
    return grid


def heat_overlay(picture: Image.Image, heat: NDArray[np.floating]) -> Image.Image:
    """`picture` in grey under the colours of `heat` `[h, w]`: dark at its least value, bright yellow at its greatest.

    Brought to the picture's size by nearest neighbours, as the metric does. A map that is constant or not finite is
    dark.
    """
    values = np.asarray(heat, dtype=np.float32)
    with np.errstate(invalid="ignore"):  # ∞ − ∞
        span = values.max() - values.min()
    scaled = (values - values.min()) / span if 0 < span < np.inf else np.zeros_like(values)
    large = np.asarray(Image.fromarray(scaled).resize(picture.size, Image.Resampling.NEAREST))
    colour = matplotlib.colormaps["inferno"](large)[..., :3] * 255
    grey = np.asarray(picture.convert("L"), dtype=float)[..., None]
    return Image.fromarray(((1 - _HEAT) * grey + _HEAT * colour).round().astype(np.uint8))


def _wrapped(label: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> list[str]:
    """The longest lines that do not reach into the next column; underscores, usual in folders' names, are spaces."""
    for width in range(32, 0, -1):
        lines = textwrap.wrap(label.replace("_", " "), width)
        if all(font.getlength(line) <= TILE - 2 * _MARGIN for line in lines):
            break
    return lines


def _check(name: str, entries: Sequence[object], pictures: Sequence[Image.Image]) -> None:
    if len(entries) != len(pictures):
        raise ValueError(f"{name}: {len(entries)} for {len(pictures)} pictures; give one for each")

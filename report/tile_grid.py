"""Rows of small pictures in one, each with a label under it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw, ImageFont

from report.grid import TILE, tile

_GAP, _LINE, _MARGIN = 4, 15, 4


@dataclass(frozen=True, slots=True)
class Tile:
    """A picture, None for an empty place, and the lines under it."""

    picture: Image.Image | None
    label: str


def tile_grid(rows: Mapping[str, Sequence[Tile]]) -> Image.Image:
    """Tiles 128 px wide, a row for each name; lines that are wider than a tile are cut off, with an ellipsis.

    Raises:
        ValueError: the rows are not of one length, or there is nothing in them.
    """
    lengths = {len(tiles) for tiles in rows.values()}
    if len(lengths) != 1 or not (columns := lengths.pop()):
        raise ValueError(f"rows of {[len(tiles) for tiles in rows.values()]} tiles: give each row as many, 1 or more")
    font = ImageFont.load_default(11)
    left = round(max(font.getlength(name) for name in rows)) + 2 * _MARGIN
    lines = max(each.label.count("\n") + 1 for tiles in rows.values() for each in tiles)
    height = TILE + lines * _LINE + _MARGIN
    grid = Image.new("RGB", (left + columns * (TILE + _GAP) - _GAP, len(rows) * height), "white")
    draw = ImageDraw.Draw(grid)
    for top, (name, tiles) in zip(range(0, grid.height, height), rows.items(), strict=True):
        draw.text((_MARGIN, top + TILE // 2 - 6), name, fill="black", font=font)
        for column, each in enumerate(tiles):
            place = left + column * (TILE + _GAP)
            if each.picture is not None:
                grid.paste(tile(each.picture), (place, top))
            for number, line in enumerate(each.label.split("\n")):
                draw.text((place + 2, top + TILE + number * _LINE), _fitting(line, font), fill="black", font=font)
    return grid


def _fitting(line: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> str:
    if font.getlength(line) <= TILE - 4:
        return line
    while line and font.getlength(line + "…") > TILE - 4:
        line = line[:-1]
    return line + "…"

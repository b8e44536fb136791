"""One picture of what guidance does: a row for each `w_con`, a column for each `s`, the run's own cell framed."""

import json
from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from report.grid import TILE, tile

PICTURE, RECORD = "guidance_grid.png", "guidance_grid.json"
_GAP, _MARGIN, _LINE, _FRAME = 8, 4, 18, 3
_COLOR = (214, 39, 40)


def guidance_grid(
    pictures: Sequence[Image.Image], *, rows: Sequence[str], columns: Sequence[str], own: tuple[int, int]
) -> Image.Image:
    """The pictures, each 128 px wide, under the labels of their columns and beside those of their rows.

    Args:
        pictures: row by row.
        rows, columns: labels.
        own: row and column of the picture that is framed.

    Raises:
        ValueError: there is not one picture for each cell.
    """
    if len(pictures) != len(rows) * len(columns):
        raise ValueError(f"{len(pictures)} pictures for {len(rows)} rows × {len(columns)} columns; give one for each")
    font = ImageFont.load_default(11)
    left, step = round(max(font.getlength(row) for row in rows)) + 2 * _MARGIN, TILE + _GAP
    grid = Image.new("RGB", (left + len(columns) * step, _LINE + len(rows) * step), "white")
    draw = ImageDraw.Draw(grid)
    for column, label in enumerate(columns):
        draw.text((left + column * step, 2), label, fill="black", font=font)
    for row, label in enumerate(rows):
        draw.text((_MARGIN, _LINE + row * step + TILE // 2 - 6), label, fill="black", font=font)
    for number, picture in enumerate(pictures):
        row, column = divmod(number, len(columns))
        x, y = left + column * step, _LINE + row * step
        if (row, column) == own:
            draw.rectangle((x - _FRAME, y - _FRAME, x + TILE - 1 + _FRAME, y + TILE - 1 + _FRAME), fill=_COLOR)
        grid.paste(tile(picture), (x, y))
    return grid


def save_guidance_grid(
    pictures: Sequence[Image.Image],
    *,
    rows: Sequence[str],
    columns: Sequence[str],
    own: tuple[int, int],
    prompt: str,
    seed: int,
    folder: Path,
) -> None:
    """Writes the grid to `folder/guidance_grid.png`, and what it shows to `guidance_grid.json`; see `guidance_grid`."""
    guidance_grid(pictures, rows=rows, columns=columns, own=own).save(folder / PICTURE)
    record = {"prompt": prompt, "seed": seed, "rows": list(rows), "columns": list(columns), "own": list(own)}
    (folder / RECORD).write_text(json.dumps(record, indent=1))


def guidance_grid_texts(path: Path) -> tuple[str, str] | None:
    """Alt text and caption by `guidance_grid.json`, None where there is no such file.

    Raises:
        ValueError: the file is not what `save_guidance_grid` writes.
    """
    if not path.is_file():
        return None
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        rows, columns, (row, column) = record["rows"], record["columns"], record["own"]
        own = f"{rows[row]}, {columns[column]}"
        alt = (
            f"Grid of pictures of {record['prompt']!r}: rows {'; '.join(rows)}; columns {'; '.join(columns)}; "
            f"the run's own, {own}, is framed."
        )
        caption = (
            f"{record['prompt']}, from the noise of seed {record['seed']}: the scale w_con of the consistency guidance "
            "downwards, to the right the scale s of its part parallel to CFG (1 is plain consistency guidance). "
            f"Framed: the run's own, {own}."
        )
    except (ValueError, KeyError, IndexError, TypeError) as error:
        raise ValueError(f"{path}: not the record of a guidance grid ({error!r}); draw it again") from error
    return alt, caption

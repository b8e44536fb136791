"""One picture of a run: the training pictures, then base and tuned model under the same prompts."""

import textwrap
from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont

TILE, _LABEL = 128, 62


def tile(picture: Image.Image) -> Image.Image:
    """`picture` in RGB, 128 px square: a small one stays pixels, a large one is shrunk smoothly."""
    method = Image.Resampling.NEAREST if picture.width <= TILE else Image.Resampling.LANCZOS
    return picture.convert("RGB").resize((TILE, TILE), method)


def picture_grid(
    prompts: Sequence[str], references: Sequence[Image.Image], base: Sequence[Image.Image], tuned: Sequence[Image.Image]
) -> Image.Image:
    """Columns by prompt, rows "training pictures" (as many as fit), "base" and "tuned", each tile 128 px wide."""
    columns = len(prompts)
    grid = Image.new("RGB", (_LABEL + columns * TILE, 3 * TILE + _LABEL), "white")
    draw, font = ImageDraw.Draw(grid), ImageFont.load_default(11)
    tops = (0, TILE + _LABEL, 2 * TILE + _LABEL)
    for top, name, pictures in zip(tops, ("training", "base", "tuned"), (references, base, tuned), strict=True):
        draw.text((4, top + TILE // 2 - 6), name, fill="black", font=font)
        for column, picture in enumerate(pictures[:columns]):
            grid.paste(tile(picture), (_LABEL + column * TILE, top))
    for column, prompt in enumerate(prompts):
        text = textwrap.fill(prompt.removeprefix("a photo of "), 21)
        draw.multiline_text((_LABEL + column * TILE + 3, TILE + 4), text, fill="black", font=font, spacing=1)
    return grid

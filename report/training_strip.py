"""What a model drew along its training: a row a prompt, a column a check, always from the same noise."""

import textwrap
from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont

from report.grid import TILE, tile

_LABEL, _HEAD = 120, 20


def training_strip(
    prompts: Sequence[str], steps: Sequence[int], columns: Sequence[Sequence[Image.Image]]
) -> Image.Image:
    """One picture of all: `columns[i]` was drawn after `steps[i]` steps, a picture for each of the prompts."""
    strip = Image.new("RGB", (_LABEL + len(columns) * TILE, _HEAD + len(prompts) * TILE), "white")
    draw, font = ImageDraw.Draw(strip), ImageFont.load_default(11)
    for row, prompt in enumerate(prompts):
        text = textwrap.fill(prompt.removeprefix("a photo of "), 19)
        draw.multiline_text((4, _HEAD + row * TILE + 8), text, fill="black", font=font, spacing=1)
    for column, (step, pictures) in enumerate(zip(steps, columns, strict=True)):
        left = _LABEL + column * TILE
        draw.text((left + 3, 3), f"step {step}", fill="black", font=font)
        for row, picture in enumerate(pictures):
            strip.paste(tile(picture), (left, _HEAD + row * TILE))
    return strip

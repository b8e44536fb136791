"""The curves and the grid of pictures beside the tables of `table.py`."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from PIL import Image, ImageDraw, ImageFont

from benchmarks.methods.plan import Run, Size
from benchmarks.shared.scores import RunScores


def draw_curves(
    table: Mapping[str, Sequence[Sequence[RunScores]]], points: Mapping[str, tuple[float, float]]
) -> Figure:
    """Each method's mean over subjects and seeds, a marker a step; `points` are (identity, adherence) by label."""
    figure = Figure(figsize=(7.5, 4.6), layout="constrained", dpi=130)
    axes = figure.subplots()
    for number, (name, rows) in enumerate(table.items()):
        means = np.mean([scores.curve() for row in rows for scores in row], axis=0)
        style = "-" if name in ("DreamBooth", "DreamBooth + prior", "APT") else "--"
        axes.plot(*means, style, marker="o", markersize=4, color=f"C{number}", label=name)
    for name, (identity, adherence) in points.items():
        axes.plot([identity], [adherence], "*", markersize=13, color="black", label=name)
    axes.set_xlabel("identity (mean cosine to held-out pictures)")
    axes.set_ylabel("adherence (all that was asked)")
    axes.grid(color="0.9")
    axes.legend(fontsize=7)
    return figure


def draw_grid(root: Path, runs: Mapping[str, Run], size: Size, path: Path, *, tile: int = 80) -> None:
    """A row for each method, a column for each prompt, the first copy of each."""
    left = 170
    grid = Image.new("RGB", (left + tile * size.prompts, tile * len(runs)), "white")
    draw, font = ImageDraw.Draw(grid), ImageFont.load_default(11)
    for row, (name, run) in enumerate(runs.items()):
        draw.text((2, row * tile + tile // 2 - 6), name, fill="black", font=font)
        for column in range(size.prompts):
            picture = Image.open(run.folder(root) / f"{size.steps[-1]}" / f"{column:02d}-0.png")
            grid.paste(picture.resize((tile, tile), Image.Resampling.NEAREST), (left + column * tile, row * tile))
    grid.save(path)

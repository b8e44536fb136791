"""Plots of a run's metrics as self-contained SVG data URIs, drawn without pyplot and its global state."""

import base64
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib
import numpy as np
from matplotlib.cm import ScalarMappable
from matplotlib.colors import BoundaryNorm, ListedColormap
from matplotlib.figure import Figure

Points = Sequence[tuple[int, float]]  # (step, value)

STYLE: dict[Any, Any] = {
    "font.family": "DejaVu Sans",  # comes with matplotlib: the same picture on every machine
    "font.size": 8.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#e4e4e4",
    "grid.linewidth": 0.6,
    "axes.axisbelow": True,
    "svg.hashsalt": "holdfast",  # else matplotlib draws element names at random
}
_INK = "#1f5a94"
_SPARSE = 12  # up to this many points are drawn as they are, with markers
_RASTER = 2000  # beyond this many, a vector path is larger than its picture


@dataclass(frozen=True, slots=True)
class Plot:
    """``uri``: data URI of an SVG on white. ``width``: in CSS pixels. ``note``: what was left out, or empty."""

    title: str
    uri: str
    alt: str
    width: int
    note: str = ""


def smooth(values: Sequence[float], window: int) -> np.ndarray:
    """Centred moving mean over the part of the window that lies within the values.

    Args:
        values: [N], finite.
        window: number of values averaged in the middle, 1 or more; an even one counts as the next odd one.

    Returns:
        [N].
    """
    array = np.asarray(values, dtype=float)
    # Sums of differences: a constant stays itself, to the last bit.
    first = array[0] if len(array) else 0.0
    total = np.concatenate([[0.0], np.cumsum(array - first)])
    index = np.arange(len(array))
    start, end = np.maximum(index - window // 2, 0), np.minimum(index + window // 2 + 1, len(array))
    return first + (total[end] - total[start]) / (end - start)


def curve(name: str, points: Points) -> Plot:
    """One metric over the steps: its mean over a window, above the faint raw values.

    Values that are not finite are left out, and the note counts them.
    """
    kept = finite(points)
    steps, values = [step for step, _ in kept], [value for _, value in kept]
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(3.6, 2.1), layout="constrained")
        axes = figure.subplots()
        if len(kept) <= _SPARSE:
            axes.plot(steps, values, color=_INK, linewidth=1.3, marker="o", markersize=3)
        else:
            window = max(3, len(values) // 25)
            axes.plot(steps, values, color=_INK, alpha=0.28, linewidth=0.7, rasterized=len(values) > _RASTER)
            axes.plot(steps, smooth(values, window), color=_INK, linewidth=1.5)
        axes.set_xlabel("step")
        axes.locator_params(axis="both", nbins=5)
        axes.ticklabel_format(axis="y", style="sci", scilimits=(-3, 5), useOffset=False, useMathText=True)
        last = f"the last is {values[-1]:.4g} at step {steps[-1]}" if kept else "none is finite"
        alt = f"Plot of {name} over the steps: {len(points)} values, {last}."
        return Plot(name, svg(figure), alt, width=346, note=left_out(len(points) - len(kept)))


def bin_curves(family: str, bins: Mapping[int, Points]) -> Plot:
    """One metric of the timestep bins over the steps, a line a bin, coloured in the order of the bins.

    Args:
        family: name of the metric without its ``/bin_NN``.
        bins: bin -> its points; bin 0 has the least noise. Bins without points have no line.
    """
    count = max(bins) + 1
    # The light end of viridis cannot be read on white.
    colours = matplotlib.colormaps["viridis"](np.linspace(0.0, 0.9, count))
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(4.6, 2.9), layout="constrained")
        axes = figure.subplots()
        heavy = sum(map(len, bins.values())) > _RASTER
        for index, points in sorted(bins.items()):
            kept = finite(points)
            style = {"marker": "o", "linewidth": 1.3} if len(kept) <= _SPARSE else {"linewidth": 1.0}
            steps, values = [step for step, _ in kept], [value for _, value in kept]
            axes.plot(steps, values, color=colours[index], markersize=3, rasterized=heavy, **style)
        if family.endswith("/relative_loss"):
            axes.axhline(1.0, color="0.6", linewidth=0.8, zorder=0)  # as good as the frozen model
        axes.set_xlabel("step")
        axes.locator_params(axis="both", nbins=6)
        scale = ScalarMappable(BoundaryNorm(np.arange(count + 1) - 0.5, count), ListedColormap(colours))
        bar = figure.colorbar(scale, ax=axes, ticks=range(0, count, math.ceil(count / 10)), pad=0.02)
        bar.set_label("timestep bin (0: least noise)")
        bar.ax.tick_params(length=0)
        bar.ax.grid(False)
        last = ", ".join(f"{index}: {points[-1][1]:.3g}" for index, points in sorted(bins.items()) if points)
        alt = f"Plot of {family} over the steps, a line for each of {count} timestep bins; last value by bin: {last}."
        missing = sum(len(points) - len(finite(points)) for points in bins.values())
        return Plot(family, svg(figure), alt, width=442, note=left_out(missing))


def finite(points: Points) -> list[tuple[int, float]]:
    """The points whose values are finite."""
    return [(step, value) for step, value in points if math.isfinite(value)]


def left_out(count: int) -> str:
    """A plot's note of how many values are not finite."""
    return f"left out, not finite: {count}" if count else ""


def svg(figure: Figure) -> str:
    buffer = io.BytesIO()
    # Without the date, the same run gives the same file.
    figure.savefig(buffer, format="svg", dpi=200, facecolor="white", metadata={"Date": None})
    return "data:image/svg+xml;base64," + base64.b64encode(buffer.getvalue()).decode()

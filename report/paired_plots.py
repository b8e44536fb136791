"""Student against frozen model, training pictures beside held-out ones in one plot: the gap between is overfitting."""

from collections.abc import Mapping

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from report.plots import STYLE, Plot, Points, finite, left_out, svg

_SETS = {"heldout": ("held-out pictures", "#1f5a94"), "train": ("training pictures", "#c8561b")}
_LOSS, _DIFFERENCE = "relative_loss", "prediction_difference"
PAIRED = frozenset(f"{name}/{_DIFFERENCE}" for name in _SETS)
"""Names of the metrics that have their plot here, and need no other."""


def paired_plots(points: Mapping[str, Points]) -> list[tuple[Plot, str]]:
    """The plots that a run's metrics give, with a text each; none where nothing was validated."""
    bins = {name: _bins(points, f"{name}/{_LOSS}/bin_") for name in _SETS}
    means = {name: _mean(each) for name, each in bins.items() if each}
    last = {
        name: [(number, values[-1][1]) for number, values in sorted(each.items())]
        for name, each in bins.items()
        if each
    }
    differences = {name: points[f"{name}/{_DIFFERENCE}"] for name in _SETS if f"{name}/{_DIFFERENCE}" in points}
    plots: list[tuple[str, str, Mapping[str, Points], float | None, str]] = [
        (
            f"{_LOSS}, mean over the timestep bins", "step", means, 1.0,
            "Denoising loss over the frozen model's. Both fall while the subject is learned; overfitting is where the "
            "training pictures' goes on falling and the held-out pictures' does not.",
        ),
        (
            f"{_LOSS} of each timestep bin at the last validation", "timestep bin (0: least noise)", last, 1.0,
            "At which noise levels the two part.",
        ),
        (
            _DIFFERENCE, "step", differences, None,
            "How far the student's predictions are from the frozen model's on the same noisy pictures: mean absolute "
            "difference of the predicted noise, whose own deviation is 1.",
        ),
    ]  # fmt: skip
    return [(_plot(title, axis, lines, level), text) for title, axis, lines, level, text in plots if lines]


def _bins(points: Mapping[str, Points], prefix: str) -> dict[int, Points]:
    return {int(name.removeprefix(prefix)): values for name, values in points.items() if name.startswith(prefix)}


def _mean(bins: Mapping[int, Points]) -> list[tuple[int, float]]:
    """Over the bins, at the steps that all of them have."""
    series = [dict(values) for values in bins.values()]
    steps = sorted(set.intersection(*map(set, series)))
    return [(step, float(np.mean([each[step] for each in series]))) for step in steps]


def _plot(title: str, axis: str, lines: Mapping[str, Points], level: float | None) -> Plot:
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(4.6, 2.9), layout="constrained")
        axes = figure.subplots()
        ends = []
        for name, points in lines.items():
            label, colour = _SETS[name]
            kept = finite(points)
            axes.plot([x for x, _ in kept], [y for _, y in kept], color=colour, marker="o", markersize=3, label=label)
            ends.append(f"{label} {kept[-1][1]:.3g}" if kept else f"{label}: none is finite")
        if level is not None:
            axes.axhline(level, color="0.6", linewidth=0.8, zorder=0)  # as good as the frozen model
        axes.set_xlabel(axis)
        axes.locator_params(axis="both", nbins=6)
        axes.legend(frameon=False)
        alt = f"Plot of {title}, training beside held-out pictures; last values: {', '.join(ends)}."
        missing = sum(len(points) - len(finite(points)) for points in lines.values())
        return Plot(title, svg(figure), alt, width=442, note=left_out(missing))

"""Curves of identity against adherence along training, and how two of them are compared: numbers in, numbers out."""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
POINTS = 64  # of the identity range of two curves


def attained(identity: Array, adherence: Array, at: Array) -> Array:
    """The highest adherence that a run had at each identity of `at`, or at a higher one.

    The run is taken to move in a straight line from each measured step to the next. What no step reached is NaN.

    Args:
        identity, adherence: `[steps]`, in the order of training.
        at: `[N]`.
    """
    x, y, at = np.asarray(identity, float), np.asarray(adherence, float), np.asarray(at, float)[:, None]
    at_steps = np.where(x >= at, y, -np.inf)
    start, run, rise = x[:-1], np.diff(x), np.diff(y)
    with np.errstate(divide="ignore", invalid="ignore"):
        share = (at - start) / run  # of the way from each step to the next at which the identity is met
        between = np.where((share >= 0) & (share <= 1), y[:-1] + share * rise, -np.inf)
    best = np.concatenate([at_steps, between], 1).max(1)
    return np.where(np.isfinite(best), best, np.nan)


def mean_gap(one: tuple[Array, Array], other: tuple[Array, Array]) -> float:
    """Mean of `attained` of one curve minus that of another, over the identities that both of them cover.

    METHODS.md §5 asks for the comparison; the mean over the range is not stated in the sources. The range begins at the
    untouched model's identity, where both start.

    Returns:
        NaN where they share no range.
    """
    low = max(curve[0][0] for curve in (one, other))
    high = min(curve[0].max() for curve in (one, other))
    if high <= low:
        return float("nan")
    at = np.linspace(low, high, POINTS)
    return float(np.mean(attained(*one, at) - attained(*other, at)))


def bootstrap_error(values: Array, *, seed: int = 0, draws: int = 2000) -> float:
    """Standard error of the mean of `values` `[subjects, seeds]`, by drawing subjects and, within each, seeds anew.

    Seeds of one subject are not independent evidence, so subjects are drawn first. NaN entries are left out; NaN where
    there is one subject alone.
    """
    if len(values) < 2:
        return float("nan")
    rng = np.random.default_rng(seed)
    subjects = rng.integers(0, len(values), (draws, len(values)))
    seeds = rng.integers(0, values.shape[1], (draws, *values.shape))
    drawn = values[subjects[:, :, None], seeds]
    counts = np.isfinite(drawn).sum((1, 2))
    means = np.nansum(drawn, (1, 2))[counts > 0] / counts[counts > 0]
    return float(means.std())


def paired(
    ones: Sequence[Sequence[tuple[Array, Array]]],
    others: Sequence[Sequence[tuple[Array, Array]]],
    gap: Callable[[tuple[Array, Array], tuple[Array, Array]], float] = mean_gap,
) -> tuple[float, float, int]:
    """Mean of `gap` over `[subjects][seeds]` pairs of curves, its bootstrap error, and how many pairs share a range."""
    values = np.array([[gap(a, b) for a, b in zip(*row, strict=True)] for row in zip(ones, others, strict=True)])
    count = int(np.isfinite(values).sum())
    return (float(np.nanmean(values)) if count else float("nan"), bootstrap_error(values), count)


def front_area(points: Sequence[tuple[float, float]], *, floor: tuple[float, float]) -> float:
    """Area that `points` dominate above `floor`, the hypervolume of their Pareto front."""
    area, best = 0.0, floor[1]
    for first, second in sorted(points, reverse=True):
        if second > best and first > floor[0]:
            area += (first - floor[0]) * (second - best)
            best = second
    return area

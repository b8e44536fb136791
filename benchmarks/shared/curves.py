"""Curves of identity against adherence along training, and how two of them are compared: numbers in, numbers out."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Curve = tuple[Array, Array]  # identity, adherence: `[steps]` each
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


def common_range(one: Curve, other: Curve) -> tuple[float, float]:
    """The identities, from and to, that both curves cover; the second is not above the first where they share none.

    The range begins where both have been measured after training began: up to there, two straight lines from the
    untouched model, where both start, would be compared.
    """
    return max(curve[0][1] for curve in (one, other)), min(curve[0].max() for curve in (one, other))


def mean_gap(one: Curve, other: Curve) -> float:
    """Mean of `attained` of one curve minus that of another, over their `common_range`; NaN where they share none.

    The mean over the range is not stated in the sources.
    """
    low, high = common_range(one, other)
    if high <= low:
        return float("nan")
    at = np.linspace(low, high, POINTS)
    return float(np.mean(attained(*one, at) - attained(*other, at)))


def bootstrap_error(values: Array, *, seed: int = 0, draws: int = 2000) -> float:
    """Standard error of the mean of `values` `[subjects, seeds]`, by drawing subjects anew, each with all of its seeds.

    Seeds of one subject are not independent evidence; what they vary by is in what the subjects' means vary by. What is
    drawn from S subjects varies by (S − 1) / S too little, which is made up for. NaN entries are left out; NaN where
    fewer than two subjects have a value.
    """
    values = values[np.isfinite(values).any(1)]
    if len(values) < 2:
        return float("nan")
    rng = np.random.default_rng(seed)
    subjects = rng.integers(0, len(values), (draws, len(values)))
    drawn = values[subjects]
    counts = np.isfinite(drawn).sum((1, 2))
    means = np.nansum(drawn, (1, 2))[counts > 0] / counts[counts > 0]
    return float(means.std() * np.sqrt(len(values) / (len(values) - 1)))


@dataclass(frozen=True)
class Gap:
    """A paired difference.

    Args:
        mean: over the pairs that share a range, NaN where none does.
        error: its bootstrap error.
        pairs: how many share a range, of `of`.
        share: of the other curve's rise in identity that the ranges cover, mean over those pairs.
    """

    mean: float
    error: float
    pairs: int
    of: int
    share: float


def paired(ones: Sequence[Sequence[Curve]], others: Sequence[Sequence[Curve]]) -> Gap:
    """`mean_gap` over pairs of curves, `[subjects][seeds]` each."""
    rows = [list(zip(*row, strict=True)) for row in zip(ones, others, strict=True)]
    gaps = np.array([[mean_gap(one, other) for one, other in row] for row in rows])
    shares = [
        (high - low) / (other[0].max() - other[0][0])
        for row in rows
        for one, other in row
        for low, high in [common_range(one, other)]
        if high > low
    ]
    known = gaps[np.isfinite(gaps)]
    mean = float(known.mean()) if known.size else float("nan")
    share = float(np.mean(shares)) if shares else 0.0
    return Gap(mean, bootstrap_error(gaps), known.size, gaps.size, share)


def front_area(points: Sequence[tuple[float, float]], *, floor: tuple[float, float]) -> float:
    """Area that `points` dominate above `floor`, the hypervolume of their Pareto front."""
    area, best = 0.0, floor[1]
    for first, second in sorted(points, reverse=True):
        if second > best and first > floor[0]:
            area += (first - floor[0]) * (second - best)
            best = second
    return area

"""Figures of methods over subjects and seeds, as they stand in a cell or a sentence: each with its error."""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from benchmarks.shared.curves import Gap, bootstrap_error, paired
from benchmarks.shared.scores import RunScores

Array = NDArray[np.float64]
Table = Mapping[str, Sequence[Sequence[RunScores]]]  # of a method, [subjects][seeds]


def with_error(values: Array, digits: int = 3, *, sign: str = "") -> str:
    """Mean ± bootstrap error of `[subjects, seeds]`, without those that have no value."""
    if not np.isfinite(values).any():
        return "–"
    mean, error = np.nanmean(values), bootstrap_error(values)
    return f"{mean:{sign}.{digits}f}" + (f" ± {error:.{digits}f}" if np.isfinite(error) else " (no error from so few)")


def gaps(table: Table, one: str, other: str) -> Gap:
    """`curves.paired` of two methods."""
    return paired(*([[scores.curve() for scores in row] for row in table[name]] for name in (one, other)))


def says(gap: Gap) -> str:
    if not gap.pairs:
        return "no common range of identity"
    error = f" ± {gap.error:.3f}" if np.isfinite(gap.error) else ""
    return f"{gap.mean:+.3f}{error} ({gap.pairs} of {gap.of} pairs, over {gap.share:.0%} of the latter's rise)"

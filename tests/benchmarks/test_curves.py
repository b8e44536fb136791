"""The arithmetic behind `docs/benchmarks/methods.md`."""

import math

import numpy as np
import pytest

from benchmarks.shared.curves import attained, bootstrap_error, mean_gap, paired


def curve(*points):
    return tuple(np.array(axis, float) for axis in zip(*points, strict=True))


def test_attained_by_hand():
    identity, adherence = curve((0.0, 1.0), (0.5, 0.6), (1.0, 0.8))
    at = np.array([-1.0, 0.0, 0.25, 0.6, 1.0, 1.1])
    # From 0.25 on the straight line to 0.6 is below what the last step attains; above 1 is nothing.
    expected = [1.0, 1.0, 0.8, 0.8, 0.8, np.nan]
    assert attained(identity, adherence, at) == pytest.approx(expected, nan_ok=True)


def test_a_curve_has_no_gap_to_itself():
    each = curve((0.0, 1.0), (0.2, 0.7), (0.3, 0.2))
    assert mean_gap(each, each) == 0


def test_mean_gap_by_hand():
    # 1 − 0.5 x against 1 − x over [0.2, 0.6], from the first trained points on: the mean of 0.5 x is 0.2.
    one, other = curve((0, 1), (0.2, 0.9), (0.6, 0.7)), curve((0, 1), (0.1, 0.9), (1, 0))
    assert mean_gap(one, other) == pytest.approx(0.2, abs=1e-6) == -mean_gap(other, one)


def test_curves_without_a_common_range_have_no_gap():
    assert math.isnan(mean_gap(curve((0, 1), (0, 0.5)), curve((0, 1), (1, 0))))


def test_bootstrap_error_is_the_standard_error_over_subjects_where_seeds_agree():
    values = np.repeat(np.array([[0.0], [1.0]]), 2, axis=1)
    assert bootstrap_error(values) == pytest.approx(0.5, rel=0.05)  # (0, 1): standard deviation √½, over √2


def test_bootstrap_error_counts_what_seeds_vary_by_once():
    tables = np.random.default_rng(0).standard_normal((300, 4, 2))  # seeds alone vary: the mean's variance is 1 / 8
    variances = [bootstrap_error(values, draws=500) ** 2 for values in tables]
    assert np.mean(variances) == pytest.approx(1 / 8, rel=0.1)


def test_one_subject_with_values_has_no_error():
    assert math.isnan(bootstrap_error(np.array([[0.0, 1.0]])))
    assert math.isnan(bootstrap_error(np.array([[0.0, 1.0], [np.nan, np.nan]])))


def test_pairs_without_a_common_range_are_not_counted():
    good, flat = curve((0, 1), (0, 1), (1, 0.5)), curve((0, 1), (0, 1))
    worse = curve((0, 1), (0, 1), (2, 0))
    gap = paired([[good], [flat], [good]], [[worse], [worse], [worse]])
    assert (gap.mean, gap.pairs, gap.of, gap.share) == (pytest.approx(0, abs=1e-9), 2, 3, 0.5)
    assert gap.error == 0

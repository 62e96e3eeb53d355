"""Intervals by Student's t, beside SciPy's."""

import math

import numpy as np
import pytest
from scipy import stats

from resnet_keras.reports.intervals import difference, interval_of, paired_difference, paired_ratio, student_t


@pytest.mark.parametrize("freedom", [1, 2, 9, 30, 31, 100])
def test_the_quantile_is_scipys(freedom: int) -> None:
    assert student_t(freedom) == pytest.approx(stats.t.ppf(0.975, freedom), abs=1e-3)


def test_intervals_are_scipys() -> None:
    rng = np.random.default_rng(0)
    one, other = rng.normal(5, 1, 6).tolist(), rng.normal(4, 1, 6).tolist()
    expected = stats.t.interval(0.95, 5, np.mean(one), stats.sem(one))
    assert (interval_of(one).low, interval_of(one).high) == pytest.approx(expected, rel=1e-3)
    paired = stats.ttest_rel(one, other).confidence_interval()
    found = paired_difference(one, other)
    assert (found.low, found.high) == pytest.approx((paired.low, paired.high), rel=1e-2)
    apart = stats.ttest_ind(one, other[:4]).confidence_interval()
    found = difference(one, other[:4])
    assert (found.low, found.high) == pytest.approx((apart.low, apart.high), rel=1e-2)


def test_two_seeds_say_little_and_one_nothing() -> None:
    assert interval_of([84.27, 83.68]).text() == "83.97 (80.23 to 87.72)"
    assert interval_of([3.0]).text(".1f") == "3.0"
    assert not interval_of([3.0]).excludes(1e9)
    assert paired_ratio([2.0, 8.0], [1.0, 1.0]).mean == pytest.approx(4.0)
    assert paired_ratio([2.0, 8.0], [1.0, 1.0]).excludes(1.0) is False
    assert math.isinf(paired_ratio([2.0], [1.0]).high)
    assert paired_ratio([2.0, 2.1, 2.2], [1.0, 1.0, 1.0]).excludes(1.0)
    assert math.isinf(difference([1.0], [2.0]).high)

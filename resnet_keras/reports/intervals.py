"""Intervals of means of a few values by Student's t, at 95 %. Standard library only."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

T = (
    *(12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228),
    *(2.201, 2.179, 2.160, 2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086),
    *(2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042),
)
"""Student's t of 1, 2, ... degrees of freedom that 2.5 % of draws exceed."""
Z = statistics.NormalDist().inv_cdf(0.975)


def student_t(freedom: int) -> float:
    """The 97.5 % quantile of Student's t; past the table by the first terms of its expansion (error below 0.001)."""
    if freedom <= len(T):
        return T[freedom - 1]
    return Z + (Z**3 + Z) / (4 * freedom) + (5 * Z**5 + 16 * Z**3 + 3 * Z) / (96 * freedom**2)


@dataclass(frozen=True)
class Interval:
    """A mean, and where the mean of all such values lies with 95 % confidence: everywhere, for one value."""

    mean: float
    low: float
    high: float

    def excludes(self, value: float) -> bool:
        """Whether the value is outside."""
        return not self.low <= value <= self.high

    def text(self, style: str = ".2f") -> str:
        """`2.69 (1.90 to 3.48)`; the mean alone where one value gave no interval."""
        if math.isinf(self.high):
            return format(self.mean, style)
        return f"{self.mean:{style}} ({self.low:{style}} to {self.high:{style}})"


def interval_of(values: Sequence[float]) -> Interval:
    """The interval of the mean of values, at least one.

    Example: `interval_of([84.27, 83.68])` is 83.97 (80.23 to 87.72).
    """
    mean, count = statistics.fmean(values), len(values)
    if count == 1:
        return Interval(mean, -math.inf, math.inf)
    half = student_t(count - 1) * statistics.stdev(values) / math.sqrt(count)
    return Interval(mean, mean - half, mean + half)


def paired_difference(ones: Sequence[float], others: Sequence[float]) -> Interval:
    """The interval of the mean of `one - other`, pair by pair, such as of one seed."""
    return interval_of([one - other for one, other in zip(ones, others, strict=True)])


def paired_ratio(ones: Sequence[float], others: Sequence[float]) -> Interval:
    """The interval of the geometric mean of `one / other`, pair by pair, of numbers above 0."""
    logs = interval_of([math.log(one / other) for one, other in zip(ones, others, strict=True)])
    return Interval(*(_exp(value) for value in (logs.mean, logs.low, logs.high)))


def difference(ones: Sequence[float], others: Sequence[float]) -> Interval:
    """The interval of the difference of two means of values that are no pairs, of one variance."""
    mean, freedom = statistics.fmean(ones) - statistics.fmean(others), len(ones) + len(others) - 2
    if not freedom:
        return Interval(mean, -math.inf, math.inf)
    squares = sum(statistics.variance(values) * (len(values) - 1) for values in (ones, others) if len(values) > 1)
    half = student_t(freedom) * math.sqrt(squares / freedom * (1 / len(ones) + 1 / len(others)))
    return Interval(mean, mean - half, mean + half)


def _exp(value: float) -> float:
    try:
        return math.exp(value)
    except OverflowError:
        return math.inf

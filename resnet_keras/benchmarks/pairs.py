"""Programs timed in turn, A B A B ..., so that a machine whose speed drifts cannot favour one; the ratio counts.

Standard library only.
"""

import statistics
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple


class Ratio(NamedTuple):
    """Of the pairs: one / other, such as peer's seconds / ours. Above 1, ours is the faster."""

    median: float
    low: float
    """The lower quartile."""
    high: float

    def __str__(self) -> str:
        return f"{self.median:.2f} ({self.low:.2f} to {self.high:.2f})"


def quartiles(values: Sequence[float]) -> Ratio:
    """Median and quartiles of values, at least one; of one value all three are that value.

    Example: `quartiles([1, 2, 4])` is 2.00 (1.00 to 4.00).
    """
    if len(values) == 1:
        return Ratio(values[0], values[0], values[0])
    low, median, high = statistics.quantiles(values, n=4)
    # Of few values the quartiles lie beyond the last of them, and rounding can put those of equal values in disorder.
    low, median, high = (min(max(value, min(values)), max(values)) for value in (low, median, high))
    return Ratio(median, min(low, median), max(high, median))


def ratio_of(ones: Sequence[float], others: Sequence[float]) -> Ratio:
    """Median and quartiles of `one / other`, pair by pair; both have as many values."""
    return quartiles([one / other for one, other in zip(ones, others, strict=True)])


def paired_ratio(
    ours: Callable[[], object], peer: Callable[[], object], pairs: int, pause: float = 0.0
) -> tuple[float, float, Ratio]:
    """Median seconds of each, and their ratio by pair, with its quartiles.

    Args:
        ours, peer: what is timed.
        pairs: timings of each, one at least.
        pause: seconds before each timing.
    """
    seconds: list[tuple[float, float]] = []
    for function in (ours, peer):
        function()  # traced and warm
    for _ in range(pairs):
        row = []
        for function in (ours, peer):
            time.sleep(pause)
            started = time.perf_counter()
            function()
            row.append(time.perf_counter() - started)
        seconds.append((row[0], row[1]))
    ours_median, peer_median = (statistics.median(column) for column in zip(*seconds, strict=True))
    return ours_median, peer_median, ratio_of([peer for _, peer in seconds], [own for own, _ in seconds])

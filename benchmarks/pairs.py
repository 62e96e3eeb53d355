"""Two programs timed in turn, A B A B ..., so that a machine whose speed drifts cannot favour one; the ratio counts."""

import statistics
import time
from collections.abc import Callable
from typing import NamedTuple


class Ratio(NamedTuple):
    """Of the pairs: peer / ours. Above 1, ours is the faster."""

    median: float
    low: float
    """The lower quartile."""
    high: float

    def __str__(self) -> str:
        return f"{self.median:.2f} ({self.low:.2f} to {self.high:.2f})"


def paired_ratio(
    ours: Callable[[], object], peer: Callable[[], object], pairs: int, pause: float = 0.0
) -> tuple[float, float, Ratio]:
    """Median seconds of each, and their ratio by pair, with its quartiles.

    Args:
        ours, peer: what is timed.
        pairs: timings of each, two at least.
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
    low, median, high = statistics.quantiles((peer / own for own, peer in seconds), n=4)
    return ours_median, peer_median, Ratio(median, low, high)

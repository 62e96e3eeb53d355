"""Several labels an image: how well each is found, and the threshold from which on it is given."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

DEFAULT_THRESHOLD = 0.5


@dataclass(frozen=True)
class LabelScores:
    """The probabilities of the labels of each image, what it has, and the threshold of each label."""

    scores: np.ndarray
    """float32 [N, labels]"""
    targets: np.ndarray
    """bool [N, labels]"""
    thresholds: tuple[float, ...]
    """A label is given from this probability on."""

    @property
    def above(self) -> np.ndarray:
        """bool [N, labels]: the labels that the model gives."""
        return self.scores >= np.array(self.thresholds, "float32")

    @property
    def accuracy(self) -> float:
        """Of all decisions, one for each image and label: the fraction that is correct."""
        return float((self.above == self.targets).mean())

    @property
    def average_precision(self) -> list[float | None]:
        """Of each label; None where no image has it."""
        columns = zip(self.scores.T, self.targets.T, strict=True)
        return [average_precision(scores, targets) for scores, targets in columns]

    @property
    def mean_average_precision(self) -> float:
        """The mean over the labels that an image has; NaN where none has any."""
        known = [one for one in self.average_precision if one is not None]
        return float(np.mean(known)) if known else float("nan")

    def rows(self, labels: Sequence[str]) -> list[dict[str, Any]]:
        """A row a label: its images, precision, recall and F1 at its threshold, and average precision."""
        found = (self.above & self.targets).sum(0)
        counts = (self.targets.sum(0), self.above.sum(0), found, self.average_precision, self.thresholds)
        return [
            {
                "label": label,
                "examples": int(true),
                "recall": float(both / true) if true else None,
                "precision": float(both / given) if given else None,
                "f1": float(2 * both / (true + given)) if true + given else None,
                "average_precision": average,
                "threshold": threshold,
            }
            for label, true, given, both, average, threshold in zip(labels, *counts, strict=True)
        ]


def average_precision(scores: np.ndarray, targets: np.ndarray) -> float | None:
    """The mean of the precision over the recall: `sum((R[n] - R[n-1]) * P[n])` over falling thresholds.

    As scikit-learn's `average_precision_score`: images of equal scores come in together.

    Args:
        scores: `[N]`.
        targets: bool `[N]`.

    Returns:
        0 to 1; None where no image has the label.

    Example:
        >>> average_precision(np.array([0.9, 0.8, 0.7]), np.array([True, False, True]))
        0.8333333333333333
    """
    if not targets.any():
        return None
    _, true, given = _falling(scores, targets)
    return float((np.diff(true, prepend=0) * true / given).sum() / targets.sum())


def best_threshold(scores: np.ndarray, targets: np.ndarray) -> float:
    """The threshold with the greatest F1; of several the one nearest to 0.5.

    Between the least score that is taken and the next one, so that rounding changes nothing; 0.5 where no image has the
    label.

    Args:
        scores: `[N]`, 0 to 1.
        targets: bool `[N]`.

    Example:
        >>> best_threshold(np.array([0.9, 0.8, 0.3]), np.array([True, True, False]))
        0.55
    """
    if not targets.any():
        return DEFAULT_THRESHOLD
    levels, true, given = _falling(scores.astype("float64"), targets)
    f1 = 2 * true / (given + targets.sum())
    middles = (levels + np.append(levels[1:], 0.0)) / 2
    best = middles[f1 >= f1.max() - 1e-12]
    return float(best[np.abs(best - DEFAULT_THRESHOLD).argmin()])


def _falling(scores: np.ndarray, targets: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The different scores, falling, and at each the images that are taken: those with the label, and all."""
    order = np.argsort(-scores, kind="stable")
    scores = scores[order]
    last = np.append(np.flatnonzero(np.diff(scores)), len(scores) - 1)
    return scores[last], np.cumsum(targets[order])[last], last + 1

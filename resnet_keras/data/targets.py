"""What images are of: the class of each, int64 `[N]`, or several labels or none of each, bool `[N, labels]`."""

from collections.abc import Sequence

import numpy as np
import tensorflow as tf


def are_several(targets: np.ndarray) -> bool:
    """Whether an image can have several labels, or none."""
    return targets.ndim == 2


def counts_of(targets: np.ndarray, labels: int) -> np.ndarray:
    """Images of each label: int64 `[labels]`."""
    if are_several(targets):
        return targets.sum(0, dtype="int64")
    return np.bincount(targets, minlength=labels)


def places_of(targets: np.ndarray, label: int) -> np.ndarray:
    """The images of a label, in order."""
    return np.flatnonzero(targets[:, label] if are_several(targets) else targets == label)


def in_words(target: np.ndarray | int, labels: Sequence[str]) -> str:
    """The label of an image, or its labels."""
    if np.ndim(target):
        return ", ".join(labels[i] for i in np.flatnonzero(target).tolist()) or "none"
    return labels[int(target)]


def as_vectors(targets: tf.Tensor, labels: int) -> tf.Tensor:
    """A batch of targets as float32 `[N, labels]`: 1 where an image has a label, else 0."""
    return tf.cast(targets, tf.float32) if targets.shape.rank == 2 else tf.one_hot(targets, labels)

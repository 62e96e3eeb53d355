"""Where each image stands in a run, and the keys of what is drawn for it: computed from the seed, never stored."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import tensorflow as tf

as_it_is = tf.autograph.experimental.do_not_convert
"""For what `map` takes: no Python here depends on a tensor, and AutoGraph's rewriting costs a run's first seconds."""


@dataclass(frozen=True)
class Order:
    """Which image stands where in the batches of a run; steps and places are int64."""

    count: int
    """Images in the split."""
    steps: int
    """In an epoch."""
    batch_size: int
    repeats: int
    seed: int

    @property
    def distinct(self) -> int:
        """Different images in a batch: place p holds the one of place p mod so many."""
        return -(-self.batch_size // self.repeats)

    def positions(self, step: tf.Tensor, places: np.ndarray) -> tf.Tensor:
        """Places of a step's batch as places in the whole run: what the randomness of an image follows."""
        return step * self.batch_size + places

    def indices(self, step: tf.Tensor, places: np.ndarray) -> tf.Tensor:
        """Places of a step's batch as indices into the split. An epoch is a permutation, computed by the place."""
        epoch, within = step // self.steps, tf.math.floormod(step, self.steps)
        key = tf.cast(tf.stack([tf.constant(self.seed, tf.int64), epoch]), tf.uint32)
        last = tf.constant(self.count - 1, tf.int64)
        return tf.random.experimental.index_shuffle(within * self.distinct + places % self.distinct, key, last)  # pyright: ignore[reportAttributeAccessIssue]


def key_of(seed: int, purpose: Literal["files", "window", "crop", "image", "mix"], number: tf.Tensor) -> tf.Tensor:
    """A seed for stateless operations, `int64[2]`: no two purposes share one, since a run's seed is below 2**31."""
    purposes = ("files", "window", "crop", "image", "mix")
    return tf.stack([tf.constant(seed + (purposes.index(purpose) << 32), tf.int64), tf.cast(number, tf.int64)])

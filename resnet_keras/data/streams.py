"""Records that do not fit in memory, streamed: in another order each epoch, from any step on.

An epoch is the files in an order of its own, one after the other, cut into lanes of equal length. A batch takes as many
records from each lane, so that a host reads only the lanes that its part of the batch comes from, and the batch is the
same whatever the number of hosts; within a lane the records are shuffled window by window. Files before the step that a
run goes on from are not opened: the lengths say where it is.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import tensorflow as tf

from resnet_keras.data.order import Order, as_it_is, key_of
from resnet_keras.data.splits import RecordSplit

LANES = 16
"""At most: files that are read at once, by all hosts together."""
SHUFFLE_WINDOW = 16_384
"""Records that are shuffled at a time, over all lanes."""
Change = Callable[[tf.Tensor, tf.Tensor], tf.Tensor]
"""An image (pixels or a file's bytes) and its position in the run to the image that is trained on."""


def records(split: RecordSplit, order: Order, places: np.ndarray, change: Change, steps: range) -> tf.data.Dataset:
    """(position, image, target) of the wanted places of each step, one image at a time."""
    lanes = Lanes.of(split, order)
    wanted = places % order.distinct
    own = np.unique(wanted // lanes.share)
    rows = np.searchsorted(own, wanted // lanes.share) * lanes.share + wanted % lanes.share

    def steps_of_an_epoch(epoch: tf.Tensor) -> tf.data.Dataset:
        first = tf.maximum(epoch * order.steps, steps.start)
        last = tf.minimum((epoch + 1) * order.steps, steps.stop)
        read = tf.data.Dataset.from_tensor_slices(own).interleave(
            as_it_is(lambda lane: lanes.records(epoch, lane, first - epoch * order.steps)),
            cycle_length=len(own),
            block_length=lanes.share,
            num_parallel_calls=tf.data.AUTOTUNE,
            deterministic=True,
        )
        batches = read.batch(len(own) * lanes.share, drop_remainder=True)
        return batches.take(last - first).enumerate(first)

    def in_places(step: tf.Tensor, batch: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        return order.positions(step, places), tf.gather(batch, rows)

    def example(position: tf.Tensor, record: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        image, target = split.parse(record)
        return position, change(image, position), target

    epochs = tf.data.Dataset.range(steps.start // order.steps, -(-steps.stop // order.steps))
    return (
        epochs.flat_map(as_it_is(steps_of_an_epoch))
        .map(as_it_is(in_places))
        .unbatch()
        .map(as_it_is(example), tf.data.AUTOTUNE)
    )


@dataclass(frozen=True)
class Lanes:
    """The equal parts of an epoch that are read side by side."""

    split: RecordSplit
    seed: int
    count: int
    share: int
    """Records that each gives to a batch."""
    window: int
    """Records of a lane that are shuffled at a time."""

    @classmethod
    def of(cls, split: RecordSplit, order: Order) -> "Lanes":
        """As many as divide a batch and have a file each."""
        most = min(LANES, 1 << (len(split.files).bit_length() - 1))
        count = math.gcd(order.distinct, most)
        return cls(split, order.seed, count, order.distinct // count, -(-SHUFFLE_WINDOW // count))

    @property
    def length(self) -> int:
        """Records in each; what is left over is at the end of the epoch's order."""
        return len(self.split) // self.count

    def records(self, epoch: tf.Tensor, lane: tf.Tensor, step: tf.Tensor) -> tf.data.Dataset:
        """The shuffled records of one lane from a step of the epoch on.

        The first window of each lane has another length, so that the lanes do not come to the end of one together.
        """
        past = step * self.share
        first = (lane + 1) * self.window // self.count
        number = (past - first + self.window) // self.window  # of the window that it goes on in
        whole = tf.maximum(number - 1, 0) * self.window + first  # where the first window of full length begins
        head = self._in_order(epoch, lane, tf.constant(0, tf.int64))
        head = head.take(tf.where(number == 0, tf.minimum(first, self.length), 0))
        rest = self._in_order(epoch, lane, whole)
        windows = head.batch(self.window).concatenate(rest.batch(self.window))
        begun = tf.where(number == 0, tf.constant(0, tf.int64), whole)
        of_all = (epoch * self.count + lane) * (self.length // self.window + 2) + number

        def shuffled(number: tf.Tensor, window: tf.Tensor) -> tf.Tensor:
            # tf.data's own shuffle would mix the process's seed in.
            return stateless_shuffle(window, key_of(self.seed, "window", number))

        return windows.enumerate(of_all).map(as_it_is(shuffled)).unbatch().skip(past - begun)

    def _in_order(self, epoch: tf.Tensor, lane: tf.Tensor, start: tf.Tensor) -> tf.data.Dataset:
        """The records of a lane from one on, as the files have them; those before it are in files that are not opened,
        or in the first that is."""
        files = stateless_shuffle(tf.range(len(self.split.files)), key_of(self.seed, "files", epoch))
        ends = tf.cumsum(tf.gather(tf.constant(self.split.lengths, tf.int64), files))
        begin = lane * self.length + start
        file = tf.searchsorted(ends, begin[None], "right")[0]
        before = tf.concat([tf.zeros([1], tf.int64), ends], 0)[file]
        names = tf.gather(tf.constant(self.split.files), files)
        read = tf.data.Dataset.from_tensor_slices(names[file:]).flat_map(tf.data.TFRecordDataset)
        return read.skip(begin - before).take(tf.maximum(self.length - start, 0))


def stateless_shuffle(values: tf.Tensor, key: tf.Tensor) -> tf.Tensor:
    """The values in an order that the key alone decides."""
    return tf.random.experimental.stateless_shuffle(values, key)  # pyright: ignore[reportAttributeAccessIssue]

"""Batches: each training batch is a pure function of (seed, epoch, step), so a run can be repeated and continued.

Every batch is `(images [N, H, W, C], one-hot labels float32 [N, classes])`; pixels are 0 to 255, uint8 or float32. Only
records that do not fit in memory are streamed; everything else is picked by index, and the order of an epoch is a
permutation that is computed, not stored.
"""

import os
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf

from resnet_keras.card import ModelCard
from resnet_keras.config import Augmentation
from resnet_keras.data.augmentation import pad_crop_flip, random_resized_crop
from resnet_keras.data.images import decode, resize_and_centre_crop
from resnet_keras.data.splits import FITS_IN_MEMORY, ArraySplit, FileSplit, RecordSplit, Source, Split
from resnet_keras.errors import UsageError

SHUFFLE_WINDOW = 16_384
"""Encoded pictures of a streamed split that are shuffled at a time."""


@dataclass(frozen=True)
class PictureFormat:
    """The size that a network takes, and how pictures are brought to it."""

    size: tuple[int, int]
    channels: int
    card: ModelCard

    def prepare(self, picture: tf.Tensor) -> tf.Tensor:
        """An encoded picture, or `uint8[H, W, channels]`, to `float32[*size, channels]`: the evaluation transform."""
        image = decode(picture, self.channels) if picture.dtype == tf.string else picture
        image = resize_and_centre_crop(image, self.size, self.card.crop, self.card.interpolation)
        return tf.ensure_shape(image, [*self.size, self.channels])


def prepared(split: Split, shape: PictureFormat) -> ArraySplit | None:
    """The split's pictures by the evaluation transform, as uint8, where they fit in memory; else None."""
    if isinstance(split, ArraySplit) and split.images.shape[1:3] == shape.size and shape.card.crop == 1:
        return split
    if isinstance(split, RecordSplit) or len(split) * np.prod((*shape.size, shape.channels)) > FITS_IN_MEMORY:
        return None
    images = tf.data.Dataset.from_tensor_slices(_pictures(split)).map(
        lambda picture: tf.cast(shape.prepare(_read(picture)), tf.uint8), tf.data.AUTOTUNE
    )
    return ArraySplit(np.concatenate(list(images.batch(256).as_numpy_iterator())), split.targets)


def _pictures(split: ArraySplit | FileSplit) -> tf.Tensor:
    """All the pictures of a split: their pixels, or the names of their files."""
    return tf.constant(split.images if isinstance(split, ArraySplit) else split.paths)


def _read(picture: tf.Tensor) -> tf.Tensor:
    return tf.io.read_file(picture) if picture.dtype == tf.string else picture


def steps_per_epoch(split: Split, batch_size: int) -> int:
    """Whole batches in an epoch. Raises `UsageError` where there is not one."""
    if batch_size > len(split):
        raise UsageError(f"batch_size {batch_size} is larger than the {len(split)} training pictures")
    return len(split) // batch_size


def training_batches(
    source: Source,
    shape: PictureFormat,
    augmentation: Augmentation,
    *,
    batch_size: int,
    epochs: int,
    seed: int,
    label_smoothing: float = 0.0,
    first_step: int = 0,
) -> tf.data.Dataset:
    """The batches of a run, epoch after epoch, from `first_step` on; each epoch drops its incomplete last batch."""
    ready = None if augmentation.crop == "resized" else prepared(source.train, shape)
    split = source.train if ready is None else ready
    steps, classes = steps_per_epoch(split, batch_size), len(source.labels)
    pad = augmentation.pad if augmentation.crop == "pad" else 0
    if pad > min(shape.size):
        raise UsageError(f"pad {pad} is more than the {min(shape.size)} pixels of the picture's side")
    fill = tf.constant(np.round(np.array(shape.card.mean) * 255), tf.uint8)

    def labels(targets: tf.Tensor) -> tf.Tensor:
        return tf.one_hot(targets, classes) * (1.0 - label_smoothing) + label_smoothing / classes

    def whole_batch(step: Any) -> tuple[tf.Tensor, tf.Tensor]:
        epoch, place = step // steps, step % steps
        order = _shuffled(place * batch_size + tf.range(batch_size, dtype=tf.int64), len(split), seed, epoch)
        chosen = tf.gather(pictures, order)
        images = pad_crop_flip(chosen, _seed(seed, step), pad, fill, augmentation.flip)
        return tf.ensure_shape(images, [batch_size, *shape.size, shape.channels]), labels(tf.gather(targets, order))

    def changed(picture: tf.Tensor, target: tf.Tensor, position: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        own = _seed(seed, position)
        if augmentation.crop == "resized":
            area, flip = augmentation.min_area, augmentation.flip
            return random_resized_crop(picture, own, shape.size, shape.channels, area, flip), labels(target)
        image = tf.cast(shape.prepare(picture), tf.uint8)[None]
        image = pad_crop_flip(image, own, pad, fill, augmentation.flip)[0]
        return tf.ensure_shape(image, [*shape.size, shape.channels]), labels(target)

    def one_picture(position: Any) -> tuple[tf.Tensor, tf.Tensor]:
        epoch, place = position // (steps * batch_size), position % (steps * batch_size)
        index = _shuffled(place, len(split), seed, epoch)
        return changed(_read(tf.gather(pictures, index)), tf.gather(targets, index), position)

    def epoch_of_records(epoch: Any) -> tf.data.Dataset:
        key = _seed(seed, epoch)
        records = tf.data.Dataset.from_tensor_slices(_stateless_shuffle(tf.constant(files), key)).interleave(
            tf.data.TFRecordDataset, 16, 16, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True
        )
        # tf.data's own shuffle would mix the process's seed in.
        windows = records.batch(SHUFFLE_WINDOW).enumerate(epoch * steps)
        windows = windows.map(lambda number, window: _stateless_shuffle(window, _seed(seed, number)))
        return windows.unbatch().take(steps * batch_size)

    total, first = steps * epochs, first_step * batch_size
    if isinstance(split, RecordSplit):
        files, parse = split.files, split.parse
        records = tf.data.Dataset.range(epochs).flat_map(epoch_of_records).skip(first)
        examples = records.enumerate(first).map(
            lambda position, record: changed(*parse(record), position), tf.data.AUTOTUNE
        )
        batches = examples.batch(batch_size, drop_remainder=True)
    else:
        pictures, targets = _pictures(split), tf.constant(split.targets)
        if ready is not None:
            batches = tf.data.Dataset.range(first_step, total).map(whole_batch, tf.data.AUTOTUNE)
        else:
            examples = tf.data.Dataset.range(first, total * batch_size).map(one_picture, tf.data.AUTOTUNE)
            batches = examples.batch(batch_size, drop_remainder=True)
    return batches.with_options(_options()).prefetch(tf.data.AUTOTUNE)


def evaluation_batches(source: Source, shape: PictureFormat, batch_size: int) -> tf.data.Dataset:
    """Every picture of the test split once, in order; the last batch may be smaller."""
    split, classes = prepared(source.test, shape), len(source.labels)
    if split is not None:
        dataset = tf.data.Dataset.from_tensor_slices((split.images, split.targets))
    else:
        split = source.test
        if isinstance(split, RecordSplit):
            examples = tf.data.TFRecordDataset(list(split.files)).map(split.parse, tf.data.AUTOTUNE)
        else:
            examples = tf.data.Dataset.from_tensor_slices((_pictures(split), tf.constant(split.targets)))
            examples = examples.map(lambda picture, target: (_read(picture), target), tf.data.AUTOTUNE)
        dataset = examples.map(lambda picture, target: (shape.prepare(picture), target), tf.data.AUTOTUNE)
    batches = dataset.batch(batch_size).map(lambda images, targets: (images, tf.one_hot(targets, classes)))
    return batches.with_options(_options()).prefetch(tf.data.AUTOTUNE)


def _shuffled(places: tf.Tensor, count: int, seed: int, epoch: tf.Tensor) -> tf.Tensor:
    """Where the `places` of an epoch's order point: a permutation of `count` that depends on (seed, epoch) only."""
    key = tf.stack([tf.constant(seed, tf.int64), epoch])
    return tf.random.experimental.index_shuffle(places, tf.cast(key, tf.uint32), tf.constant(count - 1, tf.int64))  # pyright: ignore[reportAttributeAccessIssue]


def _stateless_shuffle(values: tf.Tensor, key: tf.Tensor) -> tf.Tensor:
    return tf.random.experimental.stateless_shuffle(values, key)  # pyright: ignore[reportAttributeAccessIssue]


def _seed(seed: int, position: tf.Tensor) -> tf.Tensor:
    return tf.stack([tf.constant(seed, tf.int64), tf.cast(position, tf.int64)])


def _options() -> tf.data.Options:
    options = tf.data.Options()
    options.deterministic = True
    options.threading.private_threadpool_size = os.cpu_count() or 1  # the program leaves TensorFlow one op at a time
    options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.OFF
    return options

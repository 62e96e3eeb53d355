"""Batches: each training batch is a pure function of (seed, epoch, step), so a run can be repeated and continued.

Every batch is `(images [N, H, W, C], one-hot labels float32 [N, classes])`; pixels are 0 to 255, uint8 or float32. Only
records that do not fit in memory are streamed; everything else is picked by index, and the order of an epoch is a
permutation that is computed, not stored.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf

from resnet_keras.card import ModelCard
from resnet_keras.config import Augmentation
from resnet_keras.data.augmentation import pad_crop_flip, random_resized_crop
from resnet_keras.data.images import decode, resize_and_centre_crop
from resnet_keras.data.splits import FITS_IN_MEMORY, ArraySplit, FileSplit, Source, Split
from resnet_keras.errors import UsageError

SHUFFLE_BUFFER = 16_384
"""Encoded pictures that a streamed split keeps to choose from."""


@dataclass(frozen=True)
class PictureFormat:
    """The size that a network takes, and how pictures are brought to it."""

    size: tuple[int, int]
    channels: int
    card: ModelCard

    def prepare(self, encoded: tf.Tensor) -> tf.Tensor:
        """An encoded picture to `float32[*size, channels]`, 0 to 255: the evaluation transform."""
        image = decode(encoded, self.channels)
        return resize_and_centre_crop(image, self.size, self.card.crop, self.card.interpolation)


def in_memory(split: Split, shape: PictureFormat) -> Split:
    """A split of files as an array of pictures of the network's size, where that fits in memory."""
    if isinstance(split, ArraySplit) and split.images.shape[1:3] != shape.size:
        images = tf.data.Dataset.from_tensor_slices(split.images).map(
            lambda image: resize_and_centre_crop(image, shape.size, shape.card.crop, shape.card.interpolation),
            num_parallel_calls=tf.data.AUTOTUNE,
        )
    elif isinstance(split, FileSplit) and len(split) * np.prod((*shape.size, shape.channels)) <= FITS_IN_MEMORY:
        images = tf.data.Dataset.from_tensor_slices(list(split.paths)).map(
            lambda path: shape.prepare(tf.io.read_file(path)), num_parallel_calls=tf.data.AUTOTUNE
        )
    else:
        return split
    pixels = images.map(lambda image: tf.cast(image, tf.uint8)).batch(256).as_numpy_iterator()
    return ArraySplit(np.concatenate(list(pixels)), split.targets)


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
    split = source.train if augmentation.crop == "resized" else in_memory(source.train, shape)
    steps = steps_per_epoch(split, batch_size)
    classes = len(source.labels)

    def labels(targets: tf.Tensor) -> tf.Tensor:
        return tf.one_hot(targets, classes) * (1.0 - label_smoothing) + label_smoothing / classes

    def batch_from_array(step: Any) -> tuple[tf.Tensor, tf.Tensor]:
        epoch, place = step // steps, step % steps
        order = _shuffled(place * batch_size + tf.range(batch_size, dtype=tf.int64), len(split), seed, epoch)
        pad = augmentation.pad if augmentation.crop == "pad" else 0
        fill = tf.constant(np.round(np.array(shape.card.mean) * 255), tf.uint8)
        chosen = tf.ensure_shape(tf.gather(pixels, order), [batch_size, *shape.size, shape.channels])
        images = pad_crop_flip(chosen, _seed(seed, step), pad, fill, augmentation.flip)
        return tf.reshape(images, chosen.shape), labels(tf.gather(targets, order))

    def picture(encoded: tf.Tensor, target: tf.Tensor, position: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        own = _seed(seed, position)
        if augmentation.crop == "resized":
            area, flip = augmentation.min_area, augmentation.flip
            image = random_resized_crop(encoded, own, shape.size, shape.channels, area, flip)
        else:
            image = tf.cast(shape.prepare(encoded), tf.uint8)
            pad = augmentation.pad if augmentation.crop == "pad" else 0
            fill = tf.constant(np.round(np.array(shape.card.mean) * 255), tf.uint8)
            image = pad_crop_flip(image[None], own, pad, fill, augmentation.flip)[0]
        return tf.ensure_shape(image, [*shape.size, shape.channels]), labels(target)

    def picture_from_file(position: Any) -> tuple[tf.Tensor, tf.Tensor]:
        epoch, place = position // (steps * batch_size), position % (steps * batch_size)
        index = _shuffled(place, len(split), seed, epoch)
        return picture(tf.io.read_file(tf.gather(paths, index)), tf.gather(targets, index), position)

    def epoch_of_records(epoch: Any) -> tf.data.Dataset:
        shuffled = tf.random.experimental.stateless_shuffle(tf.constant(files), _seed(seed, epoch))  # pyright: ignore[reportAttributeAccessIssue]
        records = tf.data.Dataset.from_tensor_slices(shuffled).interleave(
            tf.data.TFRecordDataset, 16, 16, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True
        )
        return records.shuffle(SHUFFLE_BUFFER, seed=seed + epoch).take(steps * batch_size)

    total, first = steps * epochs, first_step * batch_size
    if isinstance(split, ArraySplit):
        pixels, targets = tf.constant(split.images), tf.constant(split.targets)
        batches = tf.data.Dataset.range(first_step, total).map(batch_from_array, tf.data.AUTOTUNE)
    elif isinstance(split, FileSplit):
        paths, targets = tf.constant(split.paths), tf.constant(split.targets)
        pictures = tf.data.Dataset.range(first, total * batch_size).map(picture_from_file, tf.data.AUTOTUNE)
        batches = pictures.batch(batch_size, drop_remainder=True)
    else:
        files = split.files
        records = tf.data.Dataset.range(epochs).flat_map(epoch_of_records).skip(first)
        numbered = records.enumerate(first).map(
            lambda position, record: picture(*split.parse(record), position), tf.data.AUTOTUNE
        )
        batches = numbered.batch(batch_size, drop_remainder=True)
    return batches.with_options(_options()).prefetch(tf.data.AUTOTUNE)


def evaluation_batches(source: Source, shape: PictureFormat, batch_size: int) -> tf.data.Dataset:
    """Every picture of the test split once, in order; the last batch may be smaller."""
    split, classes = in_memory(source.test, shape), len(source.labels)
    if isinstance(split, ArraySplit):
        dataset = tf.data.Dataset.from_tensor_slices((split.images, split.targets))
    elif isinstance(split, FileSplit):
        dataset = tf.data.Dataset.from_tensor_slices((list(split.paths), split.targets)).map(
            lambda path, target: (shape.prepare(tf.io.read_file(path)), target), tf.data.AUTOTUNE
        )
    else:
        dataset = tf.data.TFRecordDataset(list(split.files)).map(
            lambda record: _prepared(shape, *split.parse(record)), tf.data.AUTOTUNE
        )
    batches = dataset.batch(batch_size).map(lambda images, targets: (images, tf.one_hot(targets, classes)))
    return batches.with_options(_options()).prefetch(tf.data.AUTOTUNE)


def _prepared(shape: PictureFormat, encoded: tf.Tensor, target: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    return shape.prepare(encoded), target


def _shuffled(places: tf.Tensor, count: int, seed: int, epoch: tf.Tensor) -> tf.Tensor:
    """Where the `places` of an epoch's order point: a permutation of `count` that depends on (seed, epoch) only."""
    key = tf.stack([tf.constant(seed, tf.int64), epoch])
    return tf.random.experimental.index_shuffle(places, tf.cast(key, tf.uint32), tf.constant(count - 1, tf.int64))  # pyright: ignore[reportAttributeAccessIssue]


def _seed(seed: int, position: tf.Tensor) -> tf.Tensor:
    return tf.stack([tf.constant(seed, tf.int64), tf.cast(position, tf.int64)])


def _options() -> tf.data.Options:
    options = tf.data.Options()
    options.deterministic = True
    options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.OFF
    return options

"""Batches: each training batch is a pure function of (seed, epoch, step), so a run can be repeated and continued.

Every batch is `(images [N, H, W, C], labels float32 [N, classes])`, one-hot where an image has one label; pixels are 0
to 255, uint8 or float32. Only records that do not fit in memory are streamed; everything else is picked by index, and
the order of an epoch is a permutation that is computed, not stored.
"""

import os
from weakref import WeakKeyDictionary

import numpy as np
import tensorflow as tf

from resnet_keras.config.augmentation import Augmentation
from resnet_keras.data import given
from resnet_keras.data.augmentation import (
    distorted_part,
    erase,
    jitter,
    lighting,
    mix,
    pad_crop,
    pad_crop_flip,
    random_flip,
    random_resized_crop,
    random_scaled_crop,
    resized_part,
    window_draws,
)
from resnet_keras.data.format import ImageFormat
from resnet_keras.data.order import Order, as_it_is, key_of
from resnet_keras.data.policies import randaugment, three_augment, trivialaugment
from resnet_keras.data.splits import FITS_IN_MEMORY, ArraySplit, DatasetSplit, FileSplit, RecordSplit, Source, Split
from resnet_keras.data.streams import Change, records
from resnet_keras.data.targets import as_vectors
from resnet_keras.errors import UsageError
from resnet_keras.progress import progress

PARTS = {"resized": resized_part, "distorted": distorted_part}
"""How random parts of images are drawn, by the name of the crop."""
RANDAUGMENTS = {"randaugment": "rand", "randaugment-increasing": "increasing", "randaugment-rs": "rs"}
"""The columns of `policies.OPERATIONS`, by the name of the policy."""
GREY = np.uint8(128)


def in_memory(split: Split, shape: ImageFormat) -> ArraySplit | None:
    """The split's images by the evaluation transform, as uint8, where they fit in memory; else None."""
    if isinstance(split, ArraySplit) and split.images.shape[1:3] == shape.size and shape.card.crop == 1:
        return split
    if (
        isinstance(split, RecordSplit | DatasetSplit)
        or len(split) * np.prod((*shape.size, shape.channels)) > FITS_IN_MEMORY
    ):
        return None
    way = (shape.size, shape.channels, shape.card.crop, shape.card.interpolation)
    known = _IN_MEMORY.get(split)
    if known is None or known[0] != way:
        images = tf.data.Dataset.from_tensor_slices(_images(split)).map(
            as_it_is(lambda image: tf.cast(shape.evaluation_transform(_read(image)), tf.uint8)), tf.data.AUTOTUNE
        )
        batches = []
        with progress("decoding images", len(split), "images") as task:
            for batch in images.batch(256).as_numpy_iterator():
                batches.append(batch)
                task.add(len(batch))
        decoded = np.concatenate(batches)
        known = _IN_MEMORY[split] = (way, ArraySplit(decoded, split.targets))
    return known[1]


_IN_MEMORY: WeakKeyDictionary[Split, tuple[tuple, ArraySplit]] = WeakKeyDictionary()
"""What each split was last brought to, for as long as it lives: each phase of a run uses it again."""


def _images(split: ArraySplit | FileSplit) -> tf.Tensor:
    """All the images of a split: their pixels, or the names of their files."""
    return tf.constant(split.images if isinstance(split, ArraySplit) else split.paths)


def _read(image: tf.Tensor) -> tf.Tensor:
    return tf.io.read_file(image) if image.dtype == tf.string else image


def steps_per_epoch(split: Split, batch_size: int) -> int:
    """Whole batches in an epoch. Raises `UsageError` where there is not one."""
    if batch_size > len(split):
        raise UsageError(
            f"batch_size {batch_size} is larger than the {len(split)} training images; give {len(split)} or less"
        )
    return len(split) // batch_size


def training_batches(
    source: Source,
    shape: ImageFormat,
    augmentation: Augmentation,
    *,
    batch_size: int,
    seed: int,
    first_step: int,
    last_step: int,
    label_smoothing: float = 0.0,
    shard: tuple[int, int] = (0, 1),
) -> tf.data.Dataset:
    """The shuffled and augmented batches of the steps from `first_step` up to, and without, `last_step`.

    Steps are counted over the whole run; an epoch is `steps_per_epoch` of them, and drops its incomplete last batch.

    Args:
        batch_size: images a step, over all shards together.
        shard: (index, count): only that one of `count` equal parts of each batch; the parts, one after the other, are
            the whole batch to the last bit.

    Raises:
        UsageError: a batch that cannot be divided, or an augmentation that does not suit the images.
    """
    index, parts = shard
    share, classes = batch_size // parts, len(source.labels)
    if batch_size % parts:
        raise UsageError(f"batch_size {batch_size} cannot be divided by {parts}, the parts that it is read in")
    check_augmentation(augmentation, shape, share)

    def smooth(images: tf.Tensor, labels: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        return images, labels * (1.0 - label_smoothing) + label_smoothing / classes

    if isinstance(source.train, DatasetSplit):
        batches = given.training_batches(
            source.train,
            shape.size,
            classes,
            batch_size=batch_size,
            first_step=first_step,
            last_step=last_step,
            shard=shard,
        )
        return batches.map(as_it_is(smooth)).prefetch(tf.data.AUTOTUNE)
    order = Order(len(source.train), steps_per_epoch(source.train, batch_size), batch_size, augmentation.repeats, seed)
    ready = None if augmentation.crop in (*PARTS, "scale") else in_memory(source.train, shape)
    split = source.train if ready is None else ready
    places, steps = np.arange(index * share, (index + 1) * share), range(first_step, last_step)

    def finished(positions: tf.Tensor, images: tf.Tensor, targets: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        images, labels = smooth(images, as_vectors(targets, classes))
        if not augmentation.mixes:
            return images, labels
        return mix(images, labels, key_of(seed, "mix", positions[0] // batch_size), augmentation)

    if ready is not None and _windows_only(augmentation):
        fill = _fill(shape) if augmentation.pad_fill == "mean" else None
        batches = _whole_batches(ready, order, places, augmentation, fill, steps)
    else:
        change = _changes(shape, augmentation, seed, ready is not None)
        if isinstance(split, RecordSplit):
            examples = records(split, order, places, change, steps)
        else:
            examples = _indexed(split, order, places, change, steps)
        batches = examples.batch(share, drop_remainder=True)
    return batches.map(as_it_is(finished), tf.data.AUTOTUNE).with_options(_options()).prefetch(tf.data.AUTOTUNE)


def check_augmentation(augmentation: Augmentation, shape: ImageFormat, share: int) -> None:
    """Raise `UsageError` where an augmentation does not suit the images, or the `share` of a batch read at once."""
    most = min(shape.size) - (augmentation.pad_fill == "reflection")
    if augmentation.crop == "pad" and augmentation.pad > most:
        raise UsageError(f"pad {augmentation.pad} is more than the {most} pixels that the image's side has for it")
    if augmentation.lighting and shape.channels != 3:
        raise UsageError(f"lighting shifts the colours of RGB; it must be 0 for images of {shape.channels} channel")
    colours = augmentation.policy != "none" or augmentation.jitter
    if colours and shape.channels not in (1, 3):
        raise UsageError(f"policy and jitter are for grey or RGB images, not for {shape.channels} channels")
    if augmentation.mixes and share % 2:
        raise UsageError(
            f"mixup and cutmix mix images in pairs: batch_size must be even for each part that is read on its own, "
            f"not {share}"
        )


def _windows_only(augmentation: Augmentation) -> bool:
    """Whether there is nothing but pad, crop and flip to do to each image."""
    others = (augmentation.jitter, augmentation.lighting, augmentation.erasing)
    return augmentation.crop in ("none", "pad") and augmentation.policy == "none" and not any(others)


def _whole_batches(
    split: ArraySplit,
    order: Order,
    places: np.ndarray,
    augmentation: Augmentation,
    fill: tf.Tensor | None,
    steps: range,
) -> tf.data.Dataset:
    """(positions, images, targets) of whole batches, where windows are all there is to draw: several times faster."""
    every, targets = _images(split), tf.constant(split.targets)
    pad = augmentation.pad if augmentation.crop == "pad" else 0

    def batch(step: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        chosen = order.indices(step, places)
        images = tf.gather(every, chosen)
        if pad or augmentation.flip:
            # Drawn for the batch of all shards, of which this one takes its own.
            draws = window_draws(key_of(order.seed, "crop", step), order.batch_size, pad, augmentation.flip)
            images = pad_crop_flip(images, draws[places[0] : places[-1] + 1], pad, fill)
        images = tf.ensure_shape(images, [len(places), *split.images.shape[1:]])
        return order.positions(step, places), images, tf.gather(targets, chosen)

    return tf.data.Dataset.range(steps.start, steps.stop).map(as_it_is(batch), tf.data.AUTOTUNE)


def _changes(shape: ImageFormat, augmentation: Augmentation, seed: int, ready: bool) -> Change:
    """All that happens to one image; `ready` where it comes by the evaluation transform."""
    mean, a = _fill(shape), augmentation
    fill = {"mean": mean, "black": tf.zeros_like(mean), "grey": tf.fill(mean.shape, GREY)}[a.fill]
    pad = a.pad if a.crop == "pad" else 0
    pixels = [tf.constant(np.array(values) * 255, tf.float32) for values in (shape.card.mean, shape.card.std)]
    erased = {"noise": [], "mean": [mean], "normal": pixels}[a.erasing_fill]

    def cropped(image: tf.Tensor, key: tf.Tensor) -> tf.Tensor:
        if a.crop in PARTS:
            how = PARTS[a.crop], a.crop_interpolation
            return random_resized_crop(image, key, shape.size, shape.channels, a.min_area, *how)
        if a.crop == "scale":
            return random_scaled_crop(image, key, shape.size, shape.channels, a.scale_range)
        image = image if ready else tf.cast(shape.evaluation_transform(image), tf.uint8)
        return pad_crop(image, key, pad, mean if a.pad_fill == "mean" else None) if pad else image

    def by_policy(image: tf.Tensor, key: tf.Tensor) -> tf.Tensor:
        image = image if image.dtype == tf.uint8 else tf.cast(tf.round(image), tf.uint8)
        if a.policy == "trivialaugment":
            return trivialaugment(image, key, fill)
        if a.policy == "three-augment":
            return three_augment(image, key, fill)
        return randaugment(
            image,
            key,
            fill,
            operations=a.operations,
            magnitude=a.magnitude,
            magnitude_std=a.magnitude_std,
            probability=a.operation_probability,
            policy=RANDAUGMENTS[a.policy],
        )

    def change(image: tf.Tensor, position: tf.Tensor) -> tf.Tensor:
        # A key for each thing, whether it is done or not: one more does not change what the others draw.
        keys = tf.unstack(tf.random.split(key_of(seed, "image", position), 6))
        image = tf.ensure_shape(cropped(image, keys[0]), [*shape.size, shape.channels])
        if a.flip:
            image = random_flip(image, keys[1])
        if a.policy != "none":
            image = by_policy(image, keys[2])
        if a.jitter:
            image = jitter(image, keys[3], a.jitter)
        if a.lighting:
            image = lighting(image, keys[4], a.lighting)
        if a.erasing:
            image = erase(image, keys[5], a.erasing, *erased)
        return tf.ensure_shape(image, [*shape.size, shape.channels])

    return change


def _indexed(
    split: ArraySplit | FileSplit, order: Order, places: np.ndarray, change: Change, steps: range
) -> tf.data.Dataset:
    """(position, image, target) of the wanted places of each step, one image at a time."""
    images, targets = _images(split), tf.constant(split.targets)

    def example(position: tf.Tensor, index: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        return position, change(_read(tf.gather(images, index)), position), tf.gather(targets, index)

    wanted = tf.data.Dataset.range(steps.start, steps.stop).map(
        as_it_is(lambda step: (order.positions(step, places), order.indices(step, places)))
    )
    return wanted.unbatch().map(as_it_is(example), tf.data.AUTOTUNE)


def evaluation_batches(
    source: Source, shape: ImageFormat, batch_size: int, chosen: Split | None = None
) -> tf.data.Dataset:
    """Every image of a split once, in order; the last batch may be smaller. The test split where none is chosen."""
    chosen = source.test if chosen is None else chosen
    split, classes = in_memory(chosen, shape), len(source.labels)
    if isinstance(chosen, DatasetSplit):
        own, one_hot = chosen.in_batches(batch_size), chosen.one_hot
        return own.map(as_it_is(lambda images, labels: (images, one_hot(labels, classes)))).prefetch(tf.data.AUTOTUNE)
    if split is not None:
        dataset = tf.data.Dataset.from_tensor_slices((split.images, split.targets))
    else:
        split = chosen
        if isinstance(split, RecordSplit):
            examples = tf.data.TFRecordDataset(list(split.files)).map(as_it_is(split.parse), tf.data.AUTOTUNE)
        else:
            examples = tf.data.Dataset.from_tensor_slices((_images(split), tf.constant(split.targets)))
            examples = examples.map(as_it_is(lambda image, target: (_read(image), target)), tf.data.AUTOTUNE)
        dataset = examples.map(
            as_it_is(lambda image, target: (shape.evaluation_transform(image), target)), tf.data.AUTOTUNE
        )
    batches = dataset.batch(batch_size).map(as_it_is(lambda images, targets: (images, as_vectors(targets, classes))))
    return batches.with_options(_options()).prefetch(tf.data.AUTOTUNE)


def _fill(shape: ImageFormat) -> tf.Tensor:
    """The card's mean colour, for what a change lays bare; uint8, one a channel or one for all."""
    return tf.constant(np.round(np.array(shape.card.mean) * 255), tf.uint8)


def _options() -> tf.data.Options:
    options = tf.data.Options()
    options.deterministic = True
    options.threading.private_threadpool_size = os.cpu_count() or 1  # the program leaves TensorFlow one op at a time
    options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.OFF
    return options

"""Data that a user hands over in Python, as a source: arrays, or `tf.data` of their own."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from resnet_keras.data.splits import ArraySplit, DatasetSplit, Source
from resnet_keras.data.targets import are_several
from resnet_keras.errors import UsageError

Images = tuple[Any, Any] | tf.data.Dataset
"""`(images, labels)` as arrays, or a dataset of such pairs."""
WANTED = (
    "(train, test) or (train, validation, test), each of them (images, labels) as arrays, or a tf.data.Dataset of "
    "(images, labels)"
)


def source_of(data: Sequence[Images], classes: int | None = None) -> Source:
    """Splits as a source.

    Args:
        data: `(train, test)` or `(train, validation, test)`. Arrays are uint8 pixels `[N, H, W, C]` or `[N, H, W]` with
            labels `[N]`, `[N, 1]` or one-hot `[N, classes]`: `keras.datasets.cifar10.load_data()` is such a pair. Where
            rows `[N, labels]` of zeros and ones have several ones, or none, each image can have several labels. A
            dataset gives pairs of the same but the last, one by one or in batches; pixels are 0 to 255, of any dtype.
        classes: that the network has; those that the labels name when None.

    Raises:
        UsageError: data of any other kind.
    """
    if not isinstance(data, tuple | list) or len(data) not in (2, 3):
        raise UsageError(f"data must be {WANTED}, not {type(data).__name__}")
    words = ("training", *(("validation",) if len(data) == 3 else ()), "test")
    several = any(map(_has_several, data))
    splits = {where: _split(part, where, several=several) for part, where in zip(data, words, strict=True)}
    train = splits["training"]
    size, channels = _shape_of(train)
    for where, split in splits.items():
        if (other := _shape_of(split)) != (size, channels):
            raise UsageError(f"the training images are {size} with {channels} channels, the {where} images {other}")
    names = tuple(getattr(data[0], "class_names", ()))
    count = len(names) or classes or max(map(_classes_of, splits.values()))
    for where, split in splits.items():
        if several and (own := _classes_of(split)) != count:
            raise UsageError(f"the {where} labels are {own} columns, for {count} classes")
        if isinstance(split, ArraySplit) and not several and split.targets.max() >= count:
            raise UsageError(f"the {where} labels go up to {split.targets.max()}, for {count} classes from 0")
        if isinstance(split, DatasetSplit) and split.one_hot_classes not in (None, count):
            raise UsageError(f"the {where} labels are one-hot for {split.one_hot_classes} classes, not for {count}")
    labels = names or tuple(str(i) for i in range(count))
    return Source("data given", labels, channels, size, train, splits["test"], splits.get("validation"))


def training_batches(
    split: DatasetSplit,
    size: tuple[int, int],
    classes: int,
    *,
    batch_size: int,
    first_step: int,
    last_step: int,
    shard: tuple[int, int],
) -> tf.data.Dataset:
    """The dataset's own order, in whole batches, epoch after epoch; one of `shard[1]` parts of each batch.

    Of images and one-hot labels.
    """
    index, parts = shard
    share, steps = batch_size // parts, len(split) // batch_size

    def own(images: tf.Tensor, labels: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        labels = split.one_hot(labels, classes)
        images, labels = (tensor[index * share : (index + 1) * share] for tensor in (images, labels))
        return tf.ensure_shape(images, [share, *size, images.shape[-1]]), tf.ensure_shape(labels, [share, classes])

    epoch = split.in_batches(batch_size, drop_remainder=True).take(steps)
    batches = epoch.skip(first_step % steps).concatenate(epoch.repeat())
    return batches.take(last_step - first_step).map(tf.autograph.experimental.do_not_convert(own))


def _has_several(part: Any) -> bool:
    """Whether labels are zeros and ones `[N, labels]`, and a row is not one-hot."""
    if isinstance(part, tf.data.Dataset) or not isinstance(part, tuple | list) or len(part) != 2:
        return False
    labels = np.asarray(part[1])
    if labels.ndim != 2 or labels.shape[1] < 2 or labels.dtype.kind not in "biuf":
        return False
    return bool(np.isin(labels, (0, 1)).all() and (labels.sum(1) != 1).any())


def _split(part: Any, where: str, *, several: bool = False) -> ArraySplit | DatasetSplit:
    if isinstance(part, tf.data.Dataset):
        if several:
            raise UsageError(f"the {where} data are a dataset, and others have several labels an image: give arrays")
        return _dataset_split(part, where)
    if not isinstance(part, tuple | list) or len(part) != 2:
        raise UsageError(f"the {where} data must be (images, labels), not {type(part).__name__}")
    images, labels = (np.asarray(array) for array in part)
    if images.ndim == 3:
        images = images[..., None]
    if images.dtype != np.uint8 or images.ndim != 4:
        raise UsageError(
            f"the {where} images must be uint8 pixels, 0 to 255, [N, H, W, C]; they are {images.dtype} {images.shape}"
        )
    if several:
        if labels.ndim != 2 or len(labels) != len(images) or not np.isin(labels, (0, 1)).all() or not len(images):
            raise UsageError(
                f"the {where} labels must be zeros and ones [{len(images)}, labels], as others have several an image; "
                f"they are {labels.dtype} {labels.shape}"
            )
        return ArraySplit(images, labels.astype(bool))
    if labels.ndim == 2:
        labels = labels[:, 0] if labels.shape[1] == 1 else labels.argmax(-1)
    if labels.ndim != 1 or labels.dtype.kind not in "iu" or len(labels) != len(images) or not len(images):
        raise UsageError(
            f"the {where} labels must be integers, one for each of {len(images)} images; they are {labels.dtype} "
            f"{labels.shape}"
        )
    if labels.min() < 0:
        raise UsageError(f"the {where} labels must count from 0; one is {labels.min()}")
    return ArraySplit(images, labels.astype("int64"))


def _dataset_split(dataset: tf.data.Dataset, where: str) -> DatasetSplit:
    spec: Any = dataset.element_spec
    if not isinstance(spec, tuple) or len(spec) != 2 or not all(isinstance(part, tf.TensorSpec) for part in spec):
        raise UsageError(f"the {where} dataset must give (images, labels), not {spec}")
    rank, labels_rank = (part.shape.rank for part in spec)
    batched = rank == 4
    if rank not in (3, 4) or None in spec[0].shape[-3:] or labels_rank not in (batched, batched + 1):
        raise UsageError(f"the {where} dataset must give images [N, H, W, C] of one size with labels [N], not {spec}")
    length = int((dataset.unbatch() if batched else dataset).cardinality())
    if length == tf.data.INFINITE_CARDINALITY:
        raise UsageError(f"the {where} dataset has no end: an epoch of it is unknown; end it with take(), not repeat()")
    if length == tf.data.UNKNOWN_CARDINALITY:
        length = sum(len(images) if batched else 1 for images, _ in dataset.as_numpy_iterator())
    if not length:
        raise UsageError(f"the {where} dataset is empty")
    return DatasetSplit(dataset, batched, length)


def _shape_of(split: ArraySplit | DatasetSplit) -> tuple[tuple[int, int], int]:
    shape = split.images.shape if isinstance(split, ArraySplit) else split.specs[0].shape
    height, width, channels = shape[-3:]
    return (height, width), channels


def _classes_of(split: ArraySplit | DatasetSplit) -> int:
    """By the labels themselves, which a dataset of integers must be read for."""
    if isinstance(split, ArraySplit):
        return split.targets.shape[1] if are_several(split.targets) else int(split.targets.max()) + 1
    return split.one_hot_classes or max(int(np.max(own)) for _, own in split.dataset.as_numpy_iterator()) + 1

"""What a source is: class names and two splits of labelled images, each in memory, in files or in records."""

import dataclasses
import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import tensorflow as tf

from resnet_keras.data.targets import are_several, places_of
from resnet_keras.errors import UsageError

VALIDATION_SHARE = 0.1
"""Of the training images of a user's own that are held out for validation, where nothing says which."""
FITS_IN_MEMORY = 2 * 2**30
"""Bytes of decoded images that are kept in memory instead of being decoded in each epoch."""


@dataclass(frozen=True, eq=False)
class ArraySplit:
    """Images of one size, in memory."""

    images: np.ndarray
    """uint8 [N, H, W, C]"""
    targets: np.ndarray
    """int64 [N], indices into the source's labels; or bool [N, labels]"""

    def __len__(self) -> int:
        return len(self.targets)


@dataclass(frozen=True, eq=False)
class FileSplit:
    """Image files, read when they are needed."""

    paths: tuple[str, ...]
    targets: np.ndarray

    def __len__(self) -> int:
        return len(self.targets)


@dataclass(frozen=True, eq=False)
class RecordSplit:
    """TFRecord files, too large for memory, read in order."""

    files: tuple[str, ...]
    lengths: tuple[int, ...]
    """Records of each file."""
    parse: Callable[[tf.Tensor], tuple[tf.Tensor, tf.Tensor]]
    """A serialized record to (encoded image, int64 target)."""

    def __len__(self) -> int:
        return sum(self.lengths)


@dataclass(frozen=True, eq=False)
class DatasetSplit:
    """A dataset of the user's own, in its own order: `(image, label)`, one by one or in batches."""

    dataset: tf.data.Dataset
    batched: bool
    length: int
    """Images."""

    def __len__(self) -> int:
        return self.length

    @property
    def specs(self) -> tuple[Any, Any]:
        """Of an element's images and labels."""
        return cast(Any, self.dataset.element_spec)

    def in_batches(self, size: int, *, drop_remainder: bool = False) -> tf.data.Dataset:
        make = self.dataset.rebatch if self.batched else self.dataset.batch
        return make(size, drop_remainder=drop_remainder)

    @property
    def one_hot_classes(self) -> int | None:
        """Of labels that are one-hot; None for integers."""
        shape = self.specs[1].shape
        return int(shape[-1]) if shape.rank == 1 + self.batched and shape[-1] != 1 else None

    def one_hot(self, labels: tf.Tensor, classes: int) -> tf.Tensor:
        """A batch's labels, `[N]`, `[N, 1]` or `[N, classes]`, as float32 `[N, classes]`.

        An InvalidArgument error where one is not among `classes`, or a row does not sum to one: nobody has read them
        before.
        """
        if self.one_hot_classes:
            labels = tf.cast(labels, tf.float32)
            whole = tf.reduce_all(tf.abs(tf.reduce_sum(labels, -1) - 1) < 0.01)
            words = "labels of a dataset must sum to 1 an image, for several labels an image give arrays; these are"
            with tf.control_dependencies([tf.Assert(whole, [words, labels], 8)]):
                return tf.identity(labels)
        labels = tf.cast(tf.reshape(labels, [-1]), tf.int64)
        known = tf.reduce_all((labels >= 0) & (labels < classes))
        with tf.control_dependencies([tf.Assert(known, [f"labels must be 0 to {classes - 1}; these are", labels], 8)]):
            return tf.one_hot(labels, classes)


Split = ArraySplit | FileSplit | RecordSplit | DatasetSplit


@dataclass(frozen=True)
class Source:
    """A labelled data set of images with a training and a test split."""

    name: str
    labels: tuple[str, ...]
    channels: int
    image_size: tuple[int, int] | None
    """(height, width) where all images have the same, else None."""
    train: Split
    test: Split
    validation: Split | None = None
    """What chooses between epochs and configs; None where nothing does."""
    skipped: tuple[str, ...] = ()
    """Damaged files that were left out, each with what is wrong with it."""

    @property
    def several(self) -> bool:
        """Whether an image can have several labels, or none: each is a question of its own then."""
        return isinstance(self.train, ArraySplit | FileSplit) and are_several(self.train.targets)

    @property
    def measured(self) -> Split:
        """What is measured after each epoch: the validation split where there is one, else the test split."""
        return self.validation or self.test

    @property
    def measured_name(self) -> str:
        return "validation" if self.validation else "test"


def hold_out(source: Source, share: float) -> Source:
    """A source whose validation split is a share of its training images, which do not train.

    The same images for every seed, so that configs can be compared; of records, whole files; of files, of each class by
    a hash of each one's name, so that one more moves no other.

    Raises:
        UsageError: there are too few images, or files of them.
    """
    split = source.train
    if isinstance(split, DatasetSplit):
        raise UsageError(
            "validation holds out training images, which a tf.data.Dataset cannot index; give (train, validation, test)"
        )
    total = len(split.files if isinstance(split, RecordSplit) else split)
    held = max(1, round(total * share))
    if held >= total:
        what = "record files" if isinstance(split, RecordSplit) else "training images"
        raise UsageError(f"validation {share:g} of {total} {what} of {source.name} leaves none to train on")
    if isinstance(split, FileSplit):
        held_places = places_below(split.paths, split.targets, "validation", share)
    else:
        held_places = np.sort(np.random.default_rng(0).permutation(total)[:held])
    if not len(held_places):
        raise UsageError(f"validation: no class of {source.name} has two training images, one of them to hold out")
    kept_places = np.setdiff1d(np.arange(total), held_places)
    kept, validation = (_part(split, places) for places in (kept_places, held_places))
    return dataclasses.replace(source, train=kept, validation=validation)


def name_shares(paths: Sequence[str], purpose: str) -> np.ndarray:
    """A number from 0 to 1 of each file, by its name and its folder's; another for each purpose."""
    names = ("/".join((purpose, *Path(path).parts[-2:])).encode("utf-8", "surrogateescape") for path in paths)
    return np.array([int.from_bytes(hashlib.sha256(name).digest()[:8], "big") / 2**64 for name in names])


def places_below(paths: Sequence[str], targets: np.ndarray, purpose: str, share: float) -> np.ndarray:
    """About a share of the files of each class, in order: at least one where there are two, and never all.

    Whatever other files there are, the same ones: by a hash of each file's name. Of files of several labels the rule
    holds for each label, as far as the labels of one file let it; none loses its last file.
    """
    shares, places = name_shares(paths, purpose), []
    if are_several(targets):
        return np.flatnonzero(_below_of_labels(shares, targets, share))
    for target in np.unique(targets):
        own = np.flatnonzero(targets == target)
        if len(own) > 1:
            chosen = shares[own] < share
            chosen[shares[own].argmin()] = True
            chosen[shares[own].argmax()] = False
            places.append(own[chosen])
    return np.sort(np.concatenate(places)) if places else np.array([], "int64")


def _below_of_labels(shares: np.ndarray, targets: np.ndarray, share: float) -> np.ndarray:
    chosen, each = shares < share, [places_of(targets, label) for label in range(targets.shape[1])]
    for own in each:
        if len(own) > 1 and not chosen[own].any():
            chosen[own[shares[own].argmin()]] = True
    for own in each:
        if len(own) and chosen[own].all():
            chosen[own[shares[own].argmax()]] = False
    return chosen


def _part(split: ArraySplit | FileSplit | RecordSplit, chosen: np.ndarray) -> Split:
    if isinstance(split, ArraySplit):
        return ArraySplit(split.images[chosen], split.targets[chosen])
    if isinstance(split, FileSplit):
        return FileSplit(tuple(split.paths[i] for i in chosen), split.targets[chosen])
    return RecordSplit(tuple(split.files[i] for i in chosen), tuple(split.lengths[i] for i in chosen), split.parse)


def inverse_frequency(counts: np.ndarray) -> list[float]:
    """The weight of each class by its number of training images: 1 on average over the images."""
    present = int((counts > 0).sum())
    return [float(counts.sum() / (present * count)) if count else 0.0 for count in counts.tolist()]


def channel_statistics(split: Split, channels: int) -> tuple[tuple[float, ...], tuple[float, ...]] | None:
    """Mean and deviation of each channel, pixels in [0, 1], of a split in memory; None for the others."""
    if not isinstance(split, ArraySplit):
        return None
    # A histogram of 256 values is exact and needs no float copy of the images.
    counts = [np.bincount(split.images[..., c].ravel(), minlength=256) for c in range(channels)]
    values = np.arange(256) / 255
    means = [float(np.average(values, weights=count)) for count in counts]
    variances = [
        float(np.average((values - mean) ** 2, weights=count)) for mean, count in zip(means, counts, strict=True)
    ]
    return tuple(round(m, 4) for m in means), tuple(round(max(v**0.5, 1e-3), 4) for v in variances)

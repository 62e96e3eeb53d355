"""The ranges of a network's maps on real images, and what int8 costs in accuracy on others."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from resnet_keras.data.format import ImageFormat
from resnet_keras.data.pipeline import in_memory
from resnet_keras.data.sources import open_source
from resnet_keras.data.splits import ArraySplit, DatasetSplit, FileSplit, RecordSplit, Split
from resnet_keras.errors import UsageError
from resnet_keras.export.fake_quantized import FakeInt8Graph
from resnet_keras.export.floating import emit_float
from resnet_keras.export.networks import BATCH, Ends, FloatNetwork, Int8Network, batches, run_network
from resnet_keras.export.operations import Operation, maps_of
from resnet_keras.export.quantized import SIGNED_LEVELS, Int8Graph
from resnet_keras.progress import Progress, progress

LEAST, MOST = 256, 4096
"""Images: fewer measure the ranges badly, more take time and change nothing."""
LEAST_SHARE = 0.25
"""Of the multiply-adds that int8 has to compute."""
BINS = 4096
PERCENTILES = (100.0, 99.99, 99.9)
"""Shares of a map's values that its range may hold: outliers are cut off where that makes the rest finer."""
PASSES = 3 + len(PERCENTILES)
"""Over the images that ranges are chosen by: float32, two of `measure_ranges`, and each candidate."""


@dataclass(frozen=True)
class CalibrationSet:
    """Images of the network's size, in two halves: one to measure ranges with, one to prove the result."""

    images: np.ndarray
    """uint8 [N, H, W, C]"""
    targets: np.ndarray | None
    """int64 [N], or bool [N, labels], in the order of the model's labels; None where the set has others, or none."""

    @property
    def halves(self) -> tuple["CalibrationSet", "CalibrationSet"]:
        """Every other image."""
        first, second = (
            CalibrationSet(self.images[i::2], None if self.targets is None else self.targets[i::2]) for i in (0, 1)
        )
        return first, second


def open_calibration(data: Any, shape: ImageFormat, labels: Sequence[str], data_dir: str | None) -> CalibrationSet:
    """Images to calibrate on, by the evaluation transform.

    Args:
        data: a folder of class/file, the name of a data set, of which the training images count, or an array
            `uint8[N, H, W, C]` of the network's size.
        shape: the network's images.
        labels: the model's.
        data_dir: where TensorFlow Datasets keeps prepared data.

    Raises:
        UsageError: for anything else, or fewer than 256 images.
    """
    if isinstance(data, np.ndarray):
        if data.dtype != np.uint8 or data.shape[1:] != (*shape.size, shape.channels):
            wanted = f"uint8 [N, {shape.size[0]}, {shape.size[1]}, {shape.channels}]"
            raise UsageError(f"calibration_data must be {wanted}, not {data.dtype} {list(data.shape)}")
        found = CalibrationSet(data[_chosen(len(data), MOST)], None)
    elif isinstance(data, str | Path):
        source = open_source(str(data), data_dir)
        if source.channels != shape.channels:
            raise UsageError(f"{data} has {source.channels} channels, and the network takes {shape.channels}")
        split = some_images(source.train, shape, MOST)
        same = tuple(source.labels) == tuple(labels)
        found = CalibrationSet(split.images, split.targets if same else None)
    else:
        raise UsageError(f"calibration_data is a folder, a data set's name or an array, not {type(data).__name__}")
    _check_enough(len(found.images))
    return found


def _check_enough(count: int) -> None:
    if count < LEAST:
        raise UsageError(f"{count} images are too few to calibrate with; give {LEAST} or more")


def some_images(split: Split, shape: ImageFormat, most: int) -> ArraySplit:
    """So many images at most, from all over a split, by the evaluation transform.

    Raises:
        UsageError: fewer than 256, more than fit in memory, or a split that is streamed.
    """
    if isinstance(split, RecordSplit | DatasetSplit):
        raise UsageError("calibration on a data set that is streamed is not possible; give a folder of some images")
    _check_enough(len(split))
    chosen = _chosen(len(split), most)
    some: ArraySplit | FileSplit
    if isinstance(split, ArraySplit):
        some = ArraySplit(split.images[chosen], split.targets[chosen])
    else:
        some = FileSplit(tuple(split.paths[i] for i in chosen), split.targets[chosen])
    found = in_memory(some, shape)
    if found is None:
        raise UsageError(f"{most} images of {shape.size} do not fit in memory; give a folder of fewer")
    return found


def _chosen(count: int, most: int) -> np.ndarray:
    return np.random.default_rng(0).permutation(count)[:most]


@dataclass(frozen=True)
class Calibrated:
    """A network in int8, and what it was proved on."""

    network: Int8Network
    images: np.ndarray
    """uint8 [N, H, W, C], which had no part in its making."""
    probabilities: np.ndarray
    """float32 [N, classes]: its outputs for them."""
    facts: dict[str, Any]
    """For the manifest."""


def check_int8_pays(ends: Ends, shape: ImageFormat, name: str, instead: str = "use dtype bfloat16") -> float:
    """The share of a network's multiply-adds that would be in int8.

    Args:
        ends: the lowered model.
        shape: the network's images.
        name: of the model.
        instead: what to do where it is refused.

    Raises:
        UsageError: next to nothing would be: it would be slower than bfloat16.
    """
    with tf.Graph().as_default():
        pixels = tf.compat.v1.placeholder(tf.uint8, [None, *shape.size, shape.channels])
        share = Int8Network(ends, defaultdict(lambda: 1.0), arithmetic=FakeInt8Graph).emit(pixels).int8_share
    if share < LEAST_SHARE:
        raise UsageError(
            f"int8 computes convolutions of one group with ReLU, {share * 100:.1f} % of the multiply-adds of {name}, "
            f"and so would gain nothing; {instead}"
        )
    return share


def calibrate(
    ends: Ends,
    data: CalibrationSet,
    most: float,
    name: str,
    thresholds: tuple[float, ...] = (),
    kernel_levels: int = SIGNED_LEVELS,
) -> Calibrated:
    """Choose the ranges that stay closest to float32, and prove them on images that had no part in that.

    Args:
        ends: the lowered model.
        data: images, with their classes where they are known.
        most: percentage points that may be lost, as in `prove`.
        name: of the model.
        thresholds: as in `prove`.
        kernel_levels: as in `Int8Graph`.

    Raises:
        UsageError: where more is lost, or the model itself returns NaN.
    """
    seen, unseen = data.halves
    with progress("calibrating int8", PASSES * len(seen.images) + 2 * len(unseen.images)) as task:
        ranges, percentile = choose_ranges(ends, seen.images, name, task, kernel_levels)
        network = Int8Network(ends, dict(zip(maps_of(*ends), ranges, strict=True)), kernel_levels)
        result = run_network(network, unseen.images, task)
        expected = run_network(FloatNetwork(ends, tf.float32), unseen.images, task).probabilities
    facts = prove(expected, result.probabilities, unseen.targets, most, thresholds)
    share = round(result.int8_share, 4)
    facts |= {"calibrated_on": len(seen.images), "share_of_macs": share, "percentile": percentile}
    facts |= {"kernel_levels": kernel_levels}
    return Calibrated(network, unseen.images, result.probabilities, facts)


def choose_ranges(
    ends: Ends,
    images: np.ndarray,
    name: str,
    task: Progress,
    kernel_levels: int = SIGNED_LEVELS,
    arithmetic: type[Int8Graph] = Int8Graph,
) -> tuple[tuple[float, ...], float]:
    """The ranges by which int8 stays closest to float32 on images, one for each of `maps_of`, and their percentile.

    Args:
        ends: the lowered model.
        images: `uint8[N, H, W, C]`.
        name: of the model.
        task: counts `PASSES` passes.
        kernel_levels: as in `Int8Graph`.
        arithmetic: what computes in int8.

    Raises:
        UsageError: the model itself returns NaN.
    """
    wanted = run_network(FloatNetwork(ends, tf.float32), images, task).probabilities
    if not np.isfinite(wanted).all():
        raise UsageError(f"{name} itself returns NaN for images; its weights cannot be exported")
    candidates = measure_ranges(ends, images, task)
    errors = {
        percentile: float(np.square(run_network(network, images, task).probabilities - wanted).mean())
        for percentile, network in (
            (p, Int8Network(ends, found, kernel_levels, arithmetic)) for p, found in candidates.items()
        )
    }
    percentile = min(errors, key=lambda p: errors[p])
    return tuple(candidates[percentile][one] for one in maps_of(*ends)), percentile


def calibrated_by(
    ends: Ends,
    ranges: Sequence[float],
    data: CalibrationSet | None,
    shape: ImageFormat,
    most: float,
    name: str,
    kernel_levels: int = SIGNED_LEVELS,
) -> Calibrated:
    """A network in the ranges that it was trained with, proved on images where there are some.

    What may be lost is lost against the network as it was trained, which is `FakeInt8Graph`'s arithmetic.

    Args:
        ends: the lowered model.
        ranges: of its card.
        data: images that had no part in measuring the ranges; None to compare on random pixels, which prove the
            arithmetic and no accuracy.
        shape: the network's images.
        most: percentage points that may be lost, as in `prove`.
        name: of the model.
        kernel_levels: as in `Int8Graph`; the training had all 127.

    Raises:
        UsageError: the ranges are of another network, or more is lost.
    """
    maps = maps_of(*ends)
    if len(ranges) != len(maps):
        raise UsageError(f"{name} has {len(maps)} maps, and its card int8 ranges of {len(ranges)}; train it anew")
    of_maps = dict(zip(maps, ranges, strict=True))
    images = random_pixels(shape) if data is None else data.images
    network, fake = Int8Network(ends, of_maps, kernel_levels), Int8Network(ends, of_maps, arithmetic=FakeInt8Graph)
    with progress("proving int8", 3 * len(images)) as task:
        result, trained, plain = (
            run_network(one, images, task) for one in (network, fake, FloatNetwork(ends, tf.float32))
        )
    if not np.isfinite(plain.probabilities).all():
        raise UsageError(f"{name} itself returns NaN for images; its weights cannot be exported")
    facts: dict[str, Any] = {}
    if data is not None:
        thresholds = shape.card.thresholds
        prove(trained.probabilities, result.probabilities, data.targets, most, thresholds)
        facts = prove(plain.probabilities, result.probabilities, data.targets, float("inf"), thresholds)
    facts |= {"ranges": "of the training", "share_of_macs": round(result.int8_share, 4), "kernel_levels": kernel_levels}
    return Calibrated(network, images, result.probabilities, facts)


def random_pixels(shape: ImageFormat) -> np.ndarray:
    """Some images of noise, the same each time."""
    return np.random.default_rng(0).integers(0, 256, (BATCH, *shape.size, shape.channels), "uint8")


def measure_ranges(
    ends: Sequence[Operation], images: np.ndarray, task: Progress
) -> dict[float, dict[Operation, float]]:
    """For each of `PERCENTILES`, the largest absolute value that each map's range is to hold.

    Maps that both convolutions and sums read are measured behind their activation. Two passes: the largest values, then
    a histogram of each map up to it.
    """
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        pixels = tf.compat.v1.placeholder(tf.uint8, [None, *images.shape[1:]])
        values = emit_float(ends, pixels, tf.float32)
        maps = maps_of(*ends)
        sizes = [tf.abs(tf.cast(values[operation], tf.float32)) for operation in maps]
        largest = [tf.reduce_max(size) for size in sizes]
        tops = np.max([session.run(largest, {pixels: batch}) for batch in batches(images, task)], 0)
        tops = np.maximum(tops, 1e-6)
        counts = [
            tf.histogram_fixed_width(size, [0.0, float(top)], BINS, tf.int64)
            for size, top in zip(sizes, tops, strict=True)
        ]
        histograms = np.sum([session.run(counts, {pixels: batch}) for batch in batches(images, task)], 0)
    ranges: dict[float, dict[Operation, float]] = {}
    for percentile in PERCENTILES:
        shares = np.cumsum(histograms, 1) / histograms.sum(1, keepdims=True)
        bins = np.argmax(shares >= percentile / 100, 1) + 1
        ranges[percentile] = dict(zip(maps, (tops * bins / BINS).tolist(), strict=True))
    return ranges


def prove(
    expected: np.ndarray,
    got: np.ndarray,
    targets: np.ndarray | None,
    most: float,
    thresholds: tuple[float, ...] = (),
) -> dict[str, Any]:
    """What int8 lost on images that had no part in its making.

    Args:
        expected, got: probabilities `[N, classes]` of float32 and of int8.
        targets: the true classes, where they are known.
        most: percentage points that may be lost, of accuracy, or of agreement where no classes are known.
        thresholds: one a label, where an image can have several: each label of each image is a decision then.

    Raises:
        UsageError: where more is lost.
    """
    before, after = (one >= thresholds if thresholds else one.argmax(-1) for one in (expected, got))
    if targets is not None and targets.ndim != before.ndim:  # several labels there, one here, or the reverse
        targets = None
    facts: dict[str, Any] = {"agreement": float((before == after).mean()), "images": len(got)}
    loss, what = 1 - facts["agreement"], "agreement with float32"
    if targets is not None:
        facts |= {"accuracy_float32": float((before == targets).mean()), "accuracy": float((after == targets).mean())}
        loss, what = facts["accuracy_float32"] - facts["accuracy"], "accuracy"
    if not loss * 100 <= most:
        raise UsageError(
            f"int8 loses {loss * 100:.2f} points of {what} on {len(got)} images, more than {most:g}; "
            "use dtype bfloat16 or float32, other calibration data, or allow more with max_accuracy_loss"
        )
    return facts

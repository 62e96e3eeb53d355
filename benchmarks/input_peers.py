"""Training input as others write it, as programs: Keras's layers, decode-then-crop, and the decoder alone.

Beside them ours of the same work, on the same random images or files.
"""

import time
from collections.abc import Callable
from typing import Any, Literal

import resnet_keras as rk  # first: it keeps TensorFlow's start-up messages to itself

# isort: split
import keras
import numpy as np
import tensorflow as tf

from resnet_keras.benchmarks.pipeline import STEPS, random_files
from resnet_keras.benchmarks.variants import Program
from resnet_keras.config.train import Augmentation
from resnet_keras.data.format import ImageFormat
from resnet_keras.data.pipeline import training_batches
from resnet_keras.data.splits import ArraySplit, FileSplit, Source

COUNT, SIDE, PAD, CLASSES = 20_000, 32, 4, 10
WORK: dict[str, Augmentation] = {
    "crop and flip": Augmentation(crop="pad", flip=True),
    "mixup or cutmix": Augmentation(crop="pad", flip=True, mixup=0.2, cutmix=1.0),
    "randaugment": Augmentation(crop="pad", flip=True, policy="randaugment"),
}
"""What is done to CIFAR's images."""


def cifar(work: str, batch_size: int) -> Program:
    """Batches of random images of CIFAR's size by our pipeline."""
    source = _source()
    shape = ImageFormat((SIDE, SIDE), 3, rk.ModelCard())
    made = training_batches(source, shape, WORK[work], batch_size=batch_size, seed=0, first_step=0, last_step=STEPS)
    return _drained(made)


def keras_layers(work: str, batch_size: int) -> Program:
    """The same by Keras's layers; one image at a time where each draws its own, a batch where they mix."""
    crop, flip = keras.layers.RandomCrop(SIDE, SIDE), keras.layers.RandomFlip("horizontal")
    rand = keras.layers.RandAugment(value_range=(0, 255), num_ops=2, factor=0.9)
    mixers = [keras.layers.MixUp(0.2), keras.layers.CutMix(1.0)]
    augmentation, data = WORK[work], _source().train
    assert isinstance(data, ArraySplit)

    def one(image: tf.Tensor, label: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        padded = tf.pad(tf.cast(image, tf.float32), [[PAD, PAD], [PAD, PAD], [0, 0]])
        image = flip(crop(padded, training=True), training=True)
        return rand(image, training=True) if augmentation.policy != "none" else image, tf.one_hot(label, CLASSES)

    def mixed(images: tf.Tensor, labels: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        def by(layer: keras.Layer) -> Callable[[], tuple[tf.Tensor, tf.Tensor]]:
            def call() -> tuple[tf.Tensor, tf.Tensor]:
                out = layer({"images": images, "labels": labels}, training=True)
                return out["images"], out["labels"]

            return call

        return tf.cond(tf.random.uniform([]) < 0.5, by(mixers[0]), by(mixers[1]))

    examples = tf.data.Dataset.from_tensor_slices((data.images, data.targets)).repeat().shuffle(COUNT)
    batches = examples.map(one, tf.data.AUTOTUNE).batch(batch_size, drop_remainder=True)
    if augmentation.mixes:
        batches = batches.map(mixed, tf.data.AUTOTUNE)
    return _drained(batches.prefetch(tf.data.AUTOTUNE))


def jpeg(way: Literal["decode then crop", "the decoder alone"], image_size: int, batch_size: int) -> Program:
    """Batches of the random files of `resnet-keras benchmark input`: whole images cropped afterwards, or only decoded.

    The crop is drawn by TensorFlow, as its examples draw it: of 8 to 100 % of the area, its sides from 3:4 to 4:3.
    """
    split = random_files(batch_size).train
    assert isinstance(split, FileSplit)
    size = (image_size, image_size)

    def decoded(path: tf.Tensor) -> tf.Tensor:
        return tf.io.decode_jpeg(tf.io.read_file(path), 3)

    def cropped(path: tf.Tensor) -> tf.Tensor:
        image = decoded(path)
        begin, extent, _ = tf.image.sample_distorted_bounding_box(
            tf.shape(image),
            tf.zeros([1, 0, 4]),
            area_range=(0.08, 1.0),
            aspect_ratio_range=(3 / 4, 4 / 3),
            max_attempts=10,
            use_image_if_no_bounding_boxes=True,
        )
        part = tf.image.resize(tf.slice(image, begin, extent), size)
        return tf.image.random_flip_left_right(tf.ensure_shape(part, [*size, 3]))

    paths = tf.data.Dataset.from_tensor_slices(list(split.paths)).repeat().shuffle(len(split.paths))
    images = paths.map(cropped if way == "decode then crop" else decoded, tf.data.AUTOTUNE)
    # The files are of one size, so that the decoded ones make a batch.
    return _drained(images.batch(batch_size).map(lambda images: (images, 0)).prefetch(tf.data.AUTOTUNE))


def _source() -> Source:
    rng = np.random.default_rng(0)
    split = ArraySplit(rng.integers(0, 256, (COUNT, SIDE, SIDE, 3), "uint8"), rng.integers(0, CLASSES, COUNT))
    return Source("random", tuple("0123456789"), 3, (SIDE, SIDE), split, split)


def _drained(batches: tf.data.Dataset) -> Program:
    """A program that takes batches for so many seconds, anew in each call, as `pipeline.batches` does."""

    def read(seconds: float) -> dict[str, Any]:
        iterator, images = iter(batches), 0
        next(iterator)
        started = time.perf_counter()
        while (taken := time.perf_counter() - started) < seconds or not images:
            images += int(next(iterator)[0].shape[0])
        return {"images": images, "seconds": taken}

    return Program(read)

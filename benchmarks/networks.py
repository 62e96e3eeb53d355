"""ResNet-50 beside keras.applications.ResNet50, in one run: a training step and a prediction, 128x128.

Command: python -m benchmarks.networks [--size N] [--pairs N]. Prints images/s and the paired ratio.
"""

from dataclasses import dataclass
from typing import Any

import resnet_keras as rk  # first: it keeps TensorFlow's start-up messages to itself

# isort: split
import keras
import numpy as np
import tensorflow as tf
import tyro

from resnet_keras.benchmarks.pairs import Ratio, paired_ratio


@dataclass
class Arguments:
    """Time ResNet-50 (v1, as keras.applications has it) beside keras.applications.ResNet50."""

    size: int = 128
    train_batch: int = 16
    batches: tuple[int, ...] = (1, 8, 32)
    """Batch sizes of the predictions."""
    pairs: int = 7


def main(arguments: Arguments) -> None:
    shape = (arguments.size, arguments.size, 3)
    ours = rk.build_resnet(50, "v1", input_shape=shape)
    peer = keras.applications.ResNet50(weights=None, input_shape=shape)
    print(f"TensorFlow {tf.__version__}, Keras {keras.__version__}, {arguments.size}x{arguments.size}")
    print("task            ours, images/s  keras.applications  ratio")
    for batch in arguments.batches:
        own, other = prediction(ours, batch, shape), prediction(peer, batch, shape)
        report(f"predict {batch:3d}", batch, paired_ratio(own, other, arguments.pairs))
    batch = arguments.train_batch
    own, other = training_step(ours, batch, shape), training_step(peer, batch, shape)
    report(f"train {batch:5d}", batch, paired_ratio(own, other, arguments.pairs))


def prediction(model: keras.Model, batch: int, shape: tuple[int, ...]) -> Any:
    images = tf.constant(np.random.default_rng(0).normal(size=(batch, *shape)), tf.float32)
    run = tf.function(lambda: model(images, training=False))
    return lambda: run().numpy()


def training_step(model: keras.Model, batch: int, shape: tuple[int, ...]) -> Any:
    images = np.random.default_rng(0).normal(size=(batch, *shape)).astype("float32")
    labels = np.arange(batch) % 1000
    model.compile(keras.optimizers.SGD(0.1, momentum=0.9), "sparse_categorical_crossentropy", jit_compile=False)
    return lambda: model.train_on_batch(images, labels)


def report(task: str, images: int, measured: tuple[float, float, Ratio]) -> None:
    ours, peer, ratio = measured
    print(f"{task:14}  {images / ours:16.1f}  {images / peer:18.1f}  {ratio}", flush=True)


if __name__ == "__main__":
    main(tyro.cli(Arguments))

"""`fit` of our networks beside Keras's own `fit` of the same network of Keras's layers, without XLA, in float32.

Command: python -m benchmarks.fit [--replicas 2] [--network resnet50] [--pairs N]. Prints images/s and the paired ratio.
ResNet-20 for CIFAR at batches of 128; ResNet-50 (v1) at batches of 16 and 224 x 224 beside keras.applications' own.
Replicas are logical CPUs, which share the cores of the machine.
"""

import time
from dataclasses import dataclass
from typing import Any, Literal

import resnet_keras as rk  # first: it keeps TensorFlow's start-up messages to itself

# isort: split
import keras
import numpy as np
import tensorflow as tf
import tyro

from benchmarks.keras_peers import plain_keras_resnet20
from resnet_keras.benchmarks.pairs import paired_ratio
from resnet_keras.training.devices import make_strategy


@dataclass
class Arguments:
    """Time `fit`."""

    network: Literal["cifar_resnet20", "resnet50"] = "cifar_resnet20"
    replicas: int = 1
    steps: int = 4
    """In one timing."""
    pairs: int = 7


def main(arguments: Arguments) -> None:
    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * arguments.replicas)
    strategy = make_strategy("mirrored" if arguments.replicas > 1 else "none")
    small = arguments.network == "cifar_resnet20"
    batch, side, classes = (128, 32, 10) if small else (16, 224, 1000)
    rng = np.random.default_rng(0)
    images = rng.normal(size=(batch, side, side, 3)).astype("float32")
    dataset = tf.data.Dataset.from_tensors((images, rng.integers(0, classes, batch))).repeat(arguments.steps)
    with strategy.scope():
        ours = rk.build_cifar_resnet(20, shortcut="B") if small else rk.build_resnet(50, "v1")
        peer = plain_keras_resnet20() if small else keras.applications.ResNet50(weights=None)
    own, other = (fits(model, strategy, dataset, from_logits=model is peer and small) for model in (ours, peer))
    mine, theirs, ratio = paired_ratio(own, other, arguments.pairs)
    count = batch * arguments.steps
    print(
        f"TensorFlow {tf.__version__}, Keras {keras.__version__}, {arguments.network}, batches of {batch}, "
        f"{arguments.replicas} replica(s): ours {count / mine:.1f} images/s, Keras {count / theirs:.1f} images/s, "
        f"ratio {ratio} of {arguments.pairs} pairs, {time.strftime('%Y-%m-%d')}"
    )


def fits(model: keras.Model, strategy: tf.distribute.Strategy, dataset: tf.data.Dataset, *, from_logits: bool) -> Any:
    with strategy.scope():
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=from_logits)
        model.compile(keras.optimizers.SGD(0.01, 0.9, nesterov=True), loss, metrics=["accuracy"], jit_compile=False)
    return lambda: model.fit(dataset, verbose=0)


if __name__ == "__main__":
    main(tyro.cli(Arguments))

"""A training step of ResNet-20 for CIFAR beside Keras's own: its layers, its SGD, its `train_on_batch`.

Command: python -m benchmarks.step [--batch N] [--pairs N]. Prints images/s and the paired ratio, in float32
and in mixed bfloat16, without XLA. Ours has coupled decay and gating of bad steps besides.
"""

from dataclasses import dataclass
from typing import Any

import resnet_keras as rk  # first: it keeps TensorFlow's start-up messages to itself

# isort: split
import keras
import numpy as np
import tensorflow as tf
import tyro

from resnet_keras.benchmarks.pairs import paired_ratio
from resnet_keras.config.train import TrainConfig
from resnet_keras.training.state import TrainingState
from resnet_keras.training.step import Step


@dataclass
class Arguments:
    """Time training steps."""

    batch: int = 128
    steps: int = 4
    """In one timing."""
    pairs: int = 7


def main(arguments: Arguments) -> None:
    print(f"TensorFlow {tf.__version__}, Keras {keras.__version__}, ResNet-20, batches of {arguments.batch}")
    rng = np.random.default_rng(0)
    images = rng.normal(size=(arguments.batch, 32, 32, 3)).astype("float32")
    labels = np.eye(10, dtype="float32")[rng.integers(0, 10, arguments.batch)]
    for policy in ("float32", "mixed_bfloat16"):
        keras.config.set_dtype_policy(policy)
        own, other = our_steps(arguments, images, labels), keras_steps(arguments, images, labels)
        ours, peer, ratio = paired_ratio(own, other, arguments.pairs)
        count = arguments.batch * arguments.steps
        print(f"{policy:15} ours {count / ours:6.0f}/s  Keras {count / peer:6.0f}/s  ratio {ratio}", flush=True)


def our_steps(arguments: Arguments, images: np.ndarray, labels: np.ndarray) -> Any:
    network = rk.create_model("cifar_resnet20", classifier_activation=None)
    config = TrainConfig(batch_size=arguments.batch)
    state = TrainingState(network, config, tf.distribute.get_strategy(), 10_000)
    run = Step(network, state, config).runner()
    batches = iter(tf.data.Dataset.from_tensors((images, labels)).repeat())

    def steps() -> None:
        run(batches, tf.constant(arguments.steps))
        state.read_totals()  # which waits for them

    return steps


def keras_steps(arguments: Arguments, images: np.ndarray, labels: np.ndarray) -> Any:
    model = plain_keras_resnet20()
    loss = keras.losses.CategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(0.1, 0.9, nesterov=True), loss, metrics=["accuracy"], jit_compile=False)

    def steps() -> None:
        for _ in range(arguments.steps):
            model.train_on_batch(images, labels)

    return steps


def plain_keras_resnet20() -> keras.Model:
    """The same network as anyone would write it with Keras's layers, with projections for its two shortcuts."""
    layers = keras.layers

    def convolution(x: Any, filters: int, size: int, strides: int = 1) -> Any:
        x = layers.Conv2D(filters, size, strides, "same", use_bias=False)(x)
        return layers.BatchNormalization(momentum=0.9, epsilon=1e-5)(x)

    inputs = keras.Input((32, 32, 3))
    x = layers.ReLU()(convolution(inputs, 16, 3))
    for filters in (16, 32, 64):
        for block in range(3):
            strides = 2 if block == 0 and filters > 16 else 1
            y = layers.ReLU()(convolution(x, filters, 3, strides))
            y = convolution(y, filters, 3)
            x = layers.ReLU()(y + (convolution(x, filters, 1, strides) if strides > 1 else x))
    return keras.Model(inputs, layers.Dense(10, dtype="float32")(layers.GlobalAveragePooling2D()(x)))


if __name__ == "__main__":
    main(tyro.cli(Arguments))

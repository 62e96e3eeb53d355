"""Training steps as programs: ours as `resnet-keras train` runs it, and Keras's own of the same network."""

import contextlib
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from resnet_keras.benchmarks.settings import PRECISIONS
from resnet_keras.benchmarks.variants import Program
from resnet_keras.config.train import TrainConfig
from resnet_keras.data.splits import ArraySplit, Source
from resnet_keras.models.builder import dtype_policy
from resnet_keras.models.complexity import complexity, create_model
from resnet_keras.models.registry import named
from resnet_keras.training.devices import make_strategy
from resnet_keras.training.setup import make_setup

PASSES = 3
"""Multiply-adds of a step, as a multiple of the forward pass: there are two gradients, of the weights and the maps."""


def our_step(model: str, image_size: int, batch_size: int, dtype: str) -> Program:
    """The compiled step of `resnet-keras train`, on a batch that is there already; no time goes into input."""
    with contextlib.suppress(RuntimeError):
        if not tf.config.list_physical_devices("GPU"):  # as the program sets it up for one result a seed
            tf.config.threading.set_inter_op_parallelism_threads(1)
    images, labels = _batch(model, image_size, batch_size)
    classes = named(model).classes
    split = ArraySplit(images, labels)
    source = Source("random", tuple(map(str, range(classes))), 3, (image_size, image_size), split, split)
    config = TrainConfig(
        model=model, batch_size=batch_size, precision=PRECISIONS[dtype], epochs=1000, validation=0, data="random"
    )
    setup = make_setup(config, make_strategy("none"), source=source)
    run = setup.step.runner()
    hot = np.eye(classes, dtype="float32")[labels]
    batches = iter(tf.data.Dataset.from_tensors((images, hot)).repeat())

    def step() -> None:
        run(batches, tf.constant(1))
        setup.state.read_totals(everywhere=False)  # waits for the devices

    return Program(step, batch_size, {**_facts(setup.network, dtype), "xla": setup.step.xla})


def keras_step(model: str, image_size: int, batch_size: int, dtype: str) -> Program:
    """`train_on_batch` of the same network, with Keras's SGD, loss and accuracy, on the same batch.

    On a CPU without XLA, which is slower there.
    """
    images, labels = _batch(model, image_size, batch_size)
    classes = named(model).classes
    keras.utils.set_random_seed(0)
    with dtype_policy(PRECISIONS[dtype]):
        network = create_model(model, input_shape=(image_size, image_size, 3), include_preprocessing=True)
    network.compile(
        keras.optimizers.SGD(0.1, 0.9, nesterov=True, weight_decay=1e-4),
        keras.losses.CategoricalCrossentropy(),
        metrics=["accuracy"],
        jit_compile="auto" if tf.config.list_physical_devices("GPU") else False,
    )
    hot = np.eye(classes, dtype="float32")[labels]
    return Program(lambda: _nothing(network.train_on_batch(images, hot)), batch_size, _facts(network, dtype))


def _nothing(value: object) -> None:
    """What a program returns is for the sample."""


def _batch(model: str, image_size: int, batch_size: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (batch_size, image_size, image_size, 3), "uint8")
    return images, rng.integers(0, named(model).classes, batch_size)


def _facts(network: keras.Model, dtype: str) -> dict[str, Any]:
    return {"macs": complexity(network).macs, "passes": PASSES, "dtype": dtype}

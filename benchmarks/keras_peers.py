"""Networks of keras.applications and of plain Keras layers, as programs: training steps and predictions.

By TensorFlow, but for `jax_step`, for whose process `KERAS_BACKEND` is `jax`.
"""

import os
from typing import Any

if os.environ.get("KERAS_BACKEND", "tensorflow") == "tensorflow":
    import resnet_keras  # noqa: F401  (first: it keeps TensorFlow's start-up messages to itself)

# isort: split
import keras
import numpy as np

from resnet_keras.benchmarks.variants import Program
from resnet_keras.errors import UsageError

PASSES = 3


def application_step(application: str, image_size: int, batch_size: int, dtype: str, *, macs: int) -> Program:
    """`train_on_batch` of a network of keras.applications, by TensorFlow without XLA."""
    return _step(_application(application, image_size, dtype), image_size, batch_size, dtype, macs, False)


def jax_step(model: str, image_size: int, batch_size: int, dtype: str, *, macs: int) -> Program:
    """`train_on_batch` of a network of ours on Keras's JAX backend, which compiles it."""
    import jax  # noqa: F401  # pyright: ignore[reportMissingImports]

    from resnet_keras.models.builder import dtype_policy
    from resnet_keras.models.complexity import create_model

    keras.utils.set_random_seed(0)
    with dtype_policy(_policy(dtype)):  # pyright: ignore[reportArgumentType]
        network = create_model(model, input_shape=(image_size, image_size, 3), include_preprocessing=True)
    return _step(network, image_size, batch_size, dtype, macs, True)


def application_predictions(application: str, image_size: int, way: str) -> Program:
    """Answers of a network of keras.applications: by `model.export()`, or by a servable of ours in a dtype."""
    from resnet_keras.benchmarks.inference import as_dtype, new_folder, session_of
    from resnet_keras.benchmarks.predictions import predictions
    from resnet_keras.export.servable import export_servable
    from resnet_keras.models.complexity import complexity

    model, shape = with_random_weights(_application(application, image_size, "float32")), (image_size, image_size, 3)
    folder = new_folder() / "model"
    if way == "export":
        model.export(folder, verbose=False)
        dtype = "float32"
    else:
        folder, dtype = export_servable(model, folder, dtype=way), way
    opened = session_of(folder)
    facts = {"macs": complexity(model).macs, "dtype": dtype}
    return predictions(shape, opened.call, facts, as_dtype(opened.dtype))


def with_random_weights(model: keras.Model) -> keras.Model:
    """The same model, with statistics as a trained network has them; the same in every process."""
    rng = np.random.default_rng(0)
    for variable in model.weights:
        if variable.name == "gamma":
            variable.assign(rng.uniform(0.3, 1.0, variable.shape))
        elif variable.name == "moving_mean":
            variable.assign(rng.normal(0, 0.2, variable.shape))
        elif variable.name == "moving_variance":
            variable.assign(rng.uniform(0.5, 1.5, variable.shape))
    return model


def plain_keras_resnet20() -> keras.Model:
    """ResNet-20 for CIFAR as anyone would write it with Keras's layers, with projections for its two shortcuts."""
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


def _application(name: str, image_size: int, dtype: str) -> keras.Model:
    make = getattr(keras.applications, name, None)
    if make is None:
        raise UsageError(f"keras.applications has no {name}")
    keras.utils.set_random_seed(0)
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(_policy(dtype))
    try:
        return make(weights=None, input_shape=(image_size, image_size, 3))
    finally:
        keras.config.set_dtype_policy(before)


def _policy(dtype: str) -> str:
    return "float32" if dtype == "float32" else f"mixed_{dtype}"


def _step(model: keras.Model, image_size: int, batch_size: int, dtype: str, macs: int, compiled: bool) -> Program:
    classes = model.output_shape[-1]
    model.compile(
        keras.optimizers.SGD(0.1, 0.9, nesterov=True, weight_decay=1e-4),
        keras.losses.CategoricalCrossentropy(),
        metrics=["accuracy"],
        jit_compile=compiled,
    )
    rng = np.random.default_rng(0)
    images = rng.normal(size=(batch_size, image_size, image_size, 3)).astype("float32")
    hot = np.eye(classes, dtype="float32")[rng.integers(0, classes, batch_size)]

    def step() -> None:
        model.train_on_batch(images, hot)

    return Program(step, batch_size, {"macs": macs, "passes": PASSES, "dtype": dtype})

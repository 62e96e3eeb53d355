"""Predictions as programs: by Keras, by `model.export()` and by servables, all of one network and one set of images."""

import math
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from resnet_keras.benchmarks.predictions import Answer, predictions
from resnet_keras.benchmarks.variants import Program
from resnet_keras.errors import UsageError, reason
from resnet_keras.export.integrity import MANIFEST
from resnet_keras.export.servable import export_servable, manifest_of
from resnet_keras.models.complexity import complexity, create_model
from resnet_keras.models.registry import NAMES
from resnet_keras.models.saved import classifier

CALIBRATION = 256
ANY_LOSS = 100.0
"""Percentage points: random weights agree with nobody, and speed is what is measured."""
MULTIPLYING = {"Conv2D", "_FusedConv2D", "_FusedQuantizedConv2D", "DepthwiseConv2dNative", "MatMul", "_FusedMatMul"}


def keras_call(model: str, image_size: int | None = None) -> Program:
    """The network called in a `tf.function`, as Keras's `predict` does without its loop."""
    network = network_of(model, image_size)
    call = tf.function(lambda images: network(images, training=False))
    return predictions(network.input_shape[1:], lambda images: call(images).numpy(), _facts(network, "float32"))


def keras_export(model: str, image_size: int | None = None) -> Program:
    """What Keras's `model.export()` writes, in a session, as TensorFlow Serving runs it."""
    network = network_of(model, image_size)
    folder = new_folder()
    network.export(folder, verbose=False)
    return predictions(network.input_shape[1:], answer_of(folder), _facts(network, "float32"), as_dtype("float32"))


def servable(model: str, dtype: str, image_size: int | None = None) -> Program:
    """A servable of ours, in a session."""
    network = network_of(model, image_size)
    folder = export_servable(network, new_folder() / "model", dtype=dtype, **calibration(network, dtype))
    return predictions(network.input_shape[1:], answer_of(folder), _facts(network, dtype))


def calibration(network: keras.Model, dtype: str) -> dict[str, Any]:
    """What an export of a network with random weights needs besides: images of noise for int8, and any loss."""
    if dtype != "int8":
        return {}
    images = np.random.default_rng(1).integers(0, 256, (CALIBRATION, *network.input_shape[1:]), "uint8")
    return {"calibration_data": images, "max_accuracy_loss": ANY_LOSS}


def served(folder: str) -> Program:
    """A servable that is there already."""
    signature = session_of(Path(folder))
    facts = graph_facts(signature.graph, Path(folder))
    return predictions(signature.image, signature.call, facts, as_dtype(signature.dtype))


def description(folder: str) -> Program:
    """What a servable is, as facts: `macs`, `dtype`, the `shape` of an image and the `input` that takes its pixels."""
    signature = session_of(Path(folder))
    facts = graph_facts(signature.graph, Path(folder))
    return Program(lambda: None, facts={**facts, "shape": list(signature.image), "input": signature.name})


def graph_facts(graph: tf.Graph, folder: Path) -> dict[str, Any]:
    """Multiply-adds of an image, by the kernels and maps of a graph, and the dtype of its manifest."""
    dtype = manifest_of(folder)["dtype"] if (folder / MANIFEST).is_file() else "float32"
    return {"macs": macs_of(graph), "dtype": dtype}


def macs_of(graph: tf.Graph) -> int:
    """Multiply-adds of an image in all convolutions and products with a kernel, of maps of known size."""
    macs = 0
    for operation in graph.get_operations():
        if operation.type not in MULTIPLYING:
            continue
        kernel, out = operation.inputs[1].shape, operation.outputs[0].shape
        if kernel.is_fully_defined() and out.rank is not None:
            macs += (kernel.num_elements() or 0) * math.prod(side or 1 for side in out.as_list()[1:-1])
    return macs


def answer_of(folder: Path) -> Answer:
    """A SavedModel's answer to raw pixels of its dtype."""
    return session_of(folder).call


def as_dtype(dtype: Any) -> Callable[[np.ndarray], np.ndarray]:
    """From images to the same in a dtype."""
    return lambda images: images.astype(dtype, copy=False)


@dataclass(frozen=True)
class Opened:
    """`serving_default` of a SavedModel in a session."""

    graph: tf.Graph
    call: Answer
    name: str
    dtype: Any
    image: tuple[int, ...]
    """(height, width, channels)"""


def session_of(folder: Path) -> Opened:
    """Open a SavedModel as TensorFlow Serving does. Raises `UsageError` for none, and for one of another kind."""
    session = tf.compat.v1.Session(graph=tf.Graph())
    try:
        with session.graph.as_default():
            meta = tf.compat.v1.saved_model.load(session, [tf.saved_model.SERVING], str(folder))
        chosen = meta.signature_def["serving_default"]
        ((name, given),) = chosen.inputs.items()
        wanted = next(iter(chosen.outputs.values()))
    except (OSError, KeyError, ValueError, RuntimeError, tf.errors.OpError) as error:
        raise UsageError(f"{folder} has no serving_default of one input: {reason(error)}") from error
    shape = tf.TensorShape(given.tensor_shape)
    if shape.rank != 4 or not shape[1:].is_fully_defined():
        raise UsageError(f"{folder} is no classifier of images of one size: serving_default takes {shape}")
    call = session.make_callable(wanted.name, [given.name])
    return Opened(
        session.graph, call, name, tf.as_dtype(given.dtype).as_numpy_dtype, tuple(side or 0 for side in shape[1:])
    )


def network_of(model: str, image_size: int | None) -> keras.Model:
    """A network from pixels to probabilities: of a file, or of the table, with the same random weights everywhere."""
    if model not in NAMES:
        return classifier(model)
    keras.utils.set_random_seed(0)
    shape = {"input_shape": (image_size, image_size, 3)} if image_size else {}
    network = create_model(model, include_preprocessing=True, **shape)
    rng = np.random.default_rng(0)
    for variable in network.weights:  # a branch that begins at zero would be nothing to quantise
        if variable.name == "gamma":
            variable.assign(rng.uniform(0.3, 1.0, variable.shape))
    return network


def _facts(network: keras.Model, dtype: str) -> dict[str, Any]:
    return {"macs": complexity(network).macs, "dtype": dtype}


def new_folder() -> Path:
    """A new one, in that of temporary files, which the benchmark removes at its end."""
    return Path(tempfile.mkdtemp())

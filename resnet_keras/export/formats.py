"""`export_file`: a model as one file of another runtime, by that runtime's own converter, checked by running it.

ONNX by tf2onnx, for ONNX Runtime and what else reads it; LiteRT (TensorFlow Lite) for phones and boards.
"""

import contextlib
import dataclasses
import importlib
import os
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from resnet_keras.data.format import ImageFormat, image_format
from resnet_keras.errors import UsageError, unknown
from resnet_keras.export.calibration import open_calibration, prove
from resnet_keras.export.floating import Write, emit_float, emitted
from resnet_keras.export.lowering import in_float32, lower
from resnet_keras.export.operations import LayerNorm, Operation
from resnet_keras.files import atomic_write, writing_to
from resnet_keras.inference.predict import model_labels
from resnet_keras.models.saved import classifier
from resnet_keras.progress import counted, progress
from resnet_keras.startup import standard_error_held

FORMATS = {"onnx": ".onnx", "litert": ".tflite"}
OPSET = 17
TOLERANCE = 1e-3
"""Largest difference of a probability in float32, as a share of the largest probability."""
PROVED_ON = 256
"""Images that LiteRT's int8 is compared on: it runs one at a time, which is slow."""


def export_file(
    model_or_run: keras.Model | str | Path,
    path: str | Path,
    format: str,
    *,
    dtype: str = "float32",
    calibration_data: Any = None,
    data_dir: str | None = None,
    max_accuracy_loss: float = 0.5,
) -> Path:
    """Write a file whose one input is `image`, uint8 raw pixels, and whose one output is `probabilities`, float32.

    They are `[N, H, W, C]` and `[N, classes]`; LiteRT's take one image at a time. Class names and the preprocessing
    of encoded images are not in the file.

    Args:
        model_or_run: a model of ours with its classifier, a run folder, a `.keras` file or a packaged name.
        path: of the file, or of a folder that is to hold it.
        format: "onnx" or "litert".
        dtype: "float32"; for litert "int8" too: weights and activations, by LiteRT's own quantisation.
        calibration_data: for int8, as in `export_servable`.
        data_dir: where TensorFlow Datasets keeps prepared data.
        max_accuracy_loss: for int8, as in `export_servable`.

    Raises:
        UsageError: an unknown format, a converter that is not installed, a model that cannot be exported, a path that
            cannot be written, int8 that loses too much.
        RuntimeError: the outputs of the runtime differ from those of the model; nothing was written.
    """
    if format not in FORMATS:
        raise unknown("format", format, FORMATS)
    known = ("float32", "int8") if format == "litert" else ("float32",)
    if dtype not in known:
        raise unknown(f"dtype for {format}", dtype, known)
    if (dtype == "int8") != (calibration_data is not None):
        raise UsageError("int8 needs calibration_data; leave it out with any other dtype")
    given = classifier(model_or_run)
    with progress("folding norms into convolutions"):
        shape, ends = image_format(given), lower(in_float32(given))
    file = Path(path).expanduser()
    if file.is_dir():
        file = file / f"{given.name}{FORMATS[format]}"
    targets = None
    if calibration_data is None:
        images = np.random.default_rng(0).integers(0, 256, (4, *shape.size, shape.channels), "uint8")
        with progress(f"converting to {format}"):
            content = (_onnx if format == "onnx" else _litert)(ends[0], shape)
    else:
        seen, unseen = open_calibration(calibration_data, shape, model_labels(given), data_dir).halves
        images = unseen.images[:PROVED_ON]
        targets = None if unseen.targets is None else unseen.targets[:PROVED_ON]
        with progress("converting to litert in int8"):
            content = _litert(ends[0], shape, seen.images)
    outputs = _run_onnx(content, images) if format == "onnx" else _run_litert(content, images)
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        expected = session.run(_probabilities(ends[0], tf.constant(images)))
    if dtype == "int8":
        prove(expected, outputs, targets, max_accuracy_loss, shape.card.thresholds)
    elif not (apart := float(np.abs(outputs - expected).max())) <= TOLERANCE * expected.max():
        raise RuntimeError(f"{format} differs from {given.name} by {apart:.2g} in a probability; not exported")
    with writing_to(file.parent):
        file.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(file) as beside:
            beside.write_bytes(content)
    return file


def _probabilities(end: Operation, pixels: tf.Tensor, write: Write = emitted) -> tf.Tensor:
    return tf.identity(emit_float([end], pixels, tf.float32, write)[end], "probabilities")


def _plain_norm(operation: Operation, dtype: tf.DType, *inputs: tf.Tensor) -> tf.Tensor:
    """One operation; a layer norm in plain arithmetic, as converters know no batch norm in training."""
    if not isinstance(operation, LayerNorm):
        return emitted(operation, dtype, *inputs)
    mean, variance = tf.nn.moments(inputs[0], -1, keepdims=True)
    scale, shift = (tf.constant(value, dtype) for value in (operation.scale, operation.shift))
    return (inputs[0] - mean) * tf.math.rsqrt(variance + operation.epsilon) * scale + shift


def _plain_gelu(operation: Operation, dtype: tf.DType, *inputs: tf.Tensor) -> tf.Tensor:
    """The same for LiteRT, which knows GELU by the complementary error function, where ONNX has the other alone."""
    if getattr(operation, "activation", None) != "gelu":
        return _plain_norm(operation, dtype, *inputs)
    linear: Any = {"activation": "linear"}
    return tf.nn.gelu(emitted(dataclasses.replace(operation, **linear), dtype, *inputs))


def _module(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise UsageError(f"{name} is not installed; pip install 'resnet-keras[onnx]'") from error


def _onnx(end: Operation, shape: ImageFormat) -> bytes:
    convert = _module("tf2onnx.convert")
    with tf.Graph().as_default() as graph:
        pixels = tf.compat.v1.placeholder(tf.uint8, [None, *shape.size, shape.channels], "image")
        _probabilities(end, pixels, _plain_norm)
    names: dict[str, Sequence[str]] = {"input_names": ["image:0"], "output_names": ["probabilities:0"]}
    plain = {"image:0": "image", "probabilities:0": "probabilities"}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        model, _ = convert.from_graph_def(graph.as_graph_def(), opset=OPSET, tensors_to_rename=plain, **names)
    return model.SerializeToString()


def _run_onnx(content: bytes, images: np.ndarray) -> np.ndarray:
    session = _module("onnxruntime").InferenceSession(content, providers=["CPUExecutionProvider"])
    return session.run(["probabilities"], {"image": images})[0]


def _litert(end: Operation, shape: ImageFormat, calibration: np.ndarray | None = None) -> bytes:
    spec = tf.TensorSpec([1, *shape.size, shape.channels], tf.uint8 if calibration is None else tf.float32, "image")
    function = tf.function(lambda image: {"probabilities": _probabilities(end, image, _plain_gelu)}, autograph=False)
    concrete = function.get_concrete_function(spec)
    converter = tf.lite.TFLiteConverter.from_concrete_functions([concrete])
    if calibration is not None:
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
        converter.representative_dataset = lambda: ([x[None].astype("float32")] for x in calibration[:512])
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
        converter.inference_input_type = tf.uint8
        converter.inference_output_type = tf.float32
    with _quiet():
        return converter.convert()


def _run_litert(content: bytes, images: np.ndarray) -> np.ndarray:
    with _quiet():
        interpreter = tf.lite.Interpreter(model_content=content)
        (given,), (wanted,) = interpreter.get_input_details(), interpreter.get_output_details()
        interpreter.allocate_tensors()
    rows = []
    for image in counted(images, "running LiteRT", len(images)):
        interpreter.set_tensor(given["index"], image[None])
        interpreter.invoke()
        rows.append(interpreter.get_tensor(wanted["index"])[0])
    return np.stack(rows)


@contextlib.contextmanager
def _quiet() -> Any:
    """Drop what TensorFlow writes of tf.lite's successor and of its own progress."""
    with standard_error_held(), warnings.catch_warnings(), open(os.devnull, "w") as nowhere:
        warnings.simplefilter("ignore")
        with contextlib.redirect_stdout(nowhere):
            yield

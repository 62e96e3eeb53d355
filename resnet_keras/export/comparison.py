"""Whether a servable, loaded as TensorFlow Serving loads it, answers as its model does."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from tensorflow.core.protobuf import saved_model_pb2

from resnet_keras.data.format import ImageFormat
from resnet_keras.errors import UsageError
from resnet_keras.export.kernels import VARIABLES
from resnet_keras.export.lowering import features_of
from resnet_keras.models.graph import head_of, output_of, run
from resnet_keras.models.preprocessing import missing_normalisation
from resnet_keras.startup import return_memory

TOLERANCE = 1e-3
"""Of a float32 servable's features, times the largest of the model's own. Rounding is 1e-6 where nothing makes it grow,
as steep gates do; a wrong graph is percents away."""
LEAST_COSINE = 0.99
"""Between a bfloat16 servable's features and the model's."""


@dataclass(frozen=True)
class Expected:
    """What a model itself answers to some images, in float64."""

    images: np.ndarray
    """uint8 [N, H, W, C]"""
    features: np.ndarray
    logits: np.ndarray
    probabilities: np.ndarray


def expected_of(model: keras.Model, shape: ImageFormat) -> Expected:
    """The answers of a model, in float32, to raw pixels of noise."""
    images = np.random.default_rng(0).integers(0, 256, (4, *shape.size, shape.channels), "uint8")
    missing, head, end = missing_normalisation(model), head_of(model), output_of(model)
    pixels: Any = images.astype("float32")
    values = run([end], pixels if missing is None else missing(pixels))
    found = (values[features_of(head)], head.logits(values), values[end])
    return Expected(images, *(np.asarray(x, "float64") for x in found))


def compare(
    folder: Path, name: str, dtype: str, expected: Expected, proof: tuple[np.ndarray, np.ndarray] | None
) -> dict[str, float]:
    """Compare a servable with its model; returns how far its features are from the model's.

    Args:
        folder: the version's.
        name: of the model.
        dtype: of the servable.
        expected: of the model.
        proof: for int8: images `uint8[N, H, W, C]`, and the probabilities by which it was proved.

    Raises:
        UsageError: the model itself returns NaN.
        RuntimeError: the servable answers otherwise.
    """
    images, features = expected.images, expected.features
    if not np.isfinite(expected.probabilities).all():
        raise UsageError(f"{name} itself returns NaN for random images; its weights cannot be exported")
    got = run_servable(folder, {"features": {"image": images}, "serving_default": {"image": images}})
    got_features = got["features"]["features"].astype("float64")
    got_probabilities = got["serving_default"]["probabilities"]
    difference = float(np.abs(got_features - features).max() / max(np.abs(features).max(), 1e-30))
    length = float(np.linalg.norm(got_features) * np.linalg.norm(features))
    cosine = float((got_features * features).sum() / length) if length else 1.0
    if dtype == "float32":
        # A probability moves less than its logit does, and that is exact to a part of its own size.
        apart = np.abs(got_probabilities - expected.probabilities).max() / max(1.0, np.abs(expected.logits).max())
        good = max(difference, apart) <= TOLERANCE
    elif proof is None:
        good = cosine >= LEAST_COSINE
    else:
        again = run_servable(folder, {"serving_default": {"image": proof[0]}})["serving_default"]["probabilities"]
        good = np.abs(again - proof[1]).max() <= TOLERANCE
    if not good or not np.isfinite(got_probabilities).all():
        words = f"{difference:.2g} of the largest feature, cosine {cosine:.4f}"
        raise RuntimeError(f"the SavedModel differs from {name} ({words}); not exported")
    return {"largest_difference": difference, "cosine": cosine}


def run_servable(folder: Path, requests: dict[str, dict[str, Any]]) -> dict[str, dict[str, np.ndarray]]:
    """The outputs of a servable for a request of each signature, in a session, as TensorFlow Serving runs it.

    Signatures that are given the same inputs are run as one: each run has copies of its constants.

    Args:
        folder: the version's.
        requests: signature to input to value.

    Returns:
        Signature to output to value.
    """
    saved = saved_model_pb2.SavedModel.FromString((folder / "saved_model.pb").read_bytes())
    (meta,) = saved.meta_graphs
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        tf.import_graph_def(meta.graph_def, name="")
        meta.ClearField("graph_def")  # which has the weights
        if meta.HasField("saver_def"):
            saver = meta.saver_def
            session.run(saver.restore_op_name, {saver.filename_tensor_name: str(folder / VARIABLES)})
        together: dict[tuple[tuple[str, int], ...], list[str]] = {}
        for name, inputs in requests.items():
            together.setdefault(tuple((key, id(value)) for key, value in inputs.items()), []).append(name)
        answers = {}
        for names in together.values():
            signatures, inputs = {name: meta.signature_def[name] for name in names}, requests[names[0]]
            feed = {signatures[names[0]].inputs[key].name: value for key, value in inputs.items()}
            fetches = {name: {key: info.name for key, info in one.outputs.items()} for name, one in signatures.items()}
            answers |= session.run(fetches, feed)
            return_memory()
    return_memory()
    return {name: answers[name] for name in requests}

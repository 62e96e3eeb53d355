"""`export_servable`: a model to the next version folder, checked before it is seen, whole or not at all."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from tensorflow.core.protobuf import saved_model_pb2

from resnet_keras.data.format import from_pixels, image_format
from resnet_keras.errors import UsageError, require, unknown
from resnet_keras.export.calibration import BATCH, CalibrationSet, batches, measure_ranges, open_calibration, prove
from resnet_keras.export.floating import emit_float
from resnet_keras.export.lowering import in_float32, lower
from resnet_keras.export.operations import Operation
from resnet_keras.export.quantized import Int8Graph, available
from resnet_keras.export.saved_model import write_saved_model
from resnet_keras.export.signatures import Network, servable
from resnet_keras.export.versions import publish
from resnet_keras.export.warmup import write_warmup
from resnet_keras.inference.predict import model_labels
from resnet_keras.models.preprocessing import card_layer
from resnet_keras.models.saved import classifier
from resnet_keras.version import __version__

MANIFEST = Path("assets.extra", "manifest.json")
LABELS = Path("assets", "labels.txt")
DTYPES = ("float32", "bfloat16", "int8")
TOLERANCE = 1e-3
"""Of a float32 servable's features, times the largest of the model's own. Rounding is 1e-6 where nothing makes it grow,
as steep gates do; a wrong graph is percents away."""
LEAST_COSINE = 0.99
"""Between a bfloat16 servable's features and the model's."""
MOST_LOSS = 0.5


def export_servable(
    model_or_run: keras.Model | str | Path,
    base_path: str | Path,
    *,
    version: int | None = None,
    dtype: str = "float32",
    labels: Sequence[str] | None = None,
    top_k: int = 5,
    calibration_data: Any = None,
    data_dir: str | None = None,
    max_accuracy_loss: float = MOST_LOSS,
) -> Path:
    """Write a SavedModel with preprocessing, class names and three signatures, for TensorFlow Serving.

    Signatures: `serving_default` (`image` uint8 `[N, H, W, C]`, raw pixels, to `probabilities` float32 `[N, classes]`),
    `image_bytes` (encoded images, string `[N]`, to `labels` string and `scores` float32 `[N, k]`, and
    `probabilities`; one that cannot be read has no labels and NaN for numbers, and takes nothing from the others),
    `features` (`image` to `features` float32 `[N, channels]`).

    The graph is not the training graph: norms are folded into the convolutions, weights are constants, and it computes
    in `dtype` whatever the model was trained in. `models.config` beside the model's folder has the new version as
    `canary`, the one before as `stable`.

    Args:
        model_or_run: a model of ours with its classifier, a run folder, a `.keras` file or a packaged name.
        base_path: `saved_models/<name>`; the version folders are in it.
        version: the next free number when None.
        dtype: "float32"; "bfloat16", for processors that compute in it; "int8", quantised by `calibration_data`.
        labels: class names; those of the model's card, or "0", "1", ..., when None.
        top_k: classes that `image_bytes` names.
        calibration_data: for int8: a folder of class/file, the name of a data set, or `uint8[N, H, W, C]`; 256 images
            or more. Every other one is for measuring ranges, the rest for proving what came of it.
        data_dir: where TensorFlow Datasets keeps prepared data.
        max_accuracy_loss: for int8: percentage points of accuracy (of agreement with float32, where the calibration
            data has not the model's classes) that may be lost.

    Returns:
        The version folder.

    Raises:
        UsageError: a model that cannot be exported, a version that exists, a folder that cannot be written, int8 that
            loses too much or that this TensorFlow has not.
        RuntimeError: the servable does not answer as the model does; nothing was written.
    """
    if dtype not in DTYPES:
        raise unknown("dtype", dtype, DTYPES)
    if dtype != "int8" and calibration_data is not None:
        raise UsageError(f"calibration_data is for int8; leave it out with dtype {dtype}")
    if dtype == "int8" and calibration_data is None:
        raise UsageError("int8 needs calibration_data: a folder, a data set's name or an array of images")
    if dtype == "int8" and not available():
        raise UsageError("this TensorFlow has no quantised convolution (it wants oneDNN, on x86); use dtype bfloat16")
    require(top_k >= 1, "top_k", "at least 1", top_k)
    given = classifier(model_or_run)
    if "logits" not in {layer.name for layer in given.layers}:
        raise UsageError(f"{given.name} is not one of our networks: it has no layer logits")
    names = tuple(labels) if labels is not None else model_labels(given)
    if len(names) != given.output_shape[-1]:
        raise UsageError(f"{len(names)} labels for the {given.output_shape[-1]} classes of {given.name}")
    exported = _Export(given, names, top_k, dtype)
    if dtype == "int8":
        exported.calibrate(open_calibration(calibration_data, exported.shape, names, data_dir), max_accuracy_loss)
    base = Path(base_path).expanduser()
    return publish(base, version, lambda folder: exported.write(base.name, folder))


class _Export:
    """One model on its way out."""

    def __init__(self, given: keras.Model, labels: tuple[str, ...], top_k: int, dtype: str) -> None:
        self.given, self.labels, self.top_k, self.dtype = given, labels, top_k, dtype
        self.shape = image_format(given)
        self.plain = in_float32(given)
        self.ends = lower(self.plain)
        self.network: Network = self._in_float(tf.bfloat16 if dtype == "bfloat16" else tf.float32)
        self.facts: dict[str, Any] = {}
        self.share_in_int8 = 0.0
        self.proven: tuple[np.ndarray, np.ndarray] | None = None
        """Images, and what int8 answered when it was tried."""

    def _in_float(self, dtype: tf.DType) -> Network:
        def network(pixels: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            values = emit_float(self.ends, pixels, dtype)
            probabilities, features = (tf.cast(values[end], tf.float32) for end in self.ends)
            return probabilities, features

        return network

    def _in_int8(self, ranges: dict[Operation, float]) -> Network:
        def network(pixels: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            graph = Int8Graph(ranges, pixels)
            probabilities, features = graph.emit(self.ends)
            self.share_in_int8 = round(graph.int8_macs / graph.macs, 4)
            return probabilities, features

        return network

    def calibrate(self, images: CalibrationSet, max_loss: float) -> None:
        """Choose the ranges that stay closest to float32, and prove them on images that had no part in that."""
        seen, unseen = images.halves
        plain = self._in_float(tf.float32)
        wanted = _answers(plain, seen.images)
        if not np.isfinite(wanted).all():
            raise UsageError(f"{self.given.name} itself answers images with NaN; its weights are no good to export")
        candidates = {p: self._in_int8(r) for p, r in measure_ranges(self.ends, seen.images).items()}
        errors = {p: float(np.square(_answers(n, seen.images) - wanted).mean()) for p, n in candidates.items()}
        percentile = min(errors, key=lambda p: errors[p])
        self.network = candidates[percentile]
        self.proven = (unseen.images, _answers(self.network, unseen.images))
        told = prove(_answers(plain, unseen.images), self.proven[1], unseen.targets, max_loss)
        shown = {"share_of_macs": self.share_in_int8, "percentile": percentile}
        self.facts["int8"] = {**told, "calibrated_on": len(wanted), **shown}

    def write(self, name: str, folder: Path) -> None:
        """Everything that is in a version folder."""
        made = servable(self.network, self.shape, self.labels, self.top_k)
        write_saved_model(made.graph, made.signatures, folder)
        checked = self._check(folder)
        for path in (MANIFEST, LABELS):
            (folder / path).parent.mkdir(exist_ok=True)
        (folder / LABELS).write_text("".join(f"{label}\n" for label in self.labels), "utf-8")
        image = np.random.default_rng(0).integers(0, 256, (*self.shape.size, self.shape.channels)).astype("uint8")
        encoded = tf.io.encode_png(image).numpy()
        requests = {key: {"image": image[None]} for key in ("serving_default", "features")}
        write_warmup(folder, name, {**requests, "image_bytes": {"image_bytes": [encoded]}})
        layer = card_layer(self.given)
        manifest = {
            "name": name,
            "model": self.given.name,
            "dtype": self.dtype,
            "input": {"size": list(self.shape.size), "channels": self.shape.channels, "pixels": "raw, 0 to 255"},
            "card": {**(layer.card if layer else self.shape.card).to_dict(), "labels": list(self.labels)},
            "check": checked,
            **self.facts,
            "versions": {"resnet_keras": __version__, "tensorflow": tf.__version__, "keras": keras.__version__},
            "sha256": hashlib.sha256((folder / "saved_model.pb").read_bytes()).hexdigest(),
        }
        (folder / MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n", "utf-8")

    def _check(self, folder: Path) -> dict[str, float]:
        """The servable, loaded again, must answer as the model does; returns how far they are apart."""
        network = self.plain
        head = network.get_layer("logits")
        inside = from_pixels(keras.Model(network.input, [head.input, head.output, network.output]))
        images = np.random.default_rng(0).integers(0, 256, (4, *self.shape.size, self.shape.channels), "uint8")
        answers = inside(images.astype("float32"), training=False)
        expected, logits, probabilities = (np.asarray(x, "float64") for x in answers)
        if not np.isfinite(probabilities).all():
            name = self.given.name
            raise UsageError(f"{name} itself answers random images with NaN; its weights are no good to export")
        answered = run_servable(folder, {"features": {"image": images}, "serving_default": {"image": images}})
        got = answered["features"]["features"].astype("float64")
        difference = float(np.abs(got - expected).max() / max(np.abs(expected).max(), 1e-30))
        length = float(np.linalg.norm(got) * np.linalg.norm(expected))
        cosine = float((got * expected).sum() / length) if length else 1.0
        answer = answered["serving_default"]["probabilities"]
        if self.dtype == "float32":
            # A probability moves less than its logit does, and that is exact to a part of its own size.
            apart = np.abs(answer - probabilities).max() / max(1.0, np.abs(logits).max())
            good = max(difference, apart) <= TOLERANCE
        elif self.proven is None:
            good = cosine >= LEAST_COSINE
        else:
            some, proven = self.proven[0][:BATCH], self.proven[1][:BATCH]
            again = run_servable(folder, {"serving_default": {"image": some}})["serving_default"]["probabilities"]
            good = np.abs(again - proven).max() <= TOLERANCE
        if not good or not np.isfinite(answer).all():
            words = f"{difference:.2g} of the largest feature, cosine {cosine:.4f}"
            raise RuntimeError(f"the SavedModel differs from {self.given.name} ({words}); not exported")
        return {"largest_difference": difference, "cosine": cosine}


def manifest_of(version: Path) -> dict[str, Any]:
    """What a version folder says of itself."""
    return json.loads((version / MANIFEST).read_text("utf-8"))


def _answers(network: Network, images: np.ndarray) -> np.ndarray:
    """Probabilities `[N, classes]`."""
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        pixels = tf.compat.v1.placeholder(tf.uint8, [None, *images.shape[1:]])
        probabilities, _ = network(pixels)
        return np.concatenate([session.run(probabilities, {pixels: batch}) for batch in batches(images)])


def run_servable(folder: Path, requests: dict[str, dict[str, Any]]) -> dict[str, dict[str, np.ndarray]]:
    """What a servable of ours answers to a request of each signature, in a session, as TensorFlow Serving runs it."""
    saved = saved_model_pb2.SavedModel.FromString((folder / "saved_model.pb").read_bytes())
    (meta,) = saved.meta_graphs
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        tf.import_graph_def(meta.graph_def, name="")
        answers = {}
        for name, inputs in requests.items():
            signature = meta.signature_def[name]
            feed = {signature.inputs[key].name: value for key, value in inputs.items()}
            answers[name] = session.run({key: info.name for key, info in signature.outputs.items()}, feed)
    return answers

"""`export_servable`: a model to the next version folder, checked before it is seen, whole or not at all."""

import json
import os
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from resnet_keras.errors import UsageError, require
from resnet_keras.export.signatures import Servable
from resnet_keras.files import cannot_write
from resnet_keras.prediction import model_labels
from resnet_keras.runs import card_layer, classifier, from_pixels, picture_format

MANIFEST = Path("assets.extra", "manifest.json")
TOLERANCE = 1e-4
"""Largest difference of a probability between the model and its servable on the same pictures, times the largest logit
where that is above 1: a probability moves less than its logit does, and that is exact to a part of its own size."""


def export_servable(
    model_or_run: keras.Model | str | Path,
    base_path: str | Path,
    *,
    version: int | None = None,
    dtype: str = "float32",
    labels: Sequence[str] | None = None,
    top_k: int = 5,
    calibration_data: Any = None,
) -> Path:
    """Write a SavedModel with preprocessing, class names and three signatures, for TensorFlow Serving.

    Signatures: `serving_default` (`image` uint8 `[N, H, W, C]`, raw pixels, to `probabilities` float32 `[N, classes]`),
    `image_bytes` (encoded pictures, string `[N]`, to `labels` string and `scores` float32 `[N, k]`, and
    `probabilities`), `features` (`image` to `features` float32 `[N, channels]`). The graph computes in float32 whatever
    the model was trained in.

    Args:
        model_or_run: a model of ours with its classifier, a run folder or a `.keras` file.
        base_path: `saved_models/<name>`; the version folders are in it.
        version: the next free number when None.
        dtype: "float32".
        labels: class names; those of the model's card, or "0", "1", ..., when None.
        top_k: classes that `image_bytes` names.
        calibration_data: only for quantised exports, which there are none of yet.

    Returns:
        The version folder.

    Raises:
        UsageError: a model that cannot be exported, a version that exists, a folder that cannot be written.
        RuntimeError: the servable does not answer as the model does; nothing was written.
    """
    if dtype != "float32":
        raise UsageError(f"dtype {dtype!r} is not available; choose float32")
    if calibration_data is not None:
        raise UsageError("calibration_data is for quantised exports; leave it out with dtype float32")
    require(top_k >= 1, "top_k", "at least 1", top_k)
    given = classifier(model_or_run)
    if "logits" not in {layer.name for layer in given.layers}:
        raise UsageError(f"{given.name} is not one of our networks: it has no layer logits")
    names = tuple(labels) if labels is not None else model_labels(given)
    if len(names) != given.output_shape[-1]:
        raise UsageError(f"{len(names)} labels for the {given.output_shape[-1]} classes of {given.name}")
    base = Path(base_path).expanduser()
    folder = base / str(_version(base, version))
    beside = None
    try:
        base.mkdir(parents=True, exist_ok=True)
        # A name that is no number is no version to TensorFlow Serving; the rename makes it one at once.
        beside = Path(tempfile.mkdtemp(prefix=".export-", dir=base))
        _write(given, names, top_k, beside)
        beside.chmod(0o755)
        os.rename(beside, folder)
    except (OSError, tf.errors.OpError) as error:
        raise cannot_write(base, error) from error
    finally:
        if beside is not None:
            shutil.rmtree(beside, ignore_errors=True)
    return folder


def _version(base: Path, version: int | None) -> int:
    taken = [int(child.name) for child in base.glob("*") if child.name.isdecimal()]
    if version is None:
        return max(taken, default=0) + 1
    require(1 <= version < 2**63, "version", "at least 1 and below 2**63", version)
    if version in taken:
        raise UsageError(f"version {version} exists in {base}; leave --version out for {max(taken) + 1}")
    return version


def _write(given: keras.Model, labels: tuple[str, ...], top_k: int, folder: Path) -> None:
    shape = picture_format(given)
    network = in_float32(given)
    model = from_pixels(network)
    features = from_pixels(keras.Model(network.input, network.get_layer("logits").input, name=network.name))
    servable = Servable(model, features, shape, labels, top_k)
    tf.saved_model.save(servable, str(folder), signatures=servable.signatures())
    difference = _check(network, folder, (*shape.size, shape.channels))
    layer = card_layer(given)
    manifest = {
        "model": given.name,
        "dtype": "float32",
        "input": {"size": list(shape.size), "channels": shape.channels, "pixels": "raw, 0 to 255"},
        "card": {**(layer.card if layer else shape.card).to_dict(), "labels": list(labels)},
        "check": {"largest_probability_difference": difference},
        "versions": {"tensorflow": tf.__version__, "keras": keras.__version__},
    }
    (folder / MANIFEST).parent.mkdir(exist_ok=True)
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n")


def in_float32(model: keras.Model) -> keras.Model:
    """The same network and weights, every layer computing in float32."""
    if all(layer.compute_dtype == "float32" for layer in model.layers):
        return model

    def plain(config: Any) -> Any:
        if isinstance(config, dict):
            if config.get("class_name") == "DTypePolicy":
                return {**config, "config": {"name": "float32"}}
            return {key: plain(value) for key, value in config.items()}
        return [plain(value) for value in config] if isinstance(config, list) else config

    config = plain(keras.saving.serialize_keras_object(model))
    copy = keras.saving.deserialize_keras_object(config)
    copy.set_weights(model.get_weights())
    return copy


def _check(network: keras.Model, folder: Path, shape: tuple[int, ...]) -> float:
    """The servable, loaded again, must answer as the model does; returns how far they are apart."""
    both = keras.Model(network.input, [network.output, network.get_layer("logits").output])
    images = np.random.default_rng(0).integers(0, 256, (2, *shape), "uint8")
    answer = tf.saved_model.load(str(folder)).signatures["serving_default"](image=tf.constant(images))
    expected, logits = (np.asarray(out) for out in from_pixels(both)(images.astype("float32"), training=False))
    if not np.isfinite(expected).all():
        raise UsageError(f"{network.name} itself answers random pictures with NaN; its weights are no good to export")
    largest_logit = float(np.max(np.abs(logits)))
    difference = float(np.max(np.abs(answer["probabilities"].numpy() - expected)))
    if not difference <= TOLERANCE * max(1.0, largest_logit):
        raise RuntimeError(f"the SavedModel differs from {network.name} by {difference} in a probability; not exported")
    return difference

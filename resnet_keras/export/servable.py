"""`export_servable`: a model to the next version folder, checked before it is seen, whole or not at all."""

import gc
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from resnet_keras.data.format import ImageFormat, image_format
from resnet_keras.errors import UsageError, reason, require, unknown
from resnet_keras.export.calibration import Calibrated, calibrate, calibrated_by, check_int8_pays, open_calibration
from resnet_keras.export.comparison import Expected, compare, expected_of
from resnet_keras.export.graph_needs import check_release, needs_of
from resnet_keras.export.integrity import MANIFEST, digests_of, read_manifest
from resnet_keras.export.kernels import write_values
from resnet_keras.export.lowering import in_float32, lower
from resnet_keras.export.networks import BATCH, Ends, FloatNetwork, Network
from resnet_keras.export.quantized import REDUCED_LEVELS, kernel_levels
from resnet_keras.export.releases import release_of
from resnet_keras.export.saved_model import write_saved_model
from resnet_keras.export.signatures import servable
from resnet_keras.export.versions import publish
from resnet_keras.export.warmup import write_warmup
from resnet_keras.inference.predict import model_labels
from resnet_keras.models.graph import head_of
from resnet_keras.models.preprocessing import card_layer, normalises
from resnet_keras.models.saved import classifier, load_model
from resnet_keras.progress import progress
from resnet_keras.remote.stores import is_remote
from resnet_keras.startup import return_memory
from resnet_keras.version import __version__

LABELS = Path("assets", "labels.txt")
FORMAT_VERSION = 1
"""Of the manifest; one without it is of version 1."""
DTYPES = ("float32", "bfloat16", "int8")
MOST_LOSS = 0.5
SOFTMAX_ADDED = "softmax, put behind the model's logits"
SIGMOIDS_ADDED = "sigmoid, put behind the model's logits"
"""In a manifest: the model itself does not end in one."""


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
    reduce_range: bool = False,
    for_serving: str | None = None,
) -> Path:
    """Write a SavedModel with preprocessing, class names and its signatures, for TensorFlow Serving.

    Signatures: `serving_default` (`image` uint8 `[N, H, W, C]`, raw pixels, to `probabilities` float32 `[N, classes]`),
    `image_bytes` (encoded images, string `[N]`, to `labels` string and `scores` float32 `[N, k]`, and
    `probabilities`; one that cannot be read has no labels and NaN for numbers, and takes nothing from the others; of a
    network of several labels an image also `above`, bool `[N, k]`: whether a score reaches its label's threshold),
    `features` (`image` to `features` float32 `[N, channels]`), and where a dense head reads a map's mean `explain`
    (as `image_bytes`, with `heat` float32 `[N, k, h, w]` and `window` float32 `[N, 4]` in place of `probabilities`).

    The graph is not the training graph: norms are folded into the convolutions, weights are constants (of a large
    network its kernels are in files of their own, `variables/`), and it computes in `dtype` whatever the model was
    trained in. `models.config` beside the model's folder has the new version as `canary`, the one before as `stable`.

    Args:
        model_or_run: a run folder, a `.keras` file, a packaged name, or a model from images to classes: ours, or any
            functional one or `Sequential` of Keras. Where it ends in logits, a softmax is put behind it. Its pixels are
            raw, 0 to 255: it normalises them itself, or its card says how.
        base_path: `saved_models/<name>`; the version folders are in it.
        version: the next free number when None.
        dtype: "float32"; "bfloat16", for processors that compute in it; "int8", quantised by `calibration_data`.
        labels: class names; those of the model's card, if its head is the card's, or "0", "1", ..., when None.
        top_k: classes that `image_bytes` names.
        calibration_data: for int8: a folder of class/file, the name of a data set, or `uint8[N, H, W, C]`; 256 images
            or more. Every other one is for measuring ranges, the rest for proving what came of it. A network that was
            trained with `quantize="int8"` has ranges, which are taken as they are: it needs no images, and proves
            itself on all that are given.
        data_dir: where TensorFlow Datasets keeps prepared data.
        max_accuracy_loss: for int8: percentage points of accuracy (of agreement with float32, where the calibration
            data does not have the model's classes) that may be lost; of a network trained in int8, against what it
            was trained as.
        reduce_range: for int8: kernels of 7 bits, so that every x86 processor adds their products rightly. Those
            without VNNI add two in 16 bits; on one of them it is done in any case.
        for_serving: "2.19", "2.20" or "2.21": the release of TensorFlow Serving that is to load it. What the graph uses
            that this release does not know is refused; None compares nothing.

    Returns:
        The version folder.

    Raises:
        UsageError: a model that cannot be exported, a version that exists, a folder that cannot be written, int8 that
            loses too much or that this TensorFlow does not support, a graph that the server would not know.
        RuntimeError: the outputs of the servable differ from those of the model; nothing was written.

    Examples:
        >>> folder = rk.export_servable("runs/digits", "saved_models/digits")
        >>> folder.name  # the version
        '1'
        >>> serve = tf.saved_model.load(str(folder)).signatures["serving_default"]
        >>> serve(image=tf.zeros((2, 8, 8, 1), "uint8"))["probabilities"].shape
        TensorShape([2, 10])
    """
    _check_arguments(dtype, calibration_data, top_k)
    levels = _kernel_levels(dtype, reduce_range)
    if is_remote(base_path):
        raise UsageError(f"base_path {base_path} is remote; give a folder, or export --output {base_path}")
    release = None if for_serving is None else release_of(for_serving)
    source = load_model(model_or_run) if isinstance(model_or_run, str | Path) else model_or_run
    given = classifier(source)
    if not head_of(given).activation:
        last = given.layers[-1].name
        raise UsageError(
            f"nothing says whether {given.name}, by its layer {last}, gives probabilities; end it in Softmax"
        )
    names = tuple(labels) if labels is not None else model_labels(given)
    if len(names) != given.output_shape[-1]:
        raise UsageError(f"{len(names)} labels for the {given.output_shape[-1]} classes of {given.name}")
    with progress("folding norms into convolutions"):
        shape, plain = image_format(given), in_float32(given)
        ends = lower(plain)
        expected = expected_of(plain, shape)
    network, proof, facts = FloatNetwork(ends, tf.as_dtype(dtype), in_files=True), None, None
    if dtype == "int8":
        check_int8_pays(ends, shape, given.name)
        calibrated = _in_int8(ends, shape, given.name, names, calibration_data, data_dir, max_accuracy_loss, levels)
        network, facts = calibrated.network, calibrated.facts
        proof = calibrated.images[:BATCH].copy(), calibrated.probabilities[:BATCH].copy()
        del calibrated
    base, several = Path(base_path).expanduser(), shape.card.several
    export = _Export(
        name=base.name,
        model=given.name,
        shape=shape,
        labels=names,
        top_k=top_k,
        dtype=dtype,
        head=head_of(given).activation if given is source else SIGMOIDS_ADDED if several else SOFTMAX_ADDED,
        normalization="by the card" if card_layer(given) else "in the model" if normalises(given) else "none",
        expected=expected,
        proof=proof,
        int8=facts,
        for_serving=release,
    )
    networks: list[Network] = [network]
    del source, given, plain, ends, network  # each has the weights; whoever writes the network lets go of it
    return publish(base, version, partial(_write, export, networks))


def _in_int8(
    ends: Ends,
    shape: ImageFormat,
    name: str,
    labels: tuple[str, ...],
    calibration_data: Any,
    data_dir: str | None,
    most: float,
    levels: int,
) -> Calibrated:
    """A lowered model by the ranges that it was trained with, or by those that its calibration data have."""
    ranges = shape.card.int8_ranges
    if calibration_data is None and not ranges:
        raise UsageError(
            "int8 needs calibration_data: a folder, a data set's name or an array of images; only a network that was "
            "trained with quantize int8 brings its ranges"
        )
    data = None if calibration_data is None else open_calibration(calibration_data, shape, labels, data_dir)
    if ranges:
        return calibrated_by(ends, ranges, data, shape, most, name, levels)
    assert data is not None
    return calibrate(ends, data, most, name, shape.card.thresholds, levels)


def read_labels(path: str | Path) -> tuple[str, ...]:
    """The class names of a text file, one a line. Raises `UsageError` where it cannot be read."""
    try:
        lines = Path(path).expanduser().read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"cannot read the labels {path}: {reason(error)}") from error
    return tuple(line.strip() for line in lines if line.strip())


def _check_arguments(dtype: str, calibration_data: Any, top_k: int) -> None:
    if dtype not in DTYPES:
        raise unknown("dtype", dtype, DTYPES)
    if dtype != "int8" and calibration_data is not None:
        raise UsageError(f"calibration_data is for int8; leave it out with dtype {dtype}")
    require(top_k >= 1, "top_k", "at least 1", top_k)


def _kernel_levels(dtype: str, reduce_range: bool) -> int:
    """The largest level of int8 kernels, which other dtypes have none of."""
    if dtype != "int8":
        if reduce_range:
            raise UsageError(f"reduce_range is for int8; leave it out with dtype {dtype}")
        return 0
    levels = kernel_levels()
    if levels is None:
        raise UsageError("this TensorFlow has no quantised convolution (it needs oneDNN, on x86); use dtype bfloat16")
    return REDUCED_LEVELS if reduce_range else levels


@dataclass(frozen=True)
class _Export:
    """Everything that a version folder is written from."""

    name: str
    model: str
    """Its name."""
    shape: ImageFormat
    labels: tuple[str, ...]
    top_k: int
    dtype: str
    head: str
    """What gives the probabilities."""
    normalization: str
    """Who normalises the pixels."""
    expected: Expected
    proof: tuple[np.ndarray, np.ndarray] | None
    """Images of int8's proof, and what it answered."""
    int8: dict[str, Any] | None
    """For the manifest."""
    for_serving: str | None
    """The release of the server that it is for."""


def _write(export: _Export, networks: list[Network], folder: Path) -> None:
    """Write and check everything that is in a version folder. The one network is taken from the list."""
    with progress("writing the SavedModel"):
        needs, signatures = _write_graph(export, networks.pop(), folder)
    gc.collect()  # models and graphs refer to themselves
    return_memory()
    with progress("comparing the SavedModel with the model"):
        differences = compare(folder, export.model, export.dtype, export.expected, export.proof)
    for path in (MANIFEST, LABELS):
        (folder / path).parent.mkdir(exist_ok=True)
    (folder / LABELS).write_text("".join(f"{label}\n" for label in export.labels), "utf-8")
    shape = export.shape
    image = np.random.default_rng(0).integers(0, 256, (*shape.size, shape.channels)).astype("uint8")
    requests: dict[str, dict[str, Any]] = {key: {"image": image[None]} for key in ("serving_default", "features")}
    encoded = tf.io.encode_png(image).numpy()
    for key in sorted({"image_bytes", "explain"} & signatures):
        requests[key] = {"image_bytes": [encoded]}
    write_warmup(folder, export.name, requests)
    manifest = {**_manifest(export, differences, folder), "graph": needs}
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n", "utf-8")


def _write_graph(export: _Export, network: Network, folder: Path) -> tuple[dict[str, Any], set[str]]:
    """Write the graph and its variables; returns what it needs, and the names of the signatures."""
    made = servable(network, export.shape, export.labels, export.top_k, export.shape.card.thresholds)
    graph = write_saved_model(made.graph, made.signatures, folder, made.variables)
    if export.for_serving:
        check_release(graph, export.for_serving)
    if made.variables:
        write_values(made.variables, made.values, folder)
    return needs_of(graph), set(made.signatures)


def _manifest(export: _Export, differences: dict[str, float], folder: Path) -> dict[str, Any]:
    shape, card = export.shape, export.shape.card
    files = digests_of(folder)
    return {
        "format_version": FORMAT_VERSION,
        "name": export.name,
        "model": export.model,
        "dtype": export.dtype,
        "input": {"size": list(shape.size), "channels": shape.channels, "pixels": "raw, 0 to 255"},
        "normalization": export.normalization,
        "head": export.head,
        "card": {**card.to_dict(), "labels": list(export.labels)},
        "check": differences,
        **({"int8": export.int8} if export.int8 else {}),
        **({"for_serving": export.for_serving} if export.for_serving else {}),
        "versions": {"resnet_keras": __version__, "tensorflow": tf.__version__, "keras": keras.__version__},
        "sha256": files["saved_model.pb"],
        "files": files,
    }


def manifest_of(version: Path) -> dict[str, Any]:
    """The manifest of a version folder.

    Raises:
        UsageError: it cannot be read, or has a later format than this version of the package reads.
    """
    manifest = read_manifest(version / MANIFEST)
    found = manifest.setdefault("format_version", FORMAT_VERSION)
    if found not in range(1, FORMAT_VERSION + 1):
        raise UsageError(
            f"{version / MANIFEST} has format_version {found!r}, and this version of resnet-keras reads up to "
            f"{FORMAT_VERSION}; install a newer one"
        )
    quantised = manifest.get("int8", {})
    if "pictures" in quantised:  # as version 0.1 wrote it
        quantised["images"] = quantised.pop("pictures")
    return manifest

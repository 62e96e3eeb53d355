"""`predict`: labels and scores for picture files, from a run, a `.keras` file or a SavedModel."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from resnet_keras.errors import UsageError
from resnet_keras.runs import as_model, card_layer, from_pixels, model_file, picture_format


@dataclass(frozen=True)
class Prediction:
    """The likeliest classes of one picture, best first."""

    image: str
    labels: tuple[str, ...]
    scores: tuple[float, ...]

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def predict(source: str | Path | keras.Model, images: Sequence[str | Path], top_k: int = 5) -> list[Prediction]:
    """Classify picture files.

    Args:
        source: a model, a run folder, a `.keras` file, a SavedModel's version folder, or the folder above it (its
            newest version answers).
        images: files of JPEG, PNG, GIF, BMP or WebP.
        top_k: classes to name for each, where there are as many.

    Raises:
        UsageError: nothing there, a damaged file, or a file that is no picture; it names the file.
    """
    if top_k < 1:
        raise UsageError(f"top_k must be at least 1, not {top_k}")
    servable = servable_folder(source) if isinstance(source, str | Path) else None
    if isinstance(source, str | Path) and not servable:
        model_file(source)  # a wrong model is said before a wrong picture
    encoded = [read_picture(path) for path in images]
    if servable:
        labels, scores = _ask_servable(servable, encoded)
        top = [(row_labels[:top_k], row_scores[:top_k]) for row_labels, row_scores in zip(labels, scores, strict=True)]
    else:
        top = [(names[:top_k], scores[:top_k]) for names, scores in _ask_model(as_model(source), encoded)]
    return [
        Prediction(str(path), tuple(names), tuple(map(float, scores)))
        for path, (names, scores) in zip(images, top, strict=True)
    ]


def read_picture(path: str | Path) -> bytes:
    """The bytes of a picture file. Raises `UsageError` where it cannot be read or decoded."""
    try:
        encoded = Path(path).expanduser().read_bytes()
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}") from error
    try:
        tf.io.decode_image(encoded, channels=3, expand_animations=False)
    except tf.errors.OpError as error:
        raise UsageError(f"{path} is not a picture, or a damaged one; give a JPEG, PNG, GIF, BMP or WebP") from error
    return encoded


def servable_folder(source: str | Path) -> Path | None:
    """The SavedModel at a path: itself, or its newest version; None where there is none."""
    path = Path(source).expanduser()
    if (path / "saved_model.pb").is_file():
        return path
    versions = [child for child in path.glob("*/") if child.name.isdecimal() and (child / "saved_model.pb").is_file()]
    return max(versions, key=lambda child: int(child.name), default=None)


def _ask_servable(folder: Path, encoded: list[bytes]) -> tuple[list[list[str]], np.ndarray]:
    try:
        signatures = tf.saved_model.load(str(folder)).signatures
    except Exception as error:  # TensorFlow raises a dozen kinds for a folder it cannot read
        raise UsageError(f"{folder} cannot be loaded: {str(error).splitlines()[0]}") from error
    if "image_bytes" not in signatures:
        raise UsageError(f"{folder} has no image_bytes signature; export it again with resnet-keras export")
    answer = signatures["image_bytes"](image_bytes=tf.constant(encoded))
    labels = [[label.decode() for label in row] for row in answer["labels"].numpy()]
    return labels, answer["scores"].numpy()


def _ask_model(model: keras.Model, encoded: list[bytes]) -> list[tuple[list[str], np.ndarray]]:
    shape = picture_format(model)
    pixels = tf.stack([shape.prepare(tf.constant(picture)) for picture in encoded])
    names = model_labels(model)
    answers = []
    for row in np.asarray(from_pixels(model)(pixels, training=False)):
        order = np.argsort(-row, kind="stable")
        answers.append(([names[i] for i in order], row[order]))
    return answers


def model_labels(model: keras.Model) -> tuple[str, ...]:
    """The class names that a model's card has; "0", "1", ... where it has none."""
    layer = card_layer(model)
    return (layer.card.labels if layer else ()) or tuple(map(str, range(model.output_shape[-1])))

"""`predict`: labels and scores for image files, from a run, a `.keras` file or a SavedModel."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

import keras
import numpy as np
import tensorflow as tf

from resnet_keras.data.format import from_pixels, image_format
from resnet_keras.data.images import decode
from resnet_keras.errors import UsageError, reason, require
from resnet_keras.models.preprocessing import card_layer, model_card, normalised, normalises
from resnet_keras.models.saved import classifier, model_file
from resnet_keras.progress import progress
from resnet_keras.startup import standard_error_held

BATCH = 32
"""Images a batch."""
T = TypeVar("T")
Best = tuple[list[str], np.ndarray, np.ndarray | None]
"""Of an image: the labels and their scores, best first, and of several labels an image which it is given."""
Top = list[Best]
"""Of each image of a batch."""
Answers = Callable[[Sequence[bytes]], Top]


@dataclass(frozen=True)
class Prediction:
    """The likeliest classes of one image, best first."""

    image: str
    labels: tuple[str, ...]
    scores: tuple[float, ...]
    above: tuple[bool, ...] | None = None
    """Whether each score is at least the label's threshold, so that the image is given the label; None where an image
    is of one class."""

    def to_dict(self) -> dict[str, Any]:
        return {name: value for name, value in asdict(self).items() if value is not None}

    def __str__(self) -> str:
        each = [f"{label} {score:.4f}" for label, score in zip(self.labels, self.scores, strict=True)]
        if self.above is None:
            return f"{self.image}: {', '.join(each)}"
        given = [words for words, above in zip(each, self.above, strict=True) if above]
        others = [words for words in each if words not in given]
        rest = f" (below their thresholds: {', '.join(others)})" if others else ""
        return f"{self.image}: {', '.join(given) or 'none'}{rest}"


@dataclass(frozen=True)
class Unreadable:
    """An image that there is no prediction of, and why."""

    image: str
    error: str


def predict(source: str | Path | keras.Model, images: Sequence[str | Path], top_k: int = 5) -> list[Prediction]:
    """Classify image files.

    Args:
        source: a model, a run folder, a `.keras` file, a packaged name, a SavedModel's version folder, or the folder
            above it (its newest version is used).
        images: files of JPEG, PNG, GIF, BMP or WebP.
        top_k: classes to name for each, where there are as many.

    Returns:
        For each image its file, `image`, and its likeliest classes, best first: `labels`, and `scores`, probabilities.

    Raises:
        UsageError: nothing there, a damaged file, or a file that is no image; it names the file.

    Examples:
        >>> [prediction] = rk.predict("cifar10-jpeg", ["cat.jpg"], top_k=3)
        >>> best, score = prediction.labels[0], prediction.scores[0]
        >>> best in rk.model_card(rk.load_model("cifar10-jpeg")).labels
        True
    """
    opened = _opened(source, top_k)
    encoded = [read_image(path) for path in images]
    answers = opened()
    top = [one for batch in _batches(encoded) for one in answers(batch)]
    return [_prediction(path, one, top_k) for path, one in zip(images, top, strict=True)]


def predict_each(
    source: str | Path | keras.Model, images: Sequence[str | Path], top_k: int = 5
) -> Iterator[Prediction | Unreadable]:
    """As `predict`, a batch at a time and in order; an image that cannot be read is passed over and said.

    Raises:
        UsageError: of the model.
    """
    answers = _opened(source, top_k)()
    with progress("predicting", len(images), "images") as task:
        for paths in _batches(images):
            encoded: dict[int, bytes] = {}
            failed: dict[int, str] = {}
            for i, path in enumerate(paths):
                try:
                    encoded[i] = read_image(path)
                except UsageError as error:
                    failed[i] = str(error)
            found = dict(zip(encoded, answers(list(encoded.values())), strict=True)) if encoded else {}
            for i, path in enumerate(paths):
                yield _prediction(path, found[i], top_k) if i in found else Unreadable(str(path), failed[i])
            task.add(len(paths))


def _opened(source: str | Path | keras.Model, top_k: int) -> Callable[[], Answers]:
    """What loads the model, once it is known to be there: a wrong model is reported before a wrong image."""
    require(top_k >= 1, "top_k", "at least 1", top_k)
    servable = servable_folder(source) if isinstance(source, str | Path) else None
    if servable:
        return lambda: _servable(servable)
    if isinstance(source, str | Path):
        model_file(source)
    return lambda: _model(classifier(source))


def _prediction(path: str | Path, best: Best, top_k: int) -> Prediction:
    labels, scores, above = best
    given = None if above is None else tuple(map(bool, above[:top_k]))
    return Prediction(str(path), tuple(labels[:top_k]), tuple(map(float, scores[:top_k])), given)


def read_image(path: str | Path) -> bytes:
    """The bytes of an image file. Raises `UsageError` where it cannot be read or decoded."""
    try:
        encoded = Path(path).expanduser().read_bytes()
    except OSError as error:
        raise UsageError(f"cannot read {path}: {reason(error)}") from error
    if not _is_image(encoded):
        raise UsageError(f"{path} is not an image, a damaged one or too large; give a JPEG, PNG, GIF, BMP or WebP")
    return encoded


def _is_image(encoded: bytes) -> bool:
    with standard_error_held():  # libjpeg writes there itself
        try:
            decode(tf.constant(encoded), 3)
        except tf.errors.OpError:
            return False
    return True


def servable_folder(source: str | Path) -> Path | None:
    """The SavedModel at a path: itself, or its newest version; None where there is none."""
    path = Path(source).expanduser()
    if (path / "saved_model.pb").is_file():
        return path
    versions = [child for child in path.glob("*/") if child.name.isdecimal() and (child / "saved_model.pb").is_file()]
    return max(versions, key=lambda child: int(child.name), default=None)


def _batches(items: Sequence[T]) -> Iterator[Sequence[T]]:
    return (items[start : start + BATCH] for start in range(0, len(items), BATCH))


def _servable(folder: Path) -> Answers:
    try:
        signatures = tf.saved_model.load(str(folder)).signatures
    except Exception as error:  # TensorFlow raises a dozen kinds for a folder it cannot read
        raise UsageError(f"{folder} cannot be loaded: {reason(error)}") from error
    if "image_bytes" not in signatures:
        raise UsageError(f"{folder} has no image_bytes signature; export it again with resnet-keras export")

    def answers(batch: Sequence[bytes]) -> Top:
        try:
            outputs = signatures["image_bytes"](image_bytes=tf.constant(batch))
        except tf.errors.OpError as error:
            raise UsageError(f"{folder} cannot take the images: {reason(error)}") from error
        labels = [[label.decode() for label in row] for row in outputs["labels"].numpy()]
        above = outputs["above"].numpy() if "above" in outputs else [None] * len(labels)
        return list(zip(labels, outputs["scores"].numpy(), above, strict=True))

    return answers


def _model(model: keras.Model) -> Answers:
    shape, names, network = image_format(model), model_labels(model), from_pixels(model)
    thresholds = np.array(shape.card.thresholds, "float32")

    def answers(batch: Sequence[bytes]) -> Top:
        pixels = tf.stack([shape.evaluation_transform(tf.constant(image)) for image in batch])
        top = []
        for row in np.asarray(network(pixels, training=False)):
            order = np.argsort(-row, kind="stable")
            above = row[order] >= thresholds[order] if len(thresholds) else None
            top.append(([names[i] for i in order], row[order], above))
        return top

    return answers


def model_labels(model: keras.Model) -> tuple[str, ...]:
    """The class names that a model's card has; "0", "1", ... where it has none."""
    return model_card(model).labels or tuple(map(str, range(model.output_shape[-1])))


def preprocess_input(images: Any, model: keras.Model) -> Any:
    """Images as a model takes them.

    Args:
        images: RGB, 0 to 255, `[N, H, W, C]` or `[H, W, C]`, of any number type.
        model: a network of ours, by whose card they are normalised.

    Returns:
        float32 of the same shape, normalised; as they are for a model that was built with its preprocessing.

    Raises:
        UsageError: (a ValueError) for a model without a card, or images of other channels than its card's.

    Examples:
        >>> model = rk.build_cifar_resnet(20, weights="cifar10-jpeg")
        >>> images = np.random.randint(0, 256, (2, 32, 32, 3), "uint8")
        >>> scores = model.predict(rk.preprocess_input(images, model), verbose=0)
        >>> scores.shape
        (2, 10)
    """
    layer = card_layer(model)
    if layer is None:
        raise UsageError(
            f"{model.name} does not say how its images are normalised: it has no model card, so is not one of ours"
        )
    card = layer.card
    if normalises(model):
        return keras.ops.cast(images, "float32")
    channels = keras.ops.shape(images)[-1]
    if not card.fits(channels):
        raise UsageError(
            f"the images have {channels} channels, and the card of {model.name} has {len(card.mean)} means"
        )
    return normalised(images, card)


def decode_predictions(scores: Any, model: keras.Model, top: int = 5) -> list[list[tuple[str, str, float]]]:
    """The likeliest classes of each image, best first.

    Args:
        scores: `[N, classes]`, the output of the model.
        model: a network of ours; its card names the classes, else their numbers do.
        top: classes to name for each image, where there are as many.

    Returns:
        A list an image, of `(identifier, name, score)`; the identifier is WordNet's for ImageNet's classes.

    Raises:
        UsageError: scores of another shape.

    Examples:
        >>> model = rk.build_cifar_resnet(20, weights="cifar10-jpeg")
        >>> [best] = rk.decode_predictions(np.eye(10)[:1], model, top=1)
        >>> best
        [('0', 'airplane', 1.0)]
    """
    require(top >= 1, "top", "at least 1", top)
    scores, labels = np.asarray(scores), model_labels(model)
    if scores.ndim != 2 or scores.shape[1] != len(labels):
        raise UsageError(f"scores are [N, {len(labels)}] for {model.name}, not {list(scores.shape)}")
    ids = model_card(model).label_ids or tuple(map(str, range(len(labels))))
    best = np.argsort(-scores, axis=1, kind="stable")[:, :top]
    return [[(ids[i], labels[i], float(row[i])) for i in order] for row, order in zip(scores, best, strict=True)]

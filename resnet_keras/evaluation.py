"""`evaluate`: loss, accuracy, per class and confusion, of a model on a data set's test split."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from resnet_keras.data.pipeline import evaluation_batches
from resnet_keras.data.sources import open_source
from resnet_keras.errors import UsageError
from resnet_keras.runs import card_layer, from_pixels, load_model, picture_format


@dataclass(frozen=True)
class Evaluation:
    """What a model does on a test split. Accuracies are fractions, the loss is cross-entropy in nats a picture."""

    loss: float
    accuracy: float
    top5_accuracy: float
    examples: int
    labels: tuple[str, ...]
    confusion: np.ndarray
    """int64 [classes, classes]: rows are true classes, columns predicted ones."""

    @property
    def metrics(self) -> dict[str, float]:
        names = ("loss", "accuracy", "top5_accuracy", "examples")
        return {name: getattr(self, name) for name in names}

    @property
    def per_class(self) -> list[dict[str, Any]]:
        """A row a class: label, examples, recall (its pictures found), precision (its predictions right)."""
        right, true, said = np.diag(self.confusion), self.confusion.sum(1), self.confusion.sum(0)
        return [
            {
                "label": label,
                "examples": int(true[i]),
                "recall": float(right[i] / true[i]) if true[i] else None,
                "precision": float(right[i] / said[i]) if said[i] else None,
            }
            for i, label in enumerate(self.labels)
        ]

    def to_dict(self) -> dict[str, Any]:
        return {**self.metrics, "per_class": self.per_class, "confusion": self.confusion.tolist()}


def evaluate(
    source: str | Path | keras.Model,
    data: str | None = None,
    *,
    data_dir: str | None = None,
    batch_size: int = 128,
) -> Evaluation:
    """Evaluate a run folder, a `.keras` file or a model on the test split of `data`.

    Args:
        source: what to evaluate; it takes raw pixels, or is normalised as its card or ImageNet says.
        data: as `open_source` takes it; the data that the model's card names when None.
        data_dir: where TensorFlow Datasets keeps its data.
        batch_size: pictures at a time.

    Raises:
        UsageError: nothing there, a damaged file, no data named, or data of other classes or channels.
    """
    model = source if isinstance(source, keras.Model) else load_model(source)
    layer = card_layer(model)
    data = data or (layer.card.data if layer else None)
    if not data:
        raise UsageError(f"{model.name} does not say which data it is for; give --data")
    opened, shape = open_source(data, data_dir), picture_format(model)
    if model.output_shape[-1] != len(opened.labels):
        raise UsageError(f"{model.name} knows {model.output_shape[-1]} classes, {data} has {len(opened.labels)}")
    known = set(layer.card.labels) if layer else set()
    if known and known != set(opened.labels):
        strange = sorted(set(opened.labels) - known)
        raise UsageError(f"{data} has a class {strange[0]!r} that {model.name} was not trained on")
    if opened.image_size and opened.channels != shape.channels:
        raise UsageError(f"{model.name} takes {shape.channels} channels, {data} has {opened.channels}")
    return evaluate_batches(model, evaluation_batches(opened, shape, batch_size), opened.labels)


def evaluate_batches(model: keras.Model, batches: tf.data.Dataset, labels: tuple[str, ...]) -> Evaluation:
    """Evaluate a model on `(images, one-hot labels)` batches."""
    model = from_pixels(model)
    classes = len(labels)
    scores = tf.function(lambda images: model(images, training=False), reduce_retracing=True)
    confusion = np.zeros((classes, classes), "int64")
    loss = top5 = 0.0
    for images, one_hot in batches:
        probabilities = scores(images).numpy().astype("float64")
        targets = np.argmax(one_hot.numpy(), axis=-1)
        own = probabilities[np.arange(len(targets)), targets]
        # float32's softmax has no smaller normal number to take the logarithm of
        loss -= np.log(np.maximum(own, 1e-37)).sum()
        top5 += (np.sum(probabilities > own[:, None], axis=-1) < 5).sum()
        np.add.at(confusion, (targets, np.argmax(probabilities, axis=-1)), 1)
    examples = int(confusion.sum())
    accuracy = float(np.trace(confusion) / examples)
    return Evaluation(float(loss / examples), accuracy, float(top5 / examples), examples, labels, confusion)

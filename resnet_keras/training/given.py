"""What a user hands to a run in place of what its config names: a model, data, an optimizer, a loss, metrics."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from resnet_keras.config.train import AUTO, GIVEN, TrainConfig
from resnet_keras.data.splits import DatasetSplit, Source
from resnet_keras.errors import UsageError
from resnet_keras.models.around import ends_in_logits_of
from resnet_keras.models.layers import leaves
from resnet_keras.models.preprocessing import card_layer


@dataclass(frozen=True)
class Given:
    """As `train` takes them."""

    model: keras.Model | None = None
    data: Any = None
    optimizer: keras.optimizers.Optimizer | None = None
    loss: Any = None
    metrics: Sequence[Any] = ()

    def config(self, config: TrainConfig) -> TrainConfig:
        """The config of the run, which says what was given.

        Raises:
            UsageError: a field of it would do to the given what the user does to it.
        """
        if isinstance(self.data, str):
            config = dataclasses.replace(config, data=self.data)
        elif self.data is not None:
            config = dataclasses.replace(config, data=GIVEN)
        if self.model is None:
            return config
        ends_in_logits_of(self.model)
        if config.weights not in (None, AUTO) or config.image_size:
            raise UsageError("weights and image_size are for the config's own model; give the model as it is to be")
        if config.freeze is not None and not card_layer(self.model):
            raise UsageError(
                "freeze names stages of our networks that have a card: build yours with include_preprocessing=True, or "
                "set trainable=False on its layers"
            )
        precision = {"float16": "mixed_float16", "bfloat16": "mixed_bfloat16"}
        halves = {getattr(layer, "compute_dtype", "float32") for _, layer in leaves(self.model)} & set(precision)
        own: Any = precision[max(halves)] if halves else "float32"
        return dataclasses.replace(config, model=GIVEN, model_options={}, precision=own)


def check_augmentable(config: TrainConfig, source: Source) -> None:
    """Raise `UsageError` for a change of images that a dataset of the user's own makes by itself."""
    augmentation = config.augmentation
    if isinstance(source.train, DatasetSplit) and augmentation != type(augmentation)():
        raise UsageError(
            "a tf.data.Dataset brings its images as they are to be: give the config augmentation=Augmentation()"
        )


class Judge:
    """A loss and metrics of Keras, on the outputs as the user's model has them.

    Args:
        loss: as `compile` takes it; None for the config's.
        metrics: as `compile` takes them, without "accuracy", which a run has by itself.
        ends_in_logits: the outputs are logits, not probabilities.
    """

    def __init__(self, loss: Any, metrics: Sequence[Any], ends_in_logits: bool) -> None:
        self._loss = None if loss is None else keras.losses.get(loss)
        self._metrics = [_metric(metric) for metric in metrics if metric not in ("accuracy", "acc")]
        self._ends_in_logits, self._sum, self._count = ends_in_logits, 0.0, 0

    def losses(self, logits: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
        """The loss of each image: `[N, classes]` twice to `[N]`."""
        given: Any = self._loss
        labels, outputs = self._as_taken(given, labels, logits)
        each = given.call(labels, outputs) if isinstance(given, keras.losses.Loss) else given(labels, outputs)
        return tf.reduce_mean(tf.reshape(tf.cast(each, tf.float32), [tf.shape(logits)[0], -1]), -1)

    @property
    def has_loss(self) -> bool:
        return self._loss is not None

    def reset(self) -> None:
        """Begin to measure anew."""
        self._sum, self._count = 0.0, 0
        for metric in self._metrics:
            metric.reset_state()

    def add(self, labels: np.ndarray, logits: np.ndarray) -> None:
        """Measure a batch."""
        own_logits, own_labels = tf.constant(logits, tf.float32), tf.constant(labels, tf.float32)
        if self._loss is not None:
            self._sum += float(tf.reduce_sum(self.losses(own_logits, own_labels)))
            self._count += len(labels)
        for metric in self._metrics:
            metric.update_state(*self._as_taken(metric, own_labels, own_logits))

    def result(self) -> dict[str, float]:
        """What was measured since `reset`, by name: `loss` where there is one, and the metrics."""
        found = {} if self._loss is None else {"loss": self._sum / self._count}
        return found | {metric.name: float(np.mean(metric.result())) for metric in self._metrics}

    def _as_taken(self, by: Any, labels: tf.Tensor, logits: tf.Tensor) -> tuple[Any, Any]:
        fn = getattr(by, "_fn", getattr(by, "fn", by))
        sparse = "sparse" in f"{_name(by)}{_name(fn)}".lower()
        return tf.argmax(labels, -1) if sparse else labels, logits if self._ends_in_logits else tf.nn.softmax(logits)


def _name(thing: Any) -> str:
    return getattr(thing, "__name__", type(thing).__name__)


def _metric(metric: Any) -> Any:
    """A metric of Keras by its name, which it has then, by its function, or itself."""
    found: Any = keras.metrics.get(metric)
    if not isinstance(found, keras.metrics.Metric):
        found = keras.metrics.MeanMetricWrapper(found, name=_name(found))
    if isinstance(metric, str):
        found.name = metric
    return found

"""`evaluate`: loss, accuracy, per class and confusion, of a model on a data set's test split."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import keras
import numpy as np
import tensorflow as tf

from resnet_keras.config.run_folder import run_config
from resnet_keras.config.train import GIVEN
from resnet_keras.data.format import from_pixels, image_format
from resnet_keras.data.pipeline import evaluation_batches
from resnet_keras.data.sources import open_source
from resnet_keras.data.splits import Source
from resnet_keras.errors import UsageError
from resnet_keras.inference.labels import DEFAULT_THRESHOLD, LabelScores
from resnet_keras.inference.reliability import Reliability, ReliabilityLog
from resnet_keras.models.graph import head_of
from resnet_keras.models.preprocessing import model_card
from resnet_keras.models.saved import classifier
from resnet_keras.progress import Progress, progress


@dataclass(frozen=True)
class Evaluation:
    """What a model does on a test split. Accuracies are fractions, the loss is cross-entropy in nats an image.

    Where an image can have several labels, or none, `several` has their scores. The loss is binary cross-entropy then,
    summed over the labels, the accuracy the fraction of correct decisions, `top5_accuracy` NaN, and `confusion` empty.
    """

    loss: float
    accuracy: float
    top5_accuracy: float
    examples: int
    labels: tuple[str, ...]
    confusion: np.ndarray
    """int64 [classes, classes]: rows are true classes, columns predicted ones."""
    given: Mapping[str, float] = field(default_factory=dict)
    """By metrics of the user's own; of several labels an image `mean_average_precision`."""
    reliability: Reliability | None = None
    """Confidence and correctness of each image; None where several hosts each have a part of them."""
    several: LabelScores | None = None
    """Of labels that are each a question of their own."""

    @property
    def ece(self) -> float | None:
        """Expected calibration error over 15 bins of confidence (Guo et al. 2017), 0 to 1; None on several hosts."""
        return None if self.reliability is None else self.reliability.ece

    @property
    def metrics(self) -> dict[str, float]:
        names = ("loss", "accuracy", *(() if self.several else ("top5_accuracy",)), "examples")
        return {**{name: getattr(self, name) for name in names}, **self.given}

    @property
    def per_class(self) -> list[dict[str, Any]]:
        """A row a class: label, examples, recall (its images found), precision (its predictions that are correct).

        Of several labels an image also `f1`, `average_precision`, and the `threshold` from which on it is given.
        """
        if self.several:
            return self.several.rows(self.labels)
        correct, true, predicted = np.diag(self.confusion), self.confusion.sum(1), self.confusion.sum(0)
        return [
            {
                "label": label,
                "examples": int(true[i]),
                "recall": float(correct[i] / true[i]) if true[i] else None,
                "precision": float(correct[i] / predicted[i]) if predicted[i] else None,
            }
            for i, label in enumerate(self.labels)
        ]

    def to_dict(self) -> dict[str, Any]:
        if self.several:
            return {**self.metrics, "per_class": self.per_class}
        return {**self.metrics, "ece": self.ece, "per_class": self.per_class, "confusion": self.confusion.tolist()}

    def at(self, thresholds: Sequence[float]) -> "Evaluation":
        """The same of several labels an image, given from other thresholds on."""
        assert self.several is not None
        return evaluation_of(dataclasses.replace(self.several, thresholds=tuple(thresholds)), self.labels, self.loss)


def evaluation_of(scores: LabelScores, labels: tuple[str, ...], loss: float) -> Evaluation:
    """What the scores of several labels an image come to."""
    given = {"mean_average_precision": scores.mean_average_precision}
    empty = np.zeros((0, 0), "int64")
    return Evaluation(loss, scores.accuracy, float("nan"), len(scores.targets), labels, empty, given, several=scores)


def evaluate(
    source: str | Path | keras.Model,
    data: str | None = None,
    *,
    data_dir: str | None = None,
    batch_size: int = 128,
    skip_damaged: bool = False,
) -> Evaluation:
    """Evaluate a run folder, a `.keras` file, a packaged name or a model on the test split of `data`.

    Args:
        source: what to evaluate. Pixels are normalised by its card where the model does not do so itself; one without
            a card gets them as they are, 0 to 255.
        data: as `open_source` takes it; the run's, or what the model's card names, when None.
        data_dir: where TensorFlow Datasets keeps its data; the run's when None.
        batch_size: images at a time.
        skip_damaged: leave damaged image files out; the run's own data are read as the run read them.

    Returns:
        `loss` in nats an image; `accuracy` and `top5_accuracy`, fractions; `examples`; `ece`, the expected calibration
        error, 0 to 1; `per_class`, a row a class; `confusion`, int64 `[classes, classes]`, rows true classes.

    Raises:
        UsageError: nothing there, a damaged file, no data named, or data of other classes or channels.

    Examples:
        >>> result = rk.evaluate("runs/digits")
        >>> result.examples, result.confusion.shape
        (360, (10, 10))
        >>> result = rk.evaluate("cifar10-jpeg", "cifar10")  # doctest: +SKIP
    """
    model = classifier(source)
    config = run_config(source) if isinstance(source, str | Path) else None
    card = model_card(model)
    if config and config.data != GIVEN and data in (None, config.data):
        data, data_dir = config.data, data_dir or config.data_dir
        skip_damaged = skip_damaged or config.skip_damaged
    data = data or card.data
    if not data:
        raise UsageError(f"{model.name} does not say which data it is for; give --data")
    opened, shape = open_source(data, data_dir, skip_damaged=skip_damaged), image_format(model)
    if model.output_shape[-1] != len(opened.labels):
        raise UsageError(f"{model.name} has {model.output_shape[-1]} classes, {data} has {len(opened.labels)}")
    known = set(card.labels)
    if known and known != set(opened.labels):
        strange = sorted(set(opened.labels) - known)
        raise UsageError(f"{data} has a class {strange[0]!r} that {model.name} was not trained on")
    if opened.image_size and opened.channels != shape.channels:
        raise UsageError(f"{model.name} takes {shape.channels} channels, {data} has {opened.channels}")
    # The same classes in another order, such as a folder's alphabet: put the model's outputs into the data's order.
    columns = [card.labels.index(label) for label in opened.labels] if known else None
    thresholds = _thresholds(model, opened, columns)
    return Evaluator(model, opened.labels, columns=columns, flip=shape.card.test_flip, thresholds=thresholds)(
        evaluation_batches(opened, shape, min(batch_size, len(opened.test))), len(opened.test)
    )


def _thresholds(model: keras.Model, source: Source, columns: Sequence[int] | None) -> tuple[float, ...]:
    """Of the labels of a source, where a model gives several an image; empty for one of one class an image."""
    found = model_card(model).thresholds
    if not found and source.several:
        if head_of(model).activation != "sigmoid":
            raise UsageError(f"{source.name} has several labels an image, and {model.name} gives one class")
        found = (DEFAULT_THRESHOLD,) * len(source.labels)
    return tuple(found[i] for i in columns) if found and columns else found


class Judging(Protocol):
    """Measures batches of one-hot labels and logits by a user's own loss and metrics."""

    def reset(self) -> None: ...
    def add(self, labels: np.ndarray, logits: np.ndarray) -> None: ...
    def result(self) -> dict[str, float]: ...


class Evaluator:
    """Evaluates a model on `(images, one-hot labels)` batches, again and again without tracing anew.

    Args:
        model: from pixels, or normalised pixels where it has no card, to probabilities.
        labels: class names, as the batches number them.
        strategy: the one the model was made under; its devices share each batch.
        columns: the model's output for each of the labels, where it has another order.
        flip: take the mean of the probabilities of an image and its mirror image.
        host: which of the hosts this is and how many there are; each takes its share of the batches, and all have the
            sum.
        thresholds: of each of the labels, where an image can have several; on one host. They may be changed.
        judge: takes the logits of each batch besides, which the model then has behind its probabilities: `[N, 2 x
            classes]`. A `loss` that it finds takes the place of the cross-entropy.
    """

    def __init__(
        self,
        model: keras.Model,
        labels: tuple[str, ...],
        strategy: tf.distribute.Strategy | None = None,
        columns: Sequence[int] | None = None,
        *,
        flip: bool = False,
        host: tuple[int, int] = (0, 1),
        judge: Judging | None = None,
        thresholds: Sequence[float] = (),
    ) -> None:
        self.judge, self.thresholds = judge, tuple(thresholds)
        self.model, self.labels, self.flip, self.host = from_pixels(model), labels, flip, host
        self.columns = list(columns) if columns is not None else list(range(len(labels)))
        self.strategy = strategy or tf.distribute.get_strategy()
        self._forward = tf.function(self._predictions, autograph=False)
        self._forward_each = tf.function(
            lambda images: self.strategy.run(self._predictions, args=(images,)), reduce_retracing=True, autograph=False
        )
        self._sum_over_hosts = tf.function(lambda own: self.strategy.run(self._summed, args=(own,)), autograph=False)

    def __call__(self, batches: tf.data.Dataset, total: int | None = None) -> Evaluation:
        """Evaluate the model on batches; `total` is the number of their images, for who watches the progress."""
        with progress("evaluating", total and -(-total // self.host[1]), "images") as task:
            return self._several(batches, task) if self.thresholds else self._one(batches, task)

    def _several(self, batches: tf.data.Dataset, task: Progress) -> Evaluation:
        parts = []
        for _, labels, outputs in self.outputs(batches):
            parts.append((outputs[:, self.columns], labels))
            task.add(len(labels))
        scores, labels = (np.concatenate(part) for part in zip(*parts, strict=True))
        # float32 has no smaller normal number, and none nearer to one
        sure = np.where(labels > 0, np.maximum(scores, 1e-37), np.maximum(1 - scores, 2.0**-24))
        loss = -np.log(sure.astype("float64")).sum(-1).mean()
        return evaluation_of(LabelScores(scores, labels > 0, self.thresholds), self.labels, float(loss))

    def _one(self, batches: tf.data.Dataset, task: Progress) -> Evaluation:
        classes = len(self.labels)
        confusion = np.zeros((classes, classes), "int64")
        loss = top5 = 0.0
        index, hosts = self.host
        log = ReliabilityLog() if hosts == 1 else None
        if self.judge:
            self.judge.reset()
        for images, one_hot, outputs in self.outputs(batches.shard(hosts, index)):
            probabilities = outputs[:, self.columns].astype("float64")
            if self.judge:
                self.judge.add(one_hot, outputs[:, classes:])
            targets = np.argmax(one_hot, axis=-1)
            own = probabilities[np.arange(len(targets)), targets]
            # float32's softmax has no smaller normal number to take the logarithm of
            loss -= np.log(np.maximum(own, 1e-37)).sum()
            top5 += (np.isfinite(own) & (np.sum(probabilities > own[:, None], axis=-1) < 5)).sum()
            np.add.at(confusion, (targets, np.argmax(probabilities, axis=-1)), 1)
            if log:
                log.add(images, probabilities, targets)
            task.add(len(targets))
        if hosts > 1:
            own = np.concatenate([[loss, top5], confusion.ravel()]) / self._local_replicas
            loss, top5, *counts = np.asarray(self.strategy.experimental_local_results(self._sum_over_hosts(own))[0])
            confusion = np.rint(counts).astype("int64").reshape(classes, classes)
        examples = int(confusion.sum())
        accuracy = float(np.trace(confusion) / examples)
        given = self.judge.result() if self.judge else {}
        loss = given.pop("loss", float(loss / examples))
        reliability = log.result() if log and log.seen else None
        return Evaluation(loss, accuracy, float(top5 / examples), examples, self.labels, confusion, given, reliability)

    def outputs(self, batches: tf.data.Dataset) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """Of each batch the images, the one-hot labels, and what the model gives, `[N, outputs]`."""
        for images, one_hot in batches:
            yield images.numpy(), one_hot.numpy(), self._outputs(images)

    @property
    def _local_replicas(self) -> int:
        return self.strategy.num_replicas_in_sync // self.host[1]

    def _predictions(self, images: tf.Tensor) -> tf.Tensor:
        probabilities = self.model(images, training=False)
        return (probabilities + self.model(images[:, :, ::-1], training=False)) / 2 if self.flip else probabilities

    def _summed(self, own: tf.Tensor) -> Any:
        return tf.distribute.get_replica_context().all_reduce(tf.distribute.ReduceOp.SUM, tf.identity(own))

    def _outputs(self, images: tf.Tensor) -> np.ndarray:
        replicas, count = self._local_replicas, len(images)
        if self.strategy.num_replicas_in_sync == 1:
            # One graph for whole batches and for the last.
            any_count = tf.TensorSpec([None, *images.shape[1:]], images.dtype)
            return self._forward.get_concrete_function(any_count)(images).numpy()
        # Every replica needs an image: an empty batch is an error in TensorFlow's own kernels.
        share = -(-count // replicas)
        padded = tf.concat([images, tf.repeat(images[:1], share * replicas - count, axis=0)], 0)
        each = self.strategy.experimental_distribute_values_from_function(
            lambda context: padded[share * (context.replica_id_in_sync_group % replicas) :][:share]
        )
        parts = self.strategy.experimental_local_results(self._forward_each(each))
        return np.concatenate([part.numpy() for part in parts])[:count]

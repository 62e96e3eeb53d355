"""Distillation: a network learns the outputs of a trained one, its teacher, beside the labels of its images."""

import hashlib
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from resnet_keras.config.train import TrainConfig
from resnet_keras.data.format import from_pixels
from resnet_keras.data.splits import Source
from resnet_keras.errors import UsageError
from resnet_keras.models.downloads import repository_of
from resnet_keras.models.graph import head_of, output_of, run
from resnet_keras.models.preprocessing import model_card, normalises
from resnet_keras.models.replicas import local_copy
from resnet_keras.models.saved import classifier, model_file
from resnet_keras.models.tokens import resampling
from resnet_keras.models.variables import roles_of
from resnet_keras.models.weights.hub import is_hub_name
from resnet_keras.models.weights.reading import READERS

SMALLEST = 1e-37
"""In place of a probability of nothing, whose logarithm would have no end."""


def distilled(config: TrainConfig, losses: tf.Tensor, logits: tf.Tensor, taught: tf.Tensor) -> tf.Tensor:
    """The loss of each image by its label and its teacher: `losses` `[N]`, logits of both `[N, classes]`, to `[N]`.

    `(1 - w) loss + w T^2 KL(softmax(teacher / T) || softmax(logits / T))`, Touvron et al. 2020, equation 2: the square
    keeps the size of the gradients, and the divergence has those of the cross-entropy of Hinton et al. 2015, section 2.
    Hard: `(1 - w) loss + w cross-entropy(argmax(teacher), logits)`, equation 3 there, for their w of a half.
    """
    if config.distillation == "hard":
        chosen = tf.one_hot(tf.argmax(taught, -1), taught.shape[-1])
        own = -tf.reduce_sum(chosen * tf.nn.log_softmax(logits), -1)
    else:
        temperature = config.distillation_temperature
        theirs, ours = (tf.nn.log_softmax(values / temperature) for values in (taught, logits))
        own = temperature**2 * tf.reduce_sum(tf.exp(theirs) * (theirs - ours), -1)
    return (1 - config.distillation_weight) * losses + config.distillation_weight * own


class Teacher:
    """A trained classifier, for the images that a run trains on: pixels, 0 to 255, as they are augmented and mixed.

    It normalises them by its own card, resizes them to its own input where that has a fixed size, and computes in
    inference mode and in the precision that its file says. Nothing of it is part of the run's network or state.

    Args:
        name: as the config has it.
        model: from pixels to probabilities.
        columns: its output for each class of the data, where it has another order.
    """

    def __init__(self, name: str, model: keras.Model, columns: Sequence[int] | None = None) -> None:
        model.trainable = False
        self.name, self.model, self.columns = name, model, columns
        roles = roles_of(model)
        self.variables = [v for v in model.variables if not roles.is_seed(v)]
        self.parameters = sum(math.prod(v.shape) for v in roles.weights)
        self._end, self._head = output_of(model), head_of(model)
        self.identity = {"model": name, "digest": _digest(self.variables)}

    def values(self) -> list[tf.Tensor]:
        """Of its variables: this replica's copies."""
        return [tf.convert_to_tensor(local_copy(variable)) for variable in self.variables]

    def logits(self, images: tf.Tensor, values: Sequence[tf.Tensor]) -> tf.Tensor:
        """Its logits for images `[N, H, W, C]`, float32 `[N, classes]`, in the order of the data's classes.

        Pure: it reads no variable, `values` are theirs. Where probabilities are all that the model has, such as a mean
        of softmaxes, their logarithms, of which the softmax is the same.
        """
        last = self._end.operation
        with keras.StatelessScope([*zip(self.variables, values, strict=True)]):
            found = run([self._end], self._resized(images))
            if not _is_softmax(last):
                logits = tf.math.log(tf.maximum(tf.cast(found[self._end], tf.float32), SMALLEST))
            elif last is self._head.dense:  # which has the softmax in it
                logits = self._head.logits(found)
            else:
                logits = found[self._end.inputs[0]]
        logits = tf.cast(logits, tf.float32)
        return tf.stop_gradient(logits if self.columns is None else tf.gather(logits, self.columns, axis=-1))

    def check_same(self, before: dict[str, str] | None, folder: Path) -> None:
        """Raise `UsageError` where a run began with another teacher than this one."""
        if before is None or before["digest"] != self.identity["digest"]:
            raise UsageError(
                f"the teacher {self.name} is not as it was when the run in {folder} stopped: its weights are others; "
                "put them back, or give another --run-dir to train anew"
            )

    def words(self, config: TrainConfig, size: tuple[int, int]) -> str:
        """What is learned from it, in a line."""
        temperature = f" at temperature {config.distillation_temperature:g}" * (config.distillation == "soft")
        wanted = self._size(size)
        return (
            f"learns from {self.name}: {config.distillation} distillation{temperature}, {config.distillation_weight:g} "
            f"of the loss; the teacher has {self.parameters:,} parameters"
            + f", and its images are resized to {wanted[0]}x{wanted[1]}" * (wanted != size)
            + ", no card and no normalisation: it gets pixels of 0 to 255" * (not normalises(self.model))
        )

    def _size(self, size: tuple[int, int]) -> tuple[int, int]:
        height, width = self.model.input_shape[1:3]
        return height or size[0], width or size[1]

    def _resized(self, images: tf.Tensor) -> tf.Tensor:
        sides: Any = tuple(images.shape[1:3])
        images, wanted = tf.cast(images, tf.float32), self._size(sides)
        if wanted == sides:
            return images
        # As `data.images.resize`, for which XLA has no operation.
        rows, columns = (resampling(to, side, "float32", "bilinear") for side, to in zip(sides, wanted, strict=True))
        return tf.einsum("ih,jw,nhwc->nijc", rows, columns, images)


def check_teacher(name: str) -> None:
    """Raise `UsageError` where there is no such network, or weights without one, before anything is read."""
    if name == "imagenet" or Path(name).suffix.lower() in READERS or (is_hub_name(name) and not repository_of(name)):
        raise UsageError(
            f"the teacher {name} is weights without their network; build it in Python, "
            f"rk.load_weights(model, {name!r}), model.save('teacher.keras'), and give that file"
        )
    model_file(name)


def open_teacher(config: TrainConfig, source: Source) -> Teacher | None:
    """The teacher of a run on a source; None where it has none. Call it under the run's strategy.

    Raises:
        UsageError: nothing there, no classifier of one class an image, or one of other classes or channels.
    """
    name = config.teacher
    if name is None:
        return None
    model = classifier(name)
    card, activation, words = model_card(model), head_of(model).activation, f"the teacher {name}"
    if activation != "softmax":
        said = "gives several labels an image" if activation == "sigmoid" else "does not say that it ends in a softmax"
        raise UsageError(f"{words} {said}, and must give probabilities of one class; give another")
    if (channels := model.input_shape[-1]) not in (None, source.channels):
        raise UsageError(f"{words} takes {channels} channels, {source.name} has {source.channels}; give another")
    if (classes := model.output_shape[-1]) != len(source.labels):
        raise UsageError(f"{words} has {classes} classes, {source.name} has {len(source.labels)}; give another")
    return Teacher(name, from_pixels(model), _columns(words, card.labels, source))


def _columns(words: str, known: tuple[str, ...], source: Source) -> list[int] | None:
    """The teacher's output for each label of a source; None where they are in one order, or either only counts them."""
    numbers = tuple(map(str, range(len(source.labels))))
    if known in ((), numbers, source.labels) or source.labels == numbers:
        return None
    if strange := [label for label in source.labels if label not in known]:
        raise UsageError(f"{words} does not know the class {strange[0]!r} of {source.name}; give another")
    return [known.index(label) for label in source.labels]


def _is_softmax(operation: Any) -> bool:
    """Whether it is a softmax alone, or a dense layer with one."""
    if getattr(operation, "weights", []) and not isinstance(operation, keras.layers.Dense):
        return False
    activation = getattr(operation, "activation", None)
    return type(operation).__name__ == "Softmax" or activation is keras.activations.softmax


def _digest(variables: Sequence[Any]) -> str:
    """Of the values of variables; each replica's copies are the same."""
    digest, strategy = hashlib.sha256(), tf.distribute.get_strategy()
    for variable in variables:
        value = strategy.experimental_local_results(variable.value)[0].numpy()
        digest.update(f"{value.dtype} {value.shape}".encode())
        digest.update(np.ascontiguousarray(value).tobytes())
    return digest.hexdigest()[:16]

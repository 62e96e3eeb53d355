"""Grad-CAM (Selvaraju et al. 2017, section 3) of a model on images that are as it takes them."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from resnet_keras.errors import UsageError
from resnet_keras.models.graph import Head, Place, head_of, output_of, run
from resnet_keras.models.preprocessing import Preprocessing, missing_normalisation

BATCH = 16
"""Images whose maps are kept at once."""


@dataclass(frozen=True)
class Heat:
    """What `GradCam` finds for one image and class."""

    chosen: int
    """The class."""
    scores: np.ndarray
    """float32 [classes]: the model's."""
    coarse: np.ndarray
    """float32 [h, w], at the size of the map: not negative."""


class GradCam:
    """The last map before the head, weighted by the gradient of a class's logit averaged over the positions.

    What is positive of the sum over the channels is the heat. The last map is that of the last stage, before its pool
    and behind a final norm, also where it is in a model inside the model; where it is a single pixel, the one before
    it. The tokens `[N, T, C]` of a Transformer are a map of the square that they come from, without the class token;
    where only that token is read, the last tokens that it is made of.

    Args:
        model: from pixels, or pixels that its card normalises, to scores `[N, classes]`.
    """

    def __init__(self, model: keras.Model) -> None:
        self.model = model
        self._head: Head = head_of(model)
        self._output: Place = output_of(model)
        self._missing = missing_normalisation(model)

    def __call__(self, pixels: np.ndarray, classes: Sequence[int] | None = None) -> list[Heat]:
        """One `Heat` for each image.

        Args:
            pixels: `[N, H, W, C]`, 0 to 255, of the model's size.
            classes: one for each image; the likeliest when None.

        Raises:
            UsageError: the model has no such map.
        """
        found: list[Heat] = []
        for start in range(0, len(pixels), BATCH):
            part = None if classes is None else classes[start : start + BATCH]
            found += self._batch(pixels[start : start + BATCH], part)
        return found

    def _batch(self, pixels: np.ndarray, classes: Sequence[int] | None) -> list[Heat]:
        inputs: Any = tf.cast(pixels, tf.float32)
        inputs = inputs if self._missing is None else self._missing(inputs)
        with tf.GradientTape() as tape:
            tape.watch(inputs)  # else nothing is recorded where all weights are frozen
            values = run([self._output], inputs)
            scores = tf.cast(values[self._output], tf.float32).numpy()
            chosen = scores.argmax(-1) if classes is None else np.asarray(classes)
            logits = tf.gather(self._head.logits(values), chosen, batch_dims=1)
        maps = self._maps(values)
        gradients = tape.gradient(
            logits, [values[place] for place in maps], unconnected_gradients=tf.UnconnectedGradients.ZERO
        )
        # Tokens of which only the class token is read further have no part in the logit.
        at = next((i for i, gradient in enumerate(gradients) if _as_map(gradient).any()), 0)
        weights = _as_map(gradients[at]).mean((1, 2))
        heat = np.maximum(np.einsum("nhwc,nc->nhw", _as_map(values[maps[at]]), weights), 0)
        return [Heat(int(one), row, coarse) for one, row, coarse in zip(chosen, scores, heat, strict=True)]

    def _maps(self, values: dict[Place, Any]) -> list[Place]:
        """The map nearest to the logits; of tokens all, from the nearest."""
        learned = _learned(values)
        waiting, tokens = [self._head.place], []
        for place in waiting:  # which grows meanwhile
            value = values[place]
            if place in learned and place is not self._head.place:
                if len(value.shape) == 4 and value.shape[1:3] != (1, 1) and not _is_pool(place):
                    return tokens or [place]
                if len(value.shape) == 3 and value.shape[1] > 1 and _side(value.shape[1]):
                    tokens.append(place)
                elif len(value.shape) == 3 and value.shape[1] > 1 and not tokens:
                    raise UsageError(
                        f"{self.model.name} cannot be explained: its last map is {value.shape[1]} tokens, which are no "
                        "square, with a class token or without"
                    )
            waiting += [one for one in place.inputs if one not in waiting]
        if tokens:
            return tokens
        raise UsageError(f"{self.model.name} has no map [N, H, W, C] before its head to explain it by")


def _learned(values: dict[Place, Any]) -> set[Place]:
    """The places that weights other than those of the pixels' normalisation have a part in."""
    found: set[Place] = set()
    for place in values:  # each after its inputs
        own = getattr(place.operation, "weights", None) and not isinstance(
            place.operation, keras.layers.Normalization | Preprocessing
        )
        if not place.is_input and (own or any(one in found for one in place.inputs)):
            found.add(place)
    return found


def _is_pool(place: Place) -> bool:
    return "Pooling" in type(place.operation).__name__


def _side(tokens: int) -> int:
    """The side of the square that so many tokens are, with a class token before them or without; 0 for none."""
    return next((math.isqrt(n) for n in (tokens, tokens - 1) if n > 1 and math.isqrt(n) ** 2 == n), 0)


def _as_map(value: Any) -> np.ndarray:
    """Maps or tokens as float32 [N, h, w, C]."""
    array = tf.cast(value, tf.float32).numpy()
    if array.ndim == 4:
        return array
    side = _side(array.shape[1])
    return array[:, array.shape[1] - side * side :].reshape(len(array), side, side, -1)

"""The layer that carries a model's card and normalises its images."""

import dataclasses
from typing import Any

import keras
from keras import ops

from resnet_keras.errors import UsageError
from resnet_keras.models.card import ModelCard
from resnet_keras.models.graph import Place, head_of, in_order, is_functional, output_of
from resnet_keras.models.pooling import Shape


@keras.saving.register_keras_serializable("resnet_keras")
class Preprocessing(keras.layers.Layer):
    """Raw pixels, 0 to 255, to the numbers the network was trained on: `(x / 255 - mean) / std`, in float32.

    It carries the model's card. The layer computes in float32 whatever the policy is.

    Args:
        card: a `ModelCard`, or its dictionary.
        normalise: False for a layer that only carries the card: it hands on what the caller has normalised.
    """

    def __init__(self, card: ModelCard | dict[str, Any] | None = None, normalise: bool = True, **kwargs: Any) -> None:
        super().__init__(**{**kwargs, "dtype": "float32"})
        self.card = card if isinstance(card, ModelCard) else ModelCard.from_dict(card or {})
        self.normalise = normalise

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "Preprocessing":
        return cls(**config)  # Keras's own puts a page of configuration around a UsageError

    def call(self, x: Any) -> Any:
        return normalised(x, self.card) if self.normalise else x

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        return input_shape

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "card": self.card.to_dict(), "normalise": self.normalise}


def normalised(pixels: Any, card: ModelCard) -> Any:
    """RGB pixels, 0 to 255, as a card's network takes them: float32, in the card's order of channels."""
    mean, std = (ops.convert_to_tensor(v, "float32") for v in (card.mean, card.std))
    x = (ops.cast(pixels, "float32") / 255.0 - mean) / std
    return ops.flip(x, -1) if card.channels == "BGR" else x


def card_layer(model: keras.Model) -> Preprocessing | None:
    """The layer that carries a model's card and, where it was built so, normalises its pixels; None for others'."""
    for layer in model.layers:
        inside = card_layer(layer) if isinstance(layer, keras.Model) else layer
        if isinstance(inside, Preprocessing):
            return inside
    return None


OF_THE_HEAD: dict[str, Any] = {
    "labels": (),
    "label_ids": (),
    "data": "",
    "recipe": "",
    "claims": {},
    "metrics": {},
    "thresholds": (),
    "temperature": None,
    "int8_ranges": (),
    "test_flip": False,
}
"""What a card says of its network's head, as a card of no head has it."""
AS_THEY_ARE: dict[str, Any] = {"mean": (0.0,), "std": (1 / 255,), "channels": "RGB"}
"""The normalisation that leaves pixels, 0 to 255, what they are."""
UNCROPPED_BELOW = 64
"""Pixels of the sides of images that are tested whole."""
ARITHMETIC = ("Add", "Subtract", "Multiply", "Divide", "TrueDivide")


def model_card(model: keras.Model) -> ModelCard:
    """How a model's images are prepared, what its outputs mean, and where its weights are from.

    It survives `model.save` and goes with an export. Of a model with another head than the card's, put on the same
    backbone, it says nothing of classes, data, recipe or accuracy; nor of one without a head. A model without a card,
    or with a normalisation of its own before that of the card, takes pixels as they are.

    Args:
        model: any Keras model.

    Examples:
        >>> card = rk.model_card(rk.build_cifar_resnet(20, weights="cifar10-jpeg"))
        >>> card.data, card.input_size, round(card.metrics["accuracy"], 4)
        ('cifar10', (32, 32), 0.8427)
    """
    layer = card_layer(model)
    if layer is None:
        shape = model.input_shape[1:3] if is_functional(model) else ()
        sides = [side for side in shape if side]
        crop = 1.0 if sides and max(sides) < UNCROPPED_BELOW else ModelCard.crop
        return ModelCard(**AS_THEY_ARE, crop=crop)
    card = layer.card if has_head_of_card(model) else dataclasses.replace(layer.card, **OF_THE_HEAD)
    by_other = not layer.normalise and not isinstance(_normaliser(model), Preprocessing | None)
    return dataclasses.replace(card, **AS_THEY_ARE) if by_other else card


def has_head_of_card(model: keras.Model) -> bool:
    """Whether a model ends in the head of its card: a layer `logits` beside it, in the same model.

    Not in a dense layer of that name by anyone: a builder's begins with He's weights, or normal ones.
    """
    first = (keras.initializers.HeNormal, keras.initializers.RandomNormal)
    layer = card_layer(model)
    if layer is None or not is_functional(model):
        return False
    ends = head_of(model).layers
    return any(
        end.name == "logits"
        and any(one is layer for one in around.layers)
        and (not isinstance(end, keras.layers.Dense) or isinstance(end.kernel_initializer, first))
        for end, around in ends
    )


def missing_normalisation(model: keras.Model) -> Preprocessing | None:
    """What a model leaves to its caller to do to raw pixels; None where it does that itself, or has no card.

    Raises `UsageError` where its card cannot be of images of so many channels.
    """
    layer = card_layer(model)
    if layer is None or normalises(model):
        return None
    card, channels = model_card(model), model.input_shape[-1]
    if not card.fits(channels):
        raise UsageError(f"{model.name} takes {channels} channels and says nothing of their normalisation")
    return Preprocessing(card, name="preprocessing")


def normalises(model: keras.Model) -> bool:
    """Whether a model takes raw pixels: it normalises them by its card, or before its first weights in another way.

    Those are Keras's layers `Rescaling` and `Normalization`, a `Lambda`, and plain arithmetic.
    """
    layer = card_layer(model)
    return (layer is not None and layer.normalise) or _normaliser(model) is not None


def _normaliser(model: keras.Model) -> Any:
    """The layer or operation that normalises pixels before the first weights; None where none does."""
    if not is_functional(model):
        return None
    raw: set[Place] = set()
    for place in in_order(output_of(model)):
        if place.is_input:
            raw.add(place)
        elif all(one in raw for one in place.inputs):
            if _normalises(place.operation):
                return place.operation
            if not getattr(place.operation, "weights", None):
                raw.add(place)
    return None


def _normalises(operation: Any) -> bool:
    if isinstance(operation, Preprocessing):
        return operation.normalise
    if isinstance(operation, keras.layers.Layer):
        return isinstance(operation, keras.layers.Rescaling | keras.layers.Normalization | keras.layers.Lambda)
    return type(operation).__name__ in ARITHMETIC

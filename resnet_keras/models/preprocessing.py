"""The layer that carries a model's card and normalises its images."""

from typing import Any

import keras
from keras import ops

from resnet_keras.errors import UsageError
from resnet_keras.models.card import ModelCard
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


def model_card(model: keras.Model) -> ModelCard:
    """How a model's images are prepared, what its outputs mean, and where its weights are from.

    It survives `model.save` and goes with an export. A model of others has ImageNet's normalisation and no labels.
    """
    layer = card_layer(model)
    return layer.card if layer else ModelCard()


def missing_normalisation(model: keras.Model) -> Preprocessing | None:
    """What a model leaves to its caller to do to raw pixels; None where it does that itself.

    Raises `UsageError` where nothing says how pixels of so many channels are normalised.
    """
    layer = card_layer(model)
    if layer and layer.normalise:
        return None
    card, channels = model_card(model), model.input_shape[-1]
    if not card.fits(channels):
        raise UsageError(f"{model.name} takes {channels} channels and says nothing of their normalisation")
    return Preprocessing(card, name="preprocessing")

"""Any classifier of Keras as the networks here are: from raw pixels, through logits, to probabilities."""

import dataclasses
from dataclasses import dataclass
from typing import Any

import keras
from keras import ops

from resnet_keras.errors import UsageError
from resnet_keras.models.card import ModelCard
from resnet_keras.models.pooling import Shape
from resnet_keras.models.preprocessing import AS_THEY_ARE, Preprocessing, card_layer, has_head_of_card, normalises

SMALLEST = 1e-7
"""What Keras's losses take for a probability of nothing."""


@keras.saving.register_keras_serializable("resnet_keras")
class LogProbabilities(keras.layers.Layer):
    """Probabilities to logits that have them: their logarithms. In float32 whatever the policy is."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**{**kwargs, "dtype": "float32"})

    def call(self, x: Any) -> Any:
        return ops.log(ops.clip(ops.cast(x, "float32"), SMALLEST, 1.0))

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        return input_shape


@dataclass(frozen=True)
class Classifier:
    """A user's model, and what a run trains."""

    network: keras.Model
    """From raw pixels to probabilities, with a layer `logits` and a card; the model itself, or around it."""
    ends_in_logits: bool
    """The user's model does, so that losses and metrics of theirs take them."""


def classifier_around(model: keras.Model, card: ModelCard) -> Classifier:
    """Put around a model what it lacks: the normalisation of its card, logits with a name, the softmax, or the sigmoids
    where the card has several labels an image.

    Args:
        model: from images `[N, H, W, C]` to scores `[N, classes]`: functional, or a `Sequential` that knows its input.
            A model that normalises its pixels by a card keeps doing so; one that does it in another way, such as by a
            layer `Rescaling`, gets pixels, 0 to 255; any other gets them normalised by `card`.
        card: of the run.

    Raises:
        UsageError: a model of anything else, or one that ends in neither logits nor a softmax.
    """
    ends_in_logits = ends_in_logits_of(model)
    if card.several and not ends_in_logits:
        raise UsageError(f"model must end in logits for several labels an image, and {model.name} ends in a softmax")
    layer = card_layer(model)
    by_card = layer is not None and layer.normalise
    if layer is not None and by_card:
        kept = {name: getattr(layer.card, name) for name in ("mean", "std", "channels", "source", "license")}
        card = dataclasses.replace(card, **kept)
        if _ends_as_ours(model) and not card.several:
            layer.card = card
            return Classifier(model, ends_in_logits)
    elif normalises(model):
        card = dataclasses.replace(card, **AS_THEY_ARE)
    pixels = keras.Input(model.input_shape[1:], name="image")
    front = Preprocessing(card, normalise=not by_card, name="card" if by_card else "preprocessing")
    x: Any = model(front(pixels))
    logits = (
        keras.layers.Identity(name="logits", dtype="float32") if ends_in_logits else LogProbabilities(name="logits")
    )
    scores = keras.layers.Activation("sigmoid" if card.several else "softmax", name="predictions", dtype="float32")
    outputs = scores(logits(x))
    return Classifier(keras.Model(pixels, outputs, name=f"{model.name}_classifier"), ends_in_logits)


def _ends_as_ours(model: keras.Model) -> bool:
    """Whether a model has, beside its card, a layer `logits` that gives logits, and a softmax behind it."""
    names = {layer.name for layer in model.layers}
    if "logits" not in names or not has_head_of_card(model):
        return False
    logits = model.get_layer("logits")
    return logits is not model.layers[-1] and getattr(logits, "activation", None) in (None, keras.activations.linear)


def ends_in_logits_of(model: Any) -> bool:
    """Whether a classifier gives logits; False for probabilities.

    Raises:
        UsageError: it is nothing that `classifier_around` takes.
    """
    if not isinstance(model, keras.Model) or not getattr(model, "outputs", None):
        kind = type(model).__name__
        raise UsageError(
            f"model must be a functional keras.Model, or a Sequential that begins with an Input, not a {kind}"
            + " whose shapes nothing says" * isinstance(model, keras.Model)
        )
    shapes: Any = model.input_shape, model.output_shape
    if not all(isinstance(shape, tuple) for shape in shapes) or [len(shape) for shape in shapes] != [4, 2]:
        raise UsageError(f"model must take images [N, H, W, C] and give scores [N, classes], not {shapes}")
    if None in shapes[0][1:]:
        raise UsageError(f"model must have an input of known size, not {shapes[0]}: build it with input_shape")
    last: Any = model
    while isinstance(last, keras.Model):
        last = last.outputs[0]._keras_history.operation
    activation = "softmax" if isinstance(last, keras.layers.Softmax) else getattr(last, "activation", None)
    activation = getattr(activation, "__name__", activation)
    if activation not in (None, "linear", "softmax"):
        raise UsageError(f"model must end in logits or a softmax, not in {activation} of its layer {last.name}")
    return activation != "softmax"

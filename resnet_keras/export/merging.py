"""Rules for what a layer does not know of itself: calls of several tensors, arithmetic with constants, shapes."""

from collections.abc import Sequence
from functools import reduce
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from resnet_keras.export.folding import per_channel, reshaped, scaled, summed
from resnet_keras.export.operations import Add, Concatenate, Convolution, Dense, Multiply, Operation
from resnet_keras.export.values import value_of
from resnet_keras.models.graph import Place

Readers = dict[Place, list[Place]]
"""Who reads each place; one that reads it twice is there twice."""
ACTIVATIONS = (keras.layers.Activation, keras.layers.ReLU)


def readers_of(places: Sequence[Place]) -> Readers:
    found: Readers = {place: [] for place in places}
    for place in places:
        for one in place.inputs:
            found[one].append(place)
    return found


def merged(place: Place, inputs: list[Operation], readers: Readers, shared: set[Operation]) -> Operation | None:
    """The operation of a call whose rule needs more than a layer and its one input; None for any other.

    Args:
        place: what the call gives.
        inputs: the operations that it reads.
        readers: of every place.
        shared: operations that something else reads, too.
    """
    call = type(place.operation)
    if call.__module__.partition(".")[0] != "keras":
        return None
    kind, channels = call.__name__, int(place.tensor.shape[-1] or 0)
    if kind in ("Reshape", "Flatten") and len(inputs) == 1:
        return _reshaped(place, inputs[0])
    if kind == "Add" and _same_shape(place):
        return _sum(inputs, shared, followed=_is_followed(readers[place]))
    if kind == "Multiply" and _gated(place):
        return reduce(lambda x, y: Multiply(inputs=(x, y), channels=channels), inputs)
    if kind == "Concatenate" and place.operation.axis in (-1, len(place.tensor.shape) - 1):
        return Concatenate(inputs=tuple(inputs), channels=channels)
    if kind == "Stack":
        return _reversed(place, inputs)
    if kind == "LayerScale" and len(inputs) == 1:  # of keras.applications' ConvNeXt, which is in no public module
        return scaled(inputs[0], value_of(place.operation.gamma), np.zeros(channels))
    return _arithmetic(place, inputs) if len(inputs) == 1 else None


def _reshaped(place: Place, x: Operation) -> Operation | None:
    shape = tuple(place.tensor.shape[1:])
    known = all(shape) and getattr(place.operation, "data_format", "channels_last") == "channels_last"
    return reshaped(x, shape) if known and shape else None


def _same_shape(place: Place) -> bool:
    shapes = {tuple(one.tensor.shape) for one in place.inputs}
    return len(place.inputs) > 1 and shapes == {tuple(place.tensor.shape)}


def _gated(place: Place) -> bool:
    ranks = {len(one.tensor.shape) for one in place.inputs}
    return len(place.inputs) > 1 and ranks == {len(place.tensor.shape)}


def _is_followed(readers: Sequence[Place]) -> bool:
    """Whether an activation alone reads a sum."""
    return len(readers) == 1 and type(readers[0].operation) in ACTIVATIONS


def _sum(inputs: list[Operation], shared: set[Operation], followed: bool) -> Operation:
    *others, last = inputs
    rest = reduce(_added, others)
    for x, y in ((last, rest), (rest, last)):
        if isinstance(x, Convolution | Dense) and x not in shared and x is not y:
            return summed(x, y, followed)
    return _added(rest, last)


def _added(x: Operation, y: Operation) -> Operation:
    return Add(inputs=(x, y), channels=x.channels)


def _reversed(place: Place, inputs: list[Operation]) -> Operation | None:
    """Channels taken one by one and put together in reverse, as `preprocess_input` turns RGB to BGR."""
    sources = {one for x in inputs for one in x.inputs}
    keys = [_key(one) for one in place.inputs]
    if len(sources) != 1 or place.operation.axis not in (-1, len(place.tensor.shape) - 1):
        return None
    (x,) = sources
    if keys != [(Ellipsis, i) for i in reversed(range(x.channels))]:
        return None
    return _flipped(x)


def _key(place: Place) -> Any:
    """What is taken of a tensor, if a place is such a part; else None."""
    if type(place.operation).__name__ != "GetItem" or place.is_input:
        return None
    arguments = place.node.arguments
    key = arguments.args[1] if len(arguments.args) > 1 else arguments.kwargs.get("key")
    return tuple(key) if isinstance(key, list | tuple) else key


def _flipped(x: Operation) -> Operation:
    return scaled(x, np.ones(x.channels), np.zeros(x.channels), flip=True)


def _arithmetic(place: Place, inputs: list[Operation]) -> Operation | None:
    """A sum, difference, product or quotient with a constant, a number or one a channel."""
    (x,), (before,) = inputs, place.inputs
    if len(place.tensor.shape) == 4 and _key(place) == (Ellipsis, slice(None, None, -1)):
        return _flipped(x)
    arguments = place.node.arguments.args
    if len(arguments) != 2 or place.node.arguments.kwargs or tuple(before.tensor.shape) != tuple(place.tensor.shape):
        return None
    constants = [one for one in arguments if not isinstance(one, keras.KerasTensor)]
    if len(constants) != 1 or not isinstance(constants[0], int | float | np.ndarray | np.number | tf.Tensor):
        return None
    value, first = per_channel(constants[0], x.channels), isinstance(arguments[0], keras.KerasTensor)
    if value is None:
        return None
    one, none = np.ones(x.channels), np.zeros(x.channels)
    match type(place.operation).__name__:
        case "Add":
            return scaled(x, one, value)
        case "Subtract":
            return scaled(x, one, -value) if first else scaled(x, -one, value)
        case "Multiply":
            return scaled(x, value, none)
        case "TrueDivide" | "Divide" if first and value.all():
            return scaled(x, 1 / value, none)
    return None

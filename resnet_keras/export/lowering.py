"""From a Keras model to the operations of its servable: dropout gone, norms in the convolutions, pads in what they pad.

Everything is inference. A layer without a rule here is called as it is. Within a function that is being traced, the
operations have the model's live weights, through which gradients flow; else constants.
"""

import dataclasses
from collections.abc import Sequence
from functools import singledispatch
from typing import Any

import keras
import numpy as np

from resnet_keras.errors import UsageError, reason
from resnet_keras.export.operations import (
    Activation,
    Add,
    Attention,
    Call,
    Concatenate,
    Convolution,
    Dense,
    GlobalPool,
    LayerNorm,
    Multiply,
    Operation,
    Pad,
    Pixels,
    Pool,
    Scale,
    Subsample,
    TokenPool,
    Tokens,
)
from resnet_keras.export.values import as_it_is, standardized, transposed, value_of
from resnet_keras.models.blocks import DenseLayer, ResidualBlock
from resnet_keras.models.graph import Head, Place, head_of, in_order, output_of
from resnet_keras.models.layers import Chain, SqueezeExcitation, StandardizedConv2D, ZeroPaddedShortcut
from resnet_keras.models.norm_blocks import LayerScale, NormResidual
from resnet_keras.models.pooling import StemMaxPooling
from resnet_keras.models.preprocessing import Preprocessing, missing_normalisation
from resnet_keras.models.tokens import SelfAttention, TokenPooling
from resnet_keras.models.tokens import Tokens as TokensLayer


def lower(model: keras.Model) -> tuple[Operation, Operation]:
    """The operations of a classifier, from raw pixels: its probabilities, and what its head reads.

    A model that leaves normalisation to its caller is given its card's. Models inside it are opened.
    """
    pixels: Operation = Pixels(channels=model.input_shape[-1])
    missing = missing_normalisation(model)
    if missing is not None:
        pixels = _normalise(missing, pixels)
    end, features = output_of(model), features_of(head_of(model))
    known: dict[Place, Operation] = {}
    for place in in_order(end, features):
        inputs = [known[one] for one in place.inputs]
        if place.is_input:
            known[place] = pixels
        elif lowered.dispatch(type(place.operation)) is lowered.dispatch(object):
            known[place] = _called(place.operation, inputs, int(place.tensor.shape[-1] or 0), place)
        else:
            known[place] = lowered(place.operation, *inputs)
    return known[end], known[features]


def features_of(head: Head) -> Place:
    """What a head reads, `[N, features]`; of a convolution behind a global pool, what the pool gives."""
    return head.place if head.dense is None else head.features


def _called(layer: Any, inputs: Sequence[Operation], channels: int, place: Place | None = None) -> Call:
    weights = tuple(as_it_is(variable) for variable in getattr(layer, "variables", ()))
    return Call(inputs=tuple(inputs), channels=channels, layer=layer, weights=weights, place=place)


@singledispatch
def lowered(layer: Any, x: Operation) -> Operation:
    """One Keras layer as an operation on its input."""
    shape = (None, None, None, x.channels)
    if not layer.built:
        layer.build(shape)
    return _called(layer, [x], layer.compute_output_shape(shape)[-1])


def through(layers: Sequence[Any], x: Operation) -> Operation:
    """Layers one after the other."""
    for layer in layers:
        x = lowered(layer, x)
    return x


@lowered.register
def _(layer: keras.layers.Dropout, x: Operation) -> Operation:
    return x


@lowered.register
def _normalise(layer: Preprocessing, x: Operation) -> Operation:
    if not layer.normalise:
        return x
    mean, std = (np.broadcast_to(np.asarray(v, "float64"), x.channels) for v in (layer.card.mean, layer.card.std))
    flip, scale, shift = layer.card.channels == "BGR", 1 / (255 * std), -mean / std
    order = slice(None, None, -1 if flip else 1)
    return Scale(inputs=(x,), channels=x.channels, scale=scale[order], shift=shift[order], flip=flip)


@lowered.register
def _(layer: keras.layers.Rescaling, x: Operation) -> Operation:
    scale, shift = (np.asarray(v, "float64") for v in (layer.scale, layer.offset))
    if not {scale.shape, shift.shape} <= {(), (x.channels,)}:
        return _called(layer, [x], x.channels)
    scale, shift = (np.broadcast_to(v, x.channels) for v in (scale, shift))
    return Scale(inputs=(x,), channels=x.channels, scale=scale, shift=shift)


@lowered.register
def _(layer: keras.layers.ZeroPadding2D, x: Operation) -> Operation:
    return Pad(inputs=(x,), channels=x.channels, padding=layer.padding)


@lowered.register
def _(layer: keras.layers.Conv2D, x: Operation) -> Operation:
    kernel = value_of(layer.kernel)
    if isinstance(layer, StandardizedConv2D):
        kernel = standardized(kernel)
    elif type(layer) is not keras.layers.Conv2D:
        return _called(layer, [x], layer.filters)
    if (places := _places(layer, x)) is None:
        return _called(layer, [x], layer.filters)
    x, placed = places
    bias = value_of(layer.bias) if layer.use_bias else np.zeros(layer.filters)
    centre = None
    if isinstance(x, Scale) and isinstance(x.inputs[0], Pixels) and x.activation is None:
        # Padding stands for a normalised zero, which is the mean among pixels.
        centre, kernel = -x.shift / x.scale, kernel * x.scale[:, None]
        if x.flip:
            centre, kernel = centre[::-1], kernel[:, :, ::-1]
        x = x.inputs[0]
    convolution = Convolution(
        inputs=(x,),
        channels=layer.filters,
        kernel=kernel,
        bias=bias,
        centre=centre,
        **placed,
    )
    return _activated(layer.activation, convolution)


@lowered.register
def _(layer: keras.layers.DepthwiseConv2D, x: Operation) -> Operation:
    kernel = value_of(layer.kernel)
    if kernel.shape[3] > 1 or (places := _places(layer, x)) is None:
        return _called(layer, [x], x.channels * kernel.shape[3])
    x, placed = places
    convolution = Convolution(
        inputs=(x,),
        channels=x.channels,
        kernel=transposed(kernel, (0, 1, 3, 2)),
        bias=value_of(layer.bias) if layer.use_bias else np.zeros(x.channels),
        **placed,
    )
    return _activated(layer.activation, convolution)


def _places(layer: Any, x: Operation) -> tuple[Operation, dict[str, Any]] | None:
    """What a convolution reads, and its strides, dilation and padding; None where `Convolution` has no such options."""
    (stride, *strides), (step, *steps) = layer.strides, layer.dilation_rate
    if strides != [stride] or steps != [step] or layer.data_format != "channels_last":
        return None
    padding: Any = ((0, 0), (0, 0))
    sides = tuple(layer.kernel_size)
    if layer.padding == "same" and sides != (1, 1):
        if stride > 1 or not sides[0] % 2 == sides[1] % 2 == 1:
            return None  # uneven, by the size of the map
        padding = tuple(((side // 2) * step,) * 2 for side in sides)
    elif isinstance(x, Pad):
        padding, x = x.padding, x.inputs[0]
    return x, {"strides": stride, "dilation": step, "padding": padding}


@lowered.register
def _(layer: keras.layers.LayerNormalization, x: Operation) -> Operation:
    if getattr(layer, "rms_scaling", False) or layer.axis not in (-1, [-1], (-1,)):
        return _called(layer, [x], x.channels)
    scale = value_of(layer.gamma) if layer.scale else np.ones(x.channels)
    shift = value_of(layer.beta) if layer.center else np.zeros(x.channels)
    return LayerNorm(inputs=(x,), channels=x.channels, scale=scale, shift=shift, epsilon=layer.epsilon)


@lowered.register
def _(layer: LayerScale, x: Operation) -> Operation:
    gamma = value_of(layer.gamma)
    if isinstance(x, Convolution | Dense) and x.activation is None and len(x.inputs) == 1:
        return dataclasses.replace(x, kernel=x.kernel * gamma, bias=x.bias * gamma)
    return Scale(inputs=(x,), channels=x.channels, scale=gamma, shift=np.zeros(x.channels))


@lowered.register
def _(layer: TokensLayer, x: Operation) -> Operation:
    positions, first = value_of(layer.positions), None
    if layer.has_class_token:
        first, positions = value_of(layer.class_token) + positions[0], positions[1:]
    positions = positions.reshape(layer.side, layer.side, x.channels)
    return Tokens(inputs=(x,), channels=x.channels, positions=positions, first=first)


@lowered.register
def _(layer: SelfAttention, x: Operation) -> Operation:
    channels = x.channels // 3
    scale = (channels // layer.heads) ** -0.5
    if isinstance(x, Dense) and x.activation is None and len(x.inputs) == 1:
        factors = np.where(np.arange(x.channels) < channels, scale, 1.0)  # of the queries
        x, scale = dataclasses.replace(x, kernel=x.kernel * factors, bias=x.bias * factors), 1.0
    return Attention(inputs=(x,), channels=channels, heads=layer.heads, scale=scale)


@lowered.register
def _(layer: TokenPooling, x: Operation) -> Operation:
    return TokenPool(inputs=(x,), channels=x.channels, kind=layer.kind, start=int(layer.has_class_token))


@lowered.register
def _(layer: keras.layers.BatchNormalization, x: Operation) -> Operation:
    if layer.axis not in (-1, 3):
        return _called(layer, [x], x.channels)
    mean, variance = value_of(layer.moving_mean), value_of(layer.moving_variance)
    scale = (variance + layer.epsilon) ** -0.5
    scale = scale * value_of(layer.gamma) if layer.scale else scale
    shift = (value_of(layer.beta) if layer.center else 0.0) - mean * scale
    if isinstance(x, Convolution) and x.activation is None and len(x.inputs) == 1:
        return dataclasses.replace(x, kernel=x.kernel * scale, bias=x.bias * scale + shift)
    return Scale(inputs=(x,), channels=x.channels, scale=scale, shift=shift)


@lowered.register
def _(layer: keras.layers.Activation, x: Operation) -> Operation:
    return _activated(layer.activation, x)


@lowered.register
def _(layer: keras.layers.ReLU, x: Operation) -> Operation:
    plain = not layer.negative_slope and not layer.threshold and layer.max_value is None
    return _activated(keras.activations.relu, x) if plain else _called(layer, [x], x.channels)


def _activated(function: Any, x: Operation) -> Operation:
    name = keras.activations.serialize(function)
    if name == "linear":
        return x
    if not isinstance(name, str):
        return _called(keras.layers.Activation(function), [x], x.channels)
    if isinstance(x, Convolution | Scale | Add | Dense) and x.activation is None:
        return dataclasses.replace(x, activation=name)
    return Activation(inputs=(x,), channels=x.channels, activation=name)


@lowered.register
def _(layer: keras.layers.Dense, x: Operation) -> Operation:
    kernel = value_of(layer.kernel)
    bias = value_of(layer.bias) if layer.use_bias else np.zeros(layer.units)
    return _activated(layer.activation, Dense(inputs=(x,), channels=layer.units, kernel=kernel, bias=bias))


@lowered.register
def _(layer: StemMaxPooling, x: Operation) -> Operation:
    (size, _), (strides, _) = layer.pool_size, layer.strides
    sides = ((1, 1), (1, 1))
    return Pool(
        inputs=(x,), channels=x.channels, kind="max", size=size, strides=strides, padding=sides, edge=layer.edge
    )


@lowered.register(keras.layers.MaxPooling2D)
@lowered.register(keras.layers.AveragePooling2D)
def _(layer: Any, x: Operation) -> Operation:
    (size, *sizes), (stride, *strides) = layer.pool_size, layer.strides
    if sizes != [size] or strides != [stride] or layer.data_format != "channels_last":
        return _called(layer, [x], x.channels)
    kind, same = "max" if isinstance(layer, keras.layers.MaxPooling2D) else "mean", layer.padding == "same"
    return Pool(inputs=(x,), channels=x.channels, kind=kind, size=size, strides=stride, same=same)


@lowered.register(keras.layers.GlobalAveragePooling2D)
@lowered.register(keras.layers.GlobalMaxPooling2D)
def _(layer: Any, x: Operation) -> Operation:
    kind = "max" if isinstance(layer, keras.layers.GlobalMaxPooling2D) else "mean"
    return GlobalPool(inputs=(x,), channels=x.channels, kind=kind, keep_sides=layer.keepdims)


@lowered.register
def _(layer: Chain, x: Operation) -> Operation:
    return through(layer.layers, x)


@lowered.register
def _(layer: SqueezeExcitation, x: Operation) -> Operation:
    return Multiply(inputs=(x, through(layer.layers, x)), channels=x.channels)


@lowered.register
def _(layer: ZeroPaddedShortcut, x: Operation) -> Operation:
    new = layer.filters - x.channels
    return Subsample(inputs=(x,), channels=layer.filters, strides=layer.strides, before=new // 2, after=new - new // 2)


@lowered.register
def _(layer: ResidualBlock, x: Operation) -> Operation:
    activated = through(layer.front, x)
    y = through(layer.branch, activated)
    if layer.spec.shortcut != "none":
        bypass = through(layer.bypass, x if layer.spec.shortcut == "A" or not layer.bypass else activated)
        # A sum that no activation follows has a range of its own, so it stays apart from the convolution.
        if layer.end and isinstance(y, Convolution) and y.activation is None and len(y.inputs) == 1:
            y = dataclasses.replace(y, inputs=(*y.inputs, bypass))
        else:
            y = Add(inputs=(y, bypass), channels=y.channels)
    return through(layer.end, y)


@lowered.register
def _(layer: NormResidual, x: Operation) -> Operation:
    y = through(layer.branch, through(layer.front, x))
    if isinstance(y, Dense) and y.activation is None and len(y.inputs) == 1:
        y = dataclasses.replace(y, inputs=(*y.inputs, x))
    else:
        y = Add(inputs=(y, x), channels=y.channels)
    return through(layer.end, y)


@lowered.register
def _(layer: DenseLayer, x: Operation) -> Operation:
    new = through(layer.layers, x)
    return Concatenate(inputs=(x, new), channels=x.channels + new.channels)


def in_float32(model: keras.Model) -> keras.Model:
    """The same network and weights, every layer computing in float32. Raises `UsageError` where it cannot be copied."""
    layers = [place.operation for place in in_order(output_of(model))]
    if all(getattr(layer, "compute_dtype", "float32") == "float32" for layer in layers):
        return model

    def plain(config: Any) -> Any:
        if isinstance(config, dict):
            if config.get("class_name") == "DTypePolicy":
                return {**config, "config": {"name": "float32"}}
            return {key: plain(value) for key, value in config.items()}
        return [plain(value) for value in config] if isinstance(config, list) else config

    config = plain(keras.saving.serialize_keras_object(model))
    try:
        copy = keras.saving.deserialize_keras_object(config)
    except (ValueError, TypeError) as error:
        raise UsageError(
            f"{model.name} computes in less than float32 and has a layer that cannot be copied: {reason(error)}"
        ) from error
    copy.set_weights(model.get_weights())
    return copy

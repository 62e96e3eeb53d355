"""From a Keras model to the operations of its servable: dropout gone, norms in the convolutions, pads in what they pad.

Everything is inference. A layer without a rule here or in `merging.py` is called as it is. Within a function that is
being traced, the operations have the model's live weights, through which gradients flow; else constants.
"""

import dataclasses
from collections.abc import Sequence
from functools import singledispatch
from typing import Any

import keras
import numpy as np

from resnet_keras.errors import UsageError, reason
from resnet_keras.export.folding import (
    activated_by,
    called,
    convolved,
    of_pixels,
    per_channel,
    pooled,
    scaled,
    summed,
)
from resnet_keras.export.merging import Readers, merged, readers_of
from resnet_keras.export.operations import (
    COSTLY,
    Add,
    Attention,
    Concatenate,
    Convolution,
    Dense,
    GlobalPool,
    Held,
    LayerNorm,
    Multiply,
    Operation,
    Pad,
    Pixels,
    Pool,
    Subsample,
    TokenPool,
    Tokens,
)
from resnet_keras.export.operations import in_order as operations_in_order
from resnet_keras.export.values import kernel_of, reshaped_value, standardized, times, value_of
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
    places = in_order(end, features)
    readers = readers_of(places)
    known: dict[Place, Operation] = {}
    shared: set[Operation] = set()
    for place in places:
        if place.is_input:
            known[place] = pixels
        else:
            known[place] = _once(place, [known[one] for one in place.inputs], readers, shared)
        if len(readers[place]) + (place in (end, features)) > 1:
            shared.add(known[place])
    return known[end], known[features]


def _once(place: Place, inputs: list[Operation], readers: Readers, shared: set[Operation]) -> Operation:
    """The operation of a place. What others read too is not folded into it: that would be computed again for them."""
    found = _found(place, inputs, readers, shared)
    if found in inputs or not shared.intersection(inputs):
        return found
    needed = set(operations_in_order(found))
    folded = {x for x in shared.intersection(inputs) - needed if isinstance(x, COSTLY)}
    held = [Held(inputs=(x,), channels=x.channels) if x in folded else x for x in inputs]
    return _found(place, held, readers, shared) if folded else found


def _found(place: Place, inputs: list[Operation], readers: Readers, shared: set[Operation]) -> Operation:
    layer, channels = place.operation, int(place.tensor.shape[-1] or 0)
    found = merged(place, inputs, readers, shared)
    if found is not None:
        return found
    if len(inputs) != 1 or not has_rule(layer):
        return called(layer, tuple(inputs), channels, place)
    return lowered(layer, inputs[0])


def has_rule(layer: Any) -> bool:
    """Whether a layer has a rule of its own. Of a user's class it has none: its `call` may be another."""
    ours = type(layer).__module__.partition(".")[0] in ("keras", "resnet_keras")
    return ours and lowered.dispatch(type(layer)) is not lowered.dispatch(object)


def features_of(head: Head) -> Place:
    """What a head reads, `[N, features]`; of a convolution behind a global pool, what the pool gives."""
    return head.place if head.dense is None else head.features


@singledispatch
def lowered(layer: Any, x: Operation) -> Operation:
    """One Keras layer as an operation on its input."""
    shape = (None, None, None, x.channels)
    if not layer.built:
        layer.build(shape)
    return called(layer, (x,), layer.compute_output_shape(shape)[-1])


def through(layers: Sequence[Any], x: Operation) -> Operation:
    """Layers one after the other."""
    for layer in layers:
        x = lowered(layer, x)
    return x


@lowered.register(keras.layers.Dropout)
@lowered.register(keras.layers.Identity)
@lowered.register(keras.layers.GaussianNoise)
@lowered.register(keras.layers.GaussianDropout)
@lowered.register(keras.layers.AlphaDropout)
@lowered.register(keras.layers.ActivityRegularization)
def _(layer: Any, x: Operation) -> Operation:
    return x


@lowered.register
def _normalise(layer: Preprocessing, x: Operation) -> Operation:
    if not layer.normalise:
        return x
    mean, std = (np.broadcast_to(np.asarray(v, "float64"), x.channels) for v in (layer.card.mean, layer.card.std))
    flip, scale, shift = layer.card.channels == "BGR", 1 / (255 * std), -mean / std
    order = slice(None, None, -1 if flip else 1)
    return scaled(x, scale[order], shift[order], flip)


@lowered.register
def _(layer: keras.layers.Rescaling, x: Operation) -> Operation:
    scale, shift = (per_channel(value, x.channels) for value in (layer.scale, layer.offset))
    if scale is None or shift is None:
        return called(layer, (x,), x.channels)
    return scaled(x, scale, shift)


@lowered.register
def _(layer: keras.layers.Normalization, x: Operation) -> Operation:
    mean, variance = (per_channel(value, x.channels) for value in (layer.mean, layer.variance))
    if mean is None or variance is None:
        return called(layer, (x,), x.channels)
    deviation = np.maximum(np.sqrt(variance), keras.backend.epsilon())
    return scaled(x, deviation, mean) if layer.invert else scaled(x, 1 / deviation, -mean / deviation)


@lowered.register
def _(layer: keras.layers.ZeroPadding2D, x: Operation) -> Operation:
    if layer.data_format != "channels_last":
        return called(layer, (x,), x.channels)
    return Pad(inputs=(x,), channels=x.channels, padding=layer.padding)


@lowered.register
def _(layer: keras.layers.Conv2D, x: Operation) -> Operation:
    kernel = value_of(layer.kernel)
    if isinstance(layer, StandardizedConv2D):
        kernel = standardized(kernel)
    elif type(layer) is not keras.layers.Conv2D:
        return called(layer, (x,), layer.filters)
    bias = value_of(layer.bias) if layer.use_bias else np.zeros(layer.filters)
    convolution = convolved(layer, x, kernel, bias)
    if convolution is None:
        return called(layer, (x,), layer.filters)
    return activated_by(layer.activation, of_pixels(convolution))


@lowered.register
def _(layer: keras.layers.DepthwiseConv2D, x: Operation) -> Operation:
    channels = x.channels * layer.depth_multiplier
    bias = value_of(layer.bias) if layer.use_bias else np.zeros(channels)
    convolution = convolved(layer, x, _depthwise(layer.kernel), bias)
    return called(layer, (x,), channels) if convolution is None else activated_by(layer.activation, convolution)


@lowered.register
def _(layer: keras.layers.SeparableConv2D, x: Operation) -> Operation:
    kernel = _depthwise(layer.depthwise_kernel)
    y = convolved(layer, x, kernel, np.zeros(kernel.shape[-1]))
    if y is None:
        return called(layer, (x,), layer.filters)
    bias = value_of(layer.bias) if layer.use_bias else np.zeros(layer.filters)
    kernel = value_of(layer.pointwise_kernel)
    return activated_by(layer.activation, Convolution(inputs=(y,), channels=layer.filters, kernel=kernel, bias=bias))


def _depthwise(kernel: Any) -> Any:
    """A kernel `[height, width, channels, multiplier]` as one of as many groups as channels."""
    height, width, channels, multiplier = kernel.shape
    return reshaped_value(value_of(kernel), (height, width, 1, channels * multiplier))


@lowered.register
def _(layer: keras.layers.LayerNormalization, x: Operation) -> Operation:
    if getattr(layer, "rms_scaling", False) or layer.axis not in (-1, [-1], (-1,)):
        return called(layer, (x,), x.channels)
    scale = value_of(layer.gamma) if layer.scale else np.ones(x.channels)
    shift = value_of(layer.beta) if layer.center else np.zeros(x.channels)
    return LayerNorm(inputs=(x,), channels=x.channels, scale=scale, shift=shift, epsilon=layer.epsilon)


@lowered.register
def _(layer: LayerScale, x: Operation) -> Operation:
    gamma = value_of(layer.gamma)
    return scaled(x, gamma, np.zeros(x.channels))


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
        x, scale = dataclasses.replace(x, kernel=times(x.kernel, factors), bias=x.bias * factors), 1.0
    return Attention(inputs=(x,), channels=channels, heads=layer.heads, scale=scale)


@lowered.register
def _(layer: TokenPooling, x: Operation) -> Operation:
    return TokenPool(inputs=(x,), channels=x.channels, kind=layer.kind, start=int(layer.has_class_token))


@lowered.register
def _(layer: keras.layers.BatchNormalization, x: Operation) -> Operation:
    if layer.axis not in (-1, layer.input_spec.ndim - 1):
        return called(layer, (x,), x.channels)
    mean, variance = value_of(layer.moving_mean), value_of(layer.moving_variance)
    scale = (variance + layer.epsilon) ** -0.5
    scale = scale * value_of(layer.gamma) if layer.scale else scale
    shift = (value_of(layer.beta) if layer.center else 0.0) - mean * scale
    return scaled(x, scale, shift)


@lowered.register
def _(layer: keras.layers.Activation, x: Operation) -> Operation:
    return activated_by(layer.activation, x)


@lowered.register
def _(layer: keras.layers.ReLU, x: Operation) -> Operation:
    known = {None: keras.activations.relu, 6.0: keras.activations.relu6}
    if layer.negative_slope or layer.threshold or layer.max_value not in known:
        return called(layer, (x,), x.channels)
    return activated_by(known[layer.max_value], x)


@lowered.register
def _(layer: keras.layers.Softmax, x: Operation) -> Operation:
    return activated_by(keras.activations.softmax, x) if layer.axis == -1 else called(layer, (x,), x.channels)


@lowered.register
def _(layer: keras.layers.Dense, x: Operation) -> Operation:
    kernel = kernel_of(layer.kernel)
    bias = value_of(layer.bias) if layer.use_bias else np.zeros(layer.units)
    return activated_by(layer.activation, Dense(inputs=(x,), channels=layer.units, kernel=kernel, bias=bias))


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
        return called(layer, (x,), x.channels)
    kind, same = "max" if isinstance(layer, keras.layers.MaxPooling2D) else "mean", layer.padding == "same"
    return pooled(kind, size, stride, same, x)


@lowered.register(keras.layers.GlobalAveragePooling2D)
@lowered.register(keras.layers.GlobalMaxPooling2D)
def _(layer: Any, x: Operation) -> Operation:
    kind = "max" if isinstance(layer, keras.layers.GlobalMaxPooling2D) else "mean"
    if layer.data_format != "channels_last":
        return called(layer, (x,), x.channels)
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
        y = summed(y, bypass) if layer.end else Add(inputs=(y, bypass), channels=y.channels)
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

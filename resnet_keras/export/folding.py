"""What folds into the operation before it: scales, activations, padding, sums.

Each makes one operation of two. Whoever calls these knows that nothing else reads the first.
"""

import dataclasses
from typing import Any

import keras
import numpy as np

from resnet_keras.export.operations import (
    NO_PADDING,
    Activation,
    Add,
    Call,
    Convolution,
    Dense,
    GlobalPool,
    Operation,
    Pad,
    Pixels,
    Pool,
    Reshape,
    Scale,
)
from resnet_keras.export.values import as_it_is, times
from resnet_keras.models.graph import Place

Fields = dict[str, Any]


def called(layer: Any, inputs: tuple[Operation, ...], channels: int, place: Place | None = None) -> Call:
    """A layer as it is."""
    weights = tuple(as_it_is(variable) for variable in getattr(layer, "variables", ()))
    return Call(inputs=inputs, channels=channels, layer=layer, weights=weights, place=place)


def scaled(x: Operation, scale: Any, shift: Any, flip: bool = False) -> Operation:
    """`x * scale + shift`, of `[C]` each, the channels in reverse before it where `flip`."""
    linear = getattr(x, "activation", None) is None and len(x.inputs) == 1
    if isinstance(x, Convolution | Dense) and linear and not flip:
        return dataclasses.replace(x, kernel=times(x.kernel, scale), bias=x.bias * scale + shift)
    if isinstance(x, Scale) and linear:
        inner, before = (x.scale[::-1], x.shift[::-1]) if flip else (x.scale, x.shift)
        return dataclasses.replace(x, scale=scale * inner, shift=scale * before + shift, flip=x.flip != flip)
    return Scale(inputs=(x,), channels=x.channels, scale=scale, shift=shift, flip=flip)


def activated_by(function: Any, x: Operation) -> Operation:
    """A function of Keras's on `x`."""
    name = keras.activations.serialize(function)
    if name == "linear":
        return x
    if not isinstance(name, str):
        return called(keras.layers.Activation(function), (x,), x.channels)
    if isinstance(x, Convolution | Scale | Add | Dense) and x.activation is None:
        return dataclasses.replace(x, activation=name)
    return Activation(inputs=(x,), channels=x.channels, activation=name)


def summed(x: Operation, y: Operation, followed: bool = True) -> Operation:
    """`x + y`: in the dense layer `x`, or in the convolution where an activation follows.

    A sum that none follows has a range of its own in int8, so it stays apart from the convolution.
    """
    if isinstance(x, Convolution | Dense if followed else Dense) and x.activation is None and len(x.inputs) == 1:
        return dataclasses.replace(x, inputs=(*x.inputs, y))
    return Add(inputs=(x, y), channels=x.channels)


def convolved(layer: Any, x: Operation, kernel: Any, bias: Any) -> Convolution | None:
    """A convolution with a layer's strides, dilation and padding; None where `Convolution` has no such options.

    Args:
        layer: of Keras, in two dimensions.
        x: what it reads.
        kernel: `[height, width, channels in of a group, channels out]`.
        bias: `[channels out]`.
    """
    (stride, *strides), (step, *steps) = layer.strides, layer.dilation_rate
    if strides != [stride] or steps != [step] or layer.data_format != "channels_last":
        return None
    padding, same = NO_PADDING, False
    sides = tuple(layer.kernel_size)
    if layer.padding == "same":
        same = stride > 1 or not sides[0] % 2 == sides[1] % 2 == 1  # uneven, by the size of the map
        if not same:
            height, width = (((side // 2) * step,) * 2 for side in sides)
            padding = (height, width)
    elif isinstance(x, Pad):
        padding, x = x.padding, x.inputs[0]
    return Convolution(
        inputs=(x,),
        channels=int(bias.shape[0]),
        kernel=kernel,
        bias=bias,
        strides=stride,
        dilation=step,
        padding=padding,
        same=same,
    )


def of_pixels(convolution: Convolution) -> Convolution:
    """The same convolution of raw pixels, where it reads normalised ones."""
    (x,) = convolution.inputs
    if not isinstance(x, Scale) or not isinstance(x.inputs[0], Pixels) or x.activation is not None:
        return convolution
    if convolution.groups > 1 or not np.all(x.scale):
        return convolution
    # Padding stands for a normalised zero, which is the mean among pixels.
    centre, kernel = -x.shift / x.scale, convolution.kernel * x.scale[:, None]
    if x.flip:
        centre, kernel = centre[::-1], kernel[:, :, ::-1]
    return dataclasses.replace(convolution, inputs=x.inputs, kernel=kernel, centre=centre)


def pooled(kind: str, size: int, strides: int, same: bool, x: Operation) -> Pool:
    """A pool, with the zeros around what it reads: only the largest of a window has them in int8."""
    fields: Fields = {"kind": kind, "size": size, "strides": strides, "channels": x.channels}
    if isinstance(x, Pad) and kind == "max" and not same:
        return Pool(inputs=x.inputs, padding=x.padding, edge=0.0, **fields)
    return Pool(inputs=(x,), same=same, **fields)


def reshaped(x: Operation, shape: tuple[int, ...]) -> Operation:
    """`x` in another shape, `[N, *shape]`."""
    if isinstance(x, GlobalPool) and shape in ((x.channels,), (1, 1, x.channels)):
        return dataclasses.replace(x, keep_sides=len(shape) == 3)
    return Reshape(inputs=(x,), channels=shape[-1], shape=shape)


def per_channel(value: Any, channels: int) -> np.ndarray | None:
    """A constant as `[channels]`, float64; None if it has more than a number a channel."""
    value = np.asarray(value, "float64")
    fits = value.size == 1 or (value.size == channels and value.shape[-1] == channels)
    return np.broadcast_to(value.reshape(-1), channels) if fits else None

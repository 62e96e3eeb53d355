"""The operations of a servable as plain TensorFlow operations in float32 or bfloat16.

Convolution, bias, sum and activation follow one another in the order that TensorFlow makes one oneDNN operation of.
"""

from collections.abc import Iterable
from functools import singledispatch
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from resnet_keras.export.operations import (
    NO_PADDING,
    Activation,
    Add,
    Call,
    Concatenate,
    Convolution,
    Dense,
    GlobalPool,
    Multiply,
    Operation,
    Pad,
    Pixels,
    Pool,
    Scale,
    Sides,
    Subsample,
    in_order,
)
from resnet_keras.models.graph import called, inference


def emit_float(ends: Iterable[Operation], pixels: tf.Tensor, dtype: tf.DType) -> dict[Operation, tf.Tensor]:
    """Every operation that the ends need, as a tensor of `dtype`, in the default graph.

    Args:
        ends: what is wanted.
        pixels: `[N, H, W, C]`, raw, H and W known.
        dtype: float32 or bfloat16.
    """
    values: dict[Operation, tf.Tensor] = {}
    for operation in in_order(*ends):
        inputs = [pixels] if isinstance(operation, Pixels) else [values[x] for x in operation.inputs]
        values[operation] = emitted(operation, dtype, *inputs)
    return values


@singledispatch
def emitted(operation: Any, dtype: tf.DType, *inputs: tf.Tensor) -> tf.Tensor:
    """One operation of tensors of `dtype`."""
    raise TypeError(f"no way to write {type(operation).__name__}")


@emitted.register
def _(operation: Pixels, dtype: tf.DType, pixels: tf.Tensor) -> tf.Tensor:
    return tf.cast(pixels, dtype)


@emitted.register
def _(operation: Scale, dtype: tf.DType, x: tf.Tensor) -> tf.Tensor:
    if operation.flip:
        x = tf.reverse(x, [-1])
    if x.shape.rank != 4:
        y = x * tf.constant(operation.scale, dtype) + tf.constant(operation.shift, dtype)
        return activated(y, operation.activation)
    # One pass over the map, where a product and a sum would be two.
    one, zero = np.ones(operation.channels, "float32"), np.zeros(operation.channels, "float32")
    scale, shift = operation.scale.astype("float32"), operation.shift.astype("float32")
    y, *_ = tf.raw_ops.FusedBatchNormV3(
        x=x, scale=scale, offset=shift, mean=zero, variance=one, epsilon=0.0, is_training=False
    )
    return activated(y, operation.activation)


@emitted.register
def _(operation: Convolution, dtype: tf.DType, x: tf.Tensor, summand: tf.Tensor | None = None) -> tf.Tensor:
    kernel = operation.kernel.astype(dtype.as_numpy_dtype)
    x, padding = padded(operation, x)
    y = tf.nn.conv2d(x, kernel, operation.strides, padding, dilations=operation.dilation)
    bias = tf.constant(operation.whole_bias(kernel), dtype)
    # TensorFlow fuses BiasAdd with any convolution, but only oneDNN, which fuses AddV2 too, can fuse one with groups.
    y = tf.nn.bias_add(y, bias) if operation.groups == 1 else y + bias
    return activated(y if summand is None else y + summand, operation.activation)


def padded(operation: Convolution, x: tf.Tensor) -> tuple[tf.Tensor, Any]:
    """The input of a convolution, and the padding that TensorFlow has to do itself."""
    if operation.padding == NO_PADDING:
        return x, "VALID"
    sides = operation.kernel.shape[:2]
    reach = tuple((operation.dilation * (side // 2),) * 2 for side in sides)
    if operation.centre is not None:
        return with_border(x, operation.padding, operation.centre), "VALID"
    if operation.strides == 1 and operation.padding == reach and all(side % 2 for side in sides):
        return x, "SAME"
    return x, [[0, 0], *map(list, operation.padding), [0, 0]]


def with_border(x: tf.Tensor, padding: Sides, colour: np.ndarray) -> tf.Tensor:
    """Pixels `[N, H, W, C]` with a border of one colour, rounded to whole numbers where pixels are."""
    height, width = sides_of(x)
    border = np.pad(np.zeros((1, height, width, 1)), ((0, 0), *padding, (0, 0)), constant_values=1) * colour
    border = np.round(border).clip(0, 255) if x.dtype.is_integer else border
    return tf.pad(x, ((0, 0), *padding, (0, 0))) + tf.constant(border.astype(x.dtype.as_numpy_dtype))


def sides_of(x: Any) -> tuple[int, int]:
    """Height and width of `[N, H, W, C]`, which are known."""
    return int(x.shape[1]), int(x.shape[2])


@emitted.register
def _(operation: Dense, dtype: tf.DType, x: tf.Tensor) -> tf.Tensor:
    if x.shape.rank == 2 and operation.activation in ("softmax", "sigmoid"):
        dtype, x = tf.float32, tf.cast(x, tf.float32)  # as the model's own head: near classes differ in the last bits
    kernel = tf.constant(operation.kernel, dtype)
    y = tf.matmul(x, kernel) if x.shape.rank == 2 else tf.tensordot(x, kernel, 1)
    return activated(tf.nn.bias_add(y, tf.constant(operation.bias, dtype)), operation.activation)


@emitted.register
def _(operation: Activation, dtype: tf.DType, x: tf.Tensor) -> tf.Tensor:
    return activated(x, operation.activation)


def activated(x: tf.Tensor, name: str | None) -> tf.Tensor:
    """Keras's activation of a name."""
    if name in ("softmax", "sigmoid"):
        x = tf.cast(x, tf.float32)  # what comes of large numbers by exponents wants its bits
    return x if name is None else keras.activations.get(name)(x)


@emitted.register
def _(operation: Pad, dtype: tf.DType, x: tf.Tensor) -> tf.Tensor:
    return tf.pad(x, ((0, 0), *operation.padding, (0, 0)))


@emitted.register
def _(operation: Pool, dtype: tf.DType, x: tf.Tensor) -> tf.Tensor:
    pool = tf.nn.max_pool2d if operation.kind == "max" else tf.nn.avg_pool2d
    if operation.padding != NO_PADDING:
        # The pool's own explicit padding falls off oneDNN. Next to numbers of zero and above, zero is as good as less.
        zero = operation.inputs[0].non_negative and operation.edge == float("-inf")
        edge = 0.0 if zero else max(operation.edge, x.dtype.min)
        x = tf.pad(x, ((0, 0), *operation.padding, (0, 0)), constant_values=tf.cast(edge, x.dtype))
    return pool(x, operation.size, operation.strides, "SAME" if operation.same else "VALID")


@emitted.register
def _(operation: GlobalPool, dtype: tf.DType, x: tf.Tensor) -> tf.Tensor:
    reduce = tf.reduce_max if operation.kind == "max" else tf.reduce_mean
    return reduce(x, (1, 2), keepdims=operation.keep_sides)


@emitted.register
def _(operation: Subsample, dtype: tf.DType, x: tf.Tensor) -> tf.Tensor:
    return subsampled(operation, x)


def subsampled(operation: Subsample, x: tf.Tensor) -> tf.Tensor:
    """Of a map of any type of number."""
    if operation.strides > 1:
        x = x[:, :: operation.strides, :: operation.strides]
    return tf.pad(x, ((0, 0), (0, 0), (0, 0), (operation.before, operation.after)))


@emitted.register
def _(operation: Add, dtype: tf.DType, x: tf.Tensor, y: tf.Tensor) -> tf.Tensor:
    return activated(x + y, operation.activation)


@emitted.register
def _(operation: Multiply, dtype: tf.DType, x: tf.Tensor, y: tf.Tensor) -> tf.Tensor:
    return x * tf.cast(y, x.dtype)


@emitted.register
def _(operation: Concatenate, dtype: tf.DType, *inputs: tf.Tensor) -> tf.Tensor:
    return tf.concat(inputs, -1)


@emitted.register
def _(operation: Call, dtype: tf.DType, *inputs: tf.Tensor) -> tf.Tensor:
    # In this graph the layer's variables have no values; constants stand in for them.
    layer, place = operation.layer, operation.place
    variables = getattr(layer, "variables", ())
    weights = list(zip(variables, map(tf.constant, operation.weights), strict=True))
    whole = [tf.cast(x, tf.float32) for x in inputs]
    with keras.StatelessScope(weights):
        if place is None:
            y = layer(*whole, **inference(layer))
        else:
            given = dict(zip(map(id, place.node.input_tensors), whole, strict=True))
            outputs = keras.tree.flatten(called(layer, place.node, given))
            y = outputs[place.tensor._keras_history.tensor_index]
    return tf.cast(y, dtype)

"""The operations of a servable as plain TensorFlow operations in float32 or bfloat16.

Convolution, bias, sum and activation follow one another in the order that TensorFlow makes one oneDNN operation of.
"""

import math
from collections.abc import Callable, Iterable
from functools import singledispatch
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from resnet_keras.export.operations import (
    NO_PADDING,
    Activation,
    Add,
    Attention,
    Call,
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
    Reshape,
    Scale,
    Sides,
    Subsample,
    TokenPool,
    Tokens,
    in_order,
)
from resnet_keras.export.values import as_tensor, reshaped_value, whole_bias
from resnet_keras.models.graph import called, inference
from resnet_keras.models.tokens import resampling

Write = Callable[..., tf.Tensor]
"""Writes one operation into the default graph, of its dtype and inputs."""


def emit_float(
    ends: Iterable[Operation], pixels: tf.Tensor, dtype: tf.DType, write: Write | None = None
) -> dict[Operation, tf.Tensor]:
    """Every operation that the ends need, as a tensor of `dtype`, in the default graph.

    Args:
        ends: what is wanted.
        pixels: `[N, H, W, C]`, raw, H and W known.
        dtype: float32 or bfloat16.
        write: another than `emitted`.
    """
    write = write or emitted
    values: dict[Operation, tf.Tensor] = {}
    for operation in in_order(*ends):
        # Softmax and sigmoid are in float32.
        inputs = [pixels] if isinstance(operation, Pixels) else [tf.cast(values[x], dtype) for x in operation.inputs]
        values[operation] = write(operation, dtype, *inputs)
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
        y = x * as_tensor(operation.scale, dtype) + as_tensor(operation.shift, dtype)
        return activated(y, operation.activation)
    # A depthwise convolution of one pixel is one pass over the map, activation and all; batch norm takes longer.
    scale = tf.reshape(as_tensor(operation.scale, dtype), (1, 1, operation.channels, 1))
    y = tf.nn.bias_add(tf.nn.depthwise_conv2d(x, scale, (1, 1, 1, 1), "VALID"), as_tensor(operation.shift, dtype))
    return activated(y, operation.activation)


@emitted.register
def _(operation: Convolution, dtype: tf.DType, x: tf.Tensor, summand: tf.Tensor | None = None) -> tf.Tensor:
    kernel: Any = operation.kernel
    kernel = tf.cast(kernel, dtype) if tf.is_tensor(kernel) else kernel.astype(dtype.as_numpy_dtype)
    x, padding = padded(operation, x)
    if operation.kernel.shape[2] == 1 < operation.groups and operation.dilation == 1:
        return activated(_depthwise(operation, dtype, kernel, x, padding, summand), operation.activation)
    y = tf.nn.conv2d(x, kernel, operation.strides, padding, dilations=operation.dilation)
    bias = as_tensor(whole_bias(operation, kernel), dtype)
    # TensorFlow fuses BiasAdd with any convolution, but only oneDNN, which fuses AddV2 too, can fuse one with groups.
    y = tf.nn.bias_add(y, bias) if operation.groups == 1 else y + bias
    return activated(y if summand is None else y + summand, operation.activation)


def _depthwise(
    operation: Convolution, dtype: tf.DType, kernel: Any, x: tf.Tensor, padding: Any, summand: tf.Tensor | None
) -> tf.Tensor:
    if not isinstance(padding, str):  # explicit padding ends the process where a bias is fused (TensorFlow 2.21)
        x, padding = tf.pad(x, padding), "VALID"
    strides = [1, operation.strides, operation.strides, 1]
    (height, width, _, channels), groups = kernel.shape, operation.groups
    kernel = reshaped_value(kernel, (height, width, groups, channels // groups))
    y = tf.nn.depthwise_conv2d(x, kernel, strides, padding)
    y = tf.nn.bias_add(y, as_tensor(whole_bias(operation, operation.kernel), dtype))
    return y if summand is None else y + summand


def padded(operation: Convolution, x: tf.Tensor) -> tuple[tf.Tensor, Any]:
    """The input of a convolution, and the padding that TensorFlow has to do itself."""
    sides = operation.sides(*sides_of(x))
    if sides == NO_PADDING:
        return x, "VALID"
    if operation.centre is not None:
        return with_border(x, sides, operation.centre), "VALID"
    if sides == operation.same_sides(*sides_of(x)):
        return x, "SAME"
    return x, [[0, 0], *map(list, sides), [0, 0]]


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
def _(operation: Dense, dtype: tf.DType, x: tf.Tensor, summand: tf.Tensor | None = None) -> tf.Tensor:
    if x.shape.rank == 2 and operation.activation in ("softmax", "sigmoid"):
        dtype, x = tf.float32, tf.cast(x, tf.float32)  # as the model's own head: near classes differ in the last bits
    y = tf.nn.bias_add(tf.matmul(rows_of(x), as_tensor(operation.kernel, dtype)), as_tensor(operation.bias, dtype))
    if summand is not None:
        # TensorFlow fuses AddV2 only where it can prove equal shapes, which it cannot of rows of unknown number.
        y = tf.add_n([y, rows_of(summand)])
    return in_places(activated(y, operation.activation), x)


def rows_of(x: tf.Tensor) -> tf.Tensor:
    """`[N, ..., C]` as `[N * ..., C]`: only products of two axes are fused with what follows them."""
    return x if x.shape.rank == 2 else tf.reshape(x, (-1, x.shape[-1]))


def in_places(rows: tf.Tensor, x: tf.Tensor) -> tf.Tensor:
    """Rows `[N * ..., C]` in the places that those of `x` have, of which only N is unknown."""
    return rows if x.shape.rank == 2 else tf.reshape(rows, (-1, *x.shape[1:-1], rows.shape[-1]))


@emitted.register
def _(operation: LayerNorm, dtype: tf.DType, x: tf.Tensor) -> tf.Tensor:
    # Each row is a channel of a batch norm in training, behind which are scale and shift: TensorFlow has one oneDNN
    # operation for just these, as Keras 2 wrote them, and without oneDNN they compute the same.
    rows = rows_of(x)
    shape = tf.shape(rows)
    none, ones = tf.constant([], tf.float32), tf.fill(shape[:1], 1.0)
    y, *_ = tf.raw_ops.FusedBatchNormV3(
        x=tf.reshape(rows, (1, shape[0], operation.channels, 1)),
        scale=ones,
        offset=tf.fill(shape[:1], 0.0),
        mean=none,
        variance=none,
        epsilon=operation.epsilon,
        data_format="NCHW",
        is_training=True,
    )
    scale, shift = as_tensor(operation.scale, dtype), as_tensor(operation.shift, dtype)
    return in_places(tf.reshape(y, shape) * scale + shift, x)


@emitted.register
def _(operation: Tokens, dtype: tf.DType, x: tf.Tensor) -> tf.Tensor:
    height, width = sides_of(x)
    positions, channels, side = operation.positions, operation.channels, len(operation.positions)
    tokens = tf.reshape(x, (-1, height * width, channels))
    if operation.first is not None:
        images = tf.shape(x)[0]
        tokens = tf.concat([tf.zeros((images, 1, channels), dtype), tokens], 1)
    if (height, width) == (side, side):
        grid = tf.constant(positions.reshape(-1, channels), dtype)
    else:
        taps = (resampling(length, side, "float32") for length in (height, width))
        grid = tf.einsum("ig,jh,ghc->ijc", *taps, tf.constant(positions, tf.float32))
        grid = tf.cast(tf.reshape(grid, (-1, channels)), dtype)
    if operation.first is not None:
        grid = tf.concat([tf.constant(operation.first[None], dtype), grid], 0)
    return tokens + grid


@emitted.register
def _(operation: Attention, dtype: tf.DType, x: tf.Tensor) -> tf.Tensor:
    tokens, channels, heads = x.shape[1], operation.channels, operation.heads
    apart = tf.reshape(x, (-1, tokens, 3, heads, channels // heads))
    queries, keys, values = tf.unstack(tf.transpose(apart, (2, 0, 3, 1, 4)))  # each [N, heads, T, C / heads]
    if operation.scale != 1.0:
        queries = queries * tf.constant(operation.scale, dtype)
    weights = activated(tf.matmul(queries, keys, transpose_b=True), "softmax")
    y = tf.matmul(tf.cast(weights, dtype), values)
    return tf.reshape(tf.transpose(y, (0, 2, 1, 3)), (-1, tokens, channels))


@emitted.register
def _(operation: TokenPool, dtype: tf.DType, x: tf.Tensor) -> tf.Tensor:
    if operation.kind == "token":
        return x[:, 0]
    reduce = tf.reduce_max if operation.kind == "max" else tf.reduce_mean
    return reduce(x[:, operation.start :], 1)


@emitted.register
def _(operation: Activation, dtype: tf.DType, x: tf.Tensor) -> tf.Tensor:
    return activated(x, operation.activation)


def activated(x: tf.Tensor, name: str | None) -> tf.Tensor:
    """Keras's activation of a name."""
    if name in ("softmax", "sigmoid"):
        x = tf.cast(x, tf.float32)  # what comes of large numbers by exponents wants its bits
    if name == "silu":  # as TensorFlow knows it behind a convolution
        return x * tf.sigmoid(x)
    if name == "gelu":  # in the words in which TensorFlow knows it behind a product
        half, root, one = (tf.constant(value, x.dtype) for value in (0.5, math.sqrt(0.5), 1.0))
        return (tf.math.erf(x * root) + one) * half * x
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
    return x * y


@emitted.register
def _(operation: Concatenate, dtype: tf.DType, *inputs: tf.Tensor) -> tf.Tensor:
    return tf.concat(inputs, -1)


@emitted.register
def _(operation: Reshape, dtype: tf.DType, x: tf.Tensor) -> tf.Tensor:
    return tf.reshape(x, (-1, *operation.shape))


@emitted.register
def _(operation: Held, dtype: tf.DType, x: tf.Tensor) -> tf.Tensor:
    return x


@emitted.register
def _(operation: Call, dtype: tf.DType, *inputs: tf.Tensor) -> tf.Tensor:
    layer, place = operation.layer, operation.place
    variables = getattr(layer, "variables", ())

    def call(*whole: tf.Tensor) -> tf.Tensor:
        # In a graph the layer's variables have no values; constants stand in for them.
        weights = list(zip(variables, map(tf.convert_to_tensor, operation.weights), strict=True))
        with keras.StatelessScope(weights):
            if place is None:
                return layer(*whole, **inference(layer))
            given = dict(zip(map(id, place.node.input_tensors), whole, strict=True))
            outputs = keras.tree.flatten(called(layer, place.node, given))
        return outputs[place.tensor._keras_history.tensor_index]

    return tf.cast(_written(call, [tf.cast(x, tf.float32) for x in inputs]), dtype)


def _written(call: Callable[..., tf.Tensor], inputs: list[tf.Tensor]) -> tf.Tensor:
    """What a function gives, in the default graph. Tensors that it holds, as `Normalization` does, become constants."""
    if tf.compat.v1.get_default_graph().building_function:
        return call(*inputs)
    with tf.init_scope():
        specs = [tf.TensorSpec(x.shape, x.dtype) for x in inputs]
        traced = tf.function(call, autograph=False).get_concrete_function(*specs)
    given = dict(zip((x.name for x in traced.inputs), inputs, strict=False))
    given |= {inner.name: tf.constant(outer.numpy()) for outer, inner in traced.graph.captures}
    (y,) = tf.import_graph_def(
        traced.graph.as_graph_def(), given, return_elements=[traced.outputs[0].name], name="called"
    )
    y.set_shape(traced.outputs[0].shape)
    return y

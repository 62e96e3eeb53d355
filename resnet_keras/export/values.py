"""The weights of a lowered model: constants of an export, or live tensors of a function that is being traced.

Folding is plain arithmetic, the same for both, in float64; a dense layer's kernel is kept as it was, for memory.
"""

from typing import Any

import numpy as np
import tensorflow as tf

from resnet_keras.export.operations import Convolution


def value_of(variable: Any) -> Any:
    """A variable in float64: an array, or where a function is traced a tensor that has its gradient."""
    if tf.executing_eagerly():
        return np.asarray(variable, "float64")
    return tf.cast(tf.convert_to_tensor(variable), tf.float64)


def kernel_of(variable: Any) -> Any:
    """A kernel of many numbers: an array of its own type of number, half as large as in float64; else as `value_of`."""
    return as_it_is(variable) if tf.executing_eagerly() else value_of(variable)


def as_it_is(variable: Any) -> Any:
    """A variable in its own type of number: an array, or where a function is traced a tensor."""
    return np.asarray(variable) if tf.executing_eagerly() else tf.convert_to_tensor(variable)


def as_tensor(value: Any, dtype: tf.DType) -> tf.Tensor:
    """A weight in the default graph."""
    return tf.cast(value, dtype) if tf.is_tensor(value) else tf.constant(value, dtype)


def times(kernel: Any, factors: Any) -> Any:
    """A kernel with factors folded in, of the type of number that it has."""
    return kernel * factors if tf.is_tensor(kernel) else (kernel * factors).astype(kernel.dtype, copy=False)


def standardized(kernel: Any) -> Any:
    """A kernel `[h, w, in, out]` of mean 0 and variance 1 in each output channel."""
    if tf.is_tensor(kernel):
        mean, variance = tf.nn.moments(kernel, (0, 1, 2))
    else:
        mean, variance = kernel.mean((0, 1, 2)), kernel.var((0, 1, 2))
    return (kernel - mean) * (variance + 1e-8) ** -0.5


def transposed(x: Any, axes: tuple[int, ...]) -> Any:
    """The axes of a weight in another order."""
    return tf.transpose(x, axes) if tf.is_tensor(x) else x.transpose(axes)


def reshaped_value(x: Any, shape: tuple[int, ...]) -> Any:
    """A weight in another shape."""
    return tf.reshape(x, shape) if tf.is_tensor(x) else x.reshape(shape)


def whole_bias(operation: Convolution, kernel: Any) -> Any:
    """`Convolution.whole_bias`, of constants or of live tensors."""
    if not tf.is_tensor(kernel):
        return operation.whole_bias(kernel)
    if operation.centre is None:
        return operation.bias
    return operation.bias - tf.einsum("hwio,i->o", tf.cast(kernel, tf.float64), tf.constant(operation.centre))

"""The operations of an int8 servable in float32, with gradients: what training in int8 computes.

Every number that int8 has is here a float of the same value, a level. A convolution of levels is exact in float32 up to
2^24, and in TensorFloat-32 and bfloat16 too, whose 8 bits hold 255. Rounding has the gradient of the identity
(straight-through, Bengio et al. 2013); a value outside its range is cut off and has none (Jacob et al. 2018).
"""

import dataclasses
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from resnet_keras.export.floating import activated, emitted, padded, sides_of, subsampled, with_border
from resnet_keras.export.operations import Convolution, LayerNorm, Operation, Pool, Scale, Subsample
from resnet_keras.export.quantized import LEVELS, SIGNED_LEVELS, SMALLEST_RANGE, Int8Graph, Quantized
from resnet_keras.export.values import as_tensor, whole_bias


class FakeInt8Graph(Int8Graph):
    """`Int8Graph` in float32; its `Quantized` tensors are float32 levels, 0 to 255.

    In any graph, of constants or of live weights. Pixels are of any type, and are rounded to whole numbers.
    """

    def _guarded(self, pixels: tf.Tensor) -> tf.Tensor:
        return pixels

    def _levels_of_pixels(self) -> tf.Tensor:
        return tf.round(tf.clip_by_value(tf.cast(self.pixels, tf.float32), 0.0, LEVELS))

    def _levels_of(self, x: tf.Tensor, top: float) -> tf.Tensor:
        return levels_of(x, top)

    def _dequantized(self, x: Quantized) -> tf.Tensor:
        return x.tensor * (np.float32(x.range) / np.float32(LEVELS))

    def _convolved(
        self, operation: Convolution, x: Quantized, top: float, summand: Quantized | None, lift: float
    ) -> tf.Tensor:
        kernel, limits = fake_quantized_kernel(operation.kernel, self.kernel_levels)
        bias = tf.cast(whole_bias(operation, kernel * (limits / SIGNED_LEVELS)), tf.float32) + lift
        if operation.centre is not None:  # the border of pixels is whole numbers
            operation = dataclasses.replace(operation, centre=np.round(operation.centre).clip(0, LEVELS))
        tensor, padding = padded(operation, x.tensor)
        y = tf.nn.conv2d(tensor, kernel, operation.strides, padding, dilations=operation.dilation)
        y = y * (limits * (x.range / LEVELS / SIGNED_LEVELS)) + bias
        return levels_of(y if summand is None else y + self._dequantized(summand), top)

    def _max_pooled(self, operation: Pool, x: Quantized) -> tf.Tensor:
        levels = tf.pad(x.tensor, ((0, 0), *operation.padding, (0, 0)))
        return tf.nn.max_pool2d(levels, operation.size, operation.strides, "VALID")

    def _subsampled(self, operation: Subsample, levels: tf.Tensor) -> tf.Tensor:
        return subsampled(operation, levels)

    def _written(self, operation: Operation, *inputs: tf.Tensor) -> tf.Tensor:
        # In arithmetic that has gradients everywhere, where the export takes what TensorFlow replaces by oneDNN's.
        if isinstance(operation, Convolution) and 1 < operation.groups < operation.channels:
            return _convolved_in_groups(operation, *inputs)
        if not isinstance(operation, Scale | LayerNorm):
            return emitted(operation, tf.float32, *inputs)
        (x,) = inputs
        if isinstance(operation, LayerNorm):
            mean, variance = tf.nn.moments(x, -1, keepdims=True)
            x = (x - mean) * tf.math.rsqrt(variance + operation.epsilon)
        elif operation.flip:
            x = tf.reverse(x, [-1])
        y = x * as_tensor(operation.scale, tf.float32) + as_tensor(operation.shift, tf.float32)
        return activated(y, getattr(operation, "activation", None))


def _convolved_in_groups(operation: Convolution, x: tf.Tensor, summand: tf.Tensor | None = None) -> tf.Tensor:
    """By Keras, which knows where TensorFlow has gradients of it: on CPU by XLA alone."""
    kernel, sides = as_tensor(operation.kernel, tf.float32), operation.sides(*sides_of(x))
    centre = np.zeros(1) if operation.centre is None else operation.centre
    x = with_border(x, sides, centre)
    y: Any = keras.ops.conv(x, kernel, operation.strides, "valid", dilation_rate=operation.dilation)
    y = y + as_tensor(whole_bias(operation, kernel), tf.float32)
    return activated(y if summand is None else y + summand, operation.activation)


def levels_of(x: tf.Tensor, top: float) -> tf.Tensor:
    """Values as levels of a range, float32 whole numbers from 0 to 255, as `QuantizeV2` makes them.

    Args:
        x: float32, of any shape.
        top: what 255 stands for.
    """
    scale = np.float32(LEVELS) / np.float32(top)  # as TensorFlow's own: another last bit is another level at a half
    return rounded(tf.minimum(tf.nn.relu(x * scale), LEVELS))


def rounded(x: tf.Tensor) -> tf.Tensor:
    """The nearest whole numbers, halves to even ones, with the gradient of the identity."""
    return x + tf.stop_gradient(tf.round(x) - x)


def fake_quantized_kernel(kernel: Any, most: int = SIGNED_LEVELS) -> tuple[tf.Tensor, tf.Tensor]:
    """`quantized_kernel` in float32: levels from -most to most, and the value of 127 in each output channel.

    Levels times values have the gradient that the kernel has: ranges are as given in the backward pass.

    Args:
        kernel: `[h, w, in, out]`, float64.
        most: the largest level, as in `Int8Graph`.
    """
    kernel = tf.convert_to_tensor(kernel)
    largest = tf.stop_gradient(tf.maximum(tf.reduce_max(tf.abs(kernel), (0, 1, 2)), SMALLEST_RANGE))
    largest = tf.cast(largest, tf.float32)  # before the division, as there
    levels = rounded(kernel / tf.cast(largest, kernel.dtype) * most)
    levels = tf.clip_by_value(levels, -most, most)
    return tf.cast(levels, tf.float32), largest * np.float32(SIGNED_LEVELS / most)

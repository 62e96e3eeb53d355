"""The operations of a servable in int8: convolutions by oneDNN's fused quantised operation, the rest in float32.

Numbers of zero and above are quint8 with one range a map; kernels are qint8 with one range an output channel; sums stay
in 32 bits inside a convolution. `_FusedQuantizedConv2D` is TensorFlow's own and in its stock CPU build, but internal:
`kernel_levels` tests whether this TensorFlow has it and this processor computes it rightly.
"""

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow.core.framework import attr_value_pb2, tensor_pb2

from resnet_keras.export.floating import emit_float, emitted, padded, sides_of, subsampled
from resnet_keras.export.operations import (
    NO_PADDING,
    Convolution,
    Dense,
    Operation,
    Pixels,
    Pool,
    Subsample,
    in_order,
)

LEVELS, SIGNED_LEVELS = 255, 127
REDUCED_LEVELS = 64
"""The largest level of a kernel where a processor adds two products in 16 bits, of which 2 x 255 x 64 is short.

Those before AVX-512 VNNI and AVX-VNNI: AMD's to Zen 3, Intel's to Skylake. Beyond it sums stop at 32767, in silence.
"""
WRONG_SUMS = "this processor adds int8 products in 16 bits (it has no VNNI); export the model with --reduce-range"
SMALLEST_RANGE = 1e-6


@dataclass(frozen=True)
class Quantized:
    """A quint8 tensor: 255 stands for `range`; its values are those, less `offset`."""

    tensor: tf.Tensor
    range: float
    offset: float = 0.0


@dataclass
class Int8Graph:
    """Operations as tensors, in int8 where they can be; each is turned into the other form when it is needed.

    What is in int8, in which range and how lifted, is said here once; `FakeInt8Graph` has the same in float32.

    Args:
        ranges: the largest absolute value that each operation's output is to hold, measured on real images.
        pixels: `uint8[N, H, W, C]`.
        kernel_levels: the largest level of a kernel: 127, or `REDUCED_LEVELS`.
    """

    ranges: Mapping[Operation, float]
    pixels: tf.Tensor
    kernel_levels: int = SIGNED_LEVELS
    floats: dict[Operation, tf.Tensor] = field(default_factory=dict)
    quantized: dict[Operation, Quantized] = field(default_factory=dict)
    users: dict[Operation, list[Operation]] = field(default_factory=lambda: defaultdict(list))
    macs: int = 0
    """Multiply-adds an image."""
    int8_macs: int = 0

    def emit(self, ends: Sequence[Operation]) -> list[tf.Tensor]:
        """The ends, as float32 tensors in the default graph."""
        self.pixels = self._guarded(self.pixels)
        for operation in in_order(*ends):
            for x in operation.inputs:
                self.users[x].append(operation)
        for operation in in_order(*ends):
            self._add(operation)
        return [self.as_float(end) for end in ends]

    def _add(self, operation: Operation) -> None:
        match operation:
            case Pixels():
                self.quantized[operation] = Quantized(self._levels_of_pixels(), LEVELS)
            case Convolution() if can_be_int8(operation):
                self._add_convolution(operation)
            case Pool(kind="max", same=False, edge=edge) if operation.inputs[0] in self.quantized and edge <= 0:
                x = self.quantized[operation.inputs[0]]
                self.quantized[operation] = Quantized(self._max_pooled(operation, x), x.range)
            case Subsample() if operation.inputs[0] in self.quantized:
                x = self.quantized[operation.inputs[0]]
                self.quantized[operation] = Quantized(self._subsampled(operation, x.tensor), x.range)
            case _:
                self._add_float(operation)

    def _add_float(self, operation: Operation) -> None:
        y = self._written(operation, *(self.as_float(x) for x in operation.inputs))
        self.floats[operation] = y
        self._count(operation, y)

    def as_float(self, operation: Operation) -> tf.Tensor:
        """The output of an operation in float32."""
        if operation not in self.floats:
            x = self.quantized[operation]
            y = self._dequantized(x)
            self.floats[operation] = y - x.offset if x.offset else y
        return self.floats[operation]

    def as_quantized(self, operation: Operation) -> Quantized:
        """The output of an operation that is never below zero in quint8."""
        if operation not in self.quantized:
            top = self._range(operation)
            self.quantized[operation] = Quantized(self._levels_of(self.floats[operation], top), top)
        return self.quantized[operation]

    def _range(self, operation: Operation) -> float:
        return max(float(self.ranges[operation]), SMALLEST_RANGE)

    def _add_convolution(self, operation: Convolution) -> None:
        source, *summands = operation.inputs
        x, top = self.as_quantized(source), self._range(operation)
        if not summands and operation.activation is None:
            self._add_signed(operation, x, top)
        elif not summands:
            self.quantized[operation] = self._convolve(operation, x, top)
        elif operation.activation == "relu" and (summands[0].non_negative or summands[0] in self.quantized):
            self.quantized[operation] = self._convolve(operation, x, top, self.as_quantized(summands[0]))
        else:  # the branch alone was not measured
            self._add_float(operation)

    def _add_signed(self, operation: Convolution, x: Quantized, top: float) -> None:
        """A convolution whose output has both signs."""
        only_summed = all(
            isinstance(user, Convolution) and user.activation and user.inputs[1:] == (operation,) and can_be_int8(user)
            for user in self.users[operation]
        )
        if only_summed and self.users[operation]:
            # The fused sum takes a signed summand, in silence, for one of 0 to 127. So it is lifted above zero, and
            # whoever adds it takes the lift out of its bias.
            lifted = self._convolve(operation, x, 2 * top, lift=top)
            self.quantized[operation] = Quantized(lifted.tensor, lifted.range, top)
        else:
            self.floats[operation] = self._convolve_signed(operation, x, top)

    def _convolve_signed(self, operation: Convolution, x: Quantized, top: float) -> tf.Tensor:
        """The convolution and its bias, in float32, from 255 levels about zero."""
        return self._dequantized(self._convolve(operation, x, 2 * top, lift=top)) - top

    def _convolve(
        self, operation: Convolution, x: Quantized, top: float, summand: Quantized | None = None, lift: float = 0.0
    ) -> Quantized:
        """A convolution and what is fused with it, of outputs from 0 to `top`; `lift` is added to its bias."""
        y = self._convolved(operation, x, top, summand, lift - (summand.offset if summand else 0.0))
        self._count(operation, y, int8=True)
        return Quantized(y, top)

    def _convolved(
        self, operation: Convolution, x: Quantized, top: float, summand: Quantized | None, lift: float
    ) -> tf.Tensor:
        kernel, limits = quantized_kernel(operation.kernel, self.kernel_levels)
        bias = operation.whole_bias(kernel * (limits / SIGNED_LEVELS)) + lift
        pixels = operation.centre is not None
        tensor, padding = padded(operation, tf.bitcast(x.tensor, tf.uint8) if pixels else x.tensor)
        y = _fused_convolution(
            tf.bitcast(tensor, tf.quint8) if pixels else tensor,
            x.range,
            kernel,
            limits,
            bias.astype("float32"),
            top,
            summand,
            operation.strides,
            operation.dilation,
            padding,
        )
        y.set_shape(output_shape(operation, x.tensor))
        return y

    def _max_pooled(self, operation: Pool, x: Quantized) -> tf.Tensor:
        tensor = x.tensor
        if operation.padding != NO_PADDING:
            whole = tf.pad(tf.bitcast(tensor, tf.uint8), ((0, 0), *operation.padding, (0, 0)))
            tensor = tf.bitcast(whole, tf.quint8)
        window = [1, operation.size, operation.size, 1]
        strides = [1, operation.strides, operation.strides, 1]
        y, *_ = tf.raw_ops.QuantizedMaxPool(
            input=tensor, min_input=0.0, max_input=x.range, ksize=window, strides=strides, padding="VALID"
        )
        sides = [(n - operation.size) // operation.strides + 1 for n in sides_of(tensor)]
        y.set_shape([None, *sides, operation.channels])
        return y

    def _guarded(self, pixels: tf.Tensor) -> tf.Tensor:
        """The pixels, or an error on a processor that would add the products of full kernels wrongly.

        Servables go to other machines than the one that proved them. It is computed once, when the graph is made ready.
        """
        if self.kernel_levels <= REDUCED_LEVELS:
            return pixels
        full = tf.constant(LEVELS, tf.uint8, [1, 3, 3, 16])
        kernel = np.full((3, 3, 16, 16), SIGNED_LEVELS, "int8")
        one, zeros, top = np.ones(16, "float32"), np.zeros(16, "float32"), float(3 * 3 * 16)
        y = _fused_convolution(tf.bitcast(full, tf.quint8), 1.0, kernel, one, zeros, top, None, 1, 1, "VALID")
        right = tf.reduce_all(tf.cast(tf.bitcast(y, tf.uint8), tf.int32) > LEVELS - 5)
        with tf.control_dependencies([tf.Assert(right, [WRONG_SUMS])]):
            return tf.identity(pixels)

    def _levels_of_pixels(self) -> tf.Tensor:
        return tf.bitcast(self.pixels, tf.quint8)

    def _levels_of(self, x: tf.Tensor, top: float) -> tf.Tensor:
        y = tf.raw_ops.QuantizeV2(
            input=x, min_range=0.0, max_range=top, T=tf.quint8, mode="SCALED", round_mode="HALF_TO_EVEN"
        ).output
        y.set_shape(x.shape)
        return y

    def _dequantized(self, x: Quantized) -> tf.Tensor:
        """Without taking out its offset."""
        y = tf.quantization.dequantize(x.tensor, 0.0, x.range, mode="SCALED")
        y.set_shape(x.tensor.shape)
        return y

    def _subsampled(self, operation: Subsample, levels: tf.Tensor) -> tf.Tensor:
        return tf.bitcast(subsampled(operation, tf.bitcast(levels, tf.uint8)), tf.quint8)

    def _written(self, operation: Operation, *inputs: tf.Tensor) -> tf.Tensor:
        """An operation in float32."""
        return emitted(operation, tf.float32, *inputs)

    def _count(self, operation: Operation, y: tf.Tensor, int8: bool = False) -> None:
        if isinstance(operation, Convolution | Dense):
            positions = math.prod(side or 0 for side in y.shape.as_list()[1:-1])
            macs = math.prod(operation.kernel.shape) * positions
            self.macs += macs
            self.int8_macs += macs if int8 else 0


def can_be_int8(operation: Convolution) -> bool:
    """Whether oneDNN's quantised convolution can compute this one: one group, ReLU or none, nothing below zero in."""
    return operation.groups == 1 and operation.activation in (None, "relu") and operation.inputs[0].non_negative


def output_shape(operation: Convolution, x: tf.Tensor) -> list[int | None]:
    """`[N, H, W, C]` of a convolution's output."""
    sides = []
    for length, around, size in zip(
        sides_of(x), operation.sides(*sides_of(x)), operation.kernel.shape[:2], strict=True
    ):
        reach = operation.dilation * (size - 1)
        sides.append((length + sum(around) - reach - 1) // operation.strides + 1)
    return [None, *sides, operation.channels]


def quantized_kernel(kernel: np.ndarray, levels: int = SIGNED_LEVELS) -> tuple[np.ndarray, np.ndarray]:
    """A kernel `[h, w, in, out]` as int8 from -levels to levels; of each output channel the value of 127, float32."""
    largest = np.maximum(np.abs(kernel).max((0, 1, 2)), SMALLEST_RANGE).astype("float32")
    rounded = np.clip(np.round(kernel / largest * levels), -levels, levels).astype("int8")
    return rounded, largest * np.float32(SIGNED_LEVELS / levels)


def _fused_convolution(
    x: tf.Tensor,
    x_range: float,
    kernel: np.ndarray,
    limits: np.ndarray,
    bias: np.ndarray,
    out_range: float,
    summand: Quantized | None,
    strides: int,
    dilation: int,
    padding: str | list[list[int]],
) -> tf.Tensor:
    """`relu(convolution(x) + bias [+ summand])` from quint8 to quint8."""
    zero = tf.constant(0.0)
    inputs = [x, _qint8(kernel), tf.constant(bias)]
    ranges: list[Any] = [zero, tf.constant(x_range, tf.float32), tf.constant(-limits), tf.constant(limits)]
    if summand is not None:
        inputs.append(summand.tensor)
        ranges += [zero, tf.constant(summand.range, tf.float32)]
    inputs += [*ranges, zero, tf.constant(out_range, tf.float32)]
    outputs = [tf.quint8, tf.float32, tf.float32]
    steps = ["BiasAdd", *(["Sum"] if summand is not None else []), "Relu", "Requantize"]
    explicit = [] if isinstance(padding, str) else [n for pair in padding for n in pair]
    attributes = {
        "Tinput": _type(tf.quint8),
        "Tfilter": _type(tf.qint8),
        "Tbias": _type(tf.float32),
        "Tsummand": _type(tf.quint8),
        "out_type": _type(tf.quint8),
        "Tdevice_inputs": _types([]),
        "Thost_inputs": _types([tensor.dtype for tensor in inputs]),
        "Tdevice_outputs": _types([]),
        "Thost_outputs": _types(outputs),
        "data_format": _list(s=b"NHWC", single=True),
        "strides": _list(i=[1, strides, strides, 1]),
        "dilations": _list(i=[1, dilation, dilation, 1]),
        "padding": _list(s=(padding if isinstance(padding, str) else "EXPLICIT").encode(), single=True),
        "explicit_paddings": _list(i=explicit),
        "is_filter_const": attr_value_pb2.AttrValue(b=True),
        "is_bias_const": attr_value_pb2.AttrValue(b=True),
        "fused_ops": _list(s=[step.encode() for step in steps]),
    }
    graph = tf.compat.v1.get_default_graph()
    return graph.create_op("_FusedQuantizedConv2D", inputs, outputs, attrs=attributes, name="conv_int8").outputs[0]


def _qint8(values: np.ndarray) -> tf.Tensor:
    proto = tensor_pb2.TensorProto(dtype=tf.qint8.as_datatype_enum, tensor_content=values.tobytes())
    proto.tensor_shape.CopyFrom(tf.TensorShape(values.shape).as_proto())
    attributes = {"value": attr_value_pb2.AttrValue(tensor=proto), "dtype": _type(tf.qint8)}
    return (
        tf.compat.v1.get_default_graph().create_op("Const", [], [tf.qint8], attrs=attributes, name="kernel").outputs[0]
    )


def _type(dtype: tf.DType) -> attr_value_pb2.AttrValue:
    return attr_value_pb2.AttrValue(type=dtype.as_datatype_enum)


def _types(dtypes: Sequence[tf.DType]) -> attr_value_pb2.AttrValue:
    return _list(type=[dtype.as_datatype_enum for dtype in dtypes])


def _list(single: bool = False, **values: Any) -> attr_value_pb2.AttrValue:
    if single:
        return attr_value_pb2.AttrValue(**values)
    return attr_value_pb2.AttrValue(list=attr_value_pb2.AttrValue.ListValue(**values))


@cache
def kernel_levels() -> int | None:
    """The largest level of a kernel with which this TensorFlow computes rightly on this processor.

    127; `REDUCED_LEVELS` where the processor adds in 16 bits; None where the operation is missing, as on ARM or
    without oneDNN.
    """
    return next((levels for levels in (SIGNED_LEVELS, REDUCED_LEVELS) if _computes_rightly(levels)), None)


def available() -> bool:
    """Whether int8 can be computed here."""
    return kernel_levels() is not None


def _computes_rightly(levels: int) -> bool:
    """By a small block whose shortcut has both signs, of the largest pixels and kernels that there are."""
    rng = np.random.default_rng(0)
    images, top = rng.choice([0, 255], (1, 6, 6, 16)).astype("uint8"), 5000.0
    pixels = Pixels(channels=16)
    common: dict[str, Any] = {"channels": 16, "bias": np.zeros(16), "padding": ((1, 1), (1, 1))}
    shortcut, branch = rng.choice([-0.5, 0.5], (2, 3, 3, 16, 16))
    side = Convolution(inputs=(pixels,), kernel=shortcut, **common)
    block = Convolution(inputs=(pixels, side), kernel=branch, activation="relu", **common)
    try:
        with tf.Graph().as_default(), tf.compat.v1.Session() as session:
            placeholder = tf.compat.v1.placeholder(tf.uint8, (None, *images.shape[1:]))
            wanted = emit_float([block], placeholder, tf.float32)[block]
            (got,) = Int8Graph({side: top, block: top}, placeholder, levels).emit([block])
            expected, answer = session.run([wanted, got], {placeholder: images})
    except (tf.errors.OpError, ValueError):  # no such operation, or no kernel of it
        return False
    return bool(np.abs(np.minimum(expected, top) - answer).max() < 0.03 * top)

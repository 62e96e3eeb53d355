"""TensorProto to numpy and back, with a message for every mistake of a client.

TensorFlow's `make_ndarray` does not check the shape: twenty bytes can make it allocate a terabyte.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow.core.framework import tensor_pb2

from resnet_keras.serving.status import invalid

FIELDS: dict[tf.DType, str] = {
    tf.float32: "float_val",
    tf.float64: "double_val",
    tf.float16: "half_val",
    tf.bfloat16: "half_val",
    **dict.fromkeys((tf.int32, tf.int16, tf.int8, tf.uint16, tf.uint8), "int_val"),
    tf.int64: "int64_val",
    tf.uint32: "uint32_val",
    tf.uint64: "uint64_val",
    tf.bool: "bool_val",
    tf.string: "string_val",
    tf.complex64: "scomplex_val",
    tf.complex128: "dcomplex_val",
}
PARTS = {tf.complex64: "float32", tf.complex128: "float64"}
"""Of complex numbers, which come as one part behind the other."""
DEEPEST = 32
"""Dimensions of a tensor."""


@dataclass(frozen=True)
class TensorInfo:
    """One input or output of a signature."""

    tensor: str
    dtype: tf.DType
    shape: tf.TensorShape

    def takes(self, shape: Sequence[int]) -> bool:
        """Whether a tensor may have this shape."""
        return self.shape.is_compatible_with([*shape, 1] if self.is_column(shape) else shape)

    def is_column(self, shape: Sequence[int]) -> bool:
        """Whether a tensor of this shape is a vector that stands for a column, as in TensorFlow Serving's tests."""
        return self.shape.rank == 2 and self.shape[1] == 1 and len(shape) == 1


def to_array(proto: tensor_pb2.TensorProto, name: str, wanted: TensorInfo, most: int) -> np.ndarray:
    """The array of a tensor that a client sent.

    Args:
        proto: the tensor.
        name: of the input.
        wanted: its dtype and shape, which are compared before anything is made.
        most: bytes that the array may have; a message of 36 bytes can stand for gigabytes of one value.

    Raises:
        ServingError: INVALID_ARGUMENT, with the input's name.
    """
    dtype = _dtype(proto.dtype, name)
    if dtype != wanted.dtype:
        raise invalid(f"input {name} must be {wanted.dtype.name}, not {dtype.name}")
    if proto.tensor_shape.unknown_rank:
        raise invalid(f"input {name}: the tensor's shape is unknown")
    shape = [dim.size for dim in proto.tensor_shape.dim]
    if len(shape) > DEEPEST or any(not 0 <= size < 2**31 for size in shape):
        raise invalid(f"input {name}: a tensor cannot have the shape {shape[:8]}")
    if not wanted.takes(shape):
        raise invalid(f"input {name} must have the shape {shape_words(wanted.shape)}, not {shape}")
    count = math.prod(shape)
    kind = np.dtype(dtype.as_numpy_dtype)
    if count * kind.itemsize > most:
        raise invalid(f"input {name}: a tensor of the shape {shape} is larger than {most:,} bytes")
    if proto.tensor_content:
        if dtype == tf.string or len(proto.tensor_content) != count * kind.itemsize:
            raise invalid(f"input {name}: tensor_content of {len(proto.tensor_content)} bytes is no {kind} of {shape}")
        return np.frombuffer(proto.tensor_content, kind).reshape(shape)
    return _from_values(getattr(proto, FIELDS[dtype]), dtype, kind, count, name).reshape(shape)


def shape_words(shape: tf.TensorShape) -> str:
    """A shape as messages have it, ? for a size that is not known."""
    return "[" + ", ".join("?" if size is None else str(size) for size in shape) + "]"


def _dtype(number: int, name: str) -> tf.DType:
    try:
        dtype = tf.as_dtype(number)
    except TypeError:
        dtype = None
    if dtype not in FIELDS:
        raise invalid(f"input {name}: tensors of type {dtype.name if dtype else number} are not accepted")
    return dtype


def _from_values(values: Any, dtype: tf.DType, kind: np.dtype, count: int, name: str) -> np.ndarray:
    """The values as a flat array: cut to `count`, or the last one repeated, as TensorFlow does it."""
    field = FIELDS[dtype]
    given: Any = list(values[: 2 * count if dtype.is_complex else count])
    try:
        if field == "half_val":
            own = np.array(given, "uint16").view(kind)
        elif dtype.is_complex:
            own = np.array(given, PARTS[dtype]).view(kind)
        else:
            own = np.array(given, kind)
    except (OverflowError, ValueError) as error:
        raise invalid(f"input {name}: a value is out of the range of {kind}") from error
    if len(own) == count:
        return own
    array = np.full(count, own[-1] if len(own) else (b"" if dtype == tf.string else 0), kind)
    array[: len(own)] = own
    return array


def to_proto(array: np.ndarray, dtype: tf.DType) -> tensor_pb2.TensorProto:
    """The tensor of an output, in its type's own field, as TensorFlow Serving sends it."""
    proto = tensor_pb2.TensorProto(dtype=dtype.as_datatype_enum)
    for size in array.shape:
        proto.tensor_shape.dim.add(size=size)
    if dtype not in FIELDS:
        raise invalid(f"an output of type {dtype.name} cannot be sent")
    flat = array.ravel()
    if FIELDS[dtype] == "half_val":
        flat = flat.view("uint16")
    elif dtype.is_complex:
        flat = flat.view(PARTS[dtype])
    getattr(proto, FIELDS[dtype]).extend(flat.tolist())
    return proto

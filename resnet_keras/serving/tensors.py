"""TensorProto to numpy and back, with a message for every mistake of a client.

TensorFlow's `make_ndarray` does not check the shape: twenty bytes can make it allocate a terabyte.
"""

import math

import numpy as np
import tensorflow as tf
from tensorflow.core.framework import tensor_pb2

from resnet_keras.serving.status import invalid

LARGEST = 256 << 20
"""The most bytes of a tensor of a request."""
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
}


def to_array(proto: tensor_pb2.TensorProto, name: str) -> np.ndarray:
    """The array of a tensor that a client sent. Raises `ServingError` (INVALID_ARGUMENT) that names the input."""
    dtype = _dtype(proto.dtype, name)
    if proto.tensor_shape.unknown_rank:
        raise invalid(f"input {name}: the tensor's shape is unknown")
    shape = [dim.size for dim in proto.tensor_shape.dim]
    if len(shape) > 32 or any(not 0 <= size < 2**31 for size in shape):
        raise invalid(f"input {name}: a tensor cannot have the shape {shape[:8]}")
    count = math.prod(shape)
    kind = np.dtype(dtype.as_numpy_dtype)
    if count * kind.itemsize > LARGEST:
        raise invalid(f"input {name}: a tensor of the shape {shape} is larger than {LARGEST:,} bytes")
    if proto.tensor_content:
        if dtype == tf.string or len(proto.tensor_content) != count * kind.itemsize:
            raise invalid(f"input {name}: tensor_content of {len(proto.tensor_content)} bytes is no {kind} of {shape}")
        return np.frombuffer(proto.tensor_content, kind).reshape(shape)
    return _from_values(getattr(proto, FIELDS[dtype]), dtype, kind, count, name).reshape(shape)


def _dtype(number: int, name: str) -> tf.DType:
    try:
        dtype = tf.as_dtype(number)
    except TypeError:
        dtype = None
    if dtype not in FIELDS:
        raise invalid(f"input {name}: tensors of type {dtype.name if dtype else number} are not accepted")
    return dtype


def _from_values(values: object, dtype: tf.DType, kind: np.dtype, count: int, name: str) -> np.ndarray:
    """The values as a flat array: cut to `count`, or the last one repeated, as TensorFlow does it."""
    given = list(values)[:count]  # type: ignore[call-overload]
    filled = given + [given[-1] if given else (b"" if dtype == tf.string else 0)] * (count - len(given))
    if FIELDS[dtype] == "half_val":
        return np.array(filled, "uint16").view(kind)
    try:
        return np.array(filled, kind)
    except OverflowError as error:
        raise invalid(f"input {name}: a value is out of the range of {kind}") from error


def to_proto(array: np.ndarray, dtype: tf.DType) -> tensor_pb2.TensorProto:
    """The tensor of an output, in its type's own field, as TensorFlow Serving sends it."""
    proto = tensor_pb2.TensorProto(dtype=dtype.as_datatype_enum)
    for size in array.shape:
        proto.tensor_shape.dim.add(size=size)
    if dtype not in FIELDS:
        raise invalid(f"an output of type {dtype.name} cannot be sent")
    flat = array.view("uint16") if FIELDS[dtype] == "half_val" else array
    getattr(proto, FIELDS[dtype]).extend(flat.ravel().tolist())
    return proto

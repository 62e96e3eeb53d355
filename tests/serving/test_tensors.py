"""TensorProto to arrays and back, against TensorFlow's own, in memory that the message's bytes account for."""

import tracemalloc
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from google.protobuf import text_format
from hypothesis import given
from hypothesis import strategies as st
from tensorflow.core.framework import tensor_pb2

from resnet_keras.serving.status import ServingError
from resnet_keras.serving.tensors import FIELDS, TensorInfo, to_array, to_proto

MOST = 1 << 20
ANY: Any = None


def read(proto: tensor_pb2.TensorProto, dtype: tf.DType, shape: Any = ANY) -> np.ndarray:
    return to_array(proto, "x", TensorInfo("x:0", dtype, tf.TensorShape(shape)), MOST)


@pytest.mark.parametrize(
    ("proto", "dtype", "words"),
    [
        ("dtype: DT_FLOAT tensor_shape { unknown_rank: true }", "float32", "shape is unknown"),
        ("dtype: DT_FLOAT tensor_shape { dim { size: -1 } }", "float32", "cannot have the shape"),
        ("dtype: DT_FLOAT tensor_shape { dim { size: 1000000 } dim { size: 1000000 } }", "float32", "larger than"),
        (
            "dtype: DT_FLOAT tensor_shape { dim { size: 2 } } tensor_content: '12345'",
            "float32",
            "5 bytes is no float32",
        ),
        ("dtype: DT_STRING tensor_shape { dim { size: 1 } } tensor_content: 'a'", "string", "is no object"),
        ("dtype: DT_UINT8 tensor_shape { dim { size: 1 } } int_val: 300", "uint8", "out of the range of uint8"),
        ("dtype: DT_COMPLEX64 tensor_shape { dim { size: 1 } } scomplex_val: 1", "complex64", "out of the range"),
        ("dtype: DT_RESOURCE", "float32", "tensors of type resource are not accepted"),
        ("tensor_shape { dim { size: 1 } }", "float32", "tensors of type 0 are not accepted"),
        ("dtype: DT_FLOAT " + "tensor_shape { " + "dim { size: 1 } " * 300 + "}", "float32", "cannot have the shape"),
        ("dtype: DT_INT32 tensor_shape { dim { size: 1 } }", "float32", "input x must be float32, not int32"),
    ],
)
def test_tensors_that_are_none(proto: str, dtype: str, words: str) -> None:
    with pytest.raises(ServingError, match=words):
        read(text_format.Parse(proto, tensor_pb2.TensorProto()), tf.as_dtype(dtype))


@pytest.mark.parametrize(
    ("dtype", "shape", "words"),
    [
        (tf.float32, [None, 3], r"input x must be float32, not uint8"),
        (tf.uint8, [None, 3], r"must have the shape \[\?, 3\], not \[268435456\]"),
        (tf.uint8, [None], "is larger than 1,048,576 bytes"),
    ],
)
def test_a_message_of_36_bytes_takes_no_gigabytes(dtype: tf.DType, shape: Any, words: str) -> None:
    proto = tensor_pb2.TensorProto(dtype=tf.uint8.as_datatype_enum, int_val=[1])
    proto.tensor_shape.dim.add(size=2**28)
    tracemalloc.start()
    try:
        with pytest.raises(ServingError, match=words):
            read(proto, dtype, shape)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < MOST


def test_one_value_stands_for_all_without_a_list() -> None:
    proto = tensor_pb2.TensorProto(dtype=tf.uint8.as_datatype_enum, int_val=[1, 7])
    proto.tensor_shape.dim.add(size=MOST)
    tracemalloc.start()
    array = read(proto, tf.uint8)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert (array[0], array[1], array[-1], array.size) == (1, 7, 7, MOST)
    assert peak < 2 * MOST


@given(st.sampled_from(sorted(FIELDS, key=str)), st.lists(st.integers(0, 3), max_size=4), st.data())
def test_what_a_tensor_says_is_what_tensorflow_reads(dtype: tf.DType, shape: list[int], data: st.DataObject) -> None:
    """Of any shape, with as many values as it has, fewer or none."""
    count = int(np.prod(shape))
    proto = tensor_pb2.TensorProto(dtype=dtype.as_datatype_enum)
    for size in shape:
        proto.tensor_shape.dim.add(size=size)
    given_values = data.draw(st.lists(st.integers(0, 100), max_size=count))
    values: list[Any] = [bytes([value]) for value in given_values] if dtype == tf.string else given_values
    getattr(proto, FIELDS[dtype]).extend(
        [part for value in values for part in ((value, 1) if dtype.is_complex else [value])]
    )
    if dtype == tf.string and len(values) != count and count and len(values) != 1:
        return  # TensorFlow's own reader takes one string or all
    np.testing.assert_array_equal(read(proto, dtype), tf.make_ndarray(proto))


@pytest.mark.parametrize("dtype", sorted(FIELDS, key=str), ids=str)
def test_tensors_go_there_and_back(dtype: tf.DType) -> None:
    array = np.array([[0, 1, 1], [1, 0, 1]])
    array = array.astype("S").astype(object) if dtype == tf.string else array.astype(dtype.as_numpy_dtype)
    for proto in (to_proto(array, dtype), tf.make_tensor_proto(array, dtype)):
        np.testing.assert_array_equal(read(proto, dtype, [None, 3]), array)
    np.testing.assert_array_equal(tf.make_ndarray(to_proto(array, dtype)), array)

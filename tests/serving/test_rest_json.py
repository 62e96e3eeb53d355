"""JSON to arrays and back: TensorFlow Serving's own rules (json_tensor_test.cc), and that the quick way obeys them."""

import contextlib
import json
import tracemalloc
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from resnet_keras.serving import rest_json
from resnet_keras.serving.json_reader import parse
from resnet_keras.serving.rest_json import read_inputs, to_array, write_outputs
from resnet_keras.serving.status import ServingError
from resnet_keras.serving.tensors import TensorInfo

ANY: Any = None


def specs(**dtypes: tf.DType) -> dict[str, TensorInfo]:
    return {name: TensorInfo(f"{name}:0", dtype, tf.TensorShape(ANY)) for name, dtype in dtypes.items()}


ONE = specs(x=tf.float32)
TWO = specs(a=tf.int32, b=tf.string)


@pytest.mark.parametrize(
    ("body", "known", "expected"),
    [
        ({"instances": [1, 2, 5]}, ONE, {"x": [1, 2, 5]}),
        ({"instances": [[1, 2], [3, 4]]}, ONE, {"x": [[1, 2], [3, 4]]}),
        ({"instances": [{"x": 1}, {"x": 2.5}]}, ONE, {"x": [1, 2.5]}),
        ({"inputs": [1, 2]}, ONE, {"x": [1, 2]}),
        ({"inputs": 3}, ONE, {"x": 3}),
        ({"inputs": {"x": [[1], [2]]}}, ONE, {"x": [[1], [2]]}),
        ({"instances": [{"b64": "aGk="}, {"b64": "aGk"}]}, specs(s=tf.string), {"s": [b"hi", b"hi"]}),
        ({"instances": ["é", "b"]}, specs(s=tf.string), {"s": ["é".encode(), b"b"]}),
        ({"inputs": {"b64": "aGk="}}, specs(s=tf.string), {"s": b"hi"}),
        ({"instances": [{"a": 1, "b": "x"}, {"a": 2, "b": "y"}]}, TWO, {"a": [1, 2], "b": [b"x", b"y"]}),
        ({"inputs": {"a": [1], "b": ["x"]}}, TWO, {"a": [1], "b": [b"x"]}),
        ({"instances": [True, False]}, specs(f=tf.bool), {"f": [True, False]}),
        ({"instances": [255, 0]}, specs(p=tf.uint8), {"p": [255, 0]}),
        ({"instances": [2**63]}, specs(p=tf.uint64), {"p": [2**63]}),
    ],
)
def test_requests(body: dict[str, Any], known: dict[str, TensorInfo], expected: dict[str, Any]) -> None:
    request = parse(json.dumps(body).encode())
    arrays = read_inputs(request, known)
    assert rest_json.in_rows(request) == ("instances" in body)
    assert {name: array.tolist() for name, array in arrays.items()} == expected
    for name, array in arrays.items():
        wanted = object if known[name].dtype == tf.string else known[name].dtype.as_numpy_dtype
        assert array.dtype == wanted


def test_what_json_has_no_number_for() -> None:
    arrays = read_inputs(parse(b'{"instances": [NaN, Infinity, -Infinity, 1e300]}'), ONE)
    np.testing.assert_array_equal(arrays["x"], [np.nan, np.inf, -np.inf, np.inf])
    assert json.loads(write_outputs({"y": arrays["x"]}, True))["predictions"][1:3] == [np.inf, -np.inf]
    assert b"NaN" in write_outputs({"y": arrays["x"], "z": arrays["x"]}, True)


@pytest.mark.parametrize(
    ("body", "known", "words"),
    [
        (b"", ONE, "JSON Parse error: The document is empty"),
        (b"this is no json", ONE, "JSON Parse error: Invalid value"),
        (b"[" * 100_000, ONE, "JSON Parse error"),
        (b'{"instances": [NaN' + b"[" * 5000, ONE, "JSON Parse error"),
        (b"[1, 2]", ONE, "Is not object"),
        (b"{}", ONE, "Missing 'inputs' or 'instances' key"),
        (b'{"instances": [1], "inputs": [1]}', ONE, "expecting only one of 'inputs' or 'instances'"),
        (b'{"instances": 1}', ONE, "Expecting 'instances' to be an list/array"),
        (b'{"instances": []}', ONE, "No values in 'instances' array"),
        (b'{"instances": [1, "a"]}', ONE, 'JSON Value: "a" Type: String is not of expected type: float'),
        (b'{"instances": [1, true]}', ONE, "JSON Value: true Type: True is not of expected type: float"),
        (b'{"instances": [1, null]}', ONE, "Type: Null"),
        (
            b'{"instances": [[1, 2], [3]]}',
            ONE,
            "element: 1 of 'instances' list. Error: INVALID_ARGUMENT: Expecting tensor",
        ),
        (b'{"instances": [[[1], [2]], [[1, 2]]]}', ONE, "Expecting shape [2,1] but got: [1,2]"),
        (b'{"instances": [[1, [2]]]}', ONE, "Encountered list at unexpected level: 1 expected < 1"),
        (b'{"instances": [[[1], 2]]}', ONE, "found at incorrect level: 2 in the JSON DOM. Expected at level: 2"),
        (b'{"instances": [[[1], [2, 3]]]}', ONE, "Encountered list at unexpected size: 2 at level: 1 expected size: 1"),
        (b'{"instances": [{"x": 1}, 2]}', ONE, "Expecting object but got list at item 1"),
        (b'{"instances": [1, {"x": 2}]}', ONE, "Expecting value/list but got object at item 1"),
        (b'{"instances": [{"y": 1}]}', ONE, "JSON object: does not have named input: y"),
        (b'{"instances": [{"a": 1}]}', TWO, "keys must be equal to: a,b"),
        (b'{"instances": [1]}', TWO, "expecting list of objects as multiple input tensors"),
        (b'{"inputs": [1]}', TWO, "expecting an object as multiple input tensors"),
        (b'{"inputs": {"a": [1]}}', TWO, "Missing named input: b in 'inputs' object."),
        (b'{"inputs": [1.0]}', specs(p=tf.uint8), "is not of expected type: uint8"),
        (b'{"inputs": [256]}', specs(p=tf.uint8), "JSON Value: 256 Type: Number is not of expected type: uint8"),
        (b'{"inputs": [-1]}', specs(p=tf.uint8), "is not of expected type: uint8"),
        (b'{"inputs": [9223372036854775808]}', specs(p=tf.int64), "is not of expected type: int64"),
        (b'{"inputs": [{"b64": "a"}]}', specs(s=tf.string), "Unable to base64 decode"),
        (b'{"inputs": [{"b64": "a", "c": 1}]}', specs(s=tf.string), "not formatted correctly for base64"),
        (b'{"inputs": [' + b"9" * 400 + b", NaN]}", ONE, "is not of expected type: float"),
        (b'{"inputs": [1]}', specs(s=tf.string), "is not of expected type: string"),
        (b'{"inputs": [1]}', specs(c=tf.complex64), "Conversion of JSON Value: 1 to type: complex64"),
        (b'{"inputs": ' + b"[" * 40 + b"1" + b"]" * 40 + b"}", ONE, "a tensor has at most 32 dimensions"),
        (b'{"inputs": ' + b"[" * 900 + b"]" * 900 + b"}", ONE, "a tensor has at most 32 dimensions"),
        (b'{"inputs": {"q": ' + b"[" * 900 + b"]" * 900 + b"}}", ONE, "Missing named input: x"),
        (b'{"instances": [[1], ' + b"[" * 900 + b"]" * 900 + b"]}", ONE, "of 'instances' list"),
    ],
)
def test_what_is_wrong_is_said(body: bytes, known: dict[str, TensorInfo], words: str) -> None:
    with pytest.raises(ServingError) as caught:
        read_inputs(parse(body), known)
    assert words in caught.value.message
    assert caught.value.http == 400
    assert len(caught.value.message) < 1000


def long_and_short(longest: int, count: int) -> bytes:
    return b'"' + b"a" * longest + b'"' + b', "a"' * count


BODIES = {
    "strings for numbers": b'{"instances": [' + long_and_short(60_000, 12_000) + b"]}",
    "strings in rows": b'{"instances": [[' + long_and_short(60_000, 12_000) + b"]]}",
    "strings by name": b'{"inputs": {"x": [' + long_and_short(60_000, 12_000) + b"]}}",
    "empty lists": b'{"instances": [' + b"[]," * 40_000 + b"[]]}",
    "empty lists and one": b'{"instances": [' + b"[]," * 40_000 + b"[1]]}",
    "lists of one": b'{"instances": [' + b"[1]," * 30_000 + b"[[]]]}",
    "empty objects": b'{"instances": [' + b"{}," * 40_000 + b"{}]}",
    "digits": b'{"instances": [' + b"1," * 60_000 + b'"a"]}',
    "not a number": b'{"instances": [NaN' + b",1" * 60_000 + b"]}",
    "nothing": b'{"instances": [' + b"null," * 24_000 + b"null]}",
    "deep": b'{"instances": [' + (b"[" * 30 + b"]" * 30 + b",") * 2_000 + b"[]]}",
    "a string without an end": b'{"instances": ["' + b'\\"' * 200_000,
    "quotes": b'{"instances": [' + b'"' * 400_001,
    "backslashes": b'{"instances": ["' + b"\\" * 400_001,
    "base64 of nothing": b'{"instances": [' + b'{"b64":""},' * 10_000 + b'{"b64":""}]}',
}


@pytest.mark.parametrize(
    "known",
    [ONE, specs(x=tf.string), *(pytest.param(specs(x=one), marks=pytest.mark.slow) for one in (tf.uint8, tf.bool))],
    ids=str,
)
@pytest.mark.parametrize("body", BODIES.values(), ids=BODIES)
def test_memory_is_bounded_by_the_body(body: bytes, known: dict[str, TensorInfo]) -> None:
    """120 kB of strings took 3 GB. A list is 64 bytes in Python and three in JSON, and twice where it is flattened."""
    tracemalloc.start()
    try:
        with contextlib.suppress(ServingError):
            read_inputs(parse(body), known)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 48 * len(body)


def test_a_signature_name_is_a_string() -> None:
    with pytest.raises(ServingError, match="'signature_name' key must be a string value"):
        rest_json.signature_name({"signature_name": 3}, "serving_default")
    with pytest.raises(ServingError, match="'output_filter' key"):
        rest_json.output_filter({"output_filter": "y"})


values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=4),
    max_leaves=12,
)
dtypes = st.sampled_from([tf.float32, tf.float64, tf.uint8, tf.int32, tf.int64, tf.uint64, tf.bool])


@settings(max_examples=1500, deadline=None)
@given(values, dtypes)
def test_the_quick_way_gives_what_the_slow_one_does(value: Any, dtype: tf.DType) -> None:
    quick = rest_json._at_once(value, dtype)
    if quick is None:
        return
    before, rest_json._at_once = rest_json._at_once, lambda *_: None
    try:
        slow = to_array(value, dtype)
    finally:
        rest_json._at_once = before
    assert quick.dtype == slow.dtype
    np.testing.assert_array_equal(quick, slow)


@settings(max_examples=300, deadline=None)
@given(st.lists(st.lists(st.integers(0, 255), min_size=3, max_size=3), min_size=1, max_size=5))
def test_plain_numbers_go_the_quick_way(value: list[list[int]]) -> None:
    assert rest_json._at_once(value, tf.uint8) is not None


def test_answers() -> None:
    one = {"y": np.array([2.5, 3.0, 0.2], "float32")}
    assert json.loads(write_outputs(one, True)) == {"predictions": [2.5, 3.0, 0.2]}
    assert json.loads(write_outputs(one, False)) == {"outputs": [2.5, 3.0, 0.2]}
    two = {
        "y": np.array([[1], [2]]),
        "s_bytes": np.array([b"\xff", b"hi"], object),
        "s": np.array([b"a", b"b"], object),
    }
    assert json.loads(write_outputs(two, True))["predictions"][1] == {"y": [2], "s_bytes": {"b64": "aGk="}, "s": "b"}
    assert json.loads(write_outputs(two, False))["outputs"]["s_bytes"] == [{"b64": "/w=="}, {"b64": "aGk="}]
    assert json.loads(write_outputs({"y": np.array(0.2, "float32")}, False)) == {"outputs": 0.2}
    half = {"y": np.array([0.5], tf.bfloat16.as_numpy_dtype)}
    assert json.loads(write_outputs(half, True)) == {"predictions": [0.5]}


@pytest.mark.parametrize(
    ("outputs", "words"),
    [
        ({"y": np.array(1.0)}, "Tensor name: y has no shape information"),
        ({"y": np.zeros(2), "z": np.zeros(3)}, "Tensor name: z has inconsistent batch size: 3 expecting: 2"),
    ],
)
def test_answers_that_are_no_rows(outputs: dict[str, np.ndarray], words: str) -> None:
    with pytest.raises(ServingError, match=words):
        write_outputs(outputs, True)


documents = st.dictionaries(
    st.text(max_size=5),
    st.recursive(
        st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats() | st.text(max_size=6),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
        max_leaves=10,
    ),
    max_size=4,
)


@settings(max_examples=400, deadline=None)
@given(documents, st.booleans(), st.sampled_from(["", " ", "X", "{", "\n\n"]))
def test_documents_are_read_as_pythons_own_reader_has_them(document: Any, ascii_only: bool, behind: str) -> None:
    """By orjson, or by the patient way where there are numbers that are not finite, or text behind."""
    text = json.dumps(document, ensure_ascii=ascii_only)
    np.testing.assert_equal(parse(f" {text}{behind}".encode()), json.loads(text))


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=60) | st.text(alphabet='{}[]":,0123456789.eE+-NaInfity tru\\', max_size=40).map(str.encode))
def test_no_bytes_make_the_reader_fail_otherwise_than_by_a_refusal(body: bytes) -> None:
    with contextlib.suppress(ServingError):
        assert isinstance(parse(body), dict)

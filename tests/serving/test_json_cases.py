"""TensorFlow Serving's own tests of JSON as data: json_tensor_test.cc of commit 9d981c5c (July 2026), a row a check.

`DIFFERS` has those that this server answers otherwise, with the reason.
"""

import json
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from google.protobuf import text_format
from tensorflow_serving.apis import classification_pb2, regression_pb2

from resnet_keras.serving import examples
from resnet_keras.serving.json_reader import parse
from resnet_keras.serving.rest_json import read_inputs, signature_name, write_error, write_outputs, write_results
from resnet_keras.serving.status import ServingError
from resnet_keras.serving.tensors import TensorInfo

NAN, INF = float("nan"), float("inf")
ANY: Any = None
INT, STRING, FLOAT, DOUBLE = tf.int32, tf.string, tf.float32, tf.float64
ONE = {"default": INT}


def specs(dtypes: dict[str, tf.DType]) -> dict[str, TensorInfo]:
    return {name: TensorInfo(name, dtype, tf.TensorShape(ANY)) for name, dtype in dtypes.items()}


MANY = {"int_tensor": INT, "str_tensor": STRING, "float_tensor": FLOAT, "dbl_tensor": DOUBLE}
COLUMNS = {"int_tensor": INT, "str_tensor": STRING, "bin_tensor": STRING}
SIX = [[1, 2], [3, 4], [5, 6]]
LARGEST = np.finfo("float64").max
SMALLEST = np.finfo("float64").tiny
READ: list[tuple[str, dict[str, tf.DType], dict[str, Any]]] = [
    ('{"instances": [[1,2],[3,4],[5,6]]}', ONE, {"default": SIX}),
    ('{"instances":[1], "nested":' + "[" * 500_000 + "]" * 500_000 + "}", ONE, {"default": [1]}),
    (
        '{"instances": [1, 2.0, 3, 4, 5.003, 0.007, 0.0]}',
        {"default": FLOAT},
        {"default": [1, 2, 3, 4, 5.003, 0.007, 0]},
    ),
    ('{"instances": [1.0, 2, 3, 4, 0.662, 0, 0.0]}', {"default": DOUBLE}, {"default": [1, 2, 3, 4, 0.662, 0, 0]}),
    ('{"instances": [1435774380]}', {"default": FLOAT}, {"default": [1435774380]}),
    ('{"instances": [1435774380.0]}', {"default": FLOAT}, {"default": [1435774380]}),
    (f'{{"instances": [{LARGEST}]}}', {"default": FLOAT}, {"default": [INF]}),
    (f'{{"instances": [{-LARGEST}]}}', {"default": FLOAT}, {"default": [-INF]}),
    (f'{{"instances": [{SMALLEST}]}}', {"default": FLOAT}, {"default": [0.0]}),
    (f'{{"instances": [{-SMALLEST}]}}', {"default": FLOAT}, {"default": [-0.0]}),
    ('{"signature_name": "predict_images", "instances": [[1,2]]}', ONE, {"default": [[1, 2]]}),
    ('{"instances": [[1,2],[3,4],[5,6]]}X', ONE, {"default": SIX}),
    (
        '{"instances": [ { "b64" : "aGVsbG8=" }, { "b64": "d29ybGQ=" } ]}',
        {"default": STRING},
        {"default": [b"hello", b"world"]},
    ),
    (
        '{"instances": [ [{ "b64" : "aGVsbG8=" }], [{ "b64": "d29ybGQ=" }] ]}',
        {"default": STRING},
        {"default": [[b"hello"], [b"world"]]},
    ),
    (
        '{"instances": [{"default": [ [{ "b64" : "aGVsbG8=" }], [{ "b64": "d29ybGQ=" }] ]}]}',
        {"default": STRING},
        {"default": [[[b"hello"], [b"world"]]]},
    ),
    (
        """{"instances": [
          {"int_tensor": [[1,2],[3,4],[5,6]], "str_tensor": ["foo", "bar"], "float_tensor": [1.0, NaN],
           "dbl_tensor": [NaN]},
          {"int_tensor": [[7,8],[9,0],[1,2]], "str_tensor": ["baz", "bat"], "float_tensor": [2.0, Infinity],
           "dbl_tensor": [2.0]}]}""",
        MANY,
        {
            "int_tensor": [SIX, [[7, 8], [9, 0], [1, 2]]],
            "str_tensor": [[b"foo", b"bar"], [b"baz", b"bat"]],
            "float_tensor": [[1, NAN], [2, INF]],
            "dbl_tensor": [[NAN], [2]],
        },
    ),
    ('{"inputs": {"int_tensor": [[[1,2],[3,4],[5,6]]]}}', {"int_tensor": INT}, {"int_tensor": [SIX]}),
    ('{"inputs": [[[1,2],[3,4],[5,6]]]}', {"int_tensor": INT}, {"int_tensor": [SIX]}),
    (
        """{"inputs": {"int_tensor": [[[1,2],[3,4],[5,6]]], "str_tensor": ["foo", "bar"],
            "bin_tensor": { "b64" : "aGVsbG8=" }}}""",
        COLUMNS,
        {"int_tensor": [SIX], "str_tensor": [b"foo", b"bar"], "bin_tensor": b"hello"},
    ),
    # What RapidJSON reads with the flags of json_tensor.cc, as its documentation has them.
    ('\ufeff{"instances": [1]}', ONE, {"default": [1]}),
    ('{"instances": [1]} and more', ONE, {"default": [1]}),
    ('{"instances": [Inf, -Inf, -NaN, -Infinity]}', {"default": FLOAT}, {"default": [INF, -INF, NAN, -INF]}),
    ('{"instances": [1], "instances": [2]}', ONE, {"default": [1]}),
    ('{"instances": ["Inf NaN", NaN]}', {"default": STRING}, ANY),
]
PAIR = {"int_tensor": INT, "str_tensor": STRING}
REFUSED: list[tuple[str, dict[str, tf.DType], str]] = [
    ('{"signature_name":' + "[" * 500_000 + "]" * 500_000 + "}", ONE, "key must be a string value"),
    ("", ONE, "document is empty"),
    ('{"signature_name": 5, "instances": [[1,2],[3,4],[5,6,7]]}', ONE, "must be a string value"),
    ('{"instances": [[1,2],[3,4],[5,6,7]], "inputs": [[1,2],[3,4],[5,6,7]]}', ONE, "Not formatted correctly"),
    ('{"instances": [[1,2],[3,4],[5,6,7]]}', ONE, "Expecting tensor size"),
    ('{"instances": [[1,2],[3,4],[[5,6]]]}', ONE, "Expecting shape"),
    ('{"instances": [1, [1]]}', ONE, "Expecting shape"),
    ('{"instances": [[1,2],["a", "b"]]}', ONE, "not of expected type"),
    (
        """{"instances": [{"int_tensor": [[1,2],[3,4],[5,6]], "str_tensor": ["foo", "bar"]},
            {"int_tensor": [[[7,8],[9,0],[1,2]]], "str_tensor": ["baz", "bat"]}]}""",
        PAIR,
        "Expecting shape",
    ),
    (
        """{"instances": [{"int_tensor": [[1,2],[3,4],[5,6],[7,8]], "str_tensor": ["foo", "bar"]},
            {"int_tensor": [[7,8],[9,0],[1,2]], "str_tensor": ["baz", "bat"]}]}""",
        PAIR,
        "Expecting tensor size",
    ),
    (
        """{"instances": [{"int_tensor": [[1,2]], "str_tensor": ["foo", "bar"]}, [1, 20, 30],
            {"int_tensor": [[[7,8]]], "str_tensor": ["baz", "bat"]}]}""",
        PAIR,
        "Expecting object but got list",
    ),
    ('{"instances": [["baz", "bar"], {"str_tensor": ["baz", "bat"]}]}', {"s": STRING}, "Expecting value/list but got"),
    ('{"instances": [1e400, NaN]}', {"default": FLOAT}, "Number too big to be stored in double"),
    ('{"instances": [{"b64": "aGk=="}]}', {"s": STRING}, "Unable to base64 decode"),
    ('{"instances": [1]}', {}, "Failed to get input map for signature"),
]
DIFFERS = {
    READ[1][0]: "lists and objects more than 1,024 deep are refused, whatever is asked for",
    REFUSED[0][0]: "refused, by another message: more than 1,024 deep",
}


@pytest.mark.parametrize(("body", "known", "expected"), READ, ids=lambda value: str(value)[:40])
def test_what_is_read(body: str, known: dict[str, tf.DType], expected: dict[str, Any] | None) -> None:
    if body in DIFFERS:
        with pytest.raises(ServingError, match="JSON Parse error"):
            parse(body.encode())
        return
    request = parse(body.encode())
    if expected is None:
        with pytest.raises(ServingError, match="Type: Number is not of expected type: string"):
            read_inputs(request, specs(known))
        return
    arrays = read_inputs(request, specs(known))
    assert arrays.keys() == expected.keys()
    for name, value in expected.items():
        dtype = known[name]
        wanted = np.array(value, object if dtype == STRING else dtype.as_numpy_dtype)
        np.testing.assert_array_equal(arrays[name], wanted)
        assert arrays[name].dtype == wanted.dtype


@pytest.mark.parametrize(("body", "known", "words"), REFUSED, ids=lambda value: str(value)[:40])
def test_what_is_refused(body: str, known: dict[str, tf.DType], words: str) -> None:
    def read() -> None:
        request = parse(body.encode())
        signature_name(request, "serving_default")
        read_inputs(request, specs(known))

    with pytest.raises(ServingError) as caught:
        read()
    assert caught.value.code.name == "INVALID_ARGUMENT"
    assert (words in caught.value.message) != (body in DIFFERS)


TWELVE = np.array([[[1, 2], [3, 4], [5, 6]], [[7, 8], [9, 0], [1, 2]]], "int32")
BYTES = np.array([[b"hello", b"world"], [b"tf", b"serving"]], object)
IN_BASE64 = [[{"b64": "aGVsbG8="}, {"b64": "d29ybGQ="}], [{"b64": "dGY="}, {"b64": "c2VydmluZw=="}]]
NAMED = {
    "double_scalar_tensor": np.array([8.0, 9.0]),
    "float_tensor": np.array([[1], [2]], "float32"),
    "int_tensor": TWELVE,
    "str_tensor": np.array([[b"foo", b"bar"], [b"baz", b"bat"]], object),
    "str_tensor_bytes": BYTES,
}
NAMED_JSON: dict[str, Any] = {
    "double_scalar_tensor": [8.0, 9.0],
    "float_tensor": [[1.0], [2.0]],
    "int_tensor": TWELVE.tolist(),
    "str_tensor": [["foo", "bar"], ["baz", "bat"]],
    "str_tensor_bytes": IN_BASE64,
}
SIX_DIGITS = np.array([[9000000, 999999, 0.5], [0.0003, 0.00003, 555557.5]], "float32")
WRITTEN: list[tuple[dict[str, np.ndarray], bool, Any]] = [
    ({"int_tensor": TWELVE}, True, {"predictions": TWELVE.tolist()}),
    ({"int_tensor": TWELVE}, False, {"outputs": TWELVE.tolist()}),
    ({"int_tensor": np.arange(1, 6)}, True, {"predictions": [1, 2, 3, 4, 5]}),
    ({"int_tensor": np.arange(1, 6)}, False, {"outputs": [1, 2, 3, 4, 5]}),
    ({"str_tensor_bytes": BYTES}, True, {"predictions": IN_BASE64}),
    ({"f": SIX_DIGITS}, True, {"predictions": [[9e06, 999999.0, 0.5], [0.0003, 3e-05, 555557.5]]}),
    (NAMED, True, {"predictions": [{name: value[i] for name, value in NAMED_JSON.items()} for i in range(2)]}),
    (NAMED, False, {"outputs": NAMED_JSON}),
    ({"int_tensor": np.zeros((0, 2), "int32")}, True, {"predictions": []}),
    ({"s": np.zeros((0, 1, 2), object), "f": np.zeros((0, 3, 4), "float32")}, True, {"predictions": []}),
]


@pytest.mark.parametrize(("outputs", "rows", "expected"), WRITTEN)
def test_what_is_written(outputs: dict[str, np.ndarray], rows: bool, expected: Any) -> None:
    assert json.loads(write_outputs(outputs, rows)) == expected


def test_numbers_that_are_not_finite_are_written() -> None:
    text = write_outputs({"f": np.array([[NAN, INF], [3, -INF]], "float32")}, True)
    assert text.replace(b" ", b"") == b'{"predictions":[[NaN,Infinity],[3.0,-Infinity]]}'


@pytest.mark.parametrize(
    ("outputs", "words"),
    [
        ({"tensor": np.array([1 + 2j], "complex64")}, "tensor type: complex64"),
        ({"tensor": np.array(1, "int32")}, "no shape information"),
        ({"i": np.zeros((2, 3), "int32"), "s": np.array([["foo"] * 3], object)}, "inconsistent batch size"),
        ({"i": np.zeros((0, 2), "int32"), "s": np.array([["foo"] * 2], object)}, "inconsistent batch size"),
    ],
)
def test_what_cannot_be_written(outputs: dict[str, np.ndarray], words: str) -> None:
    with pytest.raises(ServingError, match=words) as caught:
        write_outputs(outputs, True)
    assert caught.value.code.name == "INVALID_ARGUMENT"


@pytest.mark.parametrize("message", ['Bad key: "key"', "Bad key: 'key'"])
def test_an_error_is_written(message: str) -> None:
    assert json.loads(write_error(message)) == {"error": message}


CONTEXT = (
    'example_list_with_context { context { features { feature { key: "query" value { bytes_list { value: "pizza" }}}'
)
FEATURE = 'feature {{ key: "{}" value {{ {} }}}} '
NAMES = FEATURE.format("names", 'bytes_list { value: "foo" value: "bar" }')
EXAMPLES = [
    (
        """{"examples": [{"names": ["foo", "bar"], "ratings": [8.0, 9.0], "age": 20},
            {"names": ["baz"], "ratings": 6.0}]}""",
        "example_list { examples { features { "
        + NAMES
        + FEATURE.format("ratings", "float_list { value: 8 value: 9 }")
        + FEATURE.format("age", "int64_list { value: 20 }")
        + "}} examples { features { "
        + FEATURE.format("names", 'bytes_list { value: "baz" }')
        + FEATURE.format("ratings", "float_list { value: 6 }")
        + "}}}",
    ),
    (
        """{"signature_name": "custom_signture", "context": {"query": "pizza", "location": ["sfo"]}, "examples": [
            {"names": ["foo", "bar"], "ratings": [8.0, 9.0, Infinity], "age": 20},
            {"names": ["baz", {"b64": "aGVsbG8="}], "ratings": 6.0, "intboolmix": [1, true, false]},
            {"names": "bar", "ratings": -Infinity}]}""",
        "example_list_with_context { context { features { "
        + FEATURE.format("query", 'bytes_list { value: "pizza" }')
        + FEATURE.format("location", 'bytes_list { value: "sfo" }')
        + "}} examples { features { "
        + NAMES
        + FEATURE.format("ratings", "float_list { value: 8 value: 9 value: inf }")
        + FEATURE.format("age", "int64_list { value: 20 }")
        + "}} examples { features { "
        + FEATURE.format("names", 'bytes_list { value: "baz" value: "hello" }')
        + FEATURE.format("ratings", "float_list { value: 6 }")
        + FEATURE.format("intboolmix", "int64_list { value: 1 value: 1 value: 0 }")
        + "}} examples { features { "
        + FEATURE.format("names", 'bytes_list { value: "bar" }')
        + FEATURE.format("ratings", "float_list { value: -inf }")
        + "}}}",
    ),
]
NO_EXAMPLES = [
    ('{"signature_name": ["hello"], "examples": [{"names": ["foo"]}]}', "'signature_name' key must be a string"),
    ('{"context": [{"names": ["foo", "bar"]}]}', "Example must be JSON object"),
    ('{"examples": {"names": ["foo", "bar"]}}', "list/array"),
    ('{"examples": [[{"names": ["foo", "bar"]}]]}', "Example must be JSON object"),
    ('{"examples": [{"names": [10, null]}]}', "names has element with unexpected JSON type: Null"),
    ('{"examples": [{"names": [10, 10.0]}]}', "feature: names expecting type: int64"),
    ('{"examples": [{"names": [10, {"test": 10}]}]}', "names has element with unexpected JSON type: Object"),
    ('{"examples": [{"names": [[10], 20]}]}', "names has element with unexpected JSON type: Array"),
    ('{"examples": [{"names": [20, 18446744073709551603]}]}', "Only int64_t is supported"),
]


@pytest.mark.parametrize(("body", "expected"), EXAMPLES, ids=["examples", "with context"])
@pytest.mark.parametrize("call", [classification_pb2.ClassificationRequest, regression_pb2.RegressionRequest])
def test_examples_that_are_read(body: str, expected: str, call: Any) -> None:
    request = call(input=examples.input_from_json(parse(body.encode())))
    assert request == text_format.Parse(f"input {{ {expected} }}", call())


@pytest.mark.parametrize("body", [b'{"examples": [{"b\xff4": "a"}]}', b'{"examples": [{"\\ud800": 1}]}'])
def test_names_of_features_are_utf_8(body: bytes) -> None:
    """Found by the attack: a 500."""
    with pytest.raises(ServingError, match="Feature name .* is not UTF-8|JSON Parse error"):
        examples.input_from_json(parse(body))


@pytest.mark.parametrize(("body", "words"), NO_EXAMPLES)
def test_examples_that_are_refused(body: str, words: str) -> None:
    def read() -> None:
        request = parse(body.encode())
        signature_name(request, "")
        examples.input_from_json(request)

    with pytest.raises(ServingError) as caught:
        read()
    assert (caught.value.code.name, words in caught.value.message) == ("INVALID_ARGUMENT", True)


def test_results_are_written() -> None:
    classes = classification_pb2.ClassificationResult()
    for scores in ((0.2, 0.7, 0.1), (0.7, 0.1, 0.2)):
        row = classes.classifications.add()
        for label, score in zip(("car", "bike", "bus"), scores, strict=True):
            row.classes.add(label=label, score=score)
    assert json.loads(write_results(examples.results_of(classes)))["results"] == [
        [["car", 0.2], ["bike", 0.7], ["bus", 0.1]],
        [["car", 0.7], ["bike", 0.1], ["bus", 0.2]],
    ]
    values = [regression_pb2.Regression(value=value) for value in (0.2, INF, 1.0, -INF, NAN)]
    text = write_results(examples.results_of(regression_pb2.RegressionResult(regressions=values)))
    assert text.replace(b" ", b"") == b'{"results":[0.2,Infinity,1.0,-Infinity,NaN]}'

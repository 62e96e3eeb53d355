"""The values of TensorFlow Serving's REST API to arrays and back (json_tensor.cc)."""

import base64
import functools
import itertools
import json
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import orjson
import tensorflow as tf

from resnet_keras.serving.json_reader import from_base64, is_base64, json_type, shown
from resnet_keras.serving.loaded import OutputArrays
from resnet_keras.serving.status import ServingError, invalid
from resnet_keras.serving.tensors import DEEPEST, TensorInfo


def signature_name(request: Mapping[str, Any], default: str) -> str:
    name = request.get("signature_name", default)
    if not isinstance(name, str):
        raise invalid(
            f"JSON Value: {shown(request)} not formatted correctly. 'signature_name' key must be a string value."
        )
    return name or default


def output_filter(request: Mapping[str, Any]) -> list[str]:
    """The outputs to return; TensorFlow Serving has this field in gRPC only."""
    names = request.get("output_filter", [])
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise invalid("'output_filter' key must be a list of strings.")
    return names


def in_rows(request: Mapping[str, Any]) -> bool:
    """Whether the inputs come in rows ("instances") and not in columns ("inputs"); the outputs follow them."""
    return "instances" in request


def read_inputs(request: Mapping[str, Any], specs: Mapping[str, TensorInfo]) -> dict[str, np.ndarray]:
    """The inputs of a request as arrays of the dtypes in `specs`. Raises `ServingError` (INVALID_ARGUMENT)."""
    if not specs:
        raise invalid("Failed to get input map for signature: it has no inputs")
    if "instances" in request and "inputs" in request:
        raise invalid(
            f"JSON Value: {shown(request)} Not formatted correctly expecting only one of 'inputs' or 'instances' keys "
            "to exist "
        )
    if "instances" in request:
        return _rows(request, specs)
    if "inputs" in request:
        return _columns(request["inputs"], specs)
    raise invalid("Missing 'inputs' or 'instances' key")


def _columns(value: Any, specs: Mapping[str, TensorInfo]) -> dict[str, np.ndarray]:
    if not isinstance(value, dict) or is_base64(value):
        if len(specs) > 1:
            raise invalid(
                "inputs is a plain value/list, but expecting an object as multiple input tensors required as per "
                "tensorinfo_map"
            )
        ((name, spec),) = specs.items()
        return {name: to_array(value, spec.dtype)}
    for name in specs:
        if name not in value:
            raise invalid(f"Missing named input: {name} in 'inputs' object.")
    return {name: to_array(value[name], spec.dtype) for name, spec in specs.items()}


def _rows(request: Mapping[str, Any], specs: Mapping[str, TensorInfo]) -> dict[str, np.ndarray]:
    rows = request["instances"]
    if not isinstance(rows, list):
        raise invalid(f"JSON Value: {shown(request)} Expecting 'instances' to be an list/array")
    if not rows:
        raise invalid(f"JSON Value: {shown(request)} No values in 'instances' array")
    named = isinstance(rows[0], dict) and not is_base64(rows[0])
    if not isinstance(rows[0], dict) and len(specs) > 1:
        raise invalid(
            "instances is a plain list, but expecting list of objects as multiple input tensors required as per "
            "tensorinfo_map"
        )
    for number, row in enumerate(rows):
        if named != (isinstance(row, dict) and not is_base64(row)):
            expected, got = ("object", "list") if named else ("value/list", "object")
            raise invalid(f"Expecting {expected} but got {got} at item {number} of input list")
        if named and set(row) != set(specs):
            for name in row:
                if name not in specs:
                    raise _in_row(number, name, invalid(f"JSON object: does not have named input: {name}"))
            raise invalid(
                f"Failed to process element: {number} of 'instances' list. JSON object: {shown(row)} keys must be "
                f"equal to: {','.join(sorted(specs))}"
            )
    if named:
        return {name: _stacked([row[name] for row in rows], spec.dtype, name) for name, spec in specs.items()}
    ((name, spec),) = list(specs.items())[:1]
    return {name: _stacked(rows, spec.dtype, None)}


def _stacked(values: list[Any], dtype: tf.DType, name: str | None) -> np.ndarray:
    """Rows of one shape as one array."""
    whole = _at_once(values, dtype)
    if whole is not None:
        return whole
    flat: list[Any] = []
    first: list[int] = []
    for number, value in enumerate(values):
        try:
            shape = _shape_of(value)
            _flatten(value, shape, 0, dtype, flat)
            first = first if number else shape
            if math.prod(shape) != math.prod(first):
                raise invalid(f"Expecting tensor size: {math.prod(first)} but got: {math.prod(shape)}")
            if shape != first:
                raise invalid(f"Expecting shape {_shape(first)} but got: {_shape(shape)}")
        except ServingError as error:
            raise _in_row(number, name, error) from None
    return _array(flat, [len(values), *first], dtype)


def _in_row(number: int, name: str | None, error: ServingError) -> ServingError:
    key = f" key: {name}" if name is not None else ""
    return invalid(f"Failed to process element: {number}{key} of 'instances' list. Error: {error}")


def to_array(value: Any, dtype: tf.DType) -> np.ndarray:
    """A value, or lists within lists, as an array. Raises `ServingError` where they have not one shape or type."""
    whole = _at_once(value, dtype)
    if whole is not None:
        return whole
    shape, flat = _shape_of(value), []
    _flatten(value, shape, 0, dtype, flat)
    return _array(flat, shape, dtype)


def _shape_of(value: Any) -> list[int]:
    """By the first of each list."""
    shape = []
    while isinstance(value, list):
        shape.append(len(value))
        if not value:
            break
        value = value[0]
    if len(shape) > DEEPEST:
        raise invalid(f"Encountered lists within lists, {len(shape)} deep; a tensor has at most {DEEPEST} dimensions")
    return shape


def _array(flat: list[Any], shape: list[int], dtype: tf.DType) -> np.ndarray:
    if dtype == tf.string:
        array = np.empty(len(flat), object)
        array[:] = flat
        return array.reshape(shape)
    with np.errstate(over="ignore"):
        return np.array(flat, dtype.as_numpy_dtype).reshape(shape)


def _at_once(value: Any, dtype: tf.DType) -> np.ndarray | None:
    """The array of lists of plain numbers, without a loop in Python; None for other values.

    Nearly every request is such. Types are looked at before numpy sees a value: of strings it would make an array of
    the longest one's width.
    """
    allowed = {bool} if dtype == tf.bool else {int} if dtype.is_integer else {int, float} if dtype.is_floating else {}
    if not isinstance(value, list) or not value or not allowed:
        return None
    shape, level = [len(value)], value
    while (kinds := set(map(type, level))) == {list}:
        sizes = set(map(len, level))
        if len(sizes) > 1 or len(shape) == DEEPEST:
            return None
        shape += sizes
        level = list(itertools.chain.from_iterable(level))
    if not kinds <= set(allowed):
        return None
    try:
        return _array(level, shape, dtype)
    except OverflowError:
        return None


def _flatten(value: Any, shape: list[int], level: int, dtype: tf.DType, flat: list[Any]) -> None:
    if not isinstance(value, list):
        if level != len(shape):
            raise invalid(
                f"JSON Value: {shown(value)} found at incorrect level: {level + 1} in the JSON DOM. "
                f"Expected at level: {len(shape)}"
            )
        flat.append(_single(value, dtype))
        return
    if level >= len(shape):
        raise invalid(f"Encountered list at unexpected level: {level} expected < {len(shape)}")
    if len(value) != shape[level]:
        raise invalid(
            f"Encountered list at unexpected size: {len(value)} at level: {level} expected size: {shape[level]}"
        )
    for inner in value:
        _flatten(inner, shape, level + 1, dtype, flat)


def _single(value: Any, dtype: tf.DType) -> Any:
    if dtype == tf.string:
        if isinstance(value, dict):
            return from_base64(value)
        good = isinstance(value, str)
        value = value.encode("utf-8", "surrogateescape") if good else value
    elif dtype == tf.bool:
        good = isinstance(value, bool)
    elif dtype.is_integer:
        least, most = _range(dtype)
        good = isinstance(value, int) and not isinstance(value, bool) and least <= value <= most
    elif dtype.is_floating:
        good = isinstance(value, int | float) and not isinstance(value, bool)
        try:
            value = float(value) if good else value
        except OverflowError:  # a whole number beyond all floats
            good = False
    else:
        raise invalid(f"Conversion of JSON Value: {shown(value)} to type: {dtype.name} is not supported")
    if not good:
        raise invalid(f"JSON Value: {shown(value)} Type: {json_type(value)} is not of expected type: {_name(dtype)}")
    return value


@functools.cache
def _range(dtype: tf.DType) -> tuple[int, int]:
    """TensorFlow takes a tenth of a millisecond to say it."""
    return int(dtype.min), int(dtype.max)


def write_outputs(outputs: OutputArrays, rows: bool) -> bytes:
    """The body of an answer: in rows or columns as the request was; a single output has no name."""
    values = {name: _encodable(array, name) for name, array in outputs.items()}
    if not rows:
        return _dump({"outputs": values if len(values) > 1 else next(iter(values.values()))})
    sizes = {name: array.shape[0] if array.ndim else None for name, array in outputs.items()}
    for name, size in sizes.items():
        if size is None:
            raise invalid(f"Tensor name: {name} has no shape information ")
        first = next(iter(sizes.values()))
        if size != first:
            raise invalid(f"Tensor name: {name} has inconsistent batch size: {size} expecting: {first}")
    if len(values) == 1:
        return _dump({"predictions": next(iter(values.values()))})
    count = next(iter(sizes.values())) or 0
    return _dump({"predictions": [{name: value[i] for name, value in values.items()} for i in range(count)]})


def write_results(results: list[Any]) -> bytes:
    """The body of an answer to Classify or Regress."""
    return _dump({"results": results})


def write_error(message: str) -> bytes:
    """The body of a refusal."""
    return json.dumps({"error": message}).encode()


def _encodable(array: np.ndarray, name: str) -> Any:
    """An array as orjson takes it: numbers in numpy, where it writes the fewest digits that give a float32 back."""
    if array.dtype.kind == "c":
        raise invalid(f"Unexpected tensor type: {array.dtype}, which JSON has no value for; name: {name}")
    if array.dtype == object:
        return _strings(array.tolist(), name.endswith("_bytes"))
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        shortest = np.array([float(str(x)) for x in array.ravel()]).reshape(array.shape)
        return shortest.tolist()
    if array.dtype.name == "bfloat16":
        array = array.astype("float32")
    return np.ascontiguousarray(array) if array.ndim else array[()]


def _strings(value: Any, as_base64: bool) -> Any:
    if isinstance(value, list):
        return [_strings(inner, as_base64) for inner in value]
    value = value.encode() if isinstance(value, str) else value
    if as_base64:
        return {"b64": base64.b64encode(value).decode()}
    return value.decode("utf-8", "replace")


def _dump(value: Any) -> bytes:
    if _has_nan(value):
        return json.dumps(_plain(value)).encode()
    return orjson.dumps(value, option=orjson.OPT_SERIALIZE_NUMPY)


def _has_nan(value: Any) -> bool:
    """Whether lists hold NaN or infinity, which JSON lacks. Only `_encodable` puts floats in lists, and only then."""
    if isinstance(value, dict):
        return any(map(_has_nan, value.values()))
    if isinstance(value, list):
        return any(map(_has_nan, value))
    return isinstance(value, float) and not np.isfinite(value)


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_plain(inner) for inner in value]
    return value.tolist() if isinstance(value, np.ndarray | np.generic) else value


def _name(dtype: tf.DType) -> str:
    """A type as TensorFlow Serving's messages have it."""
    return {"float32": "float", "float64": "double"}.get(dtype.name, dtype.name)


def _shape(shape: list[int]) -> str:
    return "[" + ",".join(map(str, shape)) + "]"

"""The JSON of a request, read as TensorFlow Serving's RapidJSON reads it (json_tensor.cc)."""

import base64
import binascii
import itertools
import json
import math
import re
from typing import Any

import orjson

from resnet_keras.serving.status import invalid

SHOWN = 256
"""Characters of a value that an error message shows."""


def parse(body: bytes) -> dict[str, Any]:
    """The object of a request, read as TensorFlow Serving reads it (RapidJSON, with its flags of json_tensor.cc).

    NaN and Infinity are numbers, text behind the object is not looked at, and of a key that comes twice the first
    counts.
    """
    if not body:
        raise invalid("JSON Parse error: The document is empty")
    try:
        value = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        value = _read_patiently(body, error)
    else:
        if any(body.count(key) > 1 for key in KEYS):
            value = _read_patiently(body, None)
    if not isinstance(value, dict):
        raise invalid(f"JSON Value: {shown(value)} Is not object")
    return value


def _read_patiently(body: bytes, error: orjson.JSONDecodeError | None) -> Any:
    """What orjson does not take, by Python's own reader, which is slower."""
    text = body.decode("utf-8", "surrogateescape").removeprefix("\ufeff").lstrip(" \t\r\n")
    text = NOT_FINITE.sub(_as_python_has_it, text)
    try:
        return DECODER.raw_decode(text)[0]
    except (ValueError, RecursionError) as own:
        offset = f" at offset: {error.pos}" if error else ""
        words = "" if str(own).startswith("Number too big") else "Invalid value. "
        words += error.msg if error and words else str(own)
        raise invalid(f"JSON Parse error: {words}{offset}") from None


NOT_FINITE = re.compile(r'"(?:[^"\\]++|\\.)*+(?:"|\\?\Z)|-?NaN|-?Inf(?:inity)?', re.S)
"""Strings are passed over, one without an end up to the end: else each quote in it would be begun from again."""
KEYS = (b'"instances"', b'"inputs"', b'"examples"', b'"context"', b'"signature_name"')


def _as_python_has_it(found: re.Match[str]) -> str:
    text = found[0]
    if text.startswith('"'):
        return text
    return "NaN" if text.endswith("NaN") else text.removesuffix("inity") + "inity"


def _finite(text: str) -> float:
    value = float(text)
    if math.isinf(value):
        raise ValueError("Number too big to be stored in double.")
    return value


def _first_of_each(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    return dict(reversed(pairs))


DECODER = json.JSONDecoder(object_pairs_hook=_first_of_each, parse_float=_finite)


def is_base64(value: Any) -> bool:
    return isinstance(value, dict) and len(value) == 1 and isinstance(value.get("b64"), str)


def from_base64(value: dict[str, Any]) -> bytes:
    if not is_base64(value):
        raise invalid(f"JSON Value: {shown(value)} not formatted correctly for base64 data")
    text = "".join(value["b64"].split())
    bare = text.rstrip("=")
    padding = "=" * (-len(bare) % 4)
    try:
        if text not in (bare, bare + padding):
            raise binascii.Error("too much padding, or too little")
        return base64.b64decode(bare + padding, validate=True)
    except (binascii.Error, ValueError):
        raise invalid("Unable to base64 decode") from None


def shown(value: Any, depth: int = 4) -> str:
    """The start of a value's JSON."""
    if isinstance(value, list | dict) and not depth:
        return "..."
    if isinstance(value, list):
        text = f"[{', '.join(shown(inner, depth - 1) for inner in value[:8])}{', ...' if len(value) > 8 else ''}]"
    elif isinstance(value, dict):
        some = itertools.islice(value.items(), 8)
        parts = [f"{json.dumps(key[:SHOWN])}: {shown(inner, depth - 1)}" for key, inner in some]
        text = f"{{{', '.join(parts)}{', ...' if len(value) > 8 else ''}}}"
    else:
        text = json.dumps(value[:SHOWN] if isinstance(value, str) else value)
    return text[:SHOWN]


def json_type(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return {None: "Null", True: "True", False: "False"}[value]
    return {str: "String", list: "Array", dict: "Object"}.get(type(value), "Number")

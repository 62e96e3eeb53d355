"""Requests that no client should send: bodies, paths, messages and images, drawn from a seed."""

import base64
import json
import random
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow_serving.apis import predict_pb2

MODELS = ("half", "digits", "none", "", "h" * 300, "../half", "half/versions/1")
METHODS = ("predict", "classify", "regress", "Predict", "", "explain")


@dataclass(frozen=True)
class Nasty:
    """One request whose cost is measured by itself."""

    name: str
    kind: str
    """rest or grpc."""
    body: bytes


def value(drawn: random.Random, depth: int = 0) -> Any:
    """Any JSON."""
    kind = drawn.randrange(10 if depth < 4 else 7)
    match kind:
        case 0:
            return drawn.choice([None, True, False])
        case 1:
            return drawn.choice([0, 1, -1, 255, 256, 2**31, 2**63, 2**64, -(2**63) - 1, 10**30])
        case 2:
            return drawn.choice([0.0, -0.0, 1.5, 1e300, 5e-324, 1e-45, -1e38])
        case 3:
            return "".join(chr(drawn.choice([65, 0x1F600, 0, 34, 92, 0xE9, 0x2028])) for _ in range(drawn.randrange(9)))
        case 4:
            return {"b64": drawn.choice(["", "aGk=", "aGk", "a", "====", "!!!!", "aGk==", "\u00e9"])}
        case 5 | 6:
            shape = [drawn.randrange(4) for _ in range(drawn.randrange(5))]
            return np.full(shape, drawn.choice([0, 1, 0.5])).tolist()
        case 7 | 8:
            return [value(drawn, depth + 1) for _ in range(drawn.randrange(5))]
    return {
        drawn.choice(["x", "image", "b64", "inputs", ""]): value(drawn, depth + 1) for _ in range(drawn.randrange(4))
    }


def rest(drawn: random.Random, image: bytes) -> tuple[str, str, bytes]:
    """Method, path and body."""
    method = drawn.choices(["POST", "GET", "PUT", "DELETE", "OPTIONS", "HEAD"], [20, 3, 1, 1, 1, 1])[0]
    which = drawn.choice(
        ["", "", "", "/versions/1", f"/versions/{drawn.randrange(2**70)}", "/labels/x", "/versions/-1"]
    )
    path = f"/v1/models/{drawn.choice(MODELS)}{which}:{drawn.choice(METHODS)}"
    if drawn.random() < 0.6:
        path = f"/v1/models/{drawn.choice(MODELS[:2])}:predict"
    signature = drawn.choice(["serving_default", "image_bytes", "features", "two", "bytes", "scalar", "none", 3, None])
    key = drawn.choice(["instances", "inputs", "examples", "x"])
    content: Any = value(drawn)
    if drawn.random() < 0.3:
        content = [{"b64": base64.b64encode(damaged(drawn, image)).decode()}]
    body = json.dumps({"signature_name": signature, key: content}).encode()
    return method, path, damaged(drawn, body) if drawn.random() < 0.3 else body


def message(drawn: random.Random, image: bytes) -> bytes:
    """A PredictRequest, or what is left of one."""
    request = predict_pb2.PredictRequest()
    request.model_spec.name = drawn.choice(MODELS[:3])
    request.model_spec.signature_name = drawn.choice(["", "image_bytes", "features", "two", "bytes", "none"])
    for name in drawn.sample(["x", "a", "b", "text", "image", "image_bytes", ""], drawn.randrange(3)):
        tensor = request.inputs[name]
        tensor.dtype = drawn.choice([0, 1, 3, 4, 7, 9, 10, 20, 22, 101, 999])  # type: ignore[assignment]
        for _ in range(drawn.randrange(5)):
            tensor.tensor_shape.dim.add(size=drawn.choice([-1, 0, 1, 2, 8, 2**20, 2**31, 2**62]))
        match drawn.randrange(5):
            case 0:
                tensor.tensor_content = drawn.randbytes(drawn.randrange(64))
            case 1:
                tensor.float_val.extend([drawn.random()] * drawn.randrange(4))
            case 2:
                tensor.int_val.extend([drawn.randrange(-(2**31), 2**31)] * drawn.randrange(4))
            case 3:
                tensor.string_val.append(damaged(drawn, image))
    data = request.SerializeToString()
    return damaged(drawn, data) if drawn.random() < 0.3 else data


def damaged(drawn: random.Random, data: bytes) -> bytes:
    """With a few bytes changed, cut off, put in or doubled."""
    changed = bytearray(data or b"\0")
    for _ in range(drawn.randrange(1, 6)):
        changed = changed or bytearray(1)
        place = drawn.randrange(len(changed))
        match drawn.randrange(5):
            case 0:
                changed[place] ^= 1 << drawn.randrange(8)
            case 1:
                changed[place] = drawn.choice([0, 255, 127, 128])
            case 2 if len(changed) > 1:
                del changed[place:]
            case 3:
                changed[place:place] = drawn.randbytes(drawn.randrange(1, 9))
            case _:
                changed += changed[: drawn.randrange(1, 65)]
    return bytes(changed)


def raw(drawn: random.Random) -> bytes:
    """What is hardly HTTP."""
    line = drawn.choice([b"GET / HTTP/1.1", b"POST /v1/models/half:predict HTTP/1.1", b"\0" * 40, b"PRI * HTTP/2.0"])
    headers = drawn.sample(
        [
            b"Host: localhost",
            b"Host: attacker.example",
            b"Content-Length: -1",
            b"Content-Length: 99999999999999999999",
            b"Content-Length: 3",
            b"Transfer-Encoding: chunked",
            b"Expect: 100-continue",
            b"Connection: upgrade\r\nUpgrade: h2c",
            b"Origin: http://attacker.example",
            b"X: " + b"a" * drawn.choice([10, 70_000]),
        ],
        drawn.randrange(5),
    )
    return b"\r\n".join([line, *headers, b"", b""]) + drawn.randbytes(drawn.randrange(9))


def nasty(encoded: Callable[..., bytes]) -> list[Nasty]:
    """What took the server down once, and its siblings. `encoded` makes a file: `encoded("PNG", height, width)`."""

    def body(inside: bytes, key: bytes = b"instances", signature: bytes = b"serving_default") -> bytes:
        return b'{"signature_name": "' + signature + b'", "' + key + b'": ' + inside + b"}"

    long = b'"' + b"a" * 60_000 + b'"'
    found = [
        Nasty("strings for numbers", "rest", body(b"[" + long + b', "a"' * 12_000 + b"]")),
        Nasty("strings for numbers, by column", "rest", body(b"[[" + long + b', "a"' * 12_000 + b"]]", b"inputs")),
        Nasty("empty lists", "rest", body(b"[" + b"[]," * 350_000 + b"[]]")),
        Nasty("empty objects", "rest", body(b"[" + b"{}," * 350_000 + b"{}]")),
        Nasty("nulls", "rest", body(b"[" + b"null," * 200_000 + b"1]")),
        Nasty("numbers and a string", "rest", body(b"[" + b"1," * 500_000 + b'"a"]')),
        Nasty("NaN and numbers", "rest", body(b"[NaN" + b",1" * 500_000 + b"]")),
        Nasty("deep", "rest", body(b"[" * 500_000)),
        Nasty("1,000 deep, many times", "rest", body(b"[" + (b"[" * 900 + b"]" * 900 + b",") * 500 + b"1]")),
        Nasty("a string without an end", "rest", b'{"instances": ["' + b'\\"' * 500_000),
        Nasty("keys", "rest", b"{" + b",".join(b'"%d":1' % i for i in range(100_000)) + b"}"),
        Nasty("a number of a million digits", "rest", body(b"[" + b"9" * 1_000_000 + b"]")),
        Nasty(
            "base64 of nothing", "rest", body(b"[" + b'{"b64":""},' * 90_000 + b'{"b64":""}]', signature=b"image_bytes")
        ),
    ]
    for dtype, field in (("uint8", "int_val"), ("float32", "float_val"), ("string", "string_val")):
        for inside in ("image", "image_bytes", "x"):
            request = predict_pb2.PredictRequest()
            request.model_spec.name = "half" if inside == "x" else "digits"
            request.model_spec.signature_name = "image_bytes" if inside == "image_bytes" else ""
            tensor = request.inputs[inside]
            tensor.dtype = tf.as_dtype(dtype).as_datatype_enum
            getattr(tensor, field).append(b"a" if dtype == "string" else 1)
            sizes = (2**22, 8, 8, 1) if inside == "image" else (2**28,)
            for size in sizes:
                tensor.tensor_shape.dim.add(size=size)
            found.append(Nasty(f"one {dtype} for {sizes} of {inside}", "grpc", request.SerializeToString()))
    bmp = encoded("BMP", 8, 8)
    images = {
        "a PNG of 32 million pixels": encoded("PNG", 5792, 5792),
        "a PNG of 144 million pixels": encoded("PNG", 12_000, 12_000),
        "a GIF of tiny blocks": encoded("GIF", 8, 8)[:-1] + b"\x21\xfe" + b"\1\0" * 250_000 + b"\0;",
        "a GIF of tiny blocks before its frame": _before_frame(encoded("GIF", 8, 8), b"\1\0" * 250_000),
        "a JPEG XL": bytes.fromhex("ff0a03070013880200d400b59f200000152aa38c1bbc9cebf9f24387c5b48deb"),
        "a BMP that says more": bmp[:18] + struct.pack("<ii", 30_000, 30_000) + bmp[26:],
    }
    for name, image in images.items():
        inside = json.dumps([{"b64": base64.b64encode(image).decode()}]).encode()
        found.append(Nasty(name, "rest", body(inside, signature=b"image_bytes")))
    return found


def _before_frame(image: bytes, blocks: bytes) -> bytes:
    place = 13 + (3 * 2 ** ((image[10] & 7) + 1) if image[10] >= 128 else 0)
    return image[:place] + b"\x21\xfe" + blocks + b"\0" + image[place:]

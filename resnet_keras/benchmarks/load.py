"""Clients of a server as a program: so many at a time, each by a connection of its own, for so long.

Images are encoded (`image_bytes`), or pixels (`serving_default`), which leaves out what decoding costs. REST and gRPC.
"""

import base64
import contextlib
import json
import threading
import time
from collections.abc import Callable
from typing import Any, Literal

import numpy as np
import tensorflow as tf

from resnet_keras.benchmarks.variants import Program
from resnet_keras.errors import UsageError, reason

MODEL = "default"
TIMEOUT = 120.0
Protocol = Literal["rest", "grpc"]
Ask = Callable[[], object]


def clients(height: int, width: int, channels: int, count: int) -> Program:
    """So many clients of any server. An image is smooth and of the model's input size; JPEG, quality 90."""
    pixels, encoded = image_of(height, width, channels)

    def run(address: str, protocol: Protocol, pixel_input: str | None, seconds: float) -> dict[str, Any]:
        make = _rest if protocol == "rest" else _grpc
        value = pixels[None] if pixel_input else encoded
        latencies, took = ask_for(lambda: make(address, pixel_input, value), count, seconds)
        return answered(latencies, took, address)

    return Program(run, facts={"image_bytes": len(encoded)})


def answered(latencies: list[float], took: float, who: str) -> dict[str, Any]:
    """The sample of so many answers of one image. Raises `UsageError` for none."""
    if not latencies:
        raise UsageError(f"{who} answered nothing within {took:g} s")
    p50, p99 = np.percentile(latencies, [50, 99])
    return {"images": len(latencies), "seconds": took, "p50": float(p50), "p99": float(p99)}


def image_of(height: int, width: int, channels: int) -> tuple[np.ndarray, bytes]:
    """Smooth pixels, as noise is no photo, and the same as a JPEG; as a PNG where a JPEG has no such channels."""
    smooth = np.random.default_rng(0).uniform(0, 255, (max(2, height // 16), max(2, width // 16), channels))
    pixels = tf.saturate_cast(tf.image.resize(smooth, (height, width), "bicubic"), tf.uint8).numpy()
    encode = tf.io.encode_jpeg if channels in (1, 3) else tf.io.encode_png
    return pixels, encode(pixels).numpy()


def ask_for(make: Callable[[], tuple[Ask, Ask]], count: int, seconds: float) -> tuple[list[float], float]:
    """Seconds of each answer to so many clients, and of all of it. A client asks anew when it has its answer."""
    found: list[list[float]] = [[] for _ in range(count)]
    errors: list[Exception] = []
    start = threading.Barrier(count + 1)

    def work(latencies: list[float]) -> None:
        try:
            ask, close = make()
            ask()
        except Exception as error:
            errors.append(error)
            start.abort()
            return
        try:
            start.wait()
            end = time.perf_counter() + seconds
            while (began := time.perf_counter()) < end or not latencies:
                ask()
                latencies.append(time.perf_counter() - began)
        except threading.BrokenBarrierError:
            pass
        except Exception as error:
            errors.append(error)
        finally:
            close()

    threads = [threading.Thread(target=work, args=(latencies,)) for latencies in found]
    for thread in threads:
        thread.start()
    with contextlib.suppress(threading.BrokenBarrierError):
        start.wait()
    began = time.perf_counter()
    for thread in threads:
        thread.join()
    if errors:
        raise UsageError(f"the server did not answer: {reason(errors[0])}")
    return [latency for latencies in found for latency in latencies], time.perf_counter() - began


def _rest(address: str, pixel_input: str | None, value: Any) -> tuple[Ask, Ask]:
    import requests

    session = requests.Session()
    session.trust_env = False
    if pixel_input:
        body = json.dumps({"instances": value.tolist()})
    else:
        instance = {"b64": base64.b64encode(value).decode()}
        body = json.dumps({"signature_name": "image_bytes", "instances": [instance]})
    url = f"http://{address}/v1/models/{MODEL}:predict"

    def ask() -> None:
        response = session.post(url, body.encode(), timeout=TIMEOUT)
        if response.status_code != 200:
            raise UsageError(f"status {response.status_code}, {response.text[:200]}")

    return ask, session.close


def _grpc(address: str, pixel_input: str | None, value: Any) -> tuple[Ask, Ask]:
    import grpc
    from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc

    channel = grpc.insecure_channel(address, [("grpc.use_local_subchannel_pool", 1)])  # a connection of its own
    stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
    request = predict_pb2.PredictRequest()
    request.model_spec.name = MODEL
    request.model_spec.signature_name = "serving_default" if pixel_input else "image_bytes"
    tensor = tf.make_tensor_proto(value if pixel_input else [value])
    request.inputs[pixel_input or "image_bytes"].CopyFrom(tensor)
    return lambda: stub.Predict(request, timeout=TIMEOUT), channel.close

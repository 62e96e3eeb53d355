"""Tiny SavedModels to serve, and a server of them in this process."""

import contextlib
import gc
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import requests
import tensorflow as tf
from tensorflow.core.framework import tensor_pb2
from tensorflow_serving.apis import model_service_pb2_grpc, predict_pb2, prediction_service_pb2_grpc

from resnet_keras.serving.options import ServerOptions
from resnet_keras.serving.process import free_ports
from resnet_keras.serving.server import Server


def half_plus(two: float, folder: Path, *, steps: int = 0) -> Path:
    """TensorFlow Serving's own example, y = x / 2 + two.

    With `steps` slow operations in between, and one signature with more inputs and outputs.
    """
    v1 = tf.compat.v1
    with tf.Graph().as_default(), v1.Session() as session:
        x, a, b = (v1.placeholder(tf.float32, [None], name) for name in ("x", "a", "b"))
        text = v1.placeholder(tf.string, [None], "text")
        slow = x
        for _ in range(steps):
            slow = tf.reduce_sum(tf.linalg.matmul(tf.ones([600, 600]) * slow[0] * 0, tf.ones([600, 600]))) + slow
        y = tf.add(slow / 2, two, name="y")
        signatures = {
            "serving_default": _predict({"x": x}, {"y": y}),
            "two": _predict({"a": a, "b": b}, {"sum": a + b, "ratio": a / b}),
            "bytes": _predict(
                {"text": text}, {"text_bytes": tf.strings.upper(text), "length": tf.strings.length(text)}
            ),
            "scalar": _predict({"x": x}, {"sum": tf.reduce_sum(x)}),
        }
        builder = v1.saved_model.Builder(str(folder))
        builder.add_meta_graph_and_variables(session, [tf.saved_model.SERVING], signatures)
        builder.save()
    return folder


def half_plus_two_of_serving(folder: Path) -> Path:
    """The model of TensorFlow Serving's tests, with its signatures (saved_model_half_plus_two.py)."""
    v1 = tf.compat.v1
    methods = v1.saved_model.signature_constants
    with tf.Graph().as_default(), v1.Session() as session:
        serialized = v1.placeholder(tf.string, [None], "tf_example")
        features = {name: tf.io.FixedLenFeature([1], tf.float32, [0.0]) for name in ("x", "x2")}
        parsed: Any = tf.io.parse_example(serialized, features)
        x: Any = tf.identity(parsed["x"], "x")
        y, y2, y3 = x * 0.5 + 2.0, x * 0.5 + 3.0, parsed["x2"] * 0.5 + 3.0
        kinds = {
            "serving_default": ({"x": x}, {"y": y}, methods.PREDICT_METHOD_NAME),
            "regress_x_to_y": ({"inputs": serialized}, {"outputs": y}, methods.REGRESS_METHOD_NAME),
            "regress_x_to_y2": ({"inputs": serialized}, {"outputs": y2}, methods.REGRESS_METHOD_NAME),
            "regress_x2_to_y3": ({"inputs": parsed["x2"]}, {"outputs": y3}, methods.REGRESS_METHOD_NAME),
            "classify_x_to_y": ({"inputs": serialized}, {"scores": y}, methods.CLASSIFY_METHOD_NAME),
        }
        signatures = {name: _signature(*parts) for name, parts in kinds.items()}
        builder = v1.saved_model.Builder(str(folder))
        builder.add_meta_graph_and_variables(session, [tf.saved_model.SERVING], signatures)
        builder.save()
    return folder


def _predict(inputs: dict[str, tf.Tensor], outputs: dict[str, tf.Tensor]) -> object:
    return _signature(inputs, outputs, tf.compat.v1.saved_model.signature_constants.PREDICT_METHOD_NAME)


def _signature(inputs: dict[str, tf.Tensor], outputs: dict[str, tf.Tensor], method: str) -> object:
    v1 = tf.compat.v1.saved_model
    infos = [{name: v1.build_tensor_info(t) for name, t in some.items()} for some in (inputs, outputs)]
    return v1.build_signature_def(*infos, method)


def config_of(folder: Path, *names: str) -> str:
    """Write the configuration of models in a folder; returns its path."""
    entry = 'config {{ name: "{0}" base_path: "{1}/{0}" model_platform: "tensorflow" }}'
    path = folder / "models.config"
    path.write_text(f"model_config_list {{ {' '.join(entry.format(name, folder) for name in names)} }}")
    return str(path)


@contextlib.contextmanager
def running(**options: Any) -> Iterator["Address"]:
    """A server in this process, on free ports."""
    rest, rpc = free_ports()
    server = Server(
        ServerOptions(**{"port": rpc, "rest_api_port": rest, "file_system_poll_wait_seconds": 0, **options})
    )
    server.start()
    try:
        with grpc.insecure_channel(f"127.0.0.1:{rpc}") as channel:
            yield Address(server, f"http://127.0.0.1:{rest}", channel, rest, rpc)
    finally:
        server.stop()
        gc.freeze()  # a server that stops makes the collector visit all again, here all that the tests have in memory


class Address:
    """Where a server is, and a client of each kind."""

    def __init__(self, server: Server, url: str, channel: grpc.Channel, rest_port: int, grpc_port: int) -> None:
        self.server, self.url, self.channel = server, url, channel
        self.rest, self.grpc = f"127.0.0.1:{rest_port}", f"127.0.0.1:{grpc_port}"
        self.prediction = prediction_service_pb2_grpc.PredictionServiceStub(channel)
        self.models = model_service_pb2_grpc.ModelServiceStub(channel)

    def post(self, path: str, body: Any = None, **options: Any) -> requests.Response:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        return requests.post(f"{self.url}{path}", data, timeout=60, **options)

    def get(self, path: str) -> requests.Response:
        return requests.get(f"{self.url}{path}", timeout=60)

    def predict(self, model: str, inputs: dict[str, Any], **spec: Any) -> predict_pb2.PredictResponse:
        return self.prediction.Predict(predict_request(model, inputs, **spec), timeout=60)


def predict_request(
    model: str, inputs: dict[str, Any], *, signature: str = "", version: int | None = None, label: str = "", **more: Any
) -> predict_pb2.PredictRequest:
    request = predict_pb2.PredictRequest(**more)
    request.model_spec.name, request.model_spec.signature_name = model, signature
    if version is not None:
        request.model_spec.version.value = version
    if label:
        request.model_spec.version_label = label
    for name, value in inputs.items():
        proto = value if isinstance(value, tensor_pb2.TensorProto) else tf.make_tensor_proto(value)
        request.inputs[name].CopyFrom(proto)
    return request

"""The server's API: status codes and bodies as TensorFlow Serving's sources and tests have them."""

import json
import re
import shutil
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import requests
import tensorflow as tf
from google.protobuf import text_format
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from serving_models import Address, half_plus, predict_request, running
from tensorflow.core.framework import tensor_pb2
from tensorflow_serving.apis import (
    get_model_metadata_pb2,
    get_model_status_pb2,
    model_management_pb2,
    predict_pb2,
    prediction_service_pb2_grpc,
)

from resnet_keras.cli.client_command import histogram, quantile
from resnet_keras.cli.flags import fill
from resnet_keras.errors import UsageError
from resnet_keras.export.comparison import run_servable
from resnet_keras.serving.client import ServerClient
from resnet_keras.serving.config_files import read_batching, read_models, read_monitoring
from resnet_keras.serving.options import ServerOptions, in_tyro_form
from resnet_keras.serving.process import free_ports
from resnet_keras.serving.server import Server


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory, servable: Path) -> Path:
    """A folder of models with a configuration of the container's paths."""
    folder = tmp_path_factory.mktemp("models")
    half_plus(2, folder / "half_plus_two" / "1")
    half_plus(3, folder / "half_plus_two" / "2")
    half_plus(2, folder / "half plus/two" / "1")
    shutil.copytree(servable, folder / "digits" / "7")
    (folder / "models.config").write_text(
        """model_config_list {
          config { name: "half_plus_two" base_path: "/models/half_plus_two" model_platform: "tensorflow"
            model_version_policy { all {} } version_labels { key: "stable" value: 1 }
            version_labels { key: "canary" value: 2 } }
          config { name: "digits" base_path: "/models/digits" model_platform: "tensorflow" }
        }"""
    )
    (folder / "monitoring.config").write_text("prometheus_config { enable: true }")
    return folder


@pytest.fixture(scope="module")
def served(models: Path) -> Iterator[Address]:
    monitoring = str(models / "monitoring.config")
    with running(
        model_config_file=str(models / "models.config"),
        monitoring_config_file=monitoring,
        max_request_bytes=8 << 20,
        rest_api_enable_cors_support=True,
    ) as address:
        yield address


HALF = "/v1/models/half_plus_two"


def test_the_documented_example(tmp_path: Path) -> None:
    half_plus(2, tmp_path / "half_plus_two" / "123")
    with running(model_name="half_plus_two", model_base_path=str(tmp_path / "half_plus_two")) as address:
        response = address.post(f"{HALF}:predict", {"instances": [1.0, 2.0, 5.0]})
        assert response.json() == {"predictions": [2.5, 3.0, 4.5]}
        assert response.headers["content-type"] == "application/json"
        assert response.headers["model-version"] == "123"
        status = {"version": "123", "state": "AVAILABLE", "status": {"error_code": "OK", "error_message": ""}}
        assert address.get(HALF).json() == {"model_version_status": [status]}


@pytest.mark.parametrize(
    ("path", "body", "expected"),
    [
        (HALF, {"instances": [1.0, 2.0, 5.0]}, {"predictions": [3.5, 4.0, 5.5]}),
        (HALF, {"inputs": [1.0]}, {"outputs": [3.5]}),
        (HALF, {"inputs": {"x": [1]}}, {"outputs": [3.5]}),
        (f"{HALF}/versions/1", {"instances": [1]}, {"predictions": [2.5]}),
        (f"{HALF}/labels/stable", {"instances": [1]}, {"predictions": [2.5]}),
        (f"{HALF}/labels/canary", {"instances": [1]}, {"predictions": [3.5]}),
        ("/V1/Models/half_plus_two", {"instances": [{"x": 1}]}, {"predictions": [3.5]}),
        ("/v1/models/half%5Fplus%5Ftwo", {"instances": [1]}, {"predictions": [3.5]}),
        (HALF, {"signature_name": "two", "inputs": {"a": [1], "b": [2]}}, {"outputs": {"sum": [3], "ratio": [0.5]}}),
        (
            HALF,
            {"signature_name": "two", "instances": [{"a": 1, "b": 2}], "output_filter": ["sum"]},
            {"predictions": [3]},
        ),
        (
            HALF,
            {"signature_name": "bytes", "instances": [{"b64": "aGk="}, "é"]},
            {
                "predictions": [
                    {"text_bytes": {"b64": "SEk="}, "length": 2},
                    {"text_bytes": {"b64": "w6k="}, "length": 2},
                ]
            },
        ),
        (HALF, {"signature_name": "scalar", "inputs": [1, 2]}, {"outputs": 3.0}),
    ],
)
def test_predict(served: Address, path: str, body: Any, expected: Any) -> None:
    response = served.post(f"{path}:predict", body)
    assert (response.status_code, response.json()) == (200, expected)


def test_numbers_that_json_has_not(served: Address) -> None:
    response = served.post(f"{HALF}:predict", b'{"instances": [NaN, Infinity, -Infinity]}')
    assert response.text.replace(" ", "") == '{"predictions":[NaN,Infinity,-Infinity]}'


ONE = {"instances": [1]}


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "words"),
    [
        ("POST", "/v1/models/x:predict", ONE, 404, "Servable not found for request: Latest(x)"),
        ("POST", f"{HALF}/versions/9:predict", ONE, 404, "Servable not found for request: Specific(half_plus_two, 9)"),
        ("POST", f"{HALF}/labels/x:predict", ONE, 400, "Unrecognized servable version label: x"),
        ("POST", f"{HALF}/versions/18446744073709551616:predict", ONE, 400, "Failed to convert version"),
        ("POST", f"{HALF}/versions/{'9' * 5000}:predict", ONE, 400, "Failed to convert version"),
        ("POST", HALF, ONE, 400, "Malformed request: POST /v1/models/half_plus_two"),
        ("POST", f"{HALF}:forget", ONE, 400, "Malformed request"),
        ("POST", f"{HALF}/versions/a:predict", ONE, 400, "Malformed request"),
        ("PUT", f"{HALF}:predict", ONE, 400, "Malformed request"),
        ("GET", f"{HALF}:predict", None, 400, "Malformed request"),
        ("GET", "/v1/models", None, 400, "Missing model name in request."),
        ("GET", "/v1/models/x", None, 404, "Could not find any versions of model x"),
        ("GET", f"{HALF}/versions/9", None, 404, "Could not find version 9 of model half_plus_two"),
        ("GET", "/v1/models/x/metadata", None, 404, "Servable not found for request: Latest(x)"),
        ("POST", f"{HALF}:classify", {"examples": [{}]}, 400, "Expected classification signature method"),
        ("POST", f"{HALF}:regress", {"examples": [{}]}, 400, "Expected regression signature method"),
        ("POST", f"{HALF}:predict", b"", 400, "JSON Parse error: The document is empty"),
        ("POST", f"{HALF}:predict", b"{", 400, "JSON Parse error"),
        ("POST", f"{HALF}:predict", {"signature_name": "x", "instances": [1]}, 400, '"x" not found in signature def'),
        ("POST", f"{HALF}:predict", {"signature_name": 1, "instances": [1]}, 400, "must be a string value"),
        ("POST", f"{HALF}:predict", {"instances": [[1]]}, 400, "input x must have the shape [?], not [1, 1]"),
        ("POST", f"{HALF}:predict", {"inputs": [1], "output_filter": ["z"]}, 400, "alias not found in signature: z"),
        ("POST", f"{HALF}:predict", {"inputs": [1], "output_filter": ["y", "y"]}, 400, "duplicate output tensor alias"),
        ("POST", f"{HALF}:predict", {"signature_name": "scalar", "instances": [1]}, 400, "has no shape information"),
        ("POST", "/v1/models/digits:predict", {"instances": [[1, 2]]}, 400, "input image must have the shape"),
        ("POST", "/v1/models/digits:predict", {"signature_name": "image_bytes", "inputs": []}, 400, "no images"),
        ("POST", f"{HALF}:predict", b" " * (9 << 20), 400, "larger than max_request_bytes"),
        ("GET", "/v2/health", None, 404, None),
    ],
)
def test_refusals(served: Address, method: str, path: str, body: Any, status: int, words: str | None) -> None:
    data = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
    response = requests.request(method, f"{served.url}{path}", data=data, timeout=60)
    assert response.status_code == status
    if words is not None:
        assert set(response.json()) == {"error"}
        assert words in response.json()["error"]


def test_metadata(served: Address) -> None:
    response = served.get(f"{HALF}/versions/1/metadata").json()
    assert response["model_spec"] == {"name": "half_plus_two", "signature_name": "", "version": "1"}
    signature = response["metadata"]["signature_def"]["signature_def"]["serving_default"]
    assert signature["method_name"] == "tensorflow/serving/predict"
    x = {
        "name": "x:0",
        "dtype": "DT_FLOAT",
        "tensor_shape": {"dim": [{"size": "-1", "name": ""}], "unknown_rank": False},
    }
    assert signature["inputs"] == {"x": x}


def test_images_over_rest_and_grpc(served: Address, servable: Path, digit_png: Path) -> None:
    image = digit_png.read_bytes()
    expected = run_servable(servable, {"image_bytes": {"image_bytes": [image]}})["image_bytes"]
    labels = [label.decode() for label in expected["labels"][0]]
    for protocol, server in (("rest", served.rest), ("grpc", served.grpc)):
        (answer,) = ServerClient(server, "digits", protocol=protocol).send([str(digit_png)])
        assert (answer.error, answer.labels, answer.version) == (None, tuple(labels), 7)
        np.testing.assert_allclose(answer.scores, expected["scores"][0], rtol=1e-5)
    damaged = served.prediction
    request = predict_request("digits", {"image_bytes": [b"junk", image]}, signature="image_bytes")
    response = damaged.Predict(request, timeout=60)
    assert tf.make_ndarray(response.outputs["labels"]).tolist()[0] == [b""] * len(labels)
    np.testing.assert_allclose(tf.make_ndarray(response.outputs["scores"])[1], expected["scores"][0], rtol=1e-5)
    over_rest = served.post("/v1/models/digits:predict", {"signature_name": "image_bytes", "instances": ["junk"]})
    assert over_rest.status_code == 400
    assert "no image can be read" in over_rest.json()["error"]


def test_grpc_predict(served: Address) -> None:
    response = served.predict("half_plus_two", {"x": np.array([1, 2, 5], "float32")}, label="stable")
    assert tf.make_ndarray(response.outputs["y"]).tolist() == [2.5, 3.0, 4.5]
    spec = response.model_spec
    assert (spec.name, spec.version.value, spec.signature_name) == ("half_plus_two", 1, "serving_default")
    some = {"a": np.array([1], "float32"), "b": np.array([2], "float32")}
    filtered = served.predict("half_plus_two", some, signature="two", output_filter=["ratio"])
    assert list(filtered.outputs) == ["ratio"]
    typed = tensor_pb2.TensorProto(dtype=tf.float32.as_datatype_enum, float_val=[1, 2])
    typed.tensor_shape.dim.add(size=4)
    repeated = served.predict("half_plus_two", {"x": typed}, version=1)
    assert repeated.outputs["y"].float_val[:] == [2.5, 3, 3, 3]


X = {"x": np.array([1], "float32")}


@pytest.mark.parametrize(
    ("request_", "code", "words"),
    [
        (predict_request("nobody", X), "NOT_FOUND", "Servable not found for request: Latest(nobody)"),
        (predict_request("half_plus_two", X, version=9), "NOT_FOUND", "Specific(half_plus_two, 9)"),
        (predict_request("half_plus_two", X, version=-1), "NOT_FOUND", "Specific(half_plus_two, -1)"),
        (predict_request("half_plus_two", X, label="x"), "INVALID_ARGUMENT", "Unrecognized servable version label: x"),
        (predict_request("", X), "INVALID_ARGUMENT", "ModelSpec has no name specified."),
        (predict_pb2.PredictRequest(), "INVALID_ARGUMENT", "Missing ModelSpec"),
        (predict_request("half_plus_two", X, signature="x"), "FAILED_PRECONDITION", 'key "x" not found.'),
        (predict_request("half_plus_two", {}), "INVALID_ARGUMENT", "Missing but required: {x}."),
        (predict_request("half_plus_two", {**X, "z": [1]}), "INVALID_ARGUMENT", "Sent extra: {z}."),
        (predict_request("half_plus_two", {"x": [1]}), "INVALID_ARGUMENT", "input x must be float32, not int32"),
        (predict_request("half_plus_two", {"x": np.float32(1)}), "INVALID_ARGUMENT", "must have the shape [?], not []"),
        (
            predict_request("half_plus_two", X, output_filter=["z"]),
            "INVALID_ARGUMENT",
            "expected to be in the set {y}.",
        ),
        (predict_request("digits", {"image": np.zeros([0, 8, 8, 1], "uint8")}), "INVALID_ARGUMENT", "no images"),
    ],
)
def test_grpc_refusals(served: Address, request_: predict_pb2.PredictRequest, code: str, words: str) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        served.prediction.Predict(request_, timeout=60)
    error: Any = caught.value
    assert error.code().name == code
    assert words in error.details()


def test_grpc_metadata_and_status(served: Address) -> None:
    request = get_model_metadata_pb2.GetModelMetadataRequest(metadata_field=["signature_def"])
    request.model_spec.name = "half_plus_two"
    response = served.prediction.GetModelMetadata(request, timeout=60)
    signatures = get_model_metadata_pb2.SignatureDefMap()
    assert response.metadata["signature_def"].Unpack(signatures)
    assert {"serving_default", "two"} <= set(signatures.signature_def)
    assert response.model_spec.version.value == 2
    request.metadata_field[:] = ["weights"]
    with pytest.raises(grpc.RpcError, match="Metadata field weights is not supported"):
        served.prediction.GetModelMetadata(request, timeout=60)
    request = get_model_status_pb2.GetModelStatusRequest()
    request.model_spec.name = "half_plus_two"
    response = served.models.GetModelStatus(request, timeout=60).model_version_status
    available = get_model_status_pb2.ModelVersionStatus.AVAILABLE
    assert [(row.version, row.state) for row in response] == [(2, available), (1, available)]


def test_health_and_reflection(served: Address) -> None:
    health: Any = health_pb2_grpc.HealthStub(served.channel)
    for service in ("", "tensorflow.serving.PredictionService"):
        answer = health.Check(health_pb2.HealthCheckRequest(service=service), timeout=60)
        assert answer.status == health_pb2.HealthCheckResponse.SERVING
    reflection: Any = reflection_pb2_grpc.ServerReflectionStub(served.channel)
    listing = reflection_pb2.ServerReflectionRequest(list_services="")
    (response,) = reflection.ServerReflectionInfo(iter([listing]), timeout=60)
    names = {service.name for service in response.list_services_response.service}
    assert {"tensorflow.serving.PredictionService", "tensorflow.serving.ModelService"} <= names


def test_metrics(served: Address) -> None:
    served.post(f"{HALF}:predict", ONE)
    served.post("/v1/models/made-up:predict", ONE)
    text = served.get("/monitoring/prometheus/metrics").text
    assert "# TYPE :tensorflow:serving:request_count counter" in text
    assert ':tensorflow:serving:request_count{model_name="half_plus_two",status="OK"}' in text
    assert ':tensorflow:serving:request_count{model_name="",status="NOT_FOUND"}' in text
    assert "made-up" not in text
    for name in ("request_latency", "runtime_latency", "model_warmup_latency"):
        assert f"# TYPE :tensorflow:serving:{name} histogram" in text
    assert ':tensorflow:serving:request_latency_bucket{API="predict",entrypoint="REST",le="10.0"' in text
    assert "_created" not in text


def test_a_fault_of_the_server_is_internal_and_counted_so(served: Address, monkeypatch: pytest.MonkeyPatch) -> None:
    def fault(*_: object) -> None:
        raise RuntimeError("a fault")

    def count() -> float:
        words = ':tensorflow:serving:request_count{model_name="half_plus_two",status="INTERNAL"} '
        lines = served.get("/monitoring/prometheus/metrics").text.splitlines()
        return sum(float(line.removeprefix(words)) for line in lines if line.startswith(words))

    assert served.server.core is not None
    monkeypatch.setattr(served.server.core.manager, "version", fault)
    before = count()
    response = served.post(f"{HALF}:predict", ONE)
    assert (response.status_code, response.json()) == (500, {"error": "RuntimeError: a fault"})
    assert count() == before + 1
    with pytest.raises(grpc.RpcError, match="RuntimeError: a fault") as caught:
        served.predict("half_plus_two", X)
    assert caught.value.code() == grpc.StatusCode.INTERNAL  # type: ignore[attr-defined]
    assert count() == before + 2


def test_cors(served: Address) -> None:
    allowed = requests.options(f"{served.url}{HALF}:predict", headers={"Origin": "http://a.example"}, timeout=60)
    assert (allowed.status_code, allowed.headers["access-control-allow-origin"]) == (200, "*")
    for answer in (allowed, served.get(HALF), served.post("/v1/models/x:predict", ONE)):
        assert answer.headers["access-control-allow-origin"] == "*"
        assert answer.headers["access-control-allow-methods"] == "POST, GET"
        assert answer.headers["access-control-allow-headers"] == "Content-Type"
    refused = requests.options(f"{served.url}{HALF}:predict", timeout=60)
    assert (refused.status_code, "Origin header is missing" in refused.text) == (400, True)


def test_reload_of_the_configuration(models: Path) -> None:
    def reload(text: str) -> model_management_pb2.ReloadConfigResponse:
        request = model_management_pb2.ReloadConfigRequest()
        text_format.Parse(text, request.config)
        return address.models.HandleReloadConfigRequest(request, timeout=60)

    def config(name: str, more: str = "") -> str:
        base = models / "half_plus_two"
        return f'config {{ name: "{name}" base_path: "{base}" model_platform: "tensorflow" {more} }}'

    with running(model_name="a", model_base_path=str(models / "half_plus_two")) as address:
        specific = "model_version_policy { specific { versions: 1 } }"
        reload(f"model_config_list {{ {config('a', specific)} {config('b')} }}")
        assert address.post("/v1/models/a:predict", ONE).json() == {"predictions": [2.5]}
        assert address.post("/v1/models/b:predict", ONE).json() == {"predictions": [3.5]}
        states = {row["version"]: row["state"] for row in address.get("/v1/models/a").json()["model_version_status"]}
        assert states["1"] == "AVAILABLE"
        assert states["2"] in ("UNLOADING", "END")
        label = 'version_labels { key: "x" value: 8 }'
        wrong = [
            (f"model_config_list {{ {config('a')} {config('a')} }}", "Illegal to list model a multiple times"),
            ('model_config_list { config { name: "c" } }', "model c has no base_path"),
            ("", "Only ModelConfigList is currently supported"),
            (f"model_config_list {{ {config('a', label)} }}", "label to version 8 of model a, which is not currently"),
        ]
        for text, words in wrong:
            with pytest.raises(grpc.RpcError, match=words):
                reload(text)
        reload(f"model_config_list {{ {config('b')} }}")
        assert address.post("/v1/models/a:predict", ONE).status_code == 404
        assert address.post("/v1/models/b:predict", ONE).status_code == 200


@pytest.mark.parametrize("key", ["server_key", "server_cert"])
def test_tls(models: Path, tmp_path: Path, key: str) -> None:
    if shutil.which("openssl") is None:
        pytest.skip("there is no openssl to make a certificate with")
    make = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"]
    pem = {"server_key": tmp_path / "key.pem", "server_cert": tmp_path / "cert.pem"}
    subprocess.run(
        [*make, "-addext", "subjectAltName=DNS:localhost", "-keyout", pem["server_key"], "-out", pem["server_cert"]],
        check=True,
        capture_output=True,
    )
    texts = {name: path.read_text().replace("\n", "\\n") for name, path in pem.items()}
    path = tmp_path / "ssl.config"
    path.write_text("".join(f'{name}: "{text}"\n' for name, text in texts.items()))
    options: dict[str, Any] = {"model_name": "half_plus_two", "model_base_path": str(models / "half_plus_two")}
    with running(**options, ssl_config_file=str(path)) as address:
        credentials = grpc.ssl_channel_credentials(pem["server_cert"].read_bytes())
        with grpc.secure_channel(address.grpc.replace("127.0.0.1", "localhost"), credentials) as channel:
            stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
            response = stub.Predict(predict_request("half_plus_two", X), timeout=60)
        assert response.outputs["y"].float_val[:] == [3.5]
    path.write_text("".join(f'{name}: "{text}"\n' for name, text in texts.items() if name != key))
    with pytest.raises(UsageError, match=f"{key} must be a PEM text"):
        Server(ServerOptions(**options, ssl_config_file=str(path)))


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ({"port": 0, "rest_api_port": 0}, "nothing would be served"),
        ({"port": 9, "rest_api_port": 9}, "give each its own"),
        ({"port": 70000}, "port must be a port from 0 to 65535"),
        ({"model_base_path": "/no/such/folder"}, "there is no folder /no/such/folder"),
        ({"model_config_file": "/no/such/file"}, "cannot read the model configuration /no/such/file: No such file"),
        ({"batching_parameters_file": "x"}, "of use with --enable_batching only"),
        ({"tensorflow_session_parallelism": 1, "tensorflow_intra_op_parallelism": 1}, "not both"),
        ({"max_request_bytes": 0}, "max_request_bytes must be at least 1"),
        ({"monitoring_config_file": "/no/file", "model_base_path": "/tmp"}, "cannot read the monitoring configuration"),
    ],
)
def test_wrong_flags(flags: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        Server(ServerOptions(**flags))


def test_a_model_that_cannot_be_loaded_is_refused_at_the_start(tmp_path: Path) -> None:
    (tmp_path / "m" / "1").mkdir(parents=True)
    with pytest.raises(UsageError, match="cannot serve: m version 1: Could not find SavedModel"):
        Server(
            ServerOptions(port=0, rest_api_port=free_ports()[0], model_name="m", model_base_path=str(tmp_path / "m"))
        )
    (tmp_path / "m" / "1" / "saved_model.pb").write_bytes(b"junk")
    with pytest.raises(UsageError, match="cannot serve: m version 1"):
        Server(
            ServerOptions(port=0, rest_api_port=free_ports()[0], model_name="m", model_base_path=str(tmp_path / "m"))
        )


def test_a_taken_port_is_said(served: Address, models: Path) -> None:
    base: dict[str, Any] = {"model_name": "half_plus_two", "model_base_path": str(models / "half_plus_two")}
    rest, rpc = free_ports()
    with pytest.raises(UsageError, match="give another --rest_api_port"):
        Server(ServerOptions(port=rpc, rest_api_port=int(served.rest.split(":")[1]), **base))
    with pytest.raises(UsageError, match="give another --port"):
        Server(ServerOptions(port=int(served.grpc.split(":")[1]), rest_api_port=rest, **base))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("max_batch_size { value: 0 }", "max_batch_size must be at least 1"),
        ("max_batch_size { value: 8 } allowed_batch_sizes: 4", "must rise and end at 8"),
        ("max_batch_size { value: 8 } allowed_batch_sizes: [4, 2, 8]", "must rise and end at 8"),
        ("pad_variable_length_inputs: true", "pad_variable_length_inputs"),
        ("max_execution_batch_size { value: 4 }", "enable_large_batch_splitting"),
        ("batch_timeout_micros { value: -1 }", "batch_timeout_micros must be"),
        ("no_such_field: 3", "cannot read the batching parameters"),
    ],
)
def test_wrong_batching_parameters(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "batching.config").write_text(text)
    with pytest.raises(UsageError, match=words):
        read_batching(tmp_path / "batching.config")


def test_settings_are_read(tmp_path: Path, models: Path) -> None:
    (tmp_path / "b").write_text(
        "max_batch_size { value: 32 } batch_timeout_micros { value: 500 } num_batch_threads { value: 3 }\n"
        "max_enqueued_batches { value: 7 } allowed_batch_sizes: [8, 32] thread_pool_name { value: 'p' }"
    )
    batching = read_batching(tmp_path / "b")
    assert (batching.max_batch_size, batching.batch_timeout_micros, batching.num_batch_threads) == (32, 500, 3)
    assert (batching.max_enqueued_batches, batching.allowed_batch_sizes, batching.thread_pool_name) == (7, (8, 32), "p")
    (tmp_path / "m").write_text("prometheus_config { enable: true path: '/metrics' }")
    assert read_monitoring(tmp_path / "m") == "/metrics"
    (tmp_path / "m").write_text("prometheus_config { enable: false }")
    assert read_monitoring(tmp_path / "m") is None
    entries = read_models(models / "models.config").model_config_list.config
    assert [entry.base_path for entry in entries] == [str(models / "half_plus_two"), str(models / "digits")]


def test_flags_in_tensorflow_servings_form() -> None:
    words = ["--enable_batching=true", "--enable_model_warmup=false", "--port=8500", "--model_name=true"]
    assert in_tyro_form(words) == ["--enable_batching", "--no-enable_model_warmup", "--port=8500", "--model_name=true"]


def test_too_many_requests_are_refused(tmp_path: Path) -> None:
    half_plus(2, tmp_path / "slow" / "1", steps=20)
    with running(model_name="slow", model_base_path=str(tmp_path / "slow"), max_waiting_requests=3) as address:
        codes: list[int] = []

        def one() -> None:
            codes.append(address.post("/v1/models/slow:predict", ONE).status_code)

        threads = [threading.Thread(target=one) for _ in range(24)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert set(codes) == {200, 503}
        assert address.post("/v1/models/slow:predict", ONE).json() == {"predictions": [2.5]}


def test_histogram_and_quantiles() -> None:
    times = [0.001, 0.001, 0.004]
    rows = histogram(times)
    assert sum(row["requests"] for row in rows) == 3
    assert (rows[0]["requests"], rows[-1]["requests"]) == (2, 1)
    assert (quantile(times, 0.5), quantile(times, 0.99)) == (0.001, 0.004)
    assert histogram([]) == []


@pytest.mark.parametrize("name", ["compose.yaml", "kubernetes/serving.yaml"])
def test_what_runs_tensorflow_serving_runs_this_server_too(name: str) -> None:
    root = Path(__file__).parents[2]
    models = root / "saved_models"
    flags = re.findall(r"- (--\S+)", (root / "deploy" / name).read_text().replace("${CORES:-2}", "2"))
    options = fill(ServerOptions, in_tyro_form(flags), "serve")
    assert options is not None
    options.check()
    assert options.enable_batching
    assert options.tensorflow_intra_op_parallelism == 1
    assert read_batching(models / Path(options.batching_parameters_file or "").name).allowed_batch_sizes[-1] == 8
    assert read_monitoring(models / Path(options.monitoring_config_file or "").name) is not None

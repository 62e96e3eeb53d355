"""TensorFlow Serving's own tests of its server, on the model that they are written for.

http_rest_api_handler_test.cc, server_core_test.cc and tensorflow_model_server_test.py of commit 9d981c5c (July 2026).
Left out is what is no server's answer: C++ hooks, other platforms than TensorFlow, TFLite, TF Text, Unix sockets, the
profiler.
"""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
import tensorflow as tf
from google.protobuf import text_format
from serving_models import Address, half_plus, half_plus_two_of_serving, running
from tensorflow_serving.apis import (
    classification_pb2,
    get_model_metadata_pb2,
    get_model_status_pb2,
    inference_pb2,
    model_management_pb2,
    regression_pb2,
)

from resnet_keras.cli.main import main
from resnet_keras.errors import UsageError
from resnet_keras.serving.process import free_ports

MODEL = "/v1/models/saved_model_half_plus_two_2_versions"
NAME = "saved_model_half_plus_two_2_versions"


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return half_plus_two_of_serving(tmp_path_factory.mktemp("models") / NAME / "00000123").parent


@pytest.fixture(scope="module")
def served(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Address]:
    path = tmp_path_factory.mktemp("config") / "models.config"
    labels = 'version_labels { key: "label" value: 123 }'
    path.write_text(f'model_config_list {{ config {{ name: "{NAME}" base_path: "{base}" {labels} }} }}')
    with running(model_config_file=str(path)) as address:
        yield address


@pytest.mark.parametrize(
    ("method", "path", "words"),
    [
        ("GET", "/v1/foo", "Malformed request"),
        ("POST", "/v1/foo", "Malformed request"),
        ("GET", "/v1/models", "Missing model name"),
        ("GET", "/v1/models/debug/model_name", "Malformed request"),
        ("POST", "/v1/models", "Malformed request"),
        ("GET", "/v1/models/foo:predict", "Malformed request"),
        ("GET", "/v1/models/foo/version/50:predict", "Malformed request"),
        ("POST", "/v1/models/foo/version/50:regress", "Malformed request"),
        ("POST", "/v1/models/foo/versions/HELLO:regress", "Malformed request"),
        ("POST", f"/v1/models/foo/versions/{2**64 - 1}:regress", "Failed to convert version"),
        ("POST", "/v1/models/foo/metadata", "Malformed request"),
        ("POST", "/v1/models/foo/label/some_label:regress", "Malformed request"),
        ("POST", "/v1/models/foo/versions/50/labels/some_label:regress", "Malformed request"),
        ("POST", "/v1/models/foo/versions/some_label:regress", "Malformed request"),
    ],
)
def test_paths_that_the_api_has_not(served: Address, method: str, path: str, words: str) -> None:
    answer = served.post(path, b"") if method == "POST" else served.get(path)
    assert (answer.status_code, words in answer.json()["error"]) == (400, True)


@pytest.mark.parametrize(
    ("path", "body", "status", "words"),
    [
        ("/v1/models/foo:predict", {"instances": [1]}, 404, ""),
        ("/v1/models/foo/versions/50:predict", {"instances": [1]}, 404, ""),
        (f"{MODEL}99:predict", {"instances": [1]}, 404, ""),
        (f"{MODEL}:predict", b"", 400, "JSON Parse error: The document is empty"),
        (f"{MODEL}:predict", b"instances = [1, 2]", 400, "JSON Parse error: Invalid value"),
        (f"{MODEL}:predict", {"instances": ["x", "y"]}, 400, "not of expected type: float"),
        (f"{MODEL}/labels/no:predict", {"instances": ["x", "y"]}, 400, "Unrecognized servable version label"),
        (f"{MODEL}:predict", {"signature_name": 100}, 400, "'signature_name' key must be a string value."),
    ],
)
def test_requests_that_are_refused(served: Address, path: str, body: Any, status: int, words: str) -> None:
    answer = served.post(path, body)
    assert (answer.status_code, words in answer.json()["error"]) == (status, True)


REGRESS = {"signature_name": "regress_x_to_y", "examples": [{"x": 80.0}]}


@pytest.mark.parametrize(
    ("path", "body", "expected"),
    [
        (":predict", {"instances": [[1.0], [2.0]]}, {"predictions": [[2.5], [3.0]]}),
        ("/versions/123:predict", {"instances": [1.0, 2.0]}, {"predictions": [2.5, 3.0]}),
        ("/labels/label:predict", {"instances": [1.0, 2.0]}, {"predictions": [2.5, 3.0]}),
        (":predict", {"signature_name": "serving_default", "instances": [3.0, 4.0]}, {"predictions": [3.5, 4.0]}),
        (":predict", {"signature_name": "serving_default", "inputs": [3.0, 4.0]}, {"outputs": [3.5, 4.0]}),
        (":predict", {"instances": [2.0, 3.0, 4.0]}, {"predictions": [3.0, 3.5, 4.0]}),
        (":predict", {"inputs": [2.0, 3.0, 4.0]}, {"outputs": [3.0, 3.5, 4.0]}),
        (":regress", REGRESS, {"results": [42]}),
        ("/versions/123:regress", REGRESS, {"results": [42]}),
        ("/labels/label:regress", REGRESS, {"results": [42]}),
        (":regress", {"signature_name": "regress_x_to_y", "examples": [{"x": 2.0}]}, {"results": [3.0]}),
        (":classify", {"signature_name": "classify_x_to_y", "examples": [{"x": 20.0}]}, {"results": [[["", 12]]]}),
        (
            "/labels/label:classify",
            {"signature_name": "classify_x_to_y", "examples": [{"x": 10.0}]},
            {"results": [[["", 7]]]},
        ),
        (":classify", {"signature_name": "classify_x_to_y", "examples": [{"x": 2.0}]}, {"results": [[["", 3.0]]]}),
    ],
)
def test_answers(served: Address, path: str, body: Any, expected: Any) -> None:
    answer = served.post(f"{MODEL}{path}", body)
    assert (answer.status_code, answer.json()) == (200, expected)
    assert answer.headers["content-type"] == "application/json"


def test_one_check_of_theirs_differs(served: Address) -> None:
    """Rows of two for a column: shapes are checked here, as a tensor of another rank can end TensorFlow's process."""
    answer = served.post(f"{MODEL}:predict", {"instances": [[1.0, 2.0], [3.0, 4.0]]})
    assert (answer.status_code, "must have the shape [?, 1], not [2, 2]" in answer.text) == (400, True)


@pytest.mark.parametrize("which", ["", "/versions/123", "/labels/label"])
def test_status(served: Address, which: str) -> None:
    status = {"error_code": "OK", "error_message": ""}
    row = {"version": "123", "state": "AVAILABLE", "status": status}
    assert served.get(f"{MODEL}{which}").json() == {"model_version_status": [row]}


def test_metadata(served: Address) -> None:
    answer = served.get(f"{MODEL}/metadata").json()
    assert answer["model_spec"] == {"name": NAME, "signature_name": "", "version": "123"}
    signatures = answer["metadata"]["signature_def"]["signature_def"]
    assert sorted(signatures) == [
        "classify_x_to_y",
        "regress_x2_to_y3",
        "regress_x_to_y",
        "regress_x_to_y2",
        "serving_default",
    ]
    sizes = [{"size": "-1", "name": ""}, {"size": "1", "name": ""}]
    shape = {"dim": sizes, "unknown_rank": False}
    assert signatures["serving_default"]["inputs"]["x"] == {"dtype": "DT_FLOAT", "tensor_shape": shape, "name": "x:0"}
    assert signatures["regress_x_to_y"]["method_name"] == "tensorflow/serving/regress"
    request = get_model_metadata_pb2.GetModelMetadataRequest(metadata_field=["signature_def"])
    request.model_spec.name = NAME
    result = served.prediction.GetModelMetadata(request, timeout=60)
    assert (result.model_spec.version.value, list(result.metadata)) == (123, ["signature_def"])


def two(request: Any) -> Any:
    """With an example whose x is 2."""
    request.input.example_list.examples.add().features.feature["x"].float_list.value.append(2.0)
    return request


def spec_of(message: Any, signature: str) -> None:
    message.model_spec.name, message.model_spec.signature_name = NAME, signature


def test_examples_by_grpc(served: Address) -> None:
    classify = two(classification_pb2.ClassificationRequest())
    spec_of(classify, "classify_x_to_y")
    answer = served.prediction.Classify(classify, timeout=60)
    assert [[one.score for one in row.classes] for row in answer.result.classifications] == [[3.0]]
    regress = two(regression_pb2.RegressionRequest())
    spec_of(regress, "regress_x_to_y")
    regressed = served.prediction.Regress(regress, timeout=60)
    assert [one.value for one in regressed.result.regressions] == [3.0]
    both = two(inference_pb2.MultiInferenceRequest())
    for kind, signature in (("regress", "regress_x_to_y"), ("classify", "classify_x_to_y")):
        spec_of(both.tasks.add(method_name=f"tensorflow/serving/{kind}"), signature)
    results = served.prediction.MultiInference(both, timeout=60).results
    assert results[0].regression_result.regressions[0].value == 3.0
    assert results[1].classification_result.classifications[0].classes[0].score == 3.0
    for spec, signature in (
        (answer.model_spec, "classify_x_to_y"),
        (regressed.model_spec, "regress_x_to_y"),
        (results[0].model_spec, "regress_x_to_y"),
        (results[1].model_spec, "classify_x_to_y"),
    ):
        assert (spec.name, spec.version.value, spec.signature_name) == (NAME, 123, signature)


@pytest.mark.parametrize(
    ("tasks", "words"),
    [
        ([], "must have at least one task"),
        ([("", "regress_x_to_y", "regress")], "empty model name"),
        ([(NAME, "regress_x_to_y", "regress"), ("other", "classify_x_to_y", "classify")], "the same model name"),
        ([(NAME, "regress_x_to_y", "regress")] * 2, "Duplicate evaluation of signature: regress_x_to_y"),
        ([(NAME, "no", "regress")], "No signature was found with the name: no"),
        ([(NAME, "regress_x_to_y", "predict")], "Unsupported signature method_name: tensorflow/serving/predict"),
        ([(NAME, "regress_x_to_y", "classify")], "Expected classification signature method_name to be"),
        ([(NAME, "classify_x_to_y", "regress")], "Expected regression signature method_name to be"),
        ([(NAME, "regress_x2_to_y3", "regress")], "input inputs must be float32"),
    ],
)
def test_tasks_that_are_refused(served: Address, tasks: list[tuple[str, str, str]], words: str) -> None:
    """multi_inference.cc, classifier.cc, regressor.cc."""
    request = two(inference_pb2.MultiInferenceRequest())
    for name, signature, kind in tasks:
        task = request.tasks.add(method_name=f"tensorflow/serving/{kind}")
        task.model_spec.name, task.model_spec.signature_name = name, signature
    with pytest.raises(grpc.RpcError, match=words):
        served.prediction.MultiInference(request, timeout=60)


def test_no_examples_are_refused(served: Address) -> None:
    request = regression_pb2.RegressionRequest()
    spec_of(request, "regress_x_to_y")
    with pytest.raises(grpc.RpcError, match="Input is empty"):
        served.prediction.Regress(request, timeout=60)


def test_saved_models_of_tensorflow_2(tmp_path: Path) -> None:
    """A function, two signatures, scalars in and out."""
    root: Any = tf.train.Checkpoint()
    root.v1, root.v2 = (tf.Variable(tf.constant(value)) for value in (3.0, 2.0))
    any_shape: Any = None
    given = [tf.TensorSpec(any_shape, tf.float32)]
    root.f = tf.function(lambda x: {"y": root.v1 * root.v2 * x}, input_signature=given)
    root.g = tf.function(lambda x: {"y": 2.0}, input_signature=given)
    root.h = tf.function(lambda: {"s": tf.constant("text"), "c": tf.complex(1.0, 2.0)}, input_signature=[])
    signatures = {"serving_default": root.f, "custom_signature_key": root.g, "none": root.h}
    tf.saved_model.save(root, str(tmp_path / "m" / "00000123"), signatures)
    with running(model_name="default", model_base_path=str(tmp_path / "m")) as address:
        assert address.predict("default", {"x": 2.0}).outputs["y"].float_val[:] == [12.0]
        assert address.predict("default", {"x": 2.0}, signature="custom_signature_key").outputs["y"].float_val[:] == [2]
        outputs = address.predict("default", {}, signature="none").outputs
        assert (outputs["s"].string_val[:], outputs["c"].scomplex_val[:]) == ([b"text"], [1.0, 2.0])
        answer = address.post("/v1/models/default:predict", {"signature_name": "none", "inputs": {}})
        assert (answer.status_code, "Failed to get input map" in answer.text) == (400, True)
        assert address.post("/v1/models/default:predict", {"inputs": 2.0}).json() == {"outputs": 12.0}


@pytest.fixture
def other(tmp_path: Path) -> Path:
    """Half plus three, of a larger version too."""
    half_plus(3, tmp_path / "other" / "00000123")
    half_plus(3, tmp_path / "other" / "00000124")
    return tmp_path / "other"


def reload(address: Address, text: str) -> model_management_pb2.ReloadConfigResponse:
    request = model_management_pb2.ReloadConfigRequest()
    text_format.Parse(f"model_config_list {{ {text} }}", request.config)
    return address.models.HandleReloadConfigRequest(request, timeout=60)


def states(address: Address, name: str, **spec: Any) -> dict[int, int]:
    request = get_model_status_pb2.GetModelStatusRequest()
    request.model_spec.name = name
    if "label" in spec:
        request.model_spec.version_label = spec["label"]
    return {row.version: row.state for row in address.models.GetModelStatus(request, timeout=60).model_version_status}


def test_reloads(base: Path, other: Path, tmp_path: Path) -> None:
    """From nothing, to a model, to none, to it again, to another base path and back."""
    (tmp_path / "empty.config").write_text("")
    available, end = 30, 50
    with running(model_config_file=str(tmp_path / "empty.config")) as address:
        reload(address, f'config {{ name: "m" base_path: "{base}" model_platform: "tensorflow" }}')
        assert states(address, "m") == {123: available}
        assert states(address, "m", label="unknown") == {123: available}
        reload(address, "")
        waited = time.monotonic() + 30
        while states(address, "m") != {123: end}:
            assert time.monotonic() < waited
        reload(address, f'config {{ name: "m" base_path: "{base}" }}')
        assert states(address, "m") == {123: available}
        reload(address, f'config {{ name: "m" base_path: "{other}" }}')
        assert address.predict("m", {"x": [2.0]}).outputs["y"].float_val[:] == [4.0]
        assert states(address, "m")[124] == available
        reload(address, f'config {{ name: "m" base_path: "{base}" model_type: TENSORFLOW }}')
        assert address.predict("m", {"x": [[2.0]]}).outputs["y"].float_val[:] == [3.0]
        refused = {
            'config { name: "r" base_path: "relative" }': "Expected model r to have an absolute path or URI",
            f'config {{ name: "m" base_path: "{base}" }} config {{ name: "r" base_path: "relative" }}': "absolute path",
            f'config {{ name: "m" base_path: "{base}" model_type: TENSORFLOW model_platform: "tensorflow" }}': "both",
            f'config {{ name: "m" base_path: "{base}" }} config {{ name: "m" base_path: "{base}" }}': "multiple times",
            f'config {{ name: "m" base_path: "{base}" model_platform: "unknown" }}': "unsupported platform",
        }
        for text, words in refused.items():
            with pytest.raises(grpc.RpcError, match=words):
                reload(address, text)
        assert address.predict("m", {"x": [[2.0]]}).outputs["y"].float_val[:] == [3.0]


@pytest.mark.parametrize("any_version", [False, True])
def test_labels(tmp_path: Path, any_version: bool) -> None:
    """Of two versions; to one that is not there only as a new label, and only with the flag."""
    half_plus(2, tmp_path / "m" / "00000123")
    half_plus(3, tmp_path / "m" / "00000124")

    def config(**labels: int) -> str:
        named = " ".join(f'version_labels {{ key: "{label}" value: {version} }}' for label, version in labels.items())
        return f'config {{ name: "m" base_path: "{tmp_path}/m" model_version_policy {{ all {{}} }} {named} }}'

    def answer(**spec: Any) -> float:
        return address.predict("m", {"x": [2.0]}, **spec).outputs["y"].float_val[0]

    (tmp_path / "models.config").write_text(f"model_config_list {{ {config()} }}")
    options = {"allow_version_labels_for_unavailable_models": any_version}
    with running(model_config_file=str(tmp_path / "models.config"), **options) as address:
        assert (answer(), answer(version=123)) == (4, 3)
        reload(address, config(A=123, B=124))
        assert (answer(label="A"), answer(label="B")) == (3, 4)
        with pytest.raises(grpc.RpcError, match="Unrecognized servable version label"):
            answer(label="nonexistent label")
        with pytest.raises(grpc.RpcError, match="not currently available for inference"):
            reload(address, config(A=9, B=124))
        assert answer(label="A") == 3
        if any_version:
            reload(address, config(A=123, **{"nice try": 9}))
        else:
            with pytest.raises(grpc.RpcError, match="not currently available for inference"):
                reload(address, config(A=123, **{"nice try": 9}))
        with pytest.raises(grpc.RpcError):
            answer(label="nice try")
        other = f'config {{ name: "n" base_path: "{tmp_path}/m" }}'
        reload(address, other)  # one comes, one goes
        assert address.predict("n", {"x": [2.0]}).outputs["y"].float_val[:] == [4.0]
        with pytest.raises(grpc.RpcError, match="Servable not found"):
            answer()


def test_a_model_that_cannot_be_loaded_ends_the_start(tmp_path: Path) -> None:
    (tmp_path / "bad" / "00000123").mkdir(parents=True)
    with (
        pytest.raises(UsageError, match="cannot serve: m version 123"),
        running(model_name="m", model_base_path=str(tmp_path / "bad")),
    ):
        pass


def test_a_base_path_that_is_missing_ends_the_start(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It listened, and answered 404 for ever."""
    path = tmp_path / "models.config"
    path.write_text(f'model_config_list {{ config {{ name: "m" base_path: "{tmp_path}/missing" }} }}')
    assert main(["serve", "--model_config_file", str(path), *free()]) == 2
    assert f"cannot serve: Could not find base path {tmp_path}/missing for servable m" in capsys.readouterr().err


def free() -> list[str]:
    """Flags of ports that nobody uses."""
    rest, rpc = free_ports()
    return ["--rest_api_port", str(rest), "--port", str(rpc)]


def test_a_damaged_configuration_ends_the_start(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "bad.config").write_text("improperly formatted file")
    assert main(["serve", "--model_config_file", str(tmp_path / "bad.config"), *free()]) == 2
    assert "cannot read the model configuration" in capsys.readouterr().err


def test_signatures_that_are_not_quite_right(tmp_path: Path) -> None:
    """An output that is a reference variable; a shape that is not the graph's, as in saved_model_half_plus_three."""
    v1 = tf.compat.v1
    with tf.Graph().as_default(), v1.Session() as session:
        x = v1.placeholder(tf.float32, [None, 1], "x")
        with v1.variable_scope("", use_resource=False):
            three = v1.get_variable("three", initializer=3.0)
        session.run(v1.global_variables_initializer())
        infos = [v1.saved_model.build_tensor_info(tensor) for tensor in (x, x * 0.5 + three, three)]
        assert infos[2].dtype == tf.float32._as_ref.as_datatype_enum  # type: ignore[attr-defined]
        infos[0].tensor_shape.Clear()
        outputs = {"y": infos[1], "three": infos[2]}
        method = v1.saved_model.signature_constants.PREDICT_METHOD_NAME
        signature = v1.saved_model.build_signature_def({"x": infos[0]}, outputs, method)
        builder = v1.saved_model.Builder(str(tmp_path / "m" / "1"))
        builder.add_meta_graph_and_variables(session, [tf.saved_model.SERVING], {"serving_default": signature})
        builder.save()
    with running(model_name="m", model_base_path=str(tmp_path / "m")) as address:
        outputs = address.predict("m", {"x": [[2.0], [4.0]]}).outputs
        assert (outputs["y"].float_val[:], outputs["three"].float_val[:]) == ([4.0, 5.0], [3.0])
        answer = address.post("/v1/models/m:predict", {"inputs": [[2.0]]}).json()
        assert answer == {"outputs": {"y": [[4.0]], "three": 3.0}}

"""The rows of other libraries, on small networks: they run, and those that are ours too answer the same."""

import importlib.util
from pathlib import Path
from typing import Any

import keras
import pytest
from small import TINY, randomise
from stand_ins import variant

import resnet_keras as rk
from benchmarks import costs, direct, growth, input_peers, keras_peers
from benchmarks.once import once, prepared
from resnet_keras.benchmarks.child import timed
from resnet_keras.benchmarks.command import compare_variants
from resnet_keras.benchmarks.rounds import Effort, measure
from resnet_keras.benchmarks.settings import InferSettings
from resnet_keras.benchmarks.variants import Process, Variant
from resnet_keras.errors import UsageError

SHORT = Effort(2, 0.01)


@pytest.fixture(autouse=True)
def temporary_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))


def has(*libraries: str) -> Any:
    missing = [name for name in libraries if not importlib.util.find_spec(name)]
    return pytest.mark.skipif(bool(missing), reason=f"{' and '.join(missing)} not installed")


@pytest.mark.interop
@has("openvino", "nncf", "onnxruntime", "tf2onnx")
def test_runtimes_answer_as_ours(tmp_path: Path) -> None:
    model, side = "cifar_resnet20", 8
    assert prepared("benchmarks.files:peers", {"folder": str(tmp_path), "model": model, "image_size": side}) == []
    found = [one for one in InferSettings(model, (2,), side).variants() if one.name in ("model.export()", "Keras call")]
    group, call = found[0].group, {"batch": 2}
    made = {"folder": str(tmp_path)}
    found.append(Variant(group, "ONNX Runtime", Process("benchmarks.runtimes:onnx_runtime", made), call))
    for dtype in ("float32", "bfloat16", "int8"):
        process = Process("benchmarks.runtimes:openvino", {**made, "dtype": dtype})
        found.append(Variant(group, f"OpenVINO {dtype}", process, call))
    report = compare_variants("infer", found, SHORT, limit=False, lenient=True)
    assert report.notes == ()
    cosines = {row.name: row.facts.get("cosine", 1.0) for row in report.rows}
    assert min(cosines[name] for name in ("ONNX Runtime", "OpenVINO float32")) > 0.99999
    assert min(cosines.values()) > 0.99


@pytest.mark.interop
@has("torch", "torchvision")
@pytest.mark.parametrize("model", ["cifar_resnet20", "resnet18"])
def test_torch_trains_the_same_network(model: str) -> None:
    from benchmarks import torch_training

    ours = rk.create_model(model)
    net = torch_training.network(model, ours.output_shape[-1])
    assert sum(weight.numel() for weight in net.parameters()) == rk.complexity(ours).trainable_parameters
    step = torch_training.step(model, 32, 2, "bfloat16", classes=ours.output_shape[-1], macs=7)
    assert timed(step, 2, {})["images"] == 4
    assert step.facts["macs"] == 7


@pytest.mark.interop
@has("jax")
def test_keras_on_jax() -> None:
    arguments = {"model": "cifar_resnet20", "image_size": 8, "batch_size": 2, "dtype": "float32", "macs": 7}
    jax = Variant("step", "JAX", Process("benchmarks.keras_peers:jax_step", arguments, {"KERAS_BACKEND": "jax"}))
    measured, left_out = measure([jax], SHORT)
    assert (len(measured), left_out) == (1, [])


def test_a_peer_that_is_missing_or_ends_is_left_out() -> None:
    peers = [
        variant("ours"),
        Variant("group", "missing", Process("a_peer:step")),
        variant("crashing", "dying", after=0, how="error"),
        variant("lost", "dying", group="other", after=3, how="signal"),
    ]
    measured, left_out = measure(peers, Effort(3, 1e-6), lenient=True)
    assert [one.variant.name for one in measured] == ["ours"]
    assert [line.partition(" is left out: ")[0] for line in left_out] == ["group: missing", "group: crashing", "other"]
    with pytest.raises(UsageError, match="No module named 'a_peer'"):
        measure(peers[1:2], SHORT, lenient=True)


def test_once_and_what_cannot_be_prepared() -> None:
    points = [("g", name, Process(f"stand_ins:{function}", made)) for name, function, made in ONCE]
    rows, notes = once(points, {})
    assert [(row.title, row.facts["macs"]) for row in rows] == [("g: runs", 7)]
    assert rows[0].facts["took"] > 0
    assert notes == ["g: refuses is left out: no int8"]
    assert prepared("stand_ins:refusing", {"why": "no disk"}) == ["files are left out: no disk"]
    assert prepared("stand_ins:sleeper", {"left_out": {"a.onnx": "no tf2onnx"}}) == ["a.onnx is left out: no tf2onnx"]


ONCE = (("runs", "sleeper", {"macs": 7}), ("refuses", "refusing", {"why": "no int8"}))


def test_application_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keras.applications, "Tiny", lambda weights, input_shape: tiny(), raising=False)
    step = keras_peers.application_step("Tiny", 8, 2, "bfloat16", macs=7)
    assert timed(step, 1, {})["images"] == 2
    assert keras.config.dtype_policy().name == "float32"
    with pytest.raises(UsageError, match="has no Nothing"):
        keras_peers.application_step("Nothing", 8, 2, "float32", macs=7)


@pytest.mark.slow  # 3 s: a peer of the benchmarks
def test_application_predictions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keras.applications, "Tiny", lambda weights, input_shape: tiny(True), raising=False)
    ways = [keras_peers.application_predictions("Tiny", 8, way) for way in ("export", "float32")]
    assert ways[0].facts["macs"] == ways[1].facts["macs"] > 0
    assert ways[1].facts["answers"] == [pytest.approx(each, rel=1e-4) for each in ways[0].facts["answers"]]


def tiny(preprocessing: bool = False) -> keras.Model:
    keras.utils.set_random_seed(0)
    return rk.create_model("cifar_resnet20", input_shape=(8, 8, 3), include_preprocessing=preprocessing, **TINY)


@pytest.mark.slow  # 2 s, likewise
def test_a_session_called_directly(tmp_path: Path) -> None:
    network = tiny(True)
    randomise(network)
    folder = rk.export_servable(network, tmp_path / "tiny")
    found = timed(direct.session(str(folder), 8, 8, 2, intra_op=1, inter_op=2), 1, {"seconds": 0.05})
    assert found["images"] >= 2
    assert 0 < found["p50"] <= found["p99"]


@pytest.mark.parametrize("work", ["crop and flip", "mixup or cutmix"])
@pytest.mark.parametrize("function", [input_peers.cifar, input_peers.keras_layers])
def test_batches_in_memory(function: Any, work: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(input_peers, "COUNT", 64)
    assert timed(function(work, 8), 1, {"seconds": 0.01})["images"] % 8 == 0


@pytest.mark.parametrize("way", ["decode then crop", "the decoder alone"])
def test_batches_of_files(way: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("resnet_keras.benchmarks.pipeline.FEWEST_FILES", 4)
    assert timed(input_peers.jpeg(way, 16, 4), 1, {"seconds": 0.01})["images"] % 4 == 0


@pytest.mark.slow  # 7 s
def test_costs(monkeypatch: pytest.MonkeyPatch) -> None:
    timed(costs.command(["-c", "pass"]), 1, {})
    assert costs.resident("VmHWM") >= costs.resident("VmRSS") > 0
    assert isinstance(timed(costs.importing(), 1, {})["without_tensorflow"], bool)
    timed(costs.building("cifar_resnet20"), 1, {})
    monkeypatch.setattr("resnet_keras.benchmarks.inference.network_of", lambda *_: tiny(True))
    found = timed(costs.export("tiny", "float32"), 1, {})
    assert found["megabytes"] > 0
    assert found["mib"] >= 0


@pytest.mark.parametrize("training", [True, False])
def test_a_point_of_growth(training: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("resnet_keras.models.complexity.create_model", small)
    program = growth.point(side=8, batch=2, width=1, training=training)
    found = timed(program, 1, {"seconds": 0.0})
    assert (found["images"], program.facts["macs"] > 0) == (2, True)
    assert found["first"] > found["seconds"] > 0


def small(name: str, **options: Any) -> keras.Model:
    from resnet_keras.models.resnet import build_cifar_resnet

    return build_cifar_resnet(20, **{**options, **TINY})

"""What the processes of a benchmark run, here in the tests' own: tiny networks, few images."""

from pathlib import Path
from typing import Any

import keras
import pytest
from serving_models import running
from small import TINY, randomise

import resnet_keras as rk
from resnet_keras.benchmarks import inference, load, pipeline, training
from resnet_keras.benchmarks.answers import compared
from resnet_keras.benchmarks.child import timed
from resnet_keras.benchmarks.limit import limit
from resnet_keras.errors import UsageError
from resnet_keras.models.complexity import complexity
from resnet_keras.models.saved import save_model


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A `.keras` file of three blocks, for images of 8x8."""
    keras.utils.set_random_seed(0)
    network = rk.create_model("cifar_resnet20", input_shape=(8, 8, 3), include_preprocessing=True, **TINY)
    randomise(network)
    path = tmp_path_factory.mktemp("model") / "tiny.keras"
    save_model(network, path)
    return path


@pytest.fixture(scope="module")
def served(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A version folder of it."""
    return rk.export_servable(model, tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(autouse=True)
def temporary_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a process of a benchmark, which removes them with the folder."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))


@pytest.mark.slow  # 4 s
def test_predictions_are_of_one_network(model: Path, served: Path) -> None:
    programs = {
        "call": inference.keras_call(str(model)),
        "export": inference.keras_export(str(model)),
        "bfloat16": inference.servable(str(model), "bfloat16"),
        "servable": inference.served(str(served)),
    }
    macs = complexity(rk.load_model(model)).macs
    for name, program in programs.items():
        assert program.facts["macs"] == macs, name
        assert program.facts["dtype"] == ("bfloat16" if name == "bfloat16" else "float32")
        apart = compared(programs["call"].facts["answers"], program.facts["answers"])
        assert apart["cosine"] > (0.99 if name == "bfloat16" else 0.99999), name
        assert timed(program, 2, {"batch": 3})["images"] == 6


def test_the_multiply_adds_of_a_servable_are_those_of_its_model(served: Path) -> None:
    facts = inference.description(str(served)).facts
    assert facts["shape"] == [8, 8, 3]
    assert facts["input"] == "image"
    assert facts["macs"] == complexity(rk.create_model("cifar_resnet20", input_shape=(8, 8, 3), **TINY)).macs
    with pytest.raises(UsageError, match="has no serving_default"):
        inference.description(str(served.parent))


def test_random_weights_are_the_same_everywhere() -> None:
    one, other = (inference.network_of("cifar_resnet20", 8) for _ in range(2))
    for left, right in zip(one.weights, other.weights, strict=True):
        assert (left.numpy() == right.numpy()).all()


@pytest.mark.parametrize("make", [training.our_step, training.keras_step])
def test_training_steps(make: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    build = training.create_model
    monkeypatch.setattr(training, "create_model", lambda name, **options: build(name, **{**options, **TINY}))
    monkeypatch.setattr("resnet_keras.training.setup.create_model", training.create_model)
    program = make("cifar_resnet20", 8, 2, "float32")
    assert timed(program, 2, {})["images"] == 4
    assert program.facts["passes"] == 3
    assert program.facts["macs"] > 0


def test_batches(data_dir: str) -> None:
    program = pipeline.batches("digits", "digits", 16, None, data_dir)
    found = timed(program, 1, {"seconds": 0.01})
    assert found["images"] % 16 == 0
    assert found["images"] > 0
    assert program.facts["bytes"] == 8 * 8
    with pytest.raises(UsageError, match="larger than the 1437 training images"):
        pipeline.batches("digits", "none", 2000, None, data_dir)


def test_batches_of_random_files(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline, "FEWEST_FILES", 4)
    program = pipeline.batches("random", "imagenet-resnet50", 4, 32, None)
    assert timed(program, 1, {"seconds": 0.01})["images"] % 4 == 0
    with pytest.raises(UsageError, match="no common size"):
        pipeline.batches("random", "none", 4, None, None)


def test_clients_of_both_protocols(served: Path) -> None:
    program = load.clients(8, 8, 3, 2)
    with running(model_base_path=str(served.parent)) as at:
        for address, protocol, pixels in ((at.rest, "rest", None), (at.grpc, "grpc", None), (at.grpc, "grpc", "image")):
            arguments = {"address": address, "protocol": protocol, "pixel_input": pixels, "seconds": 0.05}
            found = timed(program, 1, arguments)
            assert found["images"] >= 2
            assert 0 < found["p50"] <= found["p99"]
        with pytest.raises(UsageError, match="the server did not answer"):
            program.run(address=at.grpc, protocol="grpc", pixel_input="other", seconds=0.05)
    with pytest.raises(UsageError, match="the server did not answer"):
        program.run(address=at.rest, protocol="rest", pixel_input=None, seconds=0.05)


def test_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("resnet_keras.benchmarks.limit.MATRICES", ((8, 16, 4),))
    monkeypatch.setattr("resnet_keras.benchmarks.limit.CONVOLUTIONS", ((7, 16),))
    monkeypatch.setattr("resnet_keras.benchmarks.limit.BYTES", 1 << 20)
    found: Any = limit(0.001).run()
    assert {"float32", "bfloat16"} <= set(found["macs_per_second"])
    assert set(found["by_shape"]["float32"]) == {"product 8x16x4", "conv 3x3 7x7x16"}
    assert min(*found["macs_per_second"].values(), found["bytes_per_second"]) > 0

"""`calibrate`: a temperature in the head of a run's network, and wherever that network goes."""

import dataclasses
import json
from pathlib import Path

import keras
import numpy as np
import pytest
from small import TINY, randomise

import resnet_keras as rk
from resnet_keras.cli.main import main
from resnet_keras.config.train import TrainConfig
from resnet_keras.errors import UsageError
from resnet_keras.export.comparison import run_servable
from resnet_keras.export.servable import manifest_of
from resnet_keras.inference.evaluate import evaluate
from resnet_keras.models.graph import head_of
from resnet_keras.models.temperature import scale_logits
from resnet_keras.training import reporters
from resnet_keras.training.devices import make_strategy
from resnet_keras.training.given import Given
from resnet_keras.training.setup import make_setup
from resnet_keras.training.trainer import run


@pytest.fixture(scope="module")
def config(tiny: TrainConfig) -> TrainConfig:
    """Half of the digits validate, so that there are mistakes to calibrate by."""
    return dataclasses.replace(tiny, validation=0.5, calibrate=True)


@pytest.fixture(scope="module")
def folders(config: TrainConfig, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The same run with calibration, and with a report, and without."""
    root = tmp_path_factory.mktemp("calibrated")
    run(dataclasses.replace(config, run_dir=str(root / "with")), reporters=[reporters.Report])
    run(dataclasses.replace(config, calibrate=False, run_dir=str(root / "without")))
    return root / "with", root / "without"


def pixels(count: int = 40) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, 8, 8, 1), "uint8")


def temperature_of(folder: Path) -> float:
    return json.loads((folder / "metrics.json").read_text())["calibration"]["temperature"]


def dense_of(model: keras.Model) -> keras.layers.Dense:
    dense = head_of(model).dense
    assert dense is not None
    return dense


def test_the_head_is_divided_and_nothing_else(folders: tuple[Path, Path]) -> None:
    temperature = temperature_of(folders[0])
    ours, plain = map(rk.load_model, folders)
    assert abs(temperature - 1) > 0.02, "the test would show nothing"
    for weight, before in zip(ours.weights, plain.weights, strict=True):
        factor = temperature if "logits" in weight.path else 1
        np.testing.assert_allclose(weight.numpy() * factor, before.numpy(), rtol=1e-6, atol=1e-7)
    np.testing.assert_array_equal(ours(pixels()).numpy().argmax(-1), plain(pixels()).numpy().argmax(-1))


def test_the_figures_before_and_after(folders: tuple[Path, Path]) -> None:
    metrics, without = (json.loads((folder / "metrics.json").read_text()) for folder in folders)
    found = metrics["calibration"]
    assert found["images"] == metrics["validation"]["examples"]
    assert found["loss_before"] == pytest.approx(without["loss"], rel=1e-6)
    assert found["ece_before"] == pytest.approx(evaluate(folders[1]).ece)
    assert metrics["accuracy"] == without["accuracy"]
    assert metrics["validation"]["loss"] < without["validation"]["loss"]
    again = evaluate(folders[0])
    assert again.loss == pytest.approx(metrics["loss"], rel=1e-5)
    assert again.ece == pytest.approx(found["ece"], abs=1e-6)
    assert "calibration" not in without
    page = (folders[0] / "report.html").read_text()
    assert f"divided by the temperature {found['temperature']:.3f}" in page
    assert page.count("Reliability diagram, ") == 2


@pytest.mark.parametrize("dtype", ["float32", *(pytest.param(x, marks=pytest.mark.slow) for x in ("bfloat16", "int8"))])
def test_a_servable_has_the_same_confidence(folders: tuple[Path, Path], tmp_path: Path, dtype: str) -> None:
    data = pixels(256) if dtype == "int8" else None
    made, plain = (
        rk.export_servable(folder, tmp_path / folder.name, dtype=dtype, calibration_data=data, max_accuracy_loss=100)
        for folder in folders
    )
    temperature = temperature_of(folders[0])
    assert manifest_of(made)["card"]["temperature"] == pytest.approx(temperature)
    assert manifest_of(plain)["card"]["temperature"] is None
    request = {"serving_default": {"image": pixels()}}
    got, before = (run_servable(one, request)["serving_default"]["probabilities"] for one in (made, plain))
    expected = before ** (1 / temperature)
    np.testing.assert_allclose(got, expected / expected.sum(-1, keepdims=True), atol=1e-4)
    if dtype == "float32":
        np.testing.assert_allclose(got, rk.load_model(folders[0])(pixels()).numpy(), atol=1e-5)


def test_what_starts_from_it_has_none(folders: tuple[Path, Path], config: TrainConfig) -> None:
    """A run begins with the head as it was trained, and with a card without a temperature."""
    ours, plain = map(rk.load_model, folders)
    started = make_setup(
        dataclasses.replace(config, weights=str(folders[0]), calibrate=False), make_strategy("none")
    ).network
    given = make_setup(config, make_strategy("none"), Given(model=ours)).network
    for network in (started, given):
        assert rk.model_card(network).temperature is None
        np.testing.assert_allclose(dense_of(network).kernel.numpy(), dense_of(plain).kernel.numpy(), rtol=1e-5)
    again = rk.load_model(folders[0])
    new = keras.Model(again.input, keras.layers.Dense(3, "softmax")(again.get_layer("avg_pool").output))
    assert rk.model_card(new).temperature is None
    other = rk.create_model("cifar_resnet20", classes=10, input_shape=(8, 8, 1), **TINY)
    rk.load_weights(other, folders[0])
    assert rk.model_card(other).temperature == pytest.approx(temperature_of(folders[0]))
    rk.load_weights(other, folders[0], skip_head=True)
    assert rk.model_card(other).temperature is None


def test_without_a_mistake_nothing_is_calibrated(
    config: TrainConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    labels = np.arange(80) % 2
    images = (labels[:, None, None, None] * 200 + np.random.default_rng(0).integers(0, 9, (80, 8, 8, 1))).astype(
        "uint8"
    )
    data = ((images[:40], labels[:40]), (images[40:60], labels[40:60]), (images[60:], labels[60:]))
    config = dataclasses.replace(config, validation=None, epochs=4, batch_size=20, run_dir=str(tmp_path / "run"))
    result = run(config, given=Given(data=data), quiet=False)
    assert result.metrics["validation"]["accuracy"] == 1
    assert result.metrics["calibration"]["temperature"] is None
    assert result.metrics["calibration"]["ece"] == result.metrics["calibration"]["ece_before"]
    assert "not calibrated: all 20 validation images are correct" in capsys.readouterr().err


def test_what_cannot_be_calibrated_is_said_before_the_run(
    config: TrainConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", "digits", "--calibrate", "--validation", "0"]) == 2
    assert "calibrate must be off without validation images" in capsys.readouterr().err
    with pytest.raises(UsageError, match="calibrate needs validation images, and digits has none; give --validation"):
        run(dataclasses.replace(config, validation=None, run_dir=str(tmp_path / "run")))
    inputs = keras.Input((8, 8, 1))
    pooled = keras.layers.GlobalAveragePooling2D()(keras.layers.Conv2D(10, 3)(inputs))
    model = keras.Model(inputs, keras.layers.Softmax()(pooled), name="all_convolutions")
    with pytest.raises(UsageError, match="all_convolutions.* has no temperature: it does not end in a dense layer"):
        run(dataclasses.replace(config, run_dir=str(tmp_path / "run")), given=Given(model=model))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("end", ["dense", "activation", "logits", "normalised"])
def test_the_logits_of_any_dense_head_are_scaled(end: str) -> None:
    inputs = keras.Input((8, 8, 1))
    x = keras.layers.Flatten()(inputs)
    if end == "dense":
        outputs = keras.layers.Dense(4, activation="softmax")(x)
    elif end == "logits":
        outputs = keras.layers.Dense(4, use_bias=False)(x)
    elif end == "normalised":
        outputs = keras.layers.Softmax()(keras.layers.UnitNormalization()(keras.layers.Dense(4)(x)))
    else:
        outputs = keras.layers.Activation("softmax")(keras.layers.Dense(4)(x))
    model = keras.Model(inputs, outputs)
    randomise(model)
    images = pixels(4) / 255
    before = model(images).numpy()
    if end == "normalised":  # whose probabilities would stay what they are
        with pytest.raises(UsageError, match="has no temperature"):
            scale_logits(model, 0.5)
        return
    scale_logits(model, 0.5)
    expected = before / 2 if end == "logits" else np.sqrt(before) / np.sqrt(before).sum(-1, keepdims=True)
    np.testing.assert_allclose(model(images).numpy(), expected, rtol=1e-5)

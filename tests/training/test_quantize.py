"""A run in int8: what it trains is what is served, and what is refused."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from small import TINY
from test_fake_quantized import needs_int8, net

import resnet_keras as rk
from benchmarks.int8_accuracy import add_outliers
from resnet_keras.cli.export_command import _int8_words
from resnet_keras.config.recipes import recipe
from resnet_keras.config.stored import config_from_json
from resnet_keras.config.train import GIVEN, Optimizer, Schedule, TrainConfig
from resnet_keras.data.format import image_format
from resnet_keras.data.sources import open_source
from resnet_keras.data.splits import ArraySplit
from resnet_keras.errors import UsageError
from resnet_keras.export.calibration import calibrated_by
from resnet_keras.export.comparison import run_servable
from resnet_keras.export.lowering import lower
from resnet_keras.export.operations import maps_of
from resnet_keras.export.quantized import SIGNED_LEVELS, kernel_levels
from resnet_keras.export.servable import manifest_of
from resnet_keras.training.checkpoints import checkpoints, read_checkpoint
from resnet_keras.training.devices import make_strategy
from resnet_keras.training.given import Given
from resnet_keras.training.phases import phases_of, view_of_size
from resnet_keras.training.quantization import Quantization
from resnet_keras.training.setup import make_setup
from resnet_keras.training.trainer import run

RNG = np.random.default_rng(0)
needs_full_kernels = pytest.mark.skipif(
    kernel_levels() != SIGNED_LEVELS, reason="what is served here has kernels of 7 bits, and the training 8"
)
ADAM = Optimizer(learning_rate=1e-3, algorithm="adam", weight_decay=0.0)


def test_a_layer_without_a_rule_has_its_live_weights() -> None:
    layers = [
        keras.layers.Rescaling(1 / 255),
        keras.layers.Conv2D(8, 3, padding="same", activation="relu"),
        keras.layers.GroupNormalization(2),
        keras.layers.ReLU(),
        keras.layers.Conv2D(8, 3, padding="same", activation="relu"),
        keras.layers.GlobalAveragePooling2D(),
    ]
    model = keras.Sequential([keras.Input((8, 8, 1)), *layers, keras.layers.Dense(10)])
    data = [(RNG.integers(0, 256, (300, 8, 8, 1), "uint8"), np.arange(300) % 10)] * 2
    config = TrainConfig(data=GIVEN, batch_size=50, epochs=1, quantize="int8")
    setup = make_setup(config, make_strategy("none"), Given(model=model, data=data))
    before = model.layers[2].gamma.numpy().copy()
    phase = phases_of(setup.config)[0]
    setup.step.runner(view_of_size(setup.trained, phase.size))(setup.batches(phase, 0, 2), tf.constant(2))
    assert np.abs(model.layers[2].gamma.numpy() - before).max() > 0


@pytest.fixture(scope="module")
def start(tiny: TrainConfig, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A run folder: a net of 2,000 weights, a few epochs old."""
    folder = tmp_path_factory.mktemp("start") / "float32"
    run(dataclasses.replace(tiny, epochs=6, batch_size=64, run_dir=str(folder)))
    return str(folder)


@pytest.fixture
def tuned(tiny: TrainConfig, start: str, tmp_path: Path) -> TrainConfig:
    """An epoch in int8."""
    changes: dict[str, Any] = {"weights": start, "quantize": "int8", "optimizer": ADAM}
    return dataclasses.replace(tiny, epochs=1, schedule=Schedule(), run_dir=str(tmp_path / "run"), **changes)


def digits_test(data_dir: str) -> ArraySplit:
    split = open_source("digits", data_dir).test
    assert isinstance(split, ArraySplit)
    return split


def log_probabilities(folder: Path, images: np.ndarray) -> np.ndarray:
    answer = run_servable(folder, {"serving_default": {"image": images}})["serving_default"]["probabilities"]
    return np.log(answer.astype("float64"))


@needs_full_kernels
def test_what_is_trained_is_what_is_served(tuned: TrainConfig, start: str, tmp_path: Path, data_dir: str) -> None:
    result = run(tuned)
    plain = make_setup(dataclasses.replace(tuned, quantize=None), make_strategy("none"))
    kept = read_checkpoint(checkpoints(result.run_dir)[0])
    assert kept.arrays.keys() == plain.state.arrays().keys()
    assert not rk.model_card(plain.network).int8_ranges  # it trains on without them
    before, after = rk.load_model(start), rk.load_model(result.run_dir)
    moved = [bool(np.abs(a.numpy() - b.numpy()).max()) for a, b in zip(before.weights, after.weights, strict=True)]
    expected = ["moving" not in one.name for one in after.weights]
    assert moved == expected
    ranges = rk.model_card(after).int8_ranges
    assert list(ranges) == kept.notes["int8_ranges"]
    assert len(ranges) == len(maps_of(*lower(after)))
    assert config_from_json((result.run_dir / "config.json").read_text()).quantize == "int8"
    facts = json.loads((result.run_dir / "metrics.json").read_text())["quantization"]
    assert facts["dtype"] == "int8"
    assert facts["images"] == 1024

    folder = rk.export_servable(result.run_dir, tmp_path / "net", dtype="int8")  # which needs no images
    found = manifest_of(folder)["int8"]
    assert found == {"ranges": "of the training", "share_of_macs": facts["share_of_macs"], "kernel_levels": 127}
    assert tuple(manifest_of(folder)["card"]["int8_ranges"]) == ranges
    split = digits_test(data_dir)
    served = log_probabilities(folder, split.images)
    assert (served.argmax(-1) == split.targets).mean() == pytest.approx(result.metrics["accuracy"], abs=1.1 / 360)
    logits = keras.Model(after.input, after.get_layer("logits").output)
    trained = np.asarray(Quantization(after, ranges, {}).in_int8(logits)(split.images), "float64")
    trained -= np.log(np.exp(trained).sum(-1, keepdims=True))
    float32 = np.log(np.asarray(after(split.images), "float64"))
    near, far = (np.sqrt(np.mean((served - other) ** 2)) for other in (trained, float32))
    assert near < 0.1 * far
    assert np.mean(np.abs(served - trained).max(-1) < 1e-4) > 0.9  # the others by a level that is at a half

    proved = rk.export_servable(
        result.run_dir, tmp_path / "net", dtype="int8", calibration_data="digits", data_dir=data_dir
    )
    np.testing.assert_array_equal(log_probabilities(proved, split.images), served)
    assert manifest_of(proved)["int8"]["images"] == 1437


@pytest.mark.slow
@needs_full_kernels
def test_validation_temperature_teacher_and_metrics_are_of_int8(
    tuned: TrainConfig, start: str, tmp_path: Path, data_dir: str
) -> None:
    config = dataclasses.replace(tuned, validation=0.2, calibrate=True, teacher=start, epochs=2, ema=0.9)
    metric = keras.metrics.CategoricalAccuracy(name="own")
    result = run(config, given=Given(metrics=[metric]))
    folder = rk.export_servable(result.run_dir, tmp_path / "net", dtype="int8")
    split = digits_test(data_dir)
    served = log_probabilities(folder, split.images)
    assert (served.argmax(-1) == split.targets).mean() == pytest.approx(result.metrics["accuracy"], abs=1.1 / 360)
    loss = -served[np.arange(len(served)), split.targets].mean()
    assert loss == pytest.approx(result.metrics["loss"], rel=1e-3)
    assert result.metrics["own"] == pytest.approx(result.metrics["accuracy"], abs=1e-6)
    assert result.metrics["calibration"]["temperature"]
    float32 = np.log(np.asarray(result.model(split.images), "float64"))
    assert abs(-float32[np.arange(len(served)), split.targets].mean() - loss) > 1e-4  # which is another network


def test_the_words_of_an_export() -> None:
    facts: dict[str, Any] = {"ranges": "of the training", "share_of_macs": 0.99}
    assert _int8_words(facts) == (
        "99% of the multiply-adds in int8, in the ranges of its training; give --calibration-data to measure it"
    )
    facts |= {"agreement": 0.98, "images": 500, "accuracy": 0.9, "accuracy_float32": 0.89}
    assert _int8_words(facts).endswith("its training; accuracy 0.9000 (float32 0.8900) on 500 images")


def test_ranges_of_another_network_are_refused() -> None:
    model = net()
    with pytest.raises(UsageError, match=r"has \d+ maps, and its card int8 ranges of 3; train it anew"):
        calibrated_by(lower(model), (1.0, 2.0, 3.0), None, image_format(model), 1.0, model.name)


@pytest.mark.slow  # 4 s for a line
def test_what_drops_is_said_to_be_off(tuned: TrainConfig) -> None:
    setup = make_setup(
        dataclasses.replace(tuned, model_options={**TINY, "stochastic_depth": 0.2}), make_strategy("none")
    )
    (words,) = setup.reasons
    assert words.startswith("trains and evaluates the network in int8, ")
    assert words.endswith("dropout and stochastic depth are off")


def stepped(config: TrainConfig, strategy: str = "none") -> dict[str, np.ndarray]:
    """The state after two steps."""
    config = dataclasses.replace(config, batch_size=16, strategy=strategy)
    setup = make_setup(config, make_strategy(strategy))
    phase = phases_of(setup.config)[0]
    setup.step.runner(view_of_size(setup.trained, phase.size))(setup.batches(phase, 0, 2), tf.constant(2))
    return setup.state.arrays() | {"loss": setup.state.read_totals()[0]}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("strategy", "changes"), [("mirrored", {}), ("none", {"xla": "on"}), ("none", {"accumulation": 4})]
)
def test_devices_xla_and_parts_learn_the_same(tuned: TrainConfig, strategy: str, changes: dict[str, Any]) -> None:
    tuned = dataclasses.replace(tuned, optimizer=Optimizer(learning_rate=0.01))
    one, other = stepped(tuned), stepped(dataclasses.replace(tuned, **changes), strategy)
    assert one.keys() == other.keys()
    for name, value in one.items():
        # A sum in another order can be rounded to another level.
        np.testing.assert_allclose(other[name], value, rtol=2e-2, atol=2e-4, err_msg=name)


@pytest.mark.slow
def test_a_run_that_is_stopped_resumes_to_the_last_bit(
    tuned: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Stop(keras.callbacks.Callback):
        def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
            if batch == 7:
                raise ZeroDivisionError

    config = dataclasses.replace(tuned, epochs=2, checkpoint_steps=3, ema=0.9)
    whole = run(dataclasses.replace(config, run_dir=str(tmp_path / "whole")))
    with pytest.raises(ZeroDivisionError):
        run(config, callbacks=[Stop()])
    # As another machine would measure them: those of the checkpoint count.
    monkeypatch.setattr(
        "resnet_keras.training.quantization.choose_ranges",
        lambda ends, *_: (tuple(1.0 for _ in maps_of(*ends)), 100.0),
    )
    resumed = run(config)
    one, other = (read_checkpoint(checkpoints(done.run_dir)[0]) for done in (whole, resumed))
    for name, value in one.arrays.items():
        np.testing.assert_array_equal(value, other.arrays[name], err_msg=name)
    assert one.notes["totals"] == other.notes["totals"]
    assert rk.model_card(resumed.model).int8_ranges == rk.model_card(whole.model).int8_ranges
    (resumed.run_dir / "metrics.json").unlink()
    with pytest.raises(UsageError, match="is a run of another config: quantize was 'int8', now None"):
        run(dataclasses.replace(config, quantize=None))


def test_outlier_channels_change_nothing_in_float32() -> None:
    model, images = net(), RNG.integers(0, 256, (16, 8, 8, 1), "uint8")
    before = np.asarray(model(images))
    assert add_outliers(model, 64.0, 0.1) == 3
    np.testing.assert_allclose(model(images), before, rtol=1e-3, atol=1e-6)


@pytest.mark.slow
@needs_int8
def test_training_recovers_what_outlier_channels_cost(quick: TrainConfig, tmp_path: Path, data_dir: str) -> None:
    config = dataclasses.replace(recipe("digits"), data_dir=data_dir, model_options=quick.model_options)
    whole = run(dataclasses.replace(config, run_dir=str(tmp_path / "float32")))
    model = rk.load_model(whole.run_dir)
    add_outliers(model, 256.0, 0.05)
    model.save(tmp_path / "outliers.keras")
    split = digits_test(data_dir)

    def accuracy(source: Any, name: str, **more: Any) -> float:
        folder = rk.export_servable(source, tmp_path / name, dtype="int8", max_accuracy_loss=100.0, **more)
        return float((log_probabilities(folder, split.images).argmax(-1) == split.targets).mean())

    after = accuracy(model, "after", calibration_data="digits", data_dir=data_dir)
    changes: dict[str, Any] = {"weights": str(tmp_path / "outliers.keras"), "quantize": "int8"}
    optimizer = dataclasses.replace(ADAM, learning_rate=5e-4)
    tuned = dataclasses.replace(
        config, epochs=4, optimizer=optimizer, schedule=Schedule(), run_dir=str(tmp_path / "int8"), **changes
    )
    result = run(tuned)
    trained = accuracy(result.run_dir, "trained")
    assert trained == pytest.approx(result.metrics["accuracy"], abs=1.1 / 360)
    assert after < whole.metrics["accuracy"] - 0.1
    assert trained > after + 0.5 * (whole.metrics["accuracy"] - after)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"quantize": "int4"}, "unknown quantize 'int4'; choose from int8"),
        ({"precision": "mixed_bfloat16"}, "precision must be float32 with quantize, not mixed_bfloat16"),
        ({"precise_bn": 100}, "precise_bn must be 0 with quantize, not 100"),
        ({"train_sizes": (6,)}, r"train_sizes must be left out with quantize, not \(6,\)"),
        ({"rematerialize": True}, "rematerialize must be off with quantize, not True"),
        ({"strategy": "tpu"}, "strategy must be auto, none or mirrored with quantize, not tpu"),
    ],
)
def test_fields(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        TrainConfig(**{"quantize": "int8", "weights": "some", **changes})


def test_random_weights_are_refused() -> None:
    for weights in (None, "auto"):
        config = TrainConfig(quantize="int8", weights=weights, model="cifar_resnet32")
        with pytest.raises(
            UsageError, match="quantize goes on from a trained network, .* give --weights, such as a run"
        ):
            make_setup(config, make_strategy("none"))


def test_a_network_without_an_int8_path_is_refused(tmp_path: Path, data_dir: str) -> None:
    own: dict[str, Any] = {"activation": "gelu", "blocks": "1,1,1", "widths": "8,8,16", "stem_width": 8}
    net(activation="gelu").save(path := tmp_path / "net.keras")
    config = TrainConfig(quantize="int8", weights=str(path), model_options=own, data_dir=data_dir)
    words = "int8 computes convolutions of one group with ReLU, .* would gain nothing; train without quantize"
    with pytest.raises(UsageError, match=words):
        make_setup(config, make_strategy("none"))


def test_too_few_images_are_refused(tuned: TrainConfig) -> None:
    data = [(RNG.integers(0, 256, (100, 8, 8, 1), "uint8"), np.arange(100) % 10)] * 2
    with pytest.raises(UsageError, match="100 images are too few to calibrate with; give 256 or more"):
        make_setup(dataclasses.replace(tuned, data=GIVEN, batch_size=50), make_strategy("none"), Given(data=data))

"""The weight of each class in the loss: as scikit-learn balances them, and as Keras's `fit` takes them."""

import dataclasses
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from sklearn.utils.class_weight import compute_class_weight

from resnet_keras.cli.main import main
from resnet_keras.config.stored import config_from_json
from resnet_keras.config.train import Augmentation, TrainConfig
from resnet_keras.data.sources import open_source
from resnet_keras.data.splits import RecordSplit, Source
from resnet_keras.errors import UsageError
from resnet_keras.training.devices import make_strategy
from resnet_keras.training.given import Given
from resnet_keras.training.input import class_weights_of
from resnet_keras.training.phases import phases_of
from resnet_keras.training.setup import make_setup
from resnet_keras.training.trainer import run

BALANCED = TrainConfig(class_weights="balanced")


@pytest.fixture
def uneven(image_folder: Path) -> Source:
    """Four blue images to train on and two red ones."""
    for i in range(3):
        (image_folder / "red" / f"{i}.jpg").unlink()
    return open_source(str(image_folder), None)


def targets_of(source: Source) -> np.ndarray:
    return source.train.targets  # pyright: ignore[reportAttributeAccessIssue]


def test_balanced_is_scikit_learns(uneven: Source) -> None:
    targets = targets_of(uneven)
    weights = class_weights_of(BALANCED, uneven)
    expected = compute_class_weight("balanced", classes=np.unique(targets), y=targets)
    np.testing.assert_allclose(weights or [], expected, rtol=1e-12)
    assert expected[0] != expected[1]
    assert np.array(weights)[targets].mean() == pytest.approx(1.0)


@pytest.mark.parametrize(
    "weights",
    ["balanced", pytest.param({"1": 5.0, "7": 0.25}, marks=pytest.mark.slow)],  # 2 s: read below
)
def test_a_run_trains_as_fit_does_with_class_weight(tiny: TrainConfig, tmp_path: Path, weights: Any) -> None:
    config = dataclasses.replace(
        tiny, augmentation=Augmentation(), epochs=1, class_weights=weights, run_dir=str(tmp_path / "run")
    )
    ours = run(config, given=Given(optimizer=keras.optimizers.SGD(0.1))).model
    setup = make_setup(config, make_strategy("none"))
    batches = setup.batches(phases_of(setup.config)[0], 0, setup.steps_per_epoch)
    model = keras.Model(setup.trained.input, setup.trained.output)
    model.compile(keras.optimizers.SGD(0.1), keras.losses.CategoricalCrossentropy(from_logits=True), jit_compile=False)
    if weights == "balanced":
        targets = targets_of(setup.source)
        numbers = compute_class_weight("balanced", classes=np.arange(10), y=targets)
        expected = dict(enumerate(numbers.tolist()))
    else:
        expected = dict.fromkeys(range(10), 1.0) | {1: 5.0, 7: 0.25}
    images, labels = (np.concatenate(part) for part in zip(*batches, strict=True))
    model.fit(images, labels, config.batch_size, class_weight=expected, shuffle=False, verbose=0)
    for weight, theirs in zip(ours.trainable_variables, setup.network.trainable_variables, strict=True):
        np.testing.assert_allclose(weight.numpy(), theirs.numpy(), rtol=2e-3, atol=2e-5, err_msg=weight.path)


def test_a_mapping_names_classes(uneven: Source) -> None:
    assert class_weights_of(TrainConfig(class_weights={"red": 3}), uneven) == [1.0, 3.0]
    assert class_weights_of(TrainConfig(class_weights={}), uneven) is None
    assert class_weights_of(TrainConfig(), uneven) is None
    with pytest.raises(
        UsageError, match="unknown class in class_weights, for .*images, 'rde'.*; choose from blue, red"
    ):
        class_weights_of(TrainConfig(class_weights={"rde": 3}), uneven)
    with pytest.raises(UsageError, match="class_weights red must be at least 0, not -1"):
        TrainConfig(class_weights={"red": -1})
    with pytest.raises(UsageError, match="unknown class_weights 'balance'"):
        TrainConfig(class_weights="balance")  # pyright: ignore[reportArgumentType]
    kept = TrainConfig(class_weights={"red": 3.0})
    assert config_from_json(kept.to_json()) == kept


def test_the_flag(uneven: Source, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["train", "finetune", "--data", uneven.name, "--dry-run", "--batch-size", "4", "--class-weights"]
    assert main([*command, "balancd"]) == 2
    assert main([*command, "red", "3", "grene", "0.5"]) == 2
    first, second = capsys.readouterr().err.splitlines()
    assert first.startswith("resnet-keras: --class-weights must be {none,balanced}|{[STR FLOAT")
    assert first.endswith("not 'balancd' (see resnet-keras train finetune --help)")
    assert "unknown class in class_weights" in second
    assert "'grene'" in second


def test_a_stream_cannot_be_counted_but_weighed(uneven: Source) -> None:
    streamed = dataclasses.replace(uneven, train=RecordSplit((), (10,), lambda record: (record, record)))
    with pytest.raises(UsageError, match="class_weights balanced must count the classes first, and .* is streamed"):
        class_weights_of(BALANCED, streamed)
    assert class_weights_of(TrainConfig(class_weights={"blue": 2.0}), streamed) == [2.0, 1.0]

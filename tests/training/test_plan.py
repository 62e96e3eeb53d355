"""What a run chooses by its data, and what it says that it would take."""

import dataclasses
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import resnet_keras as rk
from resnet_keras.cli.main import main
from resnet_keras.config.recipes import recipe
from resnet_keras.config.train import TrainConfig
from resnet_keras.data.splits import ArraySplit, FileSplit, Source
from resnet_keras.errors import UsageError
from resnet_keras.training import estimate as estimates
from resnet_keras.training.devices import make_strategy
from resnet_keras.training.estimate import Estimate, within_budget
from resnet_keras.training.plan import plan
from resnet_keras.training.setup import source_of


@pytest.fixture
def finetune(image_folder: Path) -> TrainConfig:
    return dataclasses.replace(recipe("finetune"), data=str(image_folder), batch_size=4)


def files(images: int, paths: Any = ("a.jpg",)) -> Source:
    split = FileSplit(tuple(paths), np.zeros(images, "int64"))
    return Source("images", ("a", "b"), 3, (100, 100), split, split)


def chosen(config: TrainConfig, source: Source) -> tuple[str, str | None, int]:
    found = plan(config, source).config
    return found.model, found.weights, found.epochs


def test_a_folder_gets_the_network_of_the_package(finetune: TrainConfig) -> None:
    found = plan(finetune, source_of(finetune))
    assert (found.config.model, found.config.weights) == ("cifar_resnet20", "cifar10-jpeg")
    assert found.config.image_size == 32  # the images are smaller
    assert found.config.epochs == 60  # there are two steps in an epoch
    assert len(found.reasons) == 3
    assert "comes with the package" in found.reasons[0]
    assert plan(found.config, source_of(finetune)).config == found.config


@pytest.mark.parametrize(("images", "epochs"), [(32 * 2, 60), (32 * 50, 14), (32 * 500, 10)])
def test_the_epochs_follow_from_the_images(images: int, epochs: int) -> None:
    assert chosen(recipe("finetune"), files(images)) == ("cifar_resnet20", "cifar10-jpeg", epochs)


def test_weights_name_their_network(tmp_path: Path) -> None:
    config, source = recipe("finetune"), files(3200)
    rk.create_model("cifar_resnet32").save(tmp_path / "own.keras")
    own = dataclasses.replace(config, weights=str(tmp_path / "own.keras"))
    assert chosen(own, source)[0] == "cifar_resnet32"
    assert chosen(dataclasses.replace(config, weights="imagenet"), source)[0] == "resnet50"
    assert chosen(dataclasses.replace(config, weights=None), source)[:2] == ("cifar_resnet20", None)
    assert chosen(dataclasses.replace(config, model="resnet18"), source)[:2] == ("resnet18", None)
    for name in ("someone/some-net", str(tmp_path / "gone.pth")):
        with pytest.raises(UsageError, match="do not say which network they are of; give --model"):
            plan(dataclasses.replace(config, weights=name), source)


def test_random_weights_on_few_images_are_said() -> None:
    random = dataclasses.replace(recipe("finetune"), model="resnet18", image_size=64)
    assert "random weights, for which 3,200 images are few; better: " in plan(random, files(3200)).reasons[-1]
    assert not [line for line in plan(random, files(32_000)).reasons if "random weights" in line]
    images = ArraySplit(np.zeros((99, 8, 8, 1), "uint8"), np.zeros(99, "int64"))
    assert not plan(recipe("digits"), Source("digits", ("0", "1"), 1, (8, 8), images, images)).reasons


@pytest.mark.slow
def test_what_a_run_chose_it_keeps(
    finetune: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The same command finds the run again, and its config repeats it."""
    monkeypatch.setattr("resnet_keras.training.plan.MOST_EPOCHS", 1)
    monkeypatch.setattr("resnet_keras.training.plan.LEAST_EPOCHS", 1)
    words = ["train", "finetune", "--data", finetune.data, "--batch-size", "4", "--run-dir", str(tmp_path / "run")]
    assert main([*words, "--json"]) == 0
    said = capsys.readouterr()
    assert "starts from cifar10-jpeg" in said.err
    written = json.loads((tmp_path / "run" / "config.json").read_text())
    assert (written["model"], written["weights"], written["epochs"]) == ("cifar_resnet20", "cifar10-jpeg", 1)
    monkeypatch.undo()
    assert main([*words, "--json"]) == 0
    again = capsys.readouterr()
    assert "is finished" in again.err
    assert json.loads(again.out) == json.loads(said.out)


def test_a_dry_run_writes_nothing(
    finetune: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(estimates, "SECONDS", 0.1)
    words = ["train", "finetune", "--data", finetune.data, "--batch-size", "4", "--epochs", "2", "--dry-run"]
    assert main([*words, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["model"], found["image_size"], found["epochs"]) == ("cifar_resnet20", [32, 32], 2)
    assert found["validation_images"] == 2
    assert found["training_images"] + found["test_images"] == 10
    assert found["minutes"] > 0
    assert found["images_per_second"] > 0
    assert found["memory_gb"] > 0.1
    assert not [path for path in tmp_path.iterdir() if path.name in ("runs", "saved_models")]
    assert main([*words, "--model", "resnet5"]) == 2


@pytest.mark.parametrize(
    ("step_seconds", "budget", "size", "epochs"),
    # An epoch of 100 steps; four fifths of the time are planned for.
    [(0.1, "10m", 64, 48), (0.1, "200s", 64, 16), (0.4, "10m", 64, 12), (1.0, "10m", 32, 19), (0.001, "1h", 64, 60)],
)
def test_a_budget_chooses_size_and_epochs(
    step_seconds: float, budget: str, size: int, epochs: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def setup(config: TrainConfig, *_: Any, **__: Any) -> Any:
        side = config.image_size
        return SimpleNamespace(steps_per_epoch=100, shape=SimpleNamespace(size=(side, side)), config=config)

    def measured(made: Any) -> Estimate:
        return Estimate(0.0, step_seconds * (made.config.image_size / 64) ** 2 * 0.99, 0.0, 0)

    monkeypatch.setattr(estimates, "make_setup", setup)
    monkeypatch.setattr(estimates, "estimate", measured)
    monkeypatch.setattr(estimates, "time", SimpleNamespace(perf_counter=lambda: 0.0))  # a busy machine has spent some
    monkeypatch.setattr(estimates, "usual_side", lambda source: 100)
    config = dataclasses.replace(recipe("finetune"), budget=budget)
    source = dataclasses.replace(files(3200), image_size=None)
    monkeypatch.setattr("resnet_keras.training.plan.usual_side", lambda source: 100)
    found, why = within_budget(config, make_strategy("none"), source)
    assert (found.image_size, found.epochs, found.budget) == (size, epochs, None)
    assert f"fit into {budget}" in why
    if budget == "200s":
        with pytest.raises(UsageError, match="budget 2s is too short: an epoch takes"):
            within_budget(dataclasses.replace(config, budget="2s"), make_strategy("none"), source)


def test_a_budget_that_is_no_time_is_refused() -> None:
    with pytest.raises(UsageError, match="budget must be a time such as 90s"):
        dataclasses.replace(recipe("finetune"), budget="ten")

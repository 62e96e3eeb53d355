"""The command of a report gives its config again."""

import dataclasses
import shlex
from pathlib import Path

import pytest

from resnet_keras.cli.main import _parse_train
from resnet_keras.config.command import changed_fields, command_of
from resnet_keras.config.recipes import recipe
from resnet_keras.config.run_folder import CONFIG
from resnet_keras.config.train import GIVEN, OPERATIONAL, TrainConfig, flat

DIGITS, FINETUNE = recipe("digits"), recipe("finetune")


@pytest.mark.parametrize(
    "config",
    [
        DIGITS,
        dataclasses.replace(
            DIGITS,
            epochs=2,
            model_options={"blocks": "1,1,1"},
            zero_init_gamma=False,
            train_sizes=(8, 16),
            image_size=16,
            augmentation=dataclasses.replace(DIGITS.augmentation, crop="none", flip=True),
            budget="10m",
            run_dir="runs/one",
        ),
        dataclasses.replace(
            FINETUNE,
            model="cifar_resnet20",
            weights=None,
            data="my images/it's",
            epochs=5,
            freeze="stage3",
            unfreeze={"stage3": 0.3},
            optimizer=dataclasses.replace(FINETUNE.optimizer, algorithm="adamw", no_decay=("logits", "stage1_*")),
        ),
    ],
    ids=["digits", "changed", "finetune"],
)
def test_the_command_gives_the_config_again(config: TrainConfig) -> None:
    command = command_of(config)
    assert command is not None
    program, name, *words = shlex.split(command)
    assert (program, name) == ("resnet-keras", "train")
    parsed = _parse_train(words)
    assert parsed is not None
    one, two = flat(config), flat(parsed.config)
    assert {name for name in one if one[name] != two[name]} <= OPERATIONAL


def test_a_config_of_no_recipe_is_repeated_from_its_file(tmp_path: Path) -> None:
    """With its data and their folder, but not into its own run folder."""
    folder = tmp_path / "my run"
    config = TrainConfig(name="mine", data="my images", data_dir="kept here", epochs=3, run_dir=str(folder))
    command = command_of(config)
    assert command is not None
    folder.mkdir()
    (folder / CONFIG).write_text(config.to_json())
    parsed = _parse_train(shlex.split(command)[2:])
    assert parsed is not None
    assert parsed.config == dataclasses.replace(config, run_dir=None)


def test_what_no_command_can_say() -> None:
    assert command_of(TrainConfig(model=GIVEN)) is None
    assert changed_fields(TrainConfig(name="mine", epochs=3, run_dir="x")) == {"epochs": 3}

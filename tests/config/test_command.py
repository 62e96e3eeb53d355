"""The command of a report gives its config again."""

import dataclasses
import shlex

import pytest

from resnet_keras.cli.main import _parse_train
from resnet_keras.config.command import changed_fields, command_of
from resnet_keras.config.recipes import recipe
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


def test_what_no_command_can_say() -> None:
    assert command_of(TrainConfig(name="mine", epochs=3)) == "resnet-keras train config.json"
    assert command_of(TrainConfig(model=GIVEN)) is None
    assert changed_fields(TrainConfig(name="mine", epochs=3, run_dir="x")) == {"epochs": 3}

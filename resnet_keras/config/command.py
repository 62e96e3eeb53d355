"""The command that repeats a run, and what its config has of its own. Standard library only."""

import shlex
from pathlib import PurePath
from typing import Any

from resnet_keras.config.recipes import RECIPES, recipe
from resnet_keras.config.run_folder import CONFIG
from resnet_keras.config.train import GIVEN, OPERATIONAL, TrainConfig, flat


def changed_fields(config: TrainConfig) -> dict[str, Any]:
    """The fields in which a config differs from its recipe, or from the defaults where it is of none.

    Where a run is kept, what it is called after its recipe, and what changes no result are left out.
    """
    base = flat(recipe(config.name) if config.name in RECIPES else TrainConfig(name=config.name))
    kept = OPERATIONAL - {"data_dir", "test_every"}
    return {name: value for name, value in flat(config).items() if name not in kept and value != base[name]}


def command_of(config: TrainConfig) -> str | None:
    """The command line that trains a config anew; None for one of a model or data that were given in Python.

    A config of no recipe is repeated from its file in the run folder, which has the data and their folder too.
    """
    if GIVEN in (config.model, config.data):
        return None
    if config.name not in RECIPES:
        return shlex.join(["resnet-keras", "train", str(PurePath(config.run_dir or "", CONFIG))])
    words = ["resnet-keras", "train", config.name]
    for name, value in changed_fields(config).items():
        words += _flag(name.replace("_", "-"), value)
    return shlex.join(words)


def _flag(name: str, value: Any) -> list[str]:
    if isinstance(value, bool):
        return [f"--{name}" if value else f"--no-{name}"]
    if isinstance(value, dict):
        return [f"--{name}", *(str(part) for pair in value.items() for part in pair)]
    if isinstance(value, tuple | list):
        return [f"--{name}", *map(str, value)]
    return [f"--{name}", str(value)]
